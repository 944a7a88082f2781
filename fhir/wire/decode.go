package wire

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
)

const (
	ruleNamespace = "an element of FHIR must be in the namespace " + fhirURI + ", narrative in " + xhtmlURI
	ruleUnknown   = "R4 does not define an element of this name here"
	ruleOrder     = "the elements are not in the order of R4's definition"
	ruleOnce      = "the element may occur only once"
	ruleChoice    = "a choice element may have only one type"
	ruleAttribute = "R4 does not define an attribute of this name here"
	ruleNoValue   = "an attribute must not be empty; leave it out"
	ruleEmpty     = "an element must not be empty; leave it out"
	ruleResource  = "the element must have exactly one resource"
	ruleBoolean   = "a boolean must be true or false"
	ruleNumber    = "a number must have the form of JSON: digits without leading zeros or plus sign"
	ruleDepth     = "XML is nested too deeply"
)

// FromXML converts a resource in XML to JSON. It checks the syntax and the order of the
// elements, but not the rules of R4 that apply to JSON as well. Errors are *fhir.Error
// of kind Invalid with the FHIRPath and the position of the fault.
func FromXML(body []byte) ([]byte, error) {
	d := &decoder{scanner: scanner{body: body}, set: definitions.R4()}
	d.pos = len(body) - len(bytes.TrimPrefix(body, byteOrderMark))
	d.synced = d.pos
	d.out = make([]byte, 0, len(body)+len(body)/8+64)
	if d.checkText() && d.prolog() && d.document() {
		return d.out, nil
	}
	return nil, d.err()
}

var byteOrderMark = []byte("\xef\xbb\xbf") // read only

// step is a part of a FHIRPath.
type step struct {
	name  string
	index int // -1 if the element does not repeat
}

// decoder converts XML to JSON in one pass.
type decoder struct {
	scanner
	set  *definitions.Set
	out  []byte // the JSON
	side []byte // extensions of repeating primitives, which follow their values
	text []byte // scratch for narrative
	path []step

	// synced is the position in the XML at which sync was last called, xmlColumn its
	// column. jsonMark and jsonColumn are those of the JSON.
	synced, jsonMark, xmlColumn, jsonColumn int
	// still is positive while out is used as scratch, which must not have positions.
	still int
}

// err returns the fault.
func (d *decoder) err() error {
	is := fhir.Issue{Severity: "error", Code: "structure", Diagnostics: d.fault}
	if len(d.path) > 0 {
		var b strings.Builder
		for i, s := range d.path {
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.name)
			if s.index >= 0 {
				b.WriteString("[" + strconv.Itoa(s.index) + "]")
			}
		}
		is.Expression = []string{b.String()}
	}
	before := d.body[:min(d.faultAt, len(d.body))]
	is.Line = 1 + bytes.Count(before, []byte{'\n'})
	is.Column = 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return &fhir.Error{Kind: fhir.Invalid, Op: "wire.FromXML", Issues: []fhir.Issue{is}}
}

// document reads the root element and what follows it.
func (d *decoder) document() bool {
	if d.pos >= len(d.body) || d.body[d.pos] != '<' {
		return d.fail(d.pos, ruleWellFormed+"it has no root element")
	}
	if !d.start() || !d.resource(true) || !d.misc() {
		return false
	}
	if d.pos < len(d.body) {
		return d.fail(d.pos, ruleWellFormed+"it has text after the root element")
	}
	return true
}

// resource reads the resource whose start tag was read last.
func (d *decoder) resource(root bool) bool {
	t := &d.tag
	if t.space != fhirNamespace {
		return d.fail(t.start, ruleNamespace)
	}
	st := d.set.Resource(t.local)
	if st == nil {
		return d.fail(t.start, "the element must be a resource type of R4")
	}
	if root {
		d.path = append(d.path, step{st.Name, -1})
	}
	d.sync(t.start)
	d.out = append(append(append(d.out, `{"resourceType":"`...), st.Name...), '"')
	if !d.attributes(st, root) || !d.children(st, t.empty) {
		return false
	}
	d.out = append(d.out, '}')
	return true
}

