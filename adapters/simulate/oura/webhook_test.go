package oura_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
)

// TestSignatureVectors signs the valid cases of a file of vectors.
func TestSignatureVectors(t *testing.T) {
	raw, err := os.ReadFile(adaptertest.Fixtures(t, "oura/derived/webhook-signature-vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Name    string
			Secret  string `json:"client_secret"`
			Headers map[string]string
			Body    string `json:"raw_body"`
			Valid   bool
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	for _, c := range file.Cases {
		got := oura.Sign(c.Secret, c.Headers["x-oura-timestamp"], []byte(c.Body))
		if want := strings.ToUpper(c.Headers["x-oura-signature"]); (got == want) != c.Valid ||
			got != strings.ToUpper(got) {
			t.Errorf("%s: %s, want %s: %v", c.Name, got, want, c.Valid)
		}
	}
	if len(file.Cases) < 5 {
		t.Errorf("only %d vectors", len(file.Cases))
	}
}

// TestSign checks a signature computed with openssl:
// printf '1783929600{"a":1}' | openssl dgst -sha256 -hmac secret
func TestSign(t *testing.T) {
	const want = "FF4571F5D5E9FD0088F334CCD624F85C82777B4F8CFA9F03318F54426290CC90"
	if got := oura.Sign("secret", "1783929600", []byte(`{"a":1}`)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// receiver is a callback. Its status and its answer to challenges can be changed.
type receiver struct {
	url string

	mu     sync.Mutex
	status int
	broken bool // answers challenges with another one
	events []event
	bodies []string
	bad    []string // problems with requests
}

type event struct {
	Type   string `json:"event_type"`
	Data   string `json:"data_type"`
	Object string `json:"object_id"`
	Time   string `json:"event_time"`
	User   string `json:"user_id"`
}

func newReceiver(t *testing.T, w *world, secret string) *receiver {
	t.Helper()
	rec := &receiver{status: 204}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		if r.Method == "GET" {
			challenge := r.URL.Query().Get("challenge")
			if rec.broken || r.URL.Query().Get("verification_token") != "my token" {
				challenge = "another"
			}
			fmt.Fprintf(rw, `{"challenge":%q}`, challenge)
			return
		}
		body, err := io.ReadAll(r.Body)
		var e event
		if err != nil || json.Unmarshal(body, &e) != nil {
			rec.bad = append(rec.bad, "body")
		}
		stamp := r.Header.Get("x-oura-timestamp")
		if r.Header.Get("x-oura-signature") != oura.Sign(secret, stamp, body) ||
			stamp != fmt.Sprint(w.clock.Now().Unix()) || r.Header.Get("Content-Type") != "application/json" {
			rec.bad = append(rec.bad, "signature")
		}
		rec.bodies = append(rec.bodies, string(body))
		if rec.status < 300 {
			rec.events = append(rec.events, e)
		}
		rw.WriteHeader(rec.status)
	}))
	t.Cleanup(srv.Close)
	rec.url = srv.URL + "/oura/events?path=kept"
	return rec
}

// set changes the status with which events are answered.
func (rec *receiver) set(status int) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.status = status
}

// take returns and forgets the events so far.
func (rec *receiver) take(t *testing.T) []event {
	t.Helper()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.bad) > 0 {
		t.Errorf("requests with a bad %v", rec.bad)
	}
	out := rec.events
	rec.events, rec.bodies = nil, nil
	return out
}

// subscription sends a request for a subscription.
func (w *world) subscription(method, path string, body map[string]string) (answer, map[string]string) {
	w.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	a := w.do(w.request(method, "/v2/webhook/subscription"+path, string(raw), "x-client-id", moi.ID,
		"x-client-secret", moi.Secret))
	out := map[string]string{}
	if strings.HasPrefix(a.body, `{"id"`) || strings.HasPrefix(a.body, `{"callback`) {
		if err := json.Unmarshal([]byte(a.body), &out); err != nil {
			w.t.Fatal(err)
		}
	}
	return a, out
}

func creation(rec *receiver, eventType, dataType string) map[string]string {
	return map[string]string{"callback_url": rec.url, "verification_token": "my token", "event_type": eventType,
		"data_type": dataType}
}

