package pages_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/apple"
	"pulsegate/adapters/pushkey"
	chrome "pulsegate/conformance/browser"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/pages"
)

// pushKeys gives the pages the keys of a world.
type pushKeys struct{ w *world }

func (p pushKeys) Vendors(context.Context, string) ([]pages.PushVendor, error) {
	return []pages.PushVendor{{Code: "apple", Name: "Apple Health", Apps: []string{"Health Auto Export"},
		Consented: true}, {Code: "oura", Name: "Oura"}}, nil
}

func (p pushKeys) List(ctx context.Context, patient string) (out []pages.PushKey, err error) {
	keys, err := p.w.push.List(ctx, patient)
	for _, k := range keys {
		out = append(out, p.shown(k))
	}
	return out, err
}

func (p pushKeys) shown(k pushkey.Key) pages.PushKey {
	return pages.PushKey{ID: k.ID, Vendor: "Apple Health", Name: k.Name, Created: k.Created, Operator: k.Operator,
		Expires: k.Expires, Expired: k.Expired(p.w.now()), Used: k.Use.At, Automation: k.Use.Automation}
}

func (p pushKeys) Create(ctx context.Context, patient, vendor, name string, life time.Duration,
	ev audit.Event) (pages.NewPushKey, error) {
	if vendor != "apple" && vendor != "oura" {
		return pages.NewPushKey{}, fhir.Errorf(fhir.Invalid, "test", "vendor: Choose one of the list.")
	}
	k, text, err := p.w.push.Create(ctx, pushkey.NewKey{Patient: patient, Vendor: vendor, Name: name, Life: life}, ev)
	if err != nil {
		return pages.NewPushKey{}, err
	}
	out := pages.NewPushKey{PushKey: p.shown(k), Key: text, Consented: vendor == "apple"}
	for _, s := range pushkey.SettingsFor(p.w.base, apple.New(), text) {
		out.Settings = append(out.Settings, pages.PushSettings(s))
	}
	return out, nil
}

func (p pushKeys) Revoke(ctx context.Context, patient, id string, ev audit.Event) error {
	_, err := p.w.push.Revoke(ctx, patient, id, ev)
	return err
}

// delivers authenticates a delivery with a key, from an automation with a name.
func (w *world) delivers(key, automation string) error {
	r := httptest.NewRequest(http.MethodPost, "/ingest/apple/auto", nil)
	r.Header.Set("X-API-Key", key)
	r.Header.Set("automation-name", automation)
	_, err := w.push.Or(nil).Authenticate(r)
	return err
}

// keyOn returns the key that a page shows.
func keyOn(body string) string { return between(body, `id="push-key">`, `<`) }

// TestPushKeyPages checks that a patient makes a key, sees it once with the settings for
// the app, recognizes its automation, and revokes it.
func TestPushKeyPages(t *testing.T) {
	w := newWorld(t)
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.get("/auth/devices").status(200).has("Send data from an app", "No app has a key", `aria-current="page">Devices`)
	ada.post("/auth/devices/keys", url.Values{"vendor": {"apple"}, "name": {"My <b>iPhone</b>"}, "life": {"90"}})
	ada.status(200).has("My &lt;b&gt;iPhone", w.base+"/ingest/apple/health-auto-export", "Authorization", "JSON",
		"Settings of Health Auto Export")
	key := keyOn(ada.body)
	if n := strings.Count(ada.body, key); !strings.HasPrefix(key, pushkey.Prefix) || n < 2 {
		t.Fatalf("the key %q is shown %d times", key, n)
	}
	if c := ada.resp.Header.Get("Cache-Control"); c != "no-store" {
		t.Errorf("Cache-Control %q", c)
	}
	ada.get("/auth/devices").has("not used yet", "My &lt;b&gt;iPhone", "ends on")
	if strings.Contains(ada.body, key[16:]) {
		t.Error("the key is shown again")
	}
	must(t, w.delivers(key, `Clinic "steps"<script>`))
	ada.get("/auth/devices").has("last used", "Clinic &#34;steps&#34;&lt;script&gt;")
	if n := w.events("push-key-create"); n != 1 {
		t.Errorf("%d AuditEvents for the new key", n)
	}
	id := between(ada.body, `name="id" value="`, `"`)
	ada.post("/auth/devices/keys/revoke", url.Values{"id": {id}}).status(200).has("no longer works", "No app has a key")
	if w.delivers(key, "") == nil {
		t.Error("the revoked key works")
	}
	if n := w.events("push-key-revoke"); n != 1 {
		t.Errorf("%d AuditEvents for the revocation", n)
	}
	ada.post("/auth/devices/keys/revoke", url.Values{"id": {id}}).status(200).at("/auth/devices")
}

