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

// from sets the remote address of a request.
func from(addr string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = addr + ":4711" }
}

// withLimits returns a world with the given limits, with the server's defaults
// for zero fields.
func withLimits(t *testing.T, l token.Limits) *world {
	w := newWorld(t)
	w.limits = l
	w.open()
	return w
}

// TestRefusalsAreRecordedUpToARate checks that at most 20 refusals per second are
// recorded.
func TestRefusalsAreRecordedUpToARate(t *testing.T) {
	w := withLimits(t, token.Limits{})
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

// TestFailuresAreLimited checks that failing requests are limited per client and
// network, and that this affects neither other clients nor other networks.
func TestFailuresAreLimited(t *testing.T) {
	w := withLimits(t, token.Limits{})
	sibling := must(w.reg.Add(t.Context(),
		client.Client{Name: "Sibling", JWKS: w.jwks("e1", w.ec), Scope: "system/*.rs"}))
	fail := func(addr string) (int, http.Header) {
		s, out, h := w.post(form(w.assertion(m{"aud": fhirBase}), ""), from(addr))
		if s == 429 && (out["error"] != "temporarily_unavailable" || out["error_description"] == "") {
			t.Fatal(out)
		}
		return s, h
	}
	const addr = "2001:db8:1:2::1"
	n := 0
	for s, _ := fail(addr); s == 401; s, _ = fail(addr) {
		n++
	}
	if n != 20 {
		t.Fatalf("%d failures before the limit", n)
	}
	s, h := fail("2001:db8:1:2:ffff::9") // the same network
	if wait, err := strconv.Atoi(h.Get("Retry-After")); s != 429 || err != nil || wait < 1 {
		t.Fatal(s, h)
	}
	request := func(addr string, change m) int {
		s, _, _ := w.post(form(w.assertion(change), "system/Observation.rs"), from(addr))
		return s
	}
	if s := request(addr, nil); s != 429 {
		t.Error("valid assertion of the client that fails:", s)
	}
	if s := request(addr, m{"iss": sibling.ID, "sub": sibling.ID}); s != 200 {
		t.Error("another client at the address:", s)
	}
	if s := request("2001:db8:1:3::1", nil); s != 200 {
		t.Error("the client at another address:", s)
	}
	w.clock.Add(time.Second)
	if s := request(addr, nil); s != 200 {
		t.Error("after Retry-After:", s)
	}
}

// TestFailuresAreLimitedBehindProxy checks that behind a proxy the limit
// applies to the client address that the proxy adds, and not to the whole proxy
// or to the addresses that the client claims.
func TestFailuresAreLimitedBehindProxy(t *testing.T) {
	w := withLimits(t, token.Limits{})
	through := func(forwardedFor string) func(*http.Request) {
		return func(r *http.Request) {
			r.RemoteAddr = "10.0.0.1:443"
			r.Header.Set("X-Forwarded-For", forwardedFor)
			clientaddr.Handler{Trusted: clientaddr.Proxies{netip.MustParsePrefix("10.0.0.0/8")},
				Header: clientaddr.XForwardedFor,
				Next: http.HandlerFunc(func(_ http.ResponseWriter,
					forwarded *http.Request) {
					*r = *forwarded
				})}.ServeHTTP(nil, r)
		}
	}
	fail := func(forwardedFor string) int {
		s, _, _ := w.post(form(w.assertion(m{"aud": fhirBase}), ""), through(forwardedFor))
		return s
	}
	for i := range 20 {
		if s := fail(fmt.Sprintf("198.51.100.%d, 192.0.2.1", i)); s != 401 {
			t.Fatalf("failure %d: %d", i, s)
		}
	}
	if s := fail("203.0.113.1, 192.0.2.1"); s != 429 {
		t.Error("another claimed address evades the limit:", s)
	}
	if s := fail("192.0.2.2"); s != 401 {
		t.Error("another client behind the proxy is limited:", s)
	}
}

func TestRequestsAreLimitedByAddressAndInTotal(t *testing.T) {
	w := withLimits(t, token.Limits{Remote: 5, Global: 20})
	count := func(n int, addr func(int) string) (served int) {
		for i := range n {
			if s, _, _ := w.post(form("", ""), from(addr(i))); s != 429 {
				served++
			}
		}
		return served
	}
	if n := count(50, func(int) string { return "192.0.2.1" }); n != 10 {
		t.Errorf("%d requests from one address served", n)
	}
	if n := count(100, func(i int) string { return fmt.Sprintf("198.51.100.%d", i) }); n != 30 {
		t.Errorf("%d requests from many addresses served", n)
	}
	w.clock.Add(time.Second)
	if n := count(100, func(i int) string { return fmt.Sprintf("198.51.100.%d", i) }); n != 20 {
		t.Errorf("%d requests from many addresses served one second later", n)
	}
	w.clock.Add(-time.Hour)
	if n := count(50, func(int) string { return "192.0.2.2" }); n != 0 {
		t.Errorf("%d requests served after the clock went back", n)
	}
}
