package search

import (
	"github.com/valyala/fastjson"

	"pulsegate/fhir/element"
)

// The composite parameters of Observation combine the code and the value of one
// element: the Observation, one of its components, or (combo) either. So
// "systolic above 140" is a single condition, whereas component-code and
// component-value-quantity together would also match a diastolic above 140. See
// https://hl7.org/fhir/R4/search.html#composite and observation-search.
//
// There is one type per type of the second part. The first part is a token.
const (
	typeCodeQuantity ParamType = iota + TypeSpecial + 1
	typeCodeConcept
	typeCodeString
	typeCodeDate
	typeParts // see composeParts
)

// Composite reports whether the values of the type are pairs.
func (t ParamType) Composite() bool { return t >= typeCodeQuantity && t <= typeParts }

// systemMark precedes a system in RefType. A pair is one Value: System and Code hold
// the code, and the second part is in
//
//	quantity  Num, NumLo, NumHi; the unit in RefType (system), RefID (code), Text
//	concept   RefType (system), RefID (code)
//	string    RefID (as written), Text (folded)
//	date      Lo, Hi
//
// A system in RefType begins with systemMark, so that it cannot be mistaken for
// a resource type. In the Value of a clause, HasSystem means that the system of
// the code must match, and a RefType that the system of the second part must
// match; the mark alone means that there must be no system.
const systemMark = "|"

func (w *extraction) system(b []byte) string {
	switch string(b) {
	case "":
		return systemMark
	case element.UCUM:
		return systemMark + element.UCUM
	}
	return systemMark + w.text(b)
}

var composites = map[string]struct {
	typ   ParamType
	paths [][]string
}{
	"code-value-quantity":           {typeCodeQuantity, [][]string{nil}},
	"code-value-concept":            {typeCodeConcept, [][]string{nil}},
	"code-value-string":             {typeCodeString, [][]string{nil}},
	"code-value-date":               {typeCodeDate, [][]string{nil}},
	"component-code-value-quantity": {typeCodeQuantity, [][]string{{"component"}}},
	"component-code-value-concept":  {typeCodeConcept, [][]string{{"component"}}},
	"combo-code-value-quantity":     {typeCodeQuantity, [][]string{nil, {"component"}}},
	"combo-code-value-concept":      {typeCodeConcept, [][]string{nil, {"component"}}},
}

// compose completes the registry entry of a composite parameter. The generated
// table does not contain the parts.
func (p *Param) compose() {
	c, ok := composites[p.Code]
	if !ok || p.ResourceType != "Observation" || p.Type != TypeComposite {
		return
	}
	p.Type, p.Expression = c.typ, nil // the paths give the pairs
	for _, steps := range c.paths {
		p.Paths = append(p.Paths, Path{Steps: steps, Type: "composite"})
	}
}

// pairs adds the pairs of one element: its value with each coding of its code.
func (w *extraction) pairs(l *leaf, v *fastjson.Value) {
	codings := v.GetArray("code", "coding")
	if len(codings) == 0 {
		return
	}
	from := len(w.vals)
	switch l.typ {
	case typeCodeQuantity:
		q := v.Get("valueQuantity")
		w.quantity(l, q)
		for i := from; i < len(w.vals); i++ {
			x := &w.vals[i]
			x.RefType, x.RefID = w.system(q.GetStringBytes("system")), x.Code
		}
	case typeCodeConcept:
		for _, c := range v.GetArray("valueCodeableConcept", "coding") {
			if code := c.GetStringBytes("code"); len(code) > 0 {
				w.add(l.slot, Value{RefType: w.system(c.GetStringBytes("system")), RefID: w.text(code)})
			}
		}
	case typeCodeString:
		if b := v.GetStringBytes("valueString"); len(b) > 0 {
			s := w.text(b)
			w.add(l.slot, Value{RefID: s, Text: Fold(s)})
		}
	case typeCodeDate:
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

// multiply replaces each value from index from on by one value per coding.
func (w *extraction) multiply(slot, from int, codings []*fastjson.Value) {
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

// composite parses "code$value".
func (ps *parser) composite(p *Param, s string) ([]Value, error) {
	if p.Type == typeParts {
		return ps.split(p, s)
	}
	want := badValue(p.Code, "code$value, the code as code or system|code")
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
	case typeCodeQuantity:
		if values, err = ps.quantity(p, parts[1]); err == nil {
			values[0].unpack()
		}
	case typeCodeConcept:
		if values, err = ps.token(p, parts[1]); err == nil {
			values = caseVariants(values[0])
			for i := range values {
				values[i].unpack()
			}
		}
	case typeCodeString:
		values = []Value{stringValue(unescape(parts[1]))}
		values[0].RefID = values[0].Code
	case typeCodeDate:
		values, err = ps.date(p, parts[1])
	}
	if err != nil {
		return nil, err
	}
	var out []Value
	for _, c := range caseVariants(codes[0]) {
		for _, v := range values {
			v.System, v.HasSystem, v.Code = c.System, c.HasSystem, c.Code
			out = append(out, v)
		}
	}
	return out, nil
}

// unpack moves System and Code to the fields for the second part of a pair.
func (v *Value) unpack() {
	if v.RefID = v.Code; v.HasSystem {
		v.RefType = systemMark + v.System
	}
}

// matchPair matches both parts of a pair.
func matchPair(k ParamType, want, have *Value) bool {
	if !matchToken(want, have) {
		return false
	}
	switch k {
	case typeCodeQuantity:
		if want.RefType != "" && want.RefType != have.RefType {
			return false
		}
		if want.RefID == "" || want.RefID == have.RefID || want.RefType == "" && want.RefID == have.Text {
			return matchNumber(want, have)
		}
		return want.RefType == systemMark+element.UCUM && matchConverted(want, have, want.RefID, have.RefID)
	case typeCodeConcept:
		return (want.RefType == "" || want.RefType == have.RefType) && (want.RefID == "" || want.RefID == have.RefID)
	case typeCodeString:
		return startsWith(have.Text, want.Text, false)
	case typeCodeDate:
		return matchDate(want, have)
	}
	return false
}
