package search

import "bytes"

// Slot identifies the element that fills a slot of a Template.
type Slot uint8

const (
	slotOther     Slot = iota // an element that no Reader reads
	SlotID                    // id
	slotUpdated               // meta.lastUpdated
	SlotEffective             // effectiveDateTime
	slotStart                 // effectivePeriod.start
	slotEnd                   // effectivePeriod.end
	SlotValue                 // valueQuantity.value, a number
)

// Template is the JSON of a resource with slots instead of the strings and
// numbers that differ between the measurements of a device. All resources with
// the same template have the same tree except for the leaves in the slots, so a
// result that does not depend on a leaf holds for all of them.
//
// The repository has other templates, which share no code with this one because
// they differ in what they find and what they produce. A series.Template renders
// FHIR JSON from columns of numbers. A store.Template is cut at offsets that the
// writer knows, and is stored. The templates of fhir/audit are keyed by the
// caller, not by comparison. The tags of adapters/apple are XML. This package
// finds the slots itself, in JSON from any client, and compares the text between
// them.
type Template struct {
	parts [][]byte // parts[i] precedes slots[i]; the last part follows the last slot
	slots []slot
}

type slot struct {
	Slot
	number bool
	path   []string // member names, without array indices
}

// Leaf is the text in a slot, without the quotes of a string. It aliases the
// resource.
type Leaf = []byte

const (
	maxSlots         = 16
	maxTemplateDepth = 24
)

// slotAt returns the slot of a member. The value must be a number or a string
// without escapes.
func slotAt(path []string) (h Slot, ok bool) {
	switch len(path) {
	case 1:
		switch path[0] {
		case "id":
			return SlotID, true
		case "effectiveDateTime":
			return SlotEffective, true
		case "issued":
			return slotOther, true
		}
	case 2:
		switch path[0] + "." + path[1] {
		case "meta.versionId", "identifier.value":
			return slotOther, true
		case "meta.lastUpdated":
			return slotUpdated, true
		case "effectivePeriod.start":
			return slotStart, true
		case "effectivePeriod.end":
			return slotEnd, true
		case "valueQuantity.value":
			return SlotValue, true
		}
	case 3:
		return slotOther, path[0] == "component" && path[1] == "valueQuantity" && path[2] == "value"
	}
	return 0, false
}

// TemplateOf returns the template of a resource, or nil if it has too many slots
// or cannot be split. It does not keep json.
func TemplateOf(json []byte) *Template {
	s := &splitter{text: bytes.Clone(json), out: &Template{}}
	if !s.value(0) || len(bytes.TrimLeft(s.text[s.at:], " \t\r\n")) > 0 || len(s.out.slots) > maxSlots {
		return nil
	}
	s.out.parts = append(s.out.parts, s.text[s.from:])
	return s.out
}

// Read returns the leaves of a resource in the order of the slots, reusing the
// memory of into. If the resource does not match the template, ok is false.
func (s *Template) Read(json []byte, into []Leaf) (leaves []Leaf, ok bool) {
	leaves, rest := into[:0], json
	for i := range s.slots {
		part := s.parts[i]
		if !bytes.HasPrefix(rest, part) {
			return leaves, false
		}
		rest = rest[len(part):]
		var n int
		if s.slots[i].number {
			n = numberLen(rest)
		} else {
			n = plainLen(rest)
		}
		if n < 0 {
			return leaves, false
		}
		leaves, rest = append(leaves, rest[:n]), rest[n:]
	}
	return leaves, bytes.Equal(rest, s.parts[len(s.slots)])
}

// Append appends the resource that has the leaves in the slots.
func (s *Template) Append(b []byte, leaves []Leaf) []byte {
	for i := range s.slots {
		b = append(append(b, s.parts[i]...), leaves[i]...)
	}
	return append(b, s.parts[len(s.slots)]...)
}

// Only returns the index of the only slot h, or -1 if there is none or more than
// one.
func (s *Template) Only(h Slot) int {
	at := -1
	for i := range s.slots {
		if s.slots[i].Slot != h {
			continue
		}
		if at >= 0 {
			return -1
		}
		at = i
	}
	return at
}

// numberLen returns the length of the number at the beginning of b, or -1 if
// there is none.
func numberLen(b []byte) int {
	first := bytes.TrimPrefix(b, []byte("-"))
	if len(first) == 0 || first[0] < '0' || first[0] > '9' {
		return -1
	}
	for i, c := range b {
		if (c < '0' || c > '9') && c != '.' && c != 'e' && c != 'E' && c != '-' && c != '+' {
			return i
		}
	}
	return -1
}

// plainLen returns the number of bytes before the closing quote of a string. It
// returns -1 if the string has escapes or does not end.
func plainLen(b []byte) int {
	n := bytes.IndexByte(b, '"')
	if n < 0 || bytes.IndexByte(b[:n], '\\') >= 0 {
		return -1
	}
	return n
}

// splitter walks JSON and cuts it at the slots.
type splitter struct {
	text     []byte
	at, from int // current offset, and the beginning of the current part
	path     []string
	out      *Template
}

func (s *splitter) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// take skips white space and c. It returns false if another byte follows.
func (s *splitter) take(c byte) bool {
	s.space()
	if s.at == len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

func (s *splitter) value(depth int) bool {
	s.space()
	if s.at == len(s.text) || depth > maxTemplateDepth {
		return false
	}
	switch c := s.text[s.at]; c {
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case '"':
		begin := s.at + 1
		if !s.str() {
			return false
		}
		if n := plainLen(s.text[begin:]); begin+n+1 == s.at {
			s.cut(begin, s.at-1, false)
		}
		return true
	default:
		if n := numberLen(s.text[s.at:]); n > 0 {
			s.at += n
			s.cut(s.at-n, s.at, true)
			return true
		}
		for _, word := range []string{"true", "false", "null"} {
			if bytes.HasPrefix(s.text[s.at:], []byte(word)) {
				s.at += len(word)
				return true
			}
		}
		return false
	}
}

func (s *splitter) object(depth int) bool {
	s.at++
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return false
		}
		s.space()
		begin := s.at + 1
		if s.at == len(s.text) || s.text[s.at] != '"' || !s.str() {
			return false
		}
		name := string(s.text[begin : s.at-1])
		if !s.take(':') {
			return false
		}
		s.path = append(s.path, name)
		if !s.value(depth + 1) {
			return false
		}
		s.path = s.path[:len(s.path)-1]
	}
	return true
}

func (s *splitter) array(depth int) bool {
	s.at++
	for first := true; !s.take(']'); first = false {
		if !first && !s.take(',') {
			return false
		}
		if !s.value(depth + 1) {
			return false
		}
	}
	return true
}

// str skips a string.
func (s *splitter) str() bool {
	for s.at++; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return true
		}
	}
	return false
}

// cut makes [begin, end) a slot if slotAt has one for the current member.
func (s *splitter) cut(begin, end int, number bool) {
	h, ok := slotAt(s.path)
	if !ok || number != (h == SlotValue || len(s.path) == 3) {
		return
	}
	s.out.parts = append(s.out.parts, s.text[s.from:begin])
	s.out.slots = append(s.out.slots, slot{h, number, append([]string(nil), s.path...)})
	s.from = end
}
