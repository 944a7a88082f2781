package token_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"pulsegate/fhir/clientaddr"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

func from(addr string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = addr + ":4711" }
}

// defaults is a world under the limits that the server has.
func defaults(t *testing.T, l token.Limits) *world {
	w := newWorld(t)
	w.limits = l
	w.open()
	return w
}

func TestRefusalsAreRecordedUpToARate(t *testing.T) {
	w := defaults(t, token.Limits{})
	const second, limit = 300, 20
	for s := 1; s <= 3; s++ {
		for i := range second {
			status, _, _ := w.post(form("x", ""), from(fmt.Sprintf("192.0.2.%d", i%250)))
			if status != 401 {
				t.Fatalf("request %d: %d", i, status)
			}
		}
		if n := len(w.state.events); n != s*limit {
			t.Fatalf("%d events after %d seconds", n, s)
		}
		w.clock.Add(time.Second)
	}
}

func TestFailuresAreLimitedHard(t *testing.T) {
	w := defaults(t, token.Limits{})
	twin := must2(w.reg.Add(t.Context(), client.Client{Name: "Twin", JWKS: w.set("e1", w.ec), Scope: "system/*.rs"}))
	bad := func(addr string) (int, http.Header) {
		s, out, h := w.post(form(w.good(m{"aud": fhirBase}), ""), from(addr))
		if s == 429 && (out["error"] != "temporarily_unavailable" || out["error_description"] == "") {
			t.Fatal(out)
		}
		return s, h
	}
	const addr = "2001:db8:1:2::1"
	n := 0
	for s, _ := bad(addr); s == 401; s, _ = bad(addr) {
		n++
	}
	if n != 20 {
		t.Fatalf("%d failures before the limit", n)
	}
	s, h := bad("2001:db8:1:2:ffff::9") // the same network
	if wait, err := strconv.Atoi(h.Get("Retry-After")); s != 429 || err != nil || wait < 1 {
		t.Fatal(s, h)
	}
	ask := func(addr string, change m) int {
		s, _, _ := w.post(form(w.good(change), "system/Observation.rs"), from(addr))
		return s
	}
	if s := ask(addr, nil); s != 429 {
		t.Error("the client that fails, with a good assertion:", s)
	}
	if s := ask(addr, m{"iss": twin.ID, "sub": twin.ID}); s != 200 {
		t.Error("another client of the address:", s)
	}
	if s := ask("2001:db8:1:3::1", nil); s != 200 {
		t.Error("the client at another address:", s)
	}
	w.clock.Add(time.Second)
	if s := ask(addr, nil); s != 200 {
		t.Error("after Retry-After:", s)
	}
}

// Behind a proxy it is the client that is slowed down, whatever it claims, and
// not everybody who comes through the proxy.
func TestFailuresAreLimitedBehindAProxy(t *testing.T) {
	w := defaults(t, token.Limits{})
	through := func(says string) func(*http.Request) {
		return func(r *http.Request) {
			r.RemoteAddr = "10.0.0.1:443"
			r.Header.Set("X-Forwarded-For", says)
			clientaddr.Handler{Trusted: clientaddr.Proxies{netip.MustParsePrefix("10.0.0.0/8")},
				Header: clientaddr.XForwardedFor,
				Next:   http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { *r = *q })}.ServeHTTP(nil, r)
		}
	}
	fail := func(says string) int {
		s, _, _ := w.post(form(w.good(m{"aud": fhirBase}), ""), through(says))
		return s
	}
	for i := range 20 {
		if s := fail(fmt.Sprintf("198.51.100.%d, 192.0.2.1", i)); s != 401 {
			t.Fatalf("failure %d: %d", i, s)
		}
	}
	if s := fail("203.0.113.1, 192.0.2.1"); s != 429 {
		t.Error("another claim gave new guesses:", s)
	}
	if s := fail("192.0.2.2"); s != 401 {
		t.Error("somebody else behind the proxy is slowed down:", s)
	}
}

func TestRequestsAreLimitedByAddressAndInAll(t *testing.T) {
	w := defaults(t, token.Limits{Remote: 5, Global: 20})
	count := func(n int, addr func(int) string) (served int) {
		for i := range n {
			if s, _, _ := w.post(form("", ""), from(addr(i))); s != 429 {
				served++
			}
		}
		return served
	}
	if n := count(50, func(int) string { return "192.0.2.1" }); n != 10 {
		t.Errorf("%d of one address served", n)
	}
	if n := count(100, func(i int) string { return fmt.Sprintf("198.51.100.%d", i) }); n != 30 {
		t.Errorf("%d of many addresses served", n)
	}
	w.clock.Add(time.Second)
	if n := count(100, func(i int) string { return fmt.Sprintf("198.51.100.%d", i) }); n != 20 {
		t.Errorf("%d of many addresses served a second later", n)
	}
	w.clock.Add(-time.Hour)
	if n := count(50, func(int) string { return "192.0.2.2" }); n != 0 {
		t.Errorf("a clock that goes back fills the buckets: %d served", n)
	}
}
