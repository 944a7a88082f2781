package search_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/search"
)

// finds reports whether a search matches a resource. It compares Match with a
// Matcher that has cached the resource's template.
func finds(t *testing.T, typ, query, body string) bool {
	t.Helper()
	q, err := parse(typ, query, search.ParseOptions{Base: "http://own.test/fhir"})
	if err != nil {
		t.Fatalf("%s?%s: %v", typ, query, err)
	}
	v, err := search.Extract(typ, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	sel, err := search.Select(q)
	if err != nil {
		t.Fatal(err)
	}
	got := search.Match(q, v)
	m := search.NewMatcher(q, sel)
	for range 3 {
		if m.Match([]byte(body)) != got {
			t.Errorf("%s?%s: Match says %v, Matcher the contrary, of %s", typ, query, got, body)
		}
	}
	return got
}

func check(t *testing.T, typ, body string, found, not []string) {
	t.Helper()
	for _, q := range found {
		if !finds(t, typ, q, body) {
			t.Errorf("%s?%s does not find %s", typ, q, body)
		}
	}
	for _, q := range not {
		if finds(t, typ, q, body) {
			t.Errorf("%s?%s finds %s", typ, q, body)
		}
	}
}

func TestStringsAreForgiving(t *testing.T) {
	for body, c := range map[string]struct{ found, not []string }{
		`{"resourceType":"Patient","name":[{"family":"O'Brien","given":["Mary-Ann"]}]}`: {
			[]string{"family=obrien", "family=O'Brien", "family=O%E2%80%99Brien", "family=OBR", "given=maryann",
				"given=mary ann", "given=Mary-A", "given=ann", "name=obrien", "family:exact=O'Brien",
				"family:contains=brie"},
			[]string{"family=brien", "family:exact=OBrien", "given=nn"}},
		`{"resourceType":"Patient","name":[{"family":"Carreño Quiñones"}]}`: {
			[]string{"family=quinones", "family=Qui%C3%B1", "family=carreno quinones", "family=carrenoq",
				"family=Carre%C3%B1o-Q", "name=quinones"},
			[]string{"family=nones", "family=quinones carreno", "given=quinones"}},
		`{"resourceType":"Patient","name":[{"family":"Müßig"}],"address":[{"line":["Lange Straße 5"],"city":"Ærøskøbing"}]}`: {
			[]string{"family=M%C3%BCssig", "family=mussig", "family=MUSSIG", "address=lange strasse",
				"address=Lange Stra%C3%9Fe", "address-city=aeroskobing", "address-city=%C3%A6r%C3%B8"},
			[]string{"address=strasse", "family=muessig"}},
		`{"resourceType":"Patient","name":[{"family":"Łukasiewicz-Đorđević"}]}`: {
			[]string{"family=lukasiewicz", "family=dordevic", "family=lukasiewicz dordevic",
				"family=lukasiewiczdordevic"}, nil},
		`{"resourceType":"Patient","name":[{"family":"St. John"}]}`: {
			[]string{"family=st john", "family=stjohn", "family=St.John", "family=john", "family=st. j"},
			[]string{"family=ohn"}},
		`{"resourceType":"Organization","name":"Heart & Book (Zürich)"}`: {
			[]string{"name=heart book", "name=Heart%26Book", "name=zurich", "name=book"}, []string{"name=eart"}},
		`{"resourceType":"Patient","name":[{"family":"李"}]}`: {[]string{"family=%E6%9D%8E"},
			[]string{"family=-", "family='"}},
	} {
		typ := "Patient"
		if strings.Contains(body, "Organization") {
			typ = "Organization"
		}
		check(t, typ, body, c.found, c.not)
	}
}

// TestFoldIsIdempotent tests that a folded string folds to itself and has no
// punctuation.
func TestFoldIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		f := search.Fold(s)
		if search.Fold(f) != f {
			t.Fatalf("Fold(%q) is %q, and folded again %q", s, f, search.Fold(f))
		}
		if strings.ContainsAny(f, "'-.,;:/()") || strings.Contains(f, "  ") || strings.TrimSpace(f) != f {
			t.Fatalf("Fold(%q) is %q", s, f)
		}
	})
}

func TestTokensInAnyCase(t *testing.T) {
	check(t, "Patient", `{"resourceType":"Patient","id":"Ab1","gender":"female","active":true,"identifier":[{"system":"http://x.test","value":"Abc"}],"telecom":[{"system":"email","value":"ada@x.test"}]}`,
		[]string{"gender=FEMALE", "gender=Female", "active=TRUE", "identifier=Abc", "email=Ada@X.test", "_id=Ab1",
			"gender:not=MALE"},
		[]string{"identifier=abc", "identifier=ABC", "identifier=http://x.test|abc", "_id=ab1", "gender:not=FEMALE"})
	check(t, "Observation", `{"resourceType":"Observation","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://unitsofmeasure.org","code":"mm"}]}}`,
		[]string{"status=FINAL", "category=Vital-Signs",
			"category=http://terminology.hl7.org/CodeSystem/observation-category|VITAL-SIGNS",
			"code=http://unitsofmeasure.org|mm"},
		[]string{"code=http://unitsofmeasure.org|MM"})
	check(t, "AuditEvent", `{"resourceType":"AuditEvent","action":"R"}`, []string{"action=r", "action=R"},
		[]string{"action=u"})
}

