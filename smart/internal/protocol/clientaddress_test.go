package protocol

import (
	"net/http"
	"net/netip"
	"net/url"
	"testing"

	"pulsegate/fhir/access"
	"pulsegate/fhir/clientaddr"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/oauth/token"
)

// TestClientAddressBehindProxy checks that the AuditEvents of a token request
// and of a read contain the address that a trusted proxy vouches for. Headers
// from untrusted addresses, and addresses that the client adds to the header,
// are ignored.
func TestClientAddressBehindProxy(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	trust := func(trusted clientaddr.Proxies) {
		w.handler.mu.Lock()
		defer w.handler.mu.Unlock()
		next := w.handler.h
		if h, ok := next.(clientaddr.Handler); ok {
			next = h.Next
		}
		w.handler.h = clientaddr.Handler{Trusted: trusted, Header: clientaddr.XForwardedFor, Next: next}
	}
	send := func(forwardedFor string) {
		t.Helper()
		s, out, _ := w.postForm(token.Path, back,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}},
			func(r *http.Request) { r.Header.Set("X-Forwarded-For", forwardedFor) })
		if s != 200 {
			t.Fatal(s, out)
		}
		r := must(http.NewRequest("GET", w.base+"/fhir/Patient/p1", nil))
		r.Header.Set("Authorization", "Bearer "+out["access_token"].(string))
		r.Header.Set("X-Forwarded-For", forwardedFor)
		res := must(w.browser.Do(r))
		if err := res.Body.Close(); err != nil || res.StatusCode != 200 {
			t.Fatal(res.Status, err)
		}
	}
	count := func(address string) (n int) {
		q := must(search.Parse("AuditEvent", [][2]string{{"address", address}, {"_count", "1000"}},
			search.ParseOptions{}))
		if err := w.store.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
			func(*store.Found) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	trust(clientaddr.Proxies{netip.MustParsePrefix("192.0.2.0/24")})
	if send("198.51.100.1"); count("198.51.100.1") != 0 || count("127.0.0.1") == 0 {
		t.Error("X-Forwarded-For from an untrusted address is used")
	}
	before := count("127.0.0.1")
	trust(clientaddr.Proxies{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")})
	send("203.0.113.66, 198.51.100.2, 192.0.2.7")
	if n, spoofed, peer := count("198.51.100.2"), count("203.0.113.66"), count("127.0.0.1"); n != 2 ||
		spoofed != 0 || peer != before {
		t.Errorf("%d events with the client's address, %d with the claimed one, %d more with the proxy's", n,
			spoofed, peer-before)
	}
	if send("198.51.100.3, not an address"); count("127.0.0.1") != before+2 || count("198.51.100.3") != 0 {
		t.Error("a malformed header does not fall back to the proxy's address")
	}
}
