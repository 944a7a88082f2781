package subscription

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

const base = "https://pulse.example.org/fhir"

// consents permits everything except the data of withdrawn patients.
type consents struct {
	mu        sync.Mutex
	withdrawn map[string]bool
}

func (c *consents) Permits(_ string, f *access.Facts) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.withdrawn[f.Patient]
}

func (c *consents) withdraw(patient string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withdrawn[patient] = true
}

type world struct {
	t        *testing.T
	st       store.Store
	engine   *Engine
	consents *consents
	opts     Options
	n        int
}

func loopback() egress.Policy {
	return egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := newStore(t)
	w.start()
	t.Cleanup(func() { w.engine.Close() })
	return w
}

// newStore returns a world without an Engine.
func newStore(t *testing.T) *world {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, st: st, consents: &consents{withdrawn: map[string]bool{}}}
	w.opts = Options{
		Store: st, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: base, Policy: loopback(),
		HandshakeDelay: 5 * time.Millisecond, MinBackoff: 5 * time.Millisecond, MaxBackoff: 40 * time.Millisecond,
		GrantFor: func(context.Context, string) (*access.Grant, error) { return w.grant("ehr"), nil },
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) grant(client string) *access.Grant {
	return &access.Grant{Recipient: client, Consents: w.consents,
		Rules: []access.Rule{{Type: "*", May: access.Read | access.Search}}}
}

func (w *world) principal(client string) *access.Principal {
	return &access.Principal{ClientID: client, TokenID: "t", Grant: w.grant(client)}
}

func (w *world) start() {
	w.t.Helper()
	e, err := New(context.Background(), w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.engine = e
}

func (w *world) restart() {
	w.t.Helper()
	w.engine.Close()
	w.start()
}

func (w *world) put(author string, res fhir.Resource) store.Outcome {
	w.t.Helper()
	r, err := w.st.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: res, Author: author}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Outcomes[0]
}

func subscriptionJSON(endpoint string, content Content, filter, extra string) string {
	f := ""
	if filter != "" {
		f = `,"_criteria":{"extension":[{"url":"` + extBase + `backport-filter-criteria","valueString":"` + filter +
			`"}]}`
	}
	return `"status":"requested","reason":"test","criteria":"` + Topic + `"` + f + `,"channel":{` + extra +
		`"type":"rest-hook","endpoint":"` + endpoint +
		`","payload":"application/fhir+json","_payload":{"extension":[{"url":"` + extBase +
		`backport-payload-content","valueCode":"` + string(content) +
		`"}]},"header":["X-Secret: s3","Authorization: Bearer abc"]}}`
}

