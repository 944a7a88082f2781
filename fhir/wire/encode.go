package wire

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
)

// Declaration begins every document that an Encoder writes.
const Declaration = `<?xml version="1.0" encoding="UTF-8"?>`

// flushAt is the size of the output in bytes at which an Encoder writes it.
const flushAt = 32 << 10

// Encoder converts JSON to XML. It can be reused, but is not safe for concurrent use.
type Encoder struct {
	// Indent puts each element on its own line, indented by two spaces per level.
	Indent bool

	reader
	set   *definitions.Set
	dest  io.Writer
	out   []byte
	text  []byte // scratch for narrative
	items []item // of the objects that are being written
	depth int    // of open elements
	err   error
}

var encoders = sync.Pool{New: func() any { return new(Encoder) }}

// maxKept is the size in nodes up to which an Encoder is kept for reuse.
const maxKept = 1 << 14

// ToXML is Encode with an Encoder that is shared.
func ToXML(w io.Writer, indent bool, parts ...[]byte) error {
	e, ok := encoders.Get().(*Encoder)
	if !ok {
		e = new(Encoder)
	}
	e.Indent = indent
	err := e.Encode(w, parts...)
	if cap(e.nodes) <= maxKept {
		e.json, e.dest = nil, nil
		encoders.Put(e)
	}
	return err
}

// item is a member of an object with its shadow.
type item struct {
	member        *definitions.Member
	value, shadow int // nodes, or -1
}

// Encode writes a resource as XML to w. The parts form the resource. If there are
// several, they must be a Bundle whose members are in the order of the definition; its
// entries are then converted one by one. Errors of w are returned as they are. Other
// errors are *fhir.Error of kind Internal, because the server had validated the
// resource.
func (e *Encoder) Encode(w io.Writer, parts ...[]byte) error {
	e.set, e.dest, e.out, e.err, e.depth, e.items = definitions.R4(), w, append(e.out[:0], Declaration...), nil, 0,
		e.items[:0]
	if len(parts) == 1 {
		if err := e.read(parts[0]); err != nil {
			return internal(err.Error())
		}
		e.resource(0, true)
	} else {
		e.bundle(parts)
	}
	if e.err == nil && e.Indent {
		e.out = append(e.out, '\n')
	}
	e.flush()
	return e.err
}

func internal(text string) error {
	return &fhir.Error{Kind: fhir.Internal, Op: "wire.Encode", Err: errors.New(text)}
}

// fail records an error. No text of the resource may be in it.
func (e *Encoder) fail(text string) {
	if e.err == nil {
		e.err = internal(text)
	}
}

func (e *Encoder) flush() {
	if e.err == nil {
		_, e.err = e.dest.Write(e.out)
	}
	e.out = e.out[:0]
}

// jsonOf returns the JSON of a node.
func (e *Encoder) jsonOf(i int) []byte { n := &e.nodes[i]; return e.json[n.start:n.end] }

// first returns the first child of a node, or the node after it if there is none.
func (e *Encoder) first(i int) (child, end int) { return i + 1, int(e.nodes[i].next) }

// newline begins an indented line.
func (e *Encoder) newline() {
	if !e.Indent {
		return
	}
	e.out = append(e.out, '\n')
	for range e.depth {
		e.out = append(e.out, ' ', ' ')
	}
}

// open writes the beginning of a start tag.
func (e *Encoder) open(name string) {
	if len(e.out) >= flushAt {
		e.flush()
	}
	e.newline()
	e.out = append(append(e.out, '<'), name...)
}

// close writes the end tag of an element with child elements.
func (e *Encoder) close(name string) {
	e.newline()
	e.out = append(append(append(e.out, '<', '/'), name...), '>')
}

// resource writes the resource of a node.
func (e *Encoder) resource(i int, root bool) {
	st := e.typeOf(i)
	if st == nil {
		return
	}
	e.open(st.Name)
	if root {
		e.out = append(e.out, ` xmlns="`+fhirURI+`"`...)
	}
	e.object(i, st, st.Name)
}

// typeOf returns the structure of the resource of a node.
func (e *Encoder) typeOf(i int) *definitions.Structure {
	if e.json[e.nodes[i].start] == '{' {
		for c, end := e.first(i); c < end; c = int(e.nodes[c].next) {
			if n := &e.nodes[c]; string(e.json[n.key:n.keyEnd]) == "resourceType" {
				if t := e.jsonOf(c); len(t) > 2 {
					if st := e.set.Resource(t[1 : len(t)-1]); st != nil {
						return st
					}
				}
			}
		}
	}
	e.fail("a resource has no resourceType of R4")
	return nil
}