// isAttribute reports whether XML has a member as an attribute (R4 xml.html: id of
// elements and url of extensions).
func isAttribute(st *definitions.Structure, m *definitions.Member) bool {
	return m.Bare && st.Kind != definitions.Resource && m.Primitive != definitions.XHTML
}

// isDeclaration reports whether an attribute declares a namespace.
func isDeclaration(a *attribute) bool {
	return string(a.prefix) == "xmlns" || a.prefix == nil && string(a.local) == "xmlns"
}

// attributes writes the attributes of the last start tag as members.
func (d *decoder) attributes(st *definitions.Structure, root bool) bool {
	for i := range d.tag.attributes {
		a := &d.tag.attributes[i]
		if isDeclaration(a) || root && a.space == schemaNamespace {
			continue
		}
		m := st.Lookup(a.local)
		if a.prefix != nil || m == nil || !isAttribute(st, m) {
			return d.fail(a.at, ruleAttribute)
		}
		d.key(a.at, "", m.Name)
		if !d.string(a) {
			return false
		}
	}
	return true
}

// key writes the name of a member, whose element is at a position of the XML.
func (d *decoder) key(at int, prefix, name string) {
	if d.out[len(d.out)-1] != '{' {
		d.out = append(d.out, ',')
	}
	d.sync(at)
	d.out = append(append(append(append(d.out, '"'), prefix...), name...), `":`...)
}

// sync gives the end of the JSON the line and, where it can, the column of a position
// in the XML.
func (d *decoder) sync(at int) {
	if d.still > 0 || at <= d.synced {
		return
	}
	part := d.body[d.synced:at]
	d.synced = at
	if n := bytes.Count(part, []byte{'\n'}); n > 0 {
		for range n {
			d.out = append(d.out, '\n')
		}
		part = part[bytes.LastIndexByte(part, '\n')+1:]
		d.jsonMark, d.xmlColumn, d.jsonColumn = len(d.out), 0, 0
	}
	d.xmlColumn += utf8.RuneCount(part)
	d.jsonColumn += utf8.RuneCount(d.out[d.jsonMark:])
	for ; d.jsonColumn < d.xmlColumn; d.jsonColumn++ {
		d.out = append(d.out, ' ')
	}
	d.jsonMark = len(d.out)
}

// list is the state of a member with its occurrences so far.
type list struct {
	member                 *definitions.Member
	count, values, shadows int
	mark                   int // of its shadows in decoder.side
}

// children reads the child elements up to the end tag of their parent.
func (d *decoder) children(st *definitions.Structure, empty bool) bool {
	if d.depth > maxDepth {
		return d.fail(d.tag.start, ruleDepth)
	}
	if empty {
		return true
	}
	var l list
	for d.child() {
		t := &d.tag
		m := st.Lookup(t.local)
		switch {
		case m == nil || isAttribute(st, m):
			return d.fail(t.start, ruleUnknown)
		case (m.Primitive == definitions.XHTML) != (t.space == xhtmlNamespace),
			t.space != xhtmlNamespace && t.space != fhirNamespace:
			return d.fail(t.start, ruleNamespace)
		}
		last := l.member
		if m != last {
			d.endList(&l)
			l = list{member: m, mark: len(d.side)}
		}
		index := -1
		if m.Many {
			index = l.count
		}
		d.path = append(d.path, step{m.Name, index})
		switch {
		case last == nil:
		case m == last && !m.Many:
			return d.fail(t.start, ruleOnce)
		case m.Element == last.Element && m != last:
			return d.fail(t.start, ruleChoice)
		case m.Element < last.Element:
			return d.fail(t.start, ruleOrder)
		}
		if !d.value(&l) {
			return false
		}
		l.count++
		d.path = d.path[:len(d.path)-1]
	}
	if d.fault != "" {
		return false
	}
	d.endList(&l)
	return true
}

// endList ends the arrays of a repeating member.
func (d *decoder) endList(l *list) {
	m := l.member
	if m == nil || !m.Many {
		return
	}
	if m.Primitive == definitions.NotPrimitive || l.values > 0 {
		d.out = append(d.out, ']')
	}
	if l.shadows > 0 {
		d.key(d.synced, "_", m.Name)
		d.out = append(append(append(d.out, '['), d.side[l.mark:]...), ']')
		d.side = d.side[:l.mark]
	}
}

