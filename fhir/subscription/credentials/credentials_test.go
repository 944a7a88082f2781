package credentials

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
)

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestToken checks the request for a token, that the token is kept for most of its life,
// and that it goes to the configured endpoints of the configured client only.
func TestToken(t *testing.T) {
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		user, password, _ := r.BasicAuth()
		if r.Method != http.MethodPost || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "notify" ||
			user != "pg%3A1" || password != "s%2Bcret" {
			t.Errorf("%s %v %s %s", r.Method, r.Form, user, password)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"bearer","expires_in":300}`, n)
	}))
	defer s.Close()
	now := clocktest.At(time.Unix(1e9, 0))
	c, err := New(s.Client(), now.Now, []Entry{{Client: "ehr", Endpoint: "https://ehr.example/hooks",
		TokenURL: s.URL, ClientID: "pg:1", Secret: "s+cret", Scope: "notify"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, x := range []struct{ client, endpoint, want string }{
		{"ehr", "https://ehr.example/hooks", "Bearer t1"},
		{"ehr", "https://EHR.example/hooks/a?b=c", "Bearer t1"},
		{"other", "https://ehr.example/hooks", ""},
		{"ehr", "https://ehr.example/hooksandmore", ""},
		{"ehr", "https://ehr.example/other", ""},
		{"ehr", "https://ehr.example/hooks/../other", ""},
		{"ehr", "https://ehr.example/hooks/%2e%2e/other", ""},
		{"ehr", "http://ehr.example/hooks", ""},
		{"ehr", "https://ehr.example:8443/hooks", ""},
		{"ehr", "https://evil.example/hooks", ""},
	} {
		if got, err := c.Authorize(ctx, x.client, mustParse(t, x.endpoint)); err != nil || got != x.want {
			t.Errorf("%s %s: %q %v", x.client, x.endpoint, got, err)
		}
	}
	now.Add(239 * time.Second)
	if got, err := c.Authorize(ctx, "ehr", mustParse(t, "https://ehr.example/hooks")); err != nil || got != "Bearer t1" {
		t.Errorf("%q %v", got, err)
	}
	now.Add(2 * time.Second)
	if got, err := c.Authorize(ctx, "ehr", mustParse(t, "https://ehr.example/hooks")); err != nil || got != "Bearer t2" {
		t.Errorf("%q %v", got, err)
	}
}

func TestRefused(t *testing.T) {
	answer, status := "", 200
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	defer s.Close()
	for _, x := range []struct {
		status int
		answer string
	}{{200, ""}, {200, "{}"}, {401, `{"access_token":"t","token_type":"bearer"}`}, {200, `{"access_token":"t","token_type":"mac"}`},
		{200, `{"access_token":"a\r\nX: y","token_type":"bearer"}`}} {
		status, answer = x.status, x.answer
		c, err := New(s.Client(), time.Now, []Entry{{Client: "ehr", Endpoint: "https://ehr.example", TokenURL: s.URL, ClientID: "a", Secret: "hidden"}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Authorize(context.Background(), "ehr", mustParse(t, "https://ehr.example/x")); err != errToken || got != "" {
			t.Errorf("%+v: %q %v", x, got, err)
		}
	}
	for _, e := range []Entry{{}, {Client: "a", Endpoint: "x", TokenURL: "https://a", ClientID: "a", Secret: "b"},
		{Client: "a", Endpoint: "https://u:p@x", TokenURL: "https://a", ClientID: "a", Secret: "b"}} {
		if _, err := New(nil, time.Now, []Entry{e}); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%+v: %v", e, err)
		}
	}
}