// subscribe checks and commits a Subscription like an interaction.
func (w *world) subscribe(id, body string) {
	w.t.Helper()
	res := &fhir.Resource{Type: "Subscription", ID: id, JSON: []byte(fhir.Prefix("Subscription", id) + `},` + body)}
	out, err := w.engine.Check(context.Background(), w.principal("ehr"), res, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.put("ehr", *out)
}

func (w *world) observe(patient, code string) string {
	w.t.Helper()
	w.n++
	id := fmt.Sprintf("o%d", w.n)
	body := fhir.Prefix("Observation", id) +
		`},"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"` +
		code + `"}]},"subject":{"reference":"Patient/` + patient +
		`"},"effectiveDateTime":"2026-03-01T10:00:00Z","valueQuantity":{"value":62,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}`
	w.put("", fhir.Resource{Type: "Observation", ID: id, JSON: []byte(body)})
	return id
}

func (w *world) status(id string) string {
	w.t.Helper()
	res, _, err := w.st.Read(context.Background(), fhir.Ref{Type: "Subscription", ID: id}, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	var s struct{ Status string }
	if err := json.Unmarshal(res.JSON, &s); err != nil {
		w.t.Fatalf("%v: %s", err, res.JSON)
	}
	return s.Status
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("timeout: %s", what)
}

// notification is a parsed notification Bundle.
type notification struct {
	typ, status, topic string
	total              string
	numbers            []uint64
	focus              []string
	resources          []string
	fullURLs           []string
}

func readNotification(t *testing.T, body []byte) notification {
	t.Helper()
	var b struct {
		Type  string
		Entry []struct {
			FullURL  string
			Resource json.RawMessage
			Request  *struct{ Method, URL string }
			Response *struct{ Status string }
		}
	}
	if err := json.Unmarshal(body, &b); err != nil || b.Type != "history" || len(b.Entry) == 0 {
		t.Errorf("not a history Bundle: %v %s", err, body)
		return notification{}
	}
	var p struct {
		ResourceType string
		Parameter    []struct {
			Name, ValueCode, ValueString, ValueCanonical string
			Part                                         []struct {
				Name, ValueString string
				ValueReference    struct{ Reference string }
			}
		}
	}
	if err := json.Unmarshal(b.Entry[0].Resource, &p); err != nil || p.ResourceType != "Parameters" {
		t.Errorf("entry[0] is not Parameters: %s", body)
	}
	var n notification
	for _, x := range p.Parameter {
		switch x.Name {
		case "type":
			n.typ = x.ValueCode
		case "status":
			n.status = x.ValueCode
		case "topic":
			n.topic = x.ValueCanonical
		case "events-since-subscription-start":
			n.total = x.ValueString
		case "notification-event":
			for _, part := range x.Part {
				switch part.Name {
				case "event-number":
					v, err := strconv.ParseUint(part.ValueString, 10, 64)
					if err != nil {
						t.Error(err)
					}
					n.numbers = append(n.numbers, v)
				case "focus":
					n.focus = append(n.focus, part.ValueReference.Reference)
				}
			}
		}
	}
	for i, e := range b.Entry {
		if e.Request == nil || e.Response == nil || e.FullURL == "" {
			t.Errorf("entry[%d] lacks request, response or fullUrl", i)
		}
		if i > 0 {
			n.fullURLs = append(n.fullURLs, e.FullURL)
			if e.Resource != nil {
				n.resources = append(n.resources, string(e.Resource))
			}
		}
	}
	return n
}

type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	got  []notification
	fail func(n int) bool // reports whether request n, from 1, is rejected
	n    int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if req.Header.Get("X-Secret") != "s3" || req.Header.Get("Authorization") != "Bearer abc" ||
			req.Header.Get("Content-Type") != "application/fhir+json" {
			t.Errorf("headers: %v", req.Header)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.n++
		if r.fail != nil && r.fail(r.n) {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		r.got = append(r.got, readNotification(t, body))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) events() (numbers []uint64, all []notification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.got {
		numbers = append(numbers, n.numbers...)
	}
	return numbers, slices.Clone(r.got)
}

func upTo(n int) []uint64 {
	var out []uint64
	for i := range n {
		out = append(out, uint64(i+1))
	}
	return out
}

func TestContents(t *testing.T) {
	for _, content := range []Content{empty, iDOnly, fullResource} {
		t.Run(string(content), func(t *testing.T) {
			w, r := newWorld(t), newReceiver(t)
			w.subscribe("s1", subscriptionJSON(r.URL, content,
				"Observation?patient=Patient/p1&code=http://loinc.org|8867-4", ""))
			if got := w.status("s1"); got != "requested" {
				t.Fatalf("created with status %s", got)
			}
			w.until("active", func() bool { return w.status("s1") == "active" })
			w.observe("p2", "8867-4")
			w.observe("p1", "9999-9")
			id := w.observe("p1", "8867-4")
			w.until("event", func() bool { n, _ := r.events(); return len(n) == 1 })
			_, all := r.events()
			if len(all) != 2 || all[0].typ != "handshake" || all[0].status != "requested" || all[0].total != "0" {
				t.Fatalf("handshake: %+v", all)
			}
			n := all[1]
			if n.typ != "event-notification" || n.status != "active" || n.total != "1" ||
				!slices.Equal(n.numbers, upTo(1)) {
				t.Fatalf("event: %+v", n)
			}
			focus, entries, resources := 1, 1, 0
			switch content {
			case empty:
				focus, entries = 0, 0
				if n.topic != "" {
					t.Error("content empty has a topic")
				}
			case fullResource:
				resources = 1
				if n.topic != Topic {
					t.Error("content full-resource has no topic")
				}
			}
			if len(n.focus) != focus || len(n.fullURLs) != entries || len(n.resources) != resources {
				t.Fatalf("content %s: %+v", content, n)
			}
			if focus == 1 && (n.focus[0] != base+"/Observation/"+id || n.fullURLs[0] != n.focus[0]) {
				t.Errorf("focus %v", n.focus)
			}
			if resources == 1 && !strings.Contains(n.resources[0], `"value":62`) {
				t.Errorf("resource %v", n.resources)
			}
		})
	}
}

// TestSamplesWithoutDocuments numbers the samples of a commit without documents.
func TestSamplesWithoutDocuments(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
	w.until("active", func() bool { return w.status("s1") == "active" })
	tpl := &series.Template{Patient: "p1", Vendor: "apple", Categories: []string{"vital-signs"}, Values: 1,
		Parts: [][]byte{[]byte(`},"identifier":[{"value":"`),
			[]byte(`"}],"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"},`),
			[]byte(`,"valueQuantity":{"value":`), []byte(`}}`)},
		Slots: []series.Slot{series.SlotID, series.SlotEffective, series.SlotValue}}
	var cols series.Columns
	for i := range 3 {
		s := series.Sample{Start: 1767225600_000000 + int64(i)*1e6, End: series.NoEnd,
			Values: [series.MaxValues]series.Decimal{{Mant: 62}}}
		cols.Append(&s, 1)
	}
	if _, err := w.st.Commit(context.Background(),
		&store.Batch{Series: []store.SeriesWrite{{Template: tpl, Columns: &cols}},
			Probed: w.st.LastSeq()}); err != nil {
		t.Fatal(err)
	}
	w.until("events", func() bool { n, _ := r.events(); return slices.Equal(n, upTo(3)) })
}

// TestNumbersAcrossRestartAndFailure checks that the endpoint gets all events in
// order, each at least once, although it fails and the engine restarts.
func TestNumbersAcrossRestartAndFailure(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
	w.until("active", func() bool { return w.status("s1") == "active" })
	r.mu.Lock()
	r.fail = func(n int) bool { return n%3 != 0 }
	r.mu.Unlock()
	for i := range 30 {
		w.observe("p1", "8867-4")
		if i%7 == 3 {
			w.restart()
		}
	}
	w.until("all 30", func() bool { n, _ := r.events(); return len(n) > 0 && n[len(n)-1] == 30 })
	got, _ := r.events()
	high := uint64(0)
	for _, n := range got {
		if n > high+1 {
			t.Fatalf("gap before %d in %v", n, got)
		}
		high = max(high, n)
	}
	w.engine.Close()
	rest := len(got)
	w.start()
	w.observe("p1", "8867-4")
	w.until("event 31", func() bool { n, _ := r.events(); return n[len(n)-1] == 31 })
	if got, _ = r.events(); len(got) != rest+1 {
		t.Errorf("a clean restart repeated events: %v", got[rest:])
	}
}

// TestErrorAndResume checks that events are numbered while a Subscription is in
// error, and delivered after an update to requested.
func TestErrorAndResume(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
	w.until("active", func() bool { return w.status("s1") == "active" })
	r.mu.Lock()
	r.fail = func(int) bool { return true }
	r.mu.Unlock()
	w.observe("p1", "8867-4")
	w.until("error", func() bool { return w.status("s1") == "error" })
	w.observe("p1", "8867-4")
	w.observe("p1", "8867-4")
	w.until("numbered in error", func() bool {
		b, err := w.engine.Status(context.Background(), Request{Caller: audit.Caller{Principal: w.principal("ehr")}},
			[]string{"s1"}, nil, true)
		return err == nil && strings.Contains(string(b), `"events-since-subscription-start","valueString":"3"`) &&
			strings.Contains(string(b), `"valueCode":"error"`)
	})
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	ctx := context.Background()
	old, _, err := w.st.Read(ctx, fhir.Ref{Type: "Subscription", ID: "s1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	body, err := unstamp(&old)
	if err != nil {
		t.Fatal(err)
	}
	next, err := w.engine.Check(ctx, w.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: "s1", JSON: body},
		&old)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(next.JSON), errorText) {
		t.Error("the error text remains after an update")
	}
	if _, err := w.engine.Check(ctx, w.principal("other"), next, &old); fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("an update by another client: %v", err)
	}
	w.put("ehr", *next)
	w.until("resumed", func() bool { n, _ := r.events(); return slices.Equal(n, upTo(3)) })
	if got := w.status("s1"); got != "active" {
		t.Errorf("status %s", got)
	}
}

// TestSlowEndpoint checks that an endpoint that never answers does not delay the
// events of another Subscription.
func TestSlowEndpoint(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		if err == nil && strings.Contains(string(b), "handshake") {
			return
		}
		select {
		case <-release:
		case <-req.Context().Done():
		}
	}))
	defer silent.Close()
	defer close(release)
	w.subscribe("silent", subscriptionJSON(silent.URL, fullResource, "", ""))
	w.subscribe("good", subscriptionJSON(r.URL, fullResource, "", ""))
	w.until("both active", func() bool { return w.status("silent") == "active" && w.status("good") == "active" })
	for range 40 {
		w.observe("p1", "8867-4")
	}
	w.until("40 events", func() bool { n, _ := r.events(); return slices.Equal(n, upTo(40)) })
}

