package link_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir"
)

func TestLinkingFlow(t *testing.T) {
	for _, rotates := range []bool{true, false} {
		t.Run(fmt.Sprintf("rotates=%t", rotates), func(t *testing.T) {
			w := newWorld(t, rotates)
			l := w.connect("p1")
			if l.Patient != "p1" || l.Vendor != "ring" || l.Status != link.Working ||
				!slices.Equal(l.Accounts, []string{"account-1"}) || l.Issuer != w.srv.URL+"/token" ||
				!slices.Equal(l.Scopes, []string{"daily", "heart"}) || len(l.Missing) > 0 ||
				!l.Created.Equal(w.clock.Now()) || !l.Connected.Equal(w.clock.Now()) {
				t.Errorf("link %+v", l)
			}
			for _, patient := range []string{"", "p1"} {
				if all, err := w.links.List(t.Context(), patient); err != nil || len(all) != 1 || all[0].ID != l.ID {
					t.Errorf("List(%q): %v, %v", patient, all, err)
				}
			}
			if all, err := w.links.List(t.Context(), "p2"); err != nil || len(all) > 0 {
				t.Errorf("links of another patient: %v, %v", all, err)
			}
			if id, err := w.links.ByAccount(t.Context(), "ring", "account-1"); err != nil || id != l.ID {
				t.Errorf("ByAccount: %q, %v", id, err)
			}
			first := w.mustToken(l.ID, "")
			if again := w.mustToken(l.ID, ""); again != first {
				t.Errorf("a valid token was replaced by %s", again)
			}
			w.clock.Add(59*time.Minute + time.Second)
			second := w.mustToken(l.ID, "")
			w.clock.Add(time.Minute)
			third := w.mustToken(l.ID, second)
			if first == second || second == third {
				t.Error("tokens were not refreshed")
			}
			if n := w.srv.count("/token", "refresh_token"); n != 2 {
				t.Errorf("%d refreshes, want 2", n)
			}
			if w.audited(`"link-account"`) != 1 || w.audited(l.ID) != 1 {
				t.Error("no AuditEvent names the change and the link")
			}
			if n := w.audited("account-1"); n > 0 {
				t.Error("an AuditEvent names the account")
			}
			if len(w.notes) != 1 || w.notes[0].ID != l.ID {
				t.Errorf("notifications %v", w.notes)
			}
			if left := w.keys("link/pending/"); len(left) > 0 {
				t.Errorf("flows remain: %v", left)
			}
		})
	}
}

func TestAuthorizationRequestHasPKCE(t *testing.T) {
	w := newWorld(t, true)
	a := w.browse("p1", session)
	w.srv.set(func() { w.srv.codes[a.Code].challenge = "the challenge of another browser" })
	_, err := w.complete(a)
	w.refused(err, fhir.Unavailable, "did not complete")
}

func TestStateIsBoundToItsSession(t *testing.T) {
	w := newWorld(t, true)
	for name, change := range map[string]func(a *link.Answer) (session string){
		"unknown":         func(a *link.Answer) string { a.State += "x"; return session },
		"empty":           func(a *link.Answer) string { a.State = ""; return session },
		"another session": func(*link.Answer) string { return "session-of-eve" },
		"no session":      func(*link.Answer) string { return "" },
		"expired":         func(*link.Answer) string { w.clock.Add(10 * time.Minute); return session },
	} {
		a := w.browse("p1", session)
		who := change(&a)
		_, err := w.links.Complete(t.Context(), by, who, a)
		if w.keep(err); err == nil || fhir.KindOf(err) != fhir.Unprocessable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := w.srv.count("/token", ""); n > 0 {
		t.Errorf("%d codes were redeemed", n)
	}
	a := w.browse("p1", session)
	if _, err := w.complete(a); err != nil {
		t.Fatal(err)
	}
	_, err := w.complete(a)
	w.refused(err, fhir.Unprocessable, "already completed")
	if n := w.srv.count("/token", ""); n != 1 {
		t.Errorf("%d codes were redeemed, want 1", n)
	}
	if all, err := w.links.List(t.Context(), ""); err != nil || len(all) != 1 {
		t.Errorf("links %v, %v", all, err)
	}
}

func TestRefusalsOnTheVendorsPage(t *testing.T) {
	w := newWorld(t, true)
	for code, want := range map[string]fhir.Kind{"access_denied": fhir.Forbidden, "server_error": fhir.Unprocessable,
		"<script>": fhir.Unprocessable, "": fhir.Unprocessable} {
		a := w.browse("p1", session)
		a.Code, a.Error = "", code
		_, err := w.complete(a)
		w.refused(err, want, "")
		if _, err := w.complete(a); err == nil || !strings.Contains(err.Error(), "already completed") {
			t.Errorf("%s: the state can be used again: %v", code, err)
		}
	}
	if n := w.srv.count("/token", ""); n > 0 {
		t.Errorf("%d codes were redeemed", n)
	}
	if _, err := w.links.Begin(t.Context(), "p1", "other", session); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("unknown vendor: %v", err)
	}
}

