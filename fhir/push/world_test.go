package push

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

const own = "https://pulse.example.org/fhir"

// consents permits everything except the data of withdrawn patients.
type consents struct {
	mu        sync.Mutex
	withdrawn map[string]bool // guarded by mu
}

func (c *consents) Permits(_ string, f *access.Facts) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.withdrawn[f.Patient]
}

func (c *consents) set(patient string, withdrawn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withdrawn[patient] = withdrawn
}

// resource is an Observation of the EHR.
type resource struct {
	id      string
	version int
	body    map[string]any
}

// ehr is a FHIR server with conditional create, update, search by identifier and
// batches. All fields are guarded by mu.
type ehr struct {
	mu       sync.Mutex
	byID     map[string]*resource
	patients map[string][]string // ids by identifier token
	requests []string            // method and path of each request and entry
	token    string              // accepted token
	// fault, if it returns true, has answered a request.
	fault func(w http.ResponseWriter, r *http.Request, body string) bool
}

func (e *ehr) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	e.mu.Lock()
	fault, token := e.fault, e.token
	e.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if fault != nil && fault(w, r, string(raw)) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w.Header().Set("Content-Type", "application/fhir+json; charset=utf-8")
	if r.Method == http.MethodPost && r.URL.Path == "/base" {
		e.batch(w, raw)
		return
	}
	status, location, body := e.one(r.Method, strings.TrimPrefix(r.URL.RequestURI(), "/base/"),
		r.Header.Get("If-None-Exist"), raw)
	if location != "" {
		w.Header().Set("Location", location)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// batch answers a batch Bundle.
func (e *ehr) batch(w http.ResponseWriter, raw []byte) {
	var b struct {
		Entry []struct {
			Resource json.RawMessage
			Request  struct{ Method, URL, IfNoneExist string }
		}
	}
	if json.Unmarshal(raw, &b) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var entries []any
	for _, x := range b.Entry {
		status, location, outcome := e.one(x.Request.Method, x.Request.URL, x.Request.IfNoneExist, x.Resource)
		resp := map[string]any{"status": strconv.Itoa(status) + " text", "location": location}
		if status >= 400 {
			resp["outcome"] = json.RawMessage(outcome)
		}
		entries = append(entries, map[string]any{"response": resp})
	}
	out, err := json.Marshal(map[string]any{"resourceType": "Bundle", "type": "batch-response", "entry": entries})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(out)
}

// one performs an interaction. A value of 666 is refused.
func (e *ehr) one(method, path, ifNoneExist string, raw []byte) (status int, location string, body []byte) {
	e.requests = append(e.requests, method+" "+path)
	if bytes.Contains(raw, []byte(`"value":666`)) {
		return 422, "", []byte(`{"resourceType":"OperationOutcome","issue":[{"code":"business-rule",` +
			`"diagnostics":"Ada Lovelace has 666"},{"code":"Ada"}]}`)
	}
	kind, query, _ := strings.Cut(path, "?")
	if method == http.MethodGet {
		return 200, "", e.search(kind, query)
	}
	var m map[string]any
	if json.Unmarshal(raw, &m) != nil {
		return 400, "", nil
	}
	if method == http.MethodPut {
		id := strings.TrimPrefix(path, "Observation/")
		x := e.byID[id]
		if x == nil || m["id"] != id {
			return 400, "", nil
		}
		x.version++
		x.body = m
		return 200, "", nil
	}
	ids := e.find(ifNoneExist)
	if len(ids) > 1 {
		return 412, "", nil
	}
	if len(ids) == 1 {
		return 200, "Observation/" + ids[0] + "/_history/1", nil
	}
	id := "e" + strconv.Itoa(len(e.byID)+1)
	e.byID[id] = &resource{id, 1, m}
	return 201, "http://ehr/base/Observation/" + id + "/_history/1", nil
}

// find returns the Observations with the identifier of a query.
func (e *ehr) find(query string) (ids []string) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil
	}
	for id, x := range e.byID {
		own, _ := x.body["identifier"].([]any)
		for _, i := range own {
			m, _ := i.(map[string]any)
			if fmt.Sprintf("%v|%v", m["system"], m["value"]) == q.Get("identifier") {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func (e *ehr) search(kind, query string) []byte {
	ids := e.find(query)
	if kind == "Patient" {
		q, err := url.ParseQuery(query)
		if err == nil {
			ids = e.patients[q.Get("identifier")]
		}
	}
	entries := []any{}
	for _, id := range ids {
		entries = append(entries, map[string]any{"resource": map[string]any{"resourceType": kind, "id": id}})
	}
	b, err := json.Marshal(map[string]any{"resourceType": "Bundle", "type": "searchset", "total": len(ids),
		"entry": entries})
	if err != nil {
		return nil
	}
	return b
}

// has returns the Observations of the EHR by our id: value, status, version.
func (e *ehr) has() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]string{}
	for _, x := range e.byID {
		ids, _ := x.body["identifier"].([]any)
		last, _ := ids[len(ids)-1].(map[string]any)
		value, _ := last["value"].(string)
		q, _ := x.body["valueQuantity"].(map[string]any)
		subject, _ := x.body["subject"].(map[string]any)
		id := strings.TrimPrefix(value, own+"/Observation/")
		line := fmt.Sprintf("%v %v %v v%d", subject["reference"], x.body["status"], q["value"], x.version)
		if out[id] != "" {
			line = out[id] + " TWICE " + line
		}
		out[id] = line
	}
	return out
}

func (e *ehr) count(prefix string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func (e *ehr) setFault(f func(w http.ResponseWriter, r *http.Request, body string) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = f
}

// status answers every request with a status.
func status(code int, header ...string) func(http.ResponseWriter, *http.Request, string) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		return true
	}
}

