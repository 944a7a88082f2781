package withings_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	decoder "pulsegate/adapters/withings"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/cloudtest"
	"pulsegate/adapters/cloud/withings"
)

const (
	token   = "invented-access-token"
	account = "363"
)

var now = time.Date(2026, 1, 7, 8, 0, 0, 0, time.UTC)

func vendor(base string) (cloud.Vendor, error) {
	return withings.New(cloud.Config{ClientID: "client", ClientSecret: "secret", AuthURL: base + "/authorize",
		TokenURL: base + "/token", APIURL: base})
}

// lists has one invented item of each list, by path and action.
var lists = map[string]string{
	"/measure getmeas": `"timezone":"Europe/Paris","measuregrps":[{"grpid":9001,"attrib":0,"date":1767596400,` +
		`"category":1,"measures":[{"value":65750,"type":1,"unit":-3}]}]`,
	"/v2/sleep getsummary": `"series":[{"id":7,"timezone":"Europe/Paris","startdate":1767654000,"enddate":1767681000,` +
		`"data":{"total_sleep_time":24300}}]`,
	"/v2/measure getactivity": `"activities":[{"date":"2026-01-05","timezone":"Europe/Paris","brand":1,"steps":8123}]`,
}

// api is a simulated API with two pages of each list. It refuses a request that lacks a
// documented parameter with the status for wrong parameters.
func api() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, ok := lists[r.URL.Path+" "+r.PostFormValue("action")]
		window := []string{"startdateymd", "enddateymd", "data_fields"}
		if r.URL.Path == "/measure" {
			window = []string{"startdate", "enddate", "category"}
		}
		for _, name := range window {
			ok = ok && r.PostFormValue(name) != ""
		}
		switch offset := r.PostFormValue("offset"); {
		case r.Header.Get("Authorization") != "Bearer "+token:
			fmt.Fprint(w, `{"status":401,"body":{},"error":"XRequestID: Not provided invalid_token"}`)
		case !ok || r.Method != http.MethodPost || r.URL.RawQuery != "":
			fmt.Fprint(w, `{"status":503,"error":"Invalid Params"}`)
		case offset == "" && r.URL.Path == "/measure":
			fmt.Fprintf(w, `{"status":0,"body":{%s,"more":1,"offset":1}}`, list)
		case offset == "":
			fmt.Fprintf(w, `{"status":0,"body":{%s,"more":true,"offset":1}}`, list)
		default:
			fmt.Fprintf(w, `{"status":0,"body":{%s,"more":false,"offset":0}}`, list)
		}
	})
}

func TestContract(t *testing.T) {
	status := func(status int, want cloud.Problem, wait time.Duration) cloudtest.Answer {
		return cloudtest.Answer{Name: fmt.Sprint("status ", status), Status: 200, Want: want, Wait: wait,
			Body:   fmt.Sprintf(`{"status":%d,"body":{},"error":"invented"}`, status),
			Reason: fmt.Sprint("status-", status)}
	}
	cloudtest.Run(t, cloudtest.Suite{
		New: vendor, API: api(), Token: token, Account: []string{account}, Adapter: decoder.New(),
		Now: now, From: now.AddDate(0, 0, -7), To: now,
		TokenAnswer: `{"status":0,"body":{"userid":363,"access_token":"invented-access-token",` +
			`"refresh_token":"r","expires_in":10800,"scope":"user.metrics,user.activity","token_type":"Bearer"}}`,
		Answers: []cloudtest.Answer{
			status(100, cloud.Unauthorized, 0), status(401, cloud.Unauthorized, 0), status(277, cloud.Permission, 0),
			status(503, cloud.Rejected, 0), status(522, cloud.Unavailable, 0),
			status(601, cloud.Throttled, time.Minute),
			status(2555, cloud.Permission, 0), status(10000, cloud.Unavailable, 0),
			{Name: "HTTP 429", Status: 429, Header: map[string]string{"Retry-After": "7"}, Want: cloud.Throttled,
				Wait: 7 * time.Second},
			{Name: "HTTP 502", Status: 502, Want: cloud.Unavailable},
		},
		Webhook: webhook(t),
	})
}

// TestTokenAnswers checks what the answers of the token endpoint mean in RFC 6749.
func TestTokenAnswers(t *testing.T) {
	v, err := vendor("https://withings.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status, want int
		body, out    string
	}{
		{200, 200, `{"status":0,"body":{"userid":"363"}}`, `{"userid":"363"}`},
		{200, 400, `{"status":503,"body":{},"error":"Invalid Params: invalid refresh_token"}`, "invalid_grant"},
		{200, 400, `{"status":503,"error":"Invalid Params: invalid code"}`, "invalid_grant"},
		{200, 400, `{"status":401,"error":""}`, "invalid_grant"},
		{200, 400, `{"status":503,"error":"Invalid Params: invalid client_id"}`, "invalid_request"},
		{200, 429, `{"status":601}`, "slow_down"},
		{200, 503, `{"status":522}`, "temporarily_unavailable"},
		{200, 200, `<html>`, `<html>`},
		{502, 502, `{"status":0}`, `{"status":0}`},
	} {
		status, body := v.OAuth().Unwrap(c.status, []byte(c.body))
		if status != c.want || !strings.Contains(string(body), c.out) {
			t.Errorf("%s: %d %s, want %d %s", c.body, status, body, c.want, c.out)
		}
	}
	for in, want := range map[any]string{float64(363): "363", "363": "363", float64(-1): "", "../x": "", true: ""} {
		if got := v.OAuth().Account(func(string) any { return in }); got != want {
			t.Errorf("account of %v: %q, want %q", in, got, want)
		}
	}
}

// TestWindow checks the parameters that name a window and a page.
func TestWindow(t *testing.T) {
	var got url.Values
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ParseForm() == nil {
			got = r.PostForm
		}
		api().ServeHTTP(w, r)
	})
	srv := cloudtest.Serve(t, h)
	v, err := vendor(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud.Client{HTTP: srv.Client(), Token: token, Clock: func() time.Time { return now }}
	for i, want := range []map[string]string{
		{"startdate": "1767600000", "enddate": "1767772800", "category": "1", "offset": "1"},
		{"startdateymd": "2026-01-03", "enddateymd": "2026-01-09", "offset": "1"},
	} {
		q := cloud.Query{Stream: &v.Streams()[i], Cursor: "1",
			From: time.Unix(1767600000, 0), To: time.Unix(1767772800, 0)}
		if _, err := v.Page(t.Context(), c, q); err != nil {
			t.Error(err)
		}
		for name, value := range want {
			if got.Get(name) != value {
				t.Errorf("%s is %q, want %q", name, got.Get(name), value)
			}
		}
	}
}
