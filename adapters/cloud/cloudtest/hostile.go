package cloudtest

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"pulsegate/adapters/cloud"
)

// canary occurs in hostile answers and must not occur in errors.
const canary = "canary-7351"

// hostileAnswers are answers that are never a page.
var hostileAnswers = []struct {
	name  string
	serve http.HandlerFunc
	large bool // larger than cloud.MaxAnswer
}{
	{"an empty body", body(""), false},
	{"HTML", body("<html>" + canary + "</html>"), false},
	{"a string", body(`"` + canary + `"`), false},
	{"a number", body("17"), false},
	{"null", body("null"), false},
	{"a truncated object", body(`{"id":"` + canary), false},
	{"two values", body(`{"data":[]} {"data":["` + canary + `"]}`), false},
	{"wrong types", body(`{"data":"` + canary + `","dataPoints":"` + canary + `","rollupDataPoints":7,` +
		`"pairedDevices":7,"id":7,"healthUserId":7,"name":7,"next_token":7,"nextPageToken":7}`), false},
	{"items of wrong types", body(`{"data":["` + canary + `"],"dataPoints":["` + canary + `"],` +
		`"rollupDataPoints":[7],"pairedDevices":[7],"id":[],"healthUserId":[],"name":[]}`), false},
	{"a deep structure", body(strings.Repeat(`{"data":[`, 200_000)), false},
	{"an endless answer", func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}, true},
	{"a compression bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		chunk := make([]byte, 1<<20)
		for range 4 * cloud.MaxAnswer >> 20 {
			if _, err := z.Write(chunk); err != nil {
				return
			}
		}
		_ = z.Close() // the client has gone
	}, true},
	{"broken compression", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte(canary))
	}, false},
	{"a failure with a text", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, canary, http.StatusInternalServerError)
	}, false},
	{"a failure that quotes", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"detail":"` + canary + ` says x","error":{"message":"` + canary + `","status":"x ` +
			canary + `","details":[{"reason":"no code: ` + canary + `"}]}}`))
	}, false},
	{"no HTTP", func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = buf.WriteString(canary + "\r\n\r\n")
		_ = buf.Flush()
		_ = conn.Close()
	}, false},
}

func body(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
}

// hostile checks that no answer makes a vendor panic, grow or talk.
func (s *Suite) hostile(t *testing.T) {
	for _, h := range hostileAnswers {
		t.Run(h.name, func(t *testing.T) {
			v, c := s.start(t, h.serve)
			want := ""
			if h.large {
				want = "answer-too-large"
			}
			s.refused(t, v, c, want)
		})
	}
	t.Run("a redirect", s.redirect)
	t.Run("the same page for ever", s.sameForEver)
	t.Run("no answer", s.noAnswer)
}

// refused checks that reads fail with an error that quotes nothing and has a reason, if
// want is one. Of several streams of one span, only one is read.
func (s *Suite) refused(t *testing.T, v cloud.Vendor, c *cloud.Client, want string) {
	t.Helper()
	check := func(where string, err error) {
		t.Helper()
		e, ok := errors.AsType[*cloud.Error](err)
		if !ok {
			t.Fatalf("%s: %T is not a *cloud.Error", where, err)
		}
		if p := e.Problem; p != cloud.Unavailable && p != cloud.Rejected || want != "" && e.Reason != want {
			t.Errorf("%s: %v", where, e)
		}
		for _, secret := range []string{canary, s.Token} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error quotes: %v", where, err)
			}
		}
	}
	_, err := v.Account(t.Context(), c)
	check("account", err)
	seen := map[cloud.Span]bool{}
	for _, st := range v.Streams() {
		if seen[st.Span] {
			continue
		}
		seen[st.Span] = true
		_, err := v.Page(t.Context(), c, cloud.Query{Stream: &st, From: s.From, To: s.To})
		check(st.Name, err)
	}
}

// redirect checks that the token is not carried elsewhere.
func (s *Suite) redirect(t *testing.T) {
	var followed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	v, c := s.start(t, http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	s.refused(t, v, c, "")
	if n := followed.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

// sameForEver checks that a server that repeats a page is not read for ever.
func (s *Suite) sameForEver(t *testing.T) {
	v, c := s.start(t, s.API)
	for _, st := range v.Streams() {
		if st.Span == cloud.Snapshot {
			continue
		}
		pages := s.pages(t, v, c, &st)
		if len(pages) < 2 {
			continue
		}
		v, c := s.start(t, body(string(pages[0].Body)))
		q := cloud.Query{Stream: &st, From: s.From, To: s.To}
		for range maxPages {
			p, err := v.Page(t.Context(), c, q)
			if err != nil {
				return
			}
			q.Cursor = p.Next
		}
		t.Fatalf("%s: a repeated page was read %d times", st.Name, maxPages)
	}
}

// noAnswer checks that a read ends with its context.
func (s *Suite) noAnswer(t *testing.T) {
	asked := make(chan struct{}, 1)
	v, c := s.start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server sees that the client has gone
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := v.Account(ctx, c)
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok || e.Problem != cloud.Unavailable || !e.Sent {
		t.Errorf("%v", err)
	}
}
