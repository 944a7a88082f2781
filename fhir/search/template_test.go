package search_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/search"
)

// member generates a member of an Observation, possibly none.
func member(t *rapid.T, name string, options ...string) string {
	s := rapid.SampledFrom(append(options, "")).Draw(t, name)
	for _, leaf := range []struct{ mark, options string }{
		{"<date>", "2026-03-01T08:00:00Z|2026-03-01|2026|2026-03-01T08:00:00.250+01:00|x||2026-03-02T08:00:00Z"},
		{"<id>", "a|b|o-1||a\\u0062|\xff|a b"},
		{"<number>", "62|62.0|-1|1e3|6.2e1|0|1-2"},
	} {
		for strings.Contains(s, leaf.mark) {
			s = strings.Replace(s, leaf.mark, rapid.SampledFrom(strings.Split(leaf.options, "|")).Draw(t, leaf.mark), 1)
		}
	}
	return s
}

// generatedObservation returns a valid or malformed Observation.
func generatedObservation(t *rapid.T) string {
	var out []string
	for _, m := range [][]string{
		{`"id":"<id>"`, `"id":"<id>"`, `"id":"<id>"`, `"id":["<id>","<id>"]`, `"id":"<id>","id":"<id>"`, `"id":7`},
		{`"meta":{"versionId":"<id>","lastUpdated":"<date>"}`, `"meta":{"versionId":"1","lastUpdated":"<date>"}`,
			`"meta": { "lastUpdated":"<date>"}`},
		{`"identifier":[{"system":"urn:s","value":"<id>"}]`, `"identifier":[{"value":"<id>"},{"value":"<id>"}]`},
		{`"status":"final"`, `"status":"final"`, `"status":"amended"`, `"status":null`, `"status":true`},
		{`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]}`,
			`"code":{"coding":[{"system":"urn:v","code":"8867-4"}]}`, `"code":{"text":"<id>"}`},
		{`"subject":{"reference":"Patient/p"}`, `"subject":{"reference":"Patient/<id>"}`,
			`"subject":{"identifier":{"value":"<id>"}}`},
		{`"effectiveDateTime":"<date>"`, `"effectiveDateTime":"<date>"`,
			`"effectivePeriod":{"start":"<date>","end":"<date>"}`, `"effectivePeriod":{"start":"<date>"}`,
			`"effectiveDateTime":"<date>","effectivePeriod":{"start":"<date>","end":"<date>"}`,
			`"effectiveTiming":{"event":["<date>"]}`, `"effectivePeriod":[{"start":"<date>","end":"<date>"}]`},
		{`"valueQuantity":{"value":<number>,"code":"/min"}`, `"valueQuantity":{"value":<number>,"code":"/min"}`,
			`"valueQuantity":{"value":"<number>"}`, `"valueQuantity":[{"value":<number>},{"value":<number>}]`},
		{`"component":[{"valueQuantity":{"value":<number>}}]`, `"component":[]`,
			`"component":[{"valueQuantity":{"value":1}}]`},
	} {
		if s := member(t, m[0][:5], m...); s != "" {
			out = append(out, s)
		}
	}
	return `{"resourceType":"Observation",` + strings.Join(out, ",") + `}` +
		rapid.SampledFrom([]string{"", "", "", " ", "x"}).Draw(t, "tail")
}

var templateQueries = []string{
	"code=8867-4", "code=http://loinc.org|8867-4", "code:not=8867-4", "code=|8867-4", "patient=p",
	"subject=Patient/p", "subject:identifier=a",
	"date=2026-03-01", "date=ge2026-03-01T08:00:00Z", "date=lt2026-03-02", "date:missing=true", "date=ne2026-03-01",
	"value-quantity=62", "value-quantity=gt0||/min",
	"value-quantity:missing=true", "combo-value-quantity=62", "component-value-quantity=lt100", "status=final",
	"status:not=final", "_id=a", "_id=b,ab", "_id:not=a",
	"_lastUpdated=gt2026-03-01", "identifier=a", "identifier=urn:s|b", "identifier:missing=false",
}

func checkMatcher(t interface {
	Fatalf(string, ...any)
}, raw string, docs []string) (yes, no int) {
	q, err := parse("Observation", raw, search.ParseOptions{})
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	sel, err := search.Select(q)
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	m := search.NewMatcher(q, sel)
	for _, d := range docs {
		v, err := search.Extract("Observation", []byte(d))
		want := err == nil && search.Match(q, v)
		if got := m.Match([]byte(d)); got != want {
			t.Fatalf("%s on %s: the Matcher says %v, Match %v; after %q", raw, d, got, want, docs)
		}
		if want {
			yes++
		} else {
			no++
		}
	}
	return yes, no
}

