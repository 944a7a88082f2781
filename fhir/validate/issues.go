package validate

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"pulsegate/fhir"
)

// maxIssues bounds the issues that are reported for a body.
const maxIssues = 20

// issue is a fault of a body. Its path and position are computed when the body
// has been read.
type issue struct {
	node   int
	member string // element of the node, or empty for the node itself
	key    int    // offset in the body, or zero for that of the node
	code   string
	rule   string
}

func (d *Document) issueAt(i int, member string, key int, code, rule string) {
	d.malformed = d.malformed || code != "invariant"
	if len(d.issues) >= maxIssues {
		return
	}
	is := issue{i, member, key, code, rule}
	for j := range d.issues {
		if o := &d.issues[j]; o.node == i && o.member == member && o.rule == rule {
			return
		}
	}
	d.issues = append(d.issues, is)
}

// structureIssue reports that node i does not have the structure of its type.
func (d *Document) structureIssue(i int, code, rule string) { d.issueAt(i, "", 0, code, rule) }

// broken reports that node i, or an element of it, breaks an invariant.
func (d *Document) broken(i int, member, rule string) { d.issueAt(i, member, 0, "invariant", rule) }

// path appends the FHIRPath of node i.
func (d *Document) path(i int) string {
	var b strings.Builder
	root := d.nodes[0].structure
	if root == nil {
		return ""
	}
	b.WriteString(root.Name)
	for at := 0; at < i; {
		child := at + 1
		index := 0
		for next := int(d.nodes[child].next); next != 0 && next <= i; next = int(d.nodes[child].next) {
			child, index = next, index+1
		}
		switch c := &d.nodes[child]; {
		case c.key != 0:
			b.WriteByte('.')
			b.WriteString(d.publicName(int(c.key)))
		default:
			b.WriteByte('[')
			b.WriteString(strconv.Itoa(index))
			b.WriteByte(']')
		}
		at = child
	}
	return b.String()
}

// publicName returns the name at an offset, or a replacement if R4 does not define
// it: such names come from the input.
func (d *Document) publicName(key int) string {
	name := bytes.TrimPrefix(d.nameAt(key), []byte{'_'})
	if d.validator.set.IsElement(name) {
		return string(name)
	}
	return "(unknown)"
}

// err returns the faults of the body as an error.
func (d *Document) err(op string) error {
	if d.stopped == stopSyntax {
		return d.syntaxError(op)
	}
	kind := fhir.Unprocessable
	switch {
	case d.stopped == stopValues:
		return fhir.Errorf(fhir.TooLarge, op, "the resource has more than %d JSON values", d.limits.Values)
	case d.stopped == stopDepth:
		e := fhir.Errorf(fhir.Invalid, op, "JSON is nested too deeply")
		is := &e.Issues[0]
		is.Code = "structure"
		is.Expression = []string{d.path(len(d.nodes) - 1)}
		is.Line, is.Column = position(d.body, d.pos)
		return e
	case len(d.issues) == 0:
		return nil
	case d.malformed:
		kind = fhir.Invalid
	}
	e := &fhir.Error{Kind: kind, Op: op}
	for i := range d.issues {
		e.Issues = append(e.Issues, d.render(&d.issues[i]))
	}
	slices.SortStableFunc(e.Issues, func(a, b fhir.Issue) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	return e
}

func (d *Document) render(is *issue) fhir.Issue {
	path, at := d.path(is.node), int(d.nodes[is.node].start)
	if k := d.nodes[is.node].key; k != 0 {
		at = int(k)
	}
	if is.member != "" {
		path += "." + is.member
		if n := (Node{doc: d, index: uint32(is.node)}).get(is.member); n.doc != nil {
			at = int(n.at().key)
		}
	}
	if is.key != 0 {
		at = is.key
	}
	out := fhir.Issue{Severity: "error", Code: is.code, Diagnostics: is.rule, Expression: []string{path}}
	out.Line, out.Column = position(d.body, at)
	return out
}

func (d *Document) syntaxError(op string) error {
	rule := "the body is not a single well-formed JSON object"
	if d.invalidUTF8 {
		rule = "the body is not valid UTF-8"
		d.pos += validUTF8Prefix(d.body[d.pos:])
	}
	e := fhir.Errorf(fhir.Invalid, op, "%s", rule)
	e.Issues[0].Line, e.Issues[0].Column = position(d.body, d.pos)
	return e
}

// position returns the line and column of an offset. Both count from 1, columns
// in characters.
func position(body []byte, offset int) (line, column int) {
	offset = min(offset, len(body))
	start := bytes.LastIndexByte(body[:offset], '\n') + 1
	return 1 + bytes.Count(body[:start], []byte{'\n'}), 1 + utf8.RuneCount(body[start:offset])
}

// reporter reports the invariants that an object breaks.
type reporter struct{ node Node }

// broken reports that the object, or an element of it, breaks an invariant.
func (r reporter) broken(member, rule string) { r.node.doc.broken(int(r.node.index), member, rule) }
