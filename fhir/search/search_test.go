package search_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/internal/fixtures"
	"pulsegate/fhir/search"
)

const observation = `{"resourceType":"Observation","id":"o1","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/heartrate|4.0.1"],"tag":[{"system":"urn:t","code":"x"}]},
"identifier":[{"system":"urn:ids","value":"abc"}],"status":"final",
"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],
"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"},{"system":"urn:v","code":"hr"}],"text":"Puls"},
"subject":{"reference":"Patient/p1"},"device":{"reference":"Device/d1/_history/2"},
"performer":[{"identifier":{"system":"urn:npi","value":"7"}},{"reference":"https://fhir.test/base/Practitioner/a"}],
"effectivePeriod":{"start":"2026-03-01T08:00:00+01:00","end":"2026-03-01T08:01:00+01:00"},
"valueQuantity":{"value":62.0,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"},
"component":[{"code":{"text":"only text"},"valueQuantity":{"value":5,"code":"mg","unit":"milligram"}}]}`

const patient = `{"resourceType":"Patient","id":"p1","meta":{},"active":true,"gender":"female","birthDate":"1980-02",
"name":[{"family":"Müller-Ångström","given":["Zoë","Anne  Marie"]}],"telecom":[{"system":"phone","value":"+1 555"},{"system":"email","value":"z@x.test"}],
"address":[{"line":["1 Main St"],"city":"Zürich","postalCode":"8000"}],"deceasedDateTime":"2020-05-05"}`

func ms(t *testing.T, s string) int64 {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v.UnixMilli()
}

func TestExtract(t *testing.T) {
	v, err := search.Extract("Observation", []byte(observation))
	if err != nil {
		t.Fatal(err)
	}
	if v.Patient != "p1" || v.Code != "http://loinc.org|8867-4" ||
		!reflect.DeepEqual(v.Categories, []string{"vital-signs"}) {
		t.Errorf("got %q %q %v", v.Patient, v.Code, v.Categories)
	}
	if v.Start != ms(t, "2026-03-01T07:00:00Z") || v.End != ms(t, "2026-03-01T07:01:01Z") {
		t.Errorf("got %d %d", v.Start, v.End)
	}
	if p, err := search.Extract("Patient", []byte(patient)); err != nil || p.Patient != "p1" {
		t.Errorf("got %v %v", p, err)
	}
	if _, err := search.Extract("Observation", []byte("[")); fhir.KindOf(err) != fhir.Invalid {
		t.Errorf("got %v", err)
	}
	open, err := search.Extract("Observation", []byte(`{"effectivePeriod":{"start":"2026"}}`))
	if err != nil || open.End != math.MaxInt64 {
		t.Errorf("open period: %+v %v", open, err)
	}
	timing, err := search.Extract("Observation",
		[]byte(`{"effectiveTiming":{"event":["2026-03-02","2026-03-01T00:00:00Z"]}}`))
	if err != nil || timing.Start != ms(t, "2026-03-01T00:00:00Z") || timing.End != ms(t, "2026-03-03T00:00:00Z") {
		t.Errorf("timing: %+v %v", timing, err)
	}
}

