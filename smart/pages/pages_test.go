package pages_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/authn/authntest"
	"pulsegate/smart/people/signin"
)

// enroll opens a one-time link and creates a passkey.
func (b *browser) enroll(link string) *authntest.Key {
	b.w.t.Helper()
	b.get(link).status(200).post("/auth/invite",
		url.Values{"token": {strings.SplitN(link, "token=", 2)[1]}}).status(200).at("/auth/enrol")
	k := authntest.New(b.w.t, b.w.base)
	b.passkey("/auth/enrol/passkey", k.Create)
	b.get("/auth/").status(200).at("/auth/")
	return k
}

// passkey performs a ceremony as the script does and returns the path to go to.
func (b *browser) passkey(path string, sign func([]byte) []byte) map[string]any {
	b.w.t.Helper()
	csrf := b.csrf()
	o, err := json.Marshal(b.call(path+"/options", csrf, struct{}{}))
	must(b.w.t, err)
	if b.resp.StatusCode != 200 {
		return map[string]any{"error": string(o)}
	}
	return b.call(path, csrf, map[string]any{"credential": json.RawMessage(sign(o)), "label": "Test key",
		"next": "/auth/"})
}

var secretField = regexp.MustCompile(`id="secret">([A-Z2-7 ]+)<`)

// enrollPassword sets a password and a code app.
func (b *browser) enrollPassword(link, password string) (secret []byte) {
	b.w.t.Helper()
	b.get(link).post("/auth/invite", url.Values{"token": {strings.SplitN(link, "token=",
		2)[1]}}).get("/auth/enrol/password").status(200)
	secret = authn.ParseSecret(secretField.FindStringSubmatch(b.body)[1])
	b.post("/auth/enrol/password", url.Values{"password": {password}, "repeat": {password},
		"code": {authn.Code(secret, b.w.now())}}).status(200).has("Your recovery codes")
	return secret
}

func (b *browser) signin(login, password, code string) *browser {
	b.w.t.Helper()
	return b.get("/auth/signin?again=1").status(200).post("/auth/signin",
		url.Values{"login": {login}, "password": {password}, "code": {code}, "return": {"/auth/"}})
}

func TestPasskeySignInAndOut(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	k := b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	b.has("Ada Beispiel", "Test key")
	b.post("/auth/signout", url.Values{}).at("/auth/signedout")
	if got := b.resp.Request.Response.Header.Get("Clear-Site-Data"); !strings.Contains(got, `"storage"`) {
		t.Errorf("Clear-Site-Data: %q", got)
	}
	b.get("/auth/apps").at("/auth/signin")
	if next := b.passkey("/auth/passkey", k.Get)["next"]; next != "/auth/" {
		t.Fatalf("next: %v", next)
	}
	b.get("/auth/apps").status(200).has("No app has access")
	for text, want := range map[string]int{"110122": 1, "110123": 1, "passkey-added": 1} {
		if got := w.events(text); got != want {
			t.Errorf("%d events with %s, want %d", got, text, want)
		}
	}
}

func TestInviteWorksOnce(t *testing.T) {
	w := newWorld(t)
	link := w.invite("ada", "Ada Beispiel", "patient")
	w.browser().get(link).status(200) // opening the link does not use it up
	w.browser().enroll(link)
	w.browser().get(link).status(404)
	late := w.invite("ben", "Ben Ejemplo", "administrator")
	w.pass(49 * time.Hour)
	w.browser().get(late).status(404)
	w.browser().get("/auth/invite?token=guessed").status(404)
}

