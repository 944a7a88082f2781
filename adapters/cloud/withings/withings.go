// Package withings connects to the cloud of Withings, with the public API.
//
// The facts come from the API reference (https://developer.withings.com/api-reference:
// OAuth 2.0, Measure, Sleep v2, Response status) and the developer guide (OAuth web flow,
// Notifications).
//
// # OAuth
//
// Scopes are separated by commas. The token endpoint requires action=requesttoken, and
// answers HTTP 200 with {"status":0,"body":{...}}, where body is the answer of RFC 6749,
// or with another status. It alone states the id of the user. Access tokens live three
// hours and refresh tokens a year. A refresh returns a new refresh token. The former one
// remains valid for eight hours or until the new access token is used, so that a refresh
// whose answer was lost can be repeated (Rotates is not set). See revoke.go for the end
// of a grant.
//
// # API
//
// Reads are POST requests with a form. Answers have HTTP status 200 and their own status:
// 0 is success, 100 to 102, 200 and 401 failed authentication, 214, 277, 2553 and 2555
// a missing permission, 522 a timeout, 601 too many requests (more than 120 a minute for
// an application), 201 to 213 and most other numbers below 600 wrong parameters. A list
// has more pages if "more" is set; "offset" then names the next one.
//
// # Windows
//
// A window of getmeas is in Unix seconds, and covers the times of measures. The windows of
// days and nights are dates. The documents do not state how the date of a night is
// chosen, so that each read asks for two more days on both sides.
//
// # Notifications
//
// Withings announces changes to a URL that is subscribed with the token of each user,
// and does not sign its notifications. See notify.go.
package withings

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

const (
	day           = 24 * time.Hour
	documentedAPI = "https://wbsapi.withings.net"
)

// vendor implements cloud.Vendor.
type vendor struct {
	oauth cloud.OAuth
	api   string
	clock func() time.Time
}

// New returns the cloud of Withings.
func New(c cloud.Config) (cloud.Vendor, error) {
	v := &vendor{api: documentedAPI, clock: c.Clock, oauth: cloud.OAuth{
		AuthURL:  "https://account.withings.com/oauth2_user/authorize2",
		TokenURL: "https://wbsapi.withings.net/v2/oauth2", FormSecret: true,
		Scopes: []cloud.Scope{
			{Name: "user.metrics", Words: "your weight, blood pressure, temperature and other measures"},
			{Name: "user.activity", Words: "your activity and sleep", Optional: true},
		},
		Params:      map[string]string{"scope": "user.metrics,user.activity"},
		TokenParams: map[string]string{"action": "requesttoken"},
		Unwrap:      unwrap,
		RefreshLife: func(func(string) any) time.Duration { return 365 * day },
		Account:     account,
		RevokesAll:  true,
	}}
	if v.clock == nil {
		v.clock = time.Now
	}
	if err := c.Apply(&v.oauth, &v.api); err != nil {
		return nil, fmt.Errorf("withings: %w", err)
	}
	return v, nil
}

// account implements cloud.OAuth.Account. The id is documented as a number, and some
// examples have a text.
func account(member func(string) any) string {
	if id, ok := member("userid").(float64); ok && id >= 1 && id < 1<<53 {
		return strconv.FormatInt(int64(id), 10)
	}
	id, _ := member("userid").(string)
	return cloud.Reason(id)
}

// Code implements cloud.Vendor.
func (*vendor) Code() string { return "withings" }

// OAuth implements cloud.Vendor.
func (v *vendor) OAuth() cloud.OAuth { return v.oauth }

// Budget implements cloud.Vendor.
func (*vendor) Budget() cloud.Budget {
	return cloud.Budget{Application: cloud.Rate{Requests: 120, Per: time.Minute}}
}

// route is the request that reads a stream.
type route struct{ path, action, list, fields string }

var routes = map[string]route{
	"measure": {path: "/measure", action: "getmeas", list: "measuregrps"},
	"sleep": {path: "/v2/sleep", action: "getsummary", list: "series",
		fields: "total_sleep_time,total_timeinbed,sleep_latency,wakeupcount,wakeupduration,deepsleepduration," +
			"lightsleepduration,remsleepduration,hr_average,hr_min,rr_average,sleep_score"},
	"activity": {path: "/v2/measure", action: "getactivity", list: "activities",
		fields: "steps,distance,elevation,soft,moderate,intense,calories,totalcalories"},
}

// Streams implements cloud.Vendor.
func (*vendor) Streams() []cloud.Stream {
	return []cloud.Stream{
		{Name: "measure", Format: "api", Scope: "user.metrics", Span: cloud.Instants, Chunk: 90 * day,
			Every: 30 * time.Minute, Trailing: day, Late: 7 * day, Types: []string{"measure"}, Notified: true},
		{Name: "sleep", Format: "api", Scope: "user.activity", Span: cloud.Days, Chunk: 90 * day,
			Every: time.Hour, Trailing: 3 * day, Late: 7 * day, Types: []string{"sleep"}, Notified: true},
		{Name: "activity", Format: "api", Scope: "user.activity", Span: cloud.Days, Chunk: 90 * day,
			Every: time.Hour, Trailing: 3 * day, Late: 7 * day, Types: []string{"activity"}, Notified: true},
	}
}

