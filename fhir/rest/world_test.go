package rest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/wire"
)

// canary stands in every invented name and value that must not leak.
const canary = "Xylocarp"

// consents permits by patient, and lets authors read back; it is the rule of
// the contract at its simplest.
type consents struct {
	sync.Mutex
	denied map[string]bool
}

func (c *consents) Permits(_ string, f *access.Facts) bool {
	c.Lock()
	defer c.Unlock()
	return !c.denied[f.Patient]
}

func (c *consents) set(patient string, denied bool) {
	c.Lock()
	defer c.Unlock()
	c.denied[patient] = denied
}

// tokens authenticates "Bearer <client>".
type tokens map[string]*access.Grant

func (a tokens) Authenticate(r *http.Request) (*access.Principal, error) {
	id := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	g, ok := a[id]
	if !ok {
		return nil, fhir.Errorf(fhir.Unauthorized, "test", "an access token is needed")
	}
	return &access.Principal{ClientID: id, TokenID: "jti-" + id, Grant: g}, nil
}

type world struct {
	t        *testing.T
	store    store.Store
	srv      *httptest.Server
	log      *safeBuffer
	errors   *safeBuffer // every error text the API gave
	consents *consents
	tokens   tokens
	limits   *interaction.Limits
	service  *interaction.Service
	persons  map[string]access.Principal // by token; all have the grant of "all"
}

// Authenticate is Authenticator.
func (w *world) Authenticate(r *http.Request) (*access.Principal, error) {
	if p, ok := w.persons[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]; ok {
		p.Grant = w.tokens["all"]
		return &p, nil
	}
	return w.tokens.Authenticate(r)
}

type safeBuffer struct {
	sync.Mutex
	b bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) { s.Lock(); defer s.Unlock(); return s.b.Write(p) }
func (s *safeBuffer) String() string              { s.Lock(); defer s.Unlock(); return s.b.String() }

var validator = sync.OnceValues(func() (*r4.Validator, error) { return r4.New(r4.Limits{}) })

func grant(c *consents, rules ...access.Rule) *access.Grant {
	return &access.Grant{Recipient: "any", Consents: c, Rules: rules}
}

const cruds = access.Create | access.Read | access.Update | access.Delete | access.Search

func newWorld(t *testing.T, st store.Store) *world {
	t.Helper()
	w := serve(t, st)
	w.put("Patient/p1", `{"resourceType":"Patient","id":"p1","name":[{"family":"`+canary+`"}]}`, 201)
	w.put("Patient/p2", `{"resourceType":"Patient","id":"p2","name":[{"family":"Muster"}]}`, 201)
	return w
}

// serve starts a server over a store. Each of more may change it before.
func serve(t *testing.T, st store.Store, more ...func(*world, *Server)) *world {
	t.Helper()
	d, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: st, log: &safeBuffer{}, errors: &safeBuffer{},
		consents: &consents{denied: map[string]bool{}}}
	w.tokens = tokens{
		"all":    grant(w.consents, access.Rule{Type: "*", May: cruds}),
		"reader": grant(w.consents, access.Rule{Type: "Observation", May: access.Read | access.Search}),
		"vitals": grant(w.consents, access.Rule{Type: "Observation", May: cruds,
			Params: []access.Param{{Name: "category", Any: []access.Token{{Code: "vital-signs"}}}}},
			access.Rule{Type: "Patient", May: access.Read | access.Search}),
		"patients": grant(w.consents, access.Rule{Type: "Patient", May: access.Read | access.Search}),
		"writer":   grant(w.consents, access.Rule{Type: "Observation", May: access.Create | access.Update}),
	}
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		t.Fatal(err)
	}
	w.srv = httptest.NewUnstartedServer(nil)
	base := "http://" + w.srv.Listener.Addr().String() + "/fhir"
	svc := &interaction.Service{Store: st, Validator: d, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: base,
		Forms: testForms()}
	w.limits, w.service = &svc.Limits, svc
	s := &Server{
		Service: svc, Auth: w, Metadata: func() []byte { return []byte(`{"resourceType":"CapabilityStatement"}`) },
		Definitions: map[string][]byte{"ehr-bundle": []byte(`{"resourceType":"OperationDefinition"}`)},
		Logger:      slog.New(slog.NewTextHandler(w.log, nil)), Clock: time.Now, Rand: rand.Reader,
		Limits: Limits{Body: 1 << 20, Inflated: 2 << 20}, SignIn: "/auth/",
	}
	for _, change := range more {
		change(w, s)
	}
	w.srv.Config.Handler = s.Handler()
	w.srv.Start()
	t.Cleanup(w.srv.Close)
	return w
}

