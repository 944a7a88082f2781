package protocol

import (
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

const offline = "openid offline_access launch/patient patient/*.rs"

// TestRefresh checks the refresh of tokens for every authentication method, and
// that a refresh can narrow the scope but not extend it.
func TestRefresh(t *testing.T) {
	w := newWorld(t)
	for _, method := range []client.Method{client.None, client.SecretBasic, client.PrivateKeyJWT} {
		c := w.app(method, nil)
		first := w.authorize(c, offline)
		w.clock.add(20 * time.Minute)
		if s := w.read(first["access_token"], "Patient/p1"); s != 401 {
			t.Error("expired access token:", s)
		}
		s, second := w.refresh(c, first["refresh_token"], nil)
		if s != 200 || second["scope"] != offline || second["patient"] != "p1" || second["id_token"] == nil ||
			second["refresh_token"] == first["refresh_token"] {
			t.Fatal(method, s, second)
		}
		if s := w.read(second["access_token"], "Observation/o1"); s != 200 {
			t.Error(s)
		}
		s, third := w.refresh(c, second["refresh_token"], url.Values{"scope": {"patient/Patient.rs"}})
		if s != 200 || third["scope"] != "patient/Patient.rs" || third["id_token"] != nil {
			t.Fatal(s, third)
		}
		if a, b := w.read(third["access_token"], "Patient/p1"),
			w.read(third["access_token"], "Observation/o1"); a != 200 || b != 403 {
			t.Error("narrowed token:", a, b)
		}
		s, fourth := w.refresh(c, third["refresh_token"], nil)
		if s != 200 || fourth["scope"] != offline {
			t.Error("a narrowed refresh narrowed the authorization:", s, fourth)
		}
		if s, out := w.refresh(c, fourth["refresh_token"], url.Values{"scope": {"user/*.rs"}}); s != 400 ||
			out["error"] != "invalid_scope" {
			t.Error("wider scope:", s, out)
		}
		if s, _ := w.refresh(w.app(method, nil), fourth["refresh_token"], nil); s != 400 {
			t.Error("another client:", s)
		}
		w.reopen()
		if s, out := w.refresh(c, fourth["refresh_token"], nil); s != 200 {
			t.Error("after refused refreshes and a restart:", s, out)
		}
	}
	c := w.app(client.None, nil)
	narrowed := w.authorize(c, "offline_access launch/patient patient/*.rs user/*.rs")
	must(w.clients.Change(t.Context(), c.ID, func(c *client.Client) error {
		c.Scope = "offline_access launch/patient patient/Observation.rs"
		return nil
	}))
	if s, out := w.refresh(c, narrowed["refresh_token"], nil); s != 200 ||
		out["scope"] != "offline_access launch/patient patient/Observation.rs" {
		t.Error("client with fewer scopes:", s, out)
	}
	c = w.app(client.None, nil)
	if out := w.authorize(c, "patient/*.rs"); out["refresh_token"] != nil {
		t.Error("a refresh token was issued without offline_access")
	}
	for _, bad := range []string{"", "x", "a.b.c", unknownRefreshToken} {
		if s, out := w.refresh(c, bad, nil); s != 400 || out["error"] != "invalid_grant" &&
			out["error"] != "invalid_request" {
			t.Errorf("%q: %d %v", bad, s, out)
		}
	}
}

// unknownRefreshToken is a well-formed refresh token that was never issued.
const unknownRefreshToken = "aaaaaaaaaaaaaaaaaaaaaaaaaa.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA"

// TestReuseEndsAuthorization checks that the use of a replaced refresh token
// ends the authorization with all its tokens, because either the client or an
// attacker has a copy. A forged refresh token ends nothing.
func TestReuseEndsAuthorization(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	for name, after := range map[string]int{"previous token": 1, "older token": 3} {
		first := w.authorize(c, offline)
		last := first
		for range after {
			w.clock.add(time.Minute)
			s, out := w.refresh(c, last["refresh_token"], nil)
			if s != 200 {
				t.Fatal(s, out)
			}
			last = out
		}
		w.clock.add(authz.RetryGrace + time.Second)
		if s, out := w.refresh(c, first["refresh_token"], nil); s != 400 || out["error"] != "invalid_grant" {
			t.Errorf("%s: %d %v", name, s, out)
		}
		if s, _ := w.refresh(c, last["refresh_token"], nil); s != 400 {
			t.Errorf("%s: the current refresh token is still valid: %d", name, s)
		}
		if s := w.read(last["access_token"], "Patient/p1"); s != 401 {
			t.Errorf("%s: the access token is still valid: %d", name, s)
		}
	}
	// A forged token of the authorization ends nothing.
	out := w.authorize(c, offline)
	forged := out["refresh_token"].(string)[:27] + unknownRefreshToken[27:]
	if s, _ := w.refresh(c, forged, nil); s != 400 {
		t.Error(s)
	}
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 200 {
		t.Error("a forged token ended the authorization:", s)
	}
}

// TestGracePeriodIsForIdenticalRetry checks that within the grace period the same
// request gets the same response, and another request ends the authorization.
func TestGracePeriodIsForIdenticalRetry(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	first := w.authorize(c, offline)
	_, second := w.refresh(c, first["refresh_token"], nil)
	w.clock.add(authz.RetryGrace)
	if s, again := w.refresh(c, first["refresh_token"], nil); s != 200 || !reflect.DeepEqual(again, second) {
		t.Fatal(s, again)
	}
	if s, third := w.refresh(c, second["refresh_token"], nil); s != 200 {
		t.Fatal(s, third)
	}
	// A request with another scope is not a retry.
	first = w.authorize(c, offline)
	_, second = w.refresh(c, first["refresh_token"], nil)
	if s, _ := w.refresh(c, first["refresh_token"], url.Values{"scope": {"patient/Patient.rs"}}); s != 400 {
		t.Error(s)
	}
	if s, _ := w.refresh(c, second["refresh_token"], nil); s != 400 {
		t.Error("the authorization is still valid:", s)
	}
	// If the clock goes back by no more than the high-water mark covers, a retry
	// still gets the same response.
	ahead := func(d time.Duration) (first, second m) {
		first = w.authorize(c, offline)
		w.clock.add(d)
		s, second := w.refresh(c, first["refresh_token"], nil)
		if s != 200 {
			t.Fatal(s)
		}
		w.clock.add(-d)
		w.reopen()
		return first, second
	}
	first, second = ahead(5 * time.Minute)
	if s, again := w.refresh(c, first["refresh_token"], nil); s != 200 || !reflect.DeepEqual(again, second) {
		t.Error(s, again)
	}
	// If it goes back further, a retry cannot be told from a copy and is refused.
	// The current token stays valid.
	first, second = ahead(time.Hour)
	s, third := w.refresh(c, second["refresh_token"], nil)
	if s != 200 {
		t.Error(s, third)
	}
	if s, _ := w.refresh(c, first["refresh_token"], nil); s != 400 {
		t.Error("replaced token after the clock went back by an hour:", s)
	}
}

// TestConcurrentRefreshesHaveOneWinner checks that a thousand concurrent
// refreshes rotate the token once and get the same response.
func TestConcurrentRefreshesHaveOneWinner(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	first := w.authorize(c, offline)
	const n = 1000
	var wg sync.WaitGroup
	var mu sync.Mutex
	responses, status := map[string]int{}, map[int]int{}
	limit := make(chan struct{}, 100)
	for range n {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			s, out := w.refresh(c, first["refresh_token"], nil)
			mu.Lock()
			defer mu.Unlock()
			status[s]++
			if s == 200 {
				responses[out["access_token"].(string)+out["refresh_token"].(string)]++
			}
		})
	}
	wg.Wait()
	if len(responses) != 1 || status[200] != n {
		t.Fatal(len(responses), status)
	}
	as, err := w.tokens.Authorizations(t.Context(), "u1")
	if err != nil || len(as) != 1 {
		t.Fatal(as, err)
	}
}

