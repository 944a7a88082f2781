package jsonitem

import (
	"github.com/go-json-experiment/json/jsontext"
)

// Node is a JSON value. A nil *Node stands for an absent value; all methods
// except JSON and Has accept it.
type Node struct {
	Kind    byte   // JSON kind: '{', '[', '"', '0', 't', 'f' or 'n'
	Text    string // text of a string, or a number as written
	Items   []Node
	Members []Member
	// misread is set if the value was read as another type, and asked if Get returned
	// it by its name.
	misread, asked bool
}

// Member is a named value of an object.
type Member struct {
	Name  string
	Value Node
}

// Get returns the value at a path of names, or nil if a step is absent or null.
// The last of several members with the same name counts.
func (n *Node) Get(path ...string) *Node {
	for _, name := range path {
		if n == nil {
			return nil
		}
		n.wrong(n.Kind != '{' && n.Kind != 'n')
		var found *Node
		for i := range n.Members {
			if n.Members[i].Name == name {
				found = &n.Members[i].Value
				found.asked = true
			}
		}
		n = found
	}
	if n != nil && n.Kind == 'n' {
		return nil
	}
	return n
}

// Has reports whether n has a member with one of the names, even if it is null.
func (n *Node) Has(names ...string) bool {
	for _, m := range n.Members {
		for _, name := range names {
			if m.Name == name {
				return true
			}
		}
	}
	return false
}

// String returns the text of a string, or "" for other values.
func (n *Node) String() string {
	if n == nil {
		return ""
	}
	if n.Kind != '"' {
		n.wrong(n.Kind != 'n')
		return ""
	}
	return n.Text
}

// IsTrue reports whether n is the boolean true.
func (n *Node) IsTrue() bool {
	if n == nil {
		return false
	}
	n.wrong(n.Kind == '{' || n.Kind == '[' || n.Kind == '"')
	return n.Kind == 't'
}

// IsBool reports whether n is a boolean.
func (n *Node) IsBool() bool {
	if n == nil {
		return false
	}
	n.wrong(n.Kind == '{' || n.Kind == '[' || n.Kind == '"')
	return n.Kind == 't' || n.Kind == 'f'
}

// JSON returns the value as compact JSON, with numbers as they were written.
func (n *Node) JSON() []byte { return n.append(nil) }

func (n *Node) append(b []byte) []byte {
	switch n.Kind {
	case '{':
		b = append(b, '{')
		for i := range n.Members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(quote(b, n.Members[i].Name), ':')
			b = n.Members[i].Value.append(b)
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i := range n.Items {
			if i > 0 {
				b = append(b, ',')
			}
			b = n.Items[i].append(b)
		}
		return append(b, ']')
	case '"':
		return quote(b, n.Text)
	case '0':
		return append(b, n.Text...)
	case 't':
		return append(b, "true"...)
	case 'f':
		return append(b, "false"...)
	}
	return append(b, "null"...)
}

func quote(b []byte, s string) []byte {
	// The text comes from a strict decoder, so it is valid UTF-8 and the error cannot
	// occur.
	out, err := jsontext.AppendQuote(b, s)
	if err != nil {
		return append(out, '"', '"')
	}
	return out
}
