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

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	for _, method := range []client.Method{client.None, client.SecretBasic, client.PrivateKeyJWT} {
		c := w.app(method, nil)
		first := w.get(c, offline)
		w.clock.add(20 * time.Minute)
		if s := w.read(first["access_token"], "Patient/p1"); s != 401 {
			t.Error("an access token outlives its time:", s)
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
			t.Error("a narrowed token:", a, b)
		}
		s, fourth := w.refresh(c, third["refresh_token"], nil)
		if s != 200 || fourth["scope"] != offline {
			t.Error("a narrowed token narrowed the authorization:", s, fourth)
		}
		if s, out := w.refresh(c, fourth["refresh_token"], url.Values{"scope": {"user/*.rs"}}); s != 400 ||
			out["error"] != "invalid_scope" {
			t.Error("a wider scope:", s, out)
		}
		if s, _ := w.refresh(w.app(method, nil), fourth["refresh_token"], nil); s != 400 {
			t.Error("another client:", s)
		}
		w.reopen()
		if s, out := w.refresh(c, fourth["refresh_token"], nil); s != 200 {
			t.Error("after what was refused, and a restart:", s, out)
		}
	}
	c := w.app(client.None, nil)
	cut := w.get(c, "offline_access launch/patient patient/*.rs user/*.rs")
	must(w.reg.Change(t.Context(), c.ID, func(c *client.Client) error {
		c.Scope = "offline_access launch/patient patient/Observation.rs"
		return nil
	}))
	if s, out := w.refresh(c, cut["refresh_token"], nil); s != 200 ||
		out["scope"] != "offline_access launch/patient patient/Observation.rs" {
		t.Error("a client that lost scopes:", s, out)
	}
	c = w.app(client.None, nil)
	if out := w.get(c, "patient/*.rs"); out["refresh_token"] != nil {
		t.Error("a refresh token that nobody asked for")
	}
	for _, bad := range []string{"", "x", "a.b.c", grantLike} {
		if s, out := w.refresh(c, bad, nil); s != 400 || out["error"] != "invalid_grant" &&
			out["error"] != "invalid_request" {
			t.Errorf("%q: %d %v", bad, s, out)
		}
	}
}

const grantLike = "aaaaaaaaaaaaaaaaaaaaaaaaaa.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA"

// A replaced token is a thief's or its victim's: nobody keeps anything.
func TestReuseEndsTheFamily(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	for name, after := range map[string]int{"the one before": 1, "an old one": 3} {
		first := w.get(c, offline)
		last := first
		for range after {
			w.clock.add(time.Minute)
			s, out := w.refresh(c, last["refresh_token"], nil)
			if s != 200 {
				t.Fatal(s, out)
			}
			last = out
		}
		w.clock.add(authz.Grace + time.Second)
		if s, out := w.refresh(c, first["refresh_token"], nil); s != 400 || out["error"] != "invalid_grant" {
			t.Errorf("%s: %d %v", name, s, out)
		}
		if s, _ := w.refresh(c, last["refresh_token"], nil); s != 400 {
			t.Errorf("%s: the current token lives: %d", name, s)
		}
		if s := w.read(last["access_token"], "Patient/p1"); s != 401 {
			t.Errorf("%s: the access token lives: %d", name, s)
		}
	}
	// A guess at a family's token ends nothing.
	out := w.get(c, offline)
	guess := out["refresh_token"].(string)[:27] + grantLike[27:]
	if s, _ := w.refresh(c, guess, nil); s != 400 {
		t.Error(s)
	}
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 200 {
		t.Error("a guess ended the family:", s)
	}
}

func TestGraceIsForAnIdenticalRetry(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	first := w.get(c, offline)
	_, second := w.refresh(c, first["refresh_token"], nil)
	w.clock.add(authz.Grace)
	if s, again := w.refresh(c, first["refresh_token"], nil); s != 200 || !reflect.DeepEqual(again, second) {
		t.Fatal(s, again)
	}
	if s, third := w.refresh(c, second["refresh_token"], nil); s != 200 {
		t.Fatal(s, third)
	}
	// Another request with the same token is no retry.
	first = w.get(c, offline)
	_, second = w.refresh(c, first["refresh_token"], nil)
	if s, _ := w.refresh(c, first["refresh_token"], url.Values{"scope": {"patient/Patient.rs"}}); s != 400 {
		t.Error(s)
	}
	if s, _ := w.refresh(c, second["refresh_token"], nil); s != 400 {
		t.Error("the family lives:", s)
	}
	// Nor does a clock that goes back make a new token of an old one: as long
	// as the mark covers it, a retry gets the same answer.
	ahead := func(d time.Duration) (first, second m) {
		first = w.get(c, offline)
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
	// Beyond that nobody can tell a retry from a copy. The current token works.
	first, second = ahead(time.Hour)
	s, third := w.refresh(c, second["refresh_token"], nil)
	if s != 200 {
		t.Error(s, third)
	}
	if s, _ := w.refresh(c, first["refresh_token"], nil); s != 400 {
		t.Error("an old token, an hour before it was replaced:", s)
	}
}

// A thousand at once: one rotation; whoever else gets an answer gets that one.
func TestConcurrentRefreshesHaveOneWinner(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	first := w.get(c, offline)
	const n = 1000
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers, status := map[string]int{}, map[int]int{}
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
				answers[out["access_token"].(string)+out["refresh_token"].(string)]++
			}
		})
	}
	wg.Wait()
	if len(answers) != 1 || status[200] != n {
		t.Fatal(len(answers), status)
	}
	as, err := w.tokens.Authorizations(t.Context(), "u1")
	if err != nil || len(as) != 1 {
		t.Fatal(as, err)
	}
}

