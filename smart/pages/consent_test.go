package pages_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/smart/people/authn/authntest"
)

// ask starts an app's authorization request and signs in on the way.
func (b *browser) ask(to string) *browser {
	b.w.t.Helper()
	b.headers["Sec-Fetch-Site"] = "cross-site"
	b.get(to)
	b.headers["Sec-Fetch-Site"] = "same-origin"
	return b
}

func requestID(b *browser) string { return b.resp.Request.URL.Query().Get("request") }

func scopesOf(t *testing.T, out map[string]any) []string {
	t.Helper()
	s, ok := out["scope"].(string)
	if !ok {
		t.Fatalf("no scope: %v", out)
	}
	return strings.Fields(s)
}

func TestConsentAllowAndRevoke(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	k := b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	b.post("/auth/signout", url.Values{})
	to, verifier := w.authorizeURL("openid fhirUser launch/patient offline_access patient/*.rs", nil)
	b.ask(to).at("/auth/signin")
	next := b.resp.Request.URL.Query().Get("return")
	if !strings.HasPrefix(next, "/auth/consent?request=") {
		t.Fatalf("redirected to %q", next)
	}
	b.passkey("/auth/passkey", k.Get)
	b.get(next).status(200).has("Allow Heartbook?", "See all your data", "180 days")
	if csp := b.resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' "+w.base) {
		t.Errorf("policy: %s", csp)
	}
	form := url.Values{"request": {requestID(b)}, "patient": {"ada"}, "decision": {"allow"}, "scope.1": {"on"},
		"scope.3": {"on"}, "scope.4": {"on"},
		"narrow.4": {"all"}, "type.4": {"Observation", "Patient", "Device", "Provenance", "Consent", "AuditEvent"}}
	b.post("/auth/consent", form).status(http.StatusSeeOther)
	status, out := w.redeem(b, verifier)
	if status != 200 || out["patient"] != "ada" || out["refresh_token"] == nil ||
		!slices.Contains(scopesOf(t, out), "patient/*.rs") {
		t.Fatalf("%d %v", status, out)
	}
	b.get("/auth/apps").has("Heartbook", "See all your data")
	id := between(b.body, `name="id" value="`, `"`)
	// Another person cannot revoke it, and cannot find out that it exists.
	other := w.browser()
	other.enroll(w.invite("ben", "Ben Ejemplo", "administrator"))
	other.get("/auth/apps").post("/auth/signin", url.Values{})
	other.get("/auth/").post("/auth/apps", url.Values{"id": {id}}).at("/auth/apps").has("No app has access")
	b.get("/auth/apps").has("Heartbook").post("/auth/apps", url.Values{"id": {id}}).has("No app has access")
	if status, out := w.token(b.c, url.Values{"grant_type": {"refresh_token"},
		"refresh_token": {out["refresh_token"].(string)}, "client_id": {w.app.ID}}); status != 400 {
		t.Errorf("a refresh after the revocation: %d %v", status, out)
	}
	if w.events("access-taken-back") != 1 {
		t.Error("the revocation is not recorded")
	}
}

func between(s, a, z string) string {
	_, s, _ = strings.Cut(s, a)
	s, _, _ = strings.Cut(s, z)
	return s
}

