package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/gin-gonic/gin"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/oura"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping"
	"pulsegate/mapping/table"
)

// TestMain collects garbage less often: the tests allocate much and keep little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	m.Run()
}

// testKey is the secret for ids in tests.
var testKey = []byte("0123456789abcdef0123456789abcdef")

// consents is a consent that a test can withdraw.
type consents struct {
	withdrawn     bool
	withdrawAfter int // number of calls of Collects before the withdrawal; 0 is never
	categories    map[string]bool
}

func (c *consents) Collects(context.Context, string, string) (fhir.Ref, bool, error) {
	if c.withdrawAfter > 0 {
		if c.withdrawAfter--; c.withdrawAfter == 0 {
			c.withdrawn = true
		}
	}
	return fhir.Ref{Type: "Consent", ID: "c1"}, !c.withdrawn, nil
}

func (c *consents) CollectsCategory(_ context.Context, _, _ string, cats ...string) (bool, error) {
	for _, k := range cats {
		if c.categories != nil && !c.categories[k] {
			return false, nil
		}
	}
	return !c.withdrawn, nil
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

// world is a Pipeline with the store of one patient, p1.
type world struct {
	t        tester
	pipeline *Pipeline
	consents *consents
	// othersWrite is set if the test writes Observations of the vendor itself, of which
	// nothing is kept.
	othersWrite bool
}

// testMapper is shared by all worlds, because loading the table takes longer
// than most tests.
var testMapper = sync.OnceValues(func() (*mapping.Mapper, error) {
	return mapping.New(table.Builtin(), mapping.Options{Key: testKey})
})

// neverSeries is testMapper without rows in series.
var neverSeries = sync.OnceValues(func() (*mapping.Mapper, error) {
	return mapping.New(table.Builtin(), mapping.Options{SeriesFrom: -1, Key: testKey})
})

func newWorld(t testing.TB) *world {
	t.Helper()
	w, done := newWorldOf(t)
	db := w.pipeline.Store
	t.Cleanup(func() {
		if _, bench := t.(*testing.B); !bench && !w.othersWrite {
			w.checkAllKept(db)
		}
		done()
	})
	w.pipeline.SpoolDir = t.TempDir()
	return w
}

func newWorldOf(t tester) (w *world, done func()) { return newWorldOn(t, "", vfs.NewMem()) }

func newWorldOn(t tester, dir string, fs vfs.FS) (w *world, done func()) {
	t.Helper()
	db, err := pebblestore.Open(dir, pebblestore.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	done = func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	clock := clocktest.Ticking(time.Date(2026, 12, 15, 12, 0, 0, 0, time.UTC), time.Millisecond).Now
	rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: clock, Rand: rand.Reader,
		Observer: "https://example.org"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := testMapper()
	if err != nil {
		t.Fatal(err)
	}
	c := &consents{}
	w = &world{t, &Pipeline{Store: db, Audit: rec, Consents: c, Mapper: m, Clock: clock,
		Adapters: []adapters.Adapter{apple.New(), fitbit.New(), oura.New()}}, c, false}
	if _, err := db.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: "Patient",
		ID: "p1", JSON: []byte(fhir.Prefix("Patient", "p1") + `}}`)}}}}); err != nil {
		t.Fatal(err)
	}
	return w, done
}

