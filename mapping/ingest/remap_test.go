package ingest

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"gopkg.in/yaml.v3"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/oura"
	"pulsegate/adapters/withings"
	"pulsegate/fhir"
	"pulsegate/mapping"
	"pulsegate/mapping/table"
)

// corrected returns a Mapper with the built-in tables after edit has changed the rows of
// a vendor, by metric, and the units.
func corrected(t tester, vendor string, edit func(rows map[string]map[string]any,
	units map[string]any)) *mapping.Mapper {
	t.Helper()
	m, err := correctedTable(vendor, edit)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func correctedTable(vendor string, edit func(map[string]map[string]any, map[string]any)) (*mapping.Mapper, error) {
	files := fstest.MapFS{}
	names, err := fs.Glob(table.Builtin(), "*.yaml")
	if err != nil {
		return nil, err
	}
	trees := map[string]map[string]any{}
	names = slices.DeleteFunc(names, func(name string) bool { // the tables of other vendors
		return name != vendor+".yaml" && name != "units.yaml" && name != "codes.yaml"
	})
	for _, name := range names {
		raw, err := fs.ReadFile(table.Builtin(), name)
		if err != nil {
			return nil, err
		}
		files[name] = &fstest.MapFile{Data: raw}
		if name == vendor+".yaml" || name == "units.yaml" {
			var tree map[string]any
			if err := yaml.Unmarshal(raw, &tree); err != nil {
				return nil, err
			}
			trees[name] = tree
		}
	}
	rows := map[string]map[string]any{}
	list := trees[vendor+".yaml"]["metrics"].([]any)
	for _, item := range list {
		row := item.(map[string]any)
		rows[row["metric"].(string)] = row
	}
	edit(rows, trees["units.yaml"]["units"].(map[string]any))
	trees[vendor+".yaml"]["version"] = "1.1.0"
	trees[vendor+".yaml"]["metrics"] = slices.DeleteFunc(list, func(item any) bool {
		return rows[item.(map[string]any)["metric"].(string)] == nil
	})
	for name, tree := range trees {
		raw, err := yaml.Marshal(tree)
		if err != nil {
			return nil, err
		}
		files[name] = &fstest.MapFile{Data: raw}
	}
	return mapping.New(files, mapping.Options{Key: testKey})
}

// remap maps the samples of a vendor again.
func (w *world) remap(req RemapRequest) RemapReport {
	w.t.Helper()
	req.Caller = operator()
	report, err := w.pipeline.Remap(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// normalized returns the content of the Observations by id, in which "amended" is
// "final", and the ids of those that are entered-in-error.
func (w *world) normalized() (chart map[string]string, retracted map[string]bool) {
	chart, retracted = map[string]string{}, map[string]bool{}
	for id, r := range w.all("Observation") {
		body := unstamped(&r)
		switch statusOf(body) {
		case statusRetracted:
			retracted[id] = true
		case "amended":
			body = withStatus(body, "final")
		}
		chart[id] = string(body)
	}
	return chart, retracted
}

// sameChart checks that w has the Observations of other, except that w may have others
// that are entered-in-error.
func (w *world) sameChart(other *world) {
	w.t.Helper()
	got, retracted := w.normalized()
	want, _ := other.normalized()
	shown := 0
	for id, body := range want {
		if got[id] != body {
			if shown++; shown < 4 {
				w.t.Errorf("%s is\n%s\nwant\n%s", id, got[id], body)
			}
		}
		delete(got, id)
	}
	for id, body := range got {
		if !retracted[id] {
			if shown++; shown < 4 {
				w.t.Errorf("one too many: %s", body)
			}
		}
	}
}

// corrections are changes of packs, by name.
var corrections = map[string]func(rows map[string]map[string]any, units map[string]any){
	"codes removed": func(rows map[string]map[string]any, _ map[string]any) {
		for _, row := range rows {
			delete(row, "codes")
			delete(row, "profile")
			if row["trust"] = "local"; row["doubtful"] != nil {
				row["trust"] = "doubtful"
			}
			for _, c := range components(row) {
				delete(c, "codes")
			}
		}
	},
	"texts": func(rows map[string]map[string]any, _ map[string]any) {
		for _, row := range rows {
			row["name"] = "New " + row["name"].(string)
		}
	},
	"category": func(rows map[string]map[string]any, _ map[string]any) {
		for _, row := range rows {
			if row["profile"] == nil {
				row["category"] = "activity"
				delete(row, "refined")
			}
		}
	},
	"components": func(rows map[string]map[string]any, _ map[string]any) {
		for _, row := range rows {
			for _, c := range components(row) {
				c["display"] = "New " + fmt.Sprint(c["name"])
			}
		}
	},
	"scale": func(rows map[string]map[string]any, _ map[string]any) {
		for _, row := range rows {
			if row["unit"] == nil || row["shape"] != "quantity" {
				continue
			}
			widen(row)
			scales := map[string]string{}
			for _, channel := range []string{"export.xml", "ecg.csv", "hae", "open-wearables", "grove",
				"healthkit-fhir",
				"companion", "takeout", "web-api", "webhook", "v4", "v2", "api", "test"} {
				scales[channel] = "0.5"
			}
			row["scale"] = scales
		}
	},
	"conversion": func(rows map[string]map[string]any, units map[string]any) {
		for _, row := range rows {
			widen(row)
		}
		for _, unit := range units {
			for _, a := range unit.(map[string]any)["accepts"].([]any) {
				accepts := a.(map[string]any)
				times, _ := accepts["times"].(string)
				number, quotient, _ := strings.Cut(times, "/")
				if number == "" {
					number = "1"
				}
				f, err := strconv.ParseFloat(number, 64)
				if err != nil {
					panic(err)
				}
				if number = strconv.FormatFloat(3*f, 'f', -1, 64); quotient != "" {
					number += "/" + quotient
				}
				accepts["times"] = number
			}
		}
	},
}

func components(row map[string]any) (out []map[string]any) {
	list, _ := row["components"].([]any)
	for _, c := range list {
		out = append(out, c.(map[string]any))
	}
	return out
}

func widen(row map[string]any) {
	variants, _ := row["variants"].([]any)
	for _, v := range append(components(row), row) {
		if v["range"] != nil {
			v["range"] = []float64{-1e9, 1e9}
		}
	}
	for _, v := range variants {
		if v := v.(map[string]any); v["range"] != nil {
			v["range"] = []float64{-1e9, 1e9}
		}
	}
}

var allVendors = []adapters.Adapter{apple.New(), fitbit.New(), oura.New(), withings.New()}

// use sets the Mapper, as a restart of the server would.
func (w *world) use(m *mapping.Mapper) {
	w.t.Helper()
	w.pipeline.Mapper = m
	if err := w.pipeline.RecordPacks(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// TestRemapEqualsIngest checks, with the testdata of each format and corrections of all
// kinds, that samples mapped again are what they would be if they had been delivered
// under the corrected pack; that a redelivery has the same effect in both stores; and
// that a dry run predicts the counts and writes nothing.
func TestRemapEqualsIngest(t *testing.T) {
	for _, vendor := range allVendors {
		for i, change := range slices.Sorted(maps.Keys(corrections)) {
			m := corrected(t, vendor.Vendor(), corrections[change])
			for j, format := range vendor.Formats() {
				if j > 0 && (i+j)%3 != 0 { // the first format with all corrections, others with some
					continue
				}
				t.Run(vendor.Vendor()+" "+format.Name+" "+change, func(t *testing.T) {
					checkRemap(t, vendor, format.Name, m)
				})
			}
		}
	}
}

func checkRemap(t *testing.T, vendor adapters.Adapter, format string, m *mapping.Mapper) {
	name := vendor.Vendor()
	w, other := newWorld(t), newWorld(t)
	w.pipeline.Adapters, other.pipeline.Adapters = []adapters.Adapter{vendor}, []adapters.Adapter{vendor}
	old := w.pipeline.Mapper
	w.use(old)
	if w.deliverFormat(name, format); len(w.all("Observation")) == 0 {
		t.Fatal("there is no testdata of this format")
	}
	w.use(m)
	other.use(m)
	other.deliverFormat(name, format)
	before := w.pipeline.Store.LastSeq()
	dry := w.remap(RemapRequest{Vendor: name, DryRun: true, Examples: 3})
	if got := w.pipeline.Store.LastSeq(); got != before {
		t.Errorf("the dry run made %d commits", got-before)
	}
	report := w.remap(RemapRequest{Vendor: name})
	w.othersWrite = report.Replaced > 0 // the retracted ones are those of the old pack
	if dry.Changed != report.Changed || dry.Replaced != report.Replaced || dry.Unchanged != report.Unchanged {
		t.Errorf("the dry run predicts %+v, not %+v", dry.RemapCounts, report.RemapCounts)
	}
	if len(report.Rejected) > 0 || len(dry.Examples) != min(3, dry.changes()) {
		t.Errorf("%+v with %d examples", report.RemapCounts, len(dry.Examples))
	}
	w.sameChart(other)
	if again := w.remap(RemapRequest{Vendor: name}); again.changes() != 0 || len(again.Rejected) > 0 {
		t.Errorf("a second time: %+v", again.RemapCounts)
	}
	w.deliverFormat(name, format)
	other.deliverFormat(name, format)
	w.sameChart(other)
}

// deliverFormat ingests the testdata of one format of an adapter.
func (w *world) deliverFormat(vendor, format string) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "adapters", vendor, "testdata", format, "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, ".golden") {
			continue
		}
		body, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		_, err = w.pipeline.Run(w.t.Context(), Request{Patient: "p1", Vendor: vendor, Format: format,
			Name: filepath.Base(path), Body: bytes.NewReader(body), Caller: operator()})
		if err != nil && fhir.KindOf(err) != fhir.Invalid {
			w.t.Errorf("%s: %v", path, err)
		}
	}
}