// TestMatch has rows of a type, a query, and whether the sample of the type
// matches.
func TestMatch(t *testing.T) {
	for _, c := range []struct {
		typ, query string
		want       bool
	}{
		{"Observation", "_id=o1", true}, {"Observation", "_id=o2,o1", true}, {"Observation", "_id=O1", false},
		{"Observation", "patient=p1", true}, {"Observation", "patient=Patient/p1", true},
		{"Observation", "patient=p2", false},
		{"Observation", "patient=https://fhir.test/base/Patient/p1", true}, {"Observation", "subject:Patient=p1", true},
		{"Observation", "subject=p1", true}, {"Observation", "subject:Device=p1", false},
		{"Observation", "device=d1", true},
		{"Observation", "performer=Practitioner/a", true}, {"Observation", "performer:identifier=urn:npi|7", true},
		{"Observation", "performer:identifier=8", false},
		{"Observation", "code=8867-4", true}, {"Observation", "code=http://loinc.org|8867-4", true},
		{"Observation", "code=http://loinc.org|", true},
		{"Observation", "code=|8867-4", false}, {"Observation", "code=urn:v|8867-4", false},
		{"Observation", "code=x,hr", true},
		{"Observation", "code:not=hr", false}, {"Observation", "code:not=x", true},
		{"Observation", "code:text=HEART", true}, {"Observation", "code:text=puls", true},
		{"Observation", "code:text=rate", false},
		{"Observation", "method:missing=true", true}, {"Observation", "code:missing=true", false},
		{"Observation", "method:not=x", true},
		{"Observation", "component-code:missing=false", true}, {"Observation", "component-code=x", false},
		{"Observation", "status=final&category=vital-signs", true},
		{"Observation", "status=final&category=activity", false},
		{"Observation", "status=|final", true}, {"Observation", "_tag=urn:t|x", true},
		{"Observation", "_profile=http://hl7.org/fhir/StructureDefinition/heartrate", true},
		{"Observation", "date=2026-03-01", true}, {"Observation", "date=2026", true},
		{"Observation", "date=ge2026-03-01T08:00:00%2B01:00", true},
		{"Observation", "date=2026-03-01T07:00:30Z", false}, {"Observation", "date=gt2026-03-01T07:00:30Z", true},
		{"Observation", "date=lt2026-03-01T07:00:30Z", true},
		{"Observation", "date=sa2026-02-28", true}, {"Observation", "date=eb2026-03-02", true},
		{"Observation", "date=ne2026-03-01", false}, {"Observation", "date=ap2026-03-01T07:00:30Z", true},
		{"Observation", "date=gt2026-03-01", false}, {"Observation", "date=ge2026-02&date=lt2026-04", true},
		{"Observation", "value-quantity=62", true}, {"Observation", "value-quantity=62.4", false},
		{"Observation", "value-quantity=62||beats/minute", true},
		{"Observation", "value-quantity=gt61.9|http://unitsofmeasure.org|/min", true},
		{"Observation", "value-quantity=62|urn:x|/min", false}, {"Observation", "value-quantity=ap60", true},
		{"Observation", "value-quantity=ne62", false}, {"Observation", "value-quantity=le62.0", true},
		{"Observation", "value-quantity=6.2e1", true},
		{"Observation", "combo-value-quantity=5||mg", true}, {"Observation", "identifier=urn:ids|abc", true},
		{"Patient", "name=muller", true}, {"Patient", "name=MÜLLER-ang", true}, {"Patient", "name=ngstr", false},
		{"Patient", "name:contains=angstrom", true},
		{"Patient", "family:exact=Müller-Ångström", true}, {"Patient", "family:exact=müller-Ångström", false},
		{"Patient", "given=zoe", true}, {"Patient", "given=anne+marie", true},
		{"Patient", "phone=%2B1+555", true}, {"Patient", "email=%2B1+555", false},
		{"Patient", "telecom=z@x.test", true},
		{"Patient", "address=zurich", true}, {"Patient", "address-city=ZURICH", true},
		{"Patient", "gender=female,male", true}, {"Patient", "active=true", true},
		{"Patient", "birthdate=1980", true}, {"Patient", "birthdate=1980-02-03", false},
		{"Patient", "birthdate=ge1980-02-03", true}, {"Patient", "deceased=true", true},
		{"Patient", "death-date=2020-05-05", true},
	} {
		sample := map[string]string{"Observation": observation, "Patient": patient}[c.typ]
		v, err := search.Extractor{Base: "https://fhir.test/base"}.Extract(c.typ, []byte(sample))
		if err != nil {
			t.Fatal(err)
		}
		q, err := parse(c.typ, c.query, search.ParseOptions{Base: "https://fhir.test/base"})
		if err != nil {
			t.Errorf("%s?%s: %v", c.typ, c.query, err)
			continue
		}
		if got := search.Match(q, v); got != c.want {
			t.Errorf("%s?%s: got %v", c.typ, c.query, got)
		}
	}
}

