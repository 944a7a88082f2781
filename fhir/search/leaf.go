package search

import (
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
)

// leaf extracts the values of one element.
func (w *work) leaf(l *leaf, v *fastjson.Value) {
	switch l.kind {
	case TypeToken:
		w.token(l, v)
	case TypeDate:
		if d, ok := dates(l.path.Type, v); ok {
			w.add(l.slot, d)
		}
	case TypeReference:
		w.reference(l, v)
	case TypeString:
		w.str(l, v)
	case TypeQuantity:
		w.quantity(l, v)
	case TypeURI:
		w.uri(l, v)
	case kindCodeQuantity, kindCodeConcept, kindCodeString, kindCodeDate:
		w.pairs(l, v)
	}
}

func (w *work) token(l *leaf, v *fastjson.Value) {
	switch l.path.Type {
	case "Coding":
		w.coding(l, v)
	case "CodeableConcept":
		for _, c := range v.GetArray("coding") {
			w.coding(l, c)
		}
		if t := v.GetStringBytes("text"); len(t) > 0 {
			w.add(l.slot, Value{Text: Fold(w.text(t))})
		}
	case "Identifier":
		x := Value{System: w.text(v.GetStringBytes("system")), Code: w.text(v.GetStringBytes("value")),
			Text: Fold(w.text(v.GetStringBytes("type", "text")))}
		if x.Code != "" || x.System != "" {
			w.add(l.slot, x)
		}
	case "ContactPoint":
		if b := v.GetStringBytes("value"); len(b) > 0 {
			w.add(l.slot, Value{Code: w.text(b)})
		}
	case "boolean":
		switch v.Type() {
		case fastjson.TypeTrue:
			w.add(l.slot, Value{Code: "true"})
		case fastjson.TypeFalse:
			w.add(l.slot, Value{Code: "false"})
		}
	case "exists":
		code := "true"
		if v.Type() == fastjson.TypeFalse {
			code = "false"
		}
		w.add(l.slot, Value{Code: code})
	default: // code, id, string, uri
		if b, err := v.StringBytes(); err == nil && len(b) > 0 {
			w.add(l.slot, Value{Code: w.text(b)})
		}
	}
}

func (w *work) coding(l *leaf, v *fastjson.Value) {
	x := Value{System: w.text(v.GetStringBytes("system")), Code: w.text(v.GetStringBytes("code"))}
	if d := v.GetStringBytes("display"); len(d) > 0 {
		x.Text = Fold(w.text(d))
	}
	if x.System != "" || x.Code != "" || x.Text != "" {
		w.add(l.slot, x)
	}
}

// dates reads the interval of one element. A Timing is its outer limits, as
// R4 says for searches on it.
func dates(typ string, v *fastjson.Value) (Value, bool) {
	switch typ {
	case "Period":
		return period(v)
	case "Timing":
		out, found := period(v.Get("repeat", "boundsPeriod"))
		for _, e := range v.GetArray("event") {
			b, err := e.StringBytes()
			if err != nil {
				continue
			}
			d, ok := parseInstant(string(b))
			if !ok {
				continue
			}
			if at := d.value(); !found {
				out, found = at, true
			} else {
				out = outer(&out, &at)
			}
		}
		return out, found
	}
	b, err := v.StringBytes()
	if err != nil {
		return Value{}, false
	}
	d, ok := parseInstant(string(b))
	return d.value(), ok
}

// outer is the interval around two.
func outer(a, b *Value) Value {
	out := *a
	aLo, aHi := a.moments()
	bLo, bHi := b.moments()
	if bLo.compare(aLo) < 0 {
		out.Lo, out.LoNs = b.Lo, b.LoNs
	}
	if bHi.compare(aHi) > 0 {
		out.Hi, out.HiNs = b.Hi, b.HiNs
	}
	return out
}

// period reads a Period; a missing end is open, one without both is none.
func period(v *fastjson.Value) (Value, bool) {
	if v == nil || v.Type() != fastjson.TypeObject {
		return Value{}, false
	}
	return between(v.GetStringBytes("start"), v.GetStringBytes("end"))
}

// between is the interval from a start to an end, each of which may be empty.
func between(start, end []byte) (Value, bool) {
	from, ok1 := parseInstant(string(start))
	to, ok2 := parseInstant(string(end))
	out := Value{Lo: always.lo, Hi: always.hi}
	if ok1 {
		out.Lo, out.LoNs = from.lo, from.loNs
	}
	if ok2 {
		out.Hi, out.HiNs = to.hi, to.hiNs
	}
	return out, ok1 || ok2
}

