package clientaddr

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// trusted lists the proxies of the tests.
var trusted = Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"),
	netip.MustParsePrefix("203.0.113.7/32")}

// seen returns the address that the next handler sees.
func seen(header, peer string, sent http.Header) string {
	out := ""
	h := Handler{Trusted: trusted, Header: header,
		Next: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { out = r.RemoteAddr })}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr, r.Header = peer, sent
	h.ServeHTTP(httptest.NewRecorder(), r)
	return out
}

func TestXForwardedFor(t *testing.T) {
	const proxy, client = "10.0.0.1:4000", "198.51.100.9:5000"
	for name, x := range map[string]struct {
		peer string
		sent []string
		want string
	}{
		"no proxy":                     {client, nil, client},
		"spoofed without a proxy":      {client, []string{"192.0.2.1"}, client},
		"a proxy that says nothing":    {proxy, nil, proxy},
		"empty":                        {proxy, []string{""}, proxy},
		"one hop":                      {proxy, []string{"192.0.2.1"}, "192.0.2.1:0"},
		"spoofed before a proxy":       {proxy, []string{"1.1.1.1, 192.0.2.1"}, "192.0.2.1:0"},
		"spoofed as a proxy":           {proxy, []string{"10.0.0.9, 192.0.2.1"}, "192.0.2.1:0"},
		"spoofed in a line of its own": {proxy, []string{"10.9.9.9", "192.0.2.1"}, "192.0.2.1:0"},
		"two proxies":                  {proxy, []string{"192.0.2.1, 10.0.0.2"}, "192.0.2.1:0"},
		"three, two lines": {proxy, []string{"1.1.1.1,192.0.2.1,203.0.113.7", "10.0.0.2"},
			"192.0.2.1:0"},
		"nobody but proxies":                {proxy, []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3:0"},
		"junk to the left is not looked at": {proxy, []string{`"<script>, , unknown, 192.0.2.1`}, "192.0.2.1:0"},
		"a port":                            {proxy, []string{"192.0.2.1:8080"}, "192.0.2.1:0"},
		"IPv6":                              {"[fd00::1]:1", []string{"2001:db8::1"}, "[2001:db8::1]:0"},
		"IPv6 with a port":                  {proxy, []string{"[2001:DB8::1]:443"}, "[2001:db8::1]:0"},
		"IPv4 in IPv6 is that proxy": {"[::ffff:10.0.0.1]:1", []string{"192.0.2.1, ::ffff:10.0.0.2"},
			"192.0.2.1:0"},
		"a name":                      {proxy, []string{"192.0.2.1, evil.example"}, proxy},
		"unknown":                     {proxy, []string{"unknown"}, proxy},
		"broken behind a trusted hop": {proxy, []string{"192.0.2.1x, 10.0.0.2"}, proxy},
		"an empty last element":       {proxy, []string{"192.0.2.1,"}, proxy},
		"a zone":                      {proxy, []string{"fe80::1%eth0"}, proxy},
		"unspecified":                 {proxy, []string{"0.0.0.0"}, proxy},
		"a leading zero":              {proxy, []string{"192.0.2.01"}, proxy},
		"brackets around IPv4":        {proxy, []string{"[192.0.2.1]"}, proxy},
		"too many hops": {proxy,
			[]string{"192.0.2.1" + strings.Repeat(",10.0.0.2", maxHops)}, proxy},
		"as many as may be": {proxy,
			[]string{"192.0.2.1" + strings.Repeat(",10.0.0.2", maxHops-1)}, "192.0.2.1:0"},
		"much before a proxy": {proxy, []string{strings.Repeat("1.1.1.1,", 8000) + "192.0.2.1"},
			"192.0.2.1:0"},
		"a peer that is no address is nobody":  {"@", []string{"192.0.2.1"}, "@"},
		"the other header is not looked at":    {proxy, nil, proxy},
		"a client that looks like its network": {"11.0.0.1:1", []string{"192.0.2.1"}, "11.0.0.1:1"},
	} {
		sent := http.Header{"Forwarded": {"for=1.1.1.1"}, "X-Real-Ip": {"1.1.1.1"}}
		if x.sent != nil {
			sent[XForwardedFor] = x.sent
		}
		if got := seen(XForwardedFor, x.peer, sent); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

func TestForwarded(t *testing.T) {
	const proxy, client = "10.0.0.1:4000", "198.51.100.9:5000"
	for name, x := range map[string]struct {
		peer string
		sent []string
		want string
	}{
		"spoofed without a proxy": {client, []string{"for=192.0.2.1"}, client},
		"one hop":                 {proxy, []string{"for=192.0.2.1;proto=https;by=10.0.0.1"}, "192.0.2.1:0"},
		"any case, any order": {proxy, []string{`proto=https;host="a,b;for=1.1.1.1";For="192.0.2.1:99"`},
			"192.0.2.1:0"},
		"IPv6":                   {proxy, []string{`for="[2001:db8::1]:4711"`}, "[2001:db8::1]:0"},
		"spoofed before a proxy": {proxy, []string{"for=1.1.1.1, for=192.0.2.1"}, "192.0.2.1:0"},
		"two proxies":            {proxy, []string{"for=1.1.1.1, for=192.0.2.1", `for="[fd00::2]"`}, "192.0.2.1:0"},
		"a quoted comma":         {proxy, []string{`for=192.0.2.1;host="x, for=1.1.1.1"`}, "192.0.2.1:0"},
		"an escaped quote":       {proxy, []string{`for=192.0.2.1;host="x\", for=1.1.1.1"`}, "192.0.2.1:0"},
		"unknown":                {proxy, []string{"for=192.0.2.1, for=unknown"}, proxy},
		"obfuscated":             {proxy, []string{"for=_hidden"}, proxy},
		"no for":                 {proxy, []string{"for=192.0.2.1, proto=https"}, proxy},
		"for twice":              {proxy, []string{"for=192.0.2.1;for=192.0.2.2"}, proxy},
		"a quote left open":      {proxy, []string{`for="x, for=192.0.2.1`}, proxy},
		"and in another line":    {proxy, []string{`for="x`, "for=192.0.2.1"}, "192.0.2.1:0"},
		"an escaped address":     {proxy, []string{`for="192.0.2\.1"`}, proxy},
		"an empty value":         {proxy, []string{"for="}, proxy},
		"no Forwarded":           {proxy, nil, proxy},
	} {
		sent := http.Header{XForwardedFor: {"1.1.1.1"}}
		if x.sent != nil {
			sent[Forwarded] = x.sent
		}
		if got := seen(Forwarded, x.peer, sent); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

// FuzzForwarded checks that for any header the result is the peer or an address in
// the header, and that elements which a client puts before a proxy's do not change
// it.
func FuzzForwarded(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "for=192.0.2.1", `for="[2001:db8::1]:1";a="\"",for=x`, ",,", `"`,
		"unknown", "10.0.0.2,192.0.2.1"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, rfc bool) {
		header, word := XForwardedFor, "192.0.2.77"
		if rfc {
			header, word = Forwarded, "for=192.0.2.77"
		}
		const peer = "10.0.0.1:4000"
		got := seen(header, peer, http.Header{header: {s}})
		if a, err := netip.ParseAddrPort(got); err != nil || got != peer && a.Port() != 0 {
			t.Errorf("%q: %q", s, got)
		}
		if got := seen(header, "198.51.100.9:1", http.Header{header: {s}}); got != "198.51.100.9:1" {
			t.Errorf("%q of a stranger: %q", s, got)
		}
		if got := seen(header, peer, http.Header{header: {s, word}}); got != "192.0.2.77:0" {
			t.Errorf("%q before a proxy's word: %q", s, got)
		}
	})
}

// TestEncrypted checks how the scheme of a client's request is determined.
func TestEncrypted(t *testing.T) {
	const proxy, client = "10.0.0.1:4000", "198.51.100.9:5000"
	proto := func(values ...string) http.Header { return http.Header{XForwardedProto: values} }
	forwarded := func(values ...string) http.Header { return http.Header{Forwarded: values} }
	noScheme := http.Header{XForwardedFor: {"192.0.2.1"}}
	for name, x := range map[string]struct {
		peer   string
		header string
		sent   http.Header
		tls    bool
		https  bool
		want   bool
	}{
		"plain":                          {peer: client, header: XForwardedFor},
		"plain, public URL https":        {peer: client, header: XForwardedFor, https: true},
		"TLS":                            {peer: client, header: XForwardedFor, tls: true, want: true},
		"claimed without a proxy":        {peer: client, header: XForwardedFor, sent: proto("https")},
		"proxy, https":                   {peer: proxy, header: XForwardedFor, sent: proto("https"), want: true},
		"proxy, HTTPS":                   {peer: proxy, header: XForwardedFor, sent: proto(" HTTPS"), want: true},
		"proxy, http":                    {peer: proxy, header: XForwardedFor, sent: proto("http"), https: true},
		"TLS from the proxy, http to it": {peer: proxy, header: XForwardedFor, sent: proto("http"), tls: true},
		"proxy, a plain hop":             {peer: proxy, header: XForwardedFor, sent: proto("https", "http")},
		"proxy, list of https":           {peer: proxy, header: XForwardedFor, sent: proto("https, https"), want: true},
		"proxy, junk":                    {peer: proxy, header: XForwardedFor, sent: proto("wss"), https: true},
		"proxy that names no scheme":     {peer: proxy, header: XForwardedFor, sent: noScheme, https: true, want: true},
		"the same without https":         {peer: proxy, header: XForwardedFor, sent: noScheme},
		"Forwarded": {peer: proxy, header: Forwarded,
			sent: forwarded("for=192.0.2.1;proto=https"), want: true},
		"Forwarded, http": {peer: proxy, header: Forwarded,
			sent: forwarded(`for=192.0.2.1;proto="http"`), https: true},
		"Forwarded, inner hop plain": {peer: proxy, header: Forwarded,
			sent: forwarded("for=192.0.2.1;proto=https, for=10.0.0.2;proto=http"), want: true},
		"Forwarded, claim to the left": {peer: proxy, header: Forwarded,
			sent: forwarded("for=1.1.1.1;proto=https, for=192.0.2.1;proto=http")},
		"Forwarded, other header": {peer: proxy, header: Forwarded, sent: proto("https")},
	} {
		got := false
		h := Handler{Trusted: trusted, Header: x.header, HTTPS: x.https,
			Next: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = Encrypted(r) })}
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr, r.Header = x.peer, x.sent
		if x.tls {
			r.TLS = &tls.ConnectionState{}
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
