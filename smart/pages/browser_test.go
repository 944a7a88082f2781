package pages_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"pulsegate/smart/authn"
)

const axeVersion = "4.10.3"

// needBrowser finds what the tests in a browser need. PULSEGATE_BROWSER=1
// makes a missing one a failure.
func needBrowser(t *testing.T) (chromium, axe string) {
	t.Helper()
	missing := func(what string, err error) {
		t.Helper()
		if os.Getenv("PULSEGATE_BROWSER") != "" {
			t.Fatalf("%s: %v", what, err)
		}
		t.Skipf("no %s (sh deploy/ensure-chromium.sh installs it; PULSEGATE_BROWSER=1 makes this a failure)", what)
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			chromium = p
			break
		}
	}
	if chromium == "" {
		missing("chromium", exec.ErrNotFound)
	}
	cache, err := os.UserCacheDir()
	must(t, err)
	dir := filepath.Join(cache, "pulsegate-test", "axe-"+axeVersion)
	file := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	if _, err := os.Stat(file); err != nil {
		out, err := exec.Command("npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@"+axeVersion).CombinedOutput()
		if err != nil {
			missing("axe-core", fmt.Errorf("%w: %s", err, out))
		}
	}
	src, err := os.ReadFile(file)
	must(t, err)
	return chromium, string(src)
}

// chrome is Chromium.
type chrome struct {
	w       *world
	ctx     context.Context
	axe     string
	shots   string // folder; "" none
	checked int
}

func newChrome(t *testing.T, w *world) *chrome {
	bin, axe := needBrowser(t)
	sum := sha256.Sum256(w.srv.Certificate().RawSubjectPublicKeyInfo)
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(bin), chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox,
		chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("force-color-profile", "srgb"),
		// The test's certificate is good for this browser: passkeys need that.
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(sum[:])),
		chromedp.Flag("host-resolver-rules", "MAP localhost 127.0.0.1"), chromedp.Flag("no-proxy-server", true),
		chromedp.WSURLReadTimeout(60 * time.Second)}
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	c := &chrome{w: w, ctx: ctx, axe: axe, shots: os.Getenv("PULSEGATE_SHOTS")}
	must(t, chromedp.Do(ctx))
	return c
}

// person is a fresh browser profile with a passkey authenticator of its own.
func (c *chrome) person() *tab {
	c.w.t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	c.w.t.Cleanup(cancel)
	must(c.w.t, chromedp.Do(ctx)) // opens the tab, which lives as long as this very context
	p := &tab{chrome: c, ctx: ctx}
	p.run(command(webauthn.Enable, webauthn.EnableParams{}),
		command(webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
			Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
			HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true}}))
	return p
}

type tab struct {
	*chrome
	ctx context.Context
}

type step = chromedp.Action[chromedp.Void]

// command is one of the DevTools protocol.
func command[P, R any](c cdp.Command[P, R], params P) step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func (p *tab) run(steps ...step) { p.w.t.Helper(); ask(p, chromedp.Steps(steps...)) }

// ask runs a step that gives something back.
func ask[T any](p *tab, a chromedp.Action[T]) T {
	p.w.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 60*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		after, stop := context.WithTimeout(p.ctx, 5*time.Second)
		defer stop()
		at, _ := chromedp.Run(after, chromedp.Location())
		body, _ := chromedp.Run(after, chromedp.Evaluate[string]("document.body.innerText"))
		p.w.t.Fatalf("%v\nat %s\n%s", err, at, body)
	}
	return v
}

func (p *tab) open(path string) *tab {
	p.w.t.Helper()
	if !strings.HasPrefix(path, "https://") {
		path = p.w.base + path
	}
	p.run(chromedp.Navigate(path))
	return p
}

// click clicks and waits until a page with the text is there.
func (p *tab) click(selector, then string) *tab {
	p.w.t.Helper()
	p.run(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
	p.wait(then)
	return p
}

func (p *tab) wait(text string) {
	p.w.t.Helper()
	expr := fmt.Sprintf(`document.readyState === "complete" && document.body.innerText.includes(%q)`, text)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		// A page that is just being left has no answer.
		ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expr))
		cancel()
		if err == nil && there {
			return
		}
		if time.Now().After(end) {
			p.w.t.Fatalf("no %q at %s:\n%s", text, ask(p, chromedp.Location()), ask(p, chromedp.Evaluate[string]("document.body.innerText")))
		}
	}
}

