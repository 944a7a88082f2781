package pages_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/smart/client"
)

// TestPatientSeesWhoOpenedWhat checks that an app that a practitioner opened
// for a patient is listed for that patient only, and that the patient cannot
// revoke the practitioner's authorization.
func TestPatientSeesWhoOpenedWhat(t *testing.T) {
	w := newWorld(t)
	ada, doc, ben := w.browser(), w.browser(), w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	doc.enroll(w.invite("doc", "Dr. Dora Doc", "practitioner"))
	ben.enroll(w.invite("ben", "Ben Ejemplo", "administrator"))
	ada.get("/auth/apps").has("No one else has opened an app")

	doc.get("/auth/launches").post("/auth/launches",
		url.Values{"client": {"heartbook"}, "patient": {"ada"}}).status(200)
	u, err := url.Parse(strings.ReplaceAll(between(doc.body, `<a class="btn primary" href="`, `"`), "&amp;", "&"))
	must(t, err)
	to, verifier := w.authorizeURL("launch offline_access patient/Observation.rs user/Device.rs",
		url.Values{"launch": {u.Query().Get("launch")}})
	doc.ask(to).at("/auth/consent").post("/auth/consent",
		url.Values{"request": {requestID(doc)}, "decision": {"allow"}, "scope.1": {"on"}, "scope.2": {"on"},
			"scope.3": {"on"}}).status(http.StatusSeeOther)
	status, out := w.redeem(doc, verifier)
	if status != 200 || out["patient"] != "ada" {
		t.Fatal(status, out)
	}
	doc.get("/auth/apps").has("Heartbook")
	id := between(doc.body, `name="id" value="`, `"`)

	ada.get("/auth/apps").has("Heartbook", "Dr. Dora Doc", "See your measurements",
		"See devices of everyone whose data its user may see", "its user is away",
		"You have not allowed any app yourself")
	if strings.Contains(ada.body, "Keep access while you are away") {
		t.Error("the page describes scopes of the practitioner as the patient's")
	}
	if strings.Contains(ada.body, `name="id" value="`) {
		t.Error("the page offers the patient to revoke it")
	}
	ada.has("because no consent of yours allows it")
	ada.get("/auth/").post("/auth/apps", url.Values{"id": {id}})
	if ada.get("/auth/apps").has("Dr. Dora Doc"); strings.Contains(ben.get("/auth/apps").body, "Heartbook") {
		t.Error("another patient sees it")
	}
	doc.get("/auth/apps").post("/auth/apps", url.Values{"id": {id}}).has("no longer has access")
	ada.get("/auth/apps").has("No one else has opened an app")
}

// TestPatientStopsAnAppOfOthers checks that a patient can stop an app's access
// that is based on consent, and allow it again, for that app only. Access based
// on treatment continues, and the page distinguishes the two.
func TestPatientStopsAnAppOfOthers(t *testing.T) {
	w := newWorld(t)
	w.measured("ada", consent.AnyRecipient)
	ada, doc, eve := w.browser(), w.browser(), w.browser()
	k := ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	doc.enroll(w.invite("doc", "Dr. Dora Doc", "practitioner"))
	eve.enroll(w.invite("eve", "Eve Example", "administrator"))
	to, verifier := w.authorizeURL("launch/patient patient/Observation.rs patient/Device.rs patient/Patient.rs", nil)
	doc.ask(to).get("/auth/consent?" + url.Values{"request": {requestID(doc)}, "patient": {"ada"}}.Encode())
	doc.post("/auth/consent", url.Values{"request": {requestID(doc)}, "patient": {"ada"}, "decision": {"allow"},
		"scope.1": {"on"}, "scope.2": {"on"}, "scope.3": {"on"}}).status(http.StatusSeeOther)
	status, out := w.redeem(doc, verifier)
	if status != 200 {
		t.Fatal(status, out)
	}
	sees := func(when string, measured int) {
		t.Helper()
		for path, want := range map[string]int{"Observation/pulse": measured, "Device/watch": measured,
			"Patient/ada": 200} {
			if got := w.reads(doc.c, out["access_token"], path); got != want {
				t.Errorf("%s: %s %d, want %d", when, path, got, want)
			}
		}
	}
	sees("opened", 200)

	ada.get("/auth/apps").has("Access based on your consent", "to every app and clinic registered here",
		"Access that does not need your consent", "name and date of birth")
	form := url.Values{"id": {between(ada.body, `name="id" value="`, `"`)}}
	// Only the patient can stop it: not the practitioner, not a user who is not
	// a patient, and not another site.
	doc.get("/auth/apps").post("/auth/apps/refusals", form).status(http.StatusForbidden)
	eve.get("/auth/").post("/auth/apps/refusals", form).status(http.StatusForbidden)
	ada.do(http.MethodPost, "/auth/apps/refusals", "application/x-www-form-urlencoded",
		strings.NewReader("id="+form.Get("id")+"&csrf=x")).status(http.StatusForbidden)
	ada.get("/auth/apps").post("/auth/apps/refusals", url.Values{"id": {"nothing"}})
	sees("asked by others", 200)

	ada.get("/auth/apps").post("/auth/apps/refusals", form).status(200).has("can no longer see",
		"You have stopped access", "Apps that you have stopped")
	sees("stopped", 404)
	if n := w.events("Consent/stop-"); n != 1 {
		t.Errorf("%d events of the refusal", n)
	}
	facts := &access.Facts{Type: "Observation", ID: "pulse", Patient: "ada", Vendor: "apple",
		Categories: []string{"vital-signs"}}
	if w.consents.Permits("heartbook", facts) || !w.consents.Permits("another-app", facts) {
		t.Error("another app was stopped, or this one was not")
	}
	if _, collects, err := w.consents.Collects(t.Context(), "ada", "apple"); err != nil || !collects {
		t.Error("stopping an app ended the collection of data:", err)
	}
	ada.post("/auth/apps/refusals", form).status(200) // repeating it is not an error
	if n := w.events("Consent/stop-"); n != 1 {
		t.Errorf("%d events after the second time", n)
	}

	// The refusal can be undone even if no authorization of the app is left.
	w.pass(13 * time.Hour)
	ada.get("/auth/apps").at("/auth/signin").passkey("/auth/passkey", k.Get)
	ada.get("/auth/apps").has("No one else has opened an app", "Apps that you have stopped", "Heartbook")
	ada.post("/auth/apps/refusals", url.Values{"allow": {between(ada.body, `name="allow" value="`,
		`"`)}}).status(200).has("can again see the data that your consents allow")
	if strings.Contains(ada.body, "Apps that you have stopped") || !w.consents.Permits("heartbook", facts) {
		t.Error("the app is still stopped after it was allowed again")
	}
	if n := w.events("Consent/stop-"); n != 2 {
		t.Errorf("%d events after the app was allowed again", n)
	}
}

