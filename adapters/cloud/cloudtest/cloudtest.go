// Package cloudtest tests that a Vendor keeps the contract of package cloud. Run reads
// every stream from a simulated vendor that the test supplies, shows it documented
// failures and hostile answers, and sends it genuine and forged notifications.
package cloudtest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud"
)

// Suite describes a vendor to Run.
type Suite struct {
	// New returns the vendor. All its URLs must be below url.
	New func(url string) (cloud.Vendor, error)
	// API is a simulated vendor that follows the vendor's documents. It has data of
	// every stream between From and To, and at least one stream with several pages.
	API http.Handler
	// Token is the access token that API accepts.
	Token string
	// Account holds the ids that cloud.Vendor.Account returns.
	Account []string
	Adapter adapters.Adapter
	Now     time.Time
	From    time.Time
	To      time.Time
	// Answers are failures as the vendor documents them.
	Answers []Answer
	// TokenAnswer is an answer of the token endpoint as the vendor documents it, with
	// Token and the first id of Account. It is needed if OAuth.Unwrap or OAuth.Account
	// is set.
	TokenAnswer string
	// Webhook is nil if the vendor is no cloud.Notifier.
	Webhook *Webhook
}

// Answer is a failed answer and what to make of it.
type Answer struct {
	Name   string
	Status int
	Header map[string]string
	Body   string
	Want   cloud.Problem
	Reason string
	Wait   time.Duration
}

// maxPages bounds the pages of one stream.
const maxPages = 200

// Run runs all tests.
func Run(t *testing.T, s Suite) {
	t.Run("facts", s.facts)
	t.Run("token", s.token)
	t.Run("streams", s.streams)
	t.Run("windows", s.windows)
	t.Run("repetition", s.repetition)
	t.Run("failures", s.failures)
	t.Run("hostile", s.hostile)
	if s.Webhook != nil {
		t.Run("webhook", s.webhook)
	}
}

// Serve serves h until the test ends.
func Serve(t testing.TB, h http.Handler) *httptest.Server {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server
}

// start serves h and returns a vendor for it with a client.
func (s *Suite) start(t *testing.T, h http.Handler) (cloud.Vendor, *cloud.Client) {
	t.Helper()
	server := Serve(t, h)
	v, err := s.New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud.Client{HTTP: server.Client(), Token: s.Token, Clock: func() time.Time { return s.Now }}
	if v.OAuth().Account != nil && len(s.Account) > 0 {
		c.Account = s.Account[0]
	}
	return v, c
}

func (s *Suite) facts(t *testing.T) {
	v, _ := s.start(t, s.API)
	if v.Code() != s.Adapter.Vendor() {
		t.Errorf("code %q, but the adapter is %q", v.Code(), s.Adapter.Vendor())
	}
	if _, ok := v.(cloud.Notifier); ok != (s.Webhook != nil) {
		t.Error("a Notifier needs Webhook, and only a Notifier")
	}
	o := v.OAuth()
	for _, u := range []string{o.AuthURL, o.TokenURL} {
		if !strings.HasPrefix(u, "http") {
			t.Errorf("URL %q is not absolute", u)
		}
	}
	var scopes []string
	for _, sc := range o.Scopes {
		if sc.Name == "" || sc.Words == "" || slices.Contains(scopes, sc.Name) {
			t.Errorf("scope %+v has no name or no words, or occurs twice", sc)
		}
		scopes = append(scopes, sc.Name)
	}
	if o.Granted != nil {
		if got := o.Granted(scopes); !slices.Equal(got, scopes) {
			t.Errorf("of the scopes asked for, %q count as granted: %q", scopes, got)
		}
		if got := o.Granted([]string{"unknown", ""}); len(got) != 0 {
			t.Errorf("unknown scopes count as %q", got)
		}
	}
	if b := v.Budget(); b.Application.Requests <= 0 && b.Account.Requests <= 0 {
		t.Error("the vendor has no limit on requests")
	}
	s.streamFacts(t, v, scopes)
}

// streamFacts checks what is known of the streams without reading them.
func (s *Suite) streamFacts(t *testing.T, v cloud.Vendor, scopes []string) {
	names := map[string]bool{}
	for _, st := range v.Streams() {
		if st.Name == "" || names[st.Name] {
			t.Errorf("stream %q has no name or occurs twice", st.Name)
		}
		names[st.Name] = true
		if st.Scope != "" && !slices.Contains(scopes, st.Scope) {
			t.Errorf("%s: scope %q is not asked for", st.Name, st.Scope)
		}
		if st.Every <= 0 {
			t.Errorf("%s is never polled", st.Name)
		}
		if (st.Chunk > 0) == (st.Span == cloud.Snapshot) || st.Span == cloud.Days && st.Chunk%(24*time.Hour) != 0 {
			t.Errorf("%s: chunk %v", st.Name, st.Chunk)
		}
		base, _, _ := strings.Cut(st.Format, ":")
		if !slices.ContainsFunc(s.Adapter.Formats(), func(f adapters.Format) bool { return f.Name == base }) {
			t.Errorf("%s: the adapter has no format %q", st.Name, st.Format)
		}
	}
}

