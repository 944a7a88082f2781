package pages_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	chrome "pulsegate/conformance/browser"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/pages"
)

// connections gives the pages the connections that a test has set, and records what
// the pages ask for.
type connections struct {
	mu        sync.Mutex
	vendors   []pages.DeviceVendor
	list      map[string][]pages.Connection // by patient
	calls     []string
	callers   []string // subject of each call with a caller
	sessions  []string
	to        string // URL of the vendor
	completed error
}

func (c *connections) record(by *audit.Caller, session string, call ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, strings.Join(call, " "))
	if by != nil {
		c.callers = append(c.callers, by.Principal.Subject)
	}
	if session != "" {
		c.sessions = append(c.sessions, session)
	}
}

// take returns the calls since the last take.
func (c *connections) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.calls
	c.calls = nil
	return out
}

func (c *connections) Vendors(context.Context, string) ([]pages.DeviceVendor, error) {
	return slices.Clone(c.vendors), nil
}

func (c *connections) List(_ context.Context, patient string) ([]pages.Connection, error) {
	return c.list[patient], nil
}

func (c *connections) Agree(_ context.Context, by audit.Caller, patient, vendor string, shared bool) error {
	who := "apps"
	if shared {
		who = "all"
	}
	c.record(&by, "", "agree", patient, vendor, who)
	return nil
}

func (c *connections) Begin(_ context.Context, patient, vendor, session string) (string, error) {
	c.record(nil, session, "begin", patient, vendor)
	return c.to, nil
}

func (c *connections) Complete(_ context.Context, by audit.Caller, session string,
	a pages.VendorAnswer) (string, error) {
	c.record(&by, session, "complete", a.State, a.Code, a.Error, a.Scope)
	return "Oura", c.completed
}

func (c *connections) Disconnect(_ context.Context, by audit.Caller, patient, id string, erase bool) error {
	what := "keep"
	if erase {
		what = "erase"
	}
	c.record(&by, "", "disconnect", patient, id, what)
	return nil
}

// devices sets up vendors and a connection of ada.
func (w *world) devices() *connections {
	c := w.connections
	c.vendors = []pages.DeviceVendor{{Code: "oura", Name: "Oura",
		Reads:    []string{"your sleep", "your steps & activity"},
		Optional: []string{"your heart rate"}, Past: 90 * 24 * time.Hour},
		{Code: "fitbit", Name: "Fitbit", Reads: []string{"your steps"}, Consented: true}}
	c.to = "https://cloud.vendor.example/authorize?state=s-1&scope=a%20b"
	return c
}

// calls checks what the pages asked for since the last time.
func (w *world) calls(want ...string) {
	w.t.Helper()
	if got := w.connections.take(); !slices.Equal(got, want) {
		w.t.Errorf("calls %q, want %q", got, want)
	}
}

func TestConnectAnAccount(t *testing.T) {
	w := newWorld(t)
	c := w.devices()
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.get("/auth/devices").status(200).has("Connect a device", "Connect Oura", "Connect Fitbit")

	const connect = "/auth/devices/connect?vendor=oura"
	ada.get(connect).status(200).has("What is collected", "your sleep", "your steps &amp; activity", "your heart rate",
		"you can leave this out at Oura", "the past 90 days", "Who sees it", "Only the apps that I allow myself",
		"For how long", "disconnect at any time", "kept or deleted", "Agree and continue to Oura")
	if strings.Contains(ada.body, "checked") {
		t.Error("a choice is made for the person")
	}
	for _, sees := range []string{"", "everyone"} {
		ada.get(connect).post("/auth/devices/connect", url.Values{"vendor": {"oura"}, "sees": {sees}}).
			status(http.StatusUnprocessableEntity).has("Choose who may see the data")
	}
	w.calls()
	for _, sees := range []string{"apps", "all"} {
		ada.get(connect).post("/auth/devices/connect", url.Values{"vendor": {"oura"}, "sees": {sees}}).status(200).
			has("Continue to Oura", "<b>cloud.vendor.example</b>",
				`href="https://cloud.vendor.example/authorize?state=s-1&amp;scope=a%20b"`)
		if got, want := ada.resp.Header.Get("Refresh"), "0; url="+c.to; got != want {
			t.Errorf("Refresh: %q, want %q", got, want)
		}
		w.calls("agree ada oura "+sees, "begin ada oura")
	}
	ada.get("/auth/devices/connect?vendor=fitbit").has("You have already agreed", "Continue to Fitbit")
	ada.post("/auth/devices/connect", url.Values{"vendor": {"fitbit"}}).status(200)
	w.calls("begin ada fitbit")
	ada.get("/auth/devices/connect?vendor=pebble").status(404).has("no connection to that vendor")

	// The vendor's redirect comes from another site.
	ada.headers["Sec-Fetch-Site"] = "cross-site"
	ada.get(pages.ConnectCallback + "?state=s-1&code=c-1&scope=daily").status(200).at("/auth/devices").
		has("The account is connected")
	w.calls("complete s-1 c-1  daily")
	if s := c.sessions; len(s) != 4 || s[0] == "" || s[1] != s[0] || s[2] != s[0] || s[3] != s[0] {
		t.Errorf("sessions %q", s)
	}
	u, err := w.users.ByLogin(t.Context(), "ada")
	must(t, err)
	for _, who := range c.callers {
		if who != u.ID {
			t.Errorf("a call by %q", who)
		}
	}
	c.completed = fhir.Errorf(fhir.Forbidden, "test", "it was not allowed on the vendor’s page")
	ada.get(pages.ConnectCallback+"?state=s-1&error=access_denied").status(http.StatusForbidden).
		has("Not allowed", "It was not allowed on the vendor’s page.")
	w.calls("complete s-1  access_denied ")
}