// TestComparators compares quantities that have a comparator with R4's rules for
// ranges, evaluated for each number on a short line.
func TestComparators(t *testing.T) {
	p, _ := search.Lookup("Observation", "value-quantity")
	in := map[search.Comparator]func(n, bound float64) bool{
		search.Less:           func(n, b float64) bool { return n < b },
		search.LessOrEqual:    func(n, b float64) bool { return n <= b },
		search.GreaterOrEqual: func(n, b float64) bool { return n >= b },
		search.Greater:        func(n, b float64) bool { return n > b },
	}
	for comparator, member := range in {
		for bound := range 7 {
			for wanted := range 7 {
				above, below, at, allAbove, allBelow := false, false, false, true, true
				for n := -2.0; n <= 8; n += 0.25 { // nothing changes beyond the ends
					if !member(n, float64(bound)) {
						continue
					}
					w := float64(wanted)
					above, below, at = above || n > w, below || n < w, at || n == w
					allAbove, allBelow = allAbove && n > w, allBelow && n < w
				}
				for prefix, want := range map[search.Prefix]bool{search.EQ: false, search.NE: true,
					search.GT: above, search.LT: below,
					search.GE: above || at, search.LE: below || at, search.SA: allAbove, search.EB: allBelow} {
					c := &search.Clause{Param: p,
						Values: []search.Value{{Num: float64(wanted), NumLo: float64(wanted) - 0.5,
							NumHi: float64(wanted) + 0.5, Prefix: prefix}}}
					v := &search.Values{ByParam: map[string][]search.Value{"value-quantity": {{Num: float64(bound),
						Comparator: comparator}}}}
					if got := search.MatchClause(c, v); got != want {
						t.Errorf("comparator %d, bound %d, prefix %d, wanted %d: got %v", comparator, bound, prefix,
							wanted, got)
					}
				}
			}
		}
	}
	check(t, "Observation", `{"resourceType":"Observation","valueQuantity":{"value":5,"comparator":"<","system":"http://unitsofmeasure.org","code":"mg"}}`,
		[]string{"value-quantity=lt5", "value-quantity=gt3", "value-quantity=lt5|http://unitsofmeasure.org|mg",
			"combo-value-quantity=le4"},
		[]string{"value-quantity=ge5", "value-quantity=5", "value-quantity=gt5",
			"value-quantity=lt5|http://unitsofmeasure.org|s"})
}

func TestMissing(t *testing.T) {
	for body, c := range map[string]struct{ found, not []string }{
		`{"resourceType":"Observation","subject":{"display":"Ada"}}`: {
			[]string{"subject:missing=false", "patient:missing=true", "device:missing=true"},
			[]string{"subject:missing=true", "subject=Ada", "subject:identifier=Ada"}},
		`{"resourceType":"Observation","contained":[{"resourceType":"Patient","id":"x"}],"subject":{"reference":"#x"}}`: {
			[]string{"subject:missing=false", "patient:missing=false"},
			[]string{"subject:missing=true", "patient:missing=true", "patient=x", "subject=Patient/x"}},
		`{"resourceType":"Observation","contained":[{"resourceType":"Group","id":"x"}],"subject":{"reference":"#x"}}`: {
			[]string{"subject:missing=false", "patient:missing=true"}, []string{"subject:missing=true"}},
		`{"resourceType":"Observation","subject":{"identifier":{"system":"http://x.test","value":"1"}}}`: {
			[]string{"subject:missing=false", "subject:identifier=http://x.test|1"}, []string{"subject:missing=true"}},
		`{"resourceType":"Observation","subject":{"identifier":{"type":{"text":"t"}}}}`: {[]string{"subject:missing=false"}, []string{"subject:missing=true"}},
		`{"resourceType":"Observation","valueSampledData":{"origin":{"value":0},"period":10,"dimensions":1,"data":"1 2"}}`: {
			[]string{"combo-value-quantity:missing=false", "value-quantity:missing=false", "value-quantity=lt100"},
			[]string{"combo-value-quantity:missing=true", "value-quantity=0"}},
		`{"resourceType":"Observation","component":[{"valueSampledData":{"origin":{"value":0},"period":10,"dimensions":1,"data":"1 2"}}]}`: {
			[]string{"component-value-quantity:missing=false", "combo-value-quantity:missing=false",
				"value-quantity:missing=true"}, []string{"component-value-quantity:missing=true"}},
		`{"resourceType":"Observation"}`: {[]string{"subject:missing=true", "value-quantity:missing=true"},
			[]string{"subject:missing=false"}},
	} {
		check(t, "Observation", body, c.found, c.not)
	}
}

