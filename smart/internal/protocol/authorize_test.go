package protocol

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/token"
)

// claimsOf decodes a token without verifying it.
func claimsOf(t testing.TB, tok any) (header, claims m) {
	t.Helper()
	parts := strings.Split(tok.(string), ".")
	for i, part := range []*m{&header, &claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(b, part)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

// TestClientTypesGetGrantedAccess checks the token response and the access to
// resources for every authentication method.
func TestClientTypesGetGrantedAccess(t *testing.T) {
	w := newWorld(t)
	for _, method := range []client.Method{client.None, client.SecretBasic, client.SecretPost, client.PrivateKeyJWT} {
		c := w.app(method, nil)
		for _, post := range []bool{false, true} {
			v, _, to := w.follow(w.params(c,
				"openid fhirUser launch/patient offline_access patient/*.rs patient/Coverage.rs nonsense",
				url.Values{"nonce": {"n-1"}}), post)
			s, out, h := w.redeem(c, v.Get("code"), nil)
			if s != 200 || out["scope"] != "openid fhirUser launch/patient offline_access patient/*.rs" ||
				out["patient"] != "p1" ||
				!strings.EqualFold(out["token_type"].(string), "Bearer") || out["expires_in"] != 900.0 ||
				out["refresh_token"] == nil {
				t.Fatalf("%s: %d %v (%s)", method, s, out, to)
			}
			if h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" ||
				h.Get("Access-Control-Allow-Origin") != "*" {
				t.Error(h)
			}
			header, id := claimsOf(t, out["id_token"])
			if header["alg"] != "RS256" || id["iss"] != w.base || id["aud"] != c.ID || id["sub"] != "u1" ||
				id["nonce"] != "n-1" ||
				id["fhirUser"] != w.base+"/fhir/Practitioner/d1" || id["name"] != nil || id["acr"] != "phr" {
				t.Errorf("%v %v", header, id)
			}
			for path, want := range map[string]int{"Patient/p1": 200, "Patient/p2": 404, "Observation/o1": 200,
				"Observation/o3": 404, "Practitioner/d1": 200,
				"Practitioner/d2": 404, "Organization/x": 404, "Observation?patient=p2": 200, "Bogus/x": 404} {
				if got := w.read(out["access_token"], path); got != want {
					t.Errorf("%s %s: %d, want %d", method, path, got, want)
				}
			}
			if _, b := w.fetch(out["access_token"], "Observation?_summary=count"); b["total"] != 2.0 {
				t.Errorf("total %v", b["total"])
			}
		}
	}
}

// TestUntrustedRedirectGetsNoResponse checks that an error in the client or the
// redirect URI is shown to the person and not sent to the redirect URI.
func TestUntrustedRedirectGetsNoResponse(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	disabled := w.app(client.None, nil)
	if err := w.clients.Disable(t.Context(), disabled.ID); err != nil {
		t.Fatal(err)
	}
	back := w.backend("system/*.rs")
	for name, change := range map[string]url.Values{
		"no client":       {"client_id": nil},
		"unknown client":  {"client_id": {"unknown"}},
		"disabled":        {"client_id": {disabled.ID}},
		"backend":         {"client_id": {back.ID}},
		"two clients":     {"client_id": {c.ID, c.ID}},
		"no redirect":     {"redirect_uri": nil},
		"two redirects":   {"redirect_uri": {redirect, "https://evil.example"}},
		"slash":           {"redirect_uri": {redirect + "/"}},
		"case":            {"redirect_uri": {"https://app.example/CB"}},
		"host case":       {"redirect_uri": {"https://APP.example/cb"}},
		"query":           {"redirect_uri": {redirect + "?x=1"}},
		"fragment":        {"redirect_uri": {redirect + "#x"}},
		"dots":            {"redirect_uri": {"https://app.example/x/../cb"}},
		"userinfo":        {"redirect_uri": {"https://app.example@evil.example/cb"}},
		"port":            {"redirect_uri": {"https://app.example:443/cb"}},
		"encoded":         {"redirect_uri": {"https://app.example/%63b"}},
		"http":            {"redirect_uri": {"http://app.example/cb"}},
		"subdomain":       {"redirect_uri": {"https://x.app.example/cb"}},
		"prefix":          {"redirect_uri": {"https://app.example/cbx"}},
		"suffix of host":  {"redirect_uri": {"https://evilapp.example/cb"}},
		"scheme relative": {"redirect_uri": {"//app.example/cb"}},
		"space":           {"redirect_uri": {redirect + " "}},
		"nul":             {"redirect_uri": {redirect + "\x00"}},
	} {
		if v, status, text := w.follow(w.params(c, "patient/*.rs", change), false); v != nil || status != 400 {
			t.Errorf("%s: %v %d %s", name, v, status, text)
		}
	}
}

// TestRedirectMatching checks that redirect URIs match exactly, except for the
// port of loopback addresses (RFC 8252 7.3).
func TestRedirectMatching(t *testing.T) {
	app := client.Client{RedirectURIs: []string{redirect, "http://127.0.0.1/cb", "http://[::1]:8000/cb?a=b",
		"http://localhost:4567/cb", "org.example.app:/cb"}}
	for uri, want := range map[string]bool{
		redirect: true, "http://127.0.0.1/cb": true, "http://127.0.0.1:5555/cb": true, "http://[::1]/cb?a=b": true,
		"http://[::1]:9/cb?a=b":    true,
		"http://localhost:4567/cb": true, "org.example.app:/cb": true,
		"http://localhost:4568/cb": false, "http://127.0.0.1:/cb": false, "http://127.0.0.1:123456/cb": false,
		"http://127.0.0.1:5555/cb/":           false,
		"http://127.0.0.1:80@evil.example/cb": false, "http://127.0.0.1.evil.example/cb": false,
		"http://127.0.0.1:5555": false,
		"https://127.0.0.1/cb":  false, "http://127.0.0.2/cb": false, "http://[::1]:9/cb": false,
		"org.example.app:/CB": false, "": false,
	} {
		if app.Redirects(uri) != want {
			t.Errorf("%s: %v", uri, !want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := []byte(rapid.SampledFrom(app.RedirectURIs).Draw(t, "uri"))
		at := rapid.IntRange(0, len(s)).Draw(t, "position")
		switch rapid.IntRange(0, 2).Draw(t, "edit") {
		case 0:
			s = slices.Insert(s, at, rapid.Byte().Draw(t, "byte"))
		case 1:
			if at < len(s) {
				s[at] = rapid.Byte().Draw(t, "byte")
			}
		case 2:
			s = s[:at]
		}
		u, err := url.Parse(string(s))
		loopback := err == nil && u.Scheme == "http" &&
			(u.Hostname() == "127.0.0.1" && u.RequestURI() == "/cb" || u.Hostname() == "::1" &&
				u.RequestURI() == "/cb?a=b") &&
			u.User == nil && u.Fragment == ""
		if app.Redirects(string(s)) && !slices.Contains(app.RedirectURIs, string(s)) && !loopback {
			t.Fatalf("%q", s)
		}
	})
}

// TestErrorsReturnToApp checks that all other errors are returned to the app
// with their error code.
func TestErrorsReturnToApp(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, func(c *client.Client) {
		c.Scope = "openid patient/Observation.rs launch"
	})
	for name, tc := range map[string]struct {
		code   string
		change url.Values
	}{
		"implicit":               {"unsupported_response_type", url.Values{"response_type": {"token"}}},
		"hybrid":                 {"unsupported_response_type", url.Values{"response_type": {"code id_token"}}},
		"no response type":       {"invalid_request", url.Values{"response_type": nil}},
		"response mode fragment": {"invalid_request", url.Values{"response_mode": {"fragment"}}},
		"no challenge":           {"invalid_request", url.Values{"code_challenge": nil}},
		"blank challenge":        {"invalid_request", url.Values{"code_challenge": {""}}},
		"plain":                  {"invalid_request", url.Values{"code_challenge_method": {"plain"}}},
		"no method":              {"invalid_request", url.Values{"code_challenge_method": nil}},
		"short challenge":        {"invalid_request", url.Values{"code_challenge": {"abc"}}},
		"no state":               {"invalid_request", url.Values{"state": nil}},
		"no aud":                 {"invalid_request", url.Values{"aud": nil}},
		"wrong aud":              {"invalid_request", url.Values{"aud": {"https://evil.example/fhir"}}},
		"aud with slash":         {"invalid_request", url.Values{"aud": {w.base + "/fhir/"}}},
		"repeated parameter":     {"invalid_request", url.Values{"scope": {"openid", "openid"}}},
		"request object":         {"request_not_supported", url.Values{"request": {"x"}}},
		"request_uri":            {"request_uri_not_supported", url.Values{"request_uri": {"https://evil.example"}}},
		"prompt none":            {"interaction_required", url.Values{"prompt": {"none"}}},
		"prompt unknown":         {"invalid_request", url.Values{"prompt": {"create"}}},
		"max_age":                {"invalid_request", url.Values{"max_age": {"-1"}}},
		"no scope":               {"invalid_scope", url.Values{"scope": nil}},
		"backend scope":          {"invalid_scope", url.Values{"scope": {"system/*.rs"}}},
		"not registered":         {"invalid_scope", url.Values{"scope": {"patient/Patient.rs"}}},
		"other permissions":      {"invalid_scope", url.Values{"scope": {"patient/Observation.cud"}}},
		"bad characters":         {"invalid_scope", url.Values{"scope": {"patient/*.rs \"x"}}},
		"unknown launch": {"invalid_request",
			url.Values{"launch": {"nonsense"}, "scope": {"launch patient/Observation.rs"}}},
		"launch without scope": {"invalid_scope", url.Values{"launch": {"nonsense"}}},
		"bad dpop_jkt":         {"invalid_request", url.Values{"dpop_jkt": {"x"}}},
	} {
		v, status, text := w.follow(w.params(c, "patient/Observation.rs", tc.change), name[0]%2 == 0)
		if v.Get("error") != tc.code || v.Has("code") || v.Get("iss") != w.base || tc.change.Get("state") != "" &&
			v.Get("state") != "st&te=1" || !strings.HasPrefix(text, redirect) {
			t.Errorf("%s: %d %v", name, status, v)
		}
	}
	r := must(http.NewRequest("PUT", w.base+authorize.Path, nil))
	if res := must(w.browser.Do(r)); res.StatusCode != 405 {
		t.Error("PUT:", res.StatusCode)
	}
}

// TestPKCE checks that a code requires its code_verifier.
func TestPKCE(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.SecretBasic, nil)
	for name, change := range map[string]url.Values{
		"none":  {"code_verifier": nil},
		"blank": {"code_verifier": {""}},
		"wrong": {"code_verifier": {strings.Repeat("w", 43)}},
		"plain": {"code_verifier": {challenge(verifier)}},
		"short": {"code_verifier": {"short"}},
	} {
		if s, out, _ := w.redeem(c, w.code(c, "patient/*.rs", nil), change); s != 400 || out["access_token"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
}

// TestCodesRefused checks that invalid codes and token requests are refused.
func TestCodesRefused(t *testing.T) {
	w := newWorld(t)
	c, other := w.app(client.SecretBasic, nil), w.app(client.SecretBasic, nil)
	refused := func(name string, s int, out m, status int, code string) {
		t.Helper()
		if s != status || out["error"] != code || out["access_token"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	s, out, _ := w.redeem(c, "nonsense", nil)
	refused("unknown", s, out, 400, "invalid_grant")
	s, out, _ = w.redeem(other, w.code(c, "patient/*.rs", nil), nil)
	refused("code of another client", s, out, 400, "invalid_grant")
	s, out, _ = w.redeem(c, w.code(c, "patient/*.rs", nil), url.Values{"redirect_uri": {redirect + "2"}})
	refused("another redirect URI", s, out, 400, "invalid_grant")
	s, out, _ = w.redeem(c, w.code(c, "patient/*.rs", nil), url.Values{"redirect_uri": nil})
	refused("no redirect URI", s, out, 400, "invalid_grant")
	s, out, _ = w.redeem(c, "", nil)
	refused("no code", s, out, 400, "invalid_request")
	code := w.code(c, "patient/*.rs", nil)
	w.clock.add(time.Minute)
	s, out, _ = w.redeem(c, code, nil)
	refused("after a minute", s, out, 400, "invalid_grant")
	code = w.code(c, "patient/*.rs", nil)
	w.clock.add(2 * time.Hour)
	w.authorize(c, "patient/*.rs") // moves the high-water mark
	w.clock.add(-2 * time.Hour)
	w.reopen()
	s, out, _ = w.redeem(c, code, nil)
	refused("after the clock went back", s, out, 400, "invalid_grant")
	for name, v := range map[string]url.Values{
		"password": {"grant_type": {"password"}, "username": {"u"}, "password": {"p"}},
		"implicit": {"grant_type": {"implicit"}},
		"missing":  {},
	} {
		if s, out, _ := w.postForm(token.Path, c, v, nil); s != 400 {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	unknown := c
	unknown.ID = "unknown"
	s, out, _ = w.redeem(unknown, w.code(c, "patient/*.rs", nil), nil)
	refused("unknown client", s, out, 401, "invalid_client")
	s, out, h := w.postForm(token.Path, c, url.Values{"grant_type": {"authorization_code"}},
		func(r *http.Request) { r.SetBasicAuth(c.ID, "wrong") })
	refused("wrong secret", s, out, 401, "invalid_client")
	if !strings.HasPrefix(h.Get("WWW-Authenticate"), "Basic") {
		t.Error(h)
	}
	s, out, _ = w.postForm(token.Path, c, url.Values{"grant_type": {"authorization_code"},
		"client_secret": {"s3cret-of-the-app"}}, nil)
	refused("two authentication methods", s, out, 400, "invalid_request")
	public := c
	public.Method = client.None
	s, out, _ = w.redeem(public, w.code(c, "patient/*.rs", nil), nil)
	refused("confidential client without its secret", s, out, 401, "invalid_client")
	publicApp := w.app(client.None, nil)
	s, out, _ = w.postForm(token.Path, publicApp,
		url.Values{"grant_type": {"authorization_code"}, "client_secret": {""}}, nil)
	refused("public client with an empty secret", s, out, 401, "invalid_client")
	s, out, _ = w.postForm(token.Path, c,
		url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}}, nil)
	refused("grant type that is not registered", s, out, 400, "unauthorized_client")
}

// TestConcurrentRedemptions checks that of two concurrent redemptions of one
// code one succeeds, and that the other revokes the tokens of the first.
func TestConcurrentRedemptions(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	for range 5 {
		code := w.code(c, "patient/*.rs offline_access", nil)
		var wg sync.WaitGroup
		status, outs := make([]int, 2), make([]m, 2)
		for i := range status {
			wg.Go(func() { status[i], outs[i], _ = w.redeem(c, code, nil) })
		}
		wg.Wait()
		if status[0] == 400 {
			status[0], status[1], outs[0], outs[1] = status[1], status[0], outs[1], outs[0]
		}
		if status[0] != 200 || status[1] != 400 || outs[1]["error"] != "invalid_grant" {
			t.Fatal(status, outs)
		}
		if s := w.read(outs[0]["access_token"], "Patient/p1"); s != 401 {
			t.Error("the access token is still valid:", s)
		}
		if s, out := w.refresh(c, outs[0]["refresh_token"], nil); s != 400 {
			t.Error("the refresh token is still valid:", s, out)
		}
	}
	code := w.code(c, "patient/*.rs", nil)
	_, out, _ := w.redeem(c, code, nil)
	w.reopen()
	if s, again, _ := w.redeem(c, code, nil); s != 400 || again["error"] != "invalid_grant" {
		t.Error("after a restart:", s, again)
	}
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("the access token is still valid:", s)
	}
}

// TestRequestIsBoundToBrowser checks that a request can be answered once,
// within ten minutes, by the browser that began it.
func TestRequestIsBoundToBrowser(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	begin := func() (string, *http.Response) {
		res := must(w.browser.Get(w.base + authorize.Path + "?" + w.params(c, "patient/*.rs", nil).Encode()))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.Header.Get("Location"), res
	}
	page, res := begin()
	if !strings.HasPrefix(page, "/auth/consent?request=") || res.StatusCode != 303 {
		t.Fatal(page)
	}
	for _, cookie := range res.Cookies() {
		if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" {
			t.Error(cookie)
		}
	}
	if res.Header.Get("X-Frame-Options") != "DENY" || res.Header.Get("Cache-Control") != "no-store" {
		t.Error(res.Header)
	}
	status := func(hc *http.Client, page string) int {
		res := must(hc.Get(w.base + page))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	other := *w.browser
	other.Jar = nil
	if s := status(&other, page); s != 404 {
		t.Error("another browser:", s)
	}
	w.reopen()
	if s := status(w.browser, page); s != 303 {
		t.Error("same browser after a restart:", s)
	}
	if s := status(w.browser, page); s != 404 {
		t.Error("second response:", s)
	}
	page, _ = begin()
	w.clock.add(authorize.Life)
	if s := status(w.browser, page); s != 404 {
		t.Error("after ten minutes:", s)
	}
}

// TestDecisions checks the scopes that are granted for the decisions of a person,
// and the decisions that are refused.
func TestDecisions(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	requested := "openid fhirUser launch/patient patient/Observation.rs patient/Patient.r user/*.cruds offline_access"
	person := w.subject
	decide := func(f func(p *authorize.Pending) authorize.Decision) { w.decide = f }
	for name, tc := range map[string]struct {
		d      authorize.Decision
		status int // status of the page, or 0 if the app gets a response
		scope  string
	}{
		"all": {authorize.Decision{Subject: person, Patient: "p1", Scopes: strings.Fields(requested)}, 0,
			"openid fhirUser launch/patient patient/Observation.rs patient/Patient.r user/*.rs offline_access"},
		"fewer scopes": {authorize.Decision{Subject: person, Patient: "p1", Scopes: []string{"patient/Patient.r"}},
			0, "patient/Patient.r launch/patient"},
		"narrowed": {authorize.Decision{Subject: person, Patient: "p1",
			Scopes: []string{"patient/Observation.rs?category=laboratory"}}, 0,
			"patient/Observation.rs?category=laboratory launch/patient"},
		"wider scope": {authorize.Decision{Subject: person, Patient: "p1", Scopes: []string{"patient/*.rs"}}, 403, ""},
		"another level": {authorize.Decision{Subject: person, Patient: "p1",
			Scopes: []string{"system/Observation.rs"}}, 403, ""},
		"more permissions": {authorize.Decision{Subject: person, Patient: "p1",
			Scopes: []string{"patient/Observation.cruds"}}, 403, ""},
		"no patient": {authorize.Decision{Subject: person, Scopes: []string{"patient/Patient.r"}}, 400, ""},
		"unknown patient": {authorize.Decision{Subject: person, Patient: "x1", Scopes: []string{"patient/Patient.r"}},
			403, ""},
		"no subject": {authorize.Decision{Patient: "p1", Scopes: []string{"patient/Patient.r"}}, 403, ""},
		"no roles": {authorize.Decision{Subject: authorize.Subject{ID: "u2",
			FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"}}, Patient: "p1",
			Scopes: []string{"patient/Patient.r"}}, 400, ""},
		"patient role without a Patient": {authorize.Decision{Subject: authorize.Subject{ID: "u2",
			Roles: []string{"patient"}}, Patient: "p1",
			Scopes: []string{"patient/Patient.r"}}, 400, ""},
		"patient": {authorize.Decision{Subject: authorize.Subject{ID: "u3",
			FHIRUser: fhir.Ref{Type: "Patient", ID: "p2"}, Roles: []string{"patient"}},
			Scopes: []string{"patient/Patient.r"}}, 0, "patient/Patient.r launch/patient"},
		"patient for another patient": {authorize.Decision{Subject: authorize.Subject{ID: "u3",
			FHIRUser: fhir.Ref{Type: "Patient", ID: "p2"}, Roles: []string{"patient"}},
			Patient: "p1", Scopes: []string{"patient/Patient.r"}}, 403, ""},
	} {
		decide(func(*authorize.Pending) authorize.Decision { return tc.d })
		v, status, text := w.follow(w.params(c, requested, nil), false)
		if tc.status != 0 {
			if v != nil || status != tc.status {
				t.Errorf("%s: %v %d %s", name, v, status, text)
			}
			continue
		}
		if s, out, _ := w.redeem(c, v.Get("code"), nil); s != 200 || out["scope"] != tc.scope {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	decide(func(*authorize.Pending) authorize.Decision { return authorize.Decision{} })
	if v, _, _ := w.follow(w.params(c, requested, nil), false); v.Get("error") != "access_denied" ||
		v.Get("state") != "st&te=1" || v.Get("iss") != w.base {
		t.Error(v)
	}
	decide(nil)
	if _, status, _ := w.follow(w.params(c, requested, url.Values{"prompt": {"login"}}), false); status != 303 {
		t.Error("sign-in in the same second:", status)
	}
	w.clock.add(time.Minute)
	for name, change := range map[string]url.Values{"login": {"prompt": {"login"}}, "max_age": {"max_age": {"59"}}} {
		if v, status, _ := w.follow(w.params(c, requested, change), false); v != nil || status != 403 {
			t.Errorf("%s: %v %d", name, v, status)
		}
	}
	if v, _, _ := w.follow(w.params(c, requested, url.Values{"max_age": {"60"}}), false); v.Get("code") == "" {
		t.Error("max_age that is met")
	}
}