func parse(typ, query string, o search.ParseOptions) (*search.Query, error) {
	pairs, err := search.Pairs(query)
	if err != nil {
		return nil, err
	}
	return search.Parse(typ, pairs, o)
}

func TestParse(t *testing.T) {
	q, err := parse("Observation", "patient=p1&code=http://loinc.org%7C8867-4&date=ge2026&_sort=-date,code&_count=5000&_include=Observation:subject&_total=accurate&_elements=code,value&__page=abc", search.ParseOptions{MaxCount: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if q.Patient != "p1" || q.Count != 1000 || q.Page != "abc" || q.After != "" ||
		q.Total != search.TotalAccurate || len(q.Clauses) != 3 ||
		!reflect.DeepEqual(q.Sort, []search.SortKey{{Param: "date", Desc: true}, {Param: "code"}}) ||
		!reflect.DeepEqual(q.Includes, []search.Include{{Source: "Observation", Param: "subject"}}) {
		t.Errorf("got %+v", q)
	}
	want := "patient=p1&code=http://loinc.org%7C8867-4&date=ge2026&_sort=-date,code&_count=5000&_include=Observation:subject&_total=accurate&_elements=code,value"
	if got := search.SelfQuery(q); got != want {
		t.Errorf("self link\n got %s\nwant %s", got, want)
	}
	for query, patient := range map[string]string{"subject=Patient/x": "x", "patient=a,b": "", "subject=x": "",
		"patient:missing=false": "", "subject:Patient=x": "x", "code=a": ""} {
		if q, err := parse("Observation", query, search.ParseOptions{}); err != nil || q.Patient != patient {
			t.Errorf("%s: got %+v %v", query, q, err)
		}
	}
	q, err = parse("Patient", `family=a\,b,c\\d`, search.ParseOptions{})
	if err != nil || len(q.Clauses[0].Values) != 2 || q.Clauses[0].Values[0].Code != "a,b" ||
		q.Clauses[0].Values[1].Code != `c\d` {
		t.Errorf("escapes: %+v %v", q, err)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ query, code, text string }{
		{"code=canary\xff\xfe", "invalid", "the value of parameter code is not valid UTF-8"},
		{"nonsense=canary", "invalid", "parameter 1, nonsense, is not a search parameter of Observation; use one of _id, _lastUpdated"},
		{"code:above=canary", "invalid", "use one of :missing, :not, :text"},
		{"patient.identifier=canary", "not-supported", "chained"},
		{"subject:Patient.name=canary", "not-supported", "chained"},
		{"_has:Observation:patient:code=canary", "not-supported", "_has"},
		{"_revinclude=Provenance:target", "not-supported", "_revinclude"},
		{"_text=canary", "not-supported", "_text"},
		{"date=canary", "invalid", "value of date"}, {"date=2026-02-30", "invalid", "value of date"},
		{"value-quantity=canary", "invalid", "value of value-quantity"},
		{"_count=canary", "invalid", "_count"}, {"_count=1&_count=2", "invalid", "once"},
		{"_sort=canary!", "invalid", "_sort"}, {"_summary=canary", "invalid", "_summary"},
		{"code=a|b|c", "invalid", "value of code"}, {"patient=a b", "invalid", "value of patient"},
		{"_include=Observation:canary", "not-supported", "_include"},
		{"canary canary=1", "invalid", "(not a valid name)"},
		{"method:missing=canary", "invalid", "true or false"},
	} {
		_, err := parse("Observation", strings.ReplaceAll(c.query, " ", "+"), search.ParseOptions{})
		var e *fhir.Error
		if !errors.As(err, &e) || e.Kind != fhir.Invalid || e.Issues[0].Code != c.code ||
			!strings.Contains(e.Issues[0].Diagnostics, c.text) || strings.Contains(e.Error(), "canary canary") {
			t.Errorf("%s: got %v", c.query, err)
		}
	}
	q, err := parse("Observation", "nonsense=1&code=a&_has:X:y:z=1&patient.name=1", search.ParseOptions{Lenient: true})
	if err != nil || len(q.Ignored) != 3 || search.SelfQuery(q) != "code=a" {
		t.Errorf("lenient: %+v %v", q, err)
	}
}

// TestDatePrefixes compares Match with R4's definitions, evaluated for sets of
// points on a short time line.
func TestDatePrefixes(t *testing.T) {
	p, _ := search.Lookup("Observation", "date")
	rapid.Check(t, func(t *rapid.T) {
		span := func(name string) (lo, hi int64) {
			lo = rapid.Int64Range(0, 12).Draw(t, name+"Lo")
			return lo, rapid.Int64Range(lo+1, 14).Draw(t, name+"Hi")
		}
		wl, wh := span("want")
		hl, hh := span("have")
		pre := search.Prefix(rapid.IntRange(int(search.EQ), int(search.AP)).Draw(t, "prefix"))
		contains, above, below, allAbove, allBelow, overlap := true, false, false, true, true, false
		for m := int64(-1); m < 16; m++ {
			if m < hl || m >= hh {
				continue
			}
			in := m >= wl && m < wh
			contains = contains && in
			overlap = overlap || in
			above = above || m >= wh
			below = below || m < wl
			allAbove = allAbove && m >= wh
			allBelow = allBelow && m < wl
		}
		want := map[search.Prefix]bool{search.EQ: contains, search.NE: !contains, search.GT: above,
			search.LT: below, search.GE: above || contains,
			search.LE: below || contains, search.SA: allAbove, search.EB: allBelow, search.AP: overlap}[pre]
		c := &search.Clause{Param: p, Values: []search.Value{{Lo: wl, Hi: wh, Prefix: pre}}}
		v := &search.Values{ByParam: map[string][]search.Value{"date": {{Lo: hl, Hi: hh}}}}
		if got := search.MatchClause(c, v); got != want {
			t.Fatalf("prefix %d: have [%d,%d) want [%d,%d): got %v", pre, hl, hh, wl, wh, got)
		}
	})
}

// TestDateInterval compares DateInterval with the time package for formats that
// both support.
func TestDateInterval(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMilli(rapid.Int64Range(-2e12, 4e12).Draw(t, "ms")).In(time.FixedZone("",
			rapid.IntRange(-56, 56).Draw(t, "quarters")*900))
		for layout, width := range map[string]int64{"2006-01-02T15:04:05.000Z07:00": 1,
			"2006-01-02T15:04:05Z07:00": 1000, "2006-01-02T15:04Z07:00": 60000} {
			s := at.Format(layout)
			back, err := time.Parse(layout, s)
			if err != nil {
				t.Fatal(err)
			}
			if lo, hi, ok := search.DateInterval(s); !ok || lo != back.UnixMilli() || hi != lo+width {
				t.Fatalf("%s: got [%d,%d) %v", s, lo, hi, ok)
			}
		}
		for layout, next := range map[string]func(time.Time) time.Time{
			"2006":       func(t time.Time) time.Time { return t.AddDate(1, 0, 0) },
			"2006-01":    func(t time.Time) time.Time { return t.AddDate(0, 1, 0) },
			"2006-01-02": func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }} {
			s := at.Format(layout)
			back, err := time.Parse(layout, s)
			if err != nil {
				t.Fatal(err)
			}
			if lo, hi, ok := search.DateInterval(s); !ok || lo != back.UnixMilli() || hi != next(back).UnixMilli() {
				t.Fatalf("%s: got [%d,%d) %v", s, lo, hi, ok)
			}
		}
	})
}

