package find

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// TestSpans checks that whatever value matches a clause has a row in its spans, for every
// kind of parameter, modifier and prefix.
func TestSpans(t *testing.T) {
	missed, driven := spansMiss(t, func(b *spanBuilder, c *search.Clause) bool { return b.clause(c) })
	if missed != "" {
		t.Error(missed)
	}
	if driven < 1000 {
		t.Errorf("only %d matches had spans", driven)
	}
}

// TestSpansControl checks that TestSpans sees a span that is too short.
func TestSpansControl(t *testing.T) {
	missed, _ := spansMiss(t, func(b *spanBuilder, c *search.Clause) bool {
		ok := b.clause(c)
		b.spans = b.spans[min(1, len(b.spans)):]
		return ok
	})
	if missed == "" {
		t.Error("a missing span was not found")
	}
}

func spansMiss(t *testing.T, build func(*spanBuilder, *search.Clause) bool) (missed string, driven int) {
	rapid.Check(t, func(rt *rapid.T) {
		for range 300 {
			p, c, have := anyCase(rt)
			if !search.MatchClause(c, &search.Values{ByParam: map[string][]search.Value{p.Code: have}}) {
				continue
			}
			b := spanBuilder{typ: p.ResourceType, definition: p, param: rows.ParamKey(p)}
			if !build(&b, c) {
				continue
			}
			driven++
			found := false
			spans := join(b.spans)
			rows.EachRow(p, have, func(prefix []byte) {
				found = found || within(spans, prefix)
			})
			if !found {
				missed = fmt.Sprintf("%s %d: %+v matches %+v, but has no row in the spans", p.Code, c.Modifier,
					have, c.Values)
			}
		}
	})
	return missed, driven
}

var kinds = []struct {
	typ       search.ParamType
	modifiers []search.Modifier
	value     func(rt *rapid.T, query bool) search.Value
}{
	{search.TypeString, []search.Modifier{search.NoModifier, search.ModExact, search.ModContains, search.ModEqual,
		search.ModEnds}, anyString},
	{search.TypeDate, []search.Modifier{search.NoModifier}, anyDate},
	{search.TypeNumber, []search.Modifier{search.NoModifier}, anyNumber},
	{search.TypeQuantity, []search.Modifier{search.NoModifier}, anyQuantity},
	{search.TypeToken, []search.Modifier{search.NoModifier, search.ModNot, search.ModText, search.ModOfType}, anyToken},
	{search.TypeReference, []search.Modifier{search.NoModifier, search.ModType, search.ModIdentifier,
		search.ModBelow}, anyReference},
	{search.TypeURI, []search.Modifier{search.NoModifier, search.ModBelow, search.ModAbove, search.ModContains},
		anyURI},
}

func anyCase(rt *rapid.T) (*search.Param, *search.Clause, []search.Value) {
	k := rapid.SampledFrom(kinds).Draw(rt, "kind")
	p := &search.Param{ResourceType: "Patient", Code: rapid.SampledFrom([]string{"name", "x"}).Draw(rt, "code"),
		Type: k.typ, URL: "urn:x"}
	if k.typ == search.TypeDate || k.typ == search.TypeNumber { // codes of other kinds mean nothing
		p.Code = "x"
	}
	c := &search.Clause{Param: p, Modifier: rapid.SampledFrom(k.modifiers).Draw(rt, "modifier")}
	var have []search.Value
	for range rapid.IntRange(1, 3).Draw(rt, "values") {
		have = append(have, k.value(rt, false))
	}
	if rapid.IntRange(0, 9).Draw(rt, "missing") == 0 {
		c.Modifier = search.ModMissing
		return p, c, have
	}
	for range rapid.IntRange(1, 2).Draw(rt, "wanted") {
		v := k.value(rt, true)
		if rapid.IntRange(0, 9).Draw(rt, "not equal") == 0 {
			v.Prefix = search.NE
		}
		c.Values = append(c.Values, v)
	}
	return p, c, have
}