func TestUntickedScopes(t *testing.T) {
	w := newWorld(t, true)
	w.srv.unticked = []string{"heart"}
	l := w.connect("p1")
	if !slices.Equal(l.Scopes, []string{"daily"}) || !slices.Equal(l.Missing, []string{"heart"}) {
		t.Errorf("scopes %v, missing %v", l.Scopes, l.Missing)
	}
	if l.Covers(&cloud.Stream{Scope: "heart"}) || !l.Covers(&cloud.Stream{Scope: "daily"}) ||
		!l.Covers(&cloud.Stream{}) {
		t.Error("Covers disagrees with the granted scopes")
	}
	w.srv.unticked = nil
	w.srv.silent = true // RFC 6749 5.1: then everything was granted
	if l = w.connect("p1"); len(l.Missing) > 0 {
		t.Errorf("missing %v", l.Missing)
	}
	a := w.browse("p1", session)
	a.Scope = "daily" // the redirect states it
	if l, err := w.complete(a); err != nil || !slices.Equal(l.Missing, []string{"heart"}) {
		t.Errorf("%v, %v", l.Missing, err)
	}
	w.srv.silent = false
	w.srv.unticked = []string{"daily"}
	w.srv.account = "account-2"
	before := w.srv.live()
	_, err := w.complete(w.browse("p1", session))
	w.refused(err, fhir.Forbidden, "your days")
	if n := w.srv.live(); n != before {
		t.Errorf("%d grants are live, want %d: a useless grant was not revoked", n, before)
	}
}

func TestAccountFeedsOneRecord(t *testing.T) {
	w := newWorld(t, true)
	w.srv.account = "new-id/with%slash old-id"
	l := w.connect("p1")
	_, err := w.complete(w.browse("p2", session))
	w.refused(err, fhir.Unprocessable, "another person’s record")
	if n := w.srv.live(); n != 1 {
		t.Errorf("%d grants are live, want that of p1 alone", n)
	}
	w.mustToken(l.ID, "")
	w.srv.account = "old-id"
	_, err = w.complete(w.browse("p2", session))
	w.refused(err, fhir.Unprocessable, "another person’s record")
	if all, err := w.links.List(t.Context(), "p2"); err != nil || len(all) > 0 {
		t.Errorf("links of p2: %v, %v", all, err)
	}
	if err := w.links.Unlink(t.Context(), by, l.ID, false); err != nil {
		t.Fatal(err)
	}
	if l := w.connect("p2"); l.Patient != "p2" {
		t.Errorf("after unlinking: %+v", l)
	}
}

// TestAccountOfAnotherPatientAtARevokingVendor shows that the refused attempt does not
// revoke the grants of the link that has the account.
func TestAccountOfAnotherPatientAtARevokingVendor(t *testing.T) {
	w := newWorld(t, false)
	w.vendor.revokesAll = true
	w.connect("p1")
	_, err := w.complete(w.browse("p2", session))
	w.refused(err, fhir.Unprocessable, "another person’s record")
	if n := w.srv.count("/revoke", ""); n > 0 {
		t.Errorf("%d revocations", n)
	}
}

