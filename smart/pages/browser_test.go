package pages_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	chrome "pulsegate/conformance/browser"
	"pulsegate/smart/people/authn"
)

func newChrome(t *testing.T, w *world) *chrome.Chrome {
	return chrome.New(t, chrome.Options{Base: w.base, Trust: w.srv.Certificate(), Every: true})
}

// TestPatientInBrowser runs a patient's flow in a real browser: one-time link,
// passkey, sign-in, consent, and revocation.
func TestPatientInBrowser(t *testing.T) {
	w := newWorld(t)
	c := newChrome(t, w)
	p := c.Person()
	p.Open(w.invite("ada", "Ada Beispiel", "patient")).Check("invite")
	p.Click("form button.primary", "Choose how you sign in").Check("enrol-first")
	p.Fill("#label", "My phone").Click(`button[data-passkey=create]`, "The passkey is ready").Check("account")
	p.Open("/auth/enrol").Check("enrol")
	p.Click(".who button", "You are signed out").Check("signedout")
	p.Open("/auth/apps")
	p.Wait("Sign in")
	p.Check("signin")
	p.Click(`button[data-passkey=get]`, "No app has access").Check("apps-none")

	to, _ := w.authorizeURL("openid fhirUser launch/patient offline_access patient/*.rs patient/Observation.cruds", nil)
	p.Open(to)
	p.Wait("Allow Heartbook?")
	p.Check("consent")
	chrome.Eval[int](p, `document.querySelectorAll("details").forEach((d) => d.open = true), 0`)
	p.Check("consent-open")
	p.Click(`button[value=allow]`, "Back in the app")
	at := p.At()
	if u, err := url.Parse(at); err != nil || u.Query().Get("code") == "" || u.Query().Get("state") != "s-1" {
		t.Fatalf("redirected to %s", at)
	}
	b := w.browser()
	to, verifier := w.authorizeURL("openid fhirUser launch/patient offline_access patient/*.rs", nil)
	p.Open(to)
	p.Wait("Allow Heartbook?")
	p.Click(`button[value=allow]`, "Back in the app")
	at = p.At()
	u, err := url.Parse(at)
	must(t, err)
	status, out := w.token(b.c, url.Values{"grant_type": {"authorization_code"}, "code": {u.Query().Get("code")},
		"client_id": {w.app.ID}, "redirect_uri": {w.base + "/app/callback"}, "code_verifier": {verifier}})
	if status != 200 {
		t.Fatalf("%d %v", status, out)
	}
	p.Open("/auth/apps")
	p.Wait("Heartbook")
	p.Check("apps")
	p.Click("form button.danger", "no longer has access").Check("apps-ended")
	if status, _ := w.token(b.c, url.Values{"grant_type": {"refresh_token"},
		"refresh_token": {out["refresh_token"].(string)}, "client_id": {w.app.ID}}); status != 400 {
		t.Errorf("a refresh after the revocation: %d", status)
	}
	p.Open("/auth/nothing").Check("notfound")
	p.Open("/oauth/authorize?client_id=nobody").Wait("This app cannot be connected").Check("refused")
	p.Open("/auth/notices").Check("notices-none")
	p.Open("/auth/stepup").Check("stepup")
	p.Click(`button[data-passkey=get]`, "Ways to sign in")
	keyboard(t, p)
}

// TestTimesInThePersonsZone checks that pages show times in the time zone of
// the browser.
func TestTimesInThePersonsZone(t *testing.T) {
	w := newWorld(t)
	p := newChrome(t, w).Person()
	p.Open(w.invite("ada", "Ada Beispiel", "patient")).Click("form button.primary",
		"Choose how you sign in").Click(`button[data-passkey=create]`, "The passkey is ready")
	for zone, name := range map[string]string{"Asia/Kolkata": "GMT+5:30", "Pacific/Kiritimati": "GMT+14",
		"UTC": "UTC"} {
		p.Zone(zone).Open("/auth/").Wait("Where you are signed in")
		loc, err := time.LoadLocation(zone)
		must(t, err)
		at, err := time.Parse(time.RFC3339,
			chrome.Eval[string](p, `document.querySelector("time[data-time=time]").dateTime`))
		must(t, err)
		got := chrome.Eval[string](p, `document.querySelector("time[data-time=time]").textContent`)
		for _, want := range []string{at.In(loc).Format("2 January 2006"), at.In(loc).Format("15:04"), name} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q does not contain %q", zone, got, want)
			}
		}
		day := chrome.Eval[string](p, `document.querySelector("time[data-time=day]").textContent`)
		at, err = time.Parse(time.RFC3339,
			chrome.Eval[string](p, `document.querySelector("time[data-time=day]").dateTime`))
		must(t, err)
		if want := at.In(loc).Format("2 January 2006"); day != want {
			t.Errorf("%s: the day is %q, want %q", zone, day, want)
		}
	}
}

// keyboard checks that the first tab stop skips to the content, and that every
// tab stop has a visible focus.
func keyboard(t *testing.T, p *chrome.Tab) {
	t.Helper()
	p.Open("/auth/")
	unseen := 0
	p.Key("\t")
	if first := chrome.Eval[string](p, `document.activeElement.textContent`); first != "Skip to the content" {
		t.Errorf("the first tab stop is %q", first)
	}
	for range 12 {
		seen := chrome.Eval[bool](p, `(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
			return e === document.body || s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && r.width > 0 && r.right > 0 })()`)
		p.Key("\t")
		if !seen {
			unseen++
		}
	}
	if unseen > 0 {
		t.Errorf("%d tab stops have no visible focus", unseen)
	}
}