func (w *world) run(vendor, name, body string) (Summary, error) {
	return w.pipeline.Run(w.t.Context(),
		Request{Patient: "p1", Vendor: vendor, Name: name, Body: strings.NewReader(body),
			Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0", Grant: access.All()}}})
}

func (w *world) must(vendor, name, body string) Summary {
	w.t.Helper()
	s, err := w.run(vendor, name, body)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// all returns the current resources of a type.
func (w *world) all(typ string) map[string]fhir.Resource { return w.containing(typ, "") }

// containing returns the current resources of a type whose JSON contains a text.
func (w *world) containing(typ, text string) map[string]fhir.Resource {
	w.t.Helper()
	out := map[string]fhir.Resource{}
	err := w.pipeline.Store.Scan(w.t.Context(),
		store.ScanRange{Types: []string{typ}, Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
			r := f.Resource
			if bytes.Contains(r.JSON, []byte(text)) {
				r.JSON = bytes.Clone(r.JSON)
				out[r.ID] = r
			}
			return true
		})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func exportXML(records ...string) string {
	return `<?xml version="1.0"?><HealthData locale="en"><ExportDate value="2026-10-05 09:00:00 +0200"/>` +
		strings.Join(records, "") + `</HealthData>`
}

func recordXML(typ, unit, value, at, software string) string {
	return fmt.Sprintf(`<Record type="%s" sourceName="Watch" sourceVersion="%s" device="&lt;&lt;HKDevice: 0x1&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:Watch6,7, software:%s&gt;" unit="%s" creationDate="%s" startDate="%s" endDate="%s" value="%s"/>`,
		typ, software, software, unit, at, at, at, value)
}

const (
	heartRateType = "HKQuantityTypeIdentifierHeartRate"
	stepCountType = "HKQuantityTypeIdentifierStepCount"
)

func TestRepeatChangesNothing(t *testing.T) {
	w := newWorld(t)
	body := exportXML(recordXML(heartRateType, "count/min", "62", "2026-10-01 08:00:00 +0200", "11.0"),
		recordXML(heartRateType, "count/min", "64", "2026-10-01 09:00:00 +0200", "11.1"),
		recordXML(stepCountType, "count", "10", "2026-10-01 08:30:00 +0200", "10.9"),
		recordXML("HKQuantityTypeIdentifierUnheardOf", "x", "1", "2026-10-01 08:30:00 +0200", "11.0"))
	one := w.must("apple", "export.xml", body)
	if one.Created != 3 || one.Quarantined != 1 || one.Updated != 0 || one.Unchanged != 0 {
		t.Errorf("first: %+v", one)
	}
	log := w.pipeline.Store.Log().Size()
	two := w.must("apple", "export.xml", body)
	if two.Created != 0 || two.Updated != 0 || two.Unchanged != 3 || two.Quarantined != 1 {
		t.Errorf("second: %+v", two)
	}
	if got := w.pipeline.Store.Log().Size(); got != log+1 {
		t.Errorf("%d audit leaves for the repeat, want 1", got-log)
	}
	for typ, n := range map[string]int{"Observation": 3, "Device": 1, "Provenance": 1, "AuditEvent": 2} {
		got := w.all(typ)
		if len(got) != n {
			t.Errorf("%d of %s, want %d", len(got), typ, n)
		}
		for _, r := range got {
			if r.Version != 1 {
				t.Errorf("%s has version %d", r.Ref(), r.Version)
			}
		}
	}
	for _, d := range w.all("Device") {
		if !bytes.Contains(d.JSON, []byte(`"value":"11.1"`)) {
			t.Errorf("the device's version is not that of the latest sample: %s", d.JSON)
		}
	}
	var items []Item
	if err := w.pipeline.List(t.Context(), "p1",
		func(it *Item) bool { items = append(items, *it); return true }); err != nil {
		t.Fatal(err)
	}
	if len(items) != 1 || items[0].Reason != "unmapped" || items[0].Count != 1 {
		t.Errorf("quarantine %+v", items)
	}
	if sum, err := w.pipeline.Retry(t.Context(), audit.Caller{RequestID: "r"}); err != nil || sum.Created != 0 {
		t.Errorf("retry: %+v %v", sum, err)
	}
}

func night(total int) string {
	return fmt.Sprintf(`{"data":[{"id":"n1","bedtime_start":"2026-10-01T23:00:00+02:00","bedtime_end":"2026-10-02T07:00:00+02:00","day":"2026-10-02","deep_sleep_duration":5400,"light_sleep_duration":14400,"rem_sleep_duration":7200,"total_sleep_duration":%d,"time_in_bed":28800,"type":"long_sleep","period":0}],"next_token":null}`, total)
}

func TestRestatement(t *testing.T) {
	w := newWorld(t)
	if s := w.must("oura", "sleep.json", night(27000)); s.Created != 1 {
		t.Fatalf("%+v", s)
	}
	if s := w.must("oura", "sleep.json", night(26400)); s.Updated != 1 || s.Created != 0 {
		t.Fatalf("%+v", s)
	}
	check := func(version uint64, status, minutes string) {
		t.Helper()
		for _, o := range w.all("Observation") {
			if o.Version != version || !bytes.Contains(o.JSON, []byte(`"status":"`+status+`"`)) ||
				!bytes.Contains(o.JSON, []byte(`"value":`+minutes+`,"unit":"min"`)) {
				t.Errorf("version %d: %s", o.Version, o.JSON)
			}
		}
	}
	check(2, "amended", "440")
	if s := w.must("oura", "sleep.json", night(26400)); s.Unchanged != 1 || s.Updated != 0 {
		t.Errorf("delivered again right after: %+v", s)
	}
	// Nothing proves that this statement is older, so it counts.
	if s := w.must("oura", "sleep.json", night(27000)); s.Updated != 1 {
		t.Errorf("the vendor takes its change back: %+v", s)
	}
	check(3, "amended", "450")
	gone := strings.Replace(night(26400), "long_sleep", "deleted", 1)
	if s := w.must("oura", "sleep.json", gone); s.Updated == 0 {
		t.Errorf("%+v", s)
	}
	for _, o := range w.all("Observation") {
		if o.Version > 1 && !bytes.Contains(o.JSON, []byte(`"status":"entered-in-error"`)) {
			t.Errorf("a deleted night: %s", o.JSON)
		}
	}
}

func TestConsent(t *testing.T) {
	w := newWorld(t)
	w.consents.withdrawn = true
	body := exportXML(recordXML(heartRateType, "count/min", "62", "2026-10-01 08:00:00 +0200", "11.0"))
	if _, err := w.run("apple", "export.xml", body); fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("%v", err)
	}
	if len(w.all("Observation")) != 0 || len(w.all("AuditEvent")) != 1 {
		t.Error("without consent nothing is stored but the refusal")
	}
	w.consents.withdrawn, w.consents.categories = false, map[string]bool{"activity": true}
	s := w.must("apple", "export.xml", exportXML(recordXML(heartRateType, "count/min", "62",
		"2026-10-01 08:00:00 +0200", "11.0"),
		recordXML(stepCountType, "count", "5", "2026-10-01 08:00:00 +0200", "11.0")))
	if s.Created != 1 || s.ByMetric[heartRateType].Dropped != 1 {
		t.Errorf("categories: %+v", s)
	}
	// The consent is withdrawn during the delivery: earlier commits stay.
	w.consents.categories, w.consents.withdrawAfter, w.pipeline.Limits.Samples = nil, 3, 10
	var many []string
	for i := range 100 {
		many = append(many, recordXML(heartRateType, "count/min", fmt.Sprint(60+i),
			fmt.Sprintf("2026-10-02 08:%02d:%02d +0200", i/60, i%60), "11.0"))
	}
	s, err := w.run("apple", "export.xml", exportXML(many...))
	if fhir.KindOf(err) != fhir.Forbidden || s.Created != 10 {
		t.Errorf("withdrawn: %+v %v", s, err)
	}
}

func TestBadPayloads(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		vendor, file, body string
		kind               fhir.Kind
	}{
		"empty":   {"apple", "export.xml", "", fhir.Invalid},
		"unknown": {"apple", "x", "hello", fhir.Invalid},
		"truncated": {"apple", "export.xml",
			exportXML(recordXML(heartRateType, "count/min", "62", "2026-10-01 08:00:00 +0200", "11"))[:200],
			fhir.Invalid},
		"hostile zip":    {"apple", "export.zip", "PK\x03\x04" + strings.Repeat("\xff", 200), fhir.Invalid},
		"unknown vendor": {"acme", "x", "{}", fhir.Invalid},
	} {
		_, err := w.run(c.vendor, c.file, c.body)
		if fhir.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBodyLimits(t *testing.T) {
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	if _, err := io.CopyN(g, zeros{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]Limits{"ratio": {}, "size": {MaxRatio: 1 << 30, MaxBytes: 1 << 20}} {
		r, err := body(bytes.NewReader(z.Bytes()), "gzip", l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); fhir.KindOf(err) != fhir.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := body(strings.NewReader("x"), "br", Limits{}); fhir.KindOf(err) != fhir.Unsupported {
		t.Error(err)
	}
	if _, err := body(strings.NewReader("no gzip"), "gzip", Limits{}); fhir.KindOf(err) != fhir.Invalid {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type fixed struct{ p *access.Principal }

func (f fixed) Authenticate(*http.Request) (*access.Principal, error) {
	if f.p == nil {
		return nil, fhir.Errorf(fhir.Unauthorized, "test", "no token")
	}
	return f.p, nil
}

func TestHandler(t *testing.T) {
	gin.SetMode(gin.TestMode)
	w := newWorld(t)
	may := func(i access.Interaction) *access.Principal {
		return &access.Principal{ClientID: "c",
			Grant: &access.Grant{Recipient: "c", Rules: []access.Rule{{Type: "Observation", May: i}}}}
	}
	for name, c := range map[string]struct {
		who     *access.Principal
		patient string
		want    int
	}{
		"no token":   {nil, "p1", 401},
		"read only":  {may(access.Read), "p1", 403},
		"no patient": {may(access.Create), "nobody", 404},
		"good":       {may(access.Create), "p1", 200},
	} {
		e := gin.New()
		(&Handler{Pipeline: w.pipeline, Auth: fixed{c.who}}).Mount(e)
		var z bytes.Buffer
		g := gzip.NewWriter(&z)
		if _, err := io.WriteString(g, exportXML(recordXML(heartRateType, "count/min", "62",
			"2026-10-01 08:00:00 +0200",
			"11"))); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest("POST", "/ingest/apple/auto?patient="+c.patient, &z)
		req.Header.Set("Content-Encoding", "gzip")
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		if rec.Code != c.want {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
		if c.want == 200 {
			var got map[string]any
			if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || got["created"] != 1.0 || len(got) != 10 {
				t.Errorf("summary %s", rec.Body)
			}
		}
	}
}
