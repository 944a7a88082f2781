package patch

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

// Media types of patches.
const (
	TypeJSONPatch = "application/json-patch+json"
	TypeFHIR      = "application/fhir+json" // Parameters of a FHIRPath Patch
)

// Bounds of a JSON Patch.
const (
	maxOperations = 500
	maxTokens     = 64        // of a pointer
	maxPointer    = 4096      // bytes of a pointer
	maxDepth      = 128       // of objects and arrays in the resource and in values
	maxResult     = 16 << 20  // bytes of the resource after each operation
	maxWork       = 64 << 20  // bytes that all operations copy, insert and compare
	maxPatch      = 16 << 20  // bytes of the patch
	maxExponent   = 1_000_000 // of a number that is compared by value
)

// operation is one operation of a JSON Patch.
type operation struct {
	number int // from 1, for errors
	op     string
	path   []string
	from   []string
	value  *node
}

func (o *operation) fail(kind fhir.Kind, rule string) error {
	return fhir.Errorf(kind, "patch.JSON", "operation %d of the patch: %s", o.number, rule)
}

// JSON applies a JSON Patch (RFC 6902) to a resource in JSON. The operations see the
// results of those before them. If one fails, the patch does.
func JSON(resource, patch []byte) ([]byte, error) {
	const op = "patch.JSON"
	operations, err := parseOperations(patch)
	if err != nil {
		return nil, err
	}
	root, err := parse(resource)
	if err != nil {
		return nil, fhir.Errorf(fhir.Unprocessable, op, "the resource is not JSON that can be patched")
	}
	d := &document{root: root, size: root.size()}
	for i := range operations {
		o := &operations[i]
		if err := d.apply(o); err != nil {
			return nil, err
		}
		if d.size > maxResult {
			return nil, o.fail(fhir.TooLarge, "the patched resource is too large")
		}
	}
	if d.root.kind != '{' {
		return nil, fhir.Errorf(fhir.Unprocessable, op, "the patched resource is not an object")
	}
	return d.root.append(make([]byte, 0, d.size)), nil
}

