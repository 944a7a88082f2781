package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/conformance/browser"
)

// app is a web app on a separate origin that uses fhirclient.
type app struct {
	world    *world
	origin   string
	settings map[string]any // for FHIR.oauth2.authorize at the next launch
}

func newApp(w *world) *app {
	a := &app{world: w}
	library := filepath.Join(browser.Packages(w.t), "node_modules", "fhirclient", "build", "fhir-client.min.js")
	page := func(script string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprintf(rw, `<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>App</title><body><script src="library.js"></script><script src="%s"></script>`, script)
		}
	}
	m := http.NewServeMux()
	m.HandleFunc("GET /launch", page("launch.js"))
	m.HandleFunc("GET /app", page("app.js"))
	m.HandleFunc("GET /library.js", func(rw http.ResponseWriter, r *http.Request) { http.ServeFile(rw, r, library) })
	m.Handle("GET /", http.FileServer(http.Dir("testdata")))
	m.HandleFunc("GET /settings", func(rw http.ResponseWriter, r *http.Request) {
		s := maps.Clone(a.settings)
		if !r.URL.Query().Has("launch") {
			s["iss"] = w.srv.Base + "/fhir"
		}
		if err := json.NewEncoder(rw).Encode(s); err != nil {
			w.t.Error(err)
		}
	})
	srv := httptest.NewServer(m)
	w.t.Cleanup(srv.Close)
	a.origin = srv.URL // 127.0.0.1 is another origin than localhost
	return a
}

// result is the outcome that the app reports.
type result struct {
	ISS, Scope, User, UserResource, Patient, One, Subject, Statement, Again string
	PatientID, EncounterID                                                  string
	Found                                                                   []string
	Values, Paged                                                           int
	Refused                                                                 map[string]any
	Refreshed                                                               any
	Rotated                                                                 bool
	Token                                                                   map[string]any
}

// finish waits for the app and returns its result.
func (a *app) finish(p *browser.Tab) result {
	a.world.t.Helper()
	p.Wait("the app is done")
	if at := p.At(); !strings.HasPrefix(at, a.origin+"/app") {
		a.world.t.Fatalf("at %s", at)
	}
	var out result
	a.world.must(json.Unmarshal([]byte(browser.Eval[string](p, "JSON.stringify(window.result)")), &out))
	return out
}

// check checks the part of a result that is the same for every type of client.
func (a *app) check(got result, user, scope string, refresh float64) {
	t := a.world.t
	t.Helper()
	base := a.world.srv.Base + "/fhir"
	if got.ISS != base || got.PatientID != "demo-ada" || got.Patient != "Patient/demo-ada" ||
		got.Subject != "Patient/demo-ada" || got.Statement != "4.0.1" {
		t.Errorf("%+v", got)
	}
	if got.User != user || got.UserResource != user {
		t.Errorf("the user is %q %q, want %s", got.User, got.UserResource, user)
	}
	if len(got.Found) != 3 || got.Values != 3 || got.Paged != 15 || got.One != got.Found[0] {
		t.Errorf("searches: %v %d %d %q", got.Found, got.Values, got.Paged, got.One)
	}
	if !maps.Equal(scopeSet(got.Scope), scopeSet(scope)) {
		t.Errorf("scope %q, want %q", got.Scope, scope)
	}
	if want := map[string]any{"Device?patient=demo-ada": 403., "Patient/demo-chi": 404.,
		"Observation/nothing": 404.}; !maps.Equal(got.Refused, want) {
		t.Errorf("refused: %v, want %v", got.Refused, want)
	}
	if got.Refreshed != refresh || refresh == 200 && !got.Rotated || got.Again != "Patient/demo-ada" {
		t.Errorf("refreshed: %v %v %q", got.Refreshed, got.Rotated, got.Again)
	}
}

