package explain

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/oura"
	"pulsegate/adapters/withings"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/table"
)

// everything is a consent to everything.
type everything struct{}

func (everything) Collects(context.Context, string, string) (fhir.Ref, bool, error) {
	return fhir.Ref{Type: "Consent", ID: "c1"}, true, nil
}

func (everything) CollectsCategory(context.Context, string, string, ...string) (bool, error) {
	return true, nil
}

// world is an Explainer with the store of one patient, p1.
type world struct {
	*Explainer
	t *testing.T
}

func newWorld(t *testing.T) *world {
	t.Helper()
	clock := clocktest.Ticking(time.Date(2026, 12, 15, 12, 0, 0, 0, time.UTC), time.Millisecond).Now
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: clock, Rand: rand.Reader,
		Observer: "https://example.org"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mapping.New(table.Builtin(), mapping.Options{Key: []byte("0123456789abcdef0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	p := &ingest.Pipeline{Store: db, Audit: rec, Consents: everything{}, Mapper: m, Clock: clock, SpoolDir: t.TempDir(),
		Zone:     func(context.Context, string) (*time.Location, error) { return berlin, nil },
		Adapters: []adapters.Adapter{apple.New(), fitbit.New(), oura.New(), withings.New()}}
	w := &world{&Explainer{Store: db, Pipeline: p}, t}
	w.put(store.Write{Resource: fhir.Resource{Type: "Patient", ID: "p1", JSON: []byte(fhir.Prefix("Patient",
		"p1") + `}}`)}})
	return w
}

func (w *world) put(one store.Write) {
	w.t.Helper()
	if _, err := w.Store.Commit(w.t.Context(), &store.Batch{Writes: []store.Write{one}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deliver(vendor, format, name, body string) {
	w.t.Helper()
	_, err := w.Pipeline.Run(w.t.Context(), ingest.Request{Patient: "p1", Vendor: vendor, Format: format, Name: name,
		Body: strings.NewReader(body), Origin: ingest.Origin{Channel: "file", Link: "l1"}})
	if err != nil && fhir.KindOf(err) != fhir.Invalid {
		w.t.Fatalf("%s: %v", name, err)
	}
}

// ids returns the Observations, in order.
func (w *world) ids() (out []string) {
	w.t.Helper()
	err := w.Store.Scan(w.t.Context(), store.ScanRange{Types: []string{"Observation"},
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		out = append(out, strings.Clone(f.Resource.ID))
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) explain(id string) *Explanation {
	w.t.Helper()
	x, err := w.Explain(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// TestEveryPayloadIsExplained ingests the testdata of the adapters and checks that the
// explanation of each Observation holds the numbers and codes of the resource, that
// mapping now gives the same, and that each version has its Provenance.
func TestEveryPayloadIsExplained(t *testing.T) {
	shapes := map[string]int{}
	for _, vendor := range []string{"apple", "fitbit", "oura", "withings"} {
		w := newWorld(t)
		root := filepath.Join("..", "..", "adapters", vendor, "testdata")
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".golden") ||
				strings.HasSuffix(path, "canaries.txt") ||
				strings.Contains(path, "fuzz") {
				return err
			}
			body, err := os.ReadFile(path)
			w.deliver(vendor, filepath.Base(filepath.Dir(path)), filepath.Base(path), string(body))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range w.ids() {
			x := w.explain(id)
			w.check(x)
			if len(x.Samples) > 0 {
				shapes[w.Pipeline.Mapper.Row(vendor, x.Samples[0].Row).Shape]++
				shapes[x.Origin]++
				if x.Samples[0].Variant != "" {
					shapes["variant"]++
				}
			}
		}
	}
	for _, shape := range []string{table.ShapeQuantity, table.ShapeCodeable, table.ShapeComponents, table.ShapeSampled,
		table.ShapeEvent, "variant", FromDerived, FromVendor} {
		if shapes[shape] == 0 {
			t.Errorf("no Observation of %s", shape)
		}
	}
	t.Log(shapes)
}

// check holds an explanation to its resource.
func (w *world) check(x *Explanation) {
	w.t.Helper()
	if x.Patient != "p1" || len(x.Samples) == 0 || !x.Now.Same || x.Origin != FromVendor && x.Origin != FromDerived {
		w.t.Fatalf("%+v", x)
	}
	for _, v := range x.Versions {
		if v.Provenance == "" || v.Vendor != x.Vendor || v.Channel != "file" || v.Link != "l1" || v.Why == "" {
			w.t.Errorf("version %+v of %s", v, x.Resource)
		}
	}
	stored := parse(x.Resource)
	side := &x.Samples[0]
	if len(side.Codes) != len(stored.Code.Coding) {
		w.t.Errorf("codes %v of %s", side.Codes, x.Resource)
	}
	for i, c := range side.Codes {
		if got := stored.Code.Coding[i]; got.Code != c.Code || got.System != c.System {
			w.t.Errorf("code %v of %s", c, x.Resource)
		}
	}
	for i := range x.Samples {
		if len(x.Samples) > 1 && !strings.HasPrefix(x.Samples[i].Text, "Possibility") {
			continue // another record of the workout may state the value too
		}
		for _, v := range x.Samples[i].Values {
			for _, n := range v.Numbers {
				if !strings.Contains(string(x.Resource), n.Written) || !strings.Contains(n.Text, "= "+n.Written) ||
					!strings.HasPrefix(n.Text, n.Sent) {
					w.t.Errorf("%+v of %s", n, x.Resource)
				}
			}
		}
		for _, l := range x.Samples[i].Lines {
			if l.Part != "Device" && l.Written == "" || l.Sent+l.Rule == "" {
				w.t.Errorf("line %+v of %s", l, x.Resource)
			}
		}
	}
	var text strings.Builder
	for _, width := range []int{60, 160} {
		if err := x.Print(&text, width); err != nil || !strings.Contains(text.String(), x.ID) {
			w.t.Errorf("%v %s", err, text.String())
		}
	}
	if _, err := json.Marshal(x); err != nil {
		w.t.Error(err)
	}
}

const weight = `<?xml version="1.0"?><HealthData locale="en"><ExportDate value="2026-10-05 09:00:00 +0200"/>` +
	`<Record type="HKQuantityTypeIdentifierBodyMass" sourceName="Scale" unit="lb" ` +
	`startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="180"/>` +
	`<Record type="HKQuantityTypeIdentifierOxygenSaturation" sourceName="Watch" unit="%" ` +
	`startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="0.97"/></HealthData>`

// lineOf returns a line of the first sample.
func (x *Explanation) lineOf(part string) Line {
	i := slices.IndexFunc(x.Samples[0].Lines, func(l Line) bool { return l.Part == part })
	if i < 0 {
		return Line{}
	}
	return x.Samples[0].Lines[i]
}

// TestWords checks the words of conversions, times and codes.
func TestWords(t *testing.T) {
	w := newWorld(t)
	w.deliver("apple", "export.xml", "export.xml", weight)
	for _, id := range w.ids() {
		x := w.explain(id)
		value := x.lineOf("Value")
		switch x.Samples[0].Sent.Metric {
		case "HKQuantityTypeIdentifierBodyMass":
			if value != (Line{"Value", "180 lb", "180 lb × 0.45359237 = 81.6466266 kg", "81.6466266 kg"}) {
				t.Errorf("%+v", value)
			}
		case "HKQuantityTypeIdentifierOxygenSaturation":
			if value != (Line{"Value", "0.97 %", "0.97 % × 100 = 97 %", "97 %"}) {
				t.Errorf("%+v", value)
			}
		}
		if at := x.lineOf("Time"); !strings.Contains(at.Rule, "Europe/Berlin") ||
			at.Written != "2026-10-01T08:00:00+02:00" {
			t.Errorf("%+v", at)
		}
		if x.Versions[0].Why != "created" || x.Text != "A payload of apple states it." {
			t.Errorf("%+v", x)
		}
	}
}

// TestVersions checks what the explanation says of versions: restated, retracted, and
// written by a client.
func TestVersions(t *testing.T) {
	w := newWorld(t)
	day := func(score string) string {
		return `{"data":[{"id":"d1","day":"2026-10-01","score":` + score +
			`,"timestamp":"2026-10-01T00:00:00+02:00","contributors":{}}]}`
	}
	w.deliver("oura", "v2:daily_readiness", "daily_readiness.json", day("80"))
	w.deliver("oura", "v2:daily_readiness", "daily_readiness.json", day("81"))
	id := w.ids()[0]
	x := w.explain(id)
	if len(x.Versions) != 2 || x.Versions[0].Why != "restated or completed" || x.Versions[0].Status != "amended" ||
		x.Versions[1].Why != "created" || x.Samples[0].Sent.Value.Num != "81" ||
		!strings.Contains(x.lineOf("Status").Rule, "amended") || !x.Now.Same {
		t.Errorf("%+v", x)
	}
	if _, err := w.Pipeline.Retract(t.Context(), ingest.Retraction{Patient: "p1", Vendor: "oura",
		VendorID: "d1"}); err != nil {
		t.Fatal(err)
	}
	if x = w.explain(id); x.Versions[0].Why != "retracted" || !x.Now.Same ||
		x.lineOf("Status").Rule != "retracted later" {
		t.Errorf("%+v", x)
	}
	w.put(store.Write{Author: "app-1", Resource: fhir.Resource{Type: "Observation", ID: id, JSON: []byte(fhir.Prefix(
		"Observation", id) + `},"status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p1"}}`)}})
	if x = w.explain(id); x.Origin != FromClient || x.Client != "app-1" || x.Versions[0].Client != "app-1" ||
		len(x.Samples) > 0 || x.Now.Known {
		t.Errorf("%+v", x)
	}
	w.put(store.Write{Op: store.Remove, Resource: fhir.Resource{Type: "Observation", ID: id}})
	if _, err := w.Explain(t.Context(), id); fhir.KindOf(err) != fhir.Gone {
		t.Errorf("deleted: %v", err)
	}
	if _, err := w.Explain(t.Context(), "nothing"); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("absent: %v", err)
	}
}

// TestChanges checks that a corrected table shows what would change.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	w.deliver("apple", "export.xml", "export.xml", weight)
	dir := t.TempDir()
	if err := os.CopyFS(dir, table.Builtin()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "apple.yaml")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	corrected := strings.ReplaceAll(string(raw),
		"name: Oxygen saturation, trust: sure, codes: [loinc 2708-6, loinc 59408-5]",
		"name: Saturation, trust: sure, codes: [loinc 2708-6]")
	if err := os.WriteFile(path, []byte(corrected), 0o600); err != nil {
		t.Fatal(err)
	}
	if w.Pipeline.Mapper, err = mapping.New(os.DirFS(dir), mapping.Options{
		Key: []byte("0123456789abcdef0123456789abcdef")}); err != nil {
		t.Fatal(err)
	}
	for _, id := range w.ids() {
		x := w.explain(id)
		if x.Samples[0].Sent.Metric != "HKQuantityTypeIdentifierOxygenSaturation" {
			if !x.Now.Same {
				t.Errorf("%+v", x.Now)
			}
			continue
		}
		if x.Now.Same || !slices.Contains(x.Now.Changes, Change{"code.text", "Oxygen saturation", "Saturation"}) {
			t.Errorf("%+v", x.Now)
		}
	}
}
