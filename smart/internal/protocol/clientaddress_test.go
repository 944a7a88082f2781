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

// TestClientAddressBehindProxy: the trail names the address that a trusted proxy
// vouches for, for a token and for a look alike; a stranger's word, and what a
// client says to the proxy, is nothing.
func TestClientAddressBehindProxy(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	trust := func(p clientaddr.Proxies) {
		w.handler.mu.Lock()
		defer w.handler.mu.Unlock()
		next := w.handler.h
		if h, ok := next.(clientaddr.Handler); ok {
			next = h.Next
		}
		w.handler.h = clientaddr.Handler{Trusted: p, Header: clientaddr.XForwardedFor, Next: next}
	}
	ask := func(says string) {
		t.Helper()
		s, out, _ := w.postForm(token.Path, back,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}},
			func(r *http.Request) { r.Header.Set("X-Forwarded-For", says) })
		if s != 200 {
			t.Fatal(s, out)
		}
		r := must(http.NewRequest("GET", w.base+"/fhir/Patient/p1", nil))
		r.Header.Set("Authorization", "Bearer "+out["access_token"].(string))
		r.Header.Set("X-Forwarded-For", says)
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
	if ask("198.51.100.1"); count("198.51.100.1") != 0 || count("127.0.0.1") == 0 {
		t.Error("a stranger's word is believed")
	}
	before := count("127.0.0.1")
	trust(clientaddr.Proxies{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")})
	ask("203.0.113.66, 198.51.100.2, 192.0.2.7")
	if n, spoofed, peer := count("198.51.100.2"), count("203.0.113.66"), count("127.0.0.1"); n != 2 ||
		spoofed != 0 || peer != before {
		t.Errorf("%d events of the client, %d of what it claimed, %d more of the proxy", n, spoofed, peer-before)
	}
	if ask("198.51.100.3, not an address"); count("127.0.0.1") != before+2 || count("198.51.100.3") != 0 {
		t.Error("a broken value is not the proxy's own address")
	}
}
