package jsonitem

import (
	"github.com/go-json-experiment/json/jsontext"
)

// Node is a JSON value. A nil *Node is an absent one; all methods allow it.
type Node struct {
	Kind    byte   // '{', '[', '"', '0', 't', 'f', 'n'
	Text    string // of a string; of a number as written
	Items   []Node
	Members []Member
}

// Member is a name and its value.
type Member struct {
	Name  string
	Value Node
}

// Get walks down by names; nil if a step is absent or null. Of a repeated
// name the last counts.
func (n *Node) Get(path ...string) *Node {
	for _, name := range path {
		if n == nil {
			return nil
		}
		var found *Node
		for i := range n.Members {
			if n.Members[i].Name == name {
				found = &n.Members[i].Value
			}
		}
		n = found
	}
	if n != nil && n.Kind == 'n' {
		return nil
	}
	return n
}

// Has reports whether one of the names is a member, null or not.
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

// String is the text of a string, "" for everything else.
func (n *Node) String() string {
	if n == nil || n.Kind != '"' {
		return ""
	}
	return n.Text
}

// Is reports whether n is the boolean true.
func (n *Node) Is() bool { return n != nil && n.Kind == 't' }

// IsBool reports whether n is a boolean.
func (n *Node) IsBool() bool { return n != nil && (n.Kind == 't' || n.Kind == 'f') }

// JSON writes the value compactly, numbers as they were written.
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
	// The text came out of a strict decoder, so it is valid UTF-8 and the
	// error cannot occur; the result is usable even then.
	out, err := jsontext.AppendQuote(b, s)
	if err != nil {
		return append(out, '"', '"')
	}
	return out
}
