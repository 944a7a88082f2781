package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/launch"
)

// send sends JSON with a bearer token.
func (w *world) sendJSON(method, path, bearer string, body any) (int, m) {
	w.t.Helper()
	var b []byte
	if body != nil {
		b = must(json.Marshal(body))
	}
	r := must(http.NewRequest(method, w.base+path, bytes.NewReader(b)))
	r.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	res := must(w.browser.Do(r))
	defer res.Body.Close()
	raw := must(io.ReadAll(res.Body))
	var out m
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &out); err != nil {
			w.t.Fatalf("%d %q", res.StatusCode, raw)
		}
	}
	return res.StatusCode, out
}

func TestEHRLaunch(t *testing.T) {
	w := newWorld(t)
	app := w.app(client.SecretBasic, func(c *client.Client) { c.LaunchURL = "https://app.example/launch?a=b" })
	ehr := w.backend("launch system/Patient.r")
	tok := w.backendToken(ehr, "launch")
	full := m{"client_id": app.ID, "patient": "p2", "encounter": "e1", "intent": "reconcile",
		"need_patient_banner": false,
		"smart_style_url":     "https://ehr.example/style.json", "user": "Practitioner/d1",
		"fhirContext": []m{{"reference": "ImagingStudy/i1"}}}
	mint := func(change m) (int, m) {
		body := m{}
		for _, x := range []m{full, change} {
			for k, v := range x {
				if body[k] = v; v == nil {
					delete(body, k)
				}
			}
		}
		return w.sendJSON("POST", launch.Path, tok, body)
	}
	s, l := mint(nil)
	u := must(url.Parse(fmt.Sprint(l["launch_url"])))
	if s != 201 || l["iss"] != w.base+"/fhir" || u.Query().Get("iss") != w.base+"/fhir" ||
		u.Query().Get("launch") != l["launch"] || u.Query().Get("a") != "b" {
		t.Fatal(s, l)
	}
	w.reopen()
	ask := func(handle any) (url.Values, int, string) {
		return w.follow(w.params(app, "openid fhirUser launch patient/*.rs user/*.rs",
			url.Values{"launch": {fmt.Sprint(handle)}}), true)
	}
	v, status, text := ask(l["launch"])
	s, out, _ := w.redeem(app, v.Get("code"), nil)
	if s != 200 || out["patient"] != "p2" || out["encounter"] != "e1" || out["intent"] != "reconcile" ||
		out["need_patient_banner"] != false ||
		out["smart_style_url"] != "https://ehr.example/style.json" ||
		fmt.Sprint(out["fhirContext"]) != "[map[reference:ImagingStudy/i1]]" {
		t.Fatal(status, text, s, out)
	}
	// user/ scopes reach beyond the patient
	for path, want := range map[string]int{"Observation/o3": 200, "Observation/o1": 200, "Practitioner/d1": 200} {
		if got := w.read(out["access_token"], path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	if v, _, _ := ask(l["launch"]); v.Get("error") != "invalid_request" {
		t.Error("a handle that was used:", v)
	}
	_, l = mint(nil)
	if v, _, _ := w.follow(w.params(w.app(client.SecretBasic, nil), "launch patient/*.rs",
		url.Values{"launch": {fmt.Sprint(l["launch"])}}), false); v.Get("error") != "invalid_request" {
		t.Error("a handle for another app:", v)
	}
	w.clock.add(launch.Life)
	if v, _, _ := ask(l["launch"]); v.Get("error") != "invalid_request" {
		t.Error("a handle that has expired:", v)
	}
	tok = w.backendToken(ehr, "launch")
	_, l = mint(m{"user": "Practitioner/d2"})
	if v, status, _ := ask(l["launch"]); v != nil || status != 403 {
		t.Error("a launch for another person:", v, status)
	}
	for name, change := range map[string]m{
		"no app":             {"client_id": nil},
		"unknown app":        {"client_id": "nobody"},
		"the EHR itself":     {"client_id": ehr.ID},
		"patient a path":     {"patient": "../x"},
		"user a name":        {"user": "Dr Test"},
		"style not https":    {"smart_style_url": "http://ehr.example/x"},
		"context a string":   {"fhirContext": []string{"ImagingStudy/i1"}},
		"context empty":      {"fhirContext": []m{{}}},
		"context a patient":  {"fhirContext": []m{{"reference": "Patient/p1"}}},
		"context absolute":   {"fhirContext": []m{{"reference": "https://x.example/ImagingStudy/1"}}},
		"context canonical":  {"fhirContext": []m{{"canonical": "urn:x"}}},
		"an unknown member":  {"tenant": "x"},
		"intent a long text": {"intent": strings.Repeat("x", 300)},
	} {
		if s, out := mint(change); s != 400 || out["launch"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	for name, x := range map[string]struct {
		tok  string
		want int
	}{"no token": {"", 401}, "nonsense": {"x", 401},
		"without the scope": {w.backendToken(ehr, "system/Patient.r"), 403},
		"an app's":          {w.authorize(app, "launch launch/patient patient/*.rs")["access_token"].(string), 403}} {
		tok = x.tok
		if s, _ := mint(nil); s != x.want {
			t.Errorf("%s: %d", name, s)
		}
	}
}

// A launch is taken with its scope alone, and only by somebody who may have its
// patient; what was refused may still be used by the right person.
func TestLaunchRefused(t *testing.T) {
	w := newWorld(t)
	app := w.app(client.None, nil)
	tok := w.backendToken(w.backend("launch"), "launch")
	s, l := w.sendJSON("POST", launch.Path, tok, m{"client_id": app.ID, "patient": "p2"})
	if s != 201 {
		t.Fatal(s, l)
	}
	ask := func(scopes string) (url.Values, int) {
		v, status, _ := w.follow(w.params(app, scopes, url.Values{"launch": {fmt.Sprint(l["launch"])}}), false)
		return v, status
	}
	for _, scopes := range []string{"patient/*.rs", "launch/patient patient/*.rs",
		"openid fhirUser launch/encounter user/*.rs"} {
		if v, status := ask(scopes); v.Get("error") != "invalid_scope" || v.Has("code") {
			t.Errorf("with %s: %v %d", scopes, v, status)
		}
	}
	w.signInPatient("p1") // a patient, launched with another
	if v, status := ask("launch patient/*.rs"); v.Has("code") || status != 403 {
		t.Errorf("a patient in another's record: %v %d", v, status)
	}
	w.decide = func(p *authorize.Pending) authorize.Decision { // the own record instead
		return authorize.Decision{Subject: w.subject, Patient: "p1", Scopes: strings.Fields(p.Scopes.String())}
	}
	if v, status := ask("launch patient/*.rs"); v.Has("code") || status != 403 {
		t.Errorf("the launch's patient was changed: %v %d", v, status)
	}
	w.decide = nil
	w.signInPatient("p2")
	v, status := ask("launch patient/*.rs")
	if s, out, _ := w.redeem(app, v.Get("code"), nil); s != 200 || out["patient"] != "p2" {
		t.Errorf("the right person: %d, %d %v", status, s, out)
	}
}
