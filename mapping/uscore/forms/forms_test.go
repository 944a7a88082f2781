package forms_test

import (
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/interaction"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
	"pulsegate/mapping/uscore/forms"
)

// observations returns the Observation of an example of each row of a vendor, by metric.
func observations(t *testing.T, vendor string, daily bool) map[string][]byte {
	t.Helper()
	m, tab := mappingtest.Mapper(t), mappingtest.Table(t)
	out := map[string][]byte{}
	mappingtest.EachRow(tab, func(v *table.Vendor, r *table.Row) {
		if v.Vendor != vendor {
			return
		}
		s := mappingtest.Example(t, tab, v, r, daily)
		res, err := m.Map(nil, v.Vendor, s, "p1", nil)
		if err != nil || res.JSON == nil {
			return
		}
		out[r.Metric] = res.JSON
	})
	return out
}

func write(t *testing.T, f interaction.Form, observation []byte) []interaction.FormEntry {
	t.Helper()
	entries, err := f.Write(&interaction.FormSource{Observation: observation, Vendor: "oura", Subject: "Patient/e",
		Base: "https://pg.example/fhir"})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestForms(t *testing.T) {
	all := forms.All(map[string]forms.Vendor{"oura": {Name: "Oura", URL: "https://oura.example"}})
	days, instants := observations(t, "oura", true), observations(t, "oura", false)
	entries := write(t, all[interaction.DefaultForm], instants["heartrate"])
	if len(entries) != 1 || !strings.HasPrefix(entries[0].FullURL, "urn:uuid:") ||
		!strings.HasPrefix(entries[0].IfNoneExist, "identifier=") || all[interaction.DefaultForm].Transaction {
		t.Errorf("a heart rate has the entries %+v", entries)
	}
	if got := write(t, all[interaction.DefaultForm], days["daily_activity.steps"]); len(got) != 0 {
		t.Errorf("steps are a vital sign: %s", got[0].JSON)
	}
	activity := all[forms.PhysicalActivity]
	for metric, want := range map[string]int{"daily_activity.steps": 1, "workout": 4, "daily_readiness.score": 0} {
		of := days[metric]
		if metric == "workout" {
			of = instants[metric]
		}
		if got := write(t, activity, of); len(got) != want {
			t.Errorf("%s has %d entries, want %d", metric, len(got), want)
		}
	}
	if !activity.Transaction || !strings.Contains(activity.Query[0][1], "http://loinc.org|73985-4") {
		t.Errorf("the query is %v", activity.Query)
	}
	if _, err := activity.Write(&interaction.FormSource{Observation: []byte(`{`), Subject: "Patient/e"}); err == nil {
		t.Error("no error for a broken Observation")
	}
}

// TestDense checks which samples belong to dense streams.
func TestDense(t *testing.T) {
	dense := forms.All(nil)[interaction.DefaultForm].Dense
	var got []string
	for metric, o := range observations(t, "apple", false) {
		if stream, at, ok := dense(o); ok {
			got = append(got, metric)
			if stream == "" || at.UTC().Format("15:04") != "06:00" {
				t.Errorf("%s: stream %q at %s", metric, stream, at)
			}
		}
	}
	slices.Sort(got)
	want := []string{"HKQuantityTypeIdentifierHeartRate", "HKQuantityTypeIdentifierOxygenSaturation",
		"HKQuantityTypeIdentifierRespiratoryRate"}
	if !slices.Equal(got, want) {
		t.Errorf("dense are %v, want %v", got, want)
	}
	m := mappingtest.Mapper(t)
	streamOf := func(s *sample.Sample) string {
		res, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil {
			t.Fatal(err)
		}
		stream, _, ok := dense(res.JSON)
		if !ok {
			t.Fatalf("not dense: %s", res.JSON)
		}
		return stream
	}
	a, b, other := mappingtest.HeartRate("60"), mappingtest.HeartRate("61"), mappingtest.HeartRate("60")
	other.Source, other.Device = sample.Source{Name: "Phone"}, sample.Device{Name: "Phone"}
	if streamOf(a) != streamOf(b) || streamOf(a) == streamOf(other) {
		t.Errorf("the streams are %s, %s and %s", streamOf(a), streamOf(b), streamOf(other))
	}
}
