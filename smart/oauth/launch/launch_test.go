package launch_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/smarttest"
	"pulsegate/smart/oauth/launch"
)

type m = map[string]any

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// holders are who holds which token.
type holders map[string]*access.Principal

func (h holders) Authenticate(r *http.Request) (*access.Principal, error) {
	tok, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if tok == "broken" {
		return nil, fhir.Errorf(fhir.Unavailable, "test", "no store")
	}
	if p := h[tok]; p != nil {
		return p, nil
	}
	return nil, fhir.Errorf(fhir.Unauthorized, "test", "no such token")
}

// world is the API alone, over HTTP and the embedded store.
type world struct {
	*smarttest.Base
	t   *testing.T
	svc *launch.Service
	app client.Client
}

func newWorld(t *testing.T) *world {
	b := smarttest.New(t, time.Unix(1_800_000_000, 0))
	w := &world{Base: b, t: t}
	w.app = w.add("https://app.example/launch")
	backend := func(s string) *access.Principal {
		return &access.Principal{ClientID: "ehr", ClientName: "EHR", Scope: s, Grant: &access.Grant{Recipient: "ehr"}}
	}
	person := backend("launch patient/*.rs")
	person.Grant.Person = true
	w.svc = &launch.Service{Store: b.DB, Clients: b.Clients, Scopes: b.Scopes, Clock: b.Clock,
		Base: b.Server.URL + "/fhir", Logger: b.Logger, Audit: b.Audit,
		Auth: holders{"ehr": backend("launch"), "reader": backend("system/Patient.rs"),
			"patient": backend("launch/patient"), "person": person}}
	w.svc.Mount(b.Engine)
	return w
}

func (w *world) add(launchURL string) client.Client {
	return must(w.Clients.Add(w.t.Context(),
		client.Client{Name: "App", Method: client.None, RedirectURIs: []string{"https://app.example/cb"},
			LaunchURL: launchURL, Scope: "launch patient/*.rs"}))
}

func (w *world) send(method, kind, tok, body string) (int, m, http.Header) {
	w.t.Helper()
	r := must(http.NewRequest(method, w.Server.URL+launch.Path, strings.NewReader(body)))
	r.Header.Set("Content-Type", kind)
	if tok != "" {
		r.Header.Set("Authorization", "Bearer "+tok)
	}
	res := must(http.DefaultClient.Do(r))
	defer res.Body.Close()
	var out m
	if err := json.Unmarshal(must(io.ReadAll(res.Body)), &out); err != nil {
		w.t.Fatal(res.Status, err)
	}
	if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Access-Control-Allow-Origin") != "" {
		w.t.Error("the answer may be cached, or read by a page of another site")
	}
	return res.StatusCode, out, res.Header
}

// mint makes a handle for the app.
func (w *world) mint(change m) string {
	w.t.Helper()
	in := m{"client_id": w.app.ID, "patient": "p1"}
	for k, v := range change {
		in[k] = v
	}
	s, out, _ := w.send("POST", "application/json", "ehr", string(must(json.Marshal(in))))
	if s != 201 {
		w.t.Fatal(s, out)
	}
	return out["launch"].(string)
}

func (w *world) use(handle, clientID string) (launch.Launch, store.StateWrite, error) {
	return w.svc.Use(w.t.Context(), handle, clientID)
}