// subscribe subscribes to all events of all types.
func (w *world) subscribe(rec *receiver) {
	w.t.Helper()
	for _, typ := range documentTypes {
		for _, e := range []string{"create", "update", "delete"} {
			if a, _ := w.subscription("POST", "", creation(rec, e, strings.ToLower(typ))); a.status != 201 {
				w.t.Fatalf("%s %s: %d %s", e, typ, a.status, a.body)
			}
		}
	}
}

func (w *world) advance(d time.Duration) {
	w.t.Helper()
	w.clock.Add(d)
	if err := w.cloud.Advance(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func TestSubscriptions(t *testing.T) {
	w := newWorld(t, 1, nil)
	rec := newReceiver(t, w, moi.Secret)
	a, sub := w.subscription("POST", "", creation(rec, "create", "sleep"))
	if a.status != 201 || sub["callback_url"] != rec.url || sub["event_type"] != "create" ||
		sub["data_type"] != "sleep" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	expires := w.clock.Now().Add(90 * 24 * time.Hour).Format("2006-01-02T15:04:05.000000")
	if sub["expiration_time"] != expires {
		t.Errorf("expires %s, want %s without a zone", sub["expiration_time"], expires)
	}
	if a, _ := w.subscription("POST", "", creation(rec, "create", "sleep")); a.status != 409 {
		t.Errorf("a second subscription to the same: %d", a.status)
	}
	w.clock.Add(85 * 24 * time.Hour)
	if a, renewed := w.subscription("PUT", "/renew/"+sub["id"], nil); a.status != 200 ||
		renewed["expiration_time"] <= expires {
		t.Errorf("renewed: %d %s", a.status, a.body)
	}
	change := map[string]string{"verification_token": "my token", "event_type": "update"}
	if a, changed := w.subscription("PUT", "/"+sub["id"], change); a.status != 200 ||
		changed["event_type"] != "update" {
		t.Errorf("changed: %d %s", a.status, a.body)
	}
	if a, _ := w.subscription("GET", "", nil); a.status != 200 || strings.Count(a.body, `"id"`) != 1 {
		t.Errorf("list: %d %s", a.status, a.body)
	}
	other := w.request("GET", "/v2/webhook/subscription/"+sub["id"], "", "x-client-id", legacy.ID, "x-client-secret",
		legacy.Secret)
	if a := w.do(other); a.status != 404 {
		t.Errorf("a subscription of another client: %d", a.status)
	}
	w.clock.Add(90 * 24 * time.Hour)
	if a, _ := w.subscription("GET", "/"+sub["id"], nil); a.status != 404 {
		t.Errorf("after it ended: %d", a.status)
	}
	_, sub = w.subscription("POST", "", creation(rec, "create", "sleep"))
	if a, _ := w.subscription("DELETE", "/"+sub["id"], nil); a.status != 204 {
		t.Errorf("deleted: %d", a.status)
	}
	for _, path := range []string{"/" + sub["id"], "/renew/" + sub["id"]} {
		if a, _ := w.subscription("PUT", path, change); a.status != 404 || !strings.Contains(a.body, sub["id"]) {
			t.Errorf("%s after it was deleted: %d %s", path, a.status, a.body)
		}
	}
}

func TestRefusedSubscriptions(t *testing.T) {
	w := newWorld(t, 1, nil)
	rec := newReceiver(t, w, moi.Secret)
	for _, c := range []struct {
		change func(map[string]string)
		status int
		body   string
	}{
		{func(b map[string]string) { delete(b, "callback_url") }, 422, `"loc":["body","callback_url"]`},
		{func(b map[string]string) { delete(b, "verification_token") }, 422, `"loc":["body","verification_token"]`},
		{func(b map[string]string) { b["event_type"] = "x" }, 422, `"loc":["body","event_type"]`},
		{func(b map[string]string) { b["data_type"] = "heartrate" }, 422, `"loc":["body","data_type"]`},
		{func(b map[string]string) { b["callback_url"] = "nonsense" }, 400, "not valid"},
		{func(b map[string]string) { b["callback_url"] = "http://127.0.0.1:1/" }, 400, "no answer"},
		{func(b map[string]string) { b["verification_token"] = "wrong" }, 400, "not repeated"},
	} {
		b := creation(rec, "create", "sleep")
		c.change(b)
		if a, _ := w.subscription("POST", "", b); a.status != c.status || !strings.Contains(a.body, c.body) {
			t.Errorf("%d %s, want %d %s", a.status, a.body, c.status, c.body)
		}
	}
	bad := w.request("GET", "/v2/webhook/subscription", "", "x-client-id", moi.ID, "x-client-secret", "wrong")
	if a := w.do(bad); a.status != 401 {
		t.Errorf("wrong secret: %d", a.status)
	}
}

// contents returns the documents that the cloud holds, by type and id.
func (w *world) contents(wearer int) map[string]string {
	out := map[string]string{}
	for _, r := range w.cloud.Truth(w.cloud.Accounts()[wearer], documentTypes...) {
		out[strings.ToLower(r.Type)+" "+r.ID] = string(r.JSON)
	}
	return out
}

// TestEventsAreTheChanges advances the clock in steps and compares the events with what
// changed in the cloud, document by document.
func TestEventsAreTheChanges(t *testing.T) {
	w := newWorld(t, 4, nil)
	rec := newReceiver(t, w, moi.Secret)
	w.subscribe(rec)
	before := map[int]map[string]string{}
	for i := range 4 {
		w.link(i, everything)
		before[i] = w.contents(i)
	}
	w.advance(0)
	rec.take(t)
	kinds := map[string]int{}
	for range 30 {
		w.advance(13 * time.Hour)
		w.advance(time.Minute) // events follow their sync by half a minute
		got := map[string]bool{}
		for _, e := range rec.take(t) {
			got[e.User+" "+e.Data+" "+e.Object] = true
			kinds[e.Type+" "+e.Data]++
		}
		want := map[string]bool{}
		for i := range 4 {
			after := w.contents(i)
			for id := range mergedKeys(before[i], after) {
				if before[i][id] != after[id] {
					want[w.cloud.Accounts()[i]+" "+id] = true
				}
			}
			before[i] = after
		}
		for id := range want {
			if !got[id] {
				t.Errorf("%v: no event for %s", w.clock.Now(), id)
			}
		}
		if len(got) < len(want) || len(got) > len(want)+len(want)/4+2 {
			t.Errorf("%d documents with events, %d with changes", len(got), len(want))
		}
	}
	for _, k := range []string{"create sleep", "update sleep", "delete sleep", "update daily_activity",
		"update daily_sleep", "delete daily_sleep", "delete workout", "create vo2_max", "update ring_configuration",
		"update rest_mode_period"} {
		if kinds[k] == 0 {
			t.Errorf("no event %s", k)
		}
	}
	s := w.cloud.Sent()
	if s.Accepted != s.Events || s.Sent != s.Events || w.cloud.Pending() != 0 {
		t.Errorf("%+v, %d pending", s, w.cloud.Pending())
	}
}

func mergedKeys(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// TestEventsNeedAGrant checks that events concern linked accounts and granted scopes only.
func TestEventsNeedAGrant(t *testing.T) {
	w := newWorld(t, 3, nil)
	rec := newReceiver(t, w, moi.Secret)
	w.subscribe(rec)
	w.link(1, "extapi:spo2")
	w.link(2, everything)
	w.cloud.RevokeGrant(w.cloud.Accounts()[2])
	w.advance(48 * time.Hour)
	w.advance(time.Minute)
	got := rec.take(t)
	for _, e := range got {
		if e.User != w.cloud.Accounts()[1] || e.Data != "daily_spo2" {
			t.Errorf("event %+v", e)
		}
	}
	if len(got) == 0 {
		t.Error("no event")
	}
}

// TestRetries checks that an event is sent ten times more over about an hour.
func TestRetries(t *testing.T) {
	w := newWorld(t, 1, nil)
	rec := newReceiver(t, w, moi.Secret)
	if a, _ := w.subscription("POST", "", creation(rec, "create", "daily_spo2")); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	w.link(0, everything)
	rec.set(500)
	for w.cloud.Pending() == 0 {
		w.advance(time.Minute)
	}
	from := w.clock.Now()
	var last time.Time
	for n := 0; w.cloud.Pending() > 0; w.advance(15 * time.Second) {
		if sent := w.cloud.Sent().Sent; sent > n {
			n, last = sent, w.clock.Now()
		}
	}
	s := w.cloud.Sent()
	if lasted := last.Sub(from); s.Sent != 11*s.Failed || s.Failed == 0 || lasted < 45*time.Minute ||
		lasted > 75*time.Minute {
		t.Errorf("%d requests, %d given up, within %v", s.Sent, s.Failed, lasted)
	}
	rec.set(410)
	for range 3 * 24 * 60 {
		w.advance(time.Minute)
	}
	if a, _ := w.subscription("GET", "", nil); strings.TrimSpace(a.body) != "[]" {
		t.Errorf("410 did not end the subscription: %s", a.body)
	}
	if again := w.cloud.Sent().Sent; again != s.Sent+1 {
		t.Errorf("%d requests after the subscription ended", again-s.Sent-1)
	}
}

// TestDuplicatesAndOrder checks events that are sent twice, late or never, and that the
// faults are the same for the same seed.
func TestDuplicatesAndOrder(t *testing.T) {
	run := func(rates map[simulate.Fault]float64) ([]event, oura.Stats) {
		w := newWorld(t, 2, func(o *oura.Options) { o.Faults.Rates = rates })
		rec := newReceiver(t, w, moi.Secret)
		w.subscribe(rec)
		w.link(0, everything)
		w.link(1, everything)
		for range 3 * 24 {
			w.advance(time.Hour)
		}
		return rec.take(t), w.cloud.Sent()
	}
	all, _ := run(nil)
	for fault, check := range map[simulate.Fault]func(got []event, n int) bool{
		simulate.Duplicate: func(got []event, n int) bool { return len(got) == len(all)+n },
		simulate.LostEvent: func(got []event, n int) bool { return len(got) == len(all)-n },
		simulate.Reorder:   func(got []event, _ int) bool { return len(got) == len(all) && !slices.Equal(got, all) },
	} {
		rates := map[simulate.Fault]float64{fault: 0.2}
		got, s := run(rates)
		again, _ := run(rates)
		if n := int(s.Injected[fault]); n == 0 || !check(got, n) || !slices.Equal(got, again) {
			t.Errorf("%s: %d events, %d without faults, %d injected", fault, len(got), len(all), n)
		}
		for _, e := range got {
			if !slices.Contains(all, e) {
				t.Errorf("%s: an event that does not occur: %+v", fault, e)
			}
		}
	}
}

// TestRun checks that Run sends events as time passes and ends with its context.
func TestRun(t *testing.T) {
	wall := simulate.NewClock(time.Now, start, 1)
	w := newWorld(t, 5, func(o *oura.Options) {
		o.Clock = simulate.NewClock(wall.Now, start.AddDate(0, 0, 5), 24*3600)
		o.Wall = wall.Now // the code and the tokens do not expire within the test
	})
	got := make(chan struct{}, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			fmt.Fprintf(rw, `{"challenge":%q}`, r.URL.Query().Get("challenge"))
			return
		}
		select {
		case got <- struct{}{}:
		default:
		}
	}))
	defer srv.Close()
	w.subscribe(&receiver{url: srv.URL})
	w.link(0, everything)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- w.cloud.Run(ctx) }()
	for range 5 {
		select {
		case <-got:
		case <-time.After(2 * time.Minute):
			t.Fatal("no event")
		}
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("Run ended without an error")
	}
}

// noNetwork answers challenges and accepts events without a listener.
type noNetwork struct{}

func (noNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	body := fmt.Sprintf(`{"challenge":%q}`, r.URL.Query().Get("challenge"))
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// TestThousandsOfWearers checks that memory does not grow with time: documents and events
// that have been delivered are not stored.
func TestThousandsOfWearers(t *testing.T) {
	const wearers = 500
	w := newWorld(t, wearers, func(o *oura.Options) { o.HTTP = &http.Client{Transport: noNetwork{}} })
	w.subscribe(&receiver{url: "https://pulsegate.example/events"})
	for i := range wearers {
		w.link(i, everything)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 24 {
		w.advance(time.Hour)
	}
	if after, limit := heap(), before+4<<20; after > limit {
		t.Errorf("%d bytes of heap after a day, %d before", after, before)
	}
	if s := w.cloud.Sent(); s.Accepted < 10*wearers {
		t.Errorf("%+v", s)
	}
}
