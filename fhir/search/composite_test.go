package search

import (
	"errors"
	"strings"
	"testing"

	"pulsegate/fhir"
)

const pressure = `{"resourceType":"Observation","id":"x","meta":{},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-10-01",` +
	`"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"},{"system":"urn:own","code":"sys"}]},"valueQuantity":{"value":138,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},` +
	`{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},"valueQuantity":{"value":91,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},` +
	`{"code":{"coding":[{"system":"urn:own","code":"cuff"}]},"valueCodeableConcept":{"coding":[{"system":"Patient","code":"p9"},{"code":"large"}]}}]}`

const beat = `{"resourceType":"Observation","id":"y","meta":{},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-10-01",` +
	`"valueQuantity":{"value":62,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}`

// TestComposite tests that a code and a value are a single condition on one
// element.
func TestComposite(t *testing.T) {
	for _, c := range []struct {
		body, param, value string
		want               bool
	}{
		{pressure, "component-code-value-quantity", "http://loinc.org|8480-6$gt130", true},
		{pressure, "component-code-value-quantity", "http://loinc.org|8480-6$138", true},
		{pressure, "component-code-value-quantity", "8480-6$gt130", true},
		{pressure, "component-code-value-quantity", "urn:own|sys$ge138", true},
		// true of the other component
		{pressure, "component-code-value-quantity", "http://loinc.org|8462-4$gt130", false},
		{pressure, "component-code-value-quantity", "http://loinc.org|8462-4$gt90|http://unitsofmeasure.org|mm[Hg]",
			true},
		{pressure, "component-code-value-quantity", "http://loinc.org|8462-4$gt90||mmHg", true},
		{pressure, "component-code-value-quantity", "http://loinc.org|8462-4$gt90|http://unitsofmeasure.org|kPa",
			false},
		{pressure, "component-code-value-quantity", "http://loinc.org|8462-4$gt90|urn:own|mm[Hg]", false},
		{pressure, "component-code-value-quantity", "|8480-6$gt130", false},
		{pressure, "component-code-value-quantity", "http://loinc.org|8480-6$lt100,http://loinc.org|8462-4$gt90", true},
		{pressure, "code-value-quantity", "http://loinc.org|8480-6$gt130", false}, // true of a component
		{pressure, "combo-code-value-quantity", "http://loinc.org|8480-6$gt130", true},
		{beat, "combo-code-value-quantity", "http://loinc.org|8867-4$le62", true},
		{beat, "code-value-quantity", "http://loinc.org|8867-4$62", true},
		{beat, "code-value-quantity", "http://loinc.org|8867-4$gt62", false},
		{beat, "component-code-value-quantity", "http://loinc.org|8867-4$62", false},
		{pressure, "component-code-value-concept", "urn:own|cuff$large", true},
		{pressure, "component-code-value-concept", "urn:own|cuff$|large", true},
		{pressure, "component-code-value-concept", "urn:own|cuff$|p9", false},
		{pressure, "component-code-value-concept", "urn:own|cuff$Patient|p9", true},
		{pressure, "combo-code-value-concept", "cuff$small", false},
		{pressure, "component-code-value-quantity:missing", "false", true},
		{beat, "component-code-value-quantity:missing", "true", true},
		{strings.Replace(beat, `"valueQuantity":{"value":62,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}`, `"valueString":"Steady beat"`, 1), "code-value-string", "8867-4$steady", true},
		{strings.Replace(beat, `"valueQuantity":{"value":62,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}`, `"valueDateTime":"2026-03-04"`, 1), "code-value-date", "8867-4$gt2026-02", true},
	} {
		q, err := Parse("Observation", [][2]string{{c.param, c.value}}, ParseOptions{})
		if err != nil {
			t.Errorf("%s=%s: %v", c.param, c.value, err)
			continue
		}
		v, err := Extract("Observation", []byte(c.body))
		if err != nil {
			t.Fatal(err)
		}
		sel, err := Select(q)
		if err != nil {
			t.Fatal(err)
		}
		m := NewMatcher(q, sel)
		for i := range 3 { // from the second time on, the template is cached
			if got := m.Match([]byte(c.body)); got != c.want || Match(q, v) != c.want {
				t.Errorf("%s=%s: matcher %v (%d), match %v", c.param, c.value, got, i, Match(q, v))
			}
		}
		for code, vs := range v.ByParam {
			for _, x := range vs {
				if p, _ := Lookup("Observation", code); p.Type.Composite() && fhir.KnownType(x.RefType) {
					t.Errorf("%s: a system passes for a type: %+v", code, x)
				}
			}
		}
	}
}

