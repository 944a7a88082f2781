package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/policy"
)

// These tests check that long answers check the rights of the caller repeatedly: if a
// right ends while the answer is produced or sent, so does the answer.

// neverRechecked is a fault: the rights at the start of a request apply to its end.
type neverRechecked struct{ *policy.Engine }

func (e neverRechecked) Authenticate(r *http.Request) (*access.Principal, error) {
	p, err := e.Engine.Authenticate(r)
	if err != nil {
		return nil, err
	}
	q, g := *p, *p.Grant
	g.Recheck, q.Grant = nil, &g
	return &q, nil
}

// reader receives an answer and calls then once, after the first bytes.
type reader struct {
	header http.Header
	status int
	body   strings.Builder
	then   func()
	before int  // bytes received before then was called
	cut    bool // the server aborted the answer
}

func (r *reader) Header() http.Header              { return r.header }
func (r *reader) WriteHeader(code int)             { r.status = code }
func (r *reader) SetWriteDeadline(time.Time) error { r.cut = true; return nil }

func (r *reader) Write(b []byte) (int, error) {
	if r.cut {
		return 0, http.ErrHandlerTimeout
	}
	n, _ := r.body.Write(b)
	if f := r.then; f != nil {
		r.then, r.before = nil, r.body.Len()
		f()
	}
	return n, nil
}

const (
	longDocs = 3000
	// slack bounds the bytes that may follow the end of a right: one part between two
	// checks.
	slack = 256<<10 + 2048
)

// newLongWorld returns a server with more than a megabyte of Observations of one patient.
func newLongWorld(f fault, which servers) *world {
	w := open(f, which)
	for _, p := range w.processes {
		p.policy.Roles = func(context.Context, authz.Subject) ([]string, bool, error) {
			return []string{"patient"}, !w.ended.Load(), nil
		}
	}
	must(w.db.Commit(context.Background(), &store.Batch{Writes: longWrites()}))
	return w
}

// longTokens returns the tokens of a client and of the app of a person, which no other
// call has returned and which may read the Observations.
func (w *world) longTokens() (backend, person token) {
	n := fmt.Sprint(w.issued)
	backend = token{client: "ehr" + n, scopes: []string{"system/*.rs"}}
	person = token{client: "appl" + n, person: true, scopes: []string{"patient/*.rs"}, patient: "p1",
		user: "Patient/p1", roles: []string{"patient"}}
	w.register(&backend, backend.scopes)
	w.register(&person, nil)
	return backend, person
}

// longWrites returns the writes of a patient, the Observations, and a Consent.
var longWrites = sync.OnceValue(func() []store.Write {
	out := []store.Write{{Resource: must(validator().Resource("Patient",
		[]byte(`{"resourceType":"Patient","id":"p1"}`), "p1"))}}
	for i := range longDocs {
		id := fmt.Sprint("o", i)
		out = append(out, store.Write{Vendor: "apple",
			Resource: must(validator().Resource("Observation",
				[]byte(`{"resourceType":"Observation","id":"`+id+`","status":"final",`+
					`"category":[{"coding":[{"system":"`+sysCategory+`","code":"vital-signs"}]}],`+
					`"effectiveDateTime":"2026-03-01T10:00:00Z","valueQuantity":{"value":60,"unit":"/min",`+
					`"system":"http://unitsofmeasure.org","code":"/min"},"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}],"text":"`+
					strings.Repeat("long ", 60)+
					`"},"subject":{"reference":"Patient/p1"}}`), id))})
	}
	return append(out, permit())
})

// permit returns the write of the Consent of the patient.
func permit() store.Write {
	return store.Write{Resource: must(consent.Build(consent.Terms{ID: "c1", Patient: "p1", Now: time.Now()}))}
}

