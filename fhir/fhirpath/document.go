package fhirpath

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"pulsegate/fhir"
)

// maxJSONDepth bounds the nesting of objects and arrays in a Document.
const maxJSONDepth = 128

// maxMembers bounds the members of an object, since a step looks at each of them. The
// type of R4 with most members has less than 100.
const maxMembers = 256

// maxDocument bounds the size of a Document in bytes.
const maxDocument = 1 << 28

type nodeKind uint8

const (
	nodeNull nodeKind = iota
	nodeFalse
	nodeTrue
	nodeNumber
	nodeString
	nodeObject
	nodeArray
)

const (
	// flagEscaped is set for a string with escape sequences.
	flagEscaped = 1 << iota
	// flagShadow is set for an object that has a member with a name in "_".
	flagShadow
)

// node is a value in a JSON text. Node 0 is not used, so that 0 means none.
type node struct {
	kind  nodeKind
	flags uint8
	// keyLen and key are the name of the member, decoded; keyLen is 0 for an item of
	// an array.
	keyLen uint16
	key    uint32
	// start and end are the value in the text. Those of a string are within its
	// quotation marks.
	start, end uint32
	// child is the first member or item. For a string with escape sequences, it is the
	// index of its decoded text in Document.decoded.
	parent, child, next int32
}

// span is a part of a text.
type span struct{ start, end uint32 }

// Document is a JSON text as a tree: one array of nodes that refer to the text.
// Its zero value is ready for Reset. It may be read by several goroutines, but not
// during a Reset.
type Document struct {
	src     string // the text, then names and strings without their escape sequences
	length  int    // of the text alone
	nodes   []node
	decoded []span // of strings in src
}

// Parse returns the Document of a JSON text.
func Parse(json []byte) (*Document, error) {
	d := new(Document)
	return d, d.Reset(json)
}

// Reset replaces the Document by that of another JSON text and keeps its memory.
// Values of the previous one must not be used any more. The text is copied. After an
// error the Document is that of null.
func (d *Document) Reset(json []byte) error {
	if len(json) > maxDocument {
		return fhir.Errorf(fhir.TooLarge, "fhirpath.Parse", "the resource is too large")
	}
	d.src, d.length = string(json), len(json)
	d.nodes, d.decoded = append(d.nodes[:0], node{}), d.decoded[:0]
	s := scanner{doc: d, text: d.src}
	s.space()
	ok := s.value(0, 0) != 0
	if s.space(); !ok || s.pos != len(s.text) {
		d.src, d.length = "null", len("null")
		d.nodes = append(d.nodes[:0], node{}, node{kind: nodeNull, end: uint32(len("null"))})
		return s.fail()
	}
	if len(s.decoded) > 0 {
		d.src = s.text + string(s.decoded)
	}
	return nil
}

// scanner parses a JSON text.
type scanner struct {
	doc     *Document
	text    string
	pos     int
	decoded []byte
	limit   string // what exceeds a limit
}

func (s *scanner) fail() error {
	if s.limit != "" {
		return fhir.Errorf(fhir.Invalid, "fhirpath.Parse", "the resource has %s, at byte %d", s.limit, s.pos+1)
	}
	return fhir.Errorf(fhir.Invalid, "fhirpath.Parse", "the resource is not valid JSON, at byte %d", s.pos+1)
}

func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) add(kind nodeKind, parent int32) int32 {
	s.doc.nodes = append(s.doc.nodes, node{kind: kind, parent: parent, start: uint32(s.pos)})
	return int32(len(s.doc.nodes) - 1)
}

// value parses a value and returns its node, or 0 for an error.
func (s *scanner) value(parent int32, depth int) int32 {
	if s.pos == len(s.text) {
		return 0
	}
	switch c := s.text[s.pos]; c {
	case '{':
		return s.container(nodeObject, '}', parent, depth)
	case '[':
		return s.container(nodeArray, ']', parent, depth)
	case '"':
		n := s.add(nodeString, parent)
		start, end, escaped, ok := s.str()
		if !ok {
			return 0
		}
		p := &s.doc.nodes[n]
		p.start, p.end = uint32(start), uint32(end)
		if escaped {
			p.flags |= flagEscaped
			p.child = int32(len(s.doc.decoded))
			from, to := s.decode(start, end)
			s.doc.decoded = append(s.doc.decoded, span{uint32(from), uint32(to)})
		}
		return n
	case 't':
		return s.word("true", nodeTrue, parent)
	case 'f':
		return s.word("false", nodeFalse, parent)
	case 'n':
		return s.word("null", nodeNull, parent)
	}
	return s.number(parent)
}

