package search

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
)

// leaf extracts the values of one element.
func (w *extraction) leaf(l *leaf, v *fastjson.Value) {
	if l.path.Type == "Extension" {
		w.extension(l, v)
		return
	}
	switch l.typ {
	case TypeToken:
		w.token(l, v)
	case TypeDate:
		if l.path.Type == "string" || l.path.Type == "Age" || l.path.Type == "Range" { // present, but no date
			w.add(l.slot, Value{Unvalued: true})
		} else if d, ok := dates(l.path.Type, v); ok {
			w.add(l.slot, d)
		}
	case TypeReference:
		w.reference(l, v)
	case TypeString:
		w.str(l, v)
	case TypeQuantity:
		w.quantity(l, v)
	case TypeNumber:
		w.number(l, v)
	case TypeURI:
		w.uri(l, v)
	case typeCodeQuantity, typeCodeConcept, typeCodeString, typeCodeDate:
		w.pairs(l, v)
	}
}

// extension adds the value of an extension.
func (w *extraction) extension(l *leaf, v *fastjson.Value) {
	if v.Type() != fastjson.TypeObject {
		return
	}
	v.GetObject().Visit(func(key []byte, m *fastjson.Value) {
		typ, ok := strings.CutPrefix(string(key), "value")
		if !ok || typ == "" || typ == "Extension" {
			return
		}
		if m.Type() != fastjson.TypeObject { // the names of primitive types begin in lower case
			typ = strings.ToLower(typ[:1]) + typ[1:]
		}
		path := *l.path
		path.Type = typ
		w.leaf(&leaf{slot: l.slot, typ: l.typ, path: &path}, m)
	})
}