// TestUntypedReference tests that an id without a type matches references to
// types that this server does not store.
func TestUntypedReference(t *testing.T) {
	check(t, "Provenance", `{"resourceType":"Provenance","target":[{"reference":"Procedure/example"}]}`,
		[]string{"target=example", "target=Procedure/example", "target:Procedure=example"},
		[]string{"target=other", "target=Patient/example"})
	if _, err := parse("Provenance", "target="+strings.TrimSuffix(strings.Repeat("a,", 17), ","),
		search.ParseOptions{}); err == nil {
		t.Error("17 ids without a type were taken")
	}
}

// TestEmptyParameters tests that empty parameters are ignored (R4 search.html).
func TestEmptyParameters(t *testing.T) {
	for _, query := range []string{"name=", "_count=", "_sort=", "_summary=", "_elements=", "birthdate=",
		"name:exact=", "gender:missing=", "_include=", "unknown=", "name", "name=,", "family=,,"} {
		q, err := parse("Patient", query+"&gender=male", search.ParseOptions{})
		if err != nil || len(q.Clauses) != 1 || search.SelfQuery(q) != "gender=male" {
			t.Errorf("%s: %+v %v", query, q, err)
		}
	}
	if q, err := parse("Patient", "gender=male,,female", search.ParseOptions{}); err != nil ||
		len(q.Clauses[0].Values) != 4 {
		t.Errorf("empty value in a list: %+v %v", q, err)
	}
}

// TestSubMillisecondDates compares dates with digits beyond the millisecond with
// the rules for intervals, on a line of tenths of microseconds. It also tests
// that every match is a match in milliseconds, by which a store skips resources.
func TestSubMillisecondDates(t *testing.T) {
	p, _ := search.Lookup("Observation", "date")
	base := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	prefixes := map[string]search.Prefix{"eq": search.EQ, "ne": search.NE, "gt": search.GT, "lt": search.LT,
		"ge": search.GE, "le": search.LE, "sa": search.SA, "eb": search.EB}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (s string, lo, hi int64) {
			n := rapid.Int64Range(0, 3000).Draw(t, name) // microseconds
			at := base.Add(time.Duration(n) * time.Microsecond)
			digits := rapid.IntRange(3, 6).Draw(t, name+"Digits")
			s = at.Format("2006-01-02T15:04:05." + strings.Repeat("0", digits) + "Z")
			back, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				t.Fatal(err)
			}
			return s, back.UnixNano(), back.UnixNano() + int64(math.Pow10(9-digits))
		}
		want, wl, wh := draw("want")
		have, hl, hh := draw("have")
		within := wl <= hl && hh <= wh
		for name, expected := range map[string]bool{"eq": within, "ne": !within, "gt": hh > wh, "lt": hl < wl,
			"ge": within || hh > wh, "le": within || hl < wl, "sa": hl >= wh, "eb": hh <= wl} {
			q, err := parse("Observation", "date="+name+want, search.ParseOptions{})
			if err != nil {
				t.Fatal(err)
			}
			v, err := search.Extract("Observation",
				[]byte(fmt.Sprintf(`{"resourceType":"Observation","effectiveDateTime":%q}`, have)))
			if err != nil {
				t.Fatal(err)
			}
			if got := search.Match(q, v); got != expected {
				t.Fatalf("date=%s%s finds %s: %v", name, want, have, got)
			}
			coarse, mine := q.Clauses[0].Values[0], v.ByParam["date"][0]
			if coarse.Prefix != prefixes[name] {
				t.Fatalf("prefix %s is %d", name, coarse.Prefix)
			}
			coarse.LoNs, coarse.HiNs, mine.LoNs, mine.HiNs = 0, 0, 0, 0
			c := &search.Clause{Param: p, Values: []search.Value{coarse}}
			if name != "ne" && expected &&
				!search.MatchClause(c, &search.Values{ByParam: map[string][]search.Value{"date": {mine}}}) {
				t.Fatalf("date=%s%s: the milliseconds leave out %s", name, want, have)
			}
		}
	})
	check(t, "Observation", `{"resourceType":"Observation","effectivePeriod":{"start":"2026-03-01T08:00:00.0007Z","end":"2026-03-01T08:00:01Z"}}`,
		[]string{"date=sa2026-03-01T08:00:00.0006Z", "date=gt2026-03-01T08:00:00.0009Z", "date=2026-03-01"},
		[]string{"date=sa2026-03-01T08:00:00.0008Z", "date=2026-03-01T08:00:00.0007Z"})
}