func TestConsentNarrows(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	const vital, lab = "category=http://terminology.hl7.org/CodeSystem/observation-category|vital-signs",
		"category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory"
	for name, tt := range map[string]struct {
		asked string
		form  url.Values
		want  []string
	}{
		"one type unticked": {"launch/patient patient/Observation.rs patient/Device.rs",
			url.Values{"scope.1": {"on"}}, []string{"launch/patient", "patient/Observation.rs"}},
		"categories": {"launch/patient patient/Observation.rs",
			url.Values{"scope.1": {"on"}, "narrow.1": {"some"}, "category.1": {"vital-signs", "laboratory"}},
			[]string{"launch/patient", "patient/Observation.rs?" + vital, "patient/Observation.rs?" + lab}},
		"v1 narrowed": {"launch/patient patient/Observation.read",
			url.Values{"scope.1": {"on"}, "narrow.1": {"some"}, "category.1": {"laboratory"}},
			[]string{"launch/patient", "patient/Observation.rs?" + lab}},
		"wildcard to types": {"launch/patient patient/*.rs",
			url.Values{"scope.1": {"on"}, "narrow.1": {"all"}, "type.1": {"Patient", "Observation"}},
			[]string{"launch/patient", "patient/Observation.rs", "patient/Patient.rs"}},
		"wildcard to a category": {"launch/patient patient/*.rs",
			url.Values{"scope.1": {"on"}, "narrow.1": {"some"}, "category.1": {"vital-signs"},
				"type.1": {"Patient", "Observation"}},
			[]string{"launch/patient", "patient/Observation.rs?" + vital, "patient/Patient.rs"}},
		"a type that was not asked for": {"launch/patient patient/Device.rs",
			url.Values{"scope.1": {"on"}, "type.1": {"Observation"}, "narrow.1": {"some"},
				"category.1": {"laboratory"}}, []string{"launch/patient", "patient/Device.rs"}},
	} {
		to, verifier := w.authorizeURL(tt.asked, nil)
		b.ask(to).status(200)
		tt.form.Set("request", requestID(b))
		tt.form.Set("decision", "allow")
		if b.post("/auth/consent", tt.form).status(http.StatusSeeOther); b.resp.StatusCode != http.StatusSeeOther {
			continue
		}
		_, out := w.redeem(b, verifier)
		got := scopesOf(t, out)
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	// If nothing is selected, or "only these" without a category, the page asks
	// again and grants nothing.
	for _, form := range []url.Values{{}, {"scope.1": {"on"}, "narrow.1": {"some"}}} {
		to, _ := w.authorizeURL("launch/patient patient/Observation.rs", nil)
		b.ask(to)
		form.Set("request", requestID(b))
		form.Set("decision", "allow")
		b.post("/auth/consent", form).status(422).has(`role="alert"`)
	}
}

func TestConsentDenied(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	to, _ := w.authorizeURL("launch/patient patient/*.rs", nil)
	b.ask(to)
	id := requestID(b)
	b.post("/auth/consent", url.Values{"request": {id}, "decision": {"deny"}}).status(http.StatusSeeOther)
	back, err := url.Parse(b.resp.Header.Get("Location"))
	must(t, err)
	if back.Query().Get("error") != "access_denied" || back.Query().Get("state") != "s-1" ||
		back.Query().Get("code") != "" {
		t.Errorf("redirected with %s", back)
	}
	b.get("/auth/consent?request=" + id).status(404)
	// Without a decision nothing is granted.
	b.ask(to)
	id = requestID(b)
	b.post("/auth/consent", url.Values{"request": {id}}).status(http.StatusSeeOther)
	if !strings.Contains(b.resp.Header.Get("Location"), "error=access_denied") {
		t.Error("a form without a decision granted access")
	}
	// Another browser cannot see the request.
	b.ask(to)
	other := w.browser()
	other.enroll(w.invite("aud", "Audi Tor", "auditor"))
	other.get("/auth/consent?request=" + requestID(b)).status(404)
}

func TestPatientPicker(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	to, verifier := w.authorizeURL("launch/patient patient/Observation.rs", nil)
	b.ask(to).at("/auth/patient").status(200).has("needs to know which patient")
	id := requestID(b)
	b.get("/auth/patient?request=" + id + "&text=zz").has("No patient found")
	b.get("/auth/patient?request="+id+"&text=be").has("Ben Beispiel").get("/auth/consent?request="+id+
		"&patient=ben").status(200).has("Ben Beispiel", "Choose another patient")
	b.post("/auth/consent", url.Values{"request": {id}, "patient": {"nobody"}, "decision": {"allow"},
		"scope.1": {"on"}}).status(404)
	b.get("/auth/consent?request="+id+"&patient=ben").post("/auth/consent",
		url.Values{"request": {id}, "patient": {"ben"}, "decision": {"allow"},
			"scope.1": {"on"}}).status(http.StatusSeeOther)
	if _, out := w.redeem(b, verifier); out["patient"] != "ben" {
		t.Errorf("%v", out)
	}
	// A patient gets no picker and cannot name another patient.
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	to, verifier = w.authorizeURL("launch/patient patient/Observation.rs", nil)
	ada.ask(to).at("/auth/consent")
	ada.post("/auth/consent", url.Values{"request": {requestID(ada)}, "patient": {"ben"}, "decision": {"allow"},
		"scope.1": {"on"}}).status(http.StatusSeeOther)
	if _, out := w.redeem(ada, verifier); out["patient"] != "ada" {
		t.Errorf("%v", out)
	}
}

func TestLaunchFromTheConsole(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	b.get("/auth/launches?text=ad").status(200).has("Heartbook", "Ada Beispiel")
	b.post("/auth/launches", url.Values{"client": {"heartbook"}, "patient": {"nobody"}}).status(422)
	b.post("/auth/launches", url.Values{"client": {"heartbook"}, "patient": {"ada"}}).status(200).has("Open Heartbook")
	u, err := url.Parse(strings.ReplaceAll(between(b.body, `<a class="btn primary" href="`, `"`), "&amp;", "&"))
	must(t, err)
	if u.Query().Get("iss") != w.base+"/fhir" {
		t.Errorf("iss %q", u.Query().Get("iss"))
	}
	handle := u.Query().Get("launch")
	to, verifier := w.authorizeURL("launch patient/Observation.rs", url.Values{"launch": {handle}})
	// The launch belongs to the practitioner, so another person is refused.
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.ask(to).status(403)
	b.ask(to).at("/auth/consent").status(200).has("Ada Beispiel")
	if strings.Contains(b.body, "Choose another patient") {
		t.Error("the patient of a launch can be changed")
	}
	b.post("/auth/consent", url.Values{"request": {requestID(b)}, "decision": {"allow"},
		"scope.1": {"on"}}).status(http.StatusSeeOther)
	if _, out := w.redeem(b, verifier); out["patient"] != "ada" {
		t.Errorf("%v", out)
	}
}

func TestSignInRequirementsOfTheApp(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	k := b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	signed := func(wish url.Values, wait time.Duration) {
		t.Helper()
		w.pass(wait)
		to, _ := w.authorizeURL("launch/patient patient/Observation.rs", wish)
		b.ask(to)
		if len(wish) == 0 {
			b.at("/auth/consent")
			return
		}
		b.at("/auth/signin")
		next := b.resp.Request.URL.Query().Get("return")
		b.passkey("/auth/passkey", k.Get)
		b.get(next).at("/auth/consent").post("/auth/consent",
			url.Values{"request": {requestID(b)}, "decision": {"allow"}, "scope.1": {"on"}}).status(http.StatusSeeOther)
	}
	signed(nil, time.Minute)
	signed(url.Values{"prompt": {"login"}}, time.Minute)
	signed(url.Values{"max_age": {"30"}}, time.Minute)
	to, _ := w.authorizeURL("launch/patient patient/Observation.rs", url.Values{"max_age": {"3000"}})
	b.ask(to).at("/auth/consent")

	p := w.browser()
	secret := p.enrollPassword(w.invite("aud", "Audi Tor", "auditor"), "correct horse battery")
	_ = secret
	to, _ = w.authorizeURL("openid", url.Values{"acr_values": {"phr"}})
	p.ask(to).at("/auth/stepup")
	key := authntest.New(t, w.base)
	p.get("/auth/enrol").status(200)
	if out := p.passkey("/auth/enrol/passkey", key.Create); out["next"] == nil {
		t.Fatal(out)
	}
	if out := p.get("/auth/stepup").passkey("/auth/stepup", key.Get); out["next"] == nil {
		t.Fatal(out)
	}
	p.ask(to).at("/auth/consent")

	// After the challenge of the FHIR API (RFC 9470), a step-up with the
	// passkey is enough, and the id_token reports it.
	w.pass(6 * time.Minute)
	to, verifier := w.authorizeURL("openid user/Consent.rs", url.Values{"acr_values": {"phr"}, "max_age": {"300"}})
	p.ask(to).at("/auth/stepup")
	if out := p.passkey("/auth/stepup", key.Get); out["next"] == nil {
		t.Fatal(out)
	}
	p.ask(to).at("/auth/consent").post("/auth/consent",
		url.Values{"request": {requestID(p)}, "decision": {"allow"}, "scope.0": {"on"},
			"scope.1": {"on"}}).status(http.StatusSeeOther)
	_, out := w.redeem(p, verifier)
	access, _ := out["access_token"].(string)
	if parts := strings.Split(access, "."); len(parts) != 3 {
		t.Fatal(out)
	} else if claims, err := base64.RawURLEncoding.DecodeString(parts[1]); err != nil ||
		!strings.Contains(string(claims), `"acr":"phr"`) {
		t.Errorf("%s %v", claims, err)
	}
}

// TestSessionBoundAccess checks that access without offline_access ends with
// the session.
func TestSessionBoundAccess(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	to, verifier := w.authorizeURL("launch/patient online_access patient/Observation.rs", nil)
	b.ask(to).at("/auth/consent")
	form := url.Values{"request": {requestID(b)}, "decision": {"allow"}, "scope.1": {"on"}, "scope.2": {"on"}}
	b.post("/auth/consent", form).status(http.StatusSeeOther)
	_, out := w.redeem(b, verifier)
	refresh, ok := out["refresh_token"].(string)
	if !ok {
		t.Fatalf("%v", out)
	}
	b.get("/auth/").post("/auth/signout", url.Values{})
	if status, _ := w.token(b.c, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh},
		"client_id": {w.app.ID}}); status != 400 {
		t.Errorf("a refresh after the session's end: %d", status)
	}
}