// pages reads a stream to its end.
func (s *Suite) pages(t *testing.T, v cloud.Vendor, c *cloud.Client, st *cloud.Stream) []cloud.Page {
	t.Helper()
	q := cloud.Query{Stream: st}
	if st.Span != cloud.Snapshot {
		q.From, q.To = s.From, s.To
		if q.To.Sub(q.From) > st.Chunk {
			q.From = q.To.Add(-st.Chunk)
		}
	}
	var out []cloud.Page
	for {
		p, err := v.Page(t.Context(), c, q)
		if err != nil {
			t.Fatalf("%s, page %d: %v", st.Name, len(out)+1, err)
		}
		out = append(out, p)
		if p.Next == "" {
			return out
		}
		if len(out) == maxPages {
			t.Fatalf("%s does not end after %d pages", st.Name, maxPages)
		}
		q.Cursor = p.Next
	}
}

// streams checks that every stream is read to its end and that the adapter decodes each
// page.
func (s *Suite) streams(t *testing.T) {
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+s.Token {
			t.Errorf("%s: wrong Authorization", r.URL.Path)
		}
		if strings.Contains(r.URL.RawQuery, s.Token) {
			t.Errorf("%s: the token is in the query", r.URL.Path)
		}
		s.API.ServeHTTP(w, r)
	})
	v, c := s.start(t, bare)
	ids, err := v.Account(t.Context(), c)
	if err != nil || !slices.Equal(ids, s.Account) {
		t.Errorf("account %q, %v; want %q", ids, err, s.Account)
	}
	most := 0
	for _, st := range v.Streams() {
		pages := s.pages(t, v, c, &st)
		most = max(most, len(pages))
		items := 0
		for i, p := range pages {
			items += p.Items
			rec := adaptertest.NewRecorder()
			err := s.Adapter.Decode(t.Context(), adapters.Input{Name: "page", Format: st.Format,
				Body: strings.NewReader(string(p.Body)), Received: s.Now}, rec)
			if err != nil {
				t.Errorf("%s, page %d does not decode: %v", st.Name, i+1, err)
			}
			covered(t, &st, rec)
		}
		if items == 0 {
			t.Errorf("%s: no items", st.Name)
		}
	}
	if most < 2 {
		t.Error("no stream has several pages")
	}
}

// failures checks what the documented failures mean, for the account and each stream.
func (s *Suite) failures(t *testing.T) {
	general := []Answer{
		{Name: "a limit", Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "17"},
			Want: cloud.Throttled, Wait: 17 * time.Second},
		{Name: "a limit until a date", Status: http.StatusTooManyRequests, Want: cloud.Throttled, Wait: time.Minute,
			Header: map[string]string{"Retry-After": s.Now.Add(time.Minute).UTC().Format(http.TimeFormat)}},
		{Name: "an expired token", Status: http.StatusUnauthorized, Want: cloud.Unauthorized},
		{Name: "an outage", Status: http.StatusBadGateway, Want: cloud.Unavailable},
	}
	for _, a := range append(general, s.Answers...) {
		t.Run(a.Name, func(t *testing.T) {
			v, c := s.start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for k, val := range a.Header {
					w.Header().Set(k, val)
				}
				w.WriteHeader(a.Status)
				_, _ = w.Write([]byte(a.Body)) // the client may have gone
			}))
			check := func(where string, err error) {
				t.Helper()
				e, ok := errors.AsType[*cloud.Error](err)
				if !ok {
					t.Fatalf("%s: %T is not a *cloud.Error", where, err)
				}
				if e.Problem != a.Want || e.Status != a.Status || e.Reason != a.Reason || e.RetryAfter != a.Wait {
					t.Errorf("%s: %v, reason %q, wait %v; want %v, reason %q, wait %v", where,
						e, e.Reason, e.RetryAfter, a.Want, a.Reason, a.Wait)
				}
				if strings.Contains(err.Error(), s.Token) {
					t.Errorf("%s: the token is in the error", where)
				}
			}
			_, err := v.Account(t.Context(), c)
			check("account", err)
			for _, st := range v.Streams() {
				_, err := v.Page(t.Context(), c, cloud.Query{Stream: &st, From: s.From, To: s.To})
				check(st.Name, err)
			}
		})
	}
}