// TestLifetimes checks the idle and the absolute lifetime of authorizations.
func TestLifetimes(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	idle := w.authorize(c, offline)
	used := w.authorize(c, offline)
	for range 2 {
		w.clock.add(authz.IdleLife - time.Hour)
		s, out := w.refresh(c, used["refresh_token"], nil)
		if s != 200 {
			t.Fatal("within 90 days of use:", s, out)
		}
		used = out
	}
	if s, _ := w.refresh(c, idle["refresh_token"], nil); s != 400 {
		t.Error("after 90 days without use:", s)
	}
	w.clock.add(3 * time.Hour)
	if s, _ := w.refresh(c, used["refresh_token"], nil); s != 400 {
		t.Error("after 180 days:", s)
	}
	online := w.authorize(c, "online_access launch/patient patient/*.rs")
	if online["refresh_token"] == nil {
		t.Fatal(online)
	}
	w.clock.add(authz.SessionLife - time.Minute)
	s, out := w.refresh(c, online["refresh_token"], nil)
	if s != 200 || out["expires_in"] != 60.0 {
		t.Fatal("within the session:", s, out)
	}
	w.clock.add(time.Minute)
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Error("after the longest session:", s)
	}
}

// TestRightsAreCheckedPerRequest checks that a change of the person's roles,
// account or authorization, or of the client, affects the next request.
func TestRightsAreCheckedPerRequest(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	out := w.authorize(c, "launch/patient patient/*.rs user/*.rs offline_access")
	read := func(want int, name string) {
		t.Helper()
		if s := w.read(out["access_token"], "Practitioner/d1"); s != want {
			t.Errorf("%s: %d, want %d", name, s, want)
		}
	}
	read(200, "with the role practitioner")
	w.roles = []string{"reader"}
	read(403, "with another role")
	if s := w.read(out["access_token"], "Observation/o3"); s != 200 {
		t.Error("resource that the new role allows:", s)
	}
	w.roles = []string{}
	read(403, "without a role")
	w.roles = nil
	read(200, "with the original role")
	w.accountEnded = true
	read(401, "after the account has ended")
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Error("refresh after the account has ended:", s)
	}
	w.accountEnded = false
	as := must(w.tokens.Authorizations(t.Context(), "u1"))
	if len(as) != 1 || as[0].ClientID != c.ID || as[0].Context.Patient != "p1" || !as[0].Offline {
		t.Fatal(as)
	}
	if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u2", as[0].ID); fhir.KindOf(err) != fhir.NotFound {
		t.Error("revocation by another person:", err)
	}
	read(200, "before the revocation")
	if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u1", as[0].ID); err != nil {
		t.Fatal(err)
	}
	read(401, "after the revocation")
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Error("refresh after the revocation:", s)
	}
	if as := must(w.tokens.Authorizations(t.Context(), "u1")); len(as) != 0 {
		t.Error(as)
	}
	out = w.authorize(c, "patient/*.rs launch/patient")
	if err := w.clients.Disable(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	read(401, "token of a disabled client")
}