// TestWithdrawnConsent checks that an event of which the consent was withdrawn
// keeps its number and loses its content.
func TestWithdrawnConsent(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s1", subscriptionJSON(r.URL, fullResource, "", ""))
	w.until("active", func() bool { return w.status("s1") == "active" })
	r.mu.Lock()
	r.fail = func(int) bool { return true }
	r.mu.Unlock()
	w.observe("p1", "8867-4")
	w.observe("p2", "8867-4")
	w.until("numbered", func() bool { return w.engine.count("s1") == 2 })
	w.consents.withdraw("p1")
	// Wait until the notifications that were in flight have been rejected.
	attempts := func() int { r.mu.Lock(); defer r.mu.Unlock(); return r.n }
	before := attempts()
	w.until("another attempt", func() bool { return attempts() >= before+2 })
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	w.until("both numbers", func() bool { n, _ := r.events(); return slices.Equal(n, upTo(2)) })
	w.observe("p1", "8867-4") // not numbered for this subscriber
	w.observe("p2", "8867-4")
	w.until("the third", func() bool { n, _ := r.events(); return slices.Equal(n, upTo(3)) })
	_, all := r.events()
	for _, n := range all {
		for _, s := range append(slices.Clone(n.resources), n.focus...) {
			if strings.Contains(s, "Patient/p1") || strings.HasSuffix(s, "Observation/o1") {
				t.Errorf("disclosed data of p1: %s", s)
			}
		}
	}
	b, err := w.engine.Events(context.Background(), Request{Caller: audit.Caller{Principal: w.principal("ehr")}}, "s1",
		1, 2, "")
	if err != nil {
		t.Fatal(err)
	}
	if n := readNotification(t, b); !slices.Equal(n.numbers, upTo(2)) || len(n.resources) != 1 ||
		n.typ != "query-event" {
		t.Errorf("$events: %+v", n)
	}
	if _, err := w.engine.Events(context.Background(), Request{Caller: audit.Caller{Principal: w.principal("other")}},
		"s1", 1, 2,
		""); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("$events by another client: %v", err)
	}
	// A grant that is revoked while the events are read ends the response.
	revoked := w.principal("ehr")
	revoked.Grant.Recheck = func(context.Context) error {
		return fhir.Errorf(fhir.Unauthorized, "test",
			"invalid_token")
	}
	if b, err := w.engine.Events(context.Background(), Request{Caller: audit.Caller{Principal: revoked}}, "s1", 1, 2,
		""); fhir.KindOf(err) != fhir.Unauthorized || b != nil {
		t.Errorf("$events with a revoked token: %v", err)
	}
}

