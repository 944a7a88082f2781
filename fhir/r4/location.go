package r4

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

// step is one step of an elementPath: a member, or an element of an array.
type step struct {
	name  string
	index int // -1 for a member
}

// elementPath is the path from a resource to one of its elements.
type elementPath []step

// expression returns p as FHIRPath, for a resource of type root. It replaces
// names that R4 does not define, because they come from the input.
func (p elementPath) expression(root string) string {
	var b strings.Builder
	b.WriteString(root)
	for _, s := range p {
		switch name := strings.TrimPrefix(s.name, "_"); {
		case s.index >= 0:
			b.WriteByte('[')
			b.WriteString(itoa(s.index))
			b.WriteByte(']')
		case IsElement(name):
			b.WriteByte('.')
			b.WriteString(name)
		default:
			b.WriteString(".(unknown)")
		}
	}
	return b.String()
}

// issueNode is a node in the tree of the elements that have issues. Children
// are keyed by member name or "[index]".
type issueNode struct {
	children map[string]*issueNode
	offset   int // of the element in the body; -1 if the body does not contain it
}

func (w *issueNode) add(name string) *issueNode {
	if w.children == nil {
		w.children = map[string]*issueNode{}
	}
	k := w.children[name]
	if k == nil {
		k = &issueNode{offset: -1}
		w.children[name] = k
	}
	return k
}

// member returns the node of a member. FHIRPath names choice elements without
// their type, so the node of valueQuantity may be called value.
func (w *issueNode) member(name string) *issueNode {
	name = strings.TrimPrefix(name, "_")
	if k := w.children[name]; k != nil {
		return k
	}
	for base, k := range w.children {
		if len(name) > len(base) && strings.HasPrefix(name, base) && name[len(base)] >= 'A' && name[len(base)] <= 'Z' {
			return k
		}
	}
	return nil
}

// pathSteps splits an expression of this package and drops its root.
func pathSteps(expression string) []string {
	_, rest, _ := strings.Cut(expression, ".")
	var out []string
	for _, part := range strings.Split(rest, ".") {
		name, index, indexed := strings.Cut(part, "[")
		if name != "" {
			out = append(out, name)
		}
		if indexed {
			out = append(out, "["+index)
		}
	}
	return out
}

// locate sets the line and column of each issue to the position of its element
// in body, or of the nearest ancestor that body contains. It reads body once.
func locate(body []byte, issues []fhir.Issue) {
	root := &issueNode{offset: -1}
	for i := range issues {
		if len(issues[i].Expression) == 0 {
			continue
		}
		w := root
		for _, s := range pathSteps(issues[i].Expression[0]) {
			w = w.add(s)
		}
	}
	l := &locator{body: body, dec: jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))}
	l.value(root) // after an error the offsets found so far are kept
	for i := range issues {
		if len(issues[i].Expression) == 0 || issues[i].Line > 0 {
			continue
		}
		w, at := root, root.offset
		for _, s := range pathSteps(issues[i].Expression[0]) {
			if w = w.children[s]; w.offset < 0 {
				break
			}
			at = w.offset
		}
		if at >= 0 {
			issues[i].Line, issues[i].Column = position(body, at)
		}
	}
}

type locator struct {
	body []byte
	dec  *jsontext.Decoder
}

// next returns the offset of the next token.
func (l *locator) next() int {
	at := int(l.dec.InputOffset())
	for at < len(l.body) && strings.IndexByte(" \t\r\n,:", l.body[at]) >= 0 {
		at++
	}
	return at
}

// value reads one value. If w is nil, the value has no issues.
func (l *locator) value(w *issueNode) bool {
	if w == nil {
		return l.dec.SkipValue() == nil
	}
	if w.offset < 0 {
		w.offset = l.next()
	}
	kind := l.dec.PeekKind()
	if len(w.children) == 0 || kind != '{' && kind != '[' {
		return l.dec.SkipValue() == nil
	}
	if _, err := l.dec.ReadToken(); err != nil {
		return false
	}
	for i := 0; ; i++ {
		switch l.dec.PeekKind() {
		case '}', ']':
			_, err := l.dec.ReadToken()
			return err == nil
		case 0:
			return false
		}
		var child *issueNode
		if kind == '{' {
			at := l.next()
			name, err := l.dec.ReadToken()
			if err != nil {
				return false
			}
			if child = w.member(name.String()); child != nil && child.offset < 0 {
				child.offset = at
			}
		} else if child = w.children["["+itoa(i)+"]"]; child == nil && !w.indexed() {
			child = &issueNode{children: w.children, offset: w.offset} // the expression has no index
		}
		if !l.value(child) {
			return false
		}
	}
}

func (w *issueNode) indexed() bool {
	for name := range w.children {
		if name[0] == '[' {
			return true
		}
	}
	return false
}

// position returns the line and column of an offset. Both count from 1, columns
// in characters.
func position(body []byte, offset int) (line, column int) {
	offset = min(offset, len(body))
	start := bytes.LastIndexByte(body[:offset], '\n') + 1
	return 1 + bytes.Count(body[:start], []byte{'\n'}), 1 + utf8.RuneCount(body[start:offset])
}
