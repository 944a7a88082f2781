package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/browser"
)

// TestApp uses the app like a new user: a practitioner launches it from the console,
// and a patient opens it standalone.
func TestApp(t *testing.T) {
	browser.Chromium(t)
	browser.Packages(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	bin, err := blackbox.Build(dir)
	must(err)
	port, err := blackbox.FreePort()
	must(err)
	base, data := fmt.Sprint("http://localhost:", port), filepath.Join(dir, "data")
	srv, err := blackbox.StartAt(bin, data, fmt.Sprint("127.0.0.1:", port), "--demo", "--base-url", base)
	must(err)
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Errorf("%v\n%s", err, srv.Log())
		}
	})
	own, err := blackbox.FreePort()
	must(err)
	app := fmt.Sprint("http://localhost:", own)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var client string
	started := make(chan error, 1)
	go func() {
		ended <- run(ctx, fmt.Sprint("127.0.0.1:", own), base, "", func(origin string) (string, error) {
			id, err := register(bin, data, origin)
			client = id
			started <- err
			return id, err
		})
	}()
	t.Cleanup(func() {
		stop()
		must(<-ended)
	})
	must(<-started)
	if again, err := register(bin, data, app); err != nil || again != client {
		t.Errorf("registered again: %q %v", again, err)
	}

	c := browser.New(t, browser.Options{Base: base, Phone: 390})
	person := func(login string) *browser.Tab {
		var out struct{ Link string }
		must(srv.Run(&out, "user", "reinvite", "--login", login))
		p := c.Person()
		p.Open(out.Link).Click("form button.primary", "Choose how you sign in").Click("button[data-passkey=create]",
			"The passkey is ready")
		return p
	}
	c.Person().Open("/").Wait("Healthy").Check("landing").Click("a.in", "Sign in with a passkey")
	dora := person("dora")
	dora.Open("/auth/launches?text=Ada&client="+client).Check("app-console-find").Click(".items a.btn",
		"Launch an app").Check("app-console")
	dora.Click("form[method=post][action='/auth/launches'] button", "Open Heart rate").Check("app-console-ready")
	dora.Open(browser.Eval[string](dora,
		`document.querySelector("a.btn.primary[target]").href`)).Wait(
		"Allow Heart rate?").Check("app-consent-practitioner")
	dora.Press("button[value=allow]").Wait(
		"Ada Beispiel").Wait("born 12 April 1979").Wait("beats per minute").Check("app-ehr-day")
	if at := dora.At(); at != app+"/" {
		t.Errorf("the authorization response is still in the URL: %s", at)
	}
	if n := browser.Eval[int](dora, "sessionStorage.length + localStorage.length"); n != 0 {
		t.Errorf("the app stores %d items in the browser", n)
	}
	dora.Press("button[data-hours='168']").Until(
		`document.querySelector("button[data-hours='168']").getAttribute("aria-pressed") === "true" && [8, 9].includes(document.querySelectorAll("#rows tr").length)`) // 9 if a measurement lasted past midnight
	browser.Eval[bool](dora, `document.querySelector("details").open = true`)
	dora.Check("app-ehr-week")

	ada := person("ada")
	ada.Open(app).Wait("Connect to the health record").Check("app-start")
	ada.Click("#connect", "Allow Heart rate?").Check("app-consent-patient")
	ada.Press("button[value=deny]").Wait("access was not allowed").Check("app-denied")
	ada.Open(app).Click("#connect", "Allow Heart rate?").Press(
		"button[value=allow]").Wait("born 12 April 1979").Wait("beats per minute").Check("app-standalone")
	if n := browser.Eval[int](ada, `document.querySelectorAll("svg polyline").length`); n == 0 {
		t.Error("no chart")
	}
	ada.Open(app + "/?iss=https://other.example/fhir&launch=x").Wait("not registered with that server")
	ada.Open(app + "/?code=x&state=y").Wait("not requested in this tab")
}
