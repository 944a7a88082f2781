package oura

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

const routes = "/v2/usercollection/"

// Budget implements cloud.Vendor. The limit per token is not documented.
func (*vendor) Budget() cloud.Budget {
	return cloud.Budget{Application: cloud.Rate{Requests: 5000, Per: 5 * time.Minute}, Remaining: remaining}
}

// remaining reads the headers of the limits. Only answers 429 are documented to have
// them; these have Retry-After, too.
func remaining(h http.Header, now time.Time) (int, time.Time, bool) {
	at := reset(h)
	if !at.After(now) || at.After(now.Add(day)) {
		return 0, time.Time{}, false
	}
	if n, err := strconv.Atoi(h.Get("X-RateLimit-Remaining")); err == nil && n >= 0 {
		return n, at, true
	}
	return 0, at, h.Get("Retry-After") != ""
}

// reset returns the end of the window of the limit, or the zero time.
func reset(h http.Header) time.Time {
	n, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64)
	if err != nil || n <= 0 || n > 1<<40 {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// classify makes an error of an answer that is not 2xx.
func (v *vendor) classify(status int, h http.Header, body []byte) *cloud.Error {
	e := &cloud.Error{Problem: cloud.ByStatus(status)}
	detail := detailOf(body)
	switch status {
	case http.StatusForbidden:
		// A 403 is a missing scope or a lapsed membership. Streams are read only with a
		// granted scope, so that the membership is the better guess if Oura does not say
		// which.
		e.Problem, e.Reason = cloud.Membership, "forbidden"
		if strings.Contains(detail.text, "scope") || strings.Contains(detail.text, "permission") {
			e.Problem, e.Reason = cloud.Permission, "scope"
		}
		if strings.Contains(detail.text, "membership") || strings.Contains(detail.text, "subscription") {
			e.Problem, e.Reason = cloud.Membership, "membership"
		}
	case http.StatusUnprocessableEntity:
		e.Reason = detail.reason
	case http.StatusTooManyRequests:
		e.RetryAfter = cloud.RetryAfter(h, v.clock())
		if at, now := reset(h), v.clock(); e.RetryAfter == 0 && at.After(now) {
			e.RetryAfter = min(at.Sub(now), day)
		}
	}
	return e
}

// detail holds the content of an error body: a sentence in lower case, or the code of
// the first broken parameter.
type detail struct{ text, reason string }

func detailOf(body []byte) detail {
	var b struct{ Detail json.RawMessage }
	if json.Unmarshal(body, &b) != nil {
		return detail{}
	}
	var s string
	if json.Unmarshal(b.Detail, &s) == nil {
		return detail{text: strings.ToLower(s)}
	}
	var list []struct{ Type string }
	if json.Unmarshal(b.Detail, &list) == nil && len(list) > 0 {
		return detail{reason: cloud.Reason(list[0].Type)}
	}
	return detail{}
}

// Account implements cloud.Vendor. Any token may read the id of personal_info, which is
// the user_id of notifications.
func (v *vendor) Account(ctx context.Context, c *cloud.Client) ([]string, error) {
	body, err := c.For(v.api, v.classify).Get(ctx, routes+"personal_info", nil)
	if err != nil {
		return nil, err
	}
	var info struct{ ID string }
	if json.Unmarshal(body, &info) != nil || !answer.IsID(info.ID) {
		return nil, cloud.Malformed()
	}
	return []string{info.ID}, nil
}

// Page implements cloud.Vendor.
func (v *vendor) Page(ctx context.Context, c *cloud.Client, q cloud.Query) (cloud.Page, error) {
	page, err := v.page(ctx, c, q)
	if problem, ok := errors.AsType[*cloud.Error](err); ok && problem.Problem == cloud.Membership &&
		problem.Reason == "forbidden" && slices.Contains(v.assumed, q.Stream.Name) {
		// The scope is an assumption, which is a better guess than the membership.
		problem.Problem, problem.Reason = cloud.Permission, "scope"
	}
	return page, err
}

func (v *vendor) page(ctx context.Context, c *cloud.Client, q cloud.Query) (cloud.Page, error) {
	c = c.For(v.api, v.classify)
	path := routes + q.Stream.Name
	if q.Object != "" {
		if !single(q.Stream) || !answer.IsID(q.Object) {
			return cloud.Page{}, &cloud.Error{Problem: cloud.Rejected, Reason: "no-such-object"}
		}
		body, err := c.Get(ctx, path+"/"+q.Object, nil)
		if err != nil {
			return cloud.Page{}, err
		}
		return document(body)
	}
	if q.Stream.Name == "personal_info" {
		body, err := c.Get(ctx, path, nil)
		if err != nil {
			return cloud.Page{}, err
		}
		return document(body)
	}
	params := window(q)
	if q.Cursor != "" {
		params.Set("next_token", q.Cursor)
	}
	body, err := c.Get(ctx, path, params)
	if err != nil {
		return cloud.Page{}, err
	}
	return list(body, q.Cursor)
}

// window returns the parameters of a window. See the package comment.
func window(q cloud.Query) url.Values {
	switch q.Stream.Span {
	case cloud.Days:
		return url.Values{
			"start_date": {q.From.UTC().AddDate(0, 0, -2).Format(time.DateOnly)},
			"end_date":   {q.To.UTC().AddDate(0, 0, 2).Format(time.DateOnly)},
		}
	case cloud.Instants:
		return url.Values{
			"start_datetime": {q.From.UTC().Add(-time.Minute).Format(time.RFC3339)},
			"end_datetime":   {q.To.UTC().Add(time.Minute).Format(time.RFC3339)},
		}
	}
	return url.Values{}
}

// document returns the page of a single document.
func document(body []byte) (cloud.Page, error) {
	var doc *answer.Object
	if json.Unmarshal(body, &doc) != nil || doc == nil {
		return cloud.Page{}, cloud.Malformed()
	}
	return cloud.Page{Body: body, Items: 1}, nil
}

// list returns the page of a list reply.
func list(body []byte, cursor string) (cloud.Page, error) {
	var reply struct {
		Data []answer.Object `json:"data"`
		Next *string         `json:"next_token"`
	}
	if json.Unmarshal(body, &reply) != nil || reply.Data == nil {
		return cloud.Page{}, cloud.Malformed()
	}
	p := cloud.Page{Body: body, Items: len(reply.Data)}
	if reply.Next != nil {
		p.Next = *reply.Next
	}
	if len(p.Next) > 4096 || p.Next != "" && p.Next == cursor {
		return cloud.Page{}, cloud.Malformed()
	}
	return p, nil
}
