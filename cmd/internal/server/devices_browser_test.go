package server

import (
	"context"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
	"pulsegate/cmd/internal/admin"
	chrome "pulsegate/conformance/browser"
)

// simulatedOura starts a simulated vendor and returns the file of the setting vendors
// for it.
func simulatedOura(t *testing.T) string {
	t.Helper()
	wearers, err := simulate.Wearers(1, 3)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(oura.New(oura.Options{Clock: simulate.NewClock(time.Now, time.Now(), 1),
		Start: time.Now().AddDate(0, 0, -30), Seed: 1, Wearers: wearers,
		Clients: []oura.Client{{ID: "pulsegate", Secret: "hunter2", Provider: oura.Moi}}}))
	t.Cleanup(srv.Close)
	return vendorFile(t, `
oura:
  client-id: pulsegate
  client-secret-file: `+secretFile(t, "hunter2", 0o600)+`
  authorize-url: `+srv.URL+`/oauth/v2/ext/oauth-authorize
  token-url: `+srv.URL+`/oauth/v2/ext/oauth-token
  revoke-url: `+srv.URL+`/oauth/v2/ext/oauth-revoke
  api-url: `+srv.URL+`
`)
}

// TestDevicesInBrowser has a patient connect and disconnect an account at a simulated
// vendor in a real browser.
func TestDevicesInBrowser(t *testing.T) {
	dir := t.TempDir()
	base, _, _ := running(t, dir, map[string]string{"listen": ":0", "vendors": simulatedOura(t),
		"egress-allow": "127.0.0.0/8"})
	socket := admin.Dial(dir)
	do := func(op string, in, out any) {
		t.Helper()
		if err := socket.Call(context.Background(), op, nil, in, out); err != nil {
			t.Fatal(err)
		}
	}
	do("patient", admin.NewPatient{ID: "ada", Given: "Ada", Family: "Beispiel"}, &admin.ID{})
	var invitation admin.UserLink
	do("user/bootstrap", admin.NewUser{Login: "root", Name: "Rita Root"}, &invitation)
	do("user", admin.NewUser{Login: "ada", Name: "Ada Beispiel", Roles: []string{"patient"}, Patient: "ada"},
		&invitation)
	links := func(status string, missing int) {
		t.Helper()
		var got admin.Links
		do("link", nil, &got)
		if status == "" && len(got.Links) == 0 {
			return
		}
		if len(got.Links) != 1 || got.Links[0].Status != status || len(got.Links[0].Missing) != missing ||
			!got.Links[0].Consented {
			t.Fatalf("links %+v", got)
		}
	}
	// devices waits until the record of ada has a ring, or none.
	devices := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			var got admin.PatientDetails
			if err := socket.Call(t.Context(), "patient/show", url.Values{"id": {"ada"}}, nil, &got); err != nil {
				t.Fatal(err)
			}
			if len(got.Devices) > 0 == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("devices %+v", got.Devices)
			}
		}
	}

	p := chrome.New(t, chrome.Options{Base: base, Every: true}).Person()
	p.Open(invitation.Link).Click("form button.primary", "Choose how you sign in").Click(`button[data-passkey=create]`,
		"The passkey is ready")
	connect := func(button, then string) {
		t.Helper()
		p.Open("/auth/devices").Click(`a[href$="vendor=oura"]`, "What is collected")
		chrome.Eval[int](p, `(document.querySelector("input[name=sees][value=apps]") ?? {click() {}}).click(), 0`)
		p.Click("main form button.primary", "Simulated Oura")
		chrome.Eval[int](p, `document.querySelector("input[value$=workout]").click(), 0`)
		p.Click(button, then)
	}
	connect("button[value=deny]", "it was not allowed on the vendor’s page")
	p.Check("connect-denied")
	links("", 0)
	connect("button[value=approve]", "The account is connected")
	p.Check("connected")
	if at := p.At(); !strings.HasSuffix(at, "/auth/devices?done=connected") {
		t.Errorf("at %s", at)
	}
	links("working", 1)
	p.Wait("permission missing").Wait("your workouts")
	devices(true)
	p.Open("/auth/devices").Wait("Last data").Check("connected-data")
	if strings.Contains(chrome.Eval[string](p, `document.querySelector("main dl").innerText`), "None yet") {
		t.Error("the page shows no data")
	}
	p.Click(`main a.danger`, "What happens to it?")
	chrome.Eval[int](p, `document.querySelector("input[value=keep]").click(), 0`)
	p.Click("main form button.danger", "The account is disconnected").Check("disconnected")
	links("", 0)
	devices(true)
	connect("button[value=approve]", "The account is connected")
	p.Click(`main a.danger`, "What happens to it?")
	chrome.Eval[int](p, `document.querySelector("input[value=delete]").click(), 0`)
	p.Click("main form button.danger", "is being deleted")
	links("", 0)
	devices(false)
}
