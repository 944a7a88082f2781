package search

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
)

// Extractor extracts index values from resources. The zero Extractor is ready to
// use.
type Extractor struct {
	// Base is the server's base URL ("https://host/fhir"). Absolute references
	// below it are indexed as local references.
	Base string
	// Registry holds the parameters; nil is Builtin.
	Registry *Registry
}

// Extract returns the index values of one resource of type typ.
func Extract(typ string, json []byte) (*Values, error) {
	return Extractor{}.Extract(typ, json)
}

// extraction is the reusable memory of one extraction.
type extraction struct {
	parser fastjson.Parser
	root   *fastjson.Value
	base   string
	arena  strings.Builder
	slots  []int
	vals   []Value
}

// extractions pools the memory between calls. An extraction of a large resource
// is not pooled, so that it does not keep its memory.
var extractions = sync.Pool{New: func() any { return new(extraction) }}

const largeResource = 1 << 20

// Extract returns the index values of one resource of type typ. A malformed
// element has no value. The only error is a text that is not a JSON object.
func (e Extractor) Extract(typ string, json []byte) (*Values, error) {
	return e.extract(typ, e.Registry.of(typ), json, nil)
}

// Selection is a set of parameters of one type, prepared for extracting only
// their values.
type Selection struct {
	typ     string
	in      *typeIndex
	root    *node // the paths of the parameters
	wanted  func(code string) bool
	summary bool
}

// Select returns the Selection of the parameters in the clauses of q.
func Select(q *Query) (*Selection, error) {
	return q.Registry.selection("search.Select", q.Type, func(code string) bool {
		return slices.ContainsFunc(q.Clauses, func(c Clause) bool { return c.reads(code) })
	})
}

// SelectStored returns the Selection of the values that a store keeps with a
// document: the fields of Values, and the values of the named parameters.
func SelectStored(typ string, codes ...string) (*Selection, error) {
	return builtin().SelectStored(typ, codes...)
}

// SelectStored is like the function SelectStored, for the parameters of r.
func (r *Registry) SelectStored(typ string, codes ...string) (*Selection, error) {
	patient, _ := PatientParam(typ)
	s, err := r.selection("search.SelectStored", typ, func(code string) bool {
		return code == patient || slices.Contains(summaryParams[typ], code) || slices.Contains(codes, code)
	})
	if err == nil {
		s.summary = true
	}
	return s, err
}

func (r *Registry) selection(op, typ string, wanted func(code string) bool) (*Selection, error) {
	t := r.of(typ)
	if t == nil {
		return nil, fhir.Errorf(fhir.Invalid, op, "the server does not support this resource type")
	}
	return &Selection{typ: typ, in: t, wanted: wanted,
		root: t.root.prune(func(l leaf) bool { return wanted(t.params[l.slot].Code) })}, nil
}

// ExtractFor returns the index values of a resource for the parameters of a
// selection. They suffice for Match and cost a fraction of Extract. Except for
// SelectStored, only ByParam is set.
func (e Extractor) ExtractFor(s *Selection, json []byte) (*Values, error) {
	return e.extract(s.typ, s.in, json, s)
}

// extract extracts the values for a selection, or all values if s is nil.
func (e Extractor) extract(typ string, t *typeIndex, json []byte, s *Selection) (*Values, error) {
	if t == nil {
		return nil, fhir.Errorf(fhir.Invalid, "search.Extract", "the server does not support this resource type")
	}
	w := extractions.Get().(*extraction)
	if len(json) <= largeResource {
		defer extractions.Put(w)
	}
	root, err := w.parser.ParseBytes(json)
	if err != nil || root.Type() != fastjson.TypeObject {
		// The parser's error is not wrapped, because it quotes the input.
		return nil, fhir.Errorf(fhir.Invalid, "search.Extract", "the resource is not a JSON object")
	}
	w.base, w.arena, w.slots, w.vals = e.Base, strings.Builder{}, w.slots[:0], w.vals[:0]
	w.root = root
	if s == nil {
		w.arena.Grow(min(len(json), 512))
		w.walk(t.root, root)
	} else {
		w.walk(s.root, root)
	}
	if typ == "Patient" {
		w.addNotDeceased(t)
	}
	w.evaluate(t, s, json)
	v := &Values{ByParam: w.group(t)}
	if typ == "Binary" && root.Exists(access.SecurityContext) {
		v.context, v.within = string(root.GetStringBytes(access.SecurityContext, "reference")), true
	}
	if s == nil || s.summary {
		v.summarize(typ)
	}
	return v, nil
}

// addNotDeceased adds the value false of the parameter deceased for a Patient
// without deceased[x], as the parameter's expression does.
func (w *extraction) addNotDeceased(t *typeIndex) {
	for slot, p := range t.params {
		if p.Code != "deceased" {
			continue
		}
		for _, s := range w.slots {
			if s == slot {
				return
			}
		}
		w.add(slot, Value{Code: "false"})
	}
}