// TestVisitIsChosen checks that known encounters are offered, and that only
// staff can enter another one.
func TestVisitIsChosen(t *testing.T) {
	w := newWorld(t)
	ada, doc := w.browser(), w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	doc.enroll(w.invite("doc", "Dr. Dora Doc", "practitioner"))
	const scopes = "launch/patient launch/encounter patient/Observation.rs"
	choose := func(b *browser, staff bool, form url.Values, want any) {
		t.Helper()
		to, verifier := w.authorizeURL(scopes, nil)
		b.ask(to)
		if form.Has("patient") {
			b.get("/auth/consent?" + url.Values{"request": {requestID(b)}, "patient": form["patient"]}.Encode())
		}
		b.at("/auth/consent").has("Check-up", "1 March 2026", "Visit v-3")
		if strings.Contains(b.body, `name="other"`) != staff {
			t.Errorf("the field for another visit is missing or not wanted: staff %v", !staff)
		}
		form.Set("request", requestID(b))
		form.Set("decision", "allow")
		form.Set("scope.2", "on")
		b.post("/auth/consent", form).status(http.StatusSeeOther)
		_, out := w.redeem(b, verifier)
		if out["encounter"] != want || out["patient"] != "ada" ||
			strings.Contains(out["scope"].(string), "launch/encounter") != (want != nil) {
			t.Errorf("%v: %v", form, out)
		}
	}
	choose(ada, false, url.Values{"encounter": {"v-7"}}, "v-7")
	choose(ada, false, url.Values{"encounter": {""}}, nil)
	choose(doc, true, url.Values{"patient": {"ada"}, "encounter": {"v-3"}, "other": {"x"}}, "v-3")
	choose(doc, true, url.Values{"patient": {"ada"}, "encounter": {""}, "other": {"of-the-ehr"}}, "of-the-ehr")
}

// TestSecretIsShownOnce checks that an administrator can register a client with
// a secret, that the secret works, and that no other page or audit record
// contains it.
func TestSecretIsShownOnce(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("root", "Rita Root", "administrator"))
	form := url.Values{"name": {"Web app"}, "kind": {"secret"}, "redirects": {w.base + "/app/callback"},
		"scope": {"openid launch/patient patient/Observation.rs"}}
	b.get("/auth/clients/new").has("Client secret").post("/auth/clients",
		form).status(200).has("Web app is registered", "shown only once")
	id, secret := between(b.body, `id="client-id">`, "<"), between(b.body, `id="client-secret">`, "<")
	if len(secret) != 43 {
		t.Fatalf("no secret in\n%s", b.body)
	}
	if b.get("/auth/clients").has("Web app"); strings.Contains(b.body, secret) {
		t.Error("the list shows the secret")
	}
	if w.events(secret) != 0 {
		t.Error("the audit trail contains the secret")
	}
	// Client credentials need a key, so a backend service with a secret is
	// refused.
	b.get("/auth/clients/new").post("/auth/clients",
		url.Values{"name": {"Backend"}, "kind": {"secret"}, "scope": {"system/Observation.rs"}}).status(422)
	if strings.Contains(b.body, "client-secret") {
		t.Error("a refused registration shows a secret")
	}

	w.app = client.Client{ID: id}
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	for pass, want := range map[string]int{secret: 200, secret[1:]: 401, "": 401} {
		to, verifier := w.authorizeURL("launch/patient patient/Observation.rs", nil)
		ada.ask(to).at("/auth/consent").post("/auth/consent",
			url.Values{"request": {requestID(ada)}, "decision": {"allow"},
				"scope.1": {"on"}}).status(http.StatusSeeOther)
		back, err := url.Parse(ada.resp.Header.Get("Location"))
		must(t, err)
		v := url.Values{"grant_type": {"authorization_code"}, "code": back.Query()["code"], "client_id": {id},
			"redirect_uri": {w.base + "/app/callback"}, "code_verifier": {verifier}}
		if pass != "" {
			v.Set("client_secret", pass)
		}
		if status, out := w.token(ada.c, v); status != want {
			t.Errorf("with %d characters: %d %v", len(pass), status, out)
		}
	}
}