// tokens hands out the tokens t1, t2 and so on.
type tokens struct {
	mu       sync.Mutex
	n        int   // guarded by mu
	rejected int   // guarded by mu
	err      error // guarded by mu
}

func (k *tokens) Token(context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return "t" + strconv.Itoa(k.n), k.err
}

func (k *tokens) Reject(string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rejected++
	k.n++
}

type world struct {
	t        *testing.T
	fs       *vfs.MemFS
	st       *pebblestore.DB
	rec      *audit.Recorder
	engine   *Engine
	consents *consents
	clock    *clocktest.Clock
	ehr      *ehr
	url      string
	tokens   *tokens
	rules    []access.Rule
	forms    map[string]Form
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, fs: vfs.NewCrashableMem(), consents: &consents{withdrawn: map[string]bool{}},
		clock:  clocktest.At(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)),
		ehr:    &ehr{byID: map[string]*resource{}, patients: map[string][]string{}, token: "t0"},
		tokens: &tokens{},
		rules:  []access.Rule{{Type: "*", May: access.Read | access.Search}}}
	srv := httptest.NewServer(w.ehr)
	w.url = srv.URL + "/base"
	w.open()
	t.Cleanup(func() { w.shut(); srv.Close() })
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.st, err = pebblestore.Open("", pebblestore.Options{FS: w.fs}); err != nil {
		w.t.Fatal(err)
	}
	if w.rec, err = audit.NewRecorder(audit.Options{Store: w.st, Clock: time.Now, Rand: rand.Reader,
		Observer: own}); err != nil {
		w.t.Fatal(err)
	}
	w.start(w.st)
}

// start starts an Engine on a store.
func (w *world) start(st store.Store) {
	w.t.Helper()
	var err error
	if w.engine, err = New(context.Background(), w.options(st)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) options(st store.Store) Options {
	return Options{Store: st, Audit: w.rec, Clock: time.Now, Base: own,
		Policy:     egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true},
		MinBackoff: time.Millisecond, MaxBackoff: 8 * time.Millisecond, Timeout: 2 * time.Minute, Forms: w.forms,
		TokensFor: func(Target) (Tokens, error) { return w.tokens, nil },
		GrantFor: func(_ context.Context, id string) (*access.Grant, error) {
			return &access.Grant{Recipient: id, Consents: w.consents, Rules: w.rules}, nil
		}}
}

func (w *world) shut() {
	w.engine.Close()
	if err := w.st.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) restart() { w.t.Helper(); w.shut(); w.open() }