// parseOperations reads a JSON Patch. As RFC 6902 section 4 says, members that the
// operation does not define are ignored.
func parseOperations(patch []byte) ([]operation, error) {
	const op = "patch.JSON"
	if len(patch) > maxPatch {
		return nil, fhir.Errorf(fhir.TooLarge, op, "the patch is larger than %d bytes", maxPatch)
	}
	list, err := parse(patch)
	if err != nil || list.kind != '[' {
		return nil, fhir.Errorf(fhir.Invalid, op, "a JSON Patch is a JSON array of operations (RFC 6902)")
	}
	if len(list.items) > maxOperations {
		return nil, fhir.Errorf(fhir.TooLarge, op, "the patch has more than %d operations", maxOperations)
	}
	out := make([]operation, len(list.items))
	for i, item := range list.items {
		o := &out[i]
		o.number = i + 1
		if err := o.read(item); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (o *operation) read(item *node) error {
	if item.kind != '{' {
		return o.fail(fhir.Invalid, "is not an object")
	}
	var ok bool
	if o.op, ok = item.textOf("op"); !ok {
		return o.fail(fhir.Invalid, "the member op is missing or not a string")
	}
	if !slices.Contains([]string{"add", "remove", "replace", "move", "copy", "test"}, o.op) {
		return o.fail(fhir.Invalid, "op is none of add, remove, replace, move, copy and test")
	}
	var err error
	if o.path, err = o.pointer(item, "path"); err != nil {
		return err
	}
	if o.op == "move" || o.op == "copy" {
		if o.from, err = o.pointer(item, "from"); err != nil {
			return err
		}
	}
	if o.op == "add" || o.op == "replace" || o.op == "test" {
		if o.value = item.get("value"); o.value == nil {
			return o.fail(fhir.Invalid, "the member value is missing")
		}
	}
	return nil
}

// pointer reads a JSON Pointer (RFC 6901).
func (o *operation) pointer(item *node, name string) ([]string, error) {
	p, ok := item.textOf(name)
	switch {
	case !ok:
		return nil, o.fail(fhir.Invalid, "the member "+name+" is missing or not a string")
	case len(p) > maxPointer || strings.Count(p, "/") > maxTokens:
		return nil, o.fail(fhir.TooLarge, name+" is too long")
	case p == "":
		return nil, nil
	case p[0] != '/':
		return nil, o.fail(fhir.Invalid, name+" is not a JSON Pointer: it must be empty or begin with /")
	}
	tokens := strings.Split(p[1:], "/")
	for i, t := range tokens {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(t), "~") {
			return nil, o.fail(fhir.Invalid, name+" is not a JSON Pointer: ~ must be followed by 0 or 1")
		}
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return tokens, nil
}

// document is the resource while it is patched.
type document struct {
	root *node
	size int // bytes of its text
	work int // bytes that were copied, inserted and compared
}

// spend counts work.
func (d *document) spend(o *operation, n int) error {
	if d.work += n; d.work > maxWork {
		return o.fail(fhir.TooLarge, "the patch copies or compares too much")
	}
	return nil
}

func (d *document) apply(o *operation) error {
	switch o.op {
	case "add":
		return d.add(o, o.path, o.value)
	case "remove":
		_, err := d.remove(o, o.path, "path")
		return err
	case "replace":
		at, err := d.find(o, o.path, "path")
		if err != nil {
			return err
		}
		return d.set(o, at, o.value)
	case "test":
		return d.test(o)
	case "copy":
		at, err := d.find(o, o.from, "from")
		if err != nil {
			return err
		}
		return d.add(o, o.path, at)
	}
	// A move into itself would lose the value (RFC 6902 section 4.4).
	if len(o.path) > len(o.from) && slices.Equal(o.path[:len(o.from)], o.from) {
		return o.fail(fhir.Unprocessable, "from is moved into itself")
	}
	if slices.Equal(o.path, o.from) {
		_, err := d.find(o, o.from, "from")
		return err
	}
	v, err := d.remove(o, o.from, "from")
	if err != nil {
		return err
	}
	return d.add(o, o.path, v)
}

// set replaces the node at in place.
func (d *document) set(o *operation, at, value *node) error {
	v := value.size()
	if err := d.spend(o, v); err != nil {
		return err
	}
	d.size += v - at.size()
	*at = *value.clone()
	return nil
}

func (d *document) test(o *operation) error {
	at, err := d.find(o, o.path, "path")
	if err != nil {
		return err
	}
	if err := d.spend(o, at.size()+o.value.size()); err != nil {
		return err
	}
	if !equal(at, o.value) {
		return o.fail(fhir.Unprocessable, "the test failed: the resource has another value there")
	}
	return nil
}

// find returns the value at a pointer.
func (d *document) find(o *operation, path []string, name string) (*node, error) {
	at := d.root
	for _, token := range path {
		next, err := at.child(o, token, name)
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

func (n *node) child(o *operation, token, name string) (*node, error) {
	switch n.kind {
	case '{':
		if v := n.get(token); v != nil {
			return v, nil
		}
	case '[':
		i, err := o.index(token, len(n.items)-1, name)
		if err != nil {
			return nil, err
		}
		return n.items[i], nil
	}
	return nil, o.fail(fhir.Unprocessable, name+" names a place that the resource does not have")
}

// index reads an array index, which is at most last.
func (o *operation) index(token string, last int, name string) (int, error) {
	i, err := strconv.Atoi(token)
	if err != nil || i < 0 || strconv.Itoa(i) != token {
		if token == "-" {
			return 0, o.fail(fhir.Unprocessable, name+" names the place after the last element, where there is none")
		}
		return 0, o.fail(fhir.Unprocessable, name+" names an element of an array by something that is not an index")
	}
	if i > last {
		return 0, o.fail(fhir.Unprocessable, name+" names a place that the resource does not have")
	}
	return i, nil
}

// parent returns the value that holds the place at a pointer, and the last token.
func (d *document) parent(o *operation, path []string, name string) (*node, string, error) {
	at, err := d.find(o, path[:len(path)-1], name)
	return at, path[len(path)-1], err
}

// add adds a copy of value, as RFC 6902 section 4.1 says: it replaces a member that
// exists, and is inserted before an element of an array.
func (d *document) add(o *operation, path []string, value *node) error {
	if len(path) == 0 {
		return d.set(o, d.root, value)
	}
	at, token, err := d.parent(o, path, "path")
	if err != nil {
		return err
	}
	size := value.size()
	if err := d.spend(o, size); err != nil {
		return err
	}
	switch at.kind {
	case '{':
		if old := at.get(token); old != nil {
			return d.set(o, old, value)
		}
		name, err := jsontext.AppendQuote(nil, token)
		if err != nil {
			return o.fail(fhir.Invalid, "path is not UTF-8")
		}
		at.members = append(at.members, member{token, name, value.clone()})
		d.size += size + len(name) + 2
	case '[':
		i := len(at.items)
		if token != "-" {
			if i, err = o.index(token, len(at.items), "path"); err != nil {
				return err
			}
		}
		at.items = slices.Insert(at.items, i, value.clone())
		d.size += size + 1
	default:
		return o.fail(fhir.Unprocessable, "path names a place in a value that is neither an object nor an array")
	}
	return nil
}

// remove removes the value at a pointer and returns it.
func (d *document) remove(o *operation, path []string, name string) (*node, error) {
	if len(path) == 0 {
		return nil, o.fail(fhir.Unprocessable, "the whole resource cannot be removed; use DELETE")
	}
	at, token, err := d.parent(o, path, name)
	if err != nil {
		return nil, err
	}
	v, err := at.child(o, token, name)
	if err != nil {
		return nil, err
	}
	d.size -= v.size() + 1
	if i := slices.IndexFunc(at.members, func(m member) bool { return m.value == v }); i >= 0 {
		d.size -= len(at.members[i].quoted) + 1
		at.members = slices.Delete(at.members, i, i+1)
	} else if i := slices.Index(at.items, v); i >= 0 {
		at.items = slices.Delete(at.items, i, i+1)
	}
	return v, nil
}

// node is a JSON value. Scalars keep their text.
type node struct {
	kind    byte // '{', '[', or 0 for a scalar
	raw     []byte
	members []member
	items   []*node
}

// member is a member of an object. quoted is its name as it is written.
type member struct {
	name   string
	quoted []byte
	value  *node
}

// parse reads one JSON value. Objects with two members of a name are refused.
func parse(b []byte) (*node, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))))
	n, err := parseValue(dec)
	if err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errJSON
	}
	return n, nil
}