// TestRefreshWithoutClientID checks that a public client may send its refresh
// token without a client_id, as fhirclient does, and that other clients may
// not.
func TestRefreshWithoutClientID(t *testing.T) {
	w := newWorld(t)
	refreshWithoutClient := func(tok any) (int, m) {
		s, out, _ := w.postForm(token.Path, client.Client{Method: "unauthenticated"},
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tok)}}, nil)
		return s, out
	}
	first := w.authorize(w.app(client.None, nil), "offline_access patient/*.rs")["refresh_token"]
	s, out := refreshWithoutClient(first)
	if s != 200 || w.read(out["access_token"], "Patient/p1") != 200 {
		t.Fatal(s, out)
	}
	w.clock.add(time.Minute)
	if s, again := refreshWithoutClient(first); s != 400 || again["error"] != "invalid_grant" ||
		w.read(out["access_token"], "Patient/p1") != 401 {
		t.Errorf("a second use does not end the authorization: %d %v", s, again)
	}
	for _, method := range []client.Method{client.SecretBasic, client.SecretPost, client.PrivateKeyJWT} {
		c := w.app(method, nil)
		got := w.authorize(c, "offline_access patient/*.rs")
		if s, out := refreshWithoutClient(got["refresh_token"]); s != 401 || out["error"] != "invalid_client" {
			t.Errorf("%s: %d %v", method, s, out)
		}
		if s, out := w.refresh(c, got["refresh_token"], nil); s != 200 {
			t.Errorf("%s, authenticated: %d %v", method, s, out)
		}
	}
	for _, tok := range []string{"", "x", fmt.Sprint(first) + "x",
		strings.Repeat("a", 26) + "." + strings.Repeat("b", 43) + "." + strings.Repeat("c", 22)} {
		if s, out := refreshWithoutClient(tok); s != 401 && s != 400 {
			t.Errorf("%q: %d %v", tok, s, out)
		}
	}
}