// crash ends the process as kill -9 does: only what was synced remains.
func (w *world) crash() {
	w.t.Helper()
	// No request that begins after the clone reaches the EHR.
	w.ehr.mu.Lock()
	fault := w.ehr.fault
	w.ehr.mu.Unlock()
	w.ehr.setFault(func(http.ResponseWriter, *http.Request, string) bool { panic(http.ErrAbortHandler) })
	after := w.fs.CrashClone(vfs.CrashCloneCfg{})
	w.shut()
	w.ehr.setFault(fault)
	w.fs = after
	w.open()
}

// add adds a target named t with the changes of edit.
func (w *world) add(edit func(*Target)) {
	w.t.Helper()
	w.addSince(time.Time{}, edit)
}

func (w *world) addSince(since time.Time, edit func(*Target)) {
	w.t.Helper()
	t := Target{Name: "ehr", Base: w.url, Recipient: "ehr", ClientID: "us", Scope: "system/Observation.crus",
		Form: FormStored}
	if edit != nil {
		edit(&t)
	}
	if _, err := w.engine.Add(context.Background(), t, since, w.engine.commitState); err != nil {
		w.t.Fatal(err)
	}
}

// observation returns a heart rate at a minute of the day.
func observation(id, patient string, value any, minute int, more string) store.Write {
	at := time.Date(2026, 3, 1, 0, minute, 0, 0, time.UTC).Format(time.RFC3339)
	return store.Write{Vendor: "apple", Resource: fhir.Resource{Type: "Observation", ID: id,
		JSON: []byte(fhir.Prefix("Observation",
			id) + fmt.Sprintf(`},"status":"final","category":[{"coding":[{"system":`+
			`"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{`+
			`"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/%s"},"effectiveDateTime":`+
			`"%s","valueQuantity":{"value":%v,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}%s}`,
			patient, at, value, more))}}
}

func (w *world) put(ws ...store.Write) {
	w.t.Helper()
	if _, err := w.st.Commit(context.Background(), &store.Batch{Writes: ws}); err != nil {
		w.t.Fatal(err)
	}
}

// remove deletes an Observation.
func (w *world) remove(id string) {
	w.t.Helper()
	w.put(store.Write{Op: store.Remove, Resource: fhir.Resource{Type: "Observation", ID: id}})
}

// patient stores a Patient with an identifier of the hospital.
func (w *world) patient(id, value string) {
	w.t.Helper()
	w.put(store.Write{Resource: fhir.Resource{Type: "Patient", ID: id, JSON: []byte(fhir.Prefix("Patient", id) +
		`},"identifier":[{"system":"urn:mrn","value":"` + value + `"}]}`)}})
}

// until waits until cond holds.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); {
		if time.Now().After(end) {
			w.t.Fatalf("%s: never; the EHR has %v, the target is %+v", what, w.ehr.has(), w.show())
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) show() Details {
	w.t.Helper()
	d, err := w.engine.Show(context.Background(), "ehr")
	if err != nil && !errors.As(err, new(*fhir.Error)) {
		w.t.Error(err)
	}
	return d
}

// idle waits until the queue is empty and the follower has processed everything.
func (w *world) idle() {
	w.t.Helper()
	w.until("idle", func() bool {
		return w.cursor() >= w.lastChange() && w.show().Waiting == 0
	})
}

// commitState is a Commit without a record.
func (e *Engine) commitState(ctx context.Context, ws ...store.StateWrite) error {
	_, err := e.opts.Store.Commit(ctx, &store.Batch{State: ws})
	return err
}

// cursor returns the position of the follower, or 0 if there is none.
func (w *world) cursor() store.Seq {
	f := w.engine.role.Current()
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cursor
}

// lastChange returns the last commit with a change.
func (w *world) lastChange() (seq store.Seq) {
	from := w.cursor()
	seq = from
	last := func(c *store.Change) bool { seq = c.Seq; return true }
	if err := w.st.Changes(context.Background(), from, last); err != nil {
		w.t.Fatal(err)
	}
	return seq
}

// disclosures returns the AuditEvents of type disclosure.
func (w *world) disclosures() (out []string) {
	w.t.Helper()
	err := w.st.Inspect(context.Background(), "AuditEvent", 0, func(r *store.Row) {
		if bytes.Contains(r.Resource.JSON, []byte(`"disclose"`)) {
			out = append(out, string(r.Resource.JSON))
		}
	}, func(string, string) {})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}
