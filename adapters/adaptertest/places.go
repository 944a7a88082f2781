package adaptertest

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// place is a value of a payload: a JSON value, an XML attribute or a CSV cell.
type place struct {
	path, shape string // the shape is the path without positions in lists
	from, to    int    // offsets of the value in the payload
	kind        byte   // first byte of the JSON value; any digit is '0', text outside JSON is 'a'
	within      int    // index of the innermost element that holds the value, or -1
}

// element is a part of a payload that can be left out: an object in a JSON list, an XML
// element or a CSV line.
type element struct {
	path     string
	from, to int // offsets of the bytes to leave out
	parent   int // index of the element around it, or -1
}

// layout lists the places and the elements of a payload.
type layout struct {
	places   []place
	elements []element
}

// layoutOf returns the layout of a payload. It is empty for an archive.
func layoutOf(p payload) (layout, error) {
	switch head := bytes.TrimLeft(bytes.TrimPrefix(p.body, []byte("\xef\xbb\xbf")), " \t\r\n"); {
	case len(head) == 0 || bytes.HasPrefix(head, []byte("PK")):
		return layout{}, nil
	case head[0] == '{' || head[0] == '[':
		s := jsonLayout{body: p.body, at: len(p.body) - len(head)}
		err := s.bodies()
		return s.layout, err
	case head[0] == '<':
		return xmlLayout(p.body), nil
	}
	return csvLayout(p.body), nil
}

// jsonLayout reads the layout of JSON bodies. It trusts the payload to be well-formed:
// the adapter has decoded it.
type jsonLayout struct {
	layout
	body []byte
	at   int // offset of the next byte
}

var errJSON = errors.New("the payload is not well-formed JSON")

// bodies reads all top-level values. They are no elements: an error in one of several
// bodies may end the payload.
func (s *jsonLayout) bodies() error {
	for n := 0; s.skip(" \t\r\n") != 0; n++ {
		if err := s.value(fmt.Sprintf("body %d", n), "", -1); err != nil {
			return err
		}
	}
	return nil
}

// add appends an element and returns its index.
func (s *jsonLayout) add(e element) int {
	s.elements = append(s.elements, e)
	return len(s.elements) - 1
}

// skip skips bytes of the set and returns the byte after them, or 0 at the end.
func (s *jsonLayout) skip(set string) byte {
	for s.at < len(s.body) {
		if strings.IndexByte(set, s.body[s.at]) < 0 {
			return s.body[s.at]
		}
		s.at++
	}
	return 0
}

// value reads a value and the values in it.
func (s *jsonLayout) value(path, shape string, within int) error {
	c := s.skip(" \t\r\n")
	p := place{path: path, shape: shape, from: s.at, kind: c, within: within}
	if c == '-' || c >= '0' && c <= '9' {
		p.kind = '0'
	}
	i := len(s.places)
	s.places = append(s.places, p)
	var err error
	switch c {
	case 0:
		return errJSON
	case '{':
		err = s.object(path, shape, within)
	case '[':
		err = s.array(path, shape, within)
	case '"':
		_, err = s.text()
	default:
		for s.at < len(s.body) && strings.IndexByte(",]} \t\r\n", s.body[s.at]) < 0 {
			s.at++
		}
	}
	s.places[i].to = s.at
	return err
}

// text reads a string and returns the bytes between its quotation marks.
func (s *jsonLayout) text() (string, error) {
	from := s.at + 1
	for s.at++; s.at < len(s.body); s.at++ {
		switch s.body[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return string(s.body[from : s.at-1]), nil
		}
	}
	return "", errJSON
}

func (s *jsonLayout) object(path, shape string, within int) error {
	s.at++
	for {
		switch s.skip(" \t\r\n,") {
		case '}':
			s.at++
			return nil
		case '"':
		default:
			return errJSON
		}
		name, err := s.text()
		if err != nil {
			return err
		}
		s.skip(" \t\r\n:")
		if err := s.value(path+"."+name, shape+"."+name, within); err != nil {
			return err
		}
	}
}

