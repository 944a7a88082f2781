// Package browser drives a real browser for tests: Chromium with a virtual
// passkey authenticator, accessibility by axe-core, screenshots.
//
// It owns: finding Chromium and node, the packages that such tests take from
// outside (package.json, pinned by package-lock.json), and the steps of a
// person at a page. It does not own any page. What is missing skips a test,
// or fails it where PULSEGATE_BROWSER is set, as `make test` does.
//
// PULSEGATE_SHOTS names a folder for screenshots of every page checked.
package browser

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
)

// Options of a Chrome.
type Options struct {
	Base string // what a path is relative to
	// Trust is a certificate that is good for this browser: passkeys need
	// that. May be nil.
	Trust *x509.Certificate
	Every bool  // asks axe for everything that it knows, not for AA alone
	Phone int64 // width of the phone that pages are checked at; 0: 360
}

// Chrome is Chromium.
type Chrome struct {
	t     testing.TB
	o     Options
	ctx   context.Context
	axe   string
	shots string // folder; "" none
}

// New starts the browser; it ends with the test.
func New(t testing.TB, o Options) *Chrome {
	t.Helper()
	bin := Chromium(t)
	src, err := os.ReadFile(filepath.Join(Packages(t), "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	if o.Phone == 0 {
		o.Phone = 360
	}
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(bin), chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox,
		chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.Flag("host-resolver-rules", "MAP localhost 127.0.0.1"), chromedp.Flag("no-proxy-server", true),
		chromedp.WSURLReadTimeout(60 * time.Second)}
	if o.Trust != nil {
		sum := sha256.Sum256(o.Trust.RawSubjectPublicKeyInfo)
		opts = append(opts, chromedp.Flag("ignore-certificate-errors-spki-list",
			base64.StdEncoding.EncodeToString(sum[:])))
	}
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return &Chrome{t: t, o: o, ctx: ctx, axe: string(src), shots: os.Getenv("PULSEGATE_SHOTS")}
}

// Person is a fresh browser profile with a passkey authenticator of its own.
func (c *Chrome) Person() *Tab {
	c.t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	c.t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // opens the tab, which lives as long as this very context
		c.t.Fatal(err)
	}
	p := &Tab{Chrome: c, ctx: ctx}
	p.Run(command(webauthn.Enable, webauthn.EnableParams{}),
		command(webauthn.AddVirtualAuthenticator,
			webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
				Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
				HasResidentKey: true, HasUserVerification: true, IsUserVerified: true,
				AutomaticPresenceSimulation: true}}))
	return p
}

// Tab is a person's only tab. A step that fails ends the test.
type Tab struct {
	*Chrome
	ctx context.Context
}

// Step is one thing done.
type Step = chromedp.Action[chromedp.Void]

// command is one of the DevTools protocol.
func command[P, R any](c cdp.Command[P, R], params P) Step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// Zone puts the browser into a time zone, such as "Asia/Kolkata".
func (p *Tab) Zone(name string) *Tab {
	p.t.Helper()
	p.Run(command(emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: name}))
	return p
}

// Run does the steps.
func (p *Tab) Run(steps ...Step) { p.t.Helper(); Ask(p, chromedp.Steps(steps...)) }

// Ask runs a step that gives something back.
func Ask[T any](p *Tab, a chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 60*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		after, stop := context.WithTimeout(p.ctx, 5*time.Second)
		defer stop()
		at, _ := chromedp.Run(after, chromedp.Location())
		body, _ := chromedp.Run(after, chromedp.Evaluate[string]("document.body.innerText"))
		p.t.Fatalf("%v\nat %s\n%s", err, at, body)
	}
	return v
}

// Eval is the value of an expression.
func Eval[T any](p *Tab, expr string) T {
	p.t.Helper()
	return Ask(p, chromedp.Evaluate[T](expr))
}

// At is the address of the page.
func (p *Tab) At() string { p.t.Helper(); return Ask(p, chromedp.Location()) }

