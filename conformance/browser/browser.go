// Package browser drives a real browser in tests: Chromium with a virtual passkey
// authenticator, accessibility checks by axe-core, and screenshots.
//
// It finds Chromium and node, installs the third-party packages of package.json as
// pinned by package-lock.json, and performs the steps of a person on a page. It knows
// no page. If a program is missing, the test is skipped, or fails if
// PULSEGATE_BROWSER is set, as in `make test`.
//
// PULSEGATE_SHOTS names a directory for screenshots of all checked pages.
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

// Options configures a Chrome.
type Options struct {
	Base string // base URL of paths
	// Trust is a certificate that the browser accepts, which passkeys require. It
	// may be nil.
	Trust *x509.Certificate
	Every bool  // run all rules of axe, not only those of WCAG 2.2 AA
	Phone int64 // width of the phone in pixels, 360 if zero
}

// Chrome is a running Chromium.
type Chrome struct {
	tb    testing.TB
	opts  Options
	ctx   context.Context
	axe   string // source of axe-core
	shots string // directory of the screenshots, or empty
}

// New starts a browser that is closed at the end of the test.
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
		chromedp.WSURLReadTimeout(patience)}
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
	return &Chrome{tb: t, opts: o, ctx: ctx, axe: string(src), shots: os.Getenv("PULSEGATE_SHOTS")}
}

// patience bounds a step in a page.
const patience = 2 * time.Minute

// Person opens a tab in a new browser profile with its own passkey authenticator.
func (c *Chrome) Person() *Tab {
	c.tb.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	c.tb.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // opens the tab, which lives as long as this context
		c.tb.Fatal(err)
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

// Tab is the only tab of a person. A failing step ends the test.
type Tab struct {
	*Chrome
	ctx context.Context
}

// Step is one action in a tab.
type Step = chromedp.Action[chromedp.Void]

// command returns a step that calls a method of the DevTools protocol.
func command[P, R any](c cdp.Command[P, R], params P) Step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// Zone sets the time zone of the browser, such as "Asia/Kolkata".
func (p *Tab) Zone(name string) *Tab {
	p.tb.Helper()
	p.Run(command(emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: name}))
	return p
}

// Run performs the steps.
func (p *Tab) Run(steps ...Step) { p.tb.Helper(); Ask(p, chromedp.Steps(steps...)) }

// Ask performs a step and returns its result.
func Ask[T any](p *Tab, a chromedp.Action[T]) T {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		after, stop := context.WithTimeout(p.ctx, 5*time.Second)
		defer stop()
		at, _ := chromedp.Run(after, chromedp.Location())
		body, _ := chromedp.Run(after, chromedp.Evaluate[string]("document.body.innerText"))
		p.tb.Fatalf("%v\nat %s\n%s", err, at, body)
	}
	return v
}

// Eval returns the value of a JavaScript expression.
func Eval[T any](p *Tab, expr string) T {
	p.tb.Helper()
	return Ask(p, chromedp.Evaluate[T](expr))
}

// At returns the URL of the page.
func (p *Tab) At() string { p.tb.Helper(); return Ask(p, chromedp.Location()) }

// Open navigates to a page.
func (p *Tab) Open(to string) *Tab {
	p.tb.Helper()
	if strings.HasPrefix(to, "/") {
		to = p.opts.Base + to
	}
	p.Run(chromedp.Navigate(to))
	return p
}

// Click clicks an element and waits for a page that contains the text then.
func (p *Tab) Click(selector, then string) *Tab {
	p.tb.Helper()
	p.Run(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
	return p.Wait(then)
}

// Wait waits for a page that contains the text.
func (p *Tab) Wait(text string) *Tab {
	p.tb.Helper()
	return p.Until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// Until waits for a page where the expression is true.
func (p *Tab) Until(expr string) *Tab {
	p.tb.Helper()
	expr = `document.readyState === "complete" && (` + expr + ")"
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		// A page that is being left does not answer.
		ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expr))
		cancel()
		if err == nil && ok {
			return p
		}
		if time.Now().After(end) {
			p.tb.Fatalf("not %s at %s:\n%s", expr, p.At(), Eval[string](p, "document.body.innerText"))
		}
	}
}

// Fill sets the value of a field.
func (p *Tab) Fill(selector, text string) *Tab {
	p.tb.Helper()
	p.Run(chromedp.SetValue(chromedp.CSS(selector), text))
	return p
}

// Type types text into a field.
func (p *Tab) Type(selector, text string) *Tab {
	p.tb.Helper()
	p.Run(chromedp.SendKeys(chromedp.CSS(selector), text))
	return p
}

// Key presses a key.
func (p *Tab) Key(key string) { p.tb.Helper(); p.Run(chromedp.KeyEvent(key)) }

// The sets of axe rules: those of WCAG 2.2 AA and of best practice, or all rules,
// including AAA and experimental ones.
const (
	standardRules = `["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]`
	allRules      = `{type: "rule", values: axe.getRules().map((r) => r.ruleId)}`
)

// violations returns an expression for the violations of a set of rules.
func violations(rules string) string {
	return `axe.run(document, {runOnly: ` + rules + `}).then(
  (r) => r.violations.map((v) => v.id + ": " + v.help + "\n" + v.nodes.map((n) => "    " + n.html + "\n    " + n.failureSummary).join("\n")).join("\n"))`
}

// Check runs axe on the page, in light and dark, at the width of a desktop and of a
// phone, and checks that nothing is wider than the window.
func (p *Tab) Check(name string) *Tab {
	p.tb.Helper()
	rules := standardRules
	if p.opts.Every {
		rules = allRules
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, p.opts.Phone} {
			p.Run(command(emulation.SetEmulatedMedia,
				emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
					{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}}),
				command(emulation.SetDeviceMetricsOverride,
					emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 800, DeviceScaleFactor: 1,
						Mobile: width < 500}))
			p.Until("document.getAnimations().length === 0") // colors in transition are not final
			bad := ""
			// Colors depend on the scheme and the layout on the width, so that two
			// of the four combinations suffice, unless screenshots are taken.
			if (scheme == "light") == (width == 1280) || p.shots != "" {
				p.Run(chromedp.Evaluate[chromedp.Void](p.axe + ";0"))
				bad = Ask(p, chromedp.Evaluate[string](violations(rules), chromedp.EvalAwaitPromise))
			}
			wide := Eval[bool](p, fmt.Sprintf(`document.documentElement.scrollWidth > %d`, width))
			if bad != "" {
				p.tb.Errorf("%s, %s, %d px:\n%s", name, scheme, width, bad)
			}
			if wide {
				p.tb.Errorf("%s: wider than %d px", name, width)
			}
			if p.shots != "" {
				png := Ask(p, chromedp.FullScreenshot(100))
				if err := os.WriteFile(filepath.Join(p.shots, fmt.Sprintf("%s-%s-%d.png", name, scheme, width)),
					png, 0o600); err != nil {
					p.tb.Fatal(err)
				}
			}
		}
	}
	p.Run(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}),
		command(emulation.ClearDeviceMetricsOverride, cdp.Empty{}))
	return p
}

// Press clicks an element that leads to another page.
func (p *Tab) Press(selector string) *Tab {
	p.tb.Helper()
	p.Run(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
	return p
}
