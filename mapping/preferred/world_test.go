package preferred

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

// consents permits the data of the vendors that are not denied.
type consents struct {
	mu     sync.Mutex
	denied map[string]bool
}

func (c *consents) Collects(context.Context, string, string) (fhir.Ref, bool, error) {
	return fhir.Ref{Type: "Consent", ID: "c1"}, true, nil
}

func (c *consents) CollectsCategory(context.Context, string, string, ...string) (bool, error) {
	return true, nil
}

func (c *consents) Permits(_ string, f *access.Facts) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.denied[f.Vendor]
}

// vendor is an Adapter that passes the samples of a test on.
type vendor struct {
	code    string
	samples []sample.Sample
}

func (v *vendor) Vendor() string                       { return v.code }
func (v *vendor) Name() string                         { return v.code }
func (v *vendor) Formats() []adapters.Format           { return []adapters.Format{{Name: "test"}} }
func (v *vendor) Detect(string, []byte) (string, bool) { return "test", true }
func (v *vendor) Decode(_ context.Context, _ adapters.Input, sink adapters.Sink) error {
	for i := range v.samples {
		if err := sink.Sample(&v.samples[i]); err != nil {
			return err
		}
	}
	return nil
}

// tester is implemented by testing.TB and rapid.T.
type tester interface {
	Helper()
	Context() context.Context
	Error(...any)
	Errorf(string, ...any)
	Fatal(...any)
	Fatalf(string, ...any)
}

// world is a store with the patient p1, the vendors apple, oura and fitbit, and an Engine.
type world struct {
	t        tester
	db       *pebblestore.DB
	clock    *clocktest.Clock
	consents *consents
	vendors  map[string]*vendor
	pipeline *ingest.Pipeline
	options  Options
	engine   *Engine
	view     *View
	service  *interaction.Service
	n        int
}

var testMapper = sync.OnceValues(func() (*mapping.Mapper, error) {
	return mapping.New(table.Builtin(), mapping.Options{Key: testKey})
})

var testPolicy = sync.OnceValues(func() (*Policy, error) { return Load("") })

// noon is the noon of the day of most tests, in Paris.
var noon = time.Date(2026, 10, 1, 12, 0, 0, 0, time.FixedZone("", 7200))

func newWorld(t testing.TB) *world {
	t.Helper()
	w, done := newWorldOf(t)
	t.Cleanup(done)
	return w
}

