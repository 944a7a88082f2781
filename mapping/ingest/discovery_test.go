package ingest

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
	"pulsegate/mapping/table"
)

// schema is a part of a discovery document.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Format     string            `json:"format"`
	Enum       []string          `json:"enum"`
	Items      *schema           `json:"items"`
	Properties map[string]schema `json:"properties"`
}

// discovery is the description of the API.
type discovery struct {
	Schemas map[string]schema `json:"schemas"`
}

// example returns a value that the schema named name allows, with every property
// set.
func (d *discovery) example(name string, s schema) any {
	switch {
	case s.Ref != "":
		return d.example(name, d.Schemas[s.Ref])
	case len(s.Enum) > 1:
		return s.Enum[1]
	case s.Type == "array":
		return []any{d.example(name, *s.Items)}
	case s.Type == "object" && s.Properties != nil:
		out := map[string]any{}
		for k, v := range s.Properties {
			out[k] = d.example(k, v)
		}
		return out
	case s.Type == "boolean":
		return true
	case s.Type == "integer", s.Type == "number":
		if n, ok := map[string]int{"year": 2026, "month": 3, "day": 10}[name]; ok {
			return n
		}
		return 60
	case s.Format == "google-datetime":
		if strings.Contains(strings.ToLower(name), "end") {
			return "2026-03-10T07:00:00Z"
		}
		return "2026-03-10T06:00:00Z"
	case s.Format == "google-duration":
		return "3600s"
	case s.Format == "int64":
		return "60"
	}
	return "x"
}

// deliberatelyIgnored lists the data types of the discovery document that do not
// become samples, with the reason.
var deliberatelyIgnored = map[string]string{
	"food":                "an entry of the catalog of foods, which measures nobody",
	"foodMeasurementUnit": "a unit of the catalog of foods",
}

// TestGoogleDiscovery requires that every data type of the discovery documents decodes,
// for every kind of page, and that the metric table has a row for each metric.
func TestGoogleDiscovery(t *testing.T) {
	tables, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, v := range tables.Vendors {
		for _, r := range v.Rows {
			for _, m := range append(r.Also, r.Metric) {
				rows[v.Vendor+" "+m] = true
			}
		}
	}
	dir := adaptertest.Fixtures(t, "fitbit/google-health")
	files, err := filepath.Glob(filepath.Join(dir, "*.discovery.*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no discovery document: %v", err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d discovery
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		for point, list := range map[string]string{"DataPoint": "dataPoints", "ReconciledDataPoint": "dataPoints",
			"RollupDataPoint": "rollupDataPoints", "DailyRollupDataPoint": "rollupDataPoints"} {
			types := 0
			for _, name := range slices.Sorted(maps.Keys(d.Schemas[point].Properties)) {
				s := d.Schemas[point].Properties[name]
				if s.Ref == "" || name == "dataSource" || strings.HasPrefix(name, "civil") {
					continue
				}
				types++
				checkType(t, &d, rows, point, list, name)
			}
			if types < 20 {
				t.Errorf("%s: %d types of %s", filepath.Base(f), types, point)
			}
		}
	}
}

// checkType decodes an example of one data type.
func checkType(t *testing.T, d *discovery, rows map[string]bool, point, list, name string) {
	t.Helper()
	item := map[string]any{name: d.example(name, d.Schemas[point].Properties[name])}
	for k, s := range d.Schemas[point].Properties {
		if s.Ref == "" || k == "dataSource" {
			item[k] = d.example(k, s)
		}
	}
	if point == "DailyRollupDataPoint" {
		item["civilStartTime"] = map[string]any{"date": map[string]int{"year": 2026, "month": 3, "day": 10}}
	}
	for _, k := range []string{"name", "dataPointName"} {
		if item[k] != nil {
			item[k] = "users/7/dataTypes/t/dataPoints/1"
		}
	}
	body, err := json.Marshal(map[string]any{list: []any{item}})
	if err != nil {
		t.Fatal(err)
	}
	r := adaptertest.NewRecorder()
	err = fitbit.New().Decode(t.Context(), adapters.Input{Name: "page.json", Body: bytes.NewReader(body),
		Received: adaptertest.Received()}, r)
	if err != nil || len(r.Rejects) > 0 {
		t.Errorf("%s.%s: %v %+v", point, name, err, r.Rejects)
		return
	}
	if deliberatelyIgnored[name] != "" {
		if len(r.Samples) != 0 || len(r.Drops) == 0 {
			t.Errorf("%s.%s: %d samples of an ignored type, drops %v", point, name, len(r.Samples), r.Drops)
		}
		return
	}
	if len(r.Samples) == 0 {
		t.Errorf("%s.%s: no sample, drops %v", point, name, r.Drops)
	}
	for _, s := range r.Samples {
		if !rows["fitbit "+s.Metric] {
			t.Errorf("%s.%s: %s has no row in the metric table", point, name, s.Metric)
		}
	}
}
