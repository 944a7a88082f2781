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

// principals implements launch.Authenticator. It maps access tokens to
// principals.
type principals map[string]*access.Principal

func (p principals) Authenticate(r *http.Request) (*access.Principal, error) {
	tok, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if tok == "broken" {
		return nil, fhir.Errorf(fhir.Unavailable, "test", "the store is not available")
	}
	if principal := p[tok]; principal != nil {
		return principal, nil
	}
	return nil, fhir.Errorf(fhir.Unauthorized, "test", "the token is unknown")
}

// world is the launch API over HTTP with the embedded store.
type world struct {
	*smarttest.Base
	t       *testing.T
	service *launch.Service
	app     client.Client
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
	w.service = &launch.Service{Store: b.DB, Clients: b.Clients, Scopes: b.Scopes, Clock: b.Clock,
		Base: b.Server.URL + "/fhir", Logger: b.Logger, Audit: b.Audit,
		Auth: principals{"ehr": backend("launch"), "reader": backend("system/Patient.rs"),
			"patient": backend("launch/patient"), "person": person}}
	w.service.Mount(b.Engine)
	return w
}

// add registers an app with a launch URL.
func (w *world) add(launchURL string) client.Client {
	return must(w.Clients.Add(w.t.Context(),
		client.Client{Name: "App", Method: client.None, RedirectURIs: []string{"https://app.example/cb"},
			LaunchURL: launchURL, Scope: "launch patient/*.rs"}))
}

func (w *world) send(method, contentType, tok, body string) (int, m, http.Header) {
	w.t.Helper()
	r := must(http.NewRequest(method, w.Server.URL+launch.Path, strings.NewReader(body)))
	r.Header.Set("Content-Type", contentType)
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
		w.t.Error("the response may be cached, or read by scripts of other origins")
	}
	return res.StatusCode, out, res.Header
}

// mint creates a handle for the app.
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
	return w.service.Use(w.t.Context(), handle, clientID)
}

// TestLaunchRefused checks that only a backend with the scope launch may create
// launches, and that malformed requests are refused.
func TestLaunchRefused(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		tok    string
		status int
		code   string
	}{
		"no token":                 {"", 401, "invalid_token"},
		"unknown token":            {"x", 401, "invalid_token"},
		"without the scope launch": {"reader", 403, "insufficient_scope"},
		"with launch/patient":      {"patient", 403, "insufficient_scope"},
		"token of a person":        {"person", 403, "insufficient_scope"},
		"store not available":      {"broken", 503, "temporarily_unavailable"},
	} {
		s, out, h := w.send("POST", "application/json", tc.tok, "{")
		if s != tc.status || out["error"] != tc.code || s != 503 &&
			!strings.Contains(h.Get("WWW-Authenticate"), `error="`+tc.code+`"`) {
			t.Errorf("%s: %d %v %q", name, s, out, h.Get("WWW-Authenticate"))
		}
	}
	for name, tc := range map[string]struct {
		method, contentType, body string
		status                    int
	}{
		"GET":           {"GET", "application/json", "", 405},
		"form":          {"POST", "application/x-www-form-urlencoded", "client_id=" + w.app.ID, 400},
		"not JSON":      {"POST", "application/json", "{", 400},
		"two documents": {"POST", "application/json", `{"client_id":"` + w.app.ID + `"} {}`, 400},
		"more than 64 KiB": {"POST", "application/json", `{"intent":"` + strings.Repeat("x", 65<<10) + `"}`,
			400},
		"member of the wrong type": {"POST", "application/json", `{"client_id":1}`, 400},
		"33 entries in fhirContext": {"POST", "application/json",
			`{"client_id":"` + w.app.ID + `","fhirContext":[` +
				strings.Repeat(`{"reference":"ImagingStudy/1"},`, 32) + `{"reference":"ImagingStudy/1"}]}`, 400},
		"space in a reference": {"POST", "application/json",
			`{"client_id":"` + w.app.ID + `","fhirContext":[{"reference":"ImagingStudy/1 "}]}`, 400},
		"slash in the encounter": {"POST", "application/json", `{"client_id":"` + w.app.ID + `","encounter":"e/1"}`,
			400},
	} {
		if s, out, h := w.send(tc.method, tc.contentType, "ehr", tc.body); s != tc.status ||
			out["error"] != "invalid_request" || out["launch"] != nil || s == 405 && h.Get("Allow") != "POST" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	disabled := w.add("")
	if err := w.Clients.Disable(t.Context(), disabled.ID); err != nil {
		t.Fatal(err)
	}
	if s, out, _ := w.send("POST", "application/json", "ehr", `{"client_id":"`+disabled.ID+`"}`); s != 400 {
		t.Errorf("disabled app: %d %v", s, out)
	}
}

// TestHandle checks that a handle works once, for one app, for five minutes,
// that it yields the launch of the request, and that the store does not contain
// the handle.
func TestHandle(t *testing.T) {
	w := newWorld(t)
	s, out, _ := w.send("POST", "application/json", "ehr",
		`{"client_id":"`+w.app.ID+`","patient":"p1","encounter":"e1","intent":"x","need_patient_banner":false,`+
			`"user":"Practitioner/1","fhirContext":[{"reference":"Patient/p9","role":"https://ehr.example/role"},`+
			`{"canonical":"https://ehr.example/q"},{"identifier":{"value":"1"}}]}`)
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
			t.Error("the store contains the handle")
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	q := must(search.Parse("AuditEvent", [][2]string{{"patient", "p1"}}, search.ParseOptions{}))
	n := 0
	if err := w.DB.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(*store.Found) bool { n++; return true }); err != nil || n != 1 {
		t.Error(n, "AuditEvents of the launch", err)
	}

	other := w.add("")
	for name, args := range map[string][2]string{"another app": {handle, other.ID}, "an unknown app": {handle, "x"},
		"no app": {handle, ""}, "no handle": {"", w.app.ID},
		"truncated handle": {handle[1:], w.app.ID}, "extended handle": {handle + "A", w.app.ID},
		"long handle": {strings.Repeat("A", 129), w.app.ID}} {
		if _, _, err := w.use(args[0], args[1]); fhir.KindOf(err) != fhir.NotFound ||
			strings.Contains(err.Error(), handle) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Of two requests that have read the launch, only the first can commit.
	commit := func() error {
		_, err := w.DB.Commit(t.Context(), &store.Batch{State: []store.StateWrite{write}})
		return err
	}
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	if err := commit(); fhir.KindOf(err) != fhir.Conflict {
		t.Error("used twice concurrently:", err)
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