// walk visits the members on the paths to indexed elements.
func (w *extraction) walk(n *node, v *fastjson.Value) {
	switch v.Type() {
	case fastjson.TypeArray:
		for _, e := range v.GetArray() {
			w.walk(n, e)
		}
		return
	case fastjson.TypeNull:
		return
	case fastjson.TypeObject:
		if len(n.children) > 0 {
			v.GetObject().Visit(func(key []byte, m *fastjson.Value) {
				if k := n.children[string(key)]; k != nil {
					w.walk(k, m)
				}
			})
		}
	}
	for i := range n.leaves {
		l := &n.leaves[i]
		if l.path.WhereMember != "" && string(v.GetStringBytes(l.path.WhereMember)) != l.path.WhereValue {
			continue
		}
		w.leaf(l, v)
	}
}

// group groups the collected values by parameter. They share one array.
func (w *extraction) group(t *typeIndex) map[string][]Value {
	var few [2][128]int
	counts, at := few[0][:], few[1][:]
	if len(t.params) > len(counts) {
		counts, at = make([]int, len(t.params)), make([]int, len(t.params))
	}
	for _, s := range w.slots {
		counts[s]++
	}
	params := 0
	for s, sum := 0, 0; s < len(t.params); s++ {
		at[s] = sum
		sum += counts[s]
		if counts[s] > 0 {
			params++
		}
	}
	slab := make([]Value, len(w.vals))
	for i, s := range w.slots {
		slab[at[s]] = w.vals[i]
		at[s]++
	}
	m := make(map[string][]Value, params+1) // one more for _lastUpdated
	for s, p := range t.params {
		if n := counts[s]; n > 0 {
			m[p.Code] = slab[at[s]-n : at[s] : at[s]]
		}
	}
	return m
}

func (w *extraction) add(slot int, v Value) {
	w.slots = append(w.slots, slot)
	w.vals = append(w.vals, v)
}

// text returns a copy of b, which is part of the parser's buffer.
func (w *extraction) text(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := wellKnown(b); ok {
		return s
	}
	n := w.arena.Len()
	w.arena.Write(b)
	return w.arena.String()[n:]
}

// wellKnown returns constants for frequent strings, to avoid copying them.
func wellKnown(b []byte) (string, bool) {
	switch string(b) {
	case element.LOINC:
		return element.LOINC, true
	case element.UCUM:
		return element.UCUM, true
	case element.SNOMED:
		return element.SNOMED, true
	case element.ObservationCategory:
		return element.ObservationCategory, true
	case "Patient":
		return "Patient", true
	case "Device":
		return "Device", true
	case "final":
		return "final", true
	case "vital-signs":
		return "vital-signs", true
	case "activity":
		return "activity", true
	}
	return "", false
}

// summaryParams lists the parameters from which summarize sets the fields of
// Values, besides the parameter of the patient.
var summaryParams = map[string][]string{ // read only
	"Observation": {"category", "code", "date"},
	"AuditEvent":  {"date"},
	"Consent":     {"date"},
	"Provenance":  {"recorded"},
}

// summarize sets the fields that the store keeps with the document.
func (v *Values) summarize(typ string) {
	v.Patient = v.patient(typ)
	var when []Value
	switch typ {
	case "Observation":
		for i := range v.ByParam["category"] {
			if c := v.ByParam["category"][i].Code; c != "" {
				v.Categories = append(v.Categories, c)
			}
		}
		for i := range v.ByParam["code"] {
			if c := &v.ByParam["code"][i]; c.Code != "" {
				v.Code = c.System + "|" + c.Code
				break
			}
		}
		when = v.ByParam["date"]
	case "AuditEvent", "Consent":
		when = v.ByParam["date"]
	case "Provenance":
		when = v.ByParam["recorded"]
	}
	if len(when) > 0 {
		v.Start, v.End = when[0].Lo, when[0].Hi
	}
}

// patient returns the id of the first patient whose compartment has the resource.
func (v *Values) patient(typ string) string {
	code, _ := PatientParam(typ)
	if code == "_id" {
		if id := v.ByParam["_id"]; len(id) > 0 {
			return id[0].Code
		}
		return ""
	}
	for i := range v.ByParam[code] {
		if r := &v.ByParam[code][i]; r.RefType == "Patient" {
			return r.RefID
		}
	}
	return ""
}

// Tokens returns the values of a parameter as access.Facts.Tokens does.
func (v *Values) Tokens(param string) []access.Token {
	if param == access.SecurityContext && v.within {
		return []access.Token{{Code: v.context}}
	}
	vals := v.ByParam[param]
	out := make([]access.Token, 0, len(vals))
	for i := range vals {
		x := &vals[i]
		switch {
		case x.RefType != "":
			out = append(out, access.Token{Code: x.RefType + "/" + x.RefID})
		case x.Code != "" || x.System != "":
			out = append(out, access.Token{System: x.System, Code: x.Code})
		}
	}
	return out
}

// SetLastUpdated sets the value of _lastUpdated. Resources do not contain it
// before their commit.
func (v *Values) SetLastUpdated(t time.Time) {
	ms := t.UnixMilli()
	v.ByParam["_lastUpdated"] = []Value{{Lo: ms, Hi: ms + 1}}
}