func (w *extraction) token(l *leaf, v *fastjson.Value) {
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
			w.identifier(l, x, v.GetArray("type", "coding"))
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

// identifier adds an identifier, once for each coding of its type.
func (w *extraction) identifier(l *leaf, x Value, types []*fastjson.Value) {
	n := len(w.vals)
	for _, t := range types {
		if code := t.GetStringBytes("code"); len(code) > 0 {
			x.RefType, x.RefID = w.text(t.GetStringBytes("system")), w.text(code)
			w.add(l.slot, x)
		}
	}
	if len(w.vals) == n {
		w.add(l.slot, x)
	}
}

func (w *extraction) coding(l *leaf, v *fastjson.Value) {
	x := Value{System: w.text(v.GetStringBytes("system")), Code: w.text(v.GetStringBytes("code"))}
	if d := v.GetStringBytes("display"); len(d) > 0 {
		x.Text = Fold(w.text(d))
	}
	if x.System != "" || x.Code != "" || x.Text != "" {
		w.add(l.slot, x)
	}
}

// dates returns the interval of one element. For a Timing it spans all events and
// the bounds, as R4 defines for searches.
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
				out = union(&out, &at)
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

// union returns the smallest interval that contains a and b.
func union(a, b *Value) Value {
	out := *a
	aLo, aHi := a.preciseInterval()
	bLo, bHi := b.preciseInterval()
	if bLo.compare(aLo) < 0 {
		out.Lo, out.LoNs = b.Lo, b.LoNs
	}
	if bHi.compare(aHi) > 0 {
		out.Hi, out.HiNs = b.Hi, b.HiNs
	}
	return out
}

// period returns the interval of a Period. A missing end is open. A Period without
// both ends has no interval.
func period(v *fastjson.Value) (Value, bool) {
	if v == nil || v.Type() != fastjson.TypeObject {
		return Value{}, false
	}
	return between(v.GetStringBytes("start"), v.GetStringBytes("end"))
}

// between returns the interval from start to end. Either may be empty.
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

func (w *extraction) reference(l *leaf, v *fastjson.Value) {
	switch l.path.Type {
	case "Reference":
	case "Attachment": // present, but no reference
		w.add(l.slot, Value{Unvalued: true})
		return
	default:
		w.uri(l, v)
		return
	}
	n := len(w.vals)
	ref := v.GetStringBytes("reference")
	if len(ref) > 0 {
		x := w.literal(ref)
		if (x.RefType != "" || x.Code != "") && (l.path.Want == "" || l.path.Want == x.RefType ||
			x.RefType == "" && absoluteTo(x.Code, l.path.Want)) {
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

// containedType returns the type of the contained resource that a fragment
// names.
func (w *extraction) containedType(ref []byte) string {
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

// absoluteTo reports whether a URL is that of a resource of type typ on another server.
func absoluteTo(url, typ string) bool {
	if i := strings.Index(url, "/_history/"); i >= 0 {
		url = url[:i]
	}
	base, id := url[:strings.LastIndexByte(url, '/')+1], url[strings.LastIndexByte(url, '/')+1:]
	return strings.Contains(base, ":") && strings.HasSuffix(base, "/"+typ+"/") && fhir.ValidID(id)
}

// literal returns the value of Reference.reference. A fragment has no value,
// because it refers to the resource itself.
func (w *extraction) literal(b []byte) Value {
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

func (w *extraction) str(l *leaf, v *fastjson.Value) {
	switch l.path.Type {
	case "HumanName":
		w.parts(l, v, "family", "given", "prefix", "suffix", "text")
	case "Address":
		w.parts(l, v, "line", "city", "district", "state", "postalCode", "country", "text")
	default:
		w.words(l, v)
	}
}

func (w *extraction) parts(l *leaf, v *fastjson.Value, members ...string) {
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

func (w *extraction) words(l *leaf, v *fastjson.Value) {
	if b, err := v.StringBytes(); err == nil && len(b) > 0 {
		s := w.text(b)
		w.add(l.slot, Value{Code: s, Text: Fold(s)})
	}
}

func (w *extraction) quantity(l *leaf, v *fastjson.Value) {
	switch l.path.Type {
	case "SampledData":
		w.sampled(l, v)
		return
	case "Range":
		w.rangeOf(l, v)
		return
	}
	num, ok := numberOf(v.Get("value"))
	if !ok {
		return
	}
	x := Value{Num: num.num, NumLo: num.lo, NumHi: num.hi,
		System: w.text(v.GetStringBytes("system")), Code: w.text(v.GetStringBytes("code")),
		Text: w.text(v.GetStringBytes("unit")), Comparator: comparators[string(v.GetStringBytes("comparator"))]}
	if l.path.Type == "Money" {
		x.System, x.Code = currency, w.text(v.GetStringBytes("currency"))
	}
	w.add(l.slot, x)
}

// numberOf returns a JSON number.
func numberOf(v *fastjson.Value) (number, bool) {
	if v == nil || v.Type() != fastjson.TypeNumber {
		return number{}, false
	}
	var buf [40]byte
	return parseNumber(string(v.MarshalTo(buf[:0])))
}

func (w *extraction) number(l *leaf, v *fastjson.Value) {
	if l.path.Type == "Range" || v.Type() == fastjson.TypeObject {
		if v.Get("value") == nil {
			w.rangeOf(l, v)
			return
		}
		v = v.Get("value")
	}
	if num, ok := numberOf(v); ok {
		w.add(l.slot, Value{Num: num.num, NumLo: num.lo, NumHi: num.hi})
	}
}

// rangeOf adds a Range. A missing end is open.
func (w *extraction) rangeOf(l *leaf, v *fastjson.Value) {
	low, okLow := numberOf(v.Get("low", "value"))
	high, okHigh := numberOf(v.Get("high", "value"))
	if !okLow && !okHigh {
		return
	}
	x := Value{Comparator: Between, NumLo: math.Inf(-1), NumHi: math.Inf(1)}
	unit := v.Get("low")
	if okHigh {
		x.NumHi, x.Num = high.num, high.num
	}
	if okLow {
		x.NumLo, x.Num = low.num, low.num
	} else {
		unit = v.Get("high")
	}
	x.System, x.Code = w.text(unit.GetStringBytes("system")), w.text(unit.GetStringBytes("code"))
	x.Text = w.text(unit.GetStringBytes("unit"))
	w.add(l.slot, x)
}

// sampled adds the bounds of SampledData (R4's value-quantity: "just search on the
// bounds of the values in sampled data"). Values of E, U and L are outside of the
// bounds: an error, and above and below the limits of detection.
func (w *extraction) sampled(l *leaf, v *fastjson.Value) {
	lo, hi, any := math.Inf(1), math.Inf(-1), false
	origin, _ := numberOf(v.Get("origin", "value"))
	factor := 1.0
	if f, ok := numberOf(v.Get("factor")); ok {
		factor = f.num
	}
	for field := range bytes.FieldsSeq(v.GetStringBytes("data")) {
		f, err := strconv.ParseFloat(string(field), 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		any = true
		lo, hi = min(lo, f), max(hi, f)
	}
	if !any { // present, but without a value
		w.add(l.slot, Value{Unvalued: true})
		return
	}
	lo, hi = origin.num+lo*factor, origin.num+hi*factor
	unit := v.Get("origin")
	w.add(l.slot, Value{Comparator: Between, Num: min(lo, hi), NumLo: min(lo, hi), NumHi: max(lo, hi),
		System: w.text(unit.GetStringBytes("system")), Code: w.text(unit.GetStringBytes("code")),
		Text: w.text(unit.GetStringBytes("unit"))})
}

// currency is the code system of Money.currency.
const currency = "urn:iso:std:iso:4217"

var comparators = map[string]Comparator{"<": Less, "<=": LessOrEqual, ">=": GreaterOrEqual, ">": Greater} // read only

// uri adds a URI as written. A canonical with a version is also found without the
// version.
func (w *extraction) uri(l *leaf, v *fastjson.Value) {
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
