package pages_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	chrome "pulsegate/conformance/browser"
	"pulsegate/fhir/audit"
	"pulsegate/smart/pages"
)

// sources gives the pages the sources that a test has set, and records what the pages ask
// for.
type sources struct {
	mu    sync.Mutex
	list  map[string][]pages.Source // by patient
	calls []string
}

func (s *sources) record(by audit.Caller, call ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if by.Principal == nil || by.Principal.Subject == "" {
		call = append(call, "by nobody")
	}
	s.calls = append(s.calls, strings.Join(call, " "))
	return nil
}

// take returns the calls since the last take.
func (s *sources) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.calls, "; ")
	s.calls = nil
	return out
}

func (s *sources) List(_ context.Context, patient string) ([]pages.Source, error) {
	return s.list[patient], nil
}

func (s *sources) Agree(_ context.Context, by audit.Caller, patient, vendor string, terms pages.SourceTerms) error {
	call := []string{"agree", patient, vendor}
	if terms.Shared {
		call = append(call, "shared")
	}
	if terms.Locations {
		call = append(call, "locations")
	}
	return s.record(by, call...)
}

func (s *sources) Locate(_ context.Context, by audit.Caller, patient, vendor string, allow bool) error {
	return s.record(by, map[bool]string{true: "locate", false: "unlocate"}[allow], patient, vendor)
}

func (s *sources) Withdraw(_ context.Context, by audit.Caller, patient, vendor string, erase bool) error {
	return s.record(by, map[bool]string{true: "erase", false: "keep"}[erase], patient, vendor)
}

// sourcesOfAda sets up sources with and without a consent.
func (w *world) sourcesOfAda() *sources {
	w.sources.list = map[string][]pages.Source{"ada": {
		{Code: "apple", Name: "Apple Health", HasRoutes: true},
		{Code: "oura", Name: "Oura", Consented: true, Since: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC),
			SeenBy: []string{"Heart <Book>"}, Ways: []string{"your connected account", "an app with a key"}},
		{Code: "watch", Name: "Watch", Consented: true, SeenByAll: true, HasRoutes: true, Located: true},
	}}
	return w.sources
}

const sourcePath = "/auth/devices/source"

// TestAgreeToASource agrees to collecting from a vendor without an account to connect.
func TestAgreeToASource(t *testing.T) {
	w := newWorld(t)
	s := w.sourcesOfAda()
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.get("/auth/devices").status(200).has("What you have agreed to", "Nothing is collected or shown",
		`href="/auth/devices/source?vendor=apple"`, "Since", "1 March 2026", "Seen by: Heart &lt;Book&gt;",
		"Seen by: Every clinic and app that is registered here", "with locations")
	ada.get(sourcePath+"?vendor=apple").status(200).has("What is collected", "Who sees it", "For how long",
		"Also keep where I was during workouts", "This can show where you live")
	if strings.Contains(ada.body, "checked") {
		t.Error("a choice is made for the person")
	}
	post := func(form url.Values) *browser { return ada.get(sourcePath+"?vendor=apple").post(sourcePath, form) }
	for _, sees := range []string{"", "everyone"} {
		post(url.Values{"vendor": {"apple"}, "do": {"agree"}, "sees": {sees}}).
			status(http.StatusUnprocessableEntity).has("Choose who may see the data")
	}
	if got := s.take(); got != "" {
		t.Errorf("calls %s", got)
	}
	for _, c := range []struct{ sees, locations, want string }{{"apps", "", "agree ada apple"},
		{"all", "", "agree ada apple shared"}, {"apps", "yes", "agree ada apple locations"}} {
		post(url.Values{"vendor": {"apple"}, "do": {"agree"}, "sees": {c.sees}, "locations": {c.locations}}).
			status(200).at("/auth/devices").has("Your consent is recorded")
		if got := s.take(); got != c.want {
			t.Errorf("calls %s, want %s", got, c.want)
		}
	}
	// A vendor that sends no routes is not asked about.
	ada.get(sourcePath + "?vendor=oura")
	if strings.Contains(ada.body, "Where you went") {
		t.Error("the page asks about routes that do not exist")
	}
	ada.get(sourcePath + "?vendor=pebble").status(404).has("knows no such source")
}