var errJSON = fhir.Errorf(fhir.Invalid, "patch.JSON", "not one JSON value")

func parseValue(dec *jsontext.Decoder) (*node, error) {
	if dec.StackDepth() > maxDepth {
		return nil, errJSON
	}
	switch k := dec.PeekKind(); k {
	case '{', '[':
		if _, err := dec.ReadToken(); err != nil {
			return nil, err
		}
		n := &node{kind: byte(k)}
		for dec.PeekKind() != '}' && dec.PeekKind() != ']' {
			var m member
			if k == '{' {
				raw, err := dec.ReadValue()
				if err != nil {
					return nil, err
				}
				m.quoted = bytes.Clone(raw)
				name, err := jsontext.AppendUnquote(nil, raw)
				if err != nil {
					return nil, err
				}
				m.name = string(name)
			}
			v, err := parseValue(dec)
			if err != nil {
				return nil, err
			}
			if k == '{' {
				m.value = v
				n.members = append(n.members, m)
			} else {
				n.items = append(n.items, v)
			}
		}
		_, err := dec.ReadToken()
		return n, err
	}
	raw, err := dec.ReadValue()
	return &node{raw: bytes.Clone(raw)}, err
}

func (n *node) get(name string) *node {
	for i := range n.members {
		if n.members[i].name == name {
			return n.members[i].value
		}
	}
	return nil
}

// textOf returns the text of a member that is a string.
func (n *node) textOf(name string) (string, bool) {
	v := n.get(name)
	if v == nil || len(v.raw) == 0 || v.raw[0] != '"' {
		return "", false
	}
	s, err := jsontext.AppendUnquote(nil, v.raw)
	return string(s), err == nil
}

// size returns the size of the text that append makes.
func (n *node) size() int {
	size := len(n.raw)
	if n.kind != 0 {
		size = 2
	}
	for i := range n.members {
		size += len(n.members[i].quoted) + 2 + n.members[i].value.size()
	}
	for _, v := range n.items {
		size += 1 + v.size()
	}
	return size
}

func (n *node) append(b []byte) []byte {
	switch n.kind {
	case '{':
		b = append(b, '{')
		for i := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(b, n.members[i].quoted...), ':')
			b = n.members[i].value.append(b)
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, v := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.append(b)
		}
		return append(b, ']')
	}
	return append(b, n.raw...)
}

func (n *node) clone() *node {
	out := &node{kind: n.kind, raw: n.raw}
	if n.members != nil {
		out.members = make([]member, len(n.members))
		for i, m := range n.members {
			out.members[i] = member{m.name, m.quoted, m.value.clone()}
		}
	}
	if n.items != nil {
		out.items = make([]*node, len(n.items))
		for i, v := range n.items {
			out.items[i] = v.clone()
		}
	}
	return out
}
