package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/audit"
)

// fakeCloud is a cloud.Vendor with an authorization server that grants every request.
type fakeCloud struct {
	server  *httptest.Server
	account string
	revoked chan string
}

func newFakeCloud(t *testing.T) *fakeCloud {
	f := &fakeCloud{account: "account-1", revoked: make(chan string, 10)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"at","refresh_token":"rt","token_type":"bearer","expires_in":3600,` +
			`"scope":"daily"}`))
	})
	mux.HandleFunc("POST /revoke", func(_ http.ResponseWriter, r *http.Request) { f.revoked <- r.FormValue("token") })
	f.server = httptest.NewServer(mux)
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeCloud) Code() string            { return "oura" }
func (f *fakeCloud) Streams() []cloud.Stream { return nil }
func (f *fakeCloud) Budget() cloud.Budget    { return cloud.Budget{} }

func (f *fakeCloud) OAuth() cloud.OAuth {
	return cloud.OAuth{AuthURL: f.server.URL + "/authorize", TokenURL: f.server.URL + "/token",
		RevokeURL: f.server.URL + "/revoke", ClientID: "client", ClientSecret: "secret",
		Scopes: []cloud.Scope{{Name: "daily", Words: "your days"},
			{Name: "heart", Words: "your heart rate", Optional: true}}}
}

func (f *fakeCloud) Account(context.Context, *cloud.Client) ([]string, error) {
	return []string{f.account}, nil
}

func (f *fakeCloud) Page(context.Context, *cloud.Client, cloud.Query) (cloud.Page, error) {
	return cloud.Page{}, nil
}

// connectFake configures a fake cloud and connects the account of a patient.
func connectFake(t *testing.T, s *services, patient string) (*fakeCloud, link.Link) {
	t.Helper()
	f := newFakeCloud(t)
	s.links.Vendors, s.links.HTTP = []cloud.Vendor{f}, f.server.Client()
	to, err := s.links.Begin(t.Context(), patient, "oura", "session")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.links.Complete(t.Context(), audit.Caller{}, "session",
		link.Answer{State: u.Query().Get("state"), Code: "code"})
	if err != nil {
		t.Fatal(err)
	}
	return f, l
}

// call sends a request to the admin socket's handler and decodes the answer.
func call(t *testing.T, s *services, method, target, body string, out any) int {
	t.Helper()
	h := (&admin.Server{Ops: operations{s}, Log: s.log}).Handler(admin.Operator{Name: "uid:0"})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			t.Fatal(err)
		}
	}
	return w.Code
}

// late is a progress of late links.
type late struct{ at time.Time }

func (l late) LastData(context.Context, link.Link) (time.Time, bool, error) { return l.at, true, nil }

func TestLinkCommands(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	_, l := connectFake(t, s, "ada")
	last := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	s.progress = late{last}
	var list admin.Links
	for target, want := range map[string]int{"/link": 1, "/link?patient=ada": 1, "/link?patient=ben": 0} {
		if code := call(t, s, "GET", target, "", &list); code != http.StatusOK || len(list.Links) != want {
			t.Errorf("%s: %d, %+v", target, code, list)
		}
	}
	var one admin.Link
	if code := call(t, s, "GET", "/link/show?id="+l.ID, "", &one); code != http.StatusOK || one.Patient != "ada" ||
		one.Vendor != "oura" || one.Status != "working" || !one.Late || !one.LastData.Equal(last) || one.Consented ||
		len(one.Missing) != 1 || one.Missing[0] != "heart" {
		t.Errorf("%d, %+v", code, one)
	}
	call(t, s, "POST", "/patient", `{"id":"ada","given":"Ada","family":"Beispiel"}`, &admin.ID{})
	call(t, s, "POST", "/consent/grant", `{"patient":"ada","vendor":"oura"}`, &admin.ID{})
	if call(t, s, "GET", "/link/show?id="+l.ID, "", &one); !one.Consented {
		t.Error("the consent is not shown")
	}
}

// TestUnlinkCommitsOnce checks that the command ends the connection and records the
// AuditEvent in one commit. The later commit only notes that the vendor has revoked
// the access.
func TestUnlinkCommitsOnce(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	f, l := connectFake(t, s, "ada")
	commits := watchCommits(t, s)
	if code := call(t, s, "POST", "/link/unlink", `{"id":"`+l.ID+`"}`, &admin.ID{}); code != http.StatusOK {
		t.Fatal(code)
	}
	if got := <-f.revoked; got != "rt" {
		t.Errorf("revoked %q", got)
	}
	if got := commits.take(); len(got) != 2 || got[0].leaves != 1 || got[1].leaves != 0 {
		t.Errorf("commits %+v, want one with an AuditEvent and one without", got)
	}
	if _, err := s.links.Get(t.Context(), l.ID); err == nil {
		t.Error("the link remains")
	}
	if code := call(t, s, "POST", "/link/unlink", `{"id":"`+l.ID+`"}`, nil); code != http.StatusNotFound {
		t.Errorf("second time: %d", code)
	}
}
