package validate

import (
	"bytes"

	"pulsegate/fhir/definitions"
)

// Texts of rules that several functions report.
const (
	ruleUnknown   = "has an element that R4 does not define here"
	ruleType      = "does not match its data type, or is a code outside its required value set"
	ruleNull      = "null is allowed only in an array that has a parallel array of extensions"
	ruleDuplicate = "an object has two members of the same name"
	ruleMissing   = "lacks the required element "
)

// stop ends the reading of the body.
func (d *Document) stop(why stop) bool {
	d.stopped = why
	return false
}

// add appends a node for a value at d.pos.
func (d *Document) add(m *definitions.Member, key int, shadow bool) (i int, ok bool) {
	i = len(d.nodes)
	if i+d.skipped >= d.limits.Values {
		return i, d.stop(stopValues)
	}
	d.nodes = append(d.nodes, node{start: uint32(d.pos), key: uint32(key), member: m, shadow: shadow})
	return i, true
}

// close sets the end of a node.
func (d *Document) close(i int) {
	d.nodes[i].end = uint32(d.pos)
	d.nodes[i].next = uint32(len(d.nodes))
}

// root reads the whole body as a resource of a type. The resource must have the
// given id, unless it is empty.
func (d *Document) root(st *definitions.Structure, id string) bool {
	d.space()
	if d.pos >= len(d.body) || d.body[d.pos] != '{' {
		return false
	}
	name, _ := d.resourceType()
	i, ok := d.add(nil, 0, false)
	if !ok {
		return false
	}
	if string(name) != st.Name {
		d.nodes[i].structure = st
		d.issueAt(i, "resourceType", 0, "invalid", "resourceType must be "+st.Name)
		if !d.foreign(i, 0) {
			return false
		}
	} else if !d.resource(i, st, 1) {
		return false
	} else if id != "" && string(d.Root().text("id")) != id {
		d.issueAt(i, "id", 0, "invalid", "id is required and must be the id in the URL")
	}
	d.space()
	return d.pos == len(d.body)
}

// member reads the value of a member that has a definition. d.pos is at the value.
func (d *Document) member(m *definitions.Member, key int, shadow bool, depth int) bool {
	i, ok := d.add(m, key, shadow)
	if !ok {
		return false
	}
	if d.body[d.pos] == '[' && m.Many {
		return d.list(i, m, shadow, depth+1)
	}
	if m.Many {
		d.structureIssue(i, "structure", "must be an array")
		return d.foreign(i, depth)
	}
	return d.value(i, m, shadow, depth)
}

// foreign skips the value of node i, which does not have the right type.
func (d *Document) foreign(i, depth int) bool {
	d.nodes[i].kind = Missing
	if !d.skip(depth + 1) {
		return false
	}
	d.close(i)
	return true
}

func (d *Document) list(i int, m *definitions.Member, shadow bool, depth int) bool {
	if depth > d.limits.Depth {
		return d.stop(stopDepth)
	}
	d.nodes[i].kind = Array
	d.pos++
	for first := true; ; first = false {
		end, ok := d.more(false, first)
		if !ok {
			return false
		}
		if end {
			d.close(i)
			if first {
				d.structureIssue(i, "structure", "an array must not be empty")
			}
			return true
		}
		e, ok := d.add(m, 0, shadow)
		if !ok || !d.value(e, m, shadow, depth) {
			return false
		}
	}
}

// value reads one value of a type into node i.
func (d *Document) value(i int, m *definitions.Member, shadow bool, depth int) bool {
	c := d.body[d.pos]
	switch {
	case c == 'n':
		return d.null(i, m)
	case shadow:
		if c != '{' {
			return d.mistyped(i, depth)
		}
		return d.object(i, d.validator.element, depth+1)
	case m.Primitive != definitions.NotPrimitive:
		return d.primitive(i, m, depth)
	case c != '{':
		return d.mistyped(i, depth)
	case m.Structure == nil:
		return d.nested(i, depth+1)
	}
	if !d.object(i, m.Structure, depth+1) {
		return false
	}
	if m.Codes != nil {
		d.checkBinding(i, m.Codes)
	}
	return true
}

