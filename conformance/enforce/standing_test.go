package enforce

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
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

// A long answer asks again as it goes: whatever ends a caller's right while
// the answer is made or sent ends the answer.

// forever takes the right of the request's start for good.
type forever struct{ *policy.Engine }

func (e forever) Authenticate(r *http.Request) (*access.Principal, error) {
	p, err := e.Engine.Authenticate(r)
	if err != nil {
		return nil, err
	}
	q, g := *p, *p.Grant
	g.Recheck, q.Grant = nil, &g
	return &q, nil
}

// reader takes an answer and calls then once, after its first bytes.
type reader struct {
	header http.Header
	status int
	body   strings.Builder
	then   func()
	before int // bytes that came before then
	cut    bool
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
	// slack bounds the bytes that may follow the end of a right: the rest of a part.
	slack = 256<<10 + 2048
)

// longWorld holds one patient with a good megabyte of Observations, open to
// client "ehr" and to person's app "appl".
func longWorld(f fault) (w *world, backend, person token) {
	w = open(f)
	w.policy.Roles = func(context.Context, authz.Subject) ([]string, bool, error) {
		return []string{"patient"}, !w.ended.Load(), nil
	}
	ctx := context.Background()
	b := &store.Batch{Writes: []store.Write{{Resource: must(door().Resource("Patient",
		[]byte(`{"resourceType":"Patient","id":"p1"}`), "p1"))}}}
	for i := range longDocs {
		id := fmt.Sprint("o", i)
		b.Writes = append(b.Writes, store.Write{Vendor: "apple",
			Resource: must(door().Resource("Observation",
				[]byte(`{"resourceType":"Observation","id":"`+id+`","status":"final",`+
					`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}],"text":"`+
					strings.Repeat("long ", 60)+
					`"},"subject":{"reference":"Patient/p1"}}`), id))})
	}
	b.Writes = append(b.Writes, store.Write{Resource: must(consent.Build(consent.Terms{ID: "c1", Patient: "p1",
		Now: time.Now()}))})
	must(w.db.Commit(ctx, b))
	backend = token{client: "ehr", scopes: []string{"system/*.rs"}}
	person = token{client: "appl", person: true, scopes: []string{"patient/*.rs"}, patient: "p1",
		user: "Patient/p1", roles: []string{"patient"}}
	w.register(&backend, backend.scopes)
	w.register(&person, nil)
	return w, backend, person
}