// array reads an array. Its objects are elements.
func (s *jsonLayout) array(path, shape string, within int) error {
	s.at++
	type span struct{ element, from, to int }
	var values []span
	for s.skip(" \t\r\n,") != ']' {
		v := span{-1, s.at, 0}
		here, inner := fmt.Sprintf("%s[%d]", path, len(values)), within
		if s.body[s.at] == '{' {
			v.element = s.add(element{path: here, parent: within})
			inner = v.element
		}
		if err := s.value(here, shape+"[]", inner); err != nil {
			return err
		}
		v.to = s.at
		values = append(values, v)
	}
	s.at++
	// An element is left out with the comma after it, the last one with the comma before.
	for i, v := range values {
		switch {
		case i+1 < len(values):
			v.to = values[i+1].from
		case i > 0:
			v.from = values[i-1].to
		}
		if v.element >= 0 {
			s.elements[v.element].from, s.elements[v.element].to = v.from, v.to
		}
	}
	return nil
}

var (
	tag       = regexp.MustCompile(`<(/?)([\w:.-]+)((?:[^<>"/]|"[^"]*")*)(/?)>`)
	attribute = regexp.MustCompile(`([\w:.-]+)\s*=\s*"([^"]*)"`)
)

// xmlLayout reads the layout of an XML document. It accepts characters that XML does not
// allow, because adapters may repair them.
func xmlLayout(body []byte) layout {
	var l layout
	open := []int{-1}
	for _, m := range tag.FindAllSubmatchIndex(body, -1) {
		parent := open[len(open)-1]
		if m[2] < m[3] { // an end tag
			if parent >= 0 {
				l.elements[parent].to = m[1]
				open = open[:len(open)-1]
			}
			continue
		}
		path := "/" + string(body[m[4]:m[5]])
		if parent >= 0 {
			path = l.elements[parent].path + path
		}
		within := len(l.elements)
		l.elements = append(l.elements, element{path, m[0], m[1], parent})
		if m[8] == m[9] {
			open = append(open, within)
		}
		for _, a := range attribute.FindAllSubmatchIndex(body[m[6]:m[7]], -1) {
			name := path + "@" + string(body[m[6]+a[2]:m[6]+a[3]])
			l.places = append(l.places, place{fmt.Sprintf("%s at %d", name, m[0]), name, m[6] + a[4], m[6] + a[5],
				'a', within})
		}
	}
	return l
}

// csvLayout reads the layout of lines with cells. A cell ends at a comma or a semicolon
// outside quotation marks. The lines after the first are elements.
func csvLayout(body []byte) layout {
	var l layout
	at := 0
	for n := 0; at < len(body); n++ {
		end := at + len(body[at:])
		if i := bytes.IndexByte(body[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		within := -1
		if n > 0 {
			l.elements = append(l.elements, element{path: fmt.Sprintf("line %d", n+1), from: at, to: end, parent: -1})
			within = len(l.elements) - 1
		}
		l.cells(body, at, end, n, within)
		at = end
	}
	return l
}

// cells adds the cells of the line from at to end.
func (l *layout) cells(body []byte, at, end, line, within int) {
	text := strings.TrimRight(string(body[at:end]), "\r\n")
	row := ""
	if c := text + "0"; line == 0 || c[0] >= 'A' {
		row, _, _ = strings.Cut(text, ",")
	}
	quoted, from, column := false, 0, 1
	for i := 0; i <= len(text); i++ {
		switch {
		case i < len(text) && text[i] == '"':
			quoted = !quoted
		case i == len(text) || !quoted && (text[i] == ',' || text[i] == ';'):
			l.places = append(l.places, place{fmt.Sprintf("line %d, column %d", line+1, column),
				fmt.Sprintf("%s, column %d", row, column), at + from, at + i, 'a', within})
			from = i + 1
			column++
		}
	}
}
