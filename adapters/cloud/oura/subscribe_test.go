package oura_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud"
)

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func adaptersInput(format string, body []byte) adapters.Input {
	return adapters.Input{Format: format, Body: strings.NewReader(string(body)), Received: adaptertest.Received()}
}

type subscription struct {
	ID       string `json:"id"`
	Callback string `json:"callback_url"`
	Event    string `json:"event_type"`
	Type     string `json:"data_type"`
	Expires  string `json:"expiration_time"`
}

// subscriptions is a simulated store of subscriptions. It verifies each URL by a
// challenge before it accepts it.
type subscriptions struct {
	t       *testing.T
	vendor  cloud.Notifier
	all     []subscription
	made    int
	changes []string
	fail    map[string]int // status by "METHOD path"
}

// verify sends the challenge for a URL.
func (s *subscriptions) verify(callback, token string) bool {
	path, ok := strings.CutPrefix(callback, hook+"/")
	r, err := s.vendor.Receive(s.t.Context(), &cloud.Notification{
		Method: http.MethodGet, Path: path, Now: now, Callback: hook, Header: http.Header{},
		Query: url.Values{"verification_token": {token}, "challenge": {`c"1`}},
	})
	return ok && err == nil && r.Status == 200 && string(r.Body) == `{"challenge":"c\"1"}` && !r.Store
}

func (s *subscriptions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v) // the client may have gone
	}
	if r.Header.Get("x-client-id") != "client" || r.Header.Get("x-client-secret") != secret {
		answer(403, nil)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v2/webhook/subscription")
	if r.Method != http.MethodGet {
		s.changes = append(s.changes, r.Method+" "+path)
	}
	if status := s.fail[r.Method+" "+path]; status != 0 {
		answer(status, nil)
		return
	}
	var in struct {
		subscription
		Token string `json:"verification_token"`
	}
	raw, _ := io.ReadAll(r.Body) // decoding fails if reading did
	if len(raw) > 0 && json.Unmarshal(raw, &in) != nil {
		answer(422, nil)
		return
	}
	id := strings.TrimPrefix(strings.TrimPrefix(path, "/renew"), "/")
	at := slices.IndexFunc(s.all, func(x subscription) bool { return x.ID == id })
	switch {
	case r.Method == http.MethodGet && path == "":
		answer(200, s.all)
	case r.Method == http.MethodPost && path == "":
		if !s.verify(in.Callback, in.Token) {
			answer(422, nil)
			return
		}
		s.made++
		in.ID, in.Expires = fmt.Sprintf("new-%d", s.made), "2026-10-11T08:00:00.123456"
		s.all = append(s.all, in.subscription)
		answer(201, in.subscription)
	case at < 0:
		answer(404, map[string]string{"detail": "Subscription with id X not found."})
	case r.Method == http.MethodPut && strings.HasPrefix(path, "/renew/"):
		s.all[at].Expires = "2026-10-11T08:00:00"
		answer(200, s.all[at])
	case r.Method == http.MethodPut:
		if !s.verify(in.Callback, in.Token) {
			answer(422, nil)
			return
		}
		s.all[at].Callback = in.Callback
		answer(200, s.all[at])
	case r.Method == http.MethodDelete:
		s.all = slices.Delete(s.all, at, at+1)
		w.WriteHeader(204)
	}
}

// newSubscriptions returns a store for which Subscribe has been called once.
func newSubscriptions(t *testing.T) (*subscriptions, func() (time.Time, error)) {
	s := &subscriptions{t: t}
	c := config(serve(t, s.ServeHTTP))
	c.Options = map[string]string{"previous-callback": "https://old.example/oura/"}
	s.vendor = vendor(t, c)
	subscribe := func() (time.Time, error) { return s.vendor.Subscribe(t.Context(), hook+"/") }
	if next, err := subscribe(); err != nil || !next.Equal(now.Add(24*time.Hour)) {
		t.Fatalf("next %v, %v", next, err)
	}
	return s, subscribe
}

