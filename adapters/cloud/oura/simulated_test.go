package oura_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/simulate"
	simulated "pulsegate/adapters/simulate/oura"
)

const redirect = "https://pulsegate.example/callback"

// link gives consent for a wearer of a simulated cloud and returns the access token.
func link(t *testing.T, o cloud.OAuth, wearer int) string {
	t.Helper()
	const verifier = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
	sum := sha256.Sum256([]byte(verifier))
	var scopes []string
	for _, s := range o.Scopes {
		scopes = append(scopes, s.Name)
	}
	form := url.Values{"client_id": {o.ClientID}, "redirect_uri": {redirect}, "response_type": {"code"}, "state": {"s"},
		"scope": {strings.Join(scopes, " ")}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"wearer":         {fmt.Sprint(wearer)}, "decision": {"approve"}}
	direct := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := direct.PostForm(o.AuthURL, form)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	to, err := r.Location()
	if err != nil {
		t.Fatal(err)
	}
	r, err = direct.PostForm(o.TokenURL, url.Values{"grant_type": {"authorization_code"},
		"code": {to.Query().Get("code")}, "redirect_uri": {redirect}, "client_id": {o.ClientID},
		"client_secret": {o.ClientSecret}, "code_verifier": {verifier}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("status %d, %v", r.StatusCode, err)
	}
	return answer.Token
}

// canonical returns a document with sorted members.
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

// TestComplete checks that reading a window states everything that a simulated cloud
// holds in the window, whether items are placed by their day or by their start, in
// several time zones.
func TestComplete(t *testing.T) {
	start := time.Date(2026, 3, 20, 0, 0, 0, 0, time.UTC)
	clock := simulate.NewClock(nil, start.AddDate(0, 0, 14), 0)
	wearers, err := simulate.Wearers(3, 4)
	if err != nil {
		t.Fatal(err)
	}
	server := simulated.New(simulated.Options{Clock: clock, Start: start, Seed: 3, Wearers: wearers, PageSize: 4,
		RateLimit: 1 << 30, Clients: []simulated.Client{{ID: "client", Secret: secret, Provider: simulated.Moi}}})
	base := serve(t, server.ServeHTTP)
	cfg := config(base)
	cfg.AuthURL, cfg.TokenURL = base+"/oauth/v2/ext/oauth-authorize", base+"/oauth/v2/ext/oauth-token"
	cfg.Clock = clock.Now
	v := vendor(t, cfg)
	checked := 0
	for i, account := range server.Accounts() {
		c := &cloud.Client{HTTP: http.DefaultClient, Token: link(t, v.OAuth(), i), Clock: clock.Now}
		if ids, err := v.Account(t.Context(), c); err != nil || len(ids) != 1 || ids[0] != account {
			t.Fatalf("account %q, %v; want %q", ids, err, account)
		}
		truth := server.Truth(account)
		for _, s := range v.Streams() {
			if s.Span == cloud.Snapshot {
				continue
			}
			for _, days := range []int{1, 3} {
				from := start.AddDate(0, 0, 5)
				if s.Span == cloud.Instants {
					from = from.Add(7*time.Hour + 13*time.Second)
				}
				to := from.AddDate(0, 0, days)
				held := read(t, v, c, cloud.Query{Stream: &s, From: from, To: to})
				for _, r := range truth {
					if r.Type == s.Name && within(t, &r, from, to) {
						checked++
						if !held[canonical(t, r.JSON)] {
							t.Errorf("%s: the window of %d days from %v lacks %s", s.Name, days, from, r.JSON)
						}
					}
				}
			}
		}
	}
	if checked < 1000 {
		t.Errorf("only %d items were checked", checked)
	}
}

// TestScopesCoverStreams checks that the scopes of both identity providers cover every stream, so
// that no read is refused for want of one that the provider does not have.
func TestScopesCoverStreams(t *testing.T) {
	start := time.Date(2026, 3, 20, 0, 0, 0, 0, time.UTC)
	clock := simulate.NewClock(nil, start.AddDate(0, 0, 14), 0)
	wearers, err := simulate.Wearers(3, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		provider         simulated.Provider
		authorize, token string
	}{
		"moi":    {simulated.Moi, "/oauth/v2/ext/oauth-authorize", "/oauth/v2/ext/oauth-token"},
		"legacy": {simulated.Legacy, "/oauth/authorize", "/oauth/token"},
	} {
		server := simulated.New(simulated.Options{Clock: clock, Start: start, Seed: 3, Wearers: wearers,
			Clients: []simulated.Client{{ID: "client", Secret: secret, Provider: c.provider}}})
		base := serve(t, server.ServeHTTP)
		cfg := config(base)
		cfg.AuthURL, cfg.TokenURL, cfg.Clock = base+c.authorize, base+c.token, clock.Now
		cfg.Options = map[string]string{"identity-provider": name}
		v := vendor(t, cfg)
		client := &cloud.Client{HTTP: http.DefaultClient, Token: link(t, v.OAuth(), 0), Clock: clock.Now}
		items := 0
		for _, s := range v.Streams() {
			p, err := v.Page(t.Context(), client, cloud.Query{Stream: &s, From: start, To: start.AddDate(0, 0, 7)})
			if err != nil {
				t.Errorf("%s: %s: %v", name, s.Name, err)
			}
			items += p.Items
		}
		if items == 0 {
			t.Errorf("%s: nothing was read", name)
		}
	}
}

// read returns the items of a window.
func read(t *testing.T, v cloud.Vendor, c *cloud.Client, q cloud.Query) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for {
		p, err := v.Page(t.Context(), c, q)
		if err != nil {
			t.Fatalf("%s: %v", q.Stream.Name, err)
		}
		var reply struct{ Data []json.RawMessage }
		if err := json.Unmarshal(p.Body, &reply); err != nil || len(reply.Data) != p.Items {
			t.Fatalf("%s: %d items, %v", q.Stream.Name, p.Items, err)
		}
		for _, raw := range reply.Data {
			out[canonical(t, raw)] = true
		}
		if q.Cursor = p.Next; q.Cursor == "" {
			return out
		}
	}
}

// within reports whether an item is in a window by its day or by its start.
func within(t *testing.T, r *simulated.Record, from, to time.Time) bool {
	t.Helper()
	if !r.At.IsZero() {
		return !r.At.Before(from) && r.At.Before(to)
	}
	var doc map[string]any
	if err := json.Unmarshal(r.JSON, &doc); err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{"bedtime_start", "start_datetime", "start_time", "timestamp"} {
		if s, ok := doc[member].(string); ok {
			if at, err := time.Parse(time.RFC3339, s); err == nil && !at.Before(from) && at.Before(to) {
				return true
			}
		}
	}
	day := r.Day.String()
	return r.Day != 0 && day >= from.Format(time.DateOnly) && day < to.Format(time.DateOnly)
}