func (d *Document) mistyped(i, depth int) bool {
	d.structureIssue(i, "structure", ruleType)
	return d.foreign(i, depth)
}

// null reads null, which is allowed in arrays of primitives and of their
// extensions. The members of an object check the alignment of these arrays.
func (d *Document) null(i int, m *definitions.Member) bool {
	if !d.literal("null") {
		return false
	}
	n := &d.nodes[i]
	n.kind = Null
	d.close(i)
	if n.key != 0 || m.Primitive == definitions.NotPrimitive {
		d.structureIssue(i, "structure", ruleNull)
	}
	return true
}

func (d *Document) primitive(i int, m *definitions.Member, depth int) bool {
	c := d.body[d.pos]
	n := &d.nodes[i]
	switch m.Primitive.JSON() {
	case 't':
		switch {
		case c == 't' && d.literal("true"):
			n.kind = True
		case c == 'f' && d.literal("false"):
			n.kind = False
		default:
			return d.mistyped(i, depth) // or malformed
		}
	case '0':
		if c != '-' && !digit(c) {
			return d.mistyped(i, depth)
		}
		if !d.numberToken() {
			return false
		}
		n.kind = Number
	default:
		if c != '"' {
			return d.mistyped(i, depth)
		}
		var ok bool
		if n.escaped, ok = d.stringToken(); !ok {
			return false
		}
		n.kind = String
	}
	d.close(i)
	if code, rule := d.checkPrimitive(i, m); rule != "" {
		d.structureIssue(i, code, rule)
	}
	return true
}

// object reads an object with a structure into node i.
func (d *Document) object(i int, st *definitions.Structure, depth int) bool {
	if depth > d.limits.Depth {
		return d.stop(stopDepth)
	}
	d.nodes[i].kind, d.nodes[i].structure = Object, st
	d.pos++
	var filled, shadows uint64
	repeated := false // a primitive has both an array of values and one of extensions, or an array with null
	for first := true; ; first = false {
		end, ok := d.more(true, first)
		if !ok {
			return false
		}
		if end {
			d.close(i)
			if first && i > 0 {
				d.structureIssue(i, "structure", "an object must not be empty")
			}
			break
		}
		key := d.pos
		m, shadow, ok := d.name(st)
		if !ok {
			return false
		}
		if m == nil {
			if !d.undefined(i, key, st, &filled, depth) {
				return false
			}
			continue
		}
		bit := uint64(1) << m.Element
		if (filled|shadows)&bit != 0 && d.repeated(i, key, m, shadow) {
			if !d.skip(depth + 1) {
				return false
			}
			continue
		}
		if shadow {
			shadows |= bit
		} else {
			filled |= bit
		}
		at := len(d.nodes)
		if !d.member(m, key, shadow, depth) {
			return false
		}
		if m.Many && m.Primitive != definitions.NotPrimitive && d.nodes[at].kind == Array {
			repeated = repeated || shadow || d.hasNull(at)
		}
		d.note(at, m, st)
	}
	return d.finish(i, st, filled, shadows, repeated)
}

// typeSlot is the bit of resourceType, which R4 does not define as an element.
const typeSlot = 1 << 63

// name reads the name of a member and its colon and returns its definition.
func (d *Document) name(st *definitions.Structure) (m *definitions.Member, shadow, ok bool) {
	from := d.pos + 1
	escaped, ok := d.stringToken()
	if !ok {
		return nil, false, false
	}
	name := d.body[from : d.pos-1]
	if !d.colon() {
		return nil, false, false
	}
	if escaped {
		name = appendUnescaped(nil, name)
	}
	if m = st.Lookup(name); m != nil {
		return m, false, true
	}
	if len(name) > 1 && name[0] == '_' {
		if m = st.Lookup(name[1:]); m != nil && m.Primitive != definitions.NotPrimitive && !m.Bare {
			return m, true, true
		}
	}
	return nil, false, true
}