// Open goes to a page.
func (p *Tab) Open(to string) *Tab {
	p.t.Helper()
	if strings.HasPrefix(to, "/") {
		to = p.o.Base + to
	}
	p.Run(chromedp.Navigate(to))
	return p
}

// Click clicks and waits until a page with the text is there.
func (p *Tab) Click(selector, then string) *Tab {
	p.t.Helper()
	p.Run(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
	return p.Wait(then)
}

// Wait waits until a page with the text is there.
func (p *Tab) Wait(text string) *Tab {
	p.t.Helper()
	return p.Until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// Until waits until a page is there for which the expression is true.
func (p *Tab) Until(expr string) *Tab {
	p.t.Helper()
	expr = `document.readyState === "complete" && (` + expr + ")"
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		// A page that is just being left has no answer.
		ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expr))
		cancel()
		if err == nil && there {
			return p
		}
		if time.Now().After(end) {
			p.t.Fatalf("not %s at %s:\n%s", expr, p.At(), Eval[string](p, "document.body.innerText"))
		}
	}
}

// Fill sets the value of a field.
func (p *Tab) Fill(selector, text string) *Tab {
	p.t.Helper()
	p.Run(chromedp.SetValue(chromedp.CSS(selector), text))
	return p
}

// Type types into a field.
func (p *Tab) Type(selector, text string) *Tab {
	p.t.Helper()
	p.Run(chromedp.SendKeys(chromedp.CSS(selector), text))
	return p
}

// Key presses a key.
func (p *Tab) Key(key string) { p.t.Helper(); p.Run(chromedp.KeyEvent(key)) }

// These sets of axe rules may be run: WCAG 2.2 AA and best practice, or all
// rules, including AAA and the experimental ones.
const (
	usual = `["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]`
	every = `{type: "rule", values: axe.getRules().map((r) => r.ruleId)}`
)

func violations(which string) string {
	return `axe.run(document, {runOnly: ` + which + `}).then(
  (r) => r.violations.map((v) => v.id + ": " + v.help + "\n" + v.nodes.map((n) => "    " + n.html + "\n    " + n.failureSummary).join("\n")).join("\n"))`
}

// Check looks at the page in light and dark, on a desktop and on a phone.
func (p *Tab) Check(name string) *Tab {
	p.t.Helper()
	which := usual
	if p.o.Every {
		which = every
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, p.o.Phone} {
			p.Run(command(emulation.SetEmulatedMedia,
				emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
					{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}}),
				command(emulation.SetDeviceMetricsOverride,
					emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 800, DeviceScaleFactor: 1,
						Mobile: width < 500}))
			p.Until("document.getAnimations().length === 0") // a color on its way is none of the page's
			bad := ""
			// Colours go with the scheme and layout with the width: two of the
			// four show both. With screenshots all four are asked.
			if (scheme == "light") == (width == 1280) || p.shots != "" {
				p.Run(chromedp.Evaluate[chromedp.Void](p.axe + ";0"))
				bad = Ask(p, chromedp.Evaluate[string](violations(which), chromedp.EvalAwaitPromise))
			}
			wide := Eval[bool](p, fmt.Sprintf(`document.documentElement.scrollWidth > %d`, width))
			if bad != "" {
				p.t.Errorf("%s, %s, %d px:\n%s", name, scheme, width, bad)
			}
			if wide {
				p.t.Errorf("%s: wider than %d px", name, width)
			}
			if p.shots != "" {
				png := Ask(p, chromedp.FullScreenshot(100))
				if err := os.WriteFile(filepath.Join(p.shots, fmt.Sprintf("%s-%s-%d.png", name, scheme, width)),
					png, 0o600); err != nil {
					p.t.Fatal(err)
				}
			}
		}
	}
	p.Run(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}),
		command(emulation.ClearDeviceMetricsOverride, cdp.Empty{}))
	return p
}

// Press clicks what leads away from the page.
func (p *Tab) Press(selector string) *Tab {
	p.t.Helper()
	p.Run(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
	return p
}