func (p *tab) fill(selector, text string) *tab {
	p.w.t.Helper()
	p.run(chromedp.SetValue(chromedp.CSS(selector), text))
	return p
}

// violations asks axe for all that WCAG 2.2 AA and good practice ask for.
const violations = `axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(
  (r) => r.violations.map((v) => v.id + ": " + v.help + "\n" + v.nodes.map((n) => "    " + n.html + "\n    " + n.failureSummary).join("\n")).join("\n"))`

// check looks at the page in light and dark, on a desktop and on a phone.
func (p *tab) check(name string) *tab {
	p.w.t.Helper()
	p.checked++
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 360} {
			p.run(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}}),
				command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 800, DeviceScaleFactor: 1, Mobile: width < 500}))
			bad := ""
			// Colours go with the scheme and layout with the width: two of the
			// four show both. With screenshots all four are asked.
			if (scheme == "light") == (width == 1280) || p.shots != "" {
				p.run(chromedp.Evaluate[chromedp.Void](p.axe + ";0"))
				bad = ask(p, chromedp.Evaluate[string](violations, chromedp.EvalAwaitPromise))
			}
			wide := ask(p, chromedp.Evaluate[bool](fmt.Sprintf(`document.documentElement.scrollWidth > %d`, width)))
			if bad != "" {
				p.w.t.Errorf("%s, %s, %d px:\n%s", name, scheme, width, bad)
			}
			if wide {
				p.w.t.Errorf("%s: wider than %d px", name, width)
			}
			if p.shots != "" {
				png := ask(p, chromedp.FullScreenshot(100))
				must(p.w.t, os.WriteFile(filepath.Join(p.shots, fmt.Sprintf("%s-%s-%d.png", name, scheme, width)), png, 0o600))
			}
		}
	}
	p.run(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}), command(emulation.ClearDeviceMetricsOverride, cdp.Empty{}))
	return p
}