// undefined reads the value of a member without a definition: resourceType, or one
// that is not allowed. Its name is at key.
func (d *Document) undefined(i, key int, st *definitions.Structure, filled *uint64, depth int) bool {
	name := d.nameAt(key)
	switch {
	case string(name) == "resourceType" && st.Kind == definitions.Resource:
		if *filled&typeSlot != 0 {
			d.structureIssue(i, "structure", ruleDuplicate)
		}
		*filled |= typeSlot
	case len(name) == 0 || !lowerCase(name[0]) && (name[0] != '_' || len(name) == 1 || !lowerCase(name[1])):
		d.issueAt(i, "(unknown)", key, "structure", "member names must begin with a lower-case letter")
	default:
		d.issueAt(i, "", key, "structure", ruleUnknown)
	}
	return d.skip(depth + 1)
}

func lowerCase(c byte) bool { return c >= 'a' && c <= 'z' }

// nameAt returns the name at an offset.
func (d *Document) nameAt(key int) []byte {
	end := key + 1
	escaped := false
	for ; d.body[end] != '"'; end++ {
		if d.body[end] == '\\' {
			escaped = true
			end++
		}
	}
	if escaped {
		return appendUnescaped(nil, d.body[key+1:end])
	}
	return d.body[key+1 : end]
}

// repeated reports whether object i has a member for the element already, and adds
// an issue then. The value of a primitive and its extensions do not count as two.
func (d *Document) repeated(i, key int, m *definitions.Member, shadow bool) bool {
	for j := i + 1; j < len(d.nodes); j = int(d.nodes[j].next) {
		c := &d.nodes[j]
		switch {
		case c.member == nil || c.member.Element != m.Element:
			continue
		case c.member != m:
			d.issueAt(i, d.nodes[i].structure.Elements[m.Element].Name, key, "structure",
				"has more than one type of a choice element")
			return true
		case c.shadow != shadow:
			continue
		}
		d.issueAt(i, "", key, "structure", ruleDuplicate)
		return true
	}
	return false
}

func (d *Document) hasNull(array int) bool {
	for j := array + 1; j < len(d.nodes); j = int(d.nodes[j].next) {
		if d.nodes[j].kind == Null {
			return true
		}
	}
	return false
}

// finish checks an object that has been read.
func (d *Document) finish(i int, st *definitions.Structure, filled, shadows uint64, repeated bool) bool {
	if missing := st.Required &^ (filled | shadows); missing != 0 {
		for e := range st.Elements {
			if missing&(1<<e) != 0 {
				d.structureIssue(i, "structure", ruleMissing+st.Elements[e].Name)
			}
		}
	}
	if repeated {
		d.checkAlignment(i)
	}
	n := Node{doc: d, index: uint32(i)}
	switch {
	case st == d.validator.extension:
		d.checkExtension(n)
	case st == d.validator.narrative:
		d.checkNarrative(n)
	case st == d.validator.reference:
		d.references = append(d.references, n.index)
	}
	if !d.validator.idOnly && (!d.nodes[i].shadow && st.Kind != definitions.Resource && d.onlyID(i) ||
		shadows&^filled != 0 && d.shadowOnlyID(i, filled)) {
		d.broken(i, "", "must have a value or children besides its id (ele-1)")
	}
	for _, c := range d.validator.checks[st.ID] {
		if c.late {
			d.late = append(d.late, lateCheck{n.index, c.run})
		} else {
			c.run(n)
		}
	}
	return true
}

// onlyID reports whether an object has no other element than its id.
func (d *Document) onlyID(i int) bool {
	return len(d.nodes)-i == 2 && d.nodes[i+1].member != nil && d.nodes[i+1].member.Name == "id"
}