func TestReconnectKeepsTheLink(t *testing.T) {
	w := newWorld(t, true)
	w.srv.account = "a b"
	first := w.connect("p1")
	access, err := w.links.Token(t.Context(), first.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.links.Refused(t.Context(), first.ID, "another"); cloud.ProblemOf(err) != cloud.Unavailable {
		t.Errorf("the link has other tokens than the refused one: %v", err)
	}
	if err := w.links.Refused(t.Context(), first.ID, access); cloud.ProblemOf(err) != cloud.Unauthorized {
		t.Fatal(err)
	}
	if l := w.link(first.ID); l.Status != link.Reconnect {
		t.Fatalf("status %s", l.Status)
	}
	if changed, err := w.links.SetStatus(t.Context(), first.ID, link.Working, ""); err != nil || changed {
		t.Errorf("a link that must be connected again became working: %t, %v", changed, err)
	}
	w.clock.Add(time.Hour)
	w.srv.account = "b c"
	second := w.connect("p1")
	if second.ID != first.ID || second.Status != link.Working || !second.Created.Equal(first.Created) ||
		!second.Connected.Equal(w.clock.Now()) {
		t.Errorf("connected again: %+v, first %+v", second, first)
	}
	w.mustToken(second.ID, "")
	for account, want := range map[string]string{"a": "", "b": first.ID, "c": first.ID} {
		if id, err := w.links.ByAccount(t.Context(), "ring", account); err != nil || id != want {
			t.Errorf("account %s: %q, %v", account, id, err)
		}
	}
}

// TestLinksOfOneAccountAreMerged: an account can have an old and a new id, and a link
// of each can exist before the vendor tells that they are the same.
func TestLinksOfOneAccountAreMerged(t *testing.T) {
	w := newWorld(t, true)
	w.srv.account = "old"
	first := w.connect("p1")
	w.srv.account = "new"
	second := w.connect("p1")
	w.srv.account = "old new"
	l := w.connect("p1")
	if l.ID != first.ID {
		t.Errorf("id %s, want %s", l.ID, first.ID)
	}
	if all, err := w.links.List(t.Context(), "p1"); err != nil || len(all) != 1 {
		t.Errorf("links %v, %v", all, err)
	}
	for key := range w.keys("link/") {
		if strings.Contains(key, second.ID) {
			t.Errorf("%s remains", key)
		}
	}
	ended := slices.ContainsFunc(w.notes, func(n link.Link) bool { return n.ID == second.ID && n.Status == link.Ended })
	if !ended {
		t.Error("nobody was told that the second link has ended")
	}
}

func TestAccountThatCannotBeRead(t *testing.T) {
	w := newWorld(t, true)
	for name, api := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"outage": answer(503, ""), "cut": cut, "none": answer(200, "[]"), "not JSON": answer(200, "<html>")} {
		w.srv.api = api
		_, err := w.complete(w.browse("p1", session))
		if fhir.KindOf(err) != fhir.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		if n := w.srv.live(); n > 0 {
			t.Errorf("%s: %d grants are live", name, n)
		}
	}
}