// Account implements cloud.Vendor. No read states the user, so that the id comes from
// the answer of the token endpoint, and the read only proves that the token works.
func (v *vendor) Account(ctx context.Context, c *cloud.Client) ([]string, error) {
	now := c.Clock()
	window := cloud.Query{Stream: &v.Streams()[0], From: now.Add(-time.Hour), To: now}
	if _, err := v.Page(ctx, c, window); err != nil {
		return nil, err
	}
	if !answer.IsID(c.Account) {
		return nil, cloud.Malformed()
	}
	return []string{c.Account}, nil
}

// Page implements cloud.Vendor.
func (v *vendor) Page(ctx context.Context, c *cloud.Client, q cloud.Query) (cloud.Page, error) {
	r, ok := routes[q.Stream.Name]
	if !ok || q.Object != "" {
		return cloud.Page{}, &cloud.Error{Problem: cloud.Rejected, Reason: "no-such-object"}
	}
	form := url.Values{"action": {r.action}}
	if q.Stream.Span == cloud.Instants {
		form.Set("category", "1")
		form.Set("startdate", strconv.FormatInt(q.From.Unix(), 10))
		form.Set("enddate", strconv.FormatInt(q.To.Unix(), 10))
	} else {
		form.Set("startdateymd", q.From.UTC().AddDate(0, 0, -2).Format(time.DateOnly))
		form.Set("enddateymd", q.To.UTC().AddDate(0, 0, 2).Format(time.DateOnly))
		form.Set("data_fields", r.fields)
	}
	if q.Cursor != "" {
		form.Set("offset", q.Cursor)
	}
	body, err := c.For(v.api, nil).PostForm(ctx, r.path, form)
	if err != nil {
		return cloud.Page{}, err
	}
	return page(body, r.list, q.Cursor)
}

// page returns the page of an answer.
func page(body []byte, list, cursor string) (cloud.Page, error) {
	var reply struct {
		Status *int                       `json:"status"`
		Body   map[string]json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(body, &reply); reply.Status != nil && *reply.Status != 0 {
		return cloud.Page{}, failure(*reply.Status)
	} else if err != nil || reply.Status == nil {
		return cloud.Page{}, cloud.Malformed()
	}
	var items []answer.Object
	if json.Unmarshal(reply.Body[list], &items) != nil || items == nil {
		return cloud.Page{}, cloud.Malformed()
	}
	p := cloud.Page{Body: body, Items: len(items)}
	if more := string(bytes.TrimSpace(reply.Body["more"])); more == "1" || more == "true" {
		p.Next = string(reply.Body["offset"])
		next, err := strconv.ParseUint(p.Next, 10, 32)
		before, _ := strconv.ParseUint(cmp.Or(cursor, "0"), 10, 32)
		if err != nil || next <= before {
			return cloud.Page{}, cloud.Malformed()
		}
	}
	return p, nil
}

// failure returns the error of a status in the body of an answer with HTTP status 200.
func failure(status int) *cloud.Error {
	e := &cloud.Error{Problem: cloud.Unavailable, Status: http.StatusOK, Reason: "status-" + strconv.Itoa(status)}
	switch {
	case status >= 100 && status <= 102 || status == 200 || status == 401:
		e.Problem = cloud.Unauthorized
	case status == 214 || status == 277 || status == 2553 || status == 2555:
		e.Problem = cloud.Permission
	case status == 601:
		e.Problem, e.RetryAfter = cloud.Throttled, time.Minute
	case status > 200 && status < 214 || status == 400 || status > 500 && status < 512:
		e.Problem = cloud.Rejected
	}
	return e
}

// unwrap implements cloud.OAuth.Unwrap.
func unwrap(status int, body []byte) (int, []byte) {
	var reply struct {
		Status *int            `json:"status"`
		Body   json.RawMessage `json:"body"`
		Error  string          `json:"error"`
	}
	if status != http.StatusOK || json.Unmarshal(body, &reply) != nil || reply.Status == nil {
		return status, body
	}
	refusal := func(status int, code string) (int, []byte) { return status, []byte(`{"error":"` + code + `"}`) }
	text := strings.ToLower(reply.Error)
	p := failure(*reply.Status).Problem
	switch {
	case *reply.Status == 0:
		return status, reply.Body
	case p == cloud.Unauthorized, strings.Contains(text, "refresh_token"), strings.Contains(text, "invalid code"):
		return refusal(http.StatusBadRequest, "invalid_grant")
	case p == cloud.Throttled:
		return refusal(http.StatusTooManyRequests, "slow_down")
	case p == cloud.Unavailable:
		return refusal(http.StatusServiceUnavailable, "temporarily_unavailable")
	}
	return refusal(http.StatusBadRequest, "invalid_request")
}