// shadowOnlyID reports whether one of the elements that have no value, which is
// not in filled, has no extensions either.
func (d *Document) shadowOnlyID(i int, filled uint64) bool {
	for c := (Node{doc: d, index: uint32(i)}).first(); c.Exists(); c = c.next() {
		if m := c.Member(); m != nil && c.Shadow() && filled&(1<<m.Element) == 0 && c.Kind() == Object &&
			c.at().next-c.index == 2 && c.exists("id") {
			return true
		}
	}
	return false
}

// checkAlignment checks the arrays of primitives of an object against their
// arrays of extensions. Elements missing at the end of the shorter array count as
// nulls.
func (d *Document) checkAlignment(i int) {
	n := Node{doc: d, index: uint32(i)}
	for c := n.first(); c.Exists(); c = c.next() {
		m := c.Member()
		if m == nil || !m.Many || m.Primitive == definitions.NotPrimitive || c.Kind() != Array {
			continue
		}
		values, extensions := n.find(m.Name, false), n.find(m.Name, true)
		switch {
		case extensions.doc == nil:
			if d.hasNullNode(c) {
				d.structureIssue(int(c.index), "structure", ruleNull)
			}
		case c.index == extensions.index && values.doc != nil:
			// Checked with the values.
		case !aligned(values, extensions):
			d.structureIssue(int(c.index), "structure", "an element has neither value nor extension")
		}
	}
}

func (d *Document) hasNullNode(n Node) bool {
	for c := n.first(); c.Exists(); c = c.next() {
		if c.Kind() == Null {
			return true
		}
	}
	return false
}

// aligned reports whether each pair of elements has a value or extensions.
func aligned(values, extensions Node) bool {
	var i, j, iEnd, jEnd uint32
	d := extensions.doc
	if values.Kind() == Array {
		i, iEnd = values.index+1, values.at().next
	}
	if extensions.Kind() == Array {
		j, jEnd = extensions.index+1, extensions.at().next
	}
	for i < iEnd || j < jEnd {
		if (i >= iEnd || d.nodes[i].kind == Null) && (j >= jEnd || d.nodes[j].kind == Null) {
			return false
		}
		if i < iEnd {
			i = d.nodes[i].next
		}
		if j < jEnd {
			j = d.nodes[j].next
		}
	}
	return true
}

// nested reads a resource within another one: a contained resource, or one in a
// Bundle or in Parameters.
func (d *Document) nested(i, depth int) bool {
	name, ok := d.resourceType()
	st := d.validator.set.Resource(name)
	if !ok || st == nil {
		if name == nil {
			d.structureIssue(i, "structure", ruleMissing+"resourceType")
		} else {
			d.structureIssue(i, "structure", "is of an unknown resource type")
		}
		return d.foreign(i, depth)
	}
	return d.resource(i, st, depth)
}

// resourceType returns the value of resourceType in the object at d.pos, which it
// looks for without moving.
func (d *Document) resourceType() (name []byte, ok bool) {
	const quick = `{"resourceType":"`
	b := d.body[d.pos:]
	if len(b) > len(quick) && string(b[:len(quick)]) == quick {
		if end := bytes.IndexByte(b[len(quick):], '"'); end > 0 && end < 64 {
			return b[len(quick) : len(quick)+end], true
		}
	}
	ahead := Document{validator: d.validator, limits: d.limits, body: d.body, pos: d.pos + 1}
	for first := true; ; first = false {
		end, ok := ahead.more(true, first)
		if !ok || end {
			return nil, false
		}
		key := ahead.pos
		if _, ok := ahead.stringToken(); !ok || !ahead.colon() {
			return nil, false
		}
		from := ahead.pos
		if !ahead.skip(1) {
			return nil, false
		}
		if string(ahead.nameAt(key)) == "resourceType" {
			if ahead.body[from] != '"' {
				return []byte{}, false
			}
			return appendUnescaped(nil, ahead.body[from+1:ahead.pos-1]), true
		}
	}
}