// complete checks that there is one subscription for each event of each type.
func (s *subscriptions) complete(foreign int) {
	s.t.Helper()
	have := map[string]int{}
	others := 0
	for _, x := range s.all {
		if strings.HasPrefix(x.Callback, hook+"/") {
			have[x.Callback]++
			if x.Callback != hook+"/"+x.Event+"/"+x.Type {
				s.t.Errorf("%+v", x)
			}
		} else {
			others++
		}
	}
	for c, n := range have {
		if n != 1 {
			s.t.Errorf("%d subscriptions for %s", n, c)
		}
	}
	if len(have) != 51 || others != foreign {
		s.t.Errorf("%d subscriptions of this server and %d of others, want 51 and %d", len(have), others, foreign)
	}
}

// TestSubscribe creates all subscriptions, and changes nothing the second time.
func TestSubscribe(t *testing.T) {
	s, subscribe := newSubscriptions(t)
	s.complete(0)
	s.changes = nil
	if _, err := subscribe(); err != nil || len(s.changes) != 0 {
		t.Errorf("changes %q, %v", s.changes, err)
	}
}

// TestReconcile repairs what can go wrong with subscriptions, one at a time and then
// in one call.
func TestReconcile(t *testing.T) {
	faults := []struct {
		name    string
		do      func(s *subscriptions)
		want    []string
		foreign int
	}{
		{"missing", func(s *subscriptions) { s.all = slices.Delete(s.all, 3, 4) }, []string{"POST "}, 0},
		{"expires in six days", func(s *subscriptions) { s.all[5].Expires = "2026-07-19T08:00:00" },
			[]string{"PUT /renew/" + "new-6"}, 0},
		{"expires with a zone", func(s *subscriptions) { s.all[6].Expires = "2026-07-19T10:00:00+02:00" },
			[]string{"PUT /renew/new-7"}, 0},
		{"expires at an unreadable time", func(s *subscriptions) { s.all[7].Expires = "soon" },
			[]string{"PUT /renew/new-8"}, 0},
		{"wrong path", func(s *subscriptions) { s.all[9].Callback = hook + "/x" }, []string{"PUT /new-10"}, 0},
		{"old server", func(s *subscriptions) { s.all[11].Callback = "https://old.example/oura/create/session" },
			[]string{"PUT /new-12"}, 0},
		{"duplicate", func(s *subscriptions) {
			d := s.all[13]
			d.ID, d.Expires = "double", "2026-09-01T00:00:00"
			s.all = append(s.all, d)
		}, []string{"DELETE /double"}, 0},
		{"stray", func(s *subscriptions) {
			s.all = append(s.all, subscription{"stray", hook + "/update/period_start", "update", "period_start", ""})
		}, []string{"DELETE /stray"}, 0},
		{"another server", func(s *subscriptions) {
			s.all = append(s.all, subscription{"foreign", "https://other.example/oura", "update", "sleep", ""},
				subscription{"longer", hook + "2/update/sleep", "update", "sleep", ""})
		}, nil, 2},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			s, subscribe := newSubscriptions(t)
			f.do(s)
			s.changes = nil
			if _, err := subscribe(); err != nil || !slices.Equal(s.changes, f.want) {
				t.Errorf("changes %q, %v", s.changes, err)
			}
			s.complete(f.foreign)
		})
	}
	t.Run("all", func(t *testing.T) {
		s, subscribe := newSubscriptions(t)
		foreign := 0
		for _, f := range slices.Backward(faults) { // the first one moves the others
			f.do(s)
			foreign += f.foreign
		}
		if _, err := subscribe(); err != nil {
			t.Error(err)
		}
		s.complete(foreign)
	})
}

