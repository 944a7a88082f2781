package phone_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/phone"
)

var start = time.Date(2026, 10, 18, 0, 0, 0, 0, time.UTC)

// server keeps the latest state of everything that is pushed to it.
type server struct {
	t   *testing.T
	url string

	mu     sync.Mutex
	status int
	held   map[string]string // values by type and UUID, or by metric and time
	gone   map[string]bool   // UUIDs of deleted samples
	bodies [][]byte
	header []http.Header
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, status: 200, held: map[string]string{}, gone: map[string]bool{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if r.Header.Get("Content-Encoding") == "zstd" {
		dec, problem := zstd.NewReader(bytes.NewReader(body))
		if problem != nil {
			s.t.Error(problem)
			return
		}
		defer dec.Close()
		body, err = io.ReadAll(dec)
	}
	if err != nil {
		s.t.Error(err)
	}
	if s.status != 200 {
		w.WriteHeader(s.status)
		return
	}
	s.bodies, s.header = append(s.bodies, body), append(s.header, r.Header.Clone())
	s.keep(body)
}

func (s *server) keep(body []byte) {
	var in struct {
		Data struct {
			Metrics []struct {
				Name string
				Data []json.RawMessage
			}
			Workouts []json.RawMessage
		}
		Samples []json.RawMessage
		Deleted []struct{ UUID, Type string }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		s.t.Error(err)
	}
	for _, m := range in.Data.Metrics {
		for _, raw := range m.Data {
			var row struct{ Date string }
			if err := json.Unmarshal(raw, &row); err != nil {
				s.t.Error(err)
			}
			s.held[m.Name+" "+row.Date] = string(raw)
		}
	}
	for _, raw := range append(in.Data.Workouts, in.Samples...) {
		var doc struct{ ID, UUID string }
		if err := json.Unmarshal(raw, &doc); err != nil {
			s.t.Error(err)
		}
		if !s.gone[doc.UUID] { // HealthKit never uses a UUID again
			s.held[doc.ID+doc.UUID] = string(raw)
		}
	}
	for _, d := range in.Deleted {
		s.gone[d.UUID] = true
		delete(s.held, d.UUID)
	}
}

func (s *server) set(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// equals compares what the server holds with the truth of a phone.
func (s *server) equals(p *phone.Phone) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held, want []string
	for _, v := range s.held {
		held = append(held, v)
	}
	for _, r := range p.Truth() {
		want = append(want, string(r.JSON))
	}
	slices.Sort(held)
	slices.Sort(want)
	if !slices.Equal(held, want) {
		for i := range min(len(held), len(want)) {
			if held[i] != want[i] {
				s.t.Logf("%d and %d values:\n%s\n%s", len(held), len(want), held[i], want[i])
				break
			}
		}
		return false
	}
	return len(want) > 0
}

func newPhone(t *testing.T, s *server, clock *simulate.Clock, change func(*phone.Options)) *phone.Phone {
	t.Helper()
	ws, err := simulate.Wearers(9, 3)
	if err != nil {
		t.Fatal(err)
	}
	o := phone.Options{Clock: clock, Wearer: ws[0], Start: start, URL: s.url, Header: "Authorization",
		Value: "Bearer the key", Seed: 9}
	change(&o)
	p, err := phone.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var formats = []phone.Format{phone.HealthAutoExport, phone.Companion}

// TestTruth pushes for two weeks, with batches that are sent twice, lost answers and
// times without network, and compares the server with the phone.
func TestTruth(t *testing.T) {
	for _, f := range formats {
		for name, rates := range map[string]map[simulate.Fault]float64{"without faults": nil,
			"faults": {simulate.Duplicate: 0.3, simulate.Drop: 0.3, simulate.Outage: 0.3, simulate.Reorder: 0.2}} {
			t.Run(fmt.Sprint(f, " ", name), func(t *testing.T) {
				s, clock := newServer(t), simulate.NewClock(nil, start, 1)
				p := newPhone(t, s, clock, func(o *phone.Options) {
					o.Format, o.Faults.Rates, o.Zstd = f, rates, f == phone.Companion
				})
				for range 14 * 4 {
					clock.Add(6 * time.Hour)
					if err := p.Advance(t.Context()); err != nil {
						t.Fatal(err)
					}
					if rates == nil && p.Sent().Accepted > 0 && !s.equals(p) {
						t.Fatalf("%v: the server differs from the phone", clock.Now())
					}
				}
				p.Faults().SetRates(nil)
				clock.Add(48 * time.Hour)
				if err := p.Advance(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !s.equals(p) {
					t.Error("the server differs from the phone at the end")
				}
				stats := p.Sent()
				for fault := range rates {
					if stats.Injected[fault] == 0 {
						t.Errorf("no %s in %+v", fault, stats)
					}
				}
				if f == phone.Companion && !s.sawDeletions() {
					t.Error("no deletion")
				}
			})
		}
	}
}

func (s *server) sawDeletions() bool {
	return slices.ContainsFunc(s.bodies, func(b []byte) bool { return !bytes.Contains(b, []byte(`"deleted":[]`)) })
}

// TestCatchesUp checks that a phone delivers everything in batches of a few days after the
// server has failed for weeks.
func TestCatchesUp(t *testing.T) {
	for _, f := range formats {
		s, clock := newServer(t), simulate.NewClock(nil, start, 1)
		p := newPhone(t, s, clock, func(o *phone.Options) { o.Format, o.MostDays = f, 3 })
		s.set(503)
		for range 20 {
			clock.Add(24 * time.Hour)
			if err := p.Advance(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if stats := p.Sent(); stats.Accepted > 0 || stats.Refused == 0 || len(p.Truth()) > 20 {
			t.Errorf("%s: %+v, %d values", f, stats, len(p.Truth()))
		}
		s.set(200)
		if err := p.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !s.equals(p) || len(p.Truth()) < 20*200 || len(s.bodies) < 7 {
			t.Errorf("%s: %d values in %d batches", f, len(p.Truth()), len(s.bodies))
		}
	}
}

// TestRequests checks the headers of the requests, and that equal phones send the same.
func TestRequests(t *testing.T) {
	for _, f := range formats {
		var runs [2]*server
		for i := range runs {
			s, clock := newServer(t), simulate.NewClock(nil, start.AddDate(0, 0, 5), 1)
			runs[i] = s
			if err := newPhone(t, s, clock, func(o *phone.Options) { o.Format = f }).Advance(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if len(runs[0].bodies) == 0 || !slices.EqualFunc(runs[0].bodies, runs[1].bodies, bytes.Equal) {
			t.Errorf("%s: two equal phones send different bodies", f)
		}
		sessions := map[string]bool{}
		for _, h := range runs[0].header {
			if h.Get("Authorization") != "Bearer the key" || h.Get("Content-Type") != "application/json" {
				t.Errorf("%s: header %v", f, h)
			}
			if f == phone.HealthAutoExport {
				for _, name := range []string{"automation-name", "automation-id", "automation-aggregation",
					"automation-period", "session-id"} {
					if h.Get(name) == "" {
						t.Errorf("no header %s", name)
					}
				}
				if sessions[h.Get("session-id")] {
					t.Error("two requests of one session")
				}
				sessions[h.Get("session-id")] = true
			}
		}
	}
}

// TestAdapterDecodesEverything decodes the bodies with the adapter.
func TestAdapterDecodesEverything(t *testing.T) {
	for _, f := range formats {
		t.Run(string(f), func(t *testing.T) {
			if !slices.ContainsFunc(apple.New().Formats(),
				func(x adapters.Format) bool { return x.Name == string(f) }) {
				t.Fatalf("the adapter does not read %s", f)
			}
			s, clock := newServer(t), simulate.NewClock(nil, start.AddDate(0, 0, 10), 1)
			if err := newPhone(t, s, clock, func(o *phone.Options) { o.Format = f }).Advance(t.Context()); err != nil {
				t.Fatal(err)
			}
			metrics := map[string]int{}
			for i, body := range s.bodies {
				rec := adaptertest.NewRecorder()
				facts := map[string]string{"automation-aggregation": s.header[i].Get("automation-aggregation")}
				if err := apple.New().Decode(t.Context(), adapters.Input{Format: string(f), Body: bytes.NewReader(body),
					At: bytes.NewReader(body), Size: int64(len(body)), Delivery: facts, Received: clock.Now()},
					rec); err != nil {
					t.Fatal(err)
				}
				for _, r := range rec.Rejects {
					t.Errorf("%+v", *r)
				}
				for _, sample := range rec.Samples {
					metrics[sample.Metric]++
				}
			}
			if len(metrics) < 6 {
				t.Errorf("only %v", metrics)
			}
		})
	}
}

func TestNew(t *testing.T) {
	if _, err := phone.New(phone.Options{Format: "csv"}); err == nil {
		t.Error("an unknown format is accepted")
	}
}