// TestCompositeEvaluatesLeaves tests that a Matcher does not reuse the result of
// a composite for another resource with the same template.
func TestCompositeEvaluatesLeaves(t *testing.T) {
	q, err := Parse("Observation", [][2]string{{"code-value-quantity", "http://loinc.org|8867-4$gt70"}}, ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sel, err := Select(q)
	if err != nil {
		t.Fatal(err)
	}
	m := NewMatcher(q, sel)
	for i, value := range []string{"62", "71", "62", "90", "70"} {
		if got := m.Match([]byte(strings.Replace(beat, `"value":62`, `"value":`+value, 1))); got != (value > "70") {
			t.Errorf("%d: %s: %v", i, value, got)
		}
	}
}

// TestCompositeRefused tests that an incomplete pair is an error that names the
// parameter, and that _sort does not accept composites.
func TestCompositeRefused(t *testing.T) {
	for _, p := range [][2]string{
		{"component-code-value-quantity", "8480-6"}, {"component-code-value-quantity", "8480-6$"},
		{"component-code-value-quantity", "$140"},
		{"component-code-value-quantity", "8480-6$high"},
		{"component-code-value-quantity", "http://loinc.org|$140"}, {"component-code-value-quantity", "8480-6$140$150"},
		{"component-code-value-quantity:exact", "8480-6$140"}, {"code-value-date", "8480-6$yesterday"},
		{"_sort", "component-code-value-quantity"},
	} {
		_, err := Parse("Observation", [][2]string{p}, ParseOptions{})
		var fe *fhir.Error
		if !errors.As(err, &fe) || fe.Kind != fhir.Invalid ||
			!strings.Contains(err.Error()+fe.Issues[0].Diagnostics, p[0][:5]) {
			t.Errorf("%s=%s: %v", p[0], p[1], err)
		}
	}
}

// TestLocalDay tests what the CapabilityStatement says about local days: dates
// with an offset select the wearer's day.
func TestLocalDay(t *testing.T) {
	at := func(effective string) []byte {
		return []byte(strings.Replace(beat, `"effectiveDateTime":"2026-10-01"`,
			`"effectiveDateTime":"`+effective+`"`, 1))
	}
	for _, c := range []struct {
		effective string
		pairs     [][2]string
		want      bool
	}{
		{"2026-10-01T00:30:00+02:00", [][2]string{{"date", "2026-10-01"}}, false}, // the day before in UTC
		{"2026-10-01T00:30:00+02:00", [][2]string{{"date", "ge2026-10-01T00:00:00+02:00"},
			{"date", "lt2026-10-02T00:00:00+02:00"}}, true},
		{"2026-10-01T23:30:00-05:00", [][2]string{{"date", "ge2026-10-01T00:00:00-05:00"},
			{"date", "lt2026-10-02T00:00:00-05:00"}}, true},
		{"2026-10-02T00:30:00+02:00", [][2]string{{"date", "ge2026-10-01T00:00:00+02:00"},
			{"date", "lt2026-10-02T00:00:00+02:00"}}, false},
		{"2026-10-01", [][2]string{{"date", "2026-10-01"}}, true},
	} {
		q, err := Parse("Observation", c.pairs, ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		v, err := Extract("Observation", at(c.effective))
		if err != nil {
			t.Fatal(err)
		}
		if Match(q, v) != c.want {
			t.Errorf("%s by %v: want %v", c.effective, c.pairs, c.want)
		}
	}
}
