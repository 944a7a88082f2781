package cloudtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud"
)

// token checks what the vendor makes of the answers of its token endpoint.
func (s *Suite) token(t *testing.T) {
	v, _ := s.start(t, s.API)
	o := v.OAuth()
	if o.Unwrap == nil && o.Account == nil {
		t.Skip("the token endpoint answers as RFC 6749 prescribes")
	}
	unwrap := func(status int, body string) (int, []byte) {
		if o.Unwrap == nil {
			return status, []byte(body)
		}
		return o.Unwrap(status, []byte(body))
	}
	var answer map[string]any
	status, body := unwrap(http.StatusOK, s.TokenAnswer)
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK {
		t.Fatalf("TokenAnswer: status %d, %v", status, err)
	}
	if answer["access_token"] != s.Token {
		t.Error("TokenAnswer has another access token than Token")
	}
	if o.Account != nil {
		account := o.Account(func(name string) any { return answer[name] })
		if len(s.Account) == 0 || account != s.Account[0] {
			t.Errorf("account %q, want one of %q", account, s.Account)
		}
		for _, hostile := range []any{nil, "", "a b", "../x", strings.Repeat("7", 100), -1.0, 1e300, true, []any{"1"},
			map[string]any{"id": "1"}} {
			if got := o.Account(func(string) any { return hostile }); got != "" {
				t.Errorf("%v states the account %q", hostile, got)
			}
		}
	}
	for _, hostile := range []string{"", "null", "17", `"x"`, "[]", "{", "{}", `{"status":"0","body":7}`,
		strings.Repeat("[", 20_000)} {
		var answer struct {
			Token string `json:"access_token"`
		}
		status, body := unwrap(http.StatusOK, hostile)
		if json.Unmarshal(body, &answer) == nil && answer.Token != "" || status < 200 {
			t.Errorf("%.60q: status %d with a token", hostile, status)
		}
	}
}

// windows checks that the window of a query reaches the vendor. The requests are not
// answered.
func (s *Suite) windows(t *testing.T) {
	var requests []string
	v, c := s.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		requests = append(requests, r.URL.String()+" "+string(body))
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	for _, st := range v.Streams() {
		if st.Span == cloud.Snapshot {
			continue
		}
		ask := func(daysAgo int) string {
			requests = nil
			from := s.To.UTC().Truncate(24*time.Hour).AddDate(0, 0, -daysAgo)
			_, err := v.Page(t.Context(), c, cloud.Query{Stream: &st, From: from, To: from.AddDate(0, 0, 1)})
			if err == nil || len(requests) != 1 {
				t.Fatalf("%s: %d requests, %v", st.Name, len(requests), err)
			}
			return requests[0]
		}
		one, other := ask(3), ask(2)
		if one == other {
			t.Errorf("%s: the request does not depend on the window", st.Name)
		}
		if one != ask(3) {
			t.Errorf("%s: one window gives two requests", st.Name)
		}
	}
}

// repetition checks that reading a stream again gives the same samples, so that a poll
// that is repeated after a failure changes nothing.
func (s *Suite) repetition(t *testing.T) {
	v, c := s.start(t, s.API)
	for _, st := range v.Streams() {
		read := func() string {
			var out []byte
			for _, p := range s.pages(t, v, c, &st) {
				rec := adaptertest.NewRecorder()
				if err := s.Adapter.Decode(t.Context(), adapters.Input{Name: "page", Format: st.Format,
					Body: bytes.NewReader(p.Body), Received: s.Now}, rec); err != nil {
					t.Fatalf("%s: %v", st.Name, err)
				}
				lines, err := adaptertest.JSONLines(rec)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, lines...)
			}
			return string(out)
		}
		if first, second := read(), read(); first != second {
			t.Errorf("%s: a second read gives other samples", st.Name)
		}
	}
}

// covered checks that a stream whose windows are complete states all metrics of its
// items. A deleted item would otherwise keep the samples of the others.
func covered(t *testing.T, st *cloud.Stream, rec *adaptertest.Recorder) {
	t.Helper()
	if len(st.Types) == 0 {
		return
	}
	for _, smp := range rec.Samples {
		found := false
		for _, typ := range st.Types {
			found = found || smp.Metric == typ || strings.HasPrefix(smp.Metric, typ+".")
		}
		if !found {
			t.Errorf("%s: Types lacks %s, so its deletion goes unnoticed", st.Name, smp.Metric)
		}
	}
}