func (s *scanner) word(w string, kind nodeKind, parent int32) int32 {
	if !strings.HasPrefix(s.text[s.pos:], w) {
		return 0
	}
	n := s.add(kind, parent)
	s.pos += len(w)
	s.doc.nodes[n].end = uint32(s.pos)
	return n
}

func (s *scanner) number(parent int32) int32 {
	n := s.add(nodeNumber, parent)
	if s.at('-') {
		s.pos++
	}
	first := s.pos
	if !s.digits() || s.text[first] == '0' && s.pos > first+1 {
		return 0
	}
	if s.at('.') {
		s.pos++
		if !s.digits() {
			return 0
		}
	}
	if s.at('e') || s.at('E') {
		s.pos++
		if s.at('+') || s.at('-') {
			s.pos++
		}
		if !s.digits() {
			return 0
		}
	}
	s.doc.nodes[n].end = uint32(s.pos)
	return n
}

func (s *scanner) at(c byte) bool { return s.pos < len(s.text) && s.text[s.pos] == c }

func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.text) && isDigit(s.text[s.pos]) {
		s.pos++
	}
	return s.pos > start
}

// str parses a string and returns its bounds within the quotation marks.
func (s *scanner) str() (start, end int, escaped, ok bool) {
	s.pos++
	start = s.pos
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '"':
			s.pos++
			return start, s.pos - 1, escaped, true
		case c == '\\':
			escaped = true
			n := escapeLen(s.text[s.pos:])
			if n == 0 {
				return 0, 0, false, false
			}
			s.pos += n
		case c < 0x20:
			return 0, 0, false, false
		default:
			s.pos++
		}
	}
	return 0, 0, false, false
}

// escapeLen returns the length of the escape sequence that t begins with, or 0.
func escapeLen(t string) int {
	if len(t) < 2 {
		return 0
	}
	if strings.IndexByte(`"\/bfnrt`, t[1]) >= 0 {
		return 2
	}
	if t[1] != 'u' || len(t) < 6 {
		return 0
	}
	for i := 2; i < 6; i++ {
		if strings.IndexByte("0123456789abcdef", lower(t[i])) < 0 {
			return 0
		}
	}
	return 6
}

func (s *scanner) container(kind nodeKind, closing byte, parent int32, depth int) int32 {
	if depth == maxJSONDepth {
		s.limit = fmt.Sprintf("more than %d levels", maxJSONDepth)
		return 0
	}
	n := s.add(kind, parent)
	s.pos++
	var last int32
	members := 0
	for s.space(); !s.at(closing); s.space() {
		if last != 0 {
			if !s.at(',') {
				return 0
			}
			s.pos++
			s.space()
		}
		var key, keyLen int
		if kind == nodeObject {
			if members++; members > maxMembers {
				s.limit = fmt.Sprintf("an object with more than %d members", maxMembers)
				return 0
			}
			var ok bool
			if key, keyLen, ok = s.name(); !ok {
				return 0
			}
			s.space()
		}
		c := s.value(n, depth+1)
		if c == 0 {
			return 0
		}
		p := &s.doc.nodes[c]
		if p.key, p.keyLen = uint32(key), uint16(keyLen); keyLen > 0 && s.char(key) == '_' {
			s.doc.nodes[n].flags |= flagShadow
		}
		if last == 0 {
			s.doc.nodes[n].child = c
		} else {
			s.doc.nodes[last].next = c
		}
		last = c
	}
	s.pos++
	s.doc.nodes[n].end = uint32(s.pos)
	return n
}

// char returns the byte at i of the text followed by the decoded names.
func (s *scanner) char(i int) byte {
	if i < len(s.text) {
		return s.text[i]
	}
	return s.decoded[i-len(s.text)]
}

