package oura_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
)

const (
	redirect = "https://pulsegate.example/link/callback"
	verifier = "a-verifier-of-at-least-forty-three-characters-0123456789"
)

var (
	legacy = oura.Client{ID: "old-app", Secret: "old-secret", Provider: oura.Legacy, RedirectURIs: []string{redirect}}
	moi    = oura.Client{ID: "new-app", Secret: "new-secret", Provider: oura.Moi, RedirectURIs: []string{redirect}}
)

// start is the first day with data. The clocks of most tests begin 40 days later, after
// the end of daylight saving time in Europe and America.
var start = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

// world is a simulated cloud behind a listener, with its clock.
type world struct {
	t     *testing.T
	clock *simulate.Clock
	cloud *oura.Server
	url   string
}

func newWorld(t *testing.T, wearers int, change func(*oura.Options)) *world {
	t.Helper()
	ws, err := simulate.Wearers(5, wearers)
	if err != nil {
		t.Fatal(err)
	}
	o := oura.Options{Clock: simulate.NewClock(nil, start.AddDate(0, 0, 40), 1), Start: start, Seed: 5, Wearers: ws,
		Clients: []oura.Client{legacy, moi}}
	if change != nil {
		change(&o)
	}
	w := &world{t: t, clock: o.Clock, cloud: oura.New(o)}
	srv := httptest.NewServer(w.cloud)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	return w
}

// answer is an answer with its body.
type answer struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(req *http.Request) answer {
	w.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return answer{}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

func (w *world) request(method, path, body string, header ...string) *http.Request {
	w.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func (w *world) form(path string, v url.Values) answer {
	w.t.Helper()
	return w.do(w.request("POST", path, v.Encode(), "Content-Type", "application/x-www-form-urlencoded"))
}

func (w *world) get(path, token string) answer {
	w.t.Helper()
	return w.do(w.request("GET", path, "", "Authorization", "Bearer "+token))
}

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authorization returns the parameters of an authorization request.
func authorization(c oura.Client, scope string) url.Values {
	return url.Values{"response_type": {"code"}, "client_id": {c.ID}, "redirect_uri": {redirect}, "scope": {scope},
		"state": {"state of a session"}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"}}
}

// approve posts the consent form and returns the parameters of the redirect.
func (w *world) approve(path string, v url.Values) url.Values {
	w.t.Helper()
	a := w.form(path, v)
	to, err := url.Parse(a.header.Get("Location"))
	if a.status != 302 || err != nil || !strings.HasPrefix(to.String(), redirect+"?") {
		w.t.Fatalf("%s: %d %q %s", path, a.status, a.header.Get("Location"), a.body)
	}
	return to.Query()
}

// code returns an authorization code for a wearer.
func (w *world) code(c oura.Client, path, wearer, scope string) string {
	w.t.Helper()
	v := authorization(c, scope)
	v.Set("wearer", wearer)
	v.Set("decision", "approve")
	return w.approve(path, v).Get("code")
}

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Expires int    `json:"expires_in"`
	Scope   string
	Type    string `json:"token_type"`
}

// redeem posts to a token endpoint and returns the tokens or the error.
func (w *world) redeem(path string, c oura.Client, v url.Values) (tokens, answer) {
	w.t.Helper()
	v.Set("client_id", c.ID)
	v.Set("client_secret", c.Secret)
	a := w.form(path, v)
	var out tokens
	if a.status == 200 {
		if err := json.Unmarshal([]byte(a.body), &out); err != nil {
			w.t.Fatal(err)
		}
	}
	return out, a
}

func exchange(code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
		"code_verifier": {verifier}}
}

func refresh(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
}

const everything = "extapi:email extapi:personal extapi:daily extapi:heartrate extapi:workout extapi:tag " +
	"extapi:session extapi:spo2 extapi:heart_health extapi:stress extapi:ring_configuration"

// link links a wearer with a client of the new provider.
func (w *world) link(wearer int, scope string) tokens {
	w.t.Helper()
	code := w.code(moi, "/oauth/v2/ext/oauth-authorize", fmt.Sprint(wearer), scope)
	out, a := w.redeem("/oauth/v2/ext/oauth-token", moi, exchange(code))
	if a.status != 200 {
		w.t.Fatalf("token endpoint: %d %s", a.status, a.body)
	}
	return out
}

// page is a list reply.
type page struct {
	Data []json.RawMessage
	Next *string `json:"next_token"`
}

// readAll reads all pages of a list.
func (w *world) readAll(path, token string, q url.Values) (out []json.RawMessage) {
	w.t.Helper()
	for range 10000 {
		a := w.get(path+"?"+q.Encode(), token)
		if a.status != 200 {
			w.t.Fatalf("%s?%s: %d %s", path, q.Encode(), a.status, a.body)
		}
		var p page
		if err := json.Unmarshal([]byte(a.body), &p); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, p.Data...)
		if p.Next == nil {
			return out
		}
		q.Set("next_token", *p.Next)
	}
	w.t.Fatalf("%s does not end", path)
	return nil
}

// documentTypes lists the types of documents in the order of Truth.
var documentTypes = []string{"sleep", "daily_sleep", "daily_readiness", "daily_activity", "daily_stress", "daily_spo2",
	"daily_resilience", "daily_cardiovascular_age", "vO2_max", "sleep_time", "workout", "session", "enhanced_tag",
	"tag",
	"rest_mode_period", "ring_configuration"}

// readEverything reads all types over a window that is wider than the data, in the order
// of Truth.
func (w *world) readEverything(token string) (out []string) {
	w.t.Helper()
	now := w.clock.Now()
	const day = "2006-01-02"
	for _, typ := range documentTypes {
		q := url.Values{}
		if typ != "ring_configuration" {
			q.Set("start_date", start.AddDate(0, 0, -3).Format(day))
			q.Set("end_date", now.AddDate(0, 0, 3).Format(day))
		}
		for _, doc := range w.readAll("/v2/usercollection/"+typ, token, q) {
			out = append(out, typ+" "+string(doc))
		}
	}
	for _, typ := range []string{"heartrate", "ring_battery_level"} {
		for from := start.AddDate(0, 0, -3); from.Before(now); from = from.AddDate(0, 0, 30) {
			q := url.Values{"start_datetime": {from.Format(time.RFC3339)},
				"end_datetime": {from.AddDate(0, 0, 30).Format(time.RFC3339)}}
			for _, doc := range w.readAll("/v2/usercollection/"+typ, token, q) {
				out = append(out, typ+" "+string(doc))
			}
		}
	}
	return append(out, "personal_info "+strings.TrimSpace(w.get("/v2/usercollection/personal_info", token).body))
}

// truth returns the records of an account in the form of readEverything.
func (w *world) truth(wearer int) (out []string) {
	for _, r := range w.cloud.Truth(w.cloud.Accounts()[wearer]) {
		out = append(out, r.Type+" "+string(r.JSON))
	}
	return out
}
