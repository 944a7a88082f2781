package submit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

const base = "https://pulse.example.org/fhir"

// permits permits everything but the data of patients named "denied".
type permits struct{ denied string }

func (p permits) Permits(_ string, f *access.Facts) bool {
	return p.denied == "" || f.Patient != p.denied
}

// provider is the file server of a Data Provider.
type provider struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string]string
	asked map[string]int
	seen  []*http.Request
	hook  func(w http.ResponseWriter, r *http.Request) bool
}

func newProvider(t *testing.T) *provider {
	p := &provider{files: map[string]string{}, asked: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked[r.URL.Path]++
		p.seen = append(p.seen, r)
		text, ok := p.files[r.URL.Path]
		hook := p.hook
		p.mu.Unlock()
		if hook != nil && hook(w, r) {
			return
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(p.Close)
	return p
}

// manifest offers a manifest of files, given as type and text, and returns its URL.
func (p *provider) manifest(name string, files ...string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	type item struct {
		Type string `json:"type"`
		URL  string `json:"url"`
	}
	m := map[string][]item{"output": {}, "deleted": {}}
	for i := 0; i < len(files); i += 2 {
		path := fmt.Sprintf("/%s-%d.ndjson", name, i)
		p.files[path] = files[i+1]
		part := "output"
		if files[i] == "Bundle" {
			part = "deleted"
		}
		m[part] = append(m[part], item{files[i], p.URL + path})
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	p.files["/"+name] = string(b)
	return p.URL + "/" + name
}

type world struct {
	t        *testing.T
	st       store.Store
	service  *interaction.Service
	opts     Options
	consumer *Consumer
	grant    *access.Grant
}

func newWorld(t *testing.T) *world {
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
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, st: st, service: &interaction.Service{Store: st, Validator: validator, Audit: rec,
		Clock: time.Now,
		Rand:  rand.Reader, Base: base}}
	w.grant = &access.Grant{Recipient: "ehr", Consents: permits{}, Rules: []access.Rule{{Type: "*",
		May: access.Create | access.Read | access.Update | access.Delete | access.Search}}}
	w.opts = Options{Store: st, Writer: w.service, Audit: rec, Clock: time.Now, Base: base, Pause: time.Microsecond,
		Policy:   egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true},
		GrantFor: func(context.Context, string, string) (*access.Grant, error) { return w.grant, nil }}
	w.consumer = w.start(w.opts)
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { w.consumer.Close() })
	return w
}

