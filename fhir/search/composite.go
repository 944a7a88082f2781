package search

import (
	"github.com/valyala/fastjson"
)

// The composite parameters of Observation join a code and a value of one
// element: of the Observation itself, of one of its components, or (combo) of
// either. So "systolic above 140" is one condition, where component-code and
// component-value-quantity together would also match a diastolic above 140.
// https://hl7.org/fhir/R4/search.html#composite and observation-search
//
// Their kinds follow from the second part; the first is a token.
const (
	kindCodeQuantity ParamType = iota + TypeSpecial + 1
	kindCodeConcept
	kindCodeString
	kindCodeDate
)

// Composite reports whether values of the kind are pairs.
func (k ParamType) Composite() bool { return k >= kindCodeQuantity && k <= kindCodeDate }

// A pair is held in one Value: the code in System and Code, and of the other
// part
//
//	quantity  Num, NumLo, NumHi; the unit in RefType (system), RefID (code), Text
//	concept   RefType (system), RefID (code)
//	string    RefID (as written), Text (folded)
//	date      Lo, Hi
//
// A system in RefType begins with systemMark, so that no reader of references
// takes it for the type of a resource, whatever a resource says. In a wanted
// Value the system is exact where it is given: HasSystem for the code, and a
// RefType for the other part; the mark alone means that there must be none.
const systemMark = "|"

func (w *work) system(b []byte) string {
	switch string(b) {
	case "":
		return systemMark
	case "http://unitsofmeasure.org":
		return systemMark + "http://unitsofmeasure.org"
	}
	return systemMark + w.text(b)
}

var composites = map[string]struct {
	kind  ParamType
	paths [][]string
}{
	"code-value-quantity":           {kindCodeQuantity, [][]string{nil}},
	"code-value-concept":            {kindCodeConcept, [][]string{nil}},
	"code-value-string":             {kindCodeString, [][]string{nil}},
	"code-value-date":               {kindCodeDate, [][]string{nil}},
	"component-code-value-quantity": {kindCodeQuantity, [][]string{{"component"}}},
	"component-code-value-concept":  {kindCodeConcept, [][]string{{"component"}}},
	"combo-code-value-quantity":     {kindCodeQuantity, [][]string{nil, {"component"}}},
	"combo-code-value-concept":      {kindCodeConcept, [][]string{nil, {"component"}}},
}

// compose completes the registry's entry of a composite parameter, whose parts
// the generated table does not hold.
func (p *Param) compose() {
	c, ok := composites[p.Code]
	if !ok || p.ResourceType != "Observation" || p.Type != TypeComposite {
		return
	}
	p.Type = c.kind
	for _, steps := range c.paths {
		p.Paths = append(p.Paths, Path{Steps: steps, Type: "composite"})
	}
}

// pairs adds the pairs of one element: each coding of its code with its value.
func (w *work) pairs(l *leaf, v *fastjson.Value) {
	codings := v.GetArray("code", "coding")
	if len(codings) == 0 {
		return
	}
	from := len(w.vals)
	switch l.kind {
	case kindCodeQuantity:
		q := v.Get("valueQuantity")
		w.quantity(l, q)
		for i := from; i < len(w.vals); i++ {
			x := &w.vals[i]
			x.RefType, x.RefID = w.system(q.GetStringBytes("system")), x.Code
		}
	case kindCodeConcept:
		for _, c := range v.GetArray("valueCodeableConcept", "coding") {
			if code := c.GetStringBytes("code"); len(code) > 0 {
				w.add(l.slot, Value{RefType: w.system(c.GetStringBytes("system")), RefID: w.text(code)})
			}
		}
	case kindCodeString:
		if b := v.GetStringBytes("valueString"); len(b) > 0 {
			s := w.text(b)
			w.add(l.slot, Value{RefID: s, Text: Fold(s)})
		}
	case kindCodeDate:
		for _, x := range [][2]string{{"valueDateTime", "dateTime"}, {"valuePeriod", "Period"}} {
			if e := v.Get(x[0]); e != nil {
				if d, ok := dates(x[1], e); ok {
					w.add(l.slot, d)
				}
			}
		}
	}
	w.multiply(l.slot, from, codings)
}

// multiply replaces the values from from on by one for each coding.
func (w *work) multiply(slot, from int, codings []*fastjson.Value) {
	n := len(w.vals) - from
	if n == 0 {
		return
	}
	second := w.vals[from:len(w.vals):len(w.vals)]
	for i, c := range codings {
		system, code := w.text(c.GetStringBytes("system")), w.text(c.GetStringBytes("code"))
		for j := range n {
			x := second[j]
			x.System, x.Code = system, code
			if i < len(codings)-1 {
				w.add(slot, x)
				continue
			}
			w.vals[from+j] = x
		}
	}
}

// composite reads "code$value".
func (ps *parser) composite(p *Param, s string) ([]Value, error) {
	want := bad(p.Code, "code$value, the code as code or system|code")
	parts := split(s, '$')
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return nil, want
	}
	codes, err := ps.token(p, parts[0])
	if err != nil || codes[0].Code == "" {
		return nil, want
	}
	var values []Value
	switch p.Type {
	case kindCodeQuantity:
		if values, err = ps.quantity(p, parts[1]); err == nil {
			values[0].unpack()
		}
	case kindCodeConcept:
		if values, err = ps.token(p, parts[1]); err == nil {
			values = anyCase(values[0])
			for i := range values {
				values[i].unpack()
			}
		}
	case kindCodeString:
		values = []Value{stringValue(unescape(parts[1]))}
		values[0].RefID = values[0].Code
	case kindCodeDate:
		values, err = ps.date(p, parts[1])
	}
	if err != nil {
		return nil, err
	}
	var out []Value
	for _, c := range anyCase(codes[0]) {
		for _, v := range values {
			v.System, v.HasSystem, v.Code = c.System, c.HasSystem, c.Code
			out = append(out, v)
		}
	}
	return out, nil
}

// unpack moves system and code to where a pair has those of its second part.
func (v *Value) unpack() {
	if v.RefID = v.Code; v.HasSystem {
		v.RefType = systemMark + v.System
	}
}

// matchPair compares both parts.
func matchPair(k ParamType, want, have *Value) bool {
	if !matchToken(want, have) {
		return false
	}
	switch k {
	case kindCodeQuantity:
		unit := want.RefID == "" || want.RefID == have.RefID || want.RefType == "" && want.RefID == have.Text
		return unit && (want.RefType == "" || want.RefType == have.RefType) && matchNumber(want, have)
	case kindCodeConcept:
		return (want.RefType == "" || want.RefType == have.RefType) && (want.RefID == "" || want.RefID == have.RefID)
	case kindCodeString:
		return startsWith(have.Text, want.Text, false)
	case kindCodeDate:
		return matchDate(want, have)
	}
	return false
}