func (w *work) reference(l *leaf, v *fastjson.Value) {
	if l.path.Type != "Reference" {
		w.uri(l, v)
		return
	}
	n := len(w.vals)
	ref := v.GetStringBytes("reference")
	if len(ref) > 0 {
		x := w.literal(ref)
		if (x.RefType != "" || x.Code != "") && (l.path.Want == "" || l.path.Want == x.RefType) {
			w.add(l.slot, x)
		}
	}
	if id := v.Get("identifier"); id != nil && (l.path.Want == "" || string(v.GetStringBytes("type")) == l.path.Want) {
		x := Value{HasSystem: true, System: w.text(id.GetStringBytes("system")),
			Code: w.text(id.GetStringBytes("value"))}
		if x.Code != "" {
			w.add(l.slot, x)
		}
	}
	if len(w.vals) == n && v.Type() == fastjson.TypeObject &&
		(l.path.Want == "" || l.path.Want == w.containedType(ref)) {
		w.add(l.slot, Value{Unvalued: true})
	}
}

// containedType is the type of the contained resource that a fragment names.
func (w *work) containedType(ref []byte) string {
	if len(ref) < 2 || ref[0] != '#' {
		return ""
	}
	for _, c := range w.root.GetArray("contained") {
		if string(c.GetStringBytes("id")) == string(ref[1:]) {
			return string(c.GetStringBytes("resourceType"))
		}
	}
	return ""
}

// literal reads Reference.reference: local, absolute, urn; a fragment points
// into the resource itself and is no value.
func (w *work) literal(b []byte) Value {
	if b[0] == '#' {
		return Value{}
	}
	s := string(b)
	if w.base != "" {
		if rest, ok := strings.CutPrefix(s, w.base); ok && strings.HasPrefix(rest, "/") {
			s = rest[1:]
		}
	}
	if r, ok := fhir.ParseRef(s); ok {
		return Value{RefType: r.Type, RefID: r.ID}
	}
	return Value{Code: s}
}

func (w *work) str(l *leaf, v *fastjson.Value) {
	switch l.path.Type {
	case "HumanName":
		w.parts(l, v, "family", "given", "prefix", "suffix", "text")
	case "Address":
		w.parts(l, v, "line", "city", "district", "state", "postalCode", "country", "text")
	default:
		w.words(l, v)
	}
}

func (w *work) parts(l *leaf, v *fastjson.Value, members ...string) {
	for _, m := range members {
		p := v.Get(m)
		if p == nil {
			continue
		}
		if p.Type() == fastjson.TypeArray {
			for _, e := range p.GetArray() {
				w.words(l, e)
			}
			continue
		}
		w.words(l, p)
	}
}

func (w *work) words(l *leaf, v *fastjson.Value) {
	if b, err := v.StringBytes(); err == nil && len(b) > 0 {
		s := w.text(b)
		w.add(l.slot, Value{Code: s, Text: Fold(s)})
	}
}

func (w *work) quantity(l *leaf, v *fastjson.Value) {
	if l.path.Type == "SampledData" { // is there, without one value
		w.add(l.slot, Value{Unvalued: true})
		return
	}
	n := v.Get("value")
	if n == nil || n.Type() != fastjson.TypeNumber {
		return
	}
	var room [40]byte
	num, ok := parseNumber(string(n.MarshalTo(room[:0])))
	if !ok {
		return
	}
	w.add(l.slot, Value{Num: num.num, NumLo: num.lo, NumHi: num.hi,
		System: w.text(v.GetStringBytes("system")), Code: w.text(v.GetStringBytes("code")),
		Text: w.text(v.GetStringBytes("unit")), Comparator: comparators[string(v.GetStringBytes("comparator"))]})
}

var comparators = map[string]Comparator{"<": Less, "<=": LessOrEqual, ">=": GreaterOrEqual, ">": Greater} // read only

// uri keeps the address as written; a canonical with a version is found with
// and without it.
func (w *work) uri(l *leaf, v *fastjson.Value) {
	b, err := v.StringBytes()
	if err != nil || len(b) == 0 {
		return
	}
	s := w.text(b)
	w.add(l.slot, Value{Code: s})
	if l.path.Type == "canonical" {
		if bare, _, ok := strings.Cut(s, "|"); ok && bare != "" {
			w.add(l.slot, Value{Code: bare})
		}
	}
}