type answer struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any
}

func (w *world) do(client, method, path, body string, header ...string) answer {
	w.t.Helper()
	u := path
	if !strings.HasPrefix(path, "http") {
		u = w.srv.URL + "/fhir" + path
	}
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, u, rd)
	if err != nil {
		w.t.Fatal(err)
	}
	if client != "" {
		req.Header.Set("Authorization", "Bearer "+client)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: b}
	if strings.Contains(a.header.Get("Content-Type"), "html") {
		return a
	}
	if len(b) > 0 {
		if strings.Contains(a.header.Get("Content-Type"), "xml") {
			if b, err = wire.FromXML(b); err != nil {
				w.t.Fatalf("%s %s: %d, no FHIR: %v in %.200s", method, path, a.status, err, a.body)
			}
		}
		if err := json.Unmarshal(b, &a.json); err != nil {
			w.t.Fatalf("%s %s: %d, no JSON: %.200s", method, path, a.status, b)
		}
	}
	if a.status >= 400 {
		if a.json["resourceType"] != "OperationOutcome" && method != "HEAD" {
			w.t.Errorf("%s %s: %d without an OperationOutcome: %.200s", method, path, a.status, b)
		}
		if _, err := w.errors.Write(b); err != nil {
			w.t.Fatal(err)
		}
	}
	return a
}

func (w *world) want(status int, client, method, path, body string, header ...string) answer {
	w.t.Helper()
	a := w.do(client, method, path, body, header...)
	if a.status != status {
		w.t.Fatalf("%s %s as %q: %d, want %d: %.300s", method, path, client, a.status, status, a.body)
	}
	return a
}

func (w *world) put(path, body string, status int) answer {
	w.t.Helper()
	return w.want(status, "all", "PUT", "/"+path, body)
}

func observation(id, patient, category string, value int) string {
	if id != "" {
		id = `"id":"` + id + `",`
	}
	return fmt.Sprintf(`{"resourceType":"Observation",%s"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"%s"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}],"text":"%s"},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"2026-10-03T10:%02d:00+02:00","valueQuantity":{"value":%d,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}}`,
		id, category, canary, patient, value%60, value)
}

func (a answer) ids() []string {
	var out []string
	entries, _ := a.json["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		r, _ := m["resource"].(map[string]any)
		out = append(out, fmt.Sprint(r["resourceType"], "/", r["id"]))
	}
	slices.Sort(out)
	return out
}

func (a answer) link(rel string) string {
	links, _ := a.json["link"].([]any)
	for _, l := range links {
		if m, _ := l.(map[string]any); m["relation"] == rel {
			return fmt.Sprint(m["url"])
		}
	}
	return ""
}

// audited counts the AuditEvents whose JSON holds all of has.
func (w *world) audited(has ...string) int {
	w.t.Helper()
	n := 0
	err := w.store.Scan(w.t.Context(), store.ScanRange{Types: []string{"AuditEvent"}, At: w.store.LastSeq(),
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		for _, h := range has {
			if !bytes.Contains(f.Resource.JSON, []byte(h)) {
				return true
			}
		}
		n++
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// onEveryStore runs f on the model and on the drivers.
func onEveryStore(t *testing.T, f func(t *testing.T, w *world)) {
	for name, open := range drivers {
		t.Run(name, func(t *testing.T) { f(t, newWorld(t, open(t))) })
	}
}
