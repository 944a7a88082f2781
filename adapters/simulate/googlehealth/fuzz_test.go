package googlehealth_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
)

// FuzzRequests sends hostile parameters, bodies and forms. The cloud answers each with a
// documented status and never panics.
func FuzzRequests(f *testing.F) {
	f.Add("steps", `steps.interval.start_time >= "2026-03-10T00:00:00Z"`, "25", "x", `{"windowSize":"60s"}`)
	f.Add("sleep", `sleep.interval.civil_end_time < "2026-03-05" OR`, "-1", "e30", `{"range":{"start":{},"end":{}}}`)
	f.Add("electrocardiogram", `"`, "99999999999", "bnVsbA", `[]`)
	clock := simulate.NewClock(nil, start.AddDate(0, 0, 3), 0)
	s, err := googlehealth.New(googlehealth.Options{Seed: 1, Wearers: 1, Start: start, Clock: clock, PerMinute: -1,
		Every: time.Hour, Clients: []googlehealth.Client{client}})
	if err != nil {
		f.Fatal(err)
	}
	token := ""
	f.Fuzz(func(t *testing.T, typ, filter, size, page, body string) {
		c := &cloud{T: t, Server: s, clock: clock}
		if token == "" {
			token = c.access(s.Accounts()[0])
		}
		params := url.Values{"filter": {filter}, "pageSize": {size}, "pageToken": {page}}.Encode()
		base := "/v4/users/me/dataTypes/" + url.PathEscape(typ) + "/dataPoints"
		for _, r := range []*http.Request{
			httptest.NewRequest(http.MethodGet, base+"?"+params, nil),
			httptest.NewRequest(http.MethodGet, base+":reconcile?"+params, nil),
			httptest.NewRequest(http.MethodPost, base+":rollUp", strings.NewReader(body)),
			httptest.NewRequest(http.MethodPost, base+":dailyRollUp", strings.NewReader(body)),
			httptest.NewRequest(http.MethodPost, "/token", strings.NewReader(body)),
			httptest.NewRequest(http.MethodGet, "/o/oauth2/v2/auth?"+params, nil),
		} {
			r.Header.Set("Authorization", "Bearer "+token)
			if r.URL.Path == "/token" {
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			switch rec.Code {
			case http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
				http.StatusNotFound,
				http.StatusMovedPermanently, http.StatusTemporaryRedirect:
			default:
				t.Errorf("%s %s: %d", r.Method, r.URL, rec.Code)
			}
		}
	})
}