// endings lists the ways to end the right of a token. n is the number of the token.
var endings = map[string]struct { // read only
	person bool
	end    func(w *world, tok *token, n int)
}{
	"client disabled": {false, func(w *world, tok *token, _ int) {
		if err := w.clients.Disable(context.Background(), tok.client); err != nil {
			panic(err)
		}
	}},
	"token revoked": {false, func(w *world, _ *token, n int) {
		must(w.db.Commit(context.Background(),
			&store.Batch{State: []store.StateWrite{authz.RevokeToken(fmt.Sprint("t", n), time.Now().Add(time.Hour))}}))
	}},
	"token expired":          {false, func(w *world, _ *token, _ int) { w.skew.Store(int64(time.Hour)) }},
	"person's account ended": {true, func(w *world, _ *token, _ int) { w.ended.Store(true); w.touch() }},
	"consent withdrawn": {false, func(w *world, _ *token, _ int) {
		r, _, err := w.db.Read(context.Background(), fhir.Ref{Type: "Consent", ID: "c1"}, 0)
		if err != nil {
			panic(err)
		}
		must(w.db.Commit(context.Background(),
			&store.Batch{Writes: []store.Write{{Resource: must(consent.Withdraw(r))}}}))
	}},
	"authorization withdrawn": {true, func(w *world, _ *token, n int) {
		if err := w.grants.Revoke(context.Background(), "", fmt.Sprint("authz", n)); err != nil {
			panic(err)
		}
	}},
}

// touch commits a change of the state, like the end of an account.
func (w *world) touch() {
	must(w.db.Commit(context.Background(),
		&store.Batch{State: []store.StateWrite{{Key: "test/touch", Value: []byte(fmt.Sprint(time.Now().UnixNano()))}}}))
}

// longAnswers returns requests with long answers. A person has no export.
func (w *world) longAnswers(bearer string, person bool) map[string]func() *http.Request {
	get := func(path string) func() *http.Request {
		return func() *http.Request {
			req := httptest.NewRequest("GET", "/fhir"+path, nil)
			req.Header.Set("Authorization", "Bearer "+bearer)
			return req
		}
	}
	out := map[string]func() *http.Request{
		"search":     get("/Observation?patient=p1&_count=1000"),
		"ehr-bundle": get("/Patient/p1/$ehr-bundle?_count=1000"),
		"search, zipped": func() *http.Request {
			req := get("/Observation?patient=p1&_count=1000")()
			req.Header.Set("Accept-Encoding", "gzip")
			return req
		},
		"batch": func() *http.Request {
			req := httptest.NewRequest("POST", "/fhir",
				strings.NewReader(`{"resourceType":"Bundle","type":"batch","entry":[`+
					strings.Repeat(`{"request":{"method":"GET","url":"Observation?patient=p1&_count=300"}},`, 2)+
					`{"request":{"method":"GET","url":"Patient/p1"}}]}`))
			req.Header.Set("Authorization", "Bearer "+bearer)
			req.Header.Set("Content-Type", "application/fhir+json")
			return req
		},
	}
	if person {
		return out
	}
	a := w.do(bearer, "GET", "/Patient/$export?_type=Observation", "", "Prefer", "respond-async")
	location := a.header.Get("Content-Location")
	for a = w.get(bearer, location); a.status == 202 || a.status == 429; a = w.get(bearer, location) {
		time.Sleep(time.Millisecond) // until it is complete
	}
	files, _ := a.json["output"].([]any)
	out["export"] = get(strings.TrimPrefix(files[0].(map[string]any)["url"].(string), base))
	return out
}

// long lists the answers of longAnswers.
var long = []string{"search", "search, zipped", "ehr-bundle", "batch", "export"} // read only

