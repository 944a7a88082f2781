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

// sendJSON sends a JSON body with a bearer token.
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

// TestEHRLaunch checks a launch from the EHR to the token response, and the launch
// requests that are refused.
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
		for _, members := range []m{full, change} {
			for k, v := range members {
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
	open := func(handle any) (url.Values, int, string) {
		return w.follow(w.params(app, "openid fhirUser launch patient/*.rs user/*.rs",
			url.Values{"launch": {fmt.Sprint(handle)}}), true)
	}
	v, status, text := open(l["launch"])
	s, out, _ := w.redeem(app, v.Get("code"), nil)
	if s != 200 || out["patient"] != "p2" || out["encounter"] != "e1" || out["intent"] != "reconcile" ||
		out["need_patient_banner"] != false ||
		out["smart_style_url"] != "https://ehr.example/style.json" ||
		fmt.Sprint(out["fhirContext"]) != "[map[reference:ImagingStudy/i1]]" {
		t.Fatal(status, text, s, out)
	}
	// user/ scopes are not restricted to the patient in context.
	for path, want := range map[string]int{"Observation/o3": 200, "Observation/o1": 200, "Practitioner/d1": 200} {
		if got := w.read(out["access_token"], path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	if v, _, _ := open(l["launch"]); v.Get("error") != "invalid_request" {
		t.Error("used handle:", v)
	}
	_, l = mint(nil)
	if v, _, _ := w.follow(w.params(w.app(client.SecretBasic, nil), "launch patient/*.rs",
		url.Values{"launch": {fmt.Sprint(l["launch"])}}), false); v.Get("error") != "invalid_request" {
		t.Error("handle of another app:", v)
	}
	w.clock.add(launch.Life)
	if v, _, _ := open(l["launch"]); v.Get("error") != "invalid_request" {
		t.Error("expired handle:", v)
	}
	tok = w.backendToken(ehr, "launch")
	_, l = mint(m{"user": "Practitioner/d2"})
	if v, status, _ := open(l["launch"]); v != nil || status != 403 {
		t.Error("launch for another person:", v, status)
	}
	for name, change := range map[string]m{
		"no app":                         {"client_id": nil},
		"unknown app":                    {"client_id": "unknown"},
		"backend as app":                 {"client_id": ehr.ID},
		"path as patient":                {"patient": "../x"},
		"name as user":                   {"user": "Dr Test"},
		"http style URL":                 {"smart_style_url": "http://ehr.example/x"},
		"string in context":              {"fhirContext": []string{"ImagingStudy/i1"}},
		"empty object in context":        {"fhirContext": []m{{}}},
		"Patient in context":             {"fhirContext": []m{{"reference": "Patient/p1"}}},
		"absolute reference in context":  {"fhirContext": []m{{"reference": "https://x.example/ImagingStudy/1"}}},
		"malformed canonical in context": {"fhirContext": []m{{"canonical": "urn:x"}}},
		"unknown member":                 {"tenant": "x"},
		"long intent":                    {"intent": strings.Repeat("x", 300)},
	} {
		if s, out := mint(change); s != 400 || out["launch"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	for name, tc := range map[string]struct {
		tok  string
		want int
	}{"no token": {"", 401}, "nonsense": {"x", 401},
		"without the scope": {w.backendToken(ehr, "system/Patient.r"), 403},
		"token of an app":   {w.authorize(app, "launch launch/patient patient/*.rs")["access_token"].(string), 403}} {
		tok = tc.tok
		if s, _ := mint(nil); s != tc.want {
			t.Errorf("%s: %d", name, s)
		}
	}
}

// TestLaunchRefused checks that a launch requires the scope launch and a person
// who may access its patient, and that a refused attempt does not use up the
// handle.
func TestLaunchRefused(t *testing.T) {
	w := newWorld(t)
	app := w.app(client.None, nil)
	tok := w.backendToken(w.backend("launch"), "launch")
	s, l := w.sendJSON("POST", launch.Path, tok, m{"client_id": app.ID, "patient": "p2"})
	if s != 201 {
		t.Fatal(s, l)
	}
	open := func(scopes string) (url.Values, int) {
		v, status, _ := w.follow(w.params(app, scopes, url.Values{"launch": {fmt.Sprint(l["launch"])}}), false)
		return v, status
	}
	for _, scopes := range []string{"patient/*.rs", "launch/patient patient/*.rs",
		"openid fhirUser launch/encounter user/*.rs"} {
		if v, status := open(scopes); v.Get("error") != "invalid_scope" || v.Has("code") {
			t.Errorf("with %s: %v %d", scopes, v, status)
		}
	}
	w.signInPatient("p1") // another patient than that of the launch
	if v, status := open("launch patient/*.rs"); v.Has("code") || status != 403 {
		t.Errorf("launch with another patient's record: %v %d", v, status)
	}
	w.decide = func(p *authorize.Pending) authorize.Decision { // selects her own record instead
		return authorize.Decision{Subject: w.subject, Patient: "p1", Scopes: strings.Fields(p.Scopes.String())}
	}
	if v, status := open("launch patient/*.rs"); v.Has("code") || status != 403 {
		t.Errorf("the patient of the launch was replaced: %v %d", v, status)
	}
	w.decide = nil
	w.signInPatient("p2")
	v, status := open("launch patient/*.rs")
	if s, out, _ := w.redeem(app, v.Get("code"), nil); s != 200 || out["patient"] != "p2" {
		t.Errorf("the patient of the launch: %d, %d %v", status, s, out)
	}
}
