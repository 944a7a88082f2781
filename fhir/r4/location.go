package r4

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

// step is one level on the way to a place in a resource: a member, or an
// element of an array.
type step struct {
	name  string
	index int // -1: a member
}

// places is the way from a resource to one of its elements.
type places []step

// expression returns the FHIRPath of the place in a resource of type root. A
// name that is not R4's is not repeated, because it may be input.
func (p places) expression(root string) string {
	var b strings.Builder
	b.WriteString(root)
	for _, s := range p {
		switch name := strings.TrimPrefix(s.name, "_"); {
		case s.index >= 0:
			b.WriteByte('[')
			b.WriteString(itoa(s.index))
			b.WriteByte(']')
		case names().elements[name]:
			b.WriteByte('.')
			b.WriteString(name)
		default:
			b.WriteString(".(unknown)")
		}
	}
	return b.String()
}

// wanted is a tree of the places of issues, by member name or "[index]".
type wanted struct {
	kids   map[string]*wanted
	offset int // of the place in the body; -1 when the body does not have it
}

func (w *wanted) add(name string) *wanted {
	if w.kids == nil {
		w.kids = map[string]*wanted{}
	}
	k := w.kids[name]
	if k == nil {
		k = &wanted{offset: -1}
		w.kids[name] = k
	}
	return k
}

// member returns the node of a member: by its name, or as a type of a choice
// element, whose place is written without the type.
func (w *wanted) member(name string) *wanted {
	name = strings.TrimPrefix(name, "_")
	if k := w.kids[name]; k != nil {
		return k
	}
	for base, k := range w.kids {
		if len(name) > len(base) && strings.HasPrefix(name, base) && name[len(base)] >= 'A' && name[len(base)] <= 'Z' {
			return k
		}
	}
	return nil
}

// placeSteps splits an expression of this package behind its root.
func placeSteps(expression string) []string {
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

// locate gives each issue the line and column of its place in body, or of the
// nearest element around it that body has. It reads body once.
func locate(body []byte, issues []fhir.Issue) {
	root := &wanted{offset: -1}
	for i := range issues {
		if len(issues[i].Expression) == 0 {
			continue
		}
		w := root
		for _, s := range placeSteps(issues[i].Expression[0]) {
			w = w.add(s)
		}
	}
	l := &locator{body: body, dec: jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))}
	l.value(root) // an error ends it early; what it has found stands
	for i := range issues {
		if len(issues[i].Expression) == 0 || issues[i].Line > 0 {
			continue
		}
		w, at := root, root.offset
		for _, s := range placeSteps(issues[i].Expression[0]) {
			if w = w.kids[s]; w.offset < 0 {
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

// next returns where the next token begins.
func (l *locator) next() int {
	at := int(l.dec.InputOffset())
	for at < len(l.body) && strings.IndexByte(" \t\r\n,:", l.body[at]) >= 0 {
		at++
	}
	return at
}

// value reads one value; w is nil when no issue is in it.
func (l *locator) value(w *wanted) bool {
	if w == nil {
		return l.dec.SkipValue() == nil
	}
	if w.offset < 0 {
		w.offset = l.next()
	}
	kind := l.dec.PeekKind()
	if len(w.kids) == 0 || kind != '{' && kind != '[' {
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
		var child *wanted
		if kind == '{' {
			at := l.next()
			name, err := l.dec.ReadToken()
			if err != nil {
				return false
			}
			if child = w.member(name.String()); child != nil && child.offset < 0 {
				child.offset = at
			}
		} else if child = w.kids["["+itoa(i)+"]"]; child == nil && !w.indexed() {
			child = &wanted{kids: w.kids, offset: w.offset} // a place written without its index
		}
		if !l.value(child) {
			return false
		}
	}
}

func (w *wanted) indexed() bool {
	for name := range w.kids {
		if name[0] == '[' {
			return true
		}
	}
	return false
}

// position returns the line and the column, in characters, of an offset; both
// count from 1.
func position(body []byte, offset int) (line, column int) {
	offset = min(offset, len(body))
	start := bytes.LastIndexByte(body[:offset], '\n') + 1
	return 1 + bytes.Count(body[:start], []byte{'\n'}), 1 + utf8.RuneCount(body[start:offset])
}