// endings lists the ways in which the right of a token can end; n is the number
// of the case.
var endings = map[string]struct { // read only
	person bool
	end    func(w *world, k *token, n int)
}{
	"client disabled": {false, func(w *world, k *token, _ int) {
		if err := w.clients.Disable(context.Background(), k.client); err != nil {
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

// touch commits something, as whatever ends an account does.
func (w *world) touch() {
	must(w.db.Commit(context.Background(),
		&store.Batch{State: []store.StateWrite{{Key: "test/touch", Value: []byte(fmt.Sprint(time.Now().UnixNano()))}}}))
}

// answers are the long ones; a person exports nothing.
func (w *world) longAnswers(bearer string, person bool) map[string]func() *http.Request {
	get := func(path string) func() *http.Request {
		return func() *http.Request {
			q := httptest.NewRequest("GET", "/fhir"+path, nil)
			q.Header.Set("Authorization", "Bearer "+bearer)
			return q
		}
	}
	out := map[string]func() *http.Request{
		"search": get("/Observation?patient=p1&_count=1000"),
		"search, zipped": func() *http.Request {
			q := get("/Observation?patient=p1&_count=1000")()
			q.Header.Set("Accept-Encoding", "gzip")
			return q
		},
		"batch": func() *http.Request {
			q := httptest.NewRequest("POST", "/fhir",
				strings.NewReader(`{"resourceType":"Bundle","type":"batch","entry":[`+
					strings.Repeat(`{"request":{"method":"GET","url":"Observation?patient=p1&_count=300"}},`, 2)+
					`{"request":{"method":"GET","url":"Patient/p1"}}]}`))
			q.Header.Set("Authorization", "Bearer "+bearer)
			q.Header.Set("Content-Type", "application/fhir+json")
			return q
		},
	}
	if person {
		return out
	}
	a := w.do(bearer, "GET", "/Patient/$export?_type=Observation", "", "Prefer", "respond-async")
	location := a.header.Get("Content-Location")
	for a = w.get(bearer, location); a.status == 202; a = w.get(bearer, location) {
		time.Sleep(time.Millisecond) // until it is complete
	}
	files, _ := a.json["output"].([]any)
	out["export"] = get(strings.TrimPrefix(files[0].(map[string]any)["url"].(string), base))
	return out
}

// standing ends a right, or a Consent, amid every long answer, while it is made and while it
// is sent, and returns what came all the same.
func standing(f fault) (err error) {
	for name, ending := range endings {
		if ending.end == nil {
			continue
		}
		for _, sending := range []bool{true, false} {
			for _, what := range []string{"search", "search, zipped", "batch", "export"} {
				if ending.person && what == "export" || what == "search, zipped" && sending { // a few thousand bytes
					continue
				}
				w, backend, person := longWorld(f)
				k := &backend
				if ending.person {
					k = &person
				}
				bearer := w.issue(k)
				q := w.longAnswers(bearer, ending.person)[what]()
				end := func() { ending.end(w, k, w.issued) }
				r := &reader{header: http.Header{}}
				if sending {
					r.then = end
				} else {
					w.amid.Store(&end)
				}
				w.handler.ServeHTTP(r, q)
				switch n := r.body.Len(); {
				case name == "consent withdrawn" && what == "export": // goes on without the patient
					if n-r.before > slack || r.cut {
						err = fmt.Errorf("%s amid an export: %d bytes after %d, broken off: %v", name, n-r.before,
							r.before, r.cut)
					}
				case name == "consent withdrawn" && !sending:
					if strings.Contains(r.body.String(), "8867-4") && !r.cut {
						err = fmt.Errorf("%s while %s was made: %d bytes", name, what, n)
					}
				case sending && (r.before == 0 || r.status != 200 && r.status != 0):
					err = fmt.Errorf("%s amid %s: the answer is too short to tell: %d, %d bytes", name, what,
						r.status, n)
				case sending && (n-r.before > slack || !r.cut):
					err = fmt.Errorf("%s while %s was sent: %d bytes came after %d, broken off: %v", name, what,
						n-r.before, r.before, r.cut)
				case !sending && (r.status != 401 || strings.Contains(r.body.String(), "8867-4")):
					err = fmt.Errorf("%s while %s was made: %d, %d bytes", name, what, r.status, n)
				}
				if cerr := w.close(); err == nil {
					err = cerr
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func TestStanding(t *testing.T) {
	if err := standing(noFault); err != nil {
		t.Fatal(err)
	}
}

// TestStandingControls: servers that ask at the start alone are found.
func TestStandingControls(t *testing.T) {
	for _, f := range []fault{standsForever, consentsUnasked} {
		err := standing(f)
		if err == nil || (f == consentsUnasked) != strings.Contains(err.Error(), "consent") {
			t.Errorf("fault %d: %v", f, err)
		}
		t.Log("found:", err)
	}
}

// TestStandingKeeps: what does not end the right does not end the answer: other
// clients' changes, other commits, a refreshed authorization.
func TestStandingKeeps(t *testing.T) {
	w, backend, person := longWorld(noFault)
	defer w.close()
	other := token{client: "other", scopes: []string{"system/*.rs"}}
	w.register(&other, other.scopes)
	for _, k := range []*token{&backend, &person} {
		bearer := w.issue(k)
		for what, ask := range w.longAnswers(bearer, k.person) {
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
			zipped := what == "search, zipped" // ids are random, and so is how they compress
			if r.cut || r.status != 200 || !zipped && (r.body.Len() != whole.body.Len() || r.body.Len() < slack) {
				t.Errorf("%s of %s: %d bytes of %d, broken off: %v", what, k.client, r.body.Len(), whole.body.Len(),
					r.cut)
			}
		}
	}
}