// endRights ends a right during each of the long answers, while it is produced and while it is
// sent, and returns an error if the server continues the answer.
func endRights(f fault, which servers, answers ...string) (err error) {
	w := newLongWorld(f, which)
	defer func() { err = errors.Join(err, w.close()) }()
	for name, ending := range endings {
		for _, sending := range []bool{true, false} {
			for _, what := range answers {
				if ending.person && what == "export" || what == "search, zipped" && sending { // the answer is too short
					continue
				}
				if err := w.endRight(name, what, sending); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// endRight ends a right during one answer, and restores what concerns others.
func (w *world) endRight(name, what string, sending bool) error {
	ending := endings[name]
	backend, person := w.longTokens()
	tok := &backend
	if ending.person {
		tok = &person
	}
	bearer := w.issue(tok)
	req := w.longAnswers(bearer, ending.person)[what]()
	end := func() {
		ending.end(w, tok, w.issued)
		if err := w.db.Sync(context.Background()); err != nil { // all servers learn of it
			panic(err)
		}
	}
	r := &reader{header: http.Header{}}
	if sending {
		r.then = end
	} else {
		w.during.Store(&end)
	}
	w.handler.ServeHTTP(r, req)
	if !sending && w.during.Swap(nil) != nil {
		return fmt.Errorf("%s while %s was produced: the answer reads nothing", name, what)
	}
	if err := r.ended(name, what, sending); err != nil {
		return err
	}
	w.skew.Store(0)
	w.ended.Store(false)
	must(w.db.Commit(context.Background(), &store.Batch{Writes: []store.Write{permit()}}))
	return w.db.Sync(context.Background())
}

// ended returns an error if the answer went on after the end of a right.
func (r *reader) ended(name, what string, sending bool) error {
	switch n := r.body.Len(); {
	case name == "consent withdrawn" && what == "export": // continues without the patient
		if n-r.before > slack || r.cut {
			return fmt.Errorf("%s during an export: %d bytes after %d, aborted: %v", name, n-r.before, r.before,
				r.cut)
		}
	case name == "consent withdrawn" && !sending:
		if strings.Contains(r.body.String(), "8867-4") && !r.cut {
			return fmt.Errorf("%s while %s was produced: %d bytes", name, what, n)
		}
	case sending && (r.before == 0 || r.status != 200 && r.status != 0):
		return fmt.Errorf("%s during %s: the answer is too short: %d, %d bytes", name, what, r.status, n)
	case sending && (n-r.before > slack || !r.cut):
		return fmt.Errorf("%s while %s was sent: %d bytes after %d, aborted: %v", name, what, n-r.before, r.before,
			r.cut)
	case !sending && (r.status != 401 || strings.Contains(r.body.String(), "8867-4")):
		return fmt.Errorf("%s while %s was produced: %d, %d bytes", name, what, r.status, n)
	}
	return nil
}

// TestRightEndsDuringAnswer checks that an answer ends with the right to it.
func TestRightEndsDuringAnswer(t *testing.T) {
	if err := endRights(noFault, oneStore, long...); err != nil {
		t.Fatal(err)
	}
}

// TestRightEndsDuringAnswerControls checks that servers which check rights only at the
// start are detected.
func TestRightEndsDuringAnswerControls(t *testing.T) { testRightEndsControls(t, oneStore, long...) }

func testRightEndsControls(t *testing.T, which servers, answers ...string) {
	for _, f := range []fault{neverRechecks, ignoresWithdrawal} {
		err := endRights(f, which, answers...)
		if err == nil || (f == ignoresWithdrawal) != strings.Contains(err.Error(), "consent") {
			t.Errorf("fault %d: %v", f, err)
		}
		t.Log("detected:", err)
	}
}

// TestUnrelatedChangesKeepAnswer checks that changes of other clients, other commits and a
// refreshed authorization do not end an answer.
func TestUnrelatedChangesKeepAnswer(t *testing.T) {
	w := newLongWorld(noFault, oneStore)
	defer w.close()
	backend, person := w.longTokens()
	other := token{client: "other", scopes: []string{"system/*.rs"}}
	w.register(&other, other.scopes)
	for _, tok := range []*token{&backend, &person} {
		bearer := w.issue(tok)
		for what, ask := range w.longAnswers(bearer, tok.person) {
			whole := &reader{header: http.Header{}}
			w.handler.ServeHTTP(whole, ask())
			r := &reader{header: http.Header{}, then: func() {
				w.touch()
				must(w.db.Commit(context.Background(),
					&store.Batch{Writes: []store.Write{{Resource: must(consent.Build(consent.Terms{ID: "other",
						Patient: "p2", Now: time.Now()}))}}}))
				must(w.clients.Change(context.Background(), "other",
					func(c *client.Client) error { c.Disabled = !c.Disabled; return nil }))
			}}
			w.handler.ServeHTTP(r, ask())
			zipped := what == "search, zipped" // random ids compress to varying lengths
			if r.cut || r.status != 200 || !zipped && (r.body.Len() != whole.body.Len() || r.body.Len() < slack) {
				t.Errorf("%s of %s: %d bytes of %d, aborted: %v", what, tok.client, r.body.Len(), whole.body.Len(),
					r.cut)
			}
		}
	}
}