// TestWithdrawASource ends the consent for one vendor, or for locations alone.
func TestWithdrawASource(t *testing.T) {
	w := newWorld(t)
	s := w.sourcesOfAda()
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.get(sourcePath+"?vendor=oura").status(200).has("Collected since", "1 March 2026", "Heart &lt;Book&gt;",
		"your connected account, an app with a key", "Keep it", "Delete it", "cannot be undone",
		"already received are not deleted")
	if strings.Contains(ada.body, "checked") {
		t.Error("a choice is made for the person")
	}
	post := func(form url.Values) *browser { return ada.get(sourcePath+"?vendor=oura").post(sourcePath, form) }
	for _, data := range []string{"", "all"} {
		post(url.Values{"vendor": {"oura"}, "do": {"withdraw"}, "data": {data}}).
			status(http.StatusUnprocessableEntity).has("Choose whether to keep or delete the data")
	}
	post(url.Values{"vendor": {"oura"}, "do": {"everything"}}).status(http.StatusBadRequest)
	post(url.Values{"vendor": {"oura"}, "do": {"locate"}}).status(http.StatusBadRequest).has("sends no locations")
	if got := s.take(); got != "" {
		t.Errorf("calls %s", got)
	}
	for _, c := range []struct{ do, data, vendor, want, text string }{
		{"withdraw", "keep", "oura", "keep ada oura", "is kept"},
		{"withdraw", "delete", "oura", "erase ada oura", "is being deleted"},
		{"unlocate", "", "watch", "unlocate ada watch", "no longer keeps where you were"},
		{"locate", "", "watch", "locate ada watch", "also keeps where you were"},
	} {
		post(url.Values{"vendor": {c.vendor}, "do": {c.do},
			"data": {c.data}}).status(200).at("/auth/devices").has(c.text)
		if got := s.take(); got != c.want {
			t.Errorf("calls %s, want %s", got, c.want)
		}
	}
}

// TestSourcesAreProtected checks that only the signed-in patient can decide, and only
// from the pages.
func TestSourcesAreProtected(t *testing.T) {
	w := newWorld(t)
	s := w.sourcesOfAda()
	form := url.Values{"vendor": {"apple"}, "do": {"agree"}, "sees": {"all"}}
	nobody := w.browser()
	nobody.get(sourcePath + "?vendor=apple").at("/auth/signin")
	nobody.get("/auth/signin").post(sourcePath, form).at("/auth/signin")
	dora := w.browser()
	dora.enroll(w.invite("dora", "Dr. Dora Doc", "practitioner"))
	dora.get(sourcePath + "?vendor=apple").status(http.StatusForbidden)
	dora.get("/auth/").post(sourcePath, form).status(http.StatusForbidden)
	ada := w.browser()
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.headers["Sec-Fetch-Site"] = "cross-site"
	ada.get("/auth/").post(sourcePath, form).status(http.StatusForbidden)
	if got := s.take(); got != "" {
		t.Errorf("calls %s", got)
	}
}

// TestSourcesInBrowser runs the pages in a real browser.
func TestSourcesInBrowser(t *testing.T) {
	w := newWorld(t)
	s := w.sourcesOfAda()
	p := newChrome(t, w).Person()
	p.Open(w.invite("ada", "Ada Beispiel", "patient")).Click("form button.primary",
		"Choose how you sign in").Click(`button[data-passkey=create]`, "The passkey is ready")
	p.Open("/auth/devices").Wait("What you have agreed to").Check("sources")
	p.Click(`a[href$="source?vendor=apple"]`, "What is collected").Check("source-agree")
	chrome.Eval[int](p, `document.querySelector("input[name=sees][value=apps]").click(), 0`)
	chrome.Eval[int](p, `document.querySelector("input[name=locations]").click(), 0`)
	p.Click("main form button.primary", "Your consent is recorded")
	if got := s.take(); got != "agree ada apple locations" {
		t.Errorf("calls %s", got)
	}
	p.Open(sourcePath + "?vendor=watch").Wait("Where you went").Check("source-agreed")
	chrome.Eval[int](p, `document.querySelector("input[name=data]").removeAttribute("required"), 0`)
	p.Click("main form button.danger", "Choose whether to keep or delete").Check("source-wrong")
	chrome.Eval[int](p, `document.querySelector("input[name=data][value=delete]").click(), 0`)
	p.Click("main form button.danger", "is being deleted")
	if got := s.take(); got != "erase ada watch" {
		t.Errorf("calls %s", got)
	}
}
