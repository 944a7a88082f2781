package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
)

// trail returns the number of AuditEvents by "outcome reason".
func (w *world) trail() map[string]int {
	w.t.Helper()
	out := map[string]int{}
	for _, r := range w.all("AuditEvent") {
		var e struct{ Outcome, OutcomeDesc string }
		if err := json.Unmarshal(r.JSON, &e); err != nil {
			w.t.Fatal(err)
		}
		out[strings.TrimSpace(e.Outcome+" "+e.OutcomeDesc)]++
		if strings.Contains(string(r.JSON), "SECRET") {
			w.t.Errorf("the audit trail contains the payload: %s", r.JSON)
		}
	}
	return out
}

func manyRecords(n int) string {
	var out []string
	for i := range n {
		out = append(out, recordXML(heartRateType, "count/min", fmt.Sprint(60+i),
			fmt.Sprintf("2026-10-02 08:%02d:%02d +0200", i/60, i%60), "11.0"))
	}
	return exportXML(out...)
}

// TestFailuresAreAudited checks that the audit trail has the outcome of every
// delivery and no content of its payload.
func TestFailuresAreAudited(t *testing.T) {
	full := manyRecords(100)
	for name, c := range map[string]struct {
		vendor, patient, body string
		prepare               func(*world)
		want                  map[string]int
	}{
		"unknown format": {body: "SECRET", want: map[string]int{"4 " + reasonUnreadable: 1}},
		"empty":          {body: "", want: map[string]int{"4 " + reasonUnreadable: 1}},
		"cut short":      {body: full[:150] + "SECRET", want: map[string]int{"4 " + reasonUnreadable: 1}},
		"cut late": {body: full[:len(full)/2], prepare: func(w *world) { w.pipeline.Limits.Samples = 45 },
			want: map[string]int{"0": 2, "4 " + reasonUnreadable: 1}},
		"unknown vendor":  {vendor: "SECRET", body: full, want: map[string]int{"4 " + reasonUnknown: 1}},
		"unknown patient": {patient: "p2", body: full, want: map[string]int{"4 " + reasonUnknown: 1}},
		"no consent": {body: full, prepare: func(w *world) { w.consents.withdrawn = true },
			want: map[string]int{"8 " + reasonNoConsent: 1}},
		"withdrawn": {body: full, prepare: func(w *world) {
			w.consents.withdrawAfter, w.pipeline.Limits.Samples = 3,
				10
		},
			want: map[string]int{"0": 1, "8 " + reasonWithdrawn: 1}},
		"good": {body: full, want: map[string]int{"0": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.prepare != nil {
				c.prepare(w)
			}
			q := Request{Patient: "p1", Vendor: "apple", Name: "export.xml", Body: strings.NewReader(c.body),
				Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0", Grant: access.All()}}}
			if c.vendor != "" {
				q.Vendor = c.vendor
			}
			if c.patient != "" {
				q.Patient = c.patient
			}
			if name == "unknown format" {
				q.Name = "x"
			}
			if _, err := w.pipeline.Run(t.Context(), q); (err == nil) != (name == "good") {
				t.Errorf("%v", err)
			}
			if got := w.trail(); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestInterruptionIsAudited checks that an interruption is recorded even if the
// caller has gone.
func TestInterruptionIsAudited(t *testing.T) {
	w := newWorld(t)
	w.pipeline.Limits.Samples = 10
	ctx, cancel := context.WithCancel(t.Context())
	body := manyRecords(100)
	half := &endHook{strings.NewReader(body[:len(body)/2]), cancel}
	_, err := w.pipeline.Run(ctx, Request{Patient: "p1", Vendor: "apple", Format: "export.xml",
		Body: io.MultiReader(half, strings.NewReader(body[len(body)/2:]))})
	if err == nil {
		t.Error("no error")
	}
	if got := w.trail(); got["4 "+reasonInterrupted] != 1 {
		t.Errorf("%v", got)
	}
}

// endHook calls at at the end of r.
type endHook struct {
	r  io.Reader
	at func()
}

func (h *endHook) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if err == io.EOF {
		h.at()
	}
	return n, err
}

func TestRefusedRequestsAreAudited(t *testing.T) {
	gin.SetMode(gin.TestMode)
	may := func(i access.Interaction) *access.Principal {
		return &access.Principal{ClientID: "c",
			Grant: &access.Grant{Recipient: "c", Rules: []access.Rule{{Type: "Observation", May: i}}}}
	}
	for want, c := range map[string]struct {
		who      *access.Principal
		url      string
		encoding string
	}{
		"8 " + reasonNoAccess:   {nil, "/ingest/apple/auto?patient=p1", ""},
		"8 " + reasonNoScope:    {may(access.Read), "/ingest/apple/auto?patient=p1", ""},
		"4 " + reasonUnknown:    {may(access.Create), "/ingest/apple/auto", ""},
		"4 " + reasonUnreadable: {may(access.Create), "/ingest/apple/auto?patient=p1", "br"},
	} {
		w := newWorld(t)
		e := gin.New()
		(&Handler{Pipeline: w.pipeline, Auth: fixed{c.who}}).Mount(e)
		req := httptest.NewRequest("POST", c.url, strings.NewReader("SECRET"))
		req.Header.Set("Content-Encoding", c.encoding)
		e.ServeHTTP(httptest.NewRecorder(), req)
		if got := w.trail(); len(got) != 1 || got[want] != 1 {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

// fakeMeter is a meter provider that keeps the counts.
type fakeMeter struct {
	noop.MeterProvider
	mu   sync.Mutex
	sums map[string]int64
}

func (g *fakeMeter) Meter(string, ...metric.MeterOption) metric.Meter { return &gaugeMeter{g: g} }

type gaugeMeter struct {
	noop.Meter
	g *fakeMeter
}

func (m *gaugeMeter) Int64Counter(name string, _ ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return &gaugeCounter{g: m.g, name: name}, nil
}

func (m *gaugeMeter) Int64Histogram(name string, _ ...metric.Int64HistogramOption) (metric.Int64Histogram, error) {
	return &gaugeHistogram{g: m.g, name: name}, nil
}

type gaugeCounter struct {
	noop.Int64Counter
	g    *fakeMeter
	name string
}

func (c *gaugeCounter) Add(_ context.Context, n int64, o ...metric.AddOption) {
	c.g.add(c.name, metric.NewAddConfig(o).Attributes(), n)
}

type gaugeHistogram struct {
	noop.Int64Histogram
	g    *fakeMeter
	name string
}

func (c *gaugeHistogram) Record(_ context.Context, n int64, o ...metric.RecordOption) {
	c.g.add(c.name, metric.NewRecordConfig(o).Attributes(), n)
}

func (g *fakeMeter) add(name string, set attribute.Set, n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sums[name+" "+set.Encoded(attribute.DefaultEncoder())] += n
}

func TestMeters(t *testing.T) {
	g := &fakeMeter{sums: map[string]int64{}}
	before := otel.GetMeterProvider()
	otel.SetMeterProvider(g)
	defer otel.SetMeterProvider(before)
	w := newWorld(t)
	clear(g.sums)
	body := exportXML(recordXML(heartRateType, "count/min", "62", "2026-10-01 08:00:00 +0200", "11.0"),
		recordXML("HKQuantityTypeIdentifierUnheardOf", "x", "1", "2026-10-01 08:30:00 +0200", "11.0"))
	w.must("apple", "export.xml", body)
	w.must("apple", "export.xml", body)
	for name, want := range map[string]int64{
		// including the export's date
		"pulsegate.ingest.samples pulsegate.outcome=read,pulsegate.vendor=apple":        6,
		"pulsegate.ingest.samples pulsegate.outcome=dropped,pulsegate.vendor=apple":     2,
		"pulsegate.ingest.samples pulsegate.outcome=created,pulsegate.vendor=apple":     1,
		"pulsegate.ingest.samples pulsegate.outcome=unchanged,pulsegate.vendor=apple":   1,
		"pulsegate.ingest.samples pulsegate.outcome=quarantined,pulsegate.vendor=apple": 2,
		// Observation, Device, Provenance, two AuditEvents
		"pulsegate.ingest.batch.writes pulsegate.vendor=apple": 5,
	} {
		if g.sums[name] != want {
			t.Errorf("%s is %d, want %d", name, g.sums[name], want)
		}
	}
	for name := range g.sums {
		if strings.Contains(name, "p1") {
			t.Errorf("a patient in %s", name)
		}
	}
}