// value reads an occurrence of a member, whose start tag was read last.
func (d *decoder) value(l *list) bool {
	m := l.member
	if m.Primitive != definitions.NotPrimitive && m.Primitive != definitions.XHTML {
		return d.primitive(l)
	}
	switch {
	case !m.Many:
		d.key(d.tag.start, "", m.Name)
	case l.count == 0:
		d.key(d.tag.start, "", m.Name)
		d.out = append(d.out, '[')
	default:
		d.out = append(d.out, ',')
		d.sync(d.tag.start)
	}
	switch {
	case m.Primitive == definitions.XHTML:
		var ok bool
		if d.text, ok = d.narrative(d.text[:0], false); !ok {
			return false
		}
		d.out = appendString(d.out, d.text)
		return true
	case m.Structure == nil:
		return d.inner()
	}
	start, mark := d.tag.start, len(d.out)
	d.out = append(d.out, '{')
	if !d.attributes(m.Structure, false) || !d.children(m.Structure, d.tag.empty) {
		return false
	}
	d.out = append(d.out, '}')
	if len(d.out) == mark+2 {
		return d.fail(start, ruleEmpty)
	}
	return true
}

// inner reads an element whose type is Resource: an element around a resource.
func (d *decoder) inner() bool {
	start := d.tag.start
	for i := range d.tag.attributes {
		if a := &d.tag.attributes[i]; !isDeclaration(a) {
			return d.fail(a.at, ruleAttribute)
		}
	}
	switch {
	case d.depth > maxDepth:
		return d.fail(start, ruleDepth)
	case d.tag.empty:
		return d.fail(start, ruleResource)
	case !d.child():
		return d.fail(start, ruleResource)
	case !d.resource(false):
		return false
	case d.child():
		return d.fail(d.tag.start, ruleResource)
	}
	return d.fault == ""
}

// primitive reads a primitive element: its value, and its id and extensions, which are
// in JSON a member with a leading underscore, the shadow.
func (d *decoder) primitive(l *list) bool {
	m, t := l.member, &d.tag
	start := t.start
	var value, id *attribute
	for i := range t.attributes {
		switch a := &t.attributes[i]; {
		case isDeclaration(a):
		case a.prefix == nil && string(a.local) == "value":
			value = a
		case a.prefix == nil && string(a.local) == "id":
			id = a
		default:
			return d.fail(a.at, ruleAttribute)
		}
	}
	switch {
	case value != nil:
		d.beginValue(l, start)
		if !d.literal(m.Primitive, value) {
			return false
		}
		l.values++
	case l.values > 0:
		d.out = append(d.out, ",null"...)
	}
	shadow := false
	if id != nil || !t.empty {
		var ok bool
		if shadow, ok = d.shadow(l, start, id); !ok {
			return false
		}
	}
	switch {
	case value == nil && !shadow:
		return d.fail(start, ruleEmpty)
	case m.Many && !shadow && l.shadows > 0:
		d.side = append(d.side, ",null"...)
	}
	return true
}

// beginValue writes what comes before a value of a primitive.
func (d *decoder) beginValue(l *list, at int) {
	switch {
	case !l.member.Many:
		d.key(at, "", l.member.Name)
	case l.values == 0:
		d.key(at, "", l.member.Name)
		d.out = append(d.out, '[')
		for range l.count {
			d.out = append(d.out, "null,"...)
		}
	default:
		d.out = append(d.out, ',')
		d.sync(at)
	}
}

// shadow writes the id and the extensions of a primitive, and reports whether it has
// some.
func (d *decoder) shadow(l *list, at int, id *attribute) (some, ok bool) {
	m, mark := l.member, len(d.out)
	if m.Many {
		d.still++
	} else {
		d.key(at, "_", m.Name)
	}
	begin := len(d.out)
	d.out = append(d.out, '{')
	if id != nil {
		d.key(at, "", "id")
		if !d.string(id) {
			return false, false
		}
	}
	if !d.children(d.set.Structure("Element"), d.tag.empty) {
		return false, false
	}
	some = len(d.out) > begin+1
	d.out = append(d.out, '}')
	if !m.Many {
		if !some {
			d.out = d.out[:mark]
			d.jsonMark = min(d.jsonMark, mark)
		}
		return some, true
	}
	d.still--
	if some {
		if l.shadows == 0 {
			for range l.count {
				d.side = append(d.side, "null,"...)
			}
		} else {
			d.side = append(d.side, ',')
		}
		d.side = append(d.side, d.out[begin:]...)
		l.shadows++
	}
	d.out = d.out[:mark]
	return some, true
}

