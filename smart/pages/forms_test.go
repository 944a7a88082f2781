package pages_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"pulsegate/smart/people/authn"
)

// beside checks that the page shows an error next to the field with that ID and
// next to no other field, that the field refers to it, and that the page
// reports errors at its top.
func (b *browser) beside(id, text string) {
	b.w.t.Helper()
	b.status(http.StatusUnprocessableEntity).has("<title>Error: ", `role="alert"`)
	field := regexp.MustCompile(`<(?:input|textarea|select|fieldset)[^>]* (?:id="` + id +
		`"[^>]* aria-invalid="true"[^>]*|)aria-describedby="[^"]*\b` + id + `-error`)
	if !field.MatchString(b.body) {
		b.w.t.Errorf("no field %s that points to its error on %s", id, b.resp.Request.URL.Path)
	}
	if n := strings.Count(b.body, `class="wrong"`); n != 1 {
		b.w.t.Errorf("%d errors beside fields on %s", n, b.resp.Request.URL.Path)
	}
	if got := between(b.body, `id="`+id+`-error">`, "<"); !strings.Contains(got, text) {
		b.w.t.Errorf("beside %s: %q, want %q", id, got, text)
	}
}

func TestErrorsAreShownNextToTheirField(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	link := w.invite("root", "Root Admin", "administrator")
	b.get(link).post("/auth/invite", url.Values{"token": {strings.SplitN(link, "token=",
		2)[1]}}).get("/auth/enrol/password").status(200)
	secret := authn.ParseSecret(secretField.FindStringSubmatch(b.body)[1])
	code := func() string { return authn.Code(secret, w.now()) }
	const good = "velvet orbit canyon"
	for id, c := range map[string]struct {
		form url.Values
		text string
	}{
		"code": {url.Values{"password": {good}, "repeat": {good}, "code": {"000000"}},
			"The code is wrong or expired; enter"},
		"repeat": {url.Values{"password": {good}, "repeat": {good + "!"}, "code": {code()}},
			"The passwords do not match."},
		"password": {url.Values{"password": {"123456789012"}, "repeat": {"123456789012"}, "code": {code()}},
			"The password is a sequence"},
	} {
		b.post("/auth/enrol/password", c.form).beside(id, c.text)
	}
	b.enroll(link)
	for _, c := range []struct {
		id, text string
		form     url.Values
	}{
		{"login", "name for signing in", url.Values{"name": {"Eve"}, "login": {"e v e"}, "role": {"auditor"}}},
		{"login", "This name is already in use.",
			url.Values{"name": {"Eve"}, "login": {"root"}, "role": {"auditor"}}},
		{"name", "full name", url.Values{"name": {""}, "login": {"eve"}, "role": {"auditor"}}},
		{"patient", "needs the ID of their Patient resource",
			url.Values{"name": {"Eve"}, "login": {"eve"}, "role": {"patient"}}},
		{"patient", "There is no Patient resource with this ID.",
			url.Values{"name": {"Eve"}, "login": {"eve"}, "role": {"patient"}, "patient": {"nobody"}}},
		{"practitioner", "needs the ID of their Practitioner resource",
			url.Values{"name": {"Eve"}, "login": {"eve"}, "role": {"practitioner"}}},
		{"role-patient", "Choose at least one role.", url.Values{"name": {"Eve"}, "login": {"eve"}}},
		{"role-patient", "An auditor cannot be an administrator as well.",
			url.Values{"name": {"Eve"}, "login": {"eve"}, "role": {"auditor", "administrator"}}},
	} {
		b.get("/auth/users/new").post("/auth/users", c.form).beside(c.id, c.text)
	}
	client := func(k, v string) url.Values {
		f := url.Values{"kind": {"public"}, "name": {"App"}, "redirects": {"https://app.example/cb"},
			"scope": {"patient/*.rs"}}
		f.Set(k, v)
		return f
	}
	for _, c := range []struct {
		id, text string
		form     url.Values
	}{
		{"name", "name", client("name", "")},
		{"redirects", "redirect URI", client("redirects", "http://app.example/cb")},
		{"redirects", "redirect URI", client("redirects", "")},
		{"launch", "launch URL", client("launch", "javascript:alert(1)")},
		{"scope", "scope", client("scope", "system/*.rs")},
		{"jwks_url", "Enter the URL of the keys", client("kind", "key")},
		{"jwks", "not JSON", client("jwks", "{")},
	} {
		b.get("/auth/clients/new").post("/auth/clients", c.form).beside(c.id, c.text)
	}
	b.get("/auth/launches").post("/auth/launches",
		url.Values{"client": {w.app.ID}, "patient": {"nobody"}, "encounter": {""}})
	if b.resp.StatusCode != http.StatusForbidden { // an administrator sees only the names of patients
		b.beside("patient", "There is no Patient resource with this ID.")
	}
	doc := w.browser()
	doc.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	doc.get("/auth/emergency?patient=ada").post("/auth/emergency",
		url.Values{"patient": {"ada"}, "reason": {"short"}}).beside("reason",
		"Enter a reason of 10 to 1,000 characters.")
	doc.post("/auth/emergency", url.Values{"patient": {"ada"}, "reason": {"unconscious after a fall"}}).status(200)
	aud := w.browser()
	aud.enroll(w.invite("aud", "Audi Tor", "auditor"))
	aud.get("/auth/reviews")
	id := between(aud.body, `action="/auth/reviews/`, `"`)
	aud.post("/auth/reviews/"+id, url.Values{"verdict": {"not"}}).status(422).has("Say why it was not justified.",
		`aria-invalid="true" aria-describedby="nh-`+id+` ne-`+id)
}

