package googlehealth

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

// me is the path of the resources of the token's user.
const me = "/v4/users/me/"

// status is the body of a failed answer, a google.rpc.Status.
type status struct {
	Status  string `json:"status"`
	Details []struct {
		Reason string `json:"reason"`
	} `json:"details"`
}

// reason returns the code of a failure: the most specific one.
func (s *status) reason() string {
	for _, d := range s.Details {
		if r := cloud.Reason(d.Reason); r != "" {
			return r
		}
	}
	return cloud.Reason(s.Status)
}

// classify makes an error of an answer that is not 2xx.
func classify(code int, _ http.Header, body []byte) *cloud.Error {
	e := &cloud.Error{Problem: cloud.ByStatus(code)}
	var b struct{ Error json.RawMessage }
	var s status
	if json.Unmarshal(body, &b) != nil || json.Unmarshal(b.Error, &s) != nil {
		return e
	}
	e.Reason = s.reason()
	switch e.Reason {
	case "ACCOUNT_NOT_LINKED":
		e.Problem = cloud.Unlinked
	case "RATE_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED":
		e.Problem = cloud.Throttled
	case "SERVICE_DISABLED", "CONSUMER_INVALID", "BILLING_DISABLED":
		// The operator's project is at fault, not the patient.
		e.Problem = cloud.Unavailable
	}
	return e
}

// Account implements cloud.Vendor. Notifications name the first id; the legacy id, if
// there is one, is that of imported archives.
func (v *vendor) Account(ctx context.Context, c *cloud.Client) ([]string, error) {
	body, err := c.For(v.api, classify).Get(ctx, me+"identity", nil)
	if err != nil {
		return nil, err
	}
	var id struct{ HealthUserID, LegacyUserID string }
	if json.Unmarshal(body, &id) != nil || !answer.IsID(id.HealthUserID) {
		return nil, cloud.Malformed()
	}
	out := []string{id.HealthUserID}
	if answer.IsID(id.LegacyUserID) {
		out = append(out, id.LegacyUserID)
	}
	return out, nil
}

// find returns the type of a stream.
func (v *vendor) find(stream string) *dataType {
	for i := range v.types {
		if v.types[i].name == stream {
			return &v.types[i]
		}
	}
	return nil
}

// Page implements cloud.Vendor. Google announces windows, never objects.
func (v *vendor) Page(ctx context.Context, c *cloud.Client, q cloud.Query) (cloud.Page, error) {
	t := v.find(q.Stream.Name)
	if t == nil || q.Object != "" {
		return cloud.Page{}, &cloud.Error{Problem: cloud.Rejected, Reason: "no-such-object"}
	}
	c = c.For(v.api, classify)
	var body []byte
	var err error
	switch t.kind {
	case resource:
		params := url.Values{}
		if t.page > 0 {
			params = paging(t, q.Cursor)
		}
		body, err = c.Get(ctx, me+t.name, params)
	case rollup:
		body, err = c.Post(ctx, me+"dataTypes/"+t.name+"/dataPoints:dailyRollUp", rollUp(t, q))
	default:
		params := paging(t, q.Cursor)
		params.Set("filter", t.filter(q.From, q.To))
		body, err = c.Get(ctx, me+"dataTypes/"+t.name+"/dataPoints", params)
	}
	if err != nil {
		return cloud.Page{}, err
	}
	return page(t, body, q.Cursor)
}

func paging(t *dataType, cursor string) url.Values {
	out := url.Values{"pageSize": {strconv.Itoa(t.pageSize())}}
	if cursor != "" {
		out.Set("pageToken", cursor)
	}
	return out
}

// civil is a CivilDateTime at midnight.
type civil struct {
	Date struct {
		Year  int `json:"year"`
		Month int `json:"month"`
		Day   int `json:"day"`
	} `json:"date"`
}

func civilOf(t time.Time) (c civil) {
	t = t.UTC()
	c.Date.Year, c.Date.Month, c.Date.Day = t.Year(), int(t.Month()), t.Day()
	return c
}

// rollUpRequest is the body of dailyRollUp.
type rollUpRequest struct {
	Range struct {
		Start civil `json:"start"`
		End   civil `json:"end"`
	} `json:"range"`
	WindowSizeDays int    `json:"windowSizeDays"`
	PageSize       int    `json:"pageSize"`
	PageToken      string `json:"pageToken,omitempty"`
}

func rollUp(t *dataType, q cloud.Query) rollUpRequest {
	r := rollUpRequest{WindowSizeDays: 1, PageSize: t.pageSize(), PageToken: q.Cursor}
	r.Range.Start, r.Range.End = civilOf(q.From), civilOf(q.To)
	return r
}

// page reads an answer. A page may be empty although others follow, and the last one
// may be {}.
func page(t *dataType, body []byte, cursor string) (cloud.Page, error) {
	if t.kind == resource && t.page == 0 {
		var r *struct {
			Name string `json:"name"`
		}
		if json.Unmarshal(body, &r) != nil || r == nil || r.Name == "" {
			return cloud.Page{}, cloud.Malformed()
		}
		return cloud.Page{Body: body, Items: 1}, nil
	}
	var a *struct {
		Points  []answer.Object `json:"dataPoints"`
		RollUps []answer.Object `json:"rollupDataPoints"`
		Devices []answer.Object `json:"pairedDevices"`
		Next    string          `json:"nextPageToken"`
	}
	if json.Unmarshal(body, &a) != nil || a == nil {
		return cloud.Page{}, cloud.Malformed()
	}
	items := a.Points
	switch t.kind {
	case resource:
		items = a.Devices
	case rollup:
		items = a.RollUps
	}
	if items == nil && a.Next == "" {
		// Anything but {} is the answer to another question.
		var all map[string]json.RawMessage
		if json.Unmarshal(body, &all) != nil || len(all) > 0 {
			return cloud.Page{}, cloud.Malformed()
		}
	}
	if len(a.Next) > 8192 || a.Next != "" && a.Next == cursor {
		return cloud.Page{}, cloud.Malformed()
	}
	return cloud.Page{Body: body, Next: a.Next, Items: len(items)}, nil
}