func TestConnectionsInWords(t *testing.T) {
	w := newWorld(t)
	c := w.devices()
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	const again = `aria-label="Connect again: Oura"`
	for _, one := range []struct {
		state   pages.ConnectionState
		missing []string
		want    []string
		again   bool
	}{
		{pages.Working, nil, []string{"working", "1 March 2026, 08:00 UTC"}, false},
		{pages.Working, []string{"your <heart> rate"}, []string{"permission missing", "You have not allowed",
			"your &lt;heart&gt; rate"}, true},
		{pages.Late, nil, []string{"late", "Open the app of Oura"}, false},
		{pages.Reconnect, nil, []string{"connect again", "Oura no longer lets this server read"}, true},
		{pages.Membership, nil, []string{"membership lapsed", "your membership there has lapsed"}, false},
		{pages.Permission, nil, []string{"permission missing", "refuses a part of your data"}, true},
		{pages.Gone, nil, []string{"ended by the vendor", "Oura has ended this service"}, false},
		{pages.Withdrawn, nil, []string{"consent withdrawn", "You have withdrawn your consent"}, true},
	} {
		c.list = map[string][]pages.Connection{"ada": {{ID: "l1", Vendor: "oura", Name: "Oura", State: one.state,
			Connected: at, LastData: at, Missing: one.missing}}}
		ada.get("/auth/devices").status(200).has(one.want...)
		if got := strings.Contains(ada.body, again); got != one.again {
			t.Errorf("%s: connecting again is offered: %t", one.state, got)
		}
		if strings.Contains(ada.body, "Connect Oura") || !strings.Contains(ada.body, "Connect Fitbit") {
			t.Errorf("%s: the page offers the wrong vendors", one.state)
		}
	}
	c.list["ada"][0].LastData = time.Time{}
	ada.get("/auth/devices").has("None yet")
	c.vendors, c.list = nil, nil
	if ada.get("/auth/devices"); strings.Contains(ada.body, "Connect") {
		t.Error("a server without vendors offers to connect one")
	}
}

func TestDisconnectAnAccount(t *testing.T) {
	w := newWorld(t)
	c := w.devices()
	c.list = map[string][]pages.Connection{"ada": {{ID: "l1", Vendor: "oura", Name: "Oura", State: pages.Working}},
		"ben": {{ID: "l2", Vendor: "oura", Name: "Oura", State: pages.Working}}}
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.get("/auth/devices").has(`href="/auth/devices/disconnect?id=l1"`)
	const page = "/auth/devices/disconnect"
	ada.get(page+"?id=l1").status(200).has("Disconnect Oura?", "Keep it", "Delete it",
		"All measurements and devices of Oura are deleted", "cannot be undone", "already received are not deleted")
	if strings.Contains(ada.body, "checked") {
		t.Error("a choice is made for the person")
	}
	for _, data := range []string{"", "all"} {
		ada.get(page+"?id=l1").post(page, url.Values{"id": {"l1"}, "data": {data}}).
			status(http.StatusUnprocessableEntity).has("Choose whether to keep or delete the data")
	}
	for _, id := range []string{"l2", "", "../l1"} { // not hers
		ada.get(page + "?id=" + url.QueryEscape(id)).status(404)
		ada.get(page+"?id=l1").post(page, url.Values{"id": {id}, "data": {"delete"}}).status(404)
	}
	w.calls()
	ada.get(page+"?id=l1").post(page, url.Values{"id": {"l1"}, "data": {"keep"}}).status(200).at("/auth/devices").
		has("is kept")
	w.calls("disconnect ada l1 keep")
	ada.get(page+"?id=l1").post(page, url.Values{"id": {"l1"}, "data": {"delete"}}).status(200).has("is being deleted")
	w.calls("disconnect ada l1 erase")
}