func TestPasskeyRefusals(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	k := b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	try := func(name string, sign func([]byte) []byte) {
		t.Helper()
		out := w.browser().get("/auth/signin").passkey("/auth/passkey", sign)
		if out["next"] != nil {
			t.Errorf("%s was accepted", name)
		}
	}
	stolen := k.Clone()
	if out := w.browser().get("/auth/signin").passkey("/auth/passkey", k.Get); out["next"] == nil {
		t.Fatal(out)
	}
	try("a copy whose counter went back", stolen.Get)
	unverified := k.Clone()
	unverified.Unverified, unverified.Count = true, 100
	try("an authenticator that did not verify the user", unverified.Get)
	foreign := k.Clone()
	foreign.Origin, foreign.Count = "https://localhost.evil.example", 100
	try("another origin", foreign.Get)
	stranger := authntest.New(t, w.base)
	try("an unknown passkey", stranger.Get)
	// A repeated response fails, because its challenge is used up.
	b = w.browser()
	b.get("/auth/signin")
	csrf := b.csrf()
	k.Count = 200
	o, err := json.Marshal(b.call("/auth/passkey/options", csrf, struct{}{}))
	must(t, err)
	answer := map[string]any{"credential": json.RawMessage(k.Get(o))}
	visit := b.c.Jar.Cookies(b.resp.Request.URL)
	if out := b.call("/auth/passkey", csrf, answer); out["next"] == nil {
		t.Fatal(out)
	}
	again := w.browser()
	again.c.Jar.SetCookies(b.resp.Request.URL, visit)
	if out := again.call("/auth/passkey", csrf, answer); out["next"] != nil {
		t.Error("a response was accepted twice")
	}
	// Enrollment needs user verification as well.
	link := w.invite("ben", "Ben Ejemplo", "administrator")
	b = w.browser()
	b.get(link).post("/auth/invite", url.Values{"token": {strings.SplitN(link, "token=", 2)[1]}})
	lax := authntest.New(t, w.base)
	lax.Unverified = true
	if out := b.passkey("/auth/enrol/passkey", lax.Create); out["next"] != nil {
		t.Error("a passkey without user verification was enrolled")
	}
}

func TestPasswordAndCode(t *testing.T) {
	w := newWorld(t)
	const password = "correct horse battery"
	b := w.browser()
	secret := b.enrollPassword(w.invite("ada", "Ada Beispiel", "patient"), password)
	codes := regexp.MustCompile(`<li>([a-z2-7-]{19})</li>`).FindAllStringSubmatch(b.body, -1)
	if len(codes) != authn.Recovery {
		t.Fatalf("%d recovery codes", len(codes))
	}
	w.pass(time.Minute)
	now := authn.Code(secret, w.now())
	w.browser().signin("ADA ", password, now).at("/auth/").status(200)
	// The code is used up for every browser.
	w.browser().signin("ada", password, now).status(401).has("is wrong")
	w.pass(time.Minute)
	w.browser().signin("ada", password, codes[0][1]).at("/auth/").status(200)
	w.browser().signin("ada", password, codes[0][1]).status(401)
	w.browser().signin("ada", password, "").status(401)
	w.browser().signin("ada", "wrong password", authn.Code(secret, w.now())).status(401)
	if strings.Contains(w.log(), password) {
		t.Error("the audit trail contains the password")
	}
}

func (w *world) log() string {
	n := w.events("correct horse")
	if n > 0 {
		return "correct horse battery"
	}
	return ""
}

// TestNoOracle checks that an unknown name, a wrong password and a wrong code
// have the same response.
func TestNoOracle(t *testing.T) {
	w := newWorld(t)
	const password = "correct horse battery"
	w.browser().enrollPassword(w.invite("ada", "Ada Beispiel", "patient"), password)
	strip := regexp.MustCompile(`value="[^"]*"|data-csrf="[^"]*"`)
	var bodies []string
	for _, x := range [][2]string{{"ada", "wrong password"}, {"ada", password}, {"nobody", password}} {
		b := w.browser().signin(x[0], x[1], "000000").status(401)
		bodies = append(bodies, strip.ReplaceAllString(b.body, ""))
	}
	if bodies[0] != bodies[1] || bodies[1] != bodies[2] {
		t.Error("the responses differ")
	}
}