// TestSubscribeFailures checks that a failed change holds up no other, that an expired
// subscription that has vanished is created anew, and that throttling ends the attempt.
func TestSubscribeFailures(t *testing.T) {
	for _, status := range []int{403, 404} {
		s, subscribe := newSubscriptions(t)
		s.all[5].Expires, s.all[5].Callback = "2026-07-14T08:00:00", hook+"/wrong"
		id := s.all[5].ID
		s.fail = map[string]int{"PUT /" + id: status}
		s.changes = nil
		if _, err := subscribe(); err != nil || !slices.Equal(s.changes, []string{"PUT /" + id, "POST "}) {
			t.Errorf("changes %q, %v", s.changes, err)
		}
	}
	s, subscribe := newSubscriptions(t)
	for i := range s.all[:3] {
		s.all[i].Expires = "2026-07-14T08:00:00"
	}
	s.fail = map[string]int{"PUT /renew/new-1": 500}
	next, err := subscribe()
	if cloud.ProblemOf(err) != cloud.Unavailable || !next.After(now) || next.After(now.Add(2*time.Hour)) {
		t.Errorf("next %v, %v", next, err)
	}
	if s.all[1].Expires == "2026-07-14T08:00:00" || s.all[2].Expires == "2026-07-14T08:00:00" {
		t.Error("others were not renewed")
	}
	for i := range s.all[:3] {
		s.all[i].Expires = "2026-07-14T08:00:00"
	}
	s.fail, s.changes = map[string]int{"PUT /renew/new-1": 429}, nil
	if _, err := subscribe(); cloud.ProblemOf(err) != cloud.Throttled || len(s.changes) != 1 {
		t.Errorf("changes %q, %v", s.changes, err)
	}
	for _, body := range []string{"", "{}", "null7", `[{"id":7}]`} {
		c := config(serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
		_, err := vendor(t, c).Subscribe(t.Context(), hook)
		if err == nil || cloud.ProblemOf(err) != cloud.Unavailable {
			t.Errorf("%q: %v", body, err)
		}
	}
	c := config(serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprintf(w, `[{"id":"../../x","callback_url":"%s/update/unknown","event_type":"update",`+
				`"data_type":"unknown"}]`, hook)
			return
		}
		if strings.Contains(r.URL.Path, "x") && r.Method == http.MethodDelete {
			t.Error("an id was used as a path")
		}
	}))
	if _, err := vendor(t, c).Subscribe(t.Context(), hook); err == nil {
		t.Error("an id with a path was accepted")
	}
}

// TestChallenge checks the verification token and the refusal of wrong ones.
func TestChallenge(t *testing.T) {
	v := vendor(t, config("https://oura.example"))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(hook + "/update/sleep"))
	good := hex.EncodeToString(mac.Sum(nil))
	for _, c := range []struct {
		path, token, challenge string
		status                 int
	}{
		{"update/sleep", good, "abc", 200},
		{"update/workout", good, "abc", 401},
		{"update/sleep", "", "abc", 401},
		{"update/sleep", secret, "abc", 401},
		{"update/sleep", good, "", 400},
		{"update/sleep", good, strings.Repeat("a", 2000), 400},
		{"update/unknown", good, "abc", 404},
		{"", good, "abc", 404},
		{"update/sleep/x", good, "abc", 404},
	} {
		r, err := v.Receive(t.Context(), &cloud.Notification{Method: http.MethodGet, Path: c.path, Callback: hook,
			Query: url.Values{"verification_token": {c.token}, "challenge": {c.challenge}}, Now: now})
		if r.Status != c.status || (err == nil) != (c.status == 200) || r.Store {
			t.Errorf("%+v: %+v, %v", c, r, err)
		}
	}
}

// TestEvents checks what notifications announce, that the path must agree with the body,
// and that types without a stream are acknowledged but not stored.
func TestEvents(t *testing.T) {
	v := vendor(t, config("https://oura.example"))
	for _, c := range []struct {
		operation, dataType, stream string
		deleted                     bool
	}{
		{"create", "sleep", "sleep", false}, {"update", "vo2_max", "vO2_max", false},
		{"delete", "workout", "workout", true}, {"update", "meal", "", false},
	} {
		n := message(c.operation, c.dataType, now)
		r, err := v.Receive(t.Context(), n)
		if err != nil || r.Status != 200 || r.Store != (c.stream != "") {
			t.Errorf("%+v: %+v, %v", c, r, err)
		}
		events, err := v.Events(n.Body)
		want := []cloud.Event{{Account: account, Stream: c.stream, Object: "12345abc", Deleted: c.deleted}}
		if c.stream == "" {
			want = nil
		}
		if err != nil || !slices.Equal(events, want) {
			t.Errorf("%+v: %+v, %v", c, events, err)
		}
	}
	for _, path := range []string{"create/sleep", "update/workout"} {
		n := message("update", "sleep", now)
		n.Path = path
		if r, err := v.Receive(t.Context(), n); err == nil || r.Status != 400 || r.Store {
			t.Errorf("%s: %+v, %v", path, r, err)
		}
	}
}