// object writes the rest of a start tag, the children and the end tag of an element.
func (e *Encoder) object(i int, st *definitions.Structure, name string) {
	mark := len(e.items)
	e.collect(i, st)
	children := false
	for j := mark; j < len(e.items); j++ {
		it := &e.items[j]
		if !isAttribute(st, it.member) {
			children = true
		} else if it.value >= 0 {
			e.attribute(it.member.Name, it.value)
		}
	}
	if children {
		e.out = append(e.out, '>')
		e.depth++
		for j := mark; j < len(e.items) && e.err == nil; j++ {
			if it := e.items[j]; !isAttribute(st, it.member) {
				e.member(&it)
			}
		}
		e.depth--
		e.close(name)
	} else {
		e.out = append(e.out, '/', '>')
	}
	e.items = e.items[:mark]
}

// collect appends the members of an object to e.items, in the order of the definition.
func (e *Encoder) collect(i int, st *definitions.Structure) {
	if e.json[e.nodes[i].start] != '{' {
		e.fail("an element is not a JSON object")
		return
	}
	mark, sorted := len(e.items), true
	for c, end := e.first(i); c < end; c = int(e.nodes[c].next) {
		n := &e.nodes[c]
		name := e.json[n.key:n.keyEnd]
		shadow := len(name) > 0 && name[0] == '_'
		if shadow {
			name = name[1:]
		}
		m := st.Lookup(name)
		if m == nil {
			if st.Kind == definitions.Resource && !shadow && string(name) == "resourceType" {
				continue
			}
			e.fail("a resource has an element that R4 does not define in " + st.Name)
			return
		}
		it := e.itemOf(mark, m)
		if it == nil {
			if last := len(e.items) - 1; last >= mark && m.Element < e.items[last].member.Element {
				sorted = false
			}
			e.items = append(e.items, item{m, -1, -1})
			it = &e.items[len(e.items)-1]
		}
		place := &it.value
		if shadow {
			place = &it.shadow
		}
		if *place >= 0 {
			e.fail("a JSON object has a name twice")
			return
		}
		*place = c
	}
	if !sorted {
		slices.SortStableFunc(e.items[mark:], func(a, b item) int {
			return cmp.Compare(a.member.Element, b.member.Element)
		})
	}
}

// itemOf returns the item of a member if there is one from mark on. A value and its
// shadow are mostly neighbors.
func (e *Encoder) itemOf(mark int, m *definitions.Member) *item {
	for j := len(e.items) - 1; j >= mark; j-- {
		if e.items[j].member == m {
			return &e.items[j]
		}
	}
	return nil
}

// attribute writes an attribute with the value of a node.
func (e *Encoder) attribute(name string, i int) {
	e.out = append(append(append(e.out, ' '), name...), '=', '"')
	v := e.jsonOf(i)
	if v[0] == '"' {
		e.out = appendAttribute(e.out, v[1:len(v)-1])
	} else {
		e.out = append(e.out, v...)
	}
	e.out = append(e.out, '"')
}

// member writes the elements of a member.
func (e *Encoder) member(it *item) {
	if !it.member.Many {
		e.element(it.member, it.value, it.shadow)
		return
	}
	v, vEnd := e.elements(it.value)
	s, sEnd := e.elements(it.shadow)
	for e.err == nil && (v < vEnd || s < sEnd) {
		value, shadow := -1, -1
		if v < vEnd {
			value, v = v, int(e.nodes[v].next)
		}
		if s < sEnd {
			shadow, s = s, int(e.nodes[s].next)
		}
		e.element(it.member, value, shadow)
	}
}

// elements returns the range of the elements of an array.
func (e *Encoder) elements(i int) (first, end int) {
	if i < 0 {
		return 0, 0
	}
	if e.json[e.nodes[i].start] != '[' {
		e.fail("a repeating element is not a JSON array")
		return 0, 0
	}
	return e.first(i)
}

// isNull reports whether there is no node, or null.
func (e *Encoder) isNull(i int) bool { return i < 0 || e.json[e.nodes[i].start] == 'n' }