// TestMatcher tests that a Matcher agrees with Match, whatever it has cached.
func TestMatcher(t *testing.T) {
	yes, no := 0, 0
	property := func(t *rapid.T) {
		docs := rapid.SliceOfN(rapid.Custom(generatedObservation), 1, 3).Draw(t, "shapes")
		for range 12 { // mostly with the same templates and other leaves
			d := docs[rapid.IntRange(0, len(docs)-1).Draw(t, "like")]
			for _, old := range []string{"2026-03-01T08:00:00Z", `"a"`, "62", "2026-03-01"} {
				if rapid.Bool().Draw(t, "other") {
					d = strings.Replace(d, old,
						map[bool]string{true: `"b"`,
							false: rapid.SampledFrom([]string{"2027", "61", "-", "1e", `2026\u0030`}).Draw(t,
								"leaf")}[old == `"a"`], 1)
				}
			}
			docs = append(docs, d)
		}
		raw := strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(templateQueries), 1, 3, rapid.ID).Draw(t,
			"query"), "&")
		y, n := checkMatcher(t, raw, docs)
		yes, no = yes+y, no+n
	}
	rapid.Check(t, property)
	for round := 0; yes < 100 || no < 100; round++ { // one round may not have enough of both results
		if round == 50 {
			t.Fatalf("%d matches, %d others: the test shows nothing", yes, no)
		}
		rapid.Check(t, property)
	}
}

// TestTemplate tests that resources with the same text between the slots match a
// template.
func TestTemplate(t *testing.T) {
	const a = `{"resourceType":"Observation","id":"a","meta":{"versionId":"1","lastUpdated":"2026-10-01T08:00:00.000Z"},"identifier":[{"value":"a"}],"status":"final","effectiveDateTime":"2026-10-01","valueQuantity":{"value":62}}`
	s := search.TemplateOf([]byte(a))
	if s == nil || s.Only(search.SlotValue) < 0 {
		t.Fatal("no template")
	}
	b := strings.NewReplacer(`"a"`, `"bcd"`, "62", "58.5", "08:00:00.000", "09:00:00.123", `"1"`, `"27"`,
		`"2026-10-01"`, `"2026-10-02T08:00:00+02:00"`).Replace(a)
	leaves, ok := s.Read([]byte(b), nil)
	if !ok || string(leaves[s.Only(search.SlotValue)]) != "58.5" ||
		string(leaves[s.Only(search.SlotEffective)]) != "2026-10-02T08:00:00+02:00" ||
		string(leaves[s.Only(search.SlotID)]) != "bcd" {
		t.Fatalf("%v %q", ok, leaves)
	}
	for _, other := range []string{strings.Replace(a, "final", "amended", 1),
		strings.Replace(a, `"a"`, `"\u0061"`, 1), strings.Replace(a, "62", `"62"`, 1), a + " ", a[:len(a)-1], ""} {
		if _, ok := s.Read([]byte(other), nil); ok {
			t.Errorf("%s matches the template", other)
		}
	}
	for _, none := range []string{"", "{", `{"a":}`, `{"a":1]`, `{"a":"x}`, strings.Repeat("[", 100), `{"a":tru}`,
		`{"a" 1}`} {
		if search.TemplateOf([]byte(none)) != nil {
			t.Errorf("%s has a template", none)
		}
	}
}

func FuzzMatcher(f *testing.F) {
	f.Add(`{"id":"a","effectiveDateTime":"2026"}`, `{"id":"b","effectiveDateTime":"2027"}`, 7)
	f.Add(`{"valueQuantity":{"value":62}}`, `{"valueQuantity":{"value":6e2}}`, 12)
	f.Add(observation, strings.Replace(observation, "o1", "o2", 1), 0)
	f.Fuzz(func(t *testing.T, a, b string, query int) {
		checkMatcher(t, templateQueries[uint(query)%uint(len(templateQueries))], []string{a, b, a})
	})
}

// TestMatcherParsesOnce tests that resources with a cached template are not
// parsed.
func TestMatcherParsesOnce(t *testing.T) {
	q, err := parse("Observation", "patient=p&code=http://loinc.org|8867-4&date=ge2026-01-01&value-quantity=gt1&_id:not=x", search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sel, err := search.Select(q)
	if err != nil {
		t.Fatal(err)
	}
	m := search.NewMatcher(q, sel)
	doc := []byte(`{"resourceType":"Observation","id":"a","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p"},"effectiveDateTime":"2026-10-01T08:00:00Z","valueQuantity":{"value":62}}`)
	ok := true
	if n := testing.AllocsPerRun(100, func() { ok = ok && m.Match(doc) }); n > 0 || !ok {
		t.Fatalf("%v allocations, matches: %v", n, ok)
	}
}