func TestSort(t *testing.T) {
	at := func(lo int64) *search.Values {
		return &search.Values{ByParam: map[string][]search.Value{"date": {{Lo: lo, Hi: lo + 1}}}}
	}
	none := &search.Values{ByParam: map[string][]search.Value{}}
	asc, desc := []search.SortKey{{Param: "date"}}, []search.SortKey{{Param: "date", Desc: true}}
	for _, c := range []struct {
		sort []search.SortKey
		a, b *search.Values
		want int
	}{{asc, at(1), at(2), -1}, {desc, at(1), at(2), 1}, {asc, at(-5), at(-9), 1}, {asc, none, at(1), 1},
		{desc, none, at(1), 1}, {asc, none, none, 0}} {
		if got := search.CompareValues("Observation", c.sort, c.a, c.b); got != c.want {
			t.Errorf("got %d, want %d", got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"patient=p1&date=ge2026-01-01T00:00:00%2B01:00", "value-quantity=5.4||mg",
		"code=a\\,b|c", "_sort=-date&_count=9", "subject:Patient=1", "_include=Observation:subject:Patient",
		"%zz=1", "date=ap2020"} {
		f.Add("Observation", s)
	}
	f.Fuzz(func(t *testing.T, typ, raw string) {
		q, err := parse(typ, raw, search.ParseOptions{Base: "http://x/fhir",
			Now: func() time.Time { return time.Unix(1e9, 0) }})
		if err != nil {
			if fhir.KindOf(err) == fhir.Internal {
				t.Errorf("internal error: %v", err)
			}
			return
		}
		again, err := parse(typ, search.SelfQuery(q),
			search.ParseOptions{Base: "http://x/fhir", Now: func() time.Time { return time.Unix(1e9, 0) }})
		if err != nil || !reflect.DeepEqual(again.Clauses, q.Clauses) {
			t.Errorf("self link %q does not mean the same: %v", search.SelfQuery(q), err)
		}
		if v, err := search.Extract(typ, []byte(observation)); err == nil {
			search.Match(q, v)
		}
	})
}

func FuzzExtract(f *testing.F) {
	f.Add([]byte(observation))
	f.Add([]byte(patient))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, typ := range fhir.Types {
			if _, err := search.Extract(typ, body); err != nil && fhir.KindOf(err) != fhir.Invalid {
				t.Error(err)
			}
		}
	})
}