func anyString(rt *rapid.T, _ bool) search.Value {
	s := ""
	for range rapid.IntRange(1, 3).Draw(rt, "words") {
		s += rapid.SampledFrom([]string{"Van", " der", "-Berg", "ä", "Müller", " ", "x\x00y",
			"averylongnamethatislongerthanthevalueofarowcanbe", "1"}).Draw(rt, "word")
	}
	if rapid.IntRange(0, 19).Draw(rt, "long") == 0 {
		for i := range 40 {
			s += fmt.Sprint(" w", i)
		}
	}
	return search.Value{Code: s, Text: search.Fold(s)}
}

func anyDate(rt *rapid.T, query bool) search.Value {
	at := rapid.SampledFrom([]int64{-86400000, 0, 1000, 1760000000000, 1760000000001, 1760003600000,
		1760090000000}).Draw(rt, "at")
	v := search.Value{Lo: at, Hi: at + rapid.SampledFrom([]int64{1, 1000, 1001, 60000, 86400000, 86400001,
		31 * 86400000, 366 * 86400000, 1 << 40}).Draw(rt, "length")}
	switch rapid.IntRange(0, 9).Draw(rt, "open") {
	case 0:
		v.Lo = math.MinInt64
	case 1:
		v.Hi = math.MaxInt64
	}
	if query {
		v.Prefix = search.Prefix(rapid.IntRange(0, int(search.AP)).Draw(rt, "prefix"))
	}
	return v
}

func anyNumber(rt *rapid.T, query bool) search.Value {
	x := rapid.SampledFrom([]float64{0, 1, -1, 1.5, 5.4, 98.6, 37, 100, 1e-9, -273.15, 310.15, 1e20,
		-1e20}).Draw(rt, "number")
	v := search.Value{Num: x, NumLo: x - 0.5, NumHi: x + 0.5}
	if query {
		v.Prefix = search.Prefix(rapid.IntRange(0, int(search.AP)).Draw(rt, "prefix"))
	} else if v.Comparator = search.Comparator(rapid.IntRange(0, int(search.Between)).Draw(rt,
		"comparator")); v.Comparator == search.Between {
		v.NumLo, v.NumHi = x, x+rapid.SampledFrom([]float64{0, 1, math.Inf(1)}).Draw(rt, "to")
	} else if rapid.Bool().Draw(rt, "exact") {
		v.Comparator = search.Exact
	}
	return v
}

func anyQuantity(rt *rapid.T, query bool) search.Value {
	v := anyNumber(rt, query)
	v.System = rapid.SampledFrom([]string{"", element.UCUM, "urn:other"}).Draw(rt, "system")
	v.Code = rapid.SampledFrom([]string{"", "mg", "g", "kg", "Cel", "[degF]", "K", "nonsense", "%", "1"}).Draw(rt,
		"unit")
	v.Text = v.Code
	v.HasSystem = query && v.System != ""
	return v
}

func anyToken(rt *rapid.T, query bool) search.Value {
	v := search.Value{System: rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "system"),
		Code: rapid.SampledFrom([]string{"", "x", "y", "x\x00"}).Draw(rt, "code")}
	v.Text = search.Fold(v.Code)
	v.HasSystem = query && rapid.Bool().Draw(rt, "with system")
	v.RefType, v.RefID = rapid.SampledFrom([]string{"", "t"}).Draw(rt, "type system"), "k"
	return v
}

func anyReference(rt *rapid.T, query bool) search.Value {
	switch rapid.IntRange(0, 2).Draw(rt, "kind of reference") {
	case 0:
		return search.Value{HasSystem: !query || rapid.Bool().Draw(rt, "with system"),
			System: rapid.SampledFrom([]string{"", "a"}).Draw(rt, "system"), Code: "x"}
	case 1:
		return search.Value{RefType: "Patient", RefID: rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "id")}
	}
	return search.Value{Code: anyURL(rt)}
}

func anyURI(rt *rapid.T, _ bool) search.Value { return search.Value{Code: anyURL(rt)} }

func anyURL(rt *rapid.T) string {
	s := rapid.SampledFrom([]string{"http://a.org", "urn:a"}).Draw(rt, "host")
	for range rapid.IntRange(0, 3).Draw(rt, "segments") {
		s += rapid.SampledFrom([]string{"/", "/fhir", "base", "|1", ".2"}).Draw(rt, "segment")
	}
	if rapid.IntRange(0, 4).Draw(rt, "long") == 0 {
		s += "/" + fmt.Sprintf("%0210d", 7)
	}
	return s
}