func (w *world) start(o Options) *Consumer {
	w.t.Helper()
	c, err := New(context.Background(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) caller(client string) audit.Caller {
	return audit.Caller{Principal: &access.Principal{ClientID: client, Grant: w.grant, TokenID: "t",
		Scope: "system/*.cruds"}}
}

func params(submission, status, manifest, fhirBase string) *Params {
	return &Params{Submitter: Identifier{System: "urn:x", Value: "clinic"}, SubmissionID: submission, Status: status,
		ManifestURL: manifest, Base: fhirBase}
}

func (w *world) submit(p *Params) {
	w.t.Helper()
	if err := w.consumer.Submit(w.t.Context(), w.caller("ehr"), p); err != nil {
		w.t.Fatal(err)
	}
}

// await returns the status of a submission once it is complete, and its outcomes.
func (w *world) await(submission string) (m statusManifest, outcomes string) {
	w.t.Helper()
	u, err := w.consumer.StatusURL(w.t.Context(), w.caller("ehr"), params(submission, "", "", ""))
	if err != nil {
		w.t.Fatal(err)
	}
	id := u[strings.LastIndexByte(u, '/')+1:]
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		s, err := w.consumer.Status(w.t.Context(), w.caller("ehr"), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if s.Progress != "" {
			continue
		}
		if err := json.Unmarshal(s.Manifest, &m); err != nil {
			w.t.Fatal(err)
		}
		var out bytes.Buffer
		for _, f := range m.Error {
			if err := w.consumer.WriteOutcomes(w.t.Context(), w.caller("ehr"), id,
				f.URL[strings.LastIndexByte(f.URL, '/')+1:], &out); err != nil {
				w.t.Fatal(err)
			}
		}
		return m, out.String()
	}
	w.t.Fatal("timeout: the submission is not complete")
	return m, ""
}

// ids returns the stored resources of a type.
func (w *world) ids(typ string) (out []string) {
	w.t.Helper()
	if err := w.st.Find(w.t.Context(), store.Find{Query: &search.Query{Type: typ},
		Filter: access.All().Filter(access.Read)},
		func(f *store.Found) bool { out = append(out, f.Resource.ID); return true }); err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func patient(id string) string { return `{"resourceType":"Patient","id":"` + id + `"}` + "\n" }

func observation(id, subject string) string {
	return `{"resourceType":"Observation","id":"` + id +
		`","status":"final","code":{"text":"x"},"subject":{"reference":"` + subject +
		`"},"valueQuantity":{"value":1.50,"unit":"kg"}}` + "\n"
}

// TestSubmission checks a submission of two manifests: resources get ids of their own,
// references follow, what fails is reported by its line, and types come in a workable order.
func TestSubmission(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	first := p.manifest("m1", "Observation", observation("o1", "Patient/a")+observation("o2", p.URL+"/fhir/Patient/a")+
		"nonsense\n\n"+observation("o3", "Patient/none")+
		`{"resourceType":"Observation","id":"o4","status":"wrong"}`+"\n"+
		`{"resourceType":"Observation","id":"o5","id":"o6"}`+"\n"+`{"resourceType":"Nothing","id":"x"}`+"\n",
		"Patient", patient("a"))
	second := p.manifest("m2", "Observation", observation("o9", "Patient/a"))
	w.submit(params("s", inProgress, first, p.URL+"/fhir"))
	w.submit(params("s", inProgress, second, p.URL+"/fhir"))
	w.submit(params("s", completed, "", ""))
	m, outcomes := w.await("s")
	patients, observations := w.ids("Patient"), w.ids("Observation")
	if len(patients) != 1 || len(observations) != 3 || patients[0] != derivedID(p.URL+"/fhir", "Patient", "a") {
		t.Fatalf("%v %v\n%s", patients, observations, outcomes)
	}
	res, _, err := w.st.Read(t.Context(),
		fhir.Ref{Type: "Observation", ID: derivedID(p.URL+"/fhir", "Observation", "o2")}, 0)
	if err != nil || !bytes.Contains(res.JSON, []byte(`"reference":"Patient/`+patients[0]+`"`)) ||
		!bytes.Contains(res.JSON, []byte(`"value":1.50`)) {
		t.Errorf("%s %v", res.JSON, err)
	}
	if len(m.Error) != 1 || m.SubmissionID != "s" || m.Error[0].ManifestURL != first || m.Error[0].Count != 5 ||
		!slices.Equal(m.Error[0].CountSeverity, []count{{"error", 5}}) || strings.Count(outcomes, "\n") != 5 {
		t.Errorf("%+v\n%s", m, outcomes)
	}
	for _, want := range []string{"line 3 of file 2", "line 5 of file 2", "line 6 of file 2", "line 7 of file 2",
		"line 8 of file 2",
		p.URL + "/fhir/Observation/o4"} {
		if !strings.Contains(outcomes, want) {
			t.Errorf("no %q in %s", want, outcomes)
		}
	}
	if strings.Contains(outcomes, "nonsense") {
		t.Errorf("a line is quoted: %s", outcomes)
	}
	if err := w.consumer.Submit(t.Context(), w.caller("ehr"),
		params("s", inProgress, second+"x", p.URL)); fhir.KindOf(err) != fhir.Invalid {
		t.Errorf("a request after the completion: %v", err)
	}
}

// TestOwnBase checks that resources of this server keep their ids, and that another
// submission updates them.
func TestOwnBase(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	for i, name := range []string{"s1", "s2"} {
		w.submit(params(name, completed,
			p.manifest(name, "Patient", patient("a"), "Observation", observation("o1", base+"/Patient/a")), base))
		if _, outcomes := w.await(name); outcomes != "" {
			t.Error(outcomes)
		}
		res, _, err := w.st.Read(t.Context(), fhir.Ref{Type: "Observation", ID: "o1"}, 0)
		if err != nil || res.Version != uint64(i+1) {
			t.Errorf("%d: version %d %v", i, res.Version, err)
		}
	}
}

// TestCrash checks that a submission whose process ends is continued by another one after
// the last batch, that every line is stored once, and that a process that has lost the
// role commits no position.
func TestCrash(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	w.consumer.Close()
	var text strings.Builder
	for i := range 450 {
		text.WriteString(patient(fmt.Sprintf("p%d", i)))
	}
	u := p.manifest("m", "Patient", text.String())
	roles := roletest.New(w.st)
	var all []*roletest.Process
	var writers []*counting
	for range 3 {
		r := roles.Process()
		all = append(all, r)
		o := w.opts
		c := &counting{Writer: w.service, after: 1, ended: make(chan struct{})}
		o.Roles, o.Writer = r, c
		writers = append(writers, c)
		w.consumer = w.start(o)
		t.Cleanup(w.consumer.Close)
	}
	w.submit(params("s", completed, u, p.URL))
	for i := range 2 {
		if err := roles.Give(all[i]); err != nil {
			t.Fatal(err)
		}
		<-writers[i].ended
		writers[i].mu.Lock()
		writers[i].after = 0
		writers[i].mu.Unlock()
	}
	writers[2].after = 1000
	if err := roles.Give(all[2]); err != nil {
		t.Fatal(err)
	}
	if _, outcomes := w.await("s"); outcomes != "" {
		t.Error(outcomes)
	}
	if n := len(w.ids("Patient")); n != 450 {
		t.Errorf("%d patients", n)
	}
	for _, id := range w.ids("Patient") {
		if res, _, err := w.st.Read(t.Context(), fhir.Ref{Type: "Patient", ID: id}, 0); err != nil || res.Version != 1 {
			t.Errorf("%s was stored twice: version %d %v", id, res.Version, err)
		}
	}
	total := 0
	for i, c := range writers {
		c.mu.Lock()
		total += c.lines
		if c.lines == 0 {
			t.Errorf("process %d has done nothing", i)
		}
		c.mu.Unlock()
	}
	if total != 450 {
		t.Errorf("%d lines were stored", total)
	}
}

// TestStopAfterCrash checks that a stopped submission loses what a batch stored whose process
// ended before it knew.
func TestStopAfterCrash(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	w.consumer.Close()
	o := w.opts
	c := &counting{Writer: w.service, ended: make(chan struct{})}
	o.Writer = c
	w.consumer = w.start(o)
	w.submit(params("s", inProgress, p.manifest("m", "Patient", patient("a")+patient("b")), base))
	<-c.ended
	w.consumer.Close()
	if got := w.ids("Patient"); len(got) != 2 {
		t.Fatalf("the batch has stored %v", got)
	}
	w.consumer = w.start(w.opts)
	w.submit(params("s", stopped, "", ""))
	w.await("s")
	if got := w.ids("Patient"); len(got) != 0 {
		t.Errorf("after the stop: %v", got)
	}
}

// counting counts lines, and blocks before the batch after some.
type counting struct {
	Writer
	mu           sync.Mutex
	after, lines int
	ended        chan struct{}
}

func (c *counting) Bundle(ctx context.Context, rq *interaction.Request, body []byte,
	answer interaction.Return) (*interaction.Page, error) {
	c.mu.Lock()
	c.after--
	last := c.after < 0
	c.lines += bytes.Count(body, []byte(`"request"`))
	c.mu.Unlock()
	if last { // It was stored, and the process ends before it knows.
		if _, err := c.Writer.Bundle(ctx, rq, body, answer); err != nil {
			return nil, err
		}
		close(c.ended)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return c.Writer.Bundle(ctx, rq, body, answer)
}

// TestStopAndReplace checks that a replaced manifest and a stopped submission lose what
// they created, and that updates of earlier resources stay.
func TestStopAndReplace(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	w.submit(params("before", completed, p.manifest("m0", "Patient", patient("old")), base))
	w.await("before")
	w.submit(params("s", inProgress, p.manifest("m1", "Patient", patient("old")+patient("a"), "Observation",
		observation("o1", "Patient/a")), base))
	replaces := params("s", inProgress, p.manifest("m2", "Patient", patient("b")), base)
	replaces.Replaces = p.URL + "/m1"
	w.submit(replaces)
	for end := time.Now().Add(2 * time.Minute); !slices.Equal(w.ids("Patient"), []string{"b", "old"}) ||
		w.ids("Observation") != nil; {
		if time.Now().After(end) {
			t.Fatalf("after the replacement: %v %v", w.ids("Patient"), w.ids("Observation"))
		}
		time.Sleep(time.Millisecond)
	}
	w.submit(params("s", stopped, "", ""))
	w.await("s")
	if got := w.ids("Patient"); !slices.Equal(got, []string{"old"}) {
		t.Errorf("after the stop: %v", got)
	}
	for _, p := range []*Params{params("s", inProgress, p.URL+"/m3", base)} {
		if err := w.consumer.Submit(t.Context(), w.caller("ehr"), p); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("a request after the stop: %v", err)
		}
	}
}

// TestAccess checks that lines are stored under the grant and the consents of the client.
func TestAccess(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	w.submit(params("s1", completed, p.manifest("m1", "Patient", patient("a")+patient("b")), base))
	w.await("s1")
	w.grant = &access.Grant{Recipient: "ehr", Consents: permits{"b"}, Rules: []access.Rule{{Type: "Observation",
		May: access.Create | access.Update | access.Read}}}
	w.submit(params("s2", completed, p.manifest("m2", "Patient", patient("c"), "Observation",
		observation("o1", "Patient/a")+observation("o2", "Patient/b")), base))
	if m, outcomes := w.await("s2"); len(m.Error) != 1 || m.Error[0].Count != 2 {
		t.Errorf("%+v\n%s", m, outcomes)
	}
	if got := w.ids("Observation"); !slices.Equal(got, []string{"o1"}) {
		t.Errorf("%v", got)
	}
	if got := w.ids("Patient"); len(got) != 2 {
		t.Errorf("%v", got)
	}
	w.grant = &access.Grant{Recipient: "ehr", Rules: []access.Rule{{Type: "*", May: access.Read}}}
	if err := w.consumer.Submit(t.Context(), w.caller("ehr"),
		params("s3", completed, "", "")); fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("a client that may not write: %v", err)
	}
	if err := w.consumer.Submit(t.Context(), audit.Caller{},
		params("s3", completed, "", "")); fhir.KindOf(err) != fhir.Unauthorized {
		t.Errorf("nobody: %v", err)
	}
	w.grant.Rules[0].May = access.Create
	w.grant.Person = true
	if err := w.consumer.Submit(t.Context(), w.caller("ehr"),
		params("s3", completed, "", "")); fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("a person: %v", err)
	}
}

// TestOwnership checks that a client reaches only its own submissions.
func TestOwnership(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	w.submit(params("s", completed, p.manifest("m", "Patient", "nonsense\n"), base))
	m, _ := w.await("s")
	u, err := w.consumer.StatusURL(t.Context(), w.caller("ehr"), params("s", "", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	id := u[strings.LastIndexByte(u, '/')+1:]
	other := w.caller("other")
	if _, err := w.consumer.StatusURL(t.Context(), other, params("s", "", "", "")); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("%v", err)
	}
	if _, err := w.consumer.Status(t.Context(), other, id); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("%v", err)
	}
	name := m.Error[0].URL[strings.LastIndexByte(m.Error[0].URL, '/')+1:]
	for _, c := range []struct {
		who  audit.Caller
		name string
	}{{other, name}, {w.caller("ehr"), "1.ndjson"}, {w.caller("ehr"), "x"}, {w.caller("ehr"), "-1.ndjson"},
		{w.caller("ehr"), "00.ndjson"}} {
		var out bytes.Buffer
		if err := w.consumer.WriteOutcomes(t.Context(), c.who, id, c.name,
			&out); fhir.KindOf(err) != fhir.NotFound || out.Len() > 0 {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := w.consumer.Delete(t.Context(), other, id); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("%v", err)
	}
	if err := w.consumer.Delete(t.Context(), w.caller("ehr"), id); err != nil {
		t.Error(err)
	}
	if _, err := w.consumer.Status(t.Context(), w.caller("ehr"), id); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("%v", err)
	}
}

// TestFetching checks what is fetched: nothing from addresses that the policy refuses,
// request headers only from the server of the manifest, again after a failure, and no
// redirects.
func TestFetching(t *testing.T) {
	w, p, foreign := newWorld(t), newProvider(t), newProvider(t)
	foreign.files["/f.ndjson"] = patient("f")
	fails := 2
	p.hook = func(rw http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/m-0.ndjson" && fails > 0:
			fails--
			rw.WriteHeader(503)
			return true
		case r.URL.Path == "/moved":
			http.Redirect(rw, r, "/m-0.ndjson", http.StatusFound)
			return true
		}
		return false
	}
	u := p.manifest("m", "Patient", patient("a"))
	text := strings.Replace(p.files["/m"], `"output":[`,
		`"link":[{"relation":"next","url":"`+p.URL+`/next"}],"output":[`+
			`{"type":"Patient","url":"`+foreign.URL+`/f.ndjson"},{"type":"Patient","url":"http://192.0.2.1/x"},`+
			`{"type":"Patient","url":"file:///etc/passwd"},{"type":"Patient","url":"`+p.URL+
			`/moved"},{"type":"Patient","url":"`+p.URL+`/absent"},`, 1)
	p.files["/m"] = text
	p.manifest("next", "Patient", patient("n"))
	in := params("s", completed, u, base)
	in.Headers = []Header{{"Authorization", "Bearer secret"}}
	w.submit(in)
	m, outcomes := w.await("s")
	if got := w.ids("Patient"); !slices.Equal(got, []string{"a", "f", "n"}) {
		t.Errorf("%v\n%s", got, outcomes)
	}
	if m.Error[0].Count != 4 || strings.Contains(outcomes, "secret") {
		t.Errorf("%+v %s", m, outcomes)
	}
	for _, r := range p.seen {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s without the header", r.URL)
		}
	}
	for _, r := range foreign.seen {
		if r.Header.Get("Authorization") != "" {
			t.Error("another server got the header")
		}
	}
	if err := w.st.List(t.Context(), prefix, func(_ string, v []byte) bool {
		if bytes.Contains(v, []byte("secret")) {
			t.Error("the header is kept after the manifest was processed")
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"http://192.0.2.1/m", "http://169.254.169.254/latest", "ftp://x/y"} {
		if err := w.consumer.Submit(t.Context(), w.caller("ehr"),
			params("bad", completed, bad, base)); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
	strict := w.opts
	strict.Policy = egress.Policy{} // the control: without permission, nothing of 127.0.0.1 is fetched
	w.consumer.Close()
	w.consumer = w.start(strict)
	if err := w.consumer.Submit(t.Context(), w.caller("ehr"),
		params("strict", completed, u, base)); fhir.KindOf(err) != fhir.Invalid {
		t.Errorf("a private address: %v", err)
	}
}

// TestBrokenManifest checks that a manifest that cannot be read is reported.
func TestBrokenManifest(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	p.files["/html"] = "<html>"
	for i, path := range []string{"/html", "/absent"} {
		name := fmt.Sprint("s", i)
		w.submit(params(name, completed, p.URL+path, base))
		if m, outcomes := w.await(name); len(m.Error) != 1 || m.Error[0].CountSeverity[0].Code != "fatal" {
			t.Errorf("%s: %+v %s", path, m, outcomes)
		}
	}
}

// TestDeletions checks the deleted part of a manifest.
func TestDeletions(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	del := func(u string) string {
		return `{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"` + u +
			`"}}]}` + "\n"
	}
	w.submit(params("s1", completed, p.manifest("m1", "Patient", patient("a")+patient("b")), p.URL))
	w.await("s1")
	w.submit(params("s2", completed, p.manifest("m2", "Bundle", del("Patient/b")+del("nonsense")+"[]\n"), p.URL))
	if m, outcomes := w.await("s2"); m.Error[0].Count != 2 {
		t.Errorf("%s", outcomes)
	}
	if got := w.ids("Patient"); !slices.Equal(got, []string{derivedID(p.URL, "Patient", "a")}) {
		t.Errorf("%v", got)
	}
}

func TestParseParams(t *testing.T) {
	id, sub := `{"name":"submitter","valueIdentifier":{"system":"urn:x","value":"y"}}`,
		`{"name":"submissionId","valueString":"s"}`
	in := func(ps ...string) []byte {
		return []byte(`{"resourceType":"Parameters","parameter":[` + strings.Join(ps, ",") + `]}`)
	}
	u, b := `{"name":"manifestUrl","valueUrl":"https://x/m"}`, `{"name":"fhirBaseUrl","valueUrl":"https://x/fhir/"}`
	status := func(code string) string {
		return `{"name":"submissionStatus","valueCoding":{"system":"http://hl7.org/fhir/event-status","code":"` +
			code + `"}}`
	}
	header := func(name, value string) string {
		return `{"name":"fileRequestHeader","part":[{"name":"headerName","valueString":"` + name +
			`"},{"name":"headerValue","valueString":"` + value + `"}]}`
	}
	for _, c := range []struct {
		body []byte
		ok   bool
	}{
		{in(id, sub, u, b), true},
		{in(id, sub, status("complete")), true}, // of the Argonaut draft
		{in(id, sub, u, b, status("completed"), header("X-Key", "v"), header("Authorization", "Bearer x"),
			`{"name":"outputFormat","valueString":"application/fhir+ndjson; fhirVersion=4.0"}`,
			`{"name":"replacesManifestUrl","valueUrl":"https://x/l"}`, `{"name":"metadata","part":[]}`), true},
		{in(id, sub), false},
		{in(id, sub, u), false},
		{in(sub, u, b), false},
		{in(id, u, b), false},
		{in(id, id, sub, u, b), false},
		{in(id, sub, status("perhaps")), false},
		{in(id, sub, b, `{"name":"manifestUrl","valueUrl":"m"}`), false},
		{in(id, sub, u, b, header("Host", "x")), false},
		{in(id, sub, u, b, header("X", `a\r\nb`)), false},
		{in(id, sub, u, b, header("X Y", "a")), false},
		{in(id, sub, u, b, `{"name":"fileEncryptionKey","part":[]}`), false},
		{in(id, sub, u, b, `{"name":"outputFormat","valueString":"csv"}`), false},
		{[]byte(`{"resourceType":"Patient"}`), false},
		{[]byte(`[`), false},
	} {
		if _, err := ParseParams(c.body, false); (err == nil) != c.ok || err != nil &&
			fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", c.body, err)
		}
	}
	if _, err := ParseParams(in(id, sub), true); err != nil {
		t.Errorf("status: %v", err)
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add([]byte(`{"resourceType":"Parameters","parameter":[{"name":"submitter","valueIdentifier":{"value":"y"}},{"name":"submissionId","valueString":"s"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParseParams(b, false); (p == nil) == (err == nil) {
			t.Fatal("either parameters or an error")
		}
	})
}

// FuzzRewrite checks that rewriting keeps a resource but for its id and references.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte(strings.TrimSpace(observation("a", "Patient/b"))))
	f.Add([]byte(`{"resourceType":"Patient","id":"a","contained":[{"id":"x","reference":"Patient/y"}],"n":1.50e3}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m := manifest{Base: "https://x/fhir"}
		ref, body, err := m.rewrite(line, base)
		if err != nil {
			return
		}
		var r struct{ ID string }
		if json.Unmarshal(body, &r) != nil || !strings.EqualFold(r.ID, ref.ID) &&
			!bytes.Contains(body, []byte(ref.ID)) {
			t.Fatalf("%s", body)
		}
		same := manifest{Base: base}
		if _, again, err := same.rewrite(body, base); err != nil || !bytes.Equal(again, body) {
			t.Fatalf("%s, %s: %v", body, again, err)
		}
	})
}

// TestOwnResources checks that a submission, and deletions in one, change nothing that the
// server publishes: not its topics, and not its terminology.
func TestOwnResources(t *testing.T) {
	w, p := newWorld(t), newProvider(t)
	const topicURL = "http://hl7.org/fhir/5.0/StructureDefinition/extension-SubscriptionTopic.url"
	topic := func(id, u string) string {
		return `{"resourceType":"Basic","id":"` + id + `","code":{"coding":[{"system":"http://hl7.org/fhir/fhir-types",` +
			`"code":"SubscriptionTopic"}]},"extension":[{"url":"` + topicURL + `","valueUri":"` + u + `"}]}` + "\n"
	}
	system := func(id, u string) string {
		return `{"resourceType":"CodeSystem","id":"` + id + `","url":"` + u + `","status":"active","content":"complete"}` + "\n"
	}
	own := map[string]string{"Basic": topic("t", fhir.Canonical+"/topic"),
		"CodeSystem": system("t", fhir.Canonical+"/CodeSystem/t")}
	for typ, text := range own {
		head := `{"resourceType":"` + typ + `","id":"t"`
		res := fhir.Resource{Type: typ, ID: "t",
			JSON: []byte(fhir.Prefix(typ, "t") + "}" + strings.TrimSpace(strings.TrimPrefix(text, head)))}
		if _, err := w.st.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Resource: res}}}); err != nil {
			t.Fatal(err)
		}
	}
	del := `{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"Basic/t"}},` +
		`{"request":{"method":"DELETE","url":"CodeSystem/t"}}]}` + "\n"
	w.submit(params("s", completed, p.manifest("m",
		"Basic", topic("t", "https://other.example.org/t")+topic("new", fhir.Canonical+"/new")+
			topic("theirs", "https://other.example.org/t"),
		"CodeSystem", system("t", "https://other.example.org/t")+system("new", fhir.Canonical+"/CodeSystem/new")+
			system("theirs", "https://other.example.org/t"),
		"Bundle", del), base))
	_, outcomes := w.await("s")
	if n := strings.Count(outcomes, `"code":"forbidden"`); n != 6 {
		t.Errorf("%d of 6 changes are forbidden:\n%s", n, outcomes)
	}
	for typ := range own {
		if got := w.ids(typ); !slices.Equal(got, []string{"t", "theirs"}) {
			t.Errorf("%s: %v", typ, got)
		}
		if r, _, err := w.st.Read(t.Context(), fhir.Ref{Type: typ, ID: "t"}, 0); err != nil || r.Version != 1 {
			t.Errorf("%s: version %d, %v", typ, r.Version, err)
		}
	}
}
