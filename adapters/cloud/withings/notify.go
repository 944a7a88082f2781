package withings

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

// The facts about notifications are in the developer guide ("Notification overview",
// "Subscribe to notifications", "Payload and categories") and the API reference
// ("Notify").
//
// A notification is a POST with a form: userid, appli, and startdate and enddate in Unix
// seconds or date. It names no values, is not signed and has no id. It is repeated, in
// pairs, after 10 seconds, a minute, an hour and four hours unless the status is below
// 400. It announces new, changed and deleted data alike, so that one body stands for
// several changes: each sync of a day announces the same date.
//
// The callback is an HTTPS URL with a domain name and port 80 or 443 of at most 255
// characters. Withings sends HEAD to it and expects 2xx before it subscribes. Its last
// segment is a secret: the HMAC-SHA256 of the callback with the client secret as key,
// which no other server of the operator has.
//
// Events of the user's profile (appli 46) require the scope user.info, which needs a
// contract. A user who ends the grant is noticed by the next read.
var _ cloud.AccountNotifier = (*vendor)(nil)

const (
	maxNotification = 4 << 10
	maxCallback     = 255
	// maxWindow bounds the window of a notification. A device may have been out of
	// reach of its phone for months.
	maxWindow = 366 * day
	reconcile = day
)

// category is a kind of notification.
type category struct {
	appli  int
	stream string
}

// categories lists the values of appli that are subscribed to, with the stream that each
// announces.
var categories = []category{
	{1, "measure"},   // weight and body composition
	{2, "measure"},   // temperature
	{4, "measure"},   // blood pressure, pulse, oxygen saturation
	{16, "activity"}, // date
	{44, "sleep"},
}

// refuse returns the receipt for a request that is not accepted.
func refuse(status int, problem cloud.Problem, reason string) (cloud.Receipt, error) {
	return cloud.Receipt{Status: status}, &cloud.Error{Problem: problem, Reason: reason}
}

// secret returns the last segment of a callback.
func (v *vendor) secret(callback string) string {
	return base64.RawURLEncoding.EncodeToString(v.mac("webhook " + callback))
}

// Receive implements cloud.Notifier.
func (v *vendor) Receive(_ context.Context, n *cloud.Notification) (cloud.Receipt, error) {
	if !hmac.Equal([]byte(n.Path), []byte(v.secret(n.Callback))) {
		return refuse(http.StatusNotFound, cloud.NotFound, "unknown-path")
	}
	switch {
	case n.Method == http.MethodHead:
		return cloud.Receipt{Status: http.StatusOK}, nil
	case n.Method != http.MethodPost:
		return refuse(http.StatusMethodNotAllowed, cloud.Rejected, "method")
	case len(n.Body) > maxNotification:
		return refuse(http.StatusRequestEntityTooLarge, cloud.Rejected, "body-too-large")
	}
	events, err := v.Events(n.Body)
	if err != nil {
		return refuse(http.StatusBadRequest, cloud.Rejected, "malformed-body")
	}
	// Equal bodies at different times can announce different changes, so that none is
	// taken for a repetition of another. A repetition costs one read.
	key := sha256.Sum256(n.Now.UTC().AppendFormat(append(slices.Clone(n.Body), '\n'), time.RFC3339Nano))
	return cloud.Receipt{Status: http.StatusOK, Store: len(events) > 0, Key: key, Keep: time.Minute}, nil
}

// Events implements cloud.Notifier. Categories that are not subscribed to have no events.
func (*vendor) Events(body []byte) ([]cloud.Event, error) {
	if len(body) > maxNotification {
		return nil, cloud.Malformed()
	}
	form, err := url.ParseQuery(string(body))
	account := form.Get("userid")
	appli, bad := strconv.ParseUint(form.Get("appli"), 10, 16)
	if err != nil || bad != nil || !answer.IsID(account) {
		return nil, cloud.Malformed()
	}
	for _, c := range categories {
		if uint64(c.appli) == appli {
			return announced(c.stream, account, form)
		}
	}
	return nil, nil
}