func TestLifetimes(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	idle := w.get(c, offline)
	used := w.get(c, offline)
	for range 2 {
		w.clock.add(authz.Idle - time.Hour)
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
	online := w.get(c, "online_access launch/patient patient/*.rs")
	if online["refresh_token"] == nil {
		t.Fatal(online)
	}
	w.clock.add(authz.Session - time.Minute)
	s, out := w.refresh(c, online["refresh_token"], nil)
	if s != 200 || out["expires_in"] != 60.0 {
		t.Fatal("within the session:", s, out)
	}
	w.clock.add(time.Minute)
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Error("after the longest session:", s)
	}
}

// What a person may is asked at each use: roles, account, authorization.
func TestWhatEndsEndsAtOnce(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	out := w.get(c, "launch/patient patient/*.rs user/*.rs offline_access")
	read := func(want int, what string) {
		t.Helper()
		if s := w.read(out["access_token"], "Practitioner/d1"); s != want {
			t.Errorf("%s: %d, want %d", what, s, want)
		}
	}
	read(200, "a practitioner")
	w.roles = []string{"reader"}
	read(403, "with another role")
	if s := w.read(out["access_token"], "Observation/o3"); s != 200 {
		t.Error("what the role still allows:", s)
	}
	w.roles = []string{}
	read(403, "without a role")
	w.roles = nil
	read(200, "again")
	w.gone = true
	read(401, "without an account")
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Error("a refresh without an account:", s)
	}
	w.gone = false
	as := must(w.tokens.Authorizations(t.Context(), "u1"))
	if len(as) != 1 || as[0].ClientID != c.ID || as[0].Context.Patient != "p1" || !as[0].Offline {
		t.Fatal(as)
	}
	if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u2", as[0].ID); fhir.KindOf(err) != fhir.NotFound {
		t.Error("another person revoked:", err)
	}
	read(200, "before")
	if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u1", as[0].ID); err != nil {
		t.Fatal(err)
	}
	read(401, "after the person revoked")
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Error("a refresh after the person revoked:", s)
	}
	if as := must(w.tokens.Authorizations(t.Context(), "u1")); len(as) != 0 {
		t.Error(as)
	}
	out = w.get(c, "patient/*.rs launch/patient")
	if err := w.reg.Disable(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	read(401, "of a disabled client")
}

// TestRefreshWithoutClientID: a public client may send its refresh token and
// nothing else (fhirclient does); any other client may not.
func TestRefreshWithoutClientID(t *testing.T) {
	w := newWorld(t)
	bare := func(tok any) (int, m) {
		s, out, _ := w.call(token.Path, client.Client{Method: "of nobody"},
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tok)}}, nil)
		return s, out
	}
	first := w.get(w.app(client.None, nil), "offline_access patient/*.rs")["refresh_token"]
	s, out := bare(first)
	if s != 200 || w.read(out["access_token"], "Patient/p1") != 200 {
		t.Fatal(s, out)
	}
	w.clock.add(time.Minute)
	if s, again := bare(first); s != 400 || again["error"] != "invalid_grant" ||
		w.read(out["access_token"], "Patient/p1") != 401 {
		t.Errorf("a second use does not end the family: %d %v", s, again)
	}
	for _, method := range []client.Method{client.SecretBasic, client.SecretPost, client.PrivateKeyJWT} {
		c := w.app(method, nil)
		got := w.get(c, "offline_access patient/*.rs")
		if s, out := bare(got["refresh_token"]); s != 401 || out["error"] != "invalid_client" {
			t.Errorf("%s: %d %v", method, s, out)
		}
		if s, out := w.refresh(c, got["refresh_token"], nil); s != 200 {
			t.Errorf("%s, after that: %d %v", method, s, out)
		}
	}
	for _, tok := range []string{"", "x", fmt.Sprint(first) + "x",
		strings.Repeat("a", 26) + "." + strings.Repeat("b", 43) + "." + strings.Repeat("c", 22)} {
		if s, out := bare(tok); s != 401 && s != 400 {
			t.Errorf("%q: %d %v", tok, s, out)
		}
	}
}
