package cloud_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
)

// TestAddress checks which URLs an operator may state.
func TestAddress(t *testing.T) {
	for _, c := range []struct {
		stated, want string
		allowHTTP    bool
	}{
		{"", "https://documented.example", false},
		{"https://a.example/", "https://a.example", false},
		{"https://a.example:8443/x", "https://a.example:8443/x", false},
		{"http://127.0.0.1:80", "http://127.0.0.1:80", false},
		{"http://[::1]:80", "http://[::1]:80", false},
		{"http://vendor.localhost", "http://vendor.localhost", false},
		{"http://vendor", "", false},
		{"http://vendor", "http://vendor", true},
		{"http://127.0.0.1.example", "", false},
		{"http://localhost.example", "", false},
		{"ftp://a.example", "", true},
		{"a.example", "", false},
		{"https:a.example", "", false},
		{"https://user:canary@a.example", "", false},
		{"https://a.example?canary", "", false},
		{"https://a.example?", "", false},
		{"https://a.example#canary", "", false},
		{"https://a example", "", false},
	} {
		cfg := cloud.Config{Options: map[string]string{}}
		if c.allowHTTP {
			cfg.Options["allow-http"] = "true"
		}
		got, err := cfg.Address("the token URL", c.stated, "https://documented.example")
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v", c.stated, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "the token URL")) {
			t.Errorf("%q: %v", c.stated, err)
		}
	}
}

// TestSent checks that a request to a closed port counts as not sent.
func TestSent(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}))
	base := server.URL
	get := func() *cloud.Error {
		rq, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/secret?canary", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = cloud.Do(&http.Client{}, rq, time.Now(), nil)
		e, ok := errors.AsType[*cloud.Error](err)
		if !ok || e.Problem != cloud.Unavailable || strings.Contains(err.Error(), "canary") {
			t.Fatalf("%v", err)
		}
		return e
	}
	if e := get(); !e.Sent {
		t.Errorf("a lost answer: %v", e)
	}
	server.Close()
	if e := get(); e.Sent {
		t.Errorf("a refused connection: %v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &cloud.Client{HTTP: http.DefaultClient, Base: base, Clock: time.Now}
	if _, err := c.Get(ctx, "/", nil); !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("%v", err)
	}
}

// TestFor checks that a vendor's facts do not replace those of the client.
func TestFor(t *testing.T) {
	c := &cloud.Client{Token: "t"}
	classify := func(int, http.Header, []byte) *cloud.Error { return nil }
	got := c.For("https://a.example", classify)
	if got.Base != "https://a.example" || got.Classify == nil || got.Token != "t" || c.Base != "" || c.Classify != nil {
		t.Errorf("%+v", got)
	}
	if again := got.For("https://b.example", nil); again.Base != "https://a.example" || again.Classify == nil {
		t.Errorf("%+v", again)
	}
}

// TestRetryAfter checks both forms of the header, and its limit.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "17": 17 * time.Second, " 17 ": 17 * time.Second, "-1": 0, "1e3": 0, "999999999": 24 * time.Hour,
		"99999999999999999999": 0, "Sun, 01 Mar 2026 12:00:30 GMT": 30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT": 0, "Sun, 01 Mar 2099 11:00:00 GMT": 24 * time.Hour,
	} {
		h := http.Header{"Retry-After": {value}}
		if got := cloud.RetryAfter(h, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

// TestDates checks that the window of dates covers every time zone.
func TestDates(t *testing.T) {
	from, to := time.Date(2026, 3, 10, 11, 0, 0, 0, time.UTC), time.Date(2026, 3, 10, 11, 0, 0, 0, time.UTC)
	first, last := cloud.Dates(from, to)
	for offset := -12 * 60; offset <= 14*60; offset += 15 {
		local := from.In(time.FixedZone("", offset*60)).Format(time.DateOnly)
		if local < first.Format(time.DateOnly) || local >= last.Format(time.DateOnly) {
			t.Errorf("offset %d min: %s is not in %v to %v", offset, local, first, last)
		}
	}
}