// TestExamples tests that each parameter of each example matches the example when
// it is searched for by its own value.
func TestExamples(t *testing.T) {
	root := fixtures.Dir(t, "r4")
	n := 0
	try := func(name string, body []byte) {
		var head struct{ ResourceType, ID string }
		if json.Unmarshal(body, &head) != nil || !fhir.KnownType(head.ResourceType) {
			return
		}
		n++
		v, err := search.Extract(head.ResourceType, body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		for code, have := range v.ByParam {
			p, _ := search.Stored(head.ResourceType, code)
			for _, x := range have {
				if x.Unvalued || x.Comparator != search.Exact || len(p.Components) > 0 &&
					p.ResourceType != "Observation" {
					continue // only :missing depends on it, it stands for many values, or it is a part
				}
				m := search.NoModifier
				if p.Type == search.TypeReference && x.HasSystem {
					m = search.ModIdentifier
				}
				if p.Type == search.TypeToken && x.Code == "" {
					if x.HasSystem = x.System != ""; !x.HasSystem {
						m = search.ModText
					}
				}
				if !search.MatchClause(&search.Clause{Param: p, Modifier: m, Values: []search.Value{x}}, v) {
					t.Errorf("%s: %s does not find its own value", name, code)
				}
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "hl7-test-cases", "examples", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		try(filepath.Base(f), body)
	}
	untar(t, filepath.Join(root, "us_core_700.tgz"), try)
	if n < 20 {
		t.Errorf("only %d examples were tried", n)
	}
}

func untar(t *testing.T, name string, fn func(string, []byte)) { archived(t, name, "/example/", fn) }

// archived calls fn for the files of an archive whose names contain part.
func archived(t *testing.T, name, part string, fn func(string, []byte)) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.Name, part) {
			body, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			fn(h.Name, body)
		}
	}
}

func BenchmarkExtract(b *testing.B) {
	b.ReportAllocs()
	body := []byte(observation)
	for b.Loop() {
		if _, err := search.Extract("Observation", body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	v, err := search.Extract("Observation", []byte(observation))
	if err != nil {
		b.Fatal(err)
	}
	q, err := parse("Observation", "patient=p1&code=http://loinc.org|8867-4&date=ge2026", search.ParseOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		search.Match(q, v)
	}
}
