package uscore_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/r4"
	"pulsegate/mapping/table"
	"pulsegate/mapping/uscore"
)

// activityForm holds the elements of a form of PhysicalActivity that the tests read.
type activityForm struct {
	Category []struct {
		Coding []struct{ System, Code string }
	}
	Code struct {
		Coding []struct{ System, Code string }
	}
	EffectiveDateTime string
	ValueQuantity     *struct{ System, Code string }
	HasMember         []struct{ Reference string }
	Component         []any
}

// units lists the units of the guide's tables of measures.
var units = map[string]string{ // read only
	"41950-7": "/d", "41979-6": "kcal/d", "40443-4": "/min", "8873-2": "/min", "55411-3": "min", "55424-6": "kcal",
	"55425-3": "/min", "55426-1": "/min",
}

// TestPhysicalActivity checks the form of an example of each row against its golden
// file, R4 and the rules of the guide's profiles. A row has a form if its code is in
// one of the guide's tables and, for a measure of a day, if the example is of a day.
func TestPhysicalActivity(t *testing.T) {
	v, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	g := newGolden("physical-activity")
	workouts, days := 0, 0
	eachExample(t, func(t *testing.T, name string, _ *table.Row, src *uscore.Source) {
		entries, ok, err := uscore.PhysicalActivity(src)
		if err != nil {
			t.Fatal(err)
		}
		var of activityForm
		if err := json.Unmarshal(src.Observation, &of); err != nil {
			t.Fatal(err)
		}
		has := func(codes ...string) bool {
			return slices.ContainsFunc(of.Code.Coding, func(c struct{ System, Code string }) bool {
				return slices.Contains(codes, c.Code)
			})
		}
		workout, day := has("73985-4"), has("41950-7", "41979-6", "40443-4", "8873-2") &&
			len(of.EffectiveDateTime) == 10
		if ok != (workout || day) {
			t.Fatalf("ok is %v, want %v", ok, workout || day)
		}
		if !ok {
			return
		}
		var parts []any
		for _, e := range entries {
			f := checkForm(t, v, e.JSON)
			checkQuery(t, e.IfNoneExist, f)
			parts = append(parts, e.FullURL, e.IfNoneExist, e.JSON)
		}
		g.check(t, name, parts...)
		if day {
			days++
		} else {
			workouts++
		}
		checkActivity(t, entries, workout)
	})
	g.complete(t)
	if workouts < 3 || days < 4 {
		t.Errorf("%d workouts and %d days have a form", workouts, days)
	}
}

// checkActivity checks the entries of one Observation against the guide.
func checkActivity(t *testing.T, entries []uscore.Entry, workout bool) {
	t.Helper()
	const guide = "http://hl7.org/fhir/us/physical-activity/"
	uuid := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	var urls []string
	for i, e := range entries {
		if !uuid.MatchString(e.FullURL) || slices.Contains(urls, e.FullURL) {
			t.Errorf("the fullUrl %s is no UUID or not unique", e.FullURL)
		}
		urls = append(urls, e.FullURL)
		var f activityForm
		if err := json.Unmarshal(e.JSON, &f); err != nil {
			t.Fatal(err)
		}
		if len(f.Category) != 2 || f.Category[0].Coding[0].Code != "activity" ||
			f.Category[1].Coding[0] != (struct{ System, Code string }{guide + "CodeSystem/pa-temporary-codes",
				"PhysicalActivity"}) {
			t.Errorf("the categories are %v", f.Category)
		}
		want := "pa-observation-time-measure"
		switch {
		case workout && i == len(entries)-1:
			want = "pa-observation-activity-group"
			if f.Code.Coding[0].Code != "PAPanel" || f.ValueQuantity != nil || len(f.HasMember) != len(entries)-1 {
				t.Errorf("the group is %s", e.JSON)
			}
			for _, m := range f.HasMember {
				if !slices.Contains(urls[:i], m.Reference) {
					t.Errorf("the group refers to %s, which no entry before it has", m.Reference)
				}
			}
		case workout:
			want = "pa-observation-activity-measure"
		}
		if !strings.Contains(string(e.JSON), `"`+guide+"StructureDefinition/"+want+`|1.0.1"`) {
			t.Errorf("entry %d does not claim %s", i, want)
		}
		if q := f.ValueQuantity; q != nil &&
			(q.System != "http://unitsofmeasure.org" || q.Code != units[f.Code.Coding[0].Code]) {
			t.Errorf("%s has the unit %s", f.Code.Coding[0].Code, q.Code)
		}
	}
}

func TestNoPhysicalActivity(t *testing.T) {
	const quantity = `"valueQuantity":{"value":62.50,"system":"http://unitsofmeasure.org","code":"/min"}`
	day := []string{`8867-4`, `41950-7`, `T08:00:00+02:00`, ``, `"/min"`, `"/d"`}
	with := func(more ...string) *uscore.Source { return heart(t, append(slices.Clone(day), more...)...) }
	if _, ok, err := uscore.PhysicalActivity(with()); err != nil || !ok {
		t.Fatalf("steps of a day: %v, %v", ok, err)
	}
	period := with(`"effectiveDateTime":"2026-10-01"`, `"effectivePeriod":{"start":"2026-10-01","end":"2026-10-02"}`)
	if _, ok, _ := uscore.PhysicalActivity(period); !ok {
		t.Error("steps of a period of days have no form")
	}
	for name, src := range map[string]*uscore.Source{
		"steps of an instant": heart(t, `8867-4`, `41950-7`, `"/min"`, `"/d"`),
		"another unit":        with(`"/d"`, `"{steps}"`),
		"preliminary":         with(`"final"`, `"preliminary"`),
		"another code":        with(`41950-7`, `55423-8`),
		"another system":      with(`http://loinc.org`, `urn:x`),
		"workout of nothing":  heart(t, `8867-4`, `73985-4`, quantity, `"dataAbsentReason":{"text":"unknown"}`),
		"workout of no time":  heart(t, `8867-4`, `73985-4`, `"effectiveDateTime":"2026-10-01T08:00:00+02:00",`, ``),
	} {
		if _, ok, err := uscore.PhysicalActivity(src); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if _, _, err := uscore.PhysicalActivity(&uscore.Source{Observation: []byte(`{`),
		PatientRef: receiver}); err == nil {
		t.Error("no error for a broken Observation")
	}
}
