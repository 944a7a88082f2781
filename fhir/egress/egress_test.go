package egress

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"pulsegate/fhir"
)

func TestPublic(t *testing.T) {
	for _, c := range []struct {
		addr string
		want bool
	}{
		{"8.8.8.8", true}, {"2606:4700::1111", true}, {"::ffff:8.8.8.8", true},
		{"127.0.0.1", false}, {"127.255.0.3", false}, {"::1", false}, {"::ffff:127.0.0.1", false},
		{"10.0.0.1", false}, {"172.16.0.1", false}, {"172.31.255.255", false}, {"192.168.1.1", false},
		{"::ffff:10.0.0.1", false}, {"100.64.0.1", false}, {"100.100.100.200", false},
		{"169.254.169.254", false}, {"fe80::1", false}, {"fe80::1%eth0", false}, {"fd00:ec2::254", false},
		{"fc00::1", false}, {"224.0.0.1", false}, {"ff02::1", false}, {"0.0.0.0", false}, {"::", false},
		{"255.255.255.255", false}, {"240.0.0.1", false}, {"192.0.0.192", false}, {"192.0.2.1", false},
		{"198.18.0.1", false}, {"198.51.100.7", false}, {"203.0.113.9", false}, {"168.63.129.16", false},
		{"64:ff9b::7f00:1", false}, {"2002:7f00:1::", false}, {"2001:0:1::", false}, {"2001:db8::1", false},
		{"::127.0.0.1", false}, {"2001:4860:4860::8888", true},
	} {
		if got := public(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("Public(%s) = %v", c.addr, got)
		}
	}
}

func TestCheck(t *testing.T) {
	loop := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, c := range []struct {
		p    Policy
		url  string
		want bool
	}{
		{Policy{}, "https://example.org/hook", true},
		{Policy{}, "http://example.org/hook", false},
		{Policy{}, "https://127.0.0.1/hook", false},
		{Policy{}, "https://[::1]/hook", false},
		{Policy{}, "https://[::ffff:169.254.169.254]/latest", false},
		{Policy{}, "https://u:p@example.org/", false},
		{Policy{}, "ftp://example.org/", false},
		{Policy{}, "file:///etc/passwd", false},
		{Policy{}, "https:///x", false},
		{Policy{}, "https:example.org", false},
		{Policy{}, "/relative", false},
		{Policy{AllowPrivate: loop}, "https://127.0.0.1/hook", true},
		{Policy{AllowPrivate: loop}, "http://127.0.0.1/hook", false},
		{Policy{AllowPrivate: loop, AllowHTTP: true}, "http://127.0.0.1/hook", true},
		{Policy{AllowPrivate: loop, AllowHTTP: true}, "http://8.8.8.8/hook", false},
		{Policy{AllowHTTP: true}, "http://127.0.0.1/hook", false},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		err = c.p.Check(u)
		if (err == nil) != c.want {
			t.Errorf("Check(%s) with %+v: %v", c.url, c.p, err)
		}
		if err != nil && (!errors.Is(err, ErrRefused) || fhir.KindOf(err) != fhir.Unprocessable) {
			t.Errorf("Check(%s): %v is not a refusal", c.url, err)
		}
	}
}

// TestDialTimeRefusal: a name that resolves to a refused address passes Check, but
// connecting fails and nothing reaches the listener.
func TestDialTimeRefusal(t *testing.T) {
	hits := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	defer srv.Close()
	u, err := url.Parse(strings.Replace(srv.URL, "127.0.0.1", "localhost", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTPS_PROXY", srv.URL)
	if err := (Policy{}).Check(u); err != nil {
		t.Fatalf("a name is judged at the dial: %v", err)
	}
	_, err = New(Policy{}).Get(u.String())
	if !errors.Is(err, ErrRefused) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if err := (Policy{}).checkHost(context.Background(), nil, u); !errors.Is(err, ErrRefused) {
		t.Fatalf("CheckHost: %v", err)
	}
	if hits != 0 {
		t.Fatalf("%d requests reached a refused address", hits)
	}
}

func TestAllowedNoRedirectLimits(t *testing.T) {
	inner := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter,
		*http.Request) {
		t.Error("redirect followed")
	}))
	defer inner.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, inner.URL, http.StatusFound)
		case "/exact":
			_, err := io.WriteString(w, strings.Repeat("x", 16))
			if err != nil {
				t.Error(err)
			}
		default:
			_, err := io.WriteString(w, strings.Repeat("x", 17))
			if err != nil {
				t.Error(err)
			}
		}
	}))
	defer srv.Close()
	c := New(Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true,
		MaxResponse: 16})
	get := func(path string) (int, string, error) {
		t.Helper()
		resp, err := c.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	if code, _, _ := get("/redirect"); code != http.StatusFound {
		t.Errorf("redirect answered %d", code)
	}
	if _, b, err := get("/exact"); err != nil || len(b) != 16 {
		t.Errorf("exact: %d bytes, %v", len(b), err)
	}
	if _, _, err := get("/large"); !errors.Is(err, ErrResponseTooLarge) {
		t.Errorf("large: %v", err)
	}
}