// TestConnectionsAreProtected checks that only the signed-in patient can connect and
// disconnect, and only from the pages.
func TestConnectionsAreProtected(t *testing.T) {
	w := newWorld(t)
	c := w.devices()
	c.list = map[string][]pages.Connection{"ada": {{ID: "l1", Vendor: "oura", Name: "Oura", State: pages.Working}}}
	gets := []string{"/auth/devices", "/auth/devices/connect?vendor=oura", "/auth/devices/disconnect?id=l1",
		pages.ConnectCallback + "?state=s&code=c"}
	posts := map[string]url.Values{"/auth/devices/connect": {"vendor": {"oura"}, "sees": {"all"}},
		"/auth/devices/disconnect": {"id": {"l1"}, "data": {"delete"}}}
	nobody := w.browser()
	for _, path := range gets {
		nobody.get(path).at("/auth/signin")
	}
	for path, form := range posts {
		nobody.get("/auth/signin").post(path, form).at("/auth/signin")
	}
	for _, role := range []string{"practitioner", "administrator", "auditor"} {
		b := w.browser()
		b.enroll(w.invite(role, "Dr. Dora Doc", role))
		for _, path := range gets {
			b.get(path).status(http.StatusForbidden)
		}
		for path, form := range posts {
			b.get("/auth/").post(path, form).status(http.StatusForbidden)
		}
		if b.get("/auth/"); strings.Contains(b.body, "/auth/devices") {
			t.Errorf("%s sees the page in the navigation", role)
		}
	}
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	for path, form := range posts {
		form.Set("csrf", "x")
		ada.do(http.MethodPost, path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode())).
			status(http.StatusForbidden)
		ada.headers["Sec-Fetch-Site"] = "cross-site"
		ada.get("/auth/").post(path, form).status(http.StatusForbidden)
		ada.headers["Sec-Fetch-Site"] = "same-origin"
	}
	w.calls()
	if got := ada.get("/auth/devices/connect?vendor=oura").resp.Header.Get("Content-Security-Policy"); !strings.
		HasSuffix(got, "form-action 'self'") {
		t.Errorf("Content-Security-Policy: %s", got)
	}
}

// TestConnectInBrowser runs the pages in a real browser, with a vendor that redirects
// once more, to another origin.
func TestConnectInBrowser(t *testing.T) {
	w := newWorld(t)
	c := w.devices()
	p := newChrome(t, w).Person()
	p.Open(w.invite("ada", "Ada Beispiel", "patient")).Click("form button.primary",
		"Choose how you sign in").Click(`button[data-passkey=create]`, "The passkey is ready")
	p.Open("/auth/devices").Wait("Connect a device").Check("devices-none")
	p.Click(`a[href$="vendor=oura"]`, "What is collected").Check("connect")
	chrome.Eval[int](p, `document.querySelector("input[name=sees]").removeAttribute("required"), 0`)
	p.Click("main form button.primary", "Choose who may see the data").Check("connect-wrong")
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	for i, s := range []pages.ConnectionState{pages.Working, pages.Late, pages.Reconnect, pages.Membership,
		pages.Permission, pages.Gone, pages.Withdrawn} {
		name := []string{"Oura", "Fitbit"}[i%2]
		c.list = map[string][]pages.Connection{"ada": append(c.list["ada"], pages.Connection{ID: string(s),
			Vendor: strings.ToLower(name), Name: name, State: s, Connected: at, LastData: at})}
	}
	c.list["ada"][0].Missing = []string{"your heart rate", "your temperature"}
	p.Open("/auth/devices").Wait("membership lapsed").Check("devices")
	p.Open("/auth/devices/disconnect?id=working").Wait("Keep it").Check("disconnect")
}