func newWorldOf(t tester) (w *world, done func()) {
	t.Helper()
	w = &world{t: t, clock: clocktest.At(noon.AddDate(0, 0, 60)), consents: &consents{denied: map[string]bool{}},
		vendors: map[string]*vendor{}}
	var err error
	if w.db, err = pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: w.clock.Now}); err != nil {
		t.Fatal(err)
	}
	rec, err := audit.NewRecorder(audit.Options{Store: w.db, Clock: w.clock.Now, Rand: rand.Reader,
		Observer: "https://example.org"})
	if err != nil {
		t.Fatal(err)
	}
	mapper, err := testMapper()
	if err != nil {
		t.Fatal(err)
	}
	policy, err := testPolicy()
	if err != nil {
		t.Fatal(err)
	}
	w.pipeline = &ingest.Pipeline{Store: w.db, Audit: rec, Consents: w.consents, Mapper: mapper, Clock: w.clock.Now}
	for _, code := range []string{"apple", "oura", "fitbit"} {
		w.vendors[code] = &vendor{code: code}
		w.pipeline.Adapters = append(w.pipeline.Adapters, w.vendors[code])
	}
	w.write(fhir.Resource{Type: "Patient", ID: "p1", JSON: []byte(fhir.Prefix("Patient", "p1") + `}}`)}, "")
	w.options = Options{Store: w.db, Audit: rec, Clock: w.clock.Now, Key: testKey, Policy: policy, Delay: time.Hour}
	w.start()
	w.view = &View{Store: w.db, Policy: policy}
	w.service = &interaction.Service{Store: w.db, Audit: rec, Clock: w.clock.Now, Rand: rand.Reader, Preferred: w.view,
		Base: "https://example.org/fhir"}
	return w, func() {
		w.engine.Close()
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (w *world) start() {
	w.t.Helper()
	var err error
	if w.engine, err = New(w.t.Context(), w.options); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(res fhir.Resource, vendor string) {
	w.t.Helper()
	if _, err := w.db.Commit(w.t.Context(),
		&store.Batch{Writes: []store.Write{{Resource: res, Vendor: vendor}}}); err != nil {
		w.t.Fatal(err)
	}
}

func operator() audit.Caller {
	return audit.Caller{Principal: &access.Principal{Operator: "uid:0", Grant: access.All()}}
}

// deliver ingests samples of a vendor.
func (w *world) deliver(vendor string, samples ...sample.Sample) {
	w.t.Helper()
	w.vendors[vendor].samples = samples
	w.n++
	s, err := w.pipeline.Run(w.t.Context(), ingest.Request{Patient: "p1", Vendor: vendor, Format: "test",
		Body: strings.NewReader(fmt.Sprint(w.n)), Caller: operator()})
	if err != nil {
		w.t.Fatal(err)
	}
	if s.Quarantined > 0 {
		w.t.Fatalf("%d of %d samples quarantined", s.Quarantined, s.Read)
	}
}

// erase erases the data of a vendor.
func (w *world) erase(vendor string) {
	w.t.Helper()
	_, err := w.pipeline.Erase(w.t.Context(), ingest.Erasure{Patient: "p1", Vendor: vendor, Caller: operator()})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sync() {
	w.t.Helper()
	if err := w.engine.Sync(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// stored is a preferred value in the store.
type stored struct {
	ID                string
	Version           uint64
	Vendor            string
	Status            string `json:"status"`
	EffectiveDateTime string `json:"effectiveDateTime"`
	EffectivePeriod   struct{ Start, End string }
	ValueQuantity     struct {
		Value      json.Number
		Unit, Code string
	}
	Method      struct{ Text string }
	Device      struct{ Reference string }
	DerivedFrom []struct {
		Reference  string
		Identifier struct{ System, Value string }
	}
	Component []struct {
		Code          concept
		ValueQuantity struct{ Value json.Number }
	}
}

// preferredOf returns the preferred values of a concept that a grant shows, in order of time.
func (w *world) preferredOf(g *access.Grant, name string) (out []stored) {
	w.t.Helper()
	q, err := search.Parse("Observation", [][2]string{{"patient", "p1"}, {"_tag", measures + "|" + Tag},
		{"code", measures + "|" + name}, {"_sort", "date"}}, search.ParseOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	err = w.db.Find(w.t.Context(), store.Find{Query: q, Filter: g.Filter(access.Search)}, func(f *store.Found) bool {
		s := stored{ID: f.Resource.ID, Version: f.Resource.Version, Vendor: f.Facts.Vendor}
		if err := json.Unmarshal(f.Resource.JSON, &s); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, s)
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) preferred(name string) []stored { return w.preferredOf(access.All(), name) }

// value returns the only preferred value of a concept.
func (w *world) value(name string) stored {
	w.t.Helper()
	list := w.preferred(name)
	if len(list) != 1 {
		w.t.Fatalf("%d values of %s, want 1: %+v", len(list), name, list)
	}
	return list[0]
}

// client returns the grant of a client that the consents govern.
func (w *world) client() *access.Grant {
	return &access.Grant{Recipient: "ehr", Consents: w.consents,
		Rules: []access.Rule{{Type: "*", May: access.Read | access.Search}}}
}

// stats returns a statistic of a code.
func (w *world) stats(g *access.Grant, code, statistic string, more ...interaction.Parameter) string {
	w.t.Helper()
	ps := append([]interaction.Parameter{{Name: "subject", Value: "Patient/p1"}, {Name: "coding", Value: code},
		{Name: "statistic", Value: statistic}}, more...)
	body, err := w.service.Stats(w.t.Context(), &interaction.Request{Caller: audit.Caller{
		Principal: &access.Principal{ClientID: "ehr", Operator: "uid:0", Grant: g}}}, ps)
	if err != nil {
		w.t.Fatal(err)
	}
	var out struct {
		Parameter []struct {
			Resource struct {
				Component []struct {
					ValueQuantity struct{ Value json.Number }
				}
			}
		}
	}
	if err := json.Unmarshal(body, &out); err != nil {
		w.t.Fatal(err)
	}
	if len(out.Parameter) != 1 || len(out.Parameter[0].Resource.Component) != 1 {
		w.t.Fatalf("statistics %s", body)
	}
	return out.Parameter[0].Resource.Component[0].ValueQuantity.Value.String()
}

var viaPreferred = interaction.Parameter{Name: "preferred", Value: "true"}

func number(v, unit string) sample.Value {
	return sample.Value{Kind: sample.Number, Num: v, Unit: unit}
}

var (
	watch   = sample.Device{Name: "Apple Watch", Manufacturer: "Apple Inc.", Model: "Watch", Hardware: "Watch6,7"}
	phone   = sample.Device{Name: "iPhone", Manufacturer: "Apple Inc.", Model: "iPhone", Hardware: "iPhone14,2"}
	tracker = sample.Device{Name: "Charge 6", Manufacturer: "Fitbit", Kind: "band"}
)

// steps returns an interval of 10 minutes with steps.
func steps(vendor string, d sample.Device, at time.Time, n int) sample.Sample {
	metric := map[string]string{"apple": "HKQuantityTypeIdentifierStepCount", "fitbit": "steps"}[vendor]
	return sample.Sample{Metric: metric, Channel: "test", Start: at, End: at.Add(10 * time.Minute), Device: d,
		Source: sample.Source{Name: d.Name}, Value: number(fmt.Sprint(n), "count")}
}