// TestThrottle checks that guesses are delayed, that the owner at their own
// browser is not, and that unknown names are delayed in the same way.
func TestThrottle(t *testing.T) {
	w := newWorld(t)
	const password = "correct horse battery"
	own := w.browser()
	secret := own.enrollPassword(w.invite("ada", "Ada Beispiel", "patient"), password)
	w.pass(time.Minute)
	for _, login := range []string{"ada", "nobody"} {
		for range 5 {
			w.browser().signin(login, "guess guess guess", "000000").status(401)
		}
		b := w.browser().signin(login, "guess guess guess", "000000").status(http.StatusTooManyRequests)
		if b.resp.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	// A correct password at an unknown browser is delayed as well, otherwise
	// guessing would be free.
	w.browser().signin("ada", password, authn.Code(secret, w.now())).status(http.StatusTooManyRequests)
	// At the browser where she has signed in before it is not delayed.
	own.signin("ada", password, authn.Code(secret, w.now())).at("/auth/").status(200)
	w.pass(20 * time.Minute)
	w.browser().signin("ada", password, authn.Code(secret, w.now())).at("/auth/").status(200)
}

func TestSessionEnds(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	for range 3 { // activity extends it
		w.pass(14 * time.Minute)
		b.get("/auth/apps").at("/auth/apps")
	}
	w.pass(15 * time.Minute)
	b.get("/auth/apps").at("/auth/signin")

	b = w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	for range 17 {
		w.pass(42 * time.Minute)
		b.get("/auth/apps").at("/auth/apps")
	}
	w.pass(10 * time.Minute) // 12 h 4 min without being idle
	b.get("/auth/apps").at("/auth/signin")
}

func TestSessionEndsWithTheRole(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	op := signin.Actor{Operator: "uid:0"}
	b := w.browser()
	b.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	u, err := w.users.ByLogin(ctx, "doc")
	must(t, err)
	must(t, w.signs.SetRoles(ctx, signin.From{}, op, u.ID, []string{"auditor"}, "", ""))
	b.get("/auth/apps").at("/auth/signin")

	b = w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	u, err = w.users.ByLogin(ctx, "ada")
	must(t, err)
	must(t, w.signs.SetDisabled(ctx, signin.From{}, op, u.ID, true))
	b.get("/auth/apps").at("/auth/signin")
}

func TestForeignRequestsRefused(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	b.get("/auth/")
	csrf := b.csrf()
	form := func(token string) *strings.Reader { return strings.NewReader(url.Values{"csrf": {token}}.Encode()) }
	const kind = "application/x-www-form-urlencoded"
	for name, h := range map[string]map[string]string{
		"cross-site":         {"Sec-Fetch-Site": "cross-site"},
		"same-site":          {"Sec-Fetch-Site": "same-site"},
		"none":               {"Sec-Fetch-Site": "none"},
		"foreign origin":     {"Origin": "https://evil.example"},
		"null origin":        {"Origin": "null"},
		"no word about it":   {},
		"origin with a tail": {"Origin": w.base + ".evil.example"},
	} {
		b.headers = h
		b.do(http.MethodPost, "/auth/signout", kind, form(csrf)).status(403)
		_ = name
	}
	b.headers = map[string]string{"Sec-Fetch-Site": "same-origin"}
	for _, bad := range []string{"", "x", csrf + "x", w.browser().get("/auth/signin").csrf()} {
		b.do(http.MethodPost, "/auth/signout", kind, form(bad)).status(403)
	}
	b.do(http.MethodPost, "/auth/signout", "text/plain", form(csrf)).status(415)
	b.get("/auth/").at("/auth/").status(200) // signed in as before
	b.headers = map[string]string{"Origin": w.base}
	b.do(http.MethodPost, "/auth/signout", kind, form(csrf)).at("/auth/signedout")
}

func TestHeadersAndCookies(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	b.get("/auth/")
	for k, want := range map[string]string{"Content-Security-Policy": "default-src 'none'",
		"Cache-Control": "no-store", "X-Frame-Options": "DENY",
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Strict-Transport-Security": "max-age"} {
		if got := b.resp.Header.Get(k); !strings.Contains(got, want) {
			t.Errorf("%s: %q", k, got)
		}
	}
	if strings.Contains(b.body, "style=") || strings.Contains(b.body, "<style") ||
		regexp.MustCompile(`<script(?: [^>]*)?>[^<]`).MatchString(b.body) ||
		regexp.MustCompile(` on[a-z]+=`).MatchString(b.body) {
		t.Error("inline style or script")
	}
	b.get("/auth/signin?again=1")
	var names []string
	for _, c := range b.c.Jar.Cookies(b.resp.Request.URL) {
		names = append(names, c.Name)
		if !strings.HasPrefix(c.Name, "__Host-pulsegate-") {
			t.Errorf("cookie %s", c.Name)
		}
	}
	if len(names) != 3 {
		t.Errorf("cookies: %v", names)
	}
	before := sessionCookie(b)
	b.enroll(w.invite("ben", "Ben Ejemplo", "administrator"))
	if sessionCookie(b) == before {
		t.Error("the secret of the session did not change at sign-in")
	}
	for _, line := range w.setCookies(b) {
		for _, attr := range []string{"Path=/", "HttpOnly", "Secure", "SameSite=Lax"} {
			if !strings.Contains(line, attr) {
				t.Errorf("%s: no %s", strings.SplitN(line, "=", 2)[0], attr)
			}
		}
		if strings.Contains(line, "Domain=") {
			t.Error("a cookie with a domain")
		}
	}
}

func sessionCookie(b *browser) string {
	for _, c := range b.c.Jar.Cookies(b.resp.Request.URL) {
		if strings.HasSuffix(c.Name, "-session") {
			return c.Value
		}
	}
	return ""
}

func (w *world) setCookies(b *browser) []string {
	b.get("/auth/signin?again=1")
	fresh := w.browser()
	fresh.get("/auth/signin")
	return append(b.resp.Header["Set-Cookie"], fresh.resp.Header["Set-Cookie"]...)
}

func TestNoOpenRedirect(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	for _, to := range []string{"https://evil.example/", "//evil.example/", "/\\evil.example", "/auth/\r\nX: y",
		"javascript:alert(1)", "/other", "auth/", "/\t/evil.example", "/auth//../..//evil.example"} {
		b.get("/auth/signin?return=" + url.QueryEscape(to))
		if b.resp.Request.URL.Host != strings.TrimPrefix(w.base, "https://") {
			t.Errorf("%q led to %s", to, b.resp.Request.URL)
		}
	}
	b.get("/auth/signin?return=/auth/apps").at("/auth/apps")
}

func TestStepUp(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	k := b.enroll(w.invite("root", "Root Admin", "administrator"))
	b.get("/auth/users/new").status(200).at("/auth/users/new")
	form := url.Values{"login": {"eve"}, "name": {"Eve Auditor"}, "role": {"auditor"}}
	w.pass(6 * time.Minute)
	b.post("/auth/users", form).at("/auth/stepup") // the last use of the passkey is too old
	if _, err := w.users.ByLogin(context.Background(), "eve"); err == nil {
		t.Fatal("invited without a step-up")
	}
	other := authntest.New(t, w.base)
	if out := b.passkey("/auth/stepup", other.Get); out["next"] != nil {
		t.Error("the passkey of another user was accepted")
	}
	if out := b.get("/auth/stepup").passkey("/auth/stepup", k.Get); out["next"] == nil {
		t.Fatal(out)
	}
	b.get("/auth/users/new").at("/auth/users/new").post("/auth/users", form).status(200).has("One-time link",
		"/auth/invite?token=")
	// A person with only a password cannot step up and learns how to get a
	// passkey.
	p := w.browser()
	p.enrollPassword(w.invite("second", "Second Admin", "administrator"), "correct horse battery")
	p.get("/auth/users/new").at("/auth/stepup").has("You have no passkey yet")
}

func TestPagesEnforceRoles(t *testing.T) {
	w := newWorld(t)
	pagesOf := map[string][]string{
		"patient":      {"/auth/", "/auth/apps"},
		"practitioner": {"/auth/", "/auth/apps", "/auth/launches", "/auth/emergency"},
		"administrator": {"/auth/", "/auth/apps", "/auth/launches", "/auth/users", "/auth/users/new",
			"/auth/clients", "/auth/clients/new"},
		"auditor": {"/auth/", "/auth/apps", "/auth/reviews"},
	}
	all := []string{"/auth/", "/auth/apps", "/auth/launches", "/auth/emergency", "/auth/users", "/auth/users/new",
		"/auth/clients", "/auth/clients/new", "/auth/reviews"}
	for r, may := range pagesOf {
		b := w.browser()
		b.enroll(w.invite(r, "A "+r, r))
		for _, p := range all {
			want := 403
			for _, m := range may {
				if m == p {
					want = 200
				}
			}
			if b.get(p); b.resp.StatusCode != want {
				t.Errorf("%s %s: %d, want %d", r, p, b.resp.StatusCode, want)
			}
		}
	}
}

func TestManageUsers(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("root", "Root Admin", "administrator"))
	b.get("/auth/users/new").post("/auth/users",
		url.Values{"login": {"doc"}, "name": {"Dr. Doc"}, "role": {"practitioner"},
			"practitioner": {"nobody"}}).status(422).has("There is no Practitioner resource with this ID.")
	b.post("/auth/users", url.Values{"login": {"doc"}, "name": {"Dr. Doc"}, "role": {"practitioner"},
		"practitioner": {"doc"}}).status(200)
	link := regexp.MustCompile(`https://[^<"]+token=[A-Z0-9]+`).FindString(b.body)
	doc := w.browser()
	doc.enroll(link)
	u, err := w.users.ByLogin(context.Background(), "doc")
	must(t, err)
	page := "/auth/users/" + u.ID
	b.get(page).post(page, url.Values{"do": {"roles"}, "role": {"auditor", "administrator"}}).status(422)
	b.get(page).post(page, url.Values{"do": {"reset"}}).status(200).has("/auth/invite?token=")
	doc.get("/auth/").at("/auth/signin")
	fresh := regexp.MustCompile(`https://[^<"]+token=[A-Z0-9]+`).FindString(b.body)
	w.browser().enroll(fresh)
	if u, err = w.users.ByLogin(context.Background(), "doc"); err != nil || len(u.Passkeys) != 1 {
		t.Errorf("%d passkeys after a reset, %v", len(u.Passkeys), err)
	}
	root, err := w.users.ByLogin(context.Background(), "root")
	must(t, err)
	b.get("/auth/users/"+root.ID).has("This is you").get(page).post("/auth/users/"+root.ID,
		url.Values{"do": {"disable"}}).status(403)
	if w.events("110136") != 0 {
		t.Error("a refused change of roles is recorded as done")
	}
	b.get(page).post(page, url.Values{"do": {"roles"}, "role": {"auditor"}}).status(200)
	if w.events("110136") != 1 {
		t.Error("a change of roles is not recorded")
	}
}