// literal writes the value of a primitive.
func (d *decoder) literal(p definitions.Primitive, a *attribute) bool {
	mark := len(d.out)
	if !d.string(a) {
		return false
	}
	text := d.out[mark+1 : len(d.out)-1]
	switch p.JSON() {
	case '"':
		return true
	case 't':
		if s := string(text); s != "true" && s != "false" {
			return d.fail(a.at, ruleBoolean)
		}
	default:
		if !isNumber(text) {
			return d.fail(a.at, ruleNumber)
		}
	}
	d.out = append(d.out[:mark], text...)
	return true
}

// isNumber reports whether s is a number in JSON (RFC 8259 section 6).
func isNumber(s []byte) bool {
	digits := func(s []byte) int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	if len(s) > 0 && s[0] == '-' {
		s = s[1:]
	}
	n := digits(s)
	if n == 0 || n > 1 && s[0] == '0' {
		return false
	}
	if s = s[n:]; len(s) > 0 && s[0] == '.' {
		if n = digits(s[1:]); n == 0 {
			return false
		}
		s = s[1+n:]
	}
	if len(s) > 0 && s[0]|0x20 == 'e' {
		if s = s[1:]; len(s) > 0 && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		if n = digits(s); n == 0 {
			return false
		}
		s = s[n:]
	}
	return len(s) == 0
}

// string writes the value of an attribute as a JSON string.
func (d *decoder) string(a *attribute) bool {
	if len(a.raw) == 0 {
		return d.fail(a.at, ruleNoValue)
	}
	d.out = append(d.out, '"')
	b := a.raw
	for start := 0; ; {
		i := start
		for i < len(b) && stringClass[b[i]] == 0 {
			i++
		}
		d.out = append(d.out, b[start:i]...)
		if i == len(b) {
			break
		}
		switch c := b[i]; c {
		case '"', '\\':
			d.out = append(d.out, '\\', c)
		case '\n', '\t':
			d.out = append(d.out, ' ') // XML 1.0 section 3.3.3
		case '\r':
			d.out = append(d.out, ' ')
			if i+1 < len(b) && b[i+1] == '\n' {
				i++
			}
		case '&':
			r, n := reference(b[i:])
			if n == 0 {
				return d.fail(a.at, ruleEntity)
			}
			d.out = appendRune(d.out, r)
			i += n - 1
		case '<':
			return d.fail(a.at, ruleWellFormed+"an attribute has an unescaped bracket")
		default:
			return d.fail(a.at, ruleCharacter)
		}
		start = i + 1
	}
	d.out = append(d.out, '"')
	return true
}

// stringClass marks the bytes that cannot be copied from an attribute to JSON.
var stringClass = func() (t [256]uint8) { // read only
	for c := range t {
		t[c] = class[c] & classStop
	}
	t['"'], t['\\'] = classStop, classStop
	return t
}()

// appendRune appends a character of a JSON string.
func appendRune(out []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(out, '\\', byte(r))
	case '\n':
		return append(out, '\\', 'n')
	case '\r':
		return append(out, '\\', 'r')
	case '\t':
		return append(out, '\\', 't')
	}
	return utf8.AppendRune(out, r)
}

// appendString appends text, which XML allows, as a JSON string.
func appendString(out, text []byte) []byte {
	out = append(slices.Grow(out, len(text)+2), '"')
	for start := 0; ; {
		i := start
		for i < len(text) && text[i] >= ' ' && text[i] != '"' && text[i] != '\\' {
			i++
		}
		out = append(out, text[start:i]...)
		if i == len(text) {
			return append(out, '"')
		}
		out = appendRune(out, rune(text[i]))
		start = i + 1
	}
}