// key returns a new key pair: the private JWK and the public JWK Set.
func key(t *testing.T, alg jwa.SignatureAlgorithm) (private json.RawMessage, set []byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var raw any
	var err error
	if alg == jwa.RS384 {
		raw, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		raw, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	must(err)
	k, err := jwk.FromRaw(raw)
	must(err)
	must(k.Set(jwk.KeyIDKey, "of-the-app"))
	must(k.Set(jwk.AlgorithmKey, alg))
	private, err = json.Marshal(k)
	must(err)
	pub, err := k.PublicKey()
	must(err)
	s := jwk.NewSet()
	must(s.AddKey(pub))
	set, err = json.Marshal(s)
	must(err)
	return private, set
}

const (
	standalone = "openid fhirUser launch/patient offline_access patient/Patient.rs patient/Observation.rs"
	ehr        = "openid fhirUser launch offline_access patient/Patient.rs patient/Observation.rs user/Practitioner.rs"
)

// TestFHIRClientInBrowser launches each type of client that fhirclient supports,
// standalone and from the console.
func TestFHIRClientInBrowser(t *testing.T) {
	// Skip before the server is built.
	browser.Chromium(t)
	browser.Packages(t)
	w := newWorld(t)
	c := browser.New(t, browser.Options{Base: w.srv.Base})
	a := newApp(w)
	ada, dora := c.Person(), c.Person()
	w.signIn(ada, "ada")
	w.signIn(dora, "dora")
	for _, typ := range []struct {
		name string
		alg  jwa.SignatureAlgorithm // empty for a public client
		// refresh is the status of a refresh. fhirclient refreshes without an
		// assertion, which the server refuses for a client with a key.
		refresh float64
	}{{"Public app", "", 200}, {"App with ES384", jwa.ES384, 401}, {"App with RS384", jwa.RS384, 401}} {
		auth := []string{"--auth", "none"}
		settings := map[string]any{"redirectUri": a.origin + "/app", "pkceMode": "required"}
		if typ.alg != "" {
			private, set := key(t, typ.alg)
			settings["clientPrivateJwk"] = private
			auth = []string{"--jwks", w.file(strings.ReplaceAll(typ.name, " ", "-")+".json", set)}
		}
		settings["clientId"] = w.register(typ.name, standalone+" "+ehr, a.origin, auth...)

		settings["scope"], a.settings = standalone, settings
		ada.Open(a.origin + "/launch").Wait("Allow " + typ.name + "?")
		ada.Press("button[value=allow]")
		a.check(a.finish(ada), "Patient/demo-ada", standalone, typ.refresh)

		settings["scope"] = ehr
		dora.Open("/auth/launches?client=" + settings["clientId"].(string))
		dora.Fill("#client", settings["clientId"].(string)).Fill("#patient",
			"demo-ada").Click("form[method=post][action='/auth/launches'] button", "Open "+typ.name)
		to := browser.Eval[string](dora, `document.querySelector("a.btn.primary[target]").href`)
		dora.Open(to).Wait("Allow " + typ.name + "?")
		dora.Press("button[value=allow]")
		got := a.finish(dora)
		a.check(got, "Practitioner/demo-dora", ehr, typ.refresh)
		if style, ok := got.Token["smart_style_url"].(string); got.Token["need_patient_banner"] != true || !ok ||
			!w.style(style) {
			t.Errorf("launch from the console: need_patient_banner %v, smart_style_url %v",
				got.Token["need_patient_banner"], got.Token["smart_style_url"])
		}
	}
	// The page offers the encounters of her data, and the app receives the selected one.
	w.visit("demo-ada", "v-1")
	w.visit("demo-ben", "v-2")
	const visit = standalone + " launch/encounter"
	a.settings = map[string]any{"redirectUri": a.origin + "/app", "scope": visit,
		"clientId": w.register("Visit app", visit, a.origin, "--auth", "none")}
	ada.Open(a.origin + "/launch").Wait("Which visit is it about?")
	if n := browser.Eval[int](ada, `document.querySelectorAll("input[name=encounter]").length`); n != 2 {
		t.Errorf("%d visits to choose from", n)
	}
	ada.Click("input[name=encounter][value=v-1]", "Check-up").Press("button[value=allow]")
	got := a.finish(ada)
	a.check(got, "Patient/demo-ada", visit, 200)
	if got.EncounterID != "v-1" {
		t.Errorf("the encounter is %q", got.EncounterID)
	}
	// The encounter of another patient is refused.
	ada.Open(a.origin + "/launch").Wait("Which visit is it about?")
	browser.Eval[string](ada, `document.querySelector("input[name=encounter][value=v-1]").value = "v-2"`)
	ada.Click("input[name=encounter][value=v-2]", "Check-up").Click("button[value=allow]", "Not allowed")

	// The page lists the apps that she allowed and those that others opened for her
	// data. When she ends their access, the running app can read nothing more.
	ada.Open("/auth/apps").Wait("Public app").Wait("Dr. Dora Doc")
	if n := browser.Eval[int](ada, `document.querySelectorAll("form[action=\"/auth/apps\"] button.danger").length`); n != 4 {
		t.Errorf("%d apps are listed, want 4", n)
	}
	if s := w.status(got.Token["access_token"].(string), "Patient/demo-ada"); s != 200 {
		t.Errorf("before the access ended: %d", s)
	}
	if n := w.consents("demo-ada", "active"); n != 4 {
		t.Errorf("%d consents to apps are active, want 4", n)
	}
	for left := 3; left >= 0; left-- {
		ada.Press("form[action=\"/auth/apps\"] button.danger").Until(
			fmt.Sprintf(`document.querySelectorAll("form[action=\"/auth/apps\"] button.danger").length === %d`, left))
	}
	ada.Wait("No app has access by your own word")
	if s := w.status(got.Token["access_token"].(string), "Patient/demo-ada"); s != 401 {
		t.Errorf("after the access ended: %d", s)
	}
	if active, ended := w.consents("demo-ada", "active"), w.consents("demo-ada", "inactive"); active != 0 ||
		ended != 4 {
		t.Errorf("%d consents to apps are active and %d have ended, want 0 and 4", active, ended)
	}
	if _, err := os.Stat(filepath.Join("testdata", "node_modules")); err == nil {
		t.Error("packages were installed in the repository")
	}
}
