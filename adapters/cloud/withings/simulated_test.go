package withings_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/cloudtest"
	"pulsegate/adapters/simulate"
	simulated "pulsegate/adapters/simulate/withings"
	decoder "pulsegate/adapters/withings"
)

// linked gives consent for the first wearer of a simulated cloud and returns the answer
// of the token endpoint.
func linked(t *testing.T, sim http.Handler) string {
	t.Helper()
	const redirect = "https://pg.example/callback"
	post := func(path string, form url.Values) *httptest.ResponseRecorder {
		rq := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
		rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		rec := httptest.NewRecorder()
		sim.ServeHTTP(rec, rq)
		return rec
	}
	rec := post("/oauth2_user/authorize2", url.Values{"response_type": {"code"}, "client_id": {"client"}, "state": {"s"},
		"redirect_uri": {redirect}, "scope": {"user.metrics,user.activity"}, "wearer": {"0"}, "decision": {"approve"}})
	back, err := url.Parse(rec.Header().Get("Location"))
	if err != nil || rec.Code != http.StatusFound {
		t.Fatalf("the consent page answers %d, %v", rec.Code, err)
	}
	return post("/v2/oauth2", url.Values{"action": {"requesttoken"}, "grant_type": {"authorization_code"},
		"client_id": {"client"}, "client_secret": {"secret"}, "redirect_uri": {redirect},
		"code": {back.Query().Get("code")}}).Body.String()
}

// TestSimulated runs the contract against the simulated cloud, and checks that every item
// that it holds is in the window that it belongs to.
func TestSimulated(t *testing.T) {
	start := time.Date(2026, 3, 20, 0, 0, 0, 0, time.UTC)
	clock := simulate.NewClock(nil, start.AddDate(0, 0, 14), 0)
	all, err := simulate.Wearers(3, 1)
	if err != nil {
		t.Fatal(err)
	}
	sim := simulated.New(simulated.Options{Clock: clock, Start: start, Seed: 3, Wearers: all, PageSize: 5,
		RateLimit: 1 << 30, Clients: []simulated.Client{{ID: "client", Secret: "secret"}}})
	answer := linked(t, sim)
	var tokens struct {
		Body struct {
			Token string `json:"access_token"`
		} `json:"body"`
	}
	if err := json.Unmarshal([]byte(answer), &tokens); err != nil || tokens.Body.Token == "" {
		t.Fatalf("no token: %s", answer)
	}
	token := tokens.Body.Token
	cloudtest.Run(t, cloudtest.Suite{
		New: vendor, API: sim, Token: token, Account: []string{fmt.Sprint(simulated.Account(&all[0]))},
		Adapter: decoder.New(), Now: clock.Now(), From: start, To: clock.Now(), TokenAnswer: answer,
		Webhook: webhook(t),
	})

	srv := cloudtest.Serve(t, sim)
	v, err := vendor(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud.Client{HTTP: srv.Client(), Token: token, Clock: clock.Now}
	for i, s := range v.Streams() {
		held := 0
		for q := (cloud.Query{Stream: &s, From: start.AddDate(0, 0, -1), To: clock.Now()}); ; {
			p, err := v.Page(t.Context(), c, q)
			if err != nil {
				t.Fatal(err)
			}
			held += p.Items
			if q.Cursor = p.Next; q.Cursor == "" {
				break
			}
		}
		if want := strings.Count(string(sim.Truth(0)[i]), `"timezone"`) - 1; held != want || held < 10 {
			t.Errorf("%s: %d items were read, the cloud holds %d", s.Name, held, want)
		}
	}
}