// hostile are answers of a token endpoint with status 200 that are not usable.
func hostile(t *testing.T) map[string]string {
	body := func(access, refresh, life string) string {
		return `{"access_token":` + access + `,"refresh_token":` + refresh + `,"expires_in":` + life + `}`
	}
	long := `"` + strings.Repeat("a", 1<<15) + `"`
	bodies := map[string]string{
		"empty":                "",
		"null":                 "null",
		"truncated":            `{"access_token":"at-hostile","expires_in":3600`,
		"newline in the token": body(`"at-hostile\nX: 1"`, `"rt"`, "3600"),
		"blank in the token":   body(`"at hostile"`, `"rt"`, "3600"),
		"long access token":    body(long, `"rt"`, "3600"),
		"long refresh token":   body(`"at"`, long, "3600"),
		"number as refresh":    body(`"at-hostile"`, "7", "3600"),
		"object as token":      body("{}", `"rt"`, "3600"),
		"huge lifetime":        body(`"at-hostile"`, `"rt"`, "1e400"),
		"fraction":             body(`"at-hostile"`, `"rt"`, "0.5"),
		"other token type":     `{"access_token":"at-hostile","token_type":"mac","refresh_token":"rt","expires_in":3600}`,
		"error with 200":       `{"error":"plain-error \" text","access_token":"at-hostile","expires_in":3600}`,
		"larger than a MiB": `{"access_token":"at-hostile","expires_in":3600,"x":"` +
			strings.Repeat("a", 1<<20) + `"}`,
		"deeply nested": strings.Repeat("[", 1<<19),
	}
	if os.Getenv("PULSEGATE_FIXTURES") == "" {
		return bodies
	}
	b, err := os.ReadFile(adaptertest.Fixtures(t, "oura/oura-toolkit/auth-cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases struct {
		Responses []struct {
			Name string
			Body json.RawMessage
			Raw  string `json:"raw_body"`
		} `json:"hostile_token_responses"`
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases.Responses {
		bodies["fixture "+c.Name] = string(c.Body) + c.Raw
	}
	if len(cases.Responses) < 10 {
		t.Errorf("%d cases in the fixture", len(cases.Responses))
	}
	return bodies
}

func TestHostileTokenAnswers(t *testing.T) {
	for name, body := range hostile(t) {
		for _, content := range []string{"application/json", "text/plain", "text/html"} {
			t.Run(name+" "+content, func(t *testing.T) {
				for _, rotates := range []bool{true, false} {
					hostileAnswer(newWorld(t, rotates), content, body)
				}
			})
		}
	}
}

func hostileAnswer(w *world, content, body string) {
	l := w.connect("p1")
	before := w.keys("link/")
	hook := func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Content-Type", content)
		_, _ = rw.Write([]byte(body))
		return true
	}
	w.srv.set(func() { w.srv.token = hook })
	_, err := w.complete(w.browse("p1", session))
	w.refused(err, fhir.Unavailable, "did not complete")
	if after := w.keys("link/"); !equal(before, after) {
		w.Errorf("the exchange changed %v to %v", before, after)
	}
	w.clock.Add(time.Hour)
	_, err = w.token(w.links, l.ID, "")
	if w.srv.rotates {
		w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "answer-lost")
		if _, err = w.token(w.links, l.ID, ""); cloud.ProblemOf(err) != cloud.Unauthorized {
			w.Error(err)
		}
		if n := w.srv.count("/token", "refresh_token"); n != 1 {
			w.Errorf("%d refresh requests, want 1", n)
		}
		return
	}
	w.problem(err, cloud.Unavailable, l.ID, link.Working, "")
	w.srv.set(func() { w.srv.token = nil })
	w.mustToken(l.ID, "") // the stored refresh token is still the valid one
}

func equal(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// TestTooManyFlows checks that a patient, and a session, can begin only some linking
// flows in a time, and that others are not concerned.
func TestTooManyFlows(t *testing.T) {
	w := newWorld(t, true)
	begin := func(patient, session string) error {
		_, err := w.links.Begin(t.Context(), patient, "ring", session)
		return err
	}
	for i := range 10 {
		if err := begin("p1", fmt.Sprint("s", i)); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
	}
	err := begin("p1", "another")
	var wait interface{ RetryAfter() time.Duration }
	if fhir.KindOf(err) != fhir.TooMany || !errors.As(err, &wait) || wait.RetryAfter() <= 0 {
		t.Errorf("the patient's eleventh flow: %v", err)
	}
	if n := len(w.keys("link/pending/")); n != 10 {
		t.Errorf("%d pending flows", n)
	}
	for i := range 10 {
		if err := begin(fmt.Sprint("q", i), "one"); err != nil {
			t.Fatalf("flow %d of the session: %v", i, err)
		}
	}
	if err := begin("q", "one"); fhir.KindOf(err) != fhir.TooMany {
		t.Errorf("the session's eleventh flow: %v", err)
	}
	if err := begin("r", "two"); err != nil {
		t.Errorf("another patient: %v", err)
	}
	w.clock.Add(2 * time.Minute)
	if err := begin("p1", "another"); err != nil {
		t.Errorf("two minutes later: %v", err)
	}
}