// name parses the name of a member and the colon, and returns where its decoded text
// is. No element has a name as long as the limit, so a longer one is cut.
func (s *scanner) name() (key, n int, ok bool) {
	if !s.at('"') {
		return 0, 0, false
	}
	start, end, escaped, ok := s.str()
	if !ok {
		return 0, 0, false
	}
	if escaped {
		start, end = s.decode(start, end)
	}
	if s.space(); !s.at(':') {
		return 0, 0, false
	}
	s.pos++
	return start, min(end-start, 1<<16-1), true
}

// decode decodes a string and returns where the result will be in Document.src.
func (s *scanner) decode(start, end int) (from, to int) {
	from = len(s.text) + len(s.decoded)
	s.decoded = appendUnescaped(s.decoded, s.text[start:end])
	return from, len(s.text) + len(s.decoded)
}

// appendUnescaped appends a valid JSON string without its escape sequences.
func appendUnescaped(b []byte, t string) []byte {
	for i := 0; i < len(t); {
		if t[i] != '\\' {
			b = append(b, t[i])
			i++
			continue
		}
		if t[i+1] != 'u' {
			b = append(b, "\"\\/\b\f\n\r\t"[strings.IndexByte(`"\/bfnrt`, t[i+1])])
			i += 2
			continue
		}
		r := hex4(t[i+2:])
		i += 6
		if r >= 0xd800 && r < 0xdc00 && i+6 <= len(t) && t[i] == '\\' && t[i+1] == 'u' {
			if low := hex4(t[i+2:]); low >= 0xdc00 && low < 0xe000 {
				r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
				i += 6
			}
		}
		if !utf8.ValidRune(r) {
			r = utf8.RuneError
		}
		b = utf8.AppendRune(b, r)
	}
	return b
}

func hex4(t string) (r rune) {
	for i := range 4 {
		r = r<<4 | rune(strings.IndexByte("0123456789abcdef", lower(t[i])))
	}
	return r
}

// text returns the text of a string, decoded, or of a number.
func (d *Document) text(n int32) string {
	p := &d.nodes[n]
	if p.flags&flagEscaped != 0 {
		s := d.decoded[p.child]
		return d.src[s.start:s.end]
	}
	return d.src[p.start:p.end]
}

func (d *Document) key(p *node) string { return d.src[p.key : p.key+uint32(p.keyLen)] }

// member returns the first member with a name, or 0.
func (d *Document) member(n int32, name string) int32 {
	if d.nodes[n].kind != nodeObject {
		return 0
	}
	for c := d.nodes[n].child; c != 0; c = d.nodes[c].next {
		p := &d.nodes[c]
		if int(p.keyLen) == len(name) && d.src[p.key:p.key+uint32(p.keyLen)] == name {
			return c
		}
	}
	return 0
}

// shadow returns the member "_name" of an object, or 0.
func (d *Document) shadow(n int32, name string) int32 {
	if d.nodes[n].flags&flagShadow == 0 {
		return 0
	}
	for c := d.nodes[n].child; c != 0; c = d.nodes[c].next {
		p := &d.nodes[c]
		if int(p.keyLen) == len(name)+1 && d.src[p.key] == '_' && d.src[p.key+1:p.key+uint32(p.keyLen)] == name {
			return c
		}
	}
	return 0
}

// typeOfResource returns the type that the member resourceType names.
func (d *Document) typeOfResource(n int32) typeID {
	if r := d.member(n, "resourceType"); r != 0 && d.nodes[r].kind == nodeString {
		return model().resourceType(d.text(r))
	}
	return noType
}

// Root returns the resource, of the type that its resourceType names.
func (d *Document) Root() Value {
	if len(d.nodes) == 0 { // without a Reset
		return Value{}
	}
	return d.value(d.typeOfResource(1), 1, 0)
}

// As returns the content of the Document as a value of a data type or an element.
// The name is that of a type, or the path of a backbone element.
func (d *Document) As(typ string) (Value, error) {
	id, ok := model().byName[typ]
	if !ok || len(d.nodes) == 0 {
		return Value{}, fhir.Errorf(fhir.Invalid, "fhirpath.As", "R4 has no such type")
	}
	return d.value(id, 1, 0), nil
}

func (d *Document) value(typ typeID, n, ext int32) Value {
	return Value{kind: KindElement, typ: typ, doc: d, node: n, shadow: ext}
}