// TestPatientInBrowser: a link, a passkey, a sign-in, a consent, its end.
func TestPatientInBrowser(t *testing.T) {
	w := newWorld(t)
	c := newChrome(t, w)
	p := c.person()
	p.open(w.invite("ada", "Ada Beispiel", "patient")).check("invite")
	p.click("form button.primary", "Choose how you sign in").check("enrol-first")
	p.fill("#label", "My phone").click(`button[data-passkey=create]`, "The passkey is ready").check("account")
	p.open("/auth/enrol").check("enrol")
	p.click(".who button", "You are signed out").check("signedout")
	p.open("/auth/apps")
	p.wait("Sign in")
	p.check("signin")
	p.click(`button[data-passkey=get]`, "No app has access").check("apps-none")

	to, _ := w.authorizeURL("openid fhirUser launch/patient offline_access patient/*.rs patient/Observation.cruds", nil)
	p.open(to)
	p.wait("Allow Heartbook?")
	p.check("consent")
	p.run(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("details").forEach((d) => d.open = true)`))
	p.check("consent-open")
	p.click(`button[value=allow]`, "Back in the app")
	at := ask(p, chromedp.Location())
	if u, err := url.Parse(at); err != nil || u.Query().Get("code") == "" || u.Query().Get("state") != "s-1" {
		t.Fatalf("back at %s", at)
	}
	b := w.browser()
	to, verifier := w.authorizeURL("openid fhirUser launch/patient offline_access patient/*.rs", nil)
	p.open(to)
	p.wait("Allow Heartbook?")
	p.click(`button[value=allow]`, "Back in the app")
	at = ask(p, chromedp.Location())
	u, err := url.Parse(at)
	must(t, err)
	status, out := w.token(b.c, url.Values{"grant_type": {"authorization_code"}, "code": {u.Query().Get("code")}, "client_id": {w.app.ID}, "redirect_uri": {w.base + "/app/callback"}, "code_verifier": {verifier}})
	if status != 200 {
		t.Fatalf("%d %v", status, out)
	}
	p.open("/auth/apps")
	p.wait("Heartbook")
	p.check("apps")
	p.click("form button.danger", "has no access any more").check("apps-ended")
	if status, _ := w.token(b.c, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {out["refresh_token"].(string)}, "client_id": {w.app.ID}}); status != 400 {
		t.Errorf("a refresh after the end: %d", status)
	}
	p.open("/auth/nothing").check("notfound")
	p.open("/auth/stepup").check("stepup")
	p.click(`button[data-passkey=get]`, "Ways to sign in")
	p.keyboard(t)
}

// keyboard: the first stop skips to the content, and each one is seen.
func (p *tab) keyboard(t *testing.T) {
	t.Helper()
	p.open("/auth/")
	unseen := 0
	p.run(chromedp.KeyEvent("\t"))
	if first := ask(p, chromedp.Evaluate[string](`document.activeElement.textContent`)); first != "Skip to the content" {
		t.Errorf("the first stop of the keyboard is %q", first)
	}
	for range 12 {
		seen := ask(p, chromedp.Evaluate[bool](`(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
			return e === document.body || s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && r.width > 0 && r.right > 0 })()`))
		p.run(chromedp.KeyEvent("\t"))
		if !seen {
			unseen++
		}
	}
	if unseen > 0 {
		t.Errorf("%d stops of the keyboard have no visible focus", unseen)
	}
}

// TestStaffInBrowser: the pages of a practitioner, an administrator and an
// auditor.
func TestStaffInBrowser(t *testing.T) {
	w := newWorld(t)
	c := newChrome(t, w)
	enrol := func(login, name, role string) *tab {
		p := c.person()
		p.open(w.invite(login, name, role)).click("form button.primary", "Choose how you sign in")
		return p.click(`button[data-passkey=create]`, "The passkey is ready")
	}
	doc := enrol("doc", "Dr. Dora Doc", "practitioner")
	doc.open("/auth/launches?text=a").check("launches")
	doc.fill("#patient", "ada").click("form[method=post][action='/auth/launches'] button", "Open Heartbook").check("launches-ready")
	to, _ := w.authorizeURL("launch/patient user/*.rs patient/Observation.rs", nil)
	doc.open(to)
	doc.wait("Choose a patient")
	doc.fill("#text", "a").click("form[role=search] button", "1 found").check("patient")
	doc.click(".items a.btn", "Allow Heartbook?").check("consent-practitioner")
	doc.open("/auth/emergency?text=a").check("emergency-find")
	doc.click(".items a.btn", "Why is it necessary?").check("emergency")
	doc.run(chromedp.SendKeys(chromedp.CSS("#reason"), "unconscious after a fall"))
	doc.click("form button.danger", "Open now").check("emergency-open")

	aud := enrol("aud", "Audi Tor", "auditor")
	aud.open("/auth/reviews").check("reviews")
	aud.click("button[value=justified]", "Thank you").check("reviews-done")

	adm := enrol("root", "Rita Root", "administrator")
	adm.open("/auth/users").check("users")
	adm.open("/auth/users/new").check("user-new")
	adm.fill("#name", "Eve Example").fill("#login", "eve").click("input[value=auditor]", "Invite somebody").click("form.card button.primary", "A link for Eve Example")
	adm.check("link")
	u, err := w.users.ByLogin(context.Background(), "eve")
	must(t, err)
	adm.open("/auth/users/" + u.ID).check("user")
	adm.open("/auth/clients").check("clients")
	adm.open("/auth/clients/new").check("client-new")

	p := c.person()
	p.open(w.invite("tom", "Tom Totp", "auditor")).click("form button.primary", "Choose how you sign in").click("a[href='/auth/enrol/password']", "Choose a password")
	p.check("password")
	secret := ask(p, chromedp.Text(chromedp.CSS("#secret")))
	p.fill("#password", "correct horse battery").fill("#repeat", "correct horse battery").fill("#code", authn.Code(authn.ParseSecret(secret), w.now()))
	p.click("form.card button.primary", "Your recovery codes").check("codes")
	p.open("/auth/").check("account-password")
}