func TestDisableNeedsConfirmationAndCanBeUndone(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("root", "Root Admin", "administrator"))
	ada := w.browser()
	k := ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	app := w.allow(ada, "launch/patient offline_access patient/Patient.rs patient/Observation.rs")
	u, err := w.users.ByLogin(context.Background(), "ada")
	must(t, err)

	page := "/auth/clients/" + w.app.ID
	b.get("/auth/clients").post(page, url.Values{"do": {"disable"}}).status(200).has("Disable Heartbook?",
		`href="/auth/clients"`, "Cancel")
	if !app.alive("Patient/ada") {
		t.Error("disabled before the confirmation")
	}
	b.post(page, url.Values{"do": {"disable"},
		"sure": {"yes"}}).status(200).at("/auth/clients").has("The client is disabled.")
	if w.reads(ada.c, app.access, "Patient/ada") != 401 {
		t.Error("a disabled client can read")
	}
	b.get("/auth/clients").post(page, url.Values{"do": {"enable"}}).status(200).has("The client is enabled again.")
	if !app.alive("Patient/ada") {
		t.Error("an enabled client cannot read")
	}
	if w.events("client-disable") != 1 || w.events("client-enable") != 1 {
		t.Error("the change is not recorded exactly once")
	}

	page = "/auth/users/" + u.ID
	b.get(page).post(page, url.Values{"do": {"disable"}}).status(200).has("Disable Ada Beispiel?",
		`href="`+page+`"`, "Cancel")
	ada.get("/auth/").at("/auth/")
	b.post(page, url.Values{"do": {"disable"}, "sure": {"yes"}}).status(200).at(page).has("Enable")
	ada.get("/auth/").at("/auth/signin")
	b.post(page, url.Values{"do": {"enable"}}).status(200)
	ada.get("/auth/signin").passkey("/auth/passkey", k.Get)
	ada.get("/auth/").at("/auth/")
	if app.alive("Patient/ada") {
		t.Error("the authorization of an app was restored")
	}
}

// TestAuthorizationErrorIsAPage checks that errors that cannot be sent to an
// app are shown as a page.
func TestAuthorizationErrorIsAPage(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	for name, query := range map[string]url.Values{
		"nothing":          {},
		"unknown app":      {"client_id": {"nobody"}, "redirect_uri": {"https://app.example/cb"}},
		"another redirect": {"client_id": {w.app.ID}, "redirect_uri": {"https://evil.example/cb"}},
		"twice":            {"client_id": {w.app.ID, w.app.ID}, "redirect_uri": {w.base + "/app/callback"}},
		"script":           {"client_id": {"<script>alert(1)</script>"}, "redirect_uri": {"https://app.example/cb"}},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			b.headers = map[string]string{"Sec-Fetch-Site": "cross-site"}
			if method == http.MethodGet {
				b.do(method, "/oauth/authorize?"+query.Encode(), "", nil)
			} else {
				b.do(method, "/oauth/authorize", "application/x-www-form-urlencoded", strings.NewReader(query.Encode()))
			}
			b.status(400).has("<title>This app cannot be connected", "style.css", `<main id="main"`)
			if strings.Contains(b.body, "alert(1)") ||
				!strings.HasPrefix(b.resp.Header.Get("Content-Type"), "text/html") {
				t.Errorf("%s: %s", name, b.resp.Header.Get("Content-Type"))
			}
			if csp := b.resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "style-src 'self'") ||
				!strings.Contains(csp, "frame-ancestors 'none'") {
				t.Errorf("%s: %s", name, csp)
			}
		}
	}
}

// TestDurationsAgree checks that the consent screen and the list of apps state
// the same duration of access, and that access ends accordingly.
func TestDurationsAgree(t *testing.T) {
	for scopes, want := range map[string]struct {
		text string
		ends time.Duration
	}{
		"launch/patient offline_access patient/Patient.rs": {"Until you revoke it or after 90 days without use, for at most 180 days.", 180 * 24 * time.Hour},
		"launch/patient online_access patient/Patient.rs": {"As long as you stay signed in, for at most 12 hours.",
			12 * time.Hour},
		"launch/patient patient/Patient.rs": {"For this use of the app, for at most 15 minutes.",
			15 * time.Minute},
	} {
		w := newWorld(t)
		b := w.browser()
		b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
		to, _ := w.authorizeURL(scopes, nil)
		b.ask(to).at("/auth/consent").has(want.text)
		if n := strings.Count(b.body, " at most"); n != strings.Count(b.body, want.text) {
			t.Errorf("%s: the consent screen states another duration", scopes)
		}
		w.allow(b, scopes)
		b.get("/auth/apps").has(want.text,
			fmt.Sprintf(`datetime="%s"`, w.now().Add(want.ends).UTC().Format(time.RFC3339)))
		w.pass(want.ends)
		b.get("/auth/signin")
		u, err := w.users.ByLogin(context.Background(), "ada")
		must(t, err)
		if as, err := w.apps.Authorizations(context.Background(), u.ID); err != nil || len(as) != 0 {
			t.Errorf("%s: %d authorizations after the end, %v", scopes, len(as), err)
		}
	}
}