// element writes one element. Nulls of an array of primitives without a counterpart are
// left out, because XML cannot express them.
func (e *Encoder) element(m *definitions.Member, value, shadow int) {
	switch {
	case m.Primitive == definitions.XHTML:
		e.narrative(value)
	case m.Primitive != definitions.NotPrimitive:
		e.primitive(m, value, shadow)
	case value < 0:
		e.fail("an element with children has a name with an underscore")
	case m.Structure != nil:
		e.open(m.Name)
		e.object(value, m.Structure, m.Name)
	default:
		e.open(m.Name)
		e.out = append(e.out, '>')
		e.depth++
		e.resource(value, false)
		e.depth--
		e.close(m.Name)
	}
}

func (e *Encoder) primitive(m *definitions.Member, value, shadow int) {
	none := e.isNull(shadow)
	if none && e.isNull(value) {
		return
	}
	e.open(m.Name)
	if e.isNull(value) {
		e.object(shadow, e.set.Structure("Element"), m.Name)
		return
	}
	if c := e.json[e.nodes[value].start]; c == '{' || c == '[' {
		e.fail("a primitive is not a JSON primitive")
		return
	}
	if none {
		e.attribute("value", value)
		e.out = append(e.out, '/', '>')
		return
	}
	e.attribute("value", value)
	e.object(shadow, e.set.Structure("Element"), m.Name)
}

// narrative writes the div of a Narrative.
func (e *Encoder) narrative(i int) {
	v := []byte(nil)
	if i >= 0 {
		v = e.jsonOf(i)
	}
	if len(v) < 2 || v[0] != '"' {
		e.fail("narrative is not a JSON string")
		return
	}
	if len(e.out) >= flushAt {
		e.flush()
	}
	e.newline()
	e.text = appendText(e.text[:0], v[1:len(v)-1])
	s := scanner{body: bytes.Trim(e.text, " \t\r\n")}
	ok := s.checkText() && s.has("<") && s.start()
	if ok && (string(s.tag.local) != "div" || s.tag.space != xhtmlNamespace && s.tag.space != noNamespace) {
		ok = false
	}
	if ok {
		e.out, ok = s.narrative(e.out, true)
	}
	if !ok || s.pos < len(s.body) {
		e.fail("narrative is not well-formed")
	}
}

// appendText appends the text of a JSON string without its quotes.
func appendText(out, s []byte) []byte {
	for len(s) > 0 {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			return append(out, s...)
		}
		out = append(out, s[:i]...)
		r, n := unescape(s[i:])
		out = utf8.AppendRune(out, r)
		s = s[i+n:]
	}
	return out
}

// appendAttribute appends the text of a JSON string, given without its quotes, as the
// value of an attribute in double quotes.
func appendAttribute(out, s []byte) []byte {
	for start := 0; ; {
		i := start
		for i < len(s) && attributeClass[s[i]] == 0 {
			i++
		}
		out = append(out, s[start:i]...)
		if i == len(s) {
			return out
		}
		r, n := rune(s[i]), 1
		switch {
		case r == '\\':
			r, n = unescape(s[i:])
		case r >= utf8.RuneSelf:
			r, n = utf8.DecodeRune(s[i:])
		}
		out = appendEscaped(out, r)
		start = i + n
	}
}

// attributeClass marks the bytes that cannot be copied from JSON to an attribute.
var attributeClass = func() (t [256]uint8) { // read only
	for c := range t {
		t[c] = class[c] & classStop
	}
	t['"'], t['\\'] = classStop, classStop
	t[0xEF] = classStop // the first byte of U+FFFE and U+FFFF
	return t
}()

func appendEscaped(out []byte, r rune) []byte {
	switch r {
	case '"':
		return append(out, "&quot;"...)
	case '&':
		return append(out, "&amp;"...)
	case '<':
		return append(out, "&lt;"...)
	case '\n':
		return append(out, "&#10;"...)
	case '\r':
		return append(out, "&#13;"...)
	case '\t':
		return append(out, "&#9;"...)
	}
	if !isCharacter(r) {
		r = utf8.RuneError
	}
	return utf8.AppendRune(out, r)
}

// unescape decodes the JSON escape sequence at the beginning of s.
func unescape(s []byte) (r rune, n int) {
	if len(s) < 2 {
		return utf8.RuneError, len(s)
	}
	switch s[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		if len(s) < 6 {
			return utf8.RuneError, len(s)
		}
		r = hex4(s[2:6])
		if utf16.IsSurrogate(r) && len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
			if both := utf16.DecodeRune(r, hex4(s[8:12])); both != utf8.RuneError {
				return both, 12
			}
		}
		return r, 6
	}
	return rune(s[1]), 2
}

func hex4(s []byte) (r rune) {
	for _, c := range s {
		r = r<<4 | rune(max(hexValue(c), 0))
	}
	return r
}