// TestPushKeyFormErrors checks that wrong input is named at its field and kept.
func TestPushKeyFormErrors(t *testing.T) {
	w := newWorld(t)
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	for want, form := range map[string]url.Values{
		`id="vendor-error">Choose one of the list.`: {"vendor": {"nothing"}, "name": {"Kept"}},
		`id="life-error">Choose one of the list.`:   {"vendor": {"oura"}, "name": {"Kept"}, "life": {"-1"}},
		`id="key-name-error">The name must not be longer`: {"vendor": {"oura"},
			"name": {"Kept" + strings.Repeat("x", 80)}},
	} {
		ada.get("/auth/devices").post("/auth/devices/keys", form).status(422).has(want, `value="Kept`, "marked below")
	}
	ada.get("/auth/devices").post("/auth/devices/keys", url.Values{"vendor": {"oura"}}).status(200).has(
		"You have not consented to collecting data")
	for range 19 {
		ada.get("/auth/devices").post("/auth/devices/keys", url.Values{"vendor": {"apple"}}).status(200)
	}
	ada.get("/auth/devices").post("/auth/devices/keys", url.Values{"vendor": {"apple"}}).status(422).has(
		"revoke one first")
}

// TestPushKeysAreThePatientsOwn checks that staff have no such page, that patients cannot
// revoke the key of another patient, and that forms need their token.
func TestPushKeysAreThePatientsOwn(t *testing.T) {
	w := newWorld(t)
	ev := audit.Event{Type: audit.Security, Interaction: "configuration"}
	ben, key, err := w.push.Create(context.Background(), pushkey.NewKey{Patient: "ben", Vendor: "apple"}, ev)
	must(t, err)
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	if ada.get("/auth/devices").status(200); strings.Contains(ada.body, ben.ID) {
		t.Error("shows another patient's key")
	}
	ada.post("/auth/devices/keys/revoke", url.Values{"id": {ben.ID}}).status(200).at("/auth/devices")
	must(t, w.delivers(key, ""))
	for _, path := range []string{"/auth/devices/keys", "/auth/devices/keys/revoke"} {
		ada.do(http.MethodPost, path, "application/x-www-form-urlencoded",
			strings.NewReader("vendor=apple")).status(403)
	}
	doc := w.browser()
	doc.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	if doc.get("/auth/"); strings.Contains(doc.body, "/auth/devices") {
		t.Error("the navigation of staff has the page")
	}
	for _, path := range []string{"/auth/devices/keys", "/auth/devices/keys/revoke"} {
		doc.get("/auth/").post(path, url.Values{"vendor": {"apple"}, "id": {ben.ID}}).status(403)
	}
	doc.get("/auth/devices").status(403).has("for patients")
	w.browser().get("/auth/devices").at("/auth/signin")
	must(t, w.delivers(key, ""))
}

// TestPushKeysInBrowser makes and revokes a key in a real browser, and copies the
// settings.
func TestPushKeysInBrowser(t *testing.T) {
	w := newWorld(t)
	p := newChrome(t, w).Person()
	p.Open(w.invite("ada", "Ada Beispiel", "patient")).Click("form button.primary",
		"Choose how you sign in").Click(`button[data-passkey=create]`, "The passkey is ready")
	p.Open("/auth/devices").Check("devices-none")
	p.Fill("#key-name", "My iPhone").Click("form.card button.primary", "Your new key").Check("pushkey")
	key := chrome.Eval[string](p, `document.querySelector("#push-key").textContent`)
	chrome.Eval[int](p, `navigator.clipboard.writeText = (s) => { window.copied = s; return Promise.resolve(); }, 0`)
	for what, want := range map[string]string{"push-key": key, "header-name": "Authorization",
		"url-health-auto-export": w.base + "/ingest/apple/health-auto-export",
		"header-value":           "Bearer " + key} {
		p.Press(`button[data-copy="` + what + `"]`)
		p.Until(`document.querySelector('button[data-copy="` + what + `"]').textContent === "Copied"`)
		if got := chrome.Eval[string](p, `window.copied`); got != want {
			t.Errorf("%s: copied %q, want %q", what, got, want)
		}
	}
	must(t, w.delivers(key, "Health Metrics to my clinic"))
	_, _, err := w.push.Create(context.Background(), pushkey.NewKey{Patient: "ada", Vendor: "apple", Operator: true,
		Life: time.Hour}, audit.Event{Type: audit.Security, Interaction: "configuration"})
	must(t, err)
	w.pass(10 * time.Minute)
	p.Click("main p a.btn.primary", "Health Metrics to my clinic").Check("devices")
	p.Click(`button[aria-label="Revoke the key My iPhone"]`, "no longer works").Check("devices-revoked")
	if w.delivers(key, "") == nil {
		t.Error("the revoked key works")
	}
}
