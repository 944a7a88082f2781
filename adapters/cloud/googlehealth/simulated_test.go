package googlehealth_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/cloudtest"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/simulate"
	simulated "pulsegate/adapters/simulate/googlehealth"
)

const redirect = "https://pulsegate.example/callback"

// world is a vendor that is connected to a simulated cloud.
type world struct {
	t      *testing.T
	clock  *simulate.Clock
	server *simulated.Server
	vendor cloud.Notifier
	client *cloud.Client

	mu     sync.Mutex
	events []cloud.Event // guarded by mu
}

// newWorld links an account of a simulated cloud.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, clock: simulate.NewClock(nil, now, 0)}
	hookServer := httptest.NewServer(http.HandlerFunc(w.receive))
	t.Cleanup(hookServer.Close)
	// Google sends webhooks to the URL of the hook only.
	direct := &http.Client{Transport: redirecting(hookServer.URL)}
	server, err := simulated.New(simulated.Options{
		Seed: 7, Wearers: 10, PerMinute: -1, Start: now.AddDate(0, 0, -10), Clock: w.clock, Project: "123456",
		HTTP:    direct,
		Clients: []simulated.Client{{ID: "client", Secret: "secret", RedirectURIs: []string{redirect}}},
		ServiceAccounts: []simulated.ServiceAccount{
			{Email: "robot@project.example", KeyID: "key-1", Key: &rsaKey().PublicKey}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	base := serve(t, server.ServeHTTP)
	c := config(base)
	c.Clock = w.clock.Now
	c.AuthURL = base + "/o/oauth2/v2/auth"
	c.Options["webhook-keys-url"] = base + "/googlehealthapi/webhooks/webhooks_public_keyset.json"
	c.Options["service-account-file"] = accountKey(t, base+"/token")
	c.Options["project-number"] = "123456"
	delete(c.Options, "scopes")
	w.vendor = vendor(t, c)
	w.client = &cloud.Client{HTTP: http.DefaultClient, Token: w.link(server.Accounts()[0]), Clock: w.clock.Now}
	return w
}

type redirecting string

// RoundTrip implements http.RoundTripper.
func (r redirecting) RoundTrip(rq *http.Request) (*http.Response, error) {
	to, err := url.Parse(string(r))
	if err != nil {
		return nil, err
	}
	out := rq.Clone(rq.Context())
	out.URL.Scheme, out.URL.Host = to.Scheme, to.Host
	return http.DefaultTransport.RoundTrip(out)
}

// receive serves the webhook.
func (w *world) receive(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Error(err)
	}
	n := notification(body)
	n.Header, n.Method, n.Now = r.Header, r.Method, w.clock.Now()
	receipt, _ := w.vendor.Receive(r.Context(), n) // the status decides
	if receipt.Store {
		events, err := w.vendor.Events(body)
		if err != nil {
			w.t.Error(err)
		}
		w.mu.Lock()
		w.events = append(w.events, events...)
		w.mu.Unlock()
	}
	rw.WriteHeader(receipt.Status)
}

// link gives consent for an account and returns the access token.
func (w *world) link(account string) string {
	w.t.Helper()
	const verifier = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
	sum := sha256.Sum256([]byte(verifier))
	o := w.vendor.OAuth()
	var scopes []string
	for _, s := range o.Scopes {
		scopes = append(scopes, s.Name)
	}
	form := url.Values{"client_id": {"client"}, "redirect_uri": {redirect}, "response_type": {"code"}, "state": {"s"},
		"scope": {strings.Join(scopes, " ")}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"account":        {account}, "decision": {"allow"}}
	for k, v := range o.Params {
		form.Set(k, v)
	}
	direct := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := direct.PostForm(o.AuthURL, form)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = r.Body.Close()
	to, err := r.Location()
	if err != nil {
		w.t.Fatal(err)
	}
	r, err = direct.PostForm(o.TokenURL, url.Values{"grant_type": {"authorization_code"},
		"code": {to.Query().Get("code")}, "redirect_uri": {redirect}, "client_id": {"client"},
		"client_secret": {"secret"}, "code_verifier": {verifier}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.Token == "" {
		w.t.Fatalf("status %d, %v", r.StatusCode, err)
	}
	return answer.Token
}

// points reads a window and returns its items in canonical form.
func (w *world) points(q cloud.Query) map[string]bool {
	w.t.Helper()
	out := map[string]bool{}
	for {
		p, err := w.vendor.Page(w.t.Context(), w.client, q)
		if err != nil {
			w.t.Fatalf("%s: %v", q.Stream.Name, err)
		}
		in := adapters.Input{Format: q.Stream.Format, Body: bytes.NewReader(p.Body), Received: now}
		if err := fitbit.New().Decode(w.t.Context(), in, adaptertest.NewRecorder()); err != nil {
			w.t.Errorf("%s: %v", q.Stream.Name, err)
		}
		var reply struct{ DataPoints []json.RawMessage }
		if err := json.Unmarshal(p.Body, &reply); err != nil {
			w.t.Fatalf("%s: %v", q.Stream.Name, err)
		}
		for _, raw := range reply.DataPoints {
			out[canonical(w.t, raw)] = true
		}
		if q.Cursor = p.Next; q.Cursor == "" {
			return out
		}
	}
}

// canonical returns a point with sorted members.
func canonical(t *testing.T, raw []byte) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestComplete checks that reading a window of a simulated cloud states everything in it
// by the stream's span, and by the start for streams of days.
func TestComplete(t *testing.T) {
	w := newWorld(t)
	checked := map[string]int{}
	for i, account := range w.server.Accounts() {
		w.client.Token = w.link(account)
		for _, s := range w.vendor.Streams() {
			// The time zone matters for the window of exercises.
			if s.Span != cloud.Snapshot && (i == 0 || s.Name == "exercise") {
				w.complete(account, &s, checked)
			}
		}
	}
	if len(checked) < 20 {
		t.Errorf("only these types were checked: %v", checked)
	}
}

// complete checks some windows of a stream and counts the points in them by type.
func (w *world) complete(account string, s *cloud.Stream, checked map[string]int) {
	w.t.Helper()
	truth := w.server.Truth(account, s.Name)
	windows := 2
	if s.Name == "exercise" {
		windows = 8
	}
	for offset := range windows {
		from := now.Truncate(24*time.Hour).AddDate(0, 0, -9+offset)
		if s.Span != cloud.Days {
			from = from.Add(7*time.Hour + 20*time.Minute)
		}
		to := from.Add(24 * time.Hour)
		held := w.points(cloud.Query{Stream: s, From: from, To: to})
		if slices.Contains(strings.Fields(rollupTypes), s.Name) {
			continue // Truth has only points
		}
		for _, r := range truth {
			if within(w.t, s, &r, from, to) {
				checked[s.Name]++
				if !held[canonical(w.t, r.JSON)] {
					w.t.Errorf("%s: the day from %v lacks %s", s.Name, from, r.JSON)
				}
			}
		}
	}
}

// within reports whether a point is in a window of a stream.
func within(t *testing.T, s *cloud.Stream, r *simulated.Record, from, to time.Time) bool {
	t.Helper()
	at := r.Time
	if s.Span == cloud.Ends {
		var p struct {
			Sleep struct{ Interval struct{ EndTime time.Time } }
		}
		if err := json.Unmarshal(r.JSON, &p); err != nil || p.Sleep.Interval.EndTime.IsZero() {
			t.Fatalf("%s, %v", r.JSON, err)
		}
		at = p.Sleep.Interval.EndTime
	}
	day := at.Format(time.DateOnly)
	if r.Key == day { // a daily value has no instant
		return day >= from.Format(time.DateOnly) && day < to.Format(time.DateOnly)
	}
	return !at.Before(from) && at.Before(to) ||
		s.Span == cloud.Days && day >= from.Format(time.DateOnly) && day < to.Format(time.DateOnly)
}

// TestSimulated subscribes at a simulated cloud and receives events about the data of
// five days, with a change of Google's key.
func TestSimulated(t *testing.T) {
	w := newWorld(t)
	ids, err := w.vendor.Account(t.Context(), w.client)
	if err != nil || !slices.Contains(ids, w.server.Accounts()[0]) {
		t.Errorf("account %q, %v", ids, err)
	}
	for {
		next, err := w.vendor.Subscribe(t.Context(), hook)
		if err != nil {
			t.Fatal(err)
		}
		if next.Sub(w.clock.Now()) > time.Hour {
			break
		}
		w.clock.Set(next)
	}
	const steps = 5 * 24 * 2
	for i := range steps {
		w.clock.Set(w.clock.Now().Add(30 * time.Minute))
		if i == steps/2 {
			w.server.RotateKey()
		}
		if _, err := w.server.Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	count := map[string]int{}
	for _, e := range w.events {
		cloudtest.CheckEvent(t, w.vendor, e)
		if !slices.Contains(ids, e.Account) {
			t.Errorf("event of %q", e.Account)
		}
		count[e.Stream]++
	}
	for _, s := range []string{"sleep", "steps", "daily-resting-heart-rate", "total-calories"} {
		if count[s] == 0 {
			t.Errorf("no events of %s: %v", s, count)
		}
	}
	if stats := w.server.Stats(); stats.Sent != stats.Accepted {
		t.Errorf("%d of %d notifications were accepted", stats.Accepted, stats.Sent)
	}
}
