package search

import "bytes"

// Slot is a place in a Shape.
type Slot uint8

const (
	SlotOther     Slot = iota // decides nothing but what is under its own member
	SlotID                    // id
	SlotUpdated               // meta.lastUpdated
	SlotEffective             // effectiveDateTime
	SlotStart                 // effectivePeriod.start
	SlotEnd                   // effectivePeriod.end
	SlotValue                 // valueQuantity.value, a number
)

// Template is the text of a resource without the strings and numbers in which the
// measurements of a device differ from each other: those are its holes. Texts
// of one shape are parsed to the same tree but for these leaves, so what has
// been found out about one of them, without looking at a leaf, holds for all.
type Template struct {
	parts [][]byte // parts[i] stands before holes[i], the last part at the end
	holes []hole
}

type hole struct {
	Slot
	number bool
	path   []string // members, array indices left out
}

// Leaf is the text in a hole, without the quotes of a string. It aliases the
// resource.
type Leaf = []byte

const (
	maxShapeHoles = 16
	maxShapeDepth = 24
)

// holeAt are the members that become holes, when they hold a number or a
// string without escapes.
func holeAt(path []string) (h Slot, ok bool) {
	switch len(path) {
	case 1:
		switch path[0] {
		case "id":
			return SlotID, true
		case "effectiveDateTime":
			return SlotEffective, true
		case "issued":
			return SlotOther, true
		}
	case 2:
		switch path[0] + "." + path[1] {
		case "meta.versionId", "identifier.value":
			return SlotOther, true
		case "meta.lastUpdated":
			return SlotUpdated, true
		case "effectivePeriod.start":
			return SlotStart, true
		case "effectivePeriod.end":
			return SlotEnd, true
		case "valueQuantity.value":
			return SlotValue, true
		}
	case 3:
		return SlotOther, path[0] == "component" && path[1] == "valueQuantity" && path[2] == "value"
	}
	return 0, false
}

// TemplateOf is the shape of a resource; nil when its text is not one that
// TemplateCache are made of. It keeps no part of json.
func TemplateOf(json []byte) *Template {
	s := &shaper{b: bytes.Clone(json), out: &Template{}}
	if !s.value(0) || len(bytes.TrimLeft(s.b[s.at:], " \t\r\n")) > 0 || len(s.out.holes) > maxShapeHoles {
		return nil
	}
	s.out.parts = append(s.out.parts, s.b[s.from:])
	return s.out
}

// Read gives the leaves of a resource of the shape, in the order of the holes,
// in the memory of into; ok is false for a resource of another shape.
func (s *Template) Read(json []byte, into []Leaf) (leaves []Leaf, ok bool) {
	leaves, rest := into[:0], json
	for i := range s.holes {
		part := s.parts[i]
		if !bytes.HasPrefix(rest, part) {
			return leaves, false
		}
		rest = rest[len(part):]
		var n int
		if s.holes[i].number {
			n = numberLen(rest)
		} else {
			n = plainLen(rest)
		}
		if n < 0 {
			return leaves, false
		}
		leaves, rest = append(leaves, rest[:n]), rest[n:]
	}
	return leaves, bytes.Equal(rest, s.parts[len(s.holes)])
}

// Append writes a resource of the shape with the leaves.
func (s *Template) Append(b []byte, leaves []Leaf) []byte {
	for i := range s.holes {
		b = append(append(b, s.parts[i]...), leaves[i]...)
	}
	return append(b, s.parts[len(s.holes)]...)
}

// Only is the index of the one hole of a kind, -1 when there is none or there
// are several.
func (s *Template) Only(h Slot) int {
	at := -1
	for i := range s.holes {
		if s.holes[i].Slot != h {
			continue
		}
		if at >= 0 {
			return -1
		}
		at = i
	}
	return at
}

// numberLen is the length of the number that b begins with, -1 without one.
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

// plainLen is the length of the rest of a string, -1 when it has no end or
// escapes.
func plainLen(b []byte) int {
	n := bytes.IndexByte(b, '"')
	if n < 0 || bytes.IndexByte(b[:n], '\\') >= 0 {
		return -1
	}
	return n
}

// shaper walks a JSON text and cuts it at the holes.
type shaper struct {
	b        []byte
	at, from int // the place, and where the part begins
	path     []string
	out      *Template
}

func (s *shaper) space() {
	for s.at < len(s.b) {
		switch s.b[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// take passes over c, spaces before it included.
func (s *shaper) take(c byte) bool {
	s.space()
	if s.at == len(s.b) || s.b[s.at] != c {
		return false
	}
	s.at++
	return true
}

func (s *shaper) value(depth int) bool {
	s.space()
	if s.at == len(s.b) || depth > maxShapeDepth {
		return false
	}
	switch c := s.b[s.at]; c {
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case '"':
		begin := s.at + 1
		if !s.str() {
			return false
		}
		if n := plainLen(s.b[begin:]); begin+n+1 == s.at {
			s.cut(begin, s.at-1, false)
		}
		return true
	default:
		if n := numberLen(s.b[s.at:]); n > 0 {
			s.at += n
			s.cut(s.at-n, s.at, true)
			return true
		}
		for _, word := range []string{"true", "false", "null"} {
			if bytes.HasPrefix(s.b[s.at:], []byte(word)) {
				s.at += len(word)
				return true
			}
		}
		return false
	}
}

func (s *shaper) object(depth int) bool {
	s.at++
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return false
		}
		s.space()
		begin := s.at + 1
		if s.at == len(s.b) || s.b[s.at] != '"' || !s.str() {
			return false
		}
		name := string(s.b[begin : s.at-1])
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

func (s *shaper) array(depth int) bool {
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

// str passes over a string.
func (s *shaper) str() bool {
	for s.at++; s.at < len(s.b); s.at++ {
		switch s.b[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return true
		}
	}
	return false
}

// cut makes [begin, end) a hole, when its member is one.
func (s *shaper) cut(begin, end int, number bool) {
	h, ok := holeAt(s.path)
	if !ok || number != (h == SlotValue || len(s.path) == 3) {
		return
	}
	s.out.parts = append(s.out.parts, s.b[s.from:begin])
	s.out.holes = append(s.out.holes, hole{h, number, append([]string(nil), s.path...)})
	s.from = end
}