func (e *Engine) count(id string) uint64 {
	n, err := e.total(context.Background(), id)
	if err != nil {
		panic(err)
	}
	return n
}

// TestHandshakeHeartbeatAndEnd checks the transitions after a failed handshake and
// at Subscription.end, and heartbeats.
func TestHandshakeHeartbeatAndEnd(t *testing.T) {
	w, bad, good := newWorld(t), newReceiver(t), newReceiver(t)
	bad.fail = func(int) bool { return true }
	w.subscribe("bad", subscriptionJSON(bad.URL, empty, "", ""))
	w.subscribe("beat", subscriptionJSON(good.URL, empty, "",
		`"extension":[{"url":"`+extBase+`backport-heartbeat-period","valueUnsignedInt":1}],`))
	end := time.Now().Add(1500 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	w.subscribe("end", `"end":"`+end+`",`+subscriptionJSON(good.URL, empty, "", ""))
	w.until("error after the handshake", func() bool { return w.status("bad") == "error" })
	w.until("heartbeat", func() bool {
		_, all := good.events()
		return slices.ContainsFunc(all, func(n notification) bool {
			return n.typ == "heartbeat" &&
				n.status == "active" && n.total == "0"
		})
	})
	w.until("off at the end", func() bool { return w.status("end") == "off" })
}

// TestDelete checks that a deletion ends deliveries and removes the state.
func TestDelete(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s1", subscriptionJSON(r.URL, empty, "", ""))
	w.until("active", func() bool { return w.status("s1") == "active" })
	w.observe("p1", "8867-4")
	w.until("event", func() bool { n, _ := r.events(); return len(n) == 1 })
	ctx := context.Background()
	if _, err := w.st.Commit(ctx, &store.Batch{Writes: []store.Write{{Op: store.Remove,
		Resource: fhir.Resource{Type: "Subscription", ID: "s1"}}}}); err != nil {
		t.Fatal(err)
	}
	w.until("cleared", func() bool {
		left := 0
		err := w.st.List(ctx, keyPrefix+"s1/head", func(string, []byte) bool { left++; return true })
		return err == nil && left == 0
	})
	w.observe("p1", "8867-4")
	w.restart()
	if n, _ := r.events(); len(n) != 1 {
		t.Errorf("events after the deletion: %v", n)
	}
}