// TestStaffInBrowser visits the pages of a practitioner, an administrator and
// an auditor in a real browser.
func TestStaffInBrowser(t *testing.T) {
	w := newWorld(t)
	c := newChrome(t, w)
	enrol := func(login, name, role string) *chrome.Tab {
		p := c.Person()
		p.Open(w.invite(login, name, role)).Click("form button.primary", "Choose how you sign in")
		return p.Click(`button[data-passkey=create]`, "The passkey is ready")
	}
	doc := enrol("doc", "Dr. Dora Doc", "practitioner")
	doc.Open("/auth/launches?text=a").Check("launches")
	doc.Fill("#patient", "ada").Click("form[method=post][action='/auth/launches'] button",
		"Open Heartbook").Check("launches-ready")
	to, _ := w.authorizeURL("launch/patient user/*.rs patient/Observation.rs", nil)
	doc.Open(to)
	doc.Wait("Choose a patient")
	doc.Fill("#text", "a").Click("form[role=search] button", "1 found").Check("patient")
	doc.Click(".items a.btn", "Allow Heartbook?").Check("consent-practitioner")
	to, _ = w.authorizeURL("launch/patient launch/encounter patient/Observation.rs", nil)
	doc.Open(to).Wait("Choose a patient").Open(strings.Replace(doc.At(), "/patient?", "/consent?patient=ada&",
		1)).Wait("Check-up").Check("consent-visit")
	to, verifier := w.authorizeURL("launch/patient offline_access patient/Observation.rs", nil)
	doc.Open(to).Wait("Choose a patient").Open(strings.Replace(doc.At(), "/patient?", "/consent?patient=ada&",
		1)).Click(`button[value=allow]`, "Back in the app")
	back, err := url.Parse(doc.At())
	must(t, err)
	if status, out := w.token(w.browser().c,
		url.Values{"grant_type": {"authorization_code"}, "code": back.Query()["code"], "client_id": {w.app.ID},
			"redirect_uri": {w.base + "/app/callback"}, "code_verifier": {verifier}}); status != 200 {
		t.Fatalf("%d %v", status, out)
	}
	ada := enrol("ada", "Ada Beispiel", "patient")
	w.measured("ada", "heartbook")
	ada.Open("/auth/apps").Wait("Dr. Dora Doc").Check("apps-others")
	ada.Click("form[action='/auth/apps/refusals'] button.danger", "Apps that you have stopped").Check("apps-stopped")
	ada.Click("form[action='/auth/apps/refusals'] button:not(.danger)", "that your consents allow")
	doc.Open("/auth/emergency?text=a").Check("emergency-find")
	doc.Click(".items a.btn", "Why is it necessary?").Check("emergency")
	doc.Type("#reason", "unconscious after a fall")
	doc.Click("form button.danger", "Open now").Check("emergency-open")

	ada.Open("/auth/apps").Wait("opened in an emergency").Check("apps-told")
	ada.Open("/auth/notices").Check("notices")
	doc.Open("/auth/emergency?patient=ada").Wait("Why is it necessary?")
	chrome.Eval[int](doc, `document.querySelector("#reason").removeAttribute("minlength"), 0`)
	doc.Type("#reason", "short").Click("form.card button.danger", "Enter a reason of").Check("emergency-wrong")

	aud := enrol("aud", "Audi Tor", "auditor")
	aud.Open("/auth/reviews").Check("reviews")
	aud.Click("button[value=justified]", "Thank you").Check("reviews-done")

	adm := enrol("root", "Rita Root", "administrator")
	adm.Open("/auth/users").Check("users")
	adm.Open("/auth/users/new").Check("user-new")
	adm.Fill("#name", "Eve Example").Fill("#login", "eve").Click("input[value=auditor]",
		"Invite a person").Click("form.card button.primary", "A link for Eve Example")
	adm.Check("link")
	u, err := w.users.ByLogin(context.Background(), "eve")
	must(t, err)
	adm.Open("/auth/users/" + u.ID).Check("user")
	adm.Click("button[value=disable]", "Disable Eve Example?").Check("user-disable")
	adm.Click("form .btn.danger", "Enable").Check("user-disabled")
	adm.Open("/auth/users/new").Fill("#name", "Eve Example").Fill("#login", "eve").Click("input[value=auditor]",
		"Invite a person").Click("form.card button.primary", "This name is already in use").Check("user-new-wrong")
	adm.Open("/auth/clients").Check("clients")
	adm.Click(".items button.danger", "Disable Heartbook?").Check("client-disable").Click("form .btn.danger",
		"The client is disabled").Check("client-disabled")
	adm.Click("button[value=enable]", "enabled again")
	adm.Open("/auth/clients/new").Check("client-new")
	adm.Fill("#name", "Web app").Fill("#redirects", "https://app.example/cb").Click("input[value=secret]",
		"Register a client").Click("form.card button.primary", "Web app is registered").Check("client-secret")

	p := c.Person()
	p.Open(w.invite("tom", "Tom Totp", "auditor")).Click("form button.primary",
		"Choose how you sign in").Click("a[href='/auth/enrol/password']", "Choose a password")
	p.Check("password")
	secret := chrome.Eval[string](p, `document.querySelector("#secret").innerText`)
	p.Fill("#password", "correct horse battery").Fill("#repeat", "correct horse battery").Fill("#code",
		authn.Code(authn.ParseSecret(secret), w.now()))
	p.Click("form.card button.primary", "Your recovery codes").Check("codes")
	p.Open("/auth/").Check("account-password")
}