func TestBreakGlass(t *testing.T) {
	w := newWorld(t)
	doc := w.browser()
	doc.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	doc.get("/auth/emergency?text=ad").status(200).has("Ada Beispiel").get("/auth/emergency?patient=ada").status(200)
	doc.post("/auth/emergency", url.Values{"patient": {"ada"}, "reason": {"short"}}).status(422)
	doc.post("/auth/emergency", url.Values{"patient": {"ada"},
		"reason": {"unconscious after a fall"}}).status(200).has("Open now")
	u, err := w.users.ByLogin(context.Background(), "doc")
	must(t, err)
	aud := w.browser()
	aud.enroll(w.invite("aud", "Audi Tor", "auditor"))
	aud.get("/auth/reviews").has("awaiting review", "unconscious after a fall", "Dr. Doc")
	action := regexp.MustCompile(`action="(/auth/reviews/[a-z0-9]+)"`).FindStringSubmatch(aud.body)[1]
	aud.post(action, url.Values{"verdict": {"not"}}).status(422)
	aud.post(action, url.Values{"verdict": {"justified"}}).status(200).has("Thank you")
	mine, err := w.glass.Active(context.Background(), u.ID)
	if err != nil || len(mine) != 1 {
		t.Fatalf("%v %v", mine, err)
	}
	w.pass(4 * time.Hour)
	if mine, err = w.glass.Active(context.Background(), u.ID); err != nil || len(mine) != 0 {
		t.Errorf("active after four hours: %v %v", mine, err)
	}
	if w.events("110127") != 1 || w.events("unconscious") != 0 {
		t.Error("the audit trail must contain one event without the reason")
	}
}
