package ingest

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pulsegate/fhir/element"
	"pulsegate/mapping"
	"pulsegate/mapping/table"
)

// namedRows returns the rows that a Provenance names as "pack|version#metric". It checks
// that each reference leads to the ConceptMap of the row's pack, and that the Provenance
// does not contain the metric.
func (w *world) namedRows(body []byte) (rows []string) {
	w.t.Helper()
	var p struct {
		Entity []struct {
			Role string
			What struct {
				Reference  string
				Identifier element.Identifier
			}
		}
	}
	if err := json.Unmarshal(body, &p); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range p.Entity {
		if e.What.Identifier.System != mapping.RowSystem {
			continue
		}
		pack, _, _ := strings.Cut(e.What.Identifier.Value, "|")
		if e.Role != "source" || e.What.Reference != "ConceptMap/"+pack {
			w.t.Errorf("%+v", e)
		}
		name, id, _ := strings.Cut(e.What.Identifier.Value, "#")
		row, _ := w.pipeline.Mapper.RowWithID(id)
		if row == nil {
			w.t.Fatalf("no row has the id %s", id)
		}
		if strings.Contains(string(body), `#`+row.Metric) {
			w.t.Errorf("the metric %s is disclosed", row.Metric)
		}
		rows = append(rows, name+"#"+row.Metric)
	}
	return rows
}

// targetMetrics returns the vendor's codes of the Observations among the targets of a
// Provenance, each once.
func (w *world) targetMetrics(vendor string, body []byte) []string {
	w.t.Helper()
	metrics := map[string]bool{}
	for _, o := range w.all("Observation") {
		var obs struct {
			Identifier []element.Identifier
			Code       element.CodeableConcept
		}
		if err := json.Unmarshal(o.JSON, &obs); err != nil {
			w.t.Fatal(err)
		}
		isTarget := strings.Contains(string(body), `"Observation/`+o.ID+`"`)
		for _, id := range obs.Identifier {
			isTarget = isTarget || id.System == mapping.StreamSystem && strings.Contains(string(body), `"`+id.Value+`"`)
		}
		for _, c := range obs.Code.Coding {
			if isTarget && c.System == w.pipeline.Mapper.System(vendor) {
				metrics[c.Code] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(metrics))
}

// TestRowsOfProvenance checks that the Provenance of a commit names the rows of its
// Observations and no others, for samples, documents, nights and facts about devices, in
// every tier.
func TestRowsOfProvenance(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		w.feedKinds()
		w.must("oura", "ring_configuration.json",
			`{"data":[{"id":"r1","color":"silver","design":"heritage","firmware_version":"2.9","hardware_type":"gen3","set_up_at":"2026-10-01T08:00:00+00:00","size":10}],"next_token":null}`)
		found := map[string]bool{}
		for _, p := range w.all("Provenance") {
			vendor := "apple"
			if strings.Contains(string(p.JSON), "vendor-oura") {
				vendor = "oura"
			}
			var want []string
			for _, metric := range w.targetMetrics(vendor, p.JSON) {
				want = append(want, vendor+"|1.0.0#"+metric)
			}
			got := w.namedRows(p.JSON)
			if len(want) == 0 {
				want = []string{"oura|1.0.0#ring_configuration"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("rows %v, want %v", got, want)
			}
			for _, row := range got {
				found[row] = true
			}
		}
		for _, metric := range []string{"apple|1.0.0#" + heartRateType, "apple|1.0.0#HKQuantityTypeIdentifierBodyMass",
			"apple|1.0.0#HKCategoryTypeIdentifierSleepAnalysis", "apple|1.0.0#night", "oura|1.0.0#sleep",
			"oura|1.0.0#ring_configuration"} {
			if !found[metric] {
				t.Errorf("no Provenance names %s, only %v", metric, found)
			}
		}
	})
}

// TestRowsOfTenantPack checks that the Provenance names a tenant's row and the built-in
// one that it overrides; that a removed row's metric goes to quarantine and is mapped
// after the row returns; and that a retraction names no row.
func TestRowsOfTenantPack(t *testing.T) {
	packed := func(text string) *mapping.Mapper {
		t.Helper()
		m, err := mapping.New(table.Builtin(), mapping.Options{Key: testKey,
			Packs: fstest.MapFS{"a.yaml": {Data: []byte("pack: acme\nversion: 2.0.0\nvendor: oura\n" + text)}}})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	w := newWorld(t)
	w.pipeline.Mapper = packed("metrics: [{metric: sleep, remove: true}]")
	if sum := w.must("oura", "sleep.json", night(27000)); sum.Quarantined != 1 || sum.Created != 0 {
		t.Errorf("%+v", sum.Counts)
	}
	w.pipeline.Mapper = packed("metrics: [{metric: sleep, name: Night's rest}]")
	if sum, err := w.pipeline.Retry(t.Context(), operator()); err != nil || sum.Created != 1 {
		t.Errorf("%+v %v", sum, err)
	}
	before := w.all("Provenance")
	for _, p := range before {
		if got, want := w.namedRows(p.JSON), []string{"acme|2.0.0#sleep", "oura|1.0.0#sleep"}; !slices.Equal(got, want) {
			t.Errorf("rows %v, want %v", got, want)
		}
	}
	for _, o := range w.all("Observation") {
		if !strings.Contains(string(o.JSON), `"display":"Night's rest"`) {
			t.Errorf("not overridden: %s", o.JSON)
		}
		w.retract("object", 1, Retraction{Types: []string{"sleep"}, VendorID: idOfNight(t, o.JSON)})
	}
	for id, p := range w.all("Provenance") {
		if _, old := before[id]; !old && len(w.namedRows(p.JSON)) != 0 {
			t.Errorf("the retraction names a row: %s", p.JSON)
		}
	}
}

// idOfNight returns the vendor's id of an Observation.
func idOfNight(t *testing.T, body []byte) string {
	t.Helper()
	var obs struct{ Identifier []element.Identifier }
	if err := json.Unmarshal(body, &obs); err != nil {
		t.Fatal(err)
	}
	for _, id := range obs.Identifier {
		if strings.HasSuffix(id.System, "/oura/source") {
			return id.Value
		}
	}
	t.Fatalf("no id in %s", body)
	return ""
}