// TestWhoMayLaunch: who is not known, who lacks the scope, and a person are
// refused before the body is looked at.
func TestWhoMayLaunch(t *testing.T) {
	w := newWorld(t)
	for name, x := range map[string]struct {
		tok    string
		status int
		code   string
	}{
		"no token":              {"", 401, "invalid_token"},
		"an unknown one":        {"x", 401, "invalid_token"},
		"without the scope":     {"reader", 403, "insufficient_scope"},
		"with another of SMART": {"patient", 403, "insufficient_scope"},
		"a person's":            {"person", 403, "insufficient_scope"},
		"nobody can say":        {"broken", 503, "temporarily_unavailable"},
	} {
		s, out, h := w.send("POST", "application/json", x.tok, "{")
		if s != x.status || out["error"] != x.code || s != 503 &&
			!strings.Contains(h.Get("WWW-Authenticate"), `error="`+x.code+`"`) {
			t.Errorf("%s: %d %v %q", name, s, out, h.Get("WWW-Authenticate"))
		}
	}
	for name, x := range map[string]struct {
		method, kind, body string
		status             int
	}{
		"GET":                 {"GET", "application/json", "", 405},
		"a form":              {"POST", "application/x-www-form-urlencoded", "client_id=" + w.app.ID, 400},
		"no JSON":             {"POST", "application/json", "{", 400},
		"two documents":       {"POST", "application/json", `{"client_id":"` + w.app.ID + `"} {}`, 400},
		"more than 64 KiB":    {"POST", "application/json", `{"intent":"` + strings.Repeat("x", 65<<10) + `"}`, 400},
		"a member of no type": {"POST", "application/json", `{"client_id":1}`, 400},
		"33 items of context": {"POST", "application/json",
			`{"client_id":"` + w.app.ID + `","fhirContext":[` +
				strings.Repeat(`{"reference":"ImagingStudy/1"},`, 32) + `{"reference":"ImagingStudy/1"}]}`, 400},
		"a context of a space": {"POST", "application/json",
			`{"client_id":"` + w.app.ID + `","fhirContext":[{"reference":"ImagingStudy/1 "}]}`, 400},
		"an encounter a path": {"POST", "application/json", `{"client_id":"` + w.app.ID + `","encounter":"e/1"}`, 400},
	} {
		if s, out, h := w.send(x.method, x.kind, "ehr", x.body); s != x.status ||
			out["error"] != "invalid_request" || out["launch"] != nil || s == 405 && h.Get("Allow") != "POST" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	off := w.add("")
	if err := w.Clients.Disable(t.Context(), off.ID); err != nil {
		t.Fatal(err)
	}
	if s, out, _ := w.send("POST", "application/json", "ehr", `{"client_id":"`+off.ID+`"}`); s != 400 {
		t.Errorf("an app that was switched off: %d %v", s, out)
	}
}

// TestHandle: one use, for one app, for five minutes; what it stands for is
// what the EHR said, and the store does not know the handle.
func TestHandle(t *testing.T) {
	w := newWorld(t)
	s, out, _ := w.send("POST", "application/json", "ehr",
		`{"client_id":"`+w.app.ID+`","patient":"p1","encounter":"e1","intent":"x","need_patient_banner":false,"user":"Practitioner/1",`+
			`"fhirContext":[{"reference":"Patient/p9","role":"https://ehr.example/role"},{"canonical":"https://ehr.example/q"},{"identifier":{"value":"1"}}]}`)
	u := must(url.Parse(out["launch_url"].(string)))
	handle := out["launch"].(string)
	if s != 201 || out["iss"] != w.Server.URL+"/fhir" || out["expires_in"] != launch.Life.Seconds() ||
		u.Query().Get("launch") != handle || u.Query().Get("iss") != out["iss"] || len(handle) < 43 {
		t.Fatal(s, out)
	}
	l, write, err := w.use(handle, w.app.ID)
	if err != nil || l.By != "ehr" || l.User != "Practitioner/1" || l.Context.Patient != "p1" ||
		l.Context.Encounter != "e1" || l.Context.Intent != "x" || *l.Context.Banner ||
		!strings.Contains(string(l.Context.FHIRContext), "p9") {
		t.Fatalf("%+v %v", l, err)
	}
	if err := w.DB.List(t.Context(), "launch/", func(k string, v []byte) bool {
		if strings.Contains(k+string(v), handle) {
			t.Error("the store knows the handle")
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	q := must(search.Parse("AuditEvent", [][2]string{{"patient", "p1"}}, search.ParseOptions{}))
	n := 0
	if err := w.DB.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(*store.Found) bool { n++; return true }); err != nil || n != 1 {
		t.Error(n, "events of the launch of a patient", err)
	}

	other := w.add("")
	for name, x := range map[string][2]string{"another app": {handle, other.ID}, "an unknown app": {handle, "x"},
		"no app": {handle, ""}, "no handle": {"", w.app.ID},
		"a part of it": {handle[1:], w.app.ID}, "a longer one": {handle + "A", w.app.ID},
		"much": {strings.Repeat("A", 129), w.app.ID}} {
		if _, _, err := w.use(x[0], x[1]); fhir.KindOf(err) != fhir.NotFound || strings.Contains(err.Error(), handle) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Both have read it; the first to commit has it, and nobody after.
	commit := func() error {
		_, err := w.DB.Commit(t.Context(), &store.Batch{State: []store.StateWrite{write}})
		return err
	}
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	if err := commit(); fhir.KindOf(err) != fhir.Conflict {
		t.Error("used twice at once:", err)
	}
	if _, _, err := w.use(handle, w.app.ID); fhir.KindOf(err) != fhir.NotFound {
		t.Error("used before:", err)
	}

	handle = w.mint(nil)
	w.Now = w.Now.Add(launch.Life - time.Second)
	if _, _, err := w.use(handle, w.app.ID); err != nil {
		t.Error("in its last second:", err)
	}
	w.Now = w.Now.Add(time.Second)
	if _, _, err := w.use(handle, w.app.ID); fhir.KindOf(err) != fhir.NotFound {
		t.Error("expired:", err)
	}
	if a, b := w.mint(nil), w.mint(nil); a == b {
		t.Error("two launches have one handle")
	}
}