// announced returns the event of a notification.
func announced(stream, account string, form url.Values) ([]cloud.Event, error) {
	e := cloud.Event{Account: account, Stream: stream}
	if date := form.Get("date"); date != "" {
		on, err := time.Parse(time.DateOnly, date)
		if err != nil {
			return nil, cloud.Malformed()
		}
		e.From, e.To = on, on.Add(day)
	} else {
		from, bad := strconv.ParseUint(form.Get("startdate"), 10, 33)
		to, worse := strconv.ParseUint(form.Get("enddate"), 10, 33)
		if bad != nil || worse != nil || from > to {
			return nil, cloud.Malformed()
		}
		// An answer without items is not believed. Items of the days around the window
		// tell a deleted item from a failure.
		e.From, e.To = time.Unix(int64(from), 0).UTC().Add(-day), time.Unix(int64(to), 0).UTC().Add(day)
	}
	if e.To.Sub(e.From) > maxWindow {
		e.From = e.To.Add(-maxWindow)
	}
	if stream != "measure" {
		e.From, e.To = cloud.Dates(e.From, e.To)
	}
	return []cloud.Event{e}, nil
}

// Subscribe implements cloud.Notifier. Withings has no subscriptions of an application.
func (v *vendor) Subscribe(context.Context, string) (time.Time, error) {
	return v.clock().Add(reconcile), nil
}

// profile is a subscription of a user.
type profile struct {
	Appli    int    `json:"appli"`
	Callback string `json:"callbackurl"`
}

// list returns the subscriptions of the client's user to this application.
func list(ctx context.Context, c *cloud.Client) ([]profile, error) {
	b, err := c.PostForm(ctx, "/notify", url.Values{"action": {"list"}})
	if err != nil {
		return nil, err
	}
	if b, err = opened(b); err != nil {
		return nil, err
	}
	var body struct {
		Profiles []profile `json:"profiles"`
	}
	if json.Unmarshal(b, &body) != nil || len(body.Profiles) > 1000 {
		return nil, cloud.Malformed()
	}
	return body.Profiles, nil
}

// SubscribeAccount implements cloud.AccountNotifier. It subscribes to the categories that
// the user's scopes cover, and ends the subscriptions below the callback that are no
// longer needed. Those of other servers of the operator are left alone.
func (v *vendor) SubscribeAccount(ctx context.Context, c *cloud.Client, callback string,
	granted []string) (time.Time, error) {
	callback = strings.TrimSuffix(callback, "/")
	to := callback + "/" + v.secret(callback)
	if err := v.reachable(to); err != nil {
		return time.Time{}, err
	}
	c = c.For(v.api, nil)
	have, err := list(ctx, c)
	if err != nil {
		return time.Time{}, err
	}
	var first error
	for _, one := range categories {
		want := profile{one.appli, to}
		scope := cloud.Find(v.Streams(), one.stream).Scope
		if !slices.Contains(granted, scope) || slices.Contains(have, want) {
			continue
		}
		if err := notify(ctx, c, "subscribe", want); err != nil && first == nil {
			first = err
		}
	}
	for _, p := range have {
		known := slices.ContainsFunc(categories, func(c category) bool {
			return c.appli == p.Appli && slices.Contains(granted, cloud.Find(v.Streams(), c.stream).Scope)
		})
		if !strings.HasPrefix(p.Callback, callback+"/") || p.Callback == to && known {
			continue
		}
		if err := notify(ctx, c, "revoke", p); err != nil && first == nil {
			first = err
		}
	}
	return v.clock().Add(reconcile), first
}

// reachable returns an error for a callback that Withings refuses, unless the operator
// has replaced the URL of the API, as for tests.
func (v *vendor) reachable(to string) error {
	u, err := url.Parse(to)
	switch {
	case err != nil || len(to) > maxCallback:
		return errors.New("withings: the URL of the webhook is longer than 255 characters or invalid")
	case v.api != documentedAPI:
		return nil
	case u.Scheme != "https" || net.ParseIP(u.Hostname()) != nil || !strings.Contains(u.Hostname(), ".") ||
		u.Port() != "" && u.Port() != "80" && u.Port() != "443":
		return errors.New("withings: the URL of the webhook must be HTTPS with a domain name and port 443 or 80")
	}
	return nil
}

// notify sends a request about a subscription.
func notify(ctx context.Context, c *cloud.Client, action string, p profile) error {
	b, err := c.PostForm(ctx, "/notify", url.Values{"action": {action}, "callbackurl": {p.Callback},
		"appli": {strconv.Itoa(p.Appli)}})
	if err == nil {
		_, err = opened(b)
	}
	return err
}
