package oura

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

const (
	subscriptions = "/v2/webhook/subscription"
	renewBefore   = 7 * day
	reconcile     = day
	retry         = time.Hour // after a failure
)

// subscription is an entry of Oura's list.
type subscription struct {
	ID         string `json:"id"`
	Callback   string `json:"callback_url"`
	EventType  string `json:"event_type"`
	DataType   string `json:"data_type"`
	Expiration string `json:"expiration_time"`
}

// pair returns the part of a subscription's URL below the callback.
func (s *subscription) pair() string { return s.EventType + "/" + s.DataType }

// right reports whether the subscription has the URL that it should have.
func (s *subscription) right(callback string) bool { return s.Callback == callback+"/"+s.pair() }

// expires returns the time of expiry. Oura states it without a zone and means UTC. An
// unreadable time counts as the past.
func (s *subscription) expires() time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s.Expiration); err == nil {
			return t
		}
	}
	return time.Time{}
}

// Subscribe implements cloud.Notifier. It continues after a failed change, so that one
// subscription cannot hold up the others, and returns the first error.
func (v *vendor) Subscribe(ctx context.Context, callback string) (time.Time, error) {
	now := v.clock()
	callback = strings.TrimSuffix(callback, "/")
	body, err := v.call(ctx, http.MethodGet, subscriptions, nil)
	if err != nil {
		return now.Add(max(retry, waitOf(err))), err
	}
	var all []subscription
	if json.Unmarshal(body, &all) != nil || len(all) > 10_000 {
		return now.Add(retry), cloud.Malformed()
	}
	var first error
	for _, change := range v.plan(all, callback, now) {
		if err := v.apply(ctx, change, callback); err != nil {
			if first == nil {
				first = err
			}
			if cloud.ProblemOf(err) == cloud.Throttled || ctx.Err() != nil {
				break
			}
		}
	}
	if first != nil {
		return now.Add(max(retry, waitOf(first))), first
	}
	return now.Add(reconcile), nil
}

func waitOf(err error) time.Duration {
	if e, ok := errors.AsType[*cloud.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// action is a change of a subscription.
type action uint8

const (
	create action = iota
	keep          // and correct or renew it
	remove
)

type change struct {
	action         action
	correct, renew bool // set the URL, extend the lifetime
	subscription
}

// plan returns the changes that make the subscriptions of this server what they should
// be: one for each event of each type. Subscriptions with other URLs belong to other
// servers of the operator and are left alone.
func (v *vendor) plan(all []subscription, callback string, now time.Time) []change {
	var out []change
	held := map[string][]subscription{}
	for _, s := range all {
		if below(s.Callback, callback) || below(s.Callback, v.previous) {
			held[s.pair()] = append(held[s.pair()], s)
		}
	}
	for _, d := range dataTypes {
		for _, operation := range operations {
			want := subscription{EventType: operation, DataType: d.name}
			have := held[want.pair()]
			delete(held, want.pair())
			if len(have) == 0 {
				out = append(out, change{action: create, subscription: want})
				continue
			}
			best := slices.MaxFunc(have, func(a, b subscription) int {
				if a.right(callback) != b.right(callback) {
					if a.right(callback) {
						return 1
					}
					return -1
				}
				return a.expires().Compare(b.expires())
			})
			c := change{action: keep, correct: !best.right(callback), subscription: best}
			c.renew = best.expires().Before(now.Add(renewBefore))
			if c.correct || c.renew {
				out = append(out, c)
			}
			for _, s := range have {
				if s.ID != best.ID {
					out = append(out, change{action: remove, subscription: s})
				}
			}
		}
	}
	for _, s := range all { // in Oura's order
		if _, stray := held[s.pair()]; stray && (below(s.Callback, callback) || below(s.Callback, v.previous)) {
			out = append(out, change{action: remove, subscription: s})
		}
	}
	return out
}

// below reports whether a subscription's URL is that of a callback, or below it.
func below(url, callback string) bool {
	return callback != "" && (url == callback || strings.HasPrefix(url, callback+"/"))
}

// apply makes one change. A subscription that has vanished meanwhile is created again
// if it is needed.
func (v *vendor) apply(ctx context.Context, c change, callback string) error {
	to := callback + "/" + c.pair()
	body := map[string]string{
		"callback_url": to, "verification_token": v.verification(to),
		"event_type": c.EventType, "data_type": c.DataType,
	}
	if c.action != create && !answer.IsID(c.ID) {
		return cloud.Malformed()
	}
	var err error
	if c.action == remove {
		if _, err = v.call(ctx, http.MethodDelete, subscriptions+"/"+c.ID, nil); absent(err) {
			return nil
		}
		return err
	}
	if c.correct {
		_, err = v.call(ctx, http.MethodPut, subscriptions+"/"+c.ID, body)
	}
	if c.renew && err == nil {
		_, err = v.call(ctx, http.MethodPut, subscriptions+"/renew/"+c.ID, nil)
	}
	if c.action == create || absent(err) {
		_, err = v.call(ctx, http.MethodPost, subscriptions, body)
	}
	return err
}

// absent reports whether an error says that there is no such subscription. Oura
// documents the status 403 for it and answers 404.
func absent(err error) bool {
	return err != nil && (cloud.ProblemOf(err) == cloud.NotFound || cloud.ProblemOf(err) == cloud.Permission)
}

// call sends a request with the credentials of this application.
func (v *vendor) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, &cloud.Error{Problem: cloud.Rejected, Err: err}
		}
	}
	rq, err := http.NewRequestWithContext(ctx, method, v.api+path, bytes.NewReader(raw))
	if err != nil {
		return nil, &cloud.Error{Problem: cloud.Rejected, Err: err}
	}
	rq.Header.Set("x-client-id", v.oauth.ClientID)
	rq.Header.Set("x-client-secret", v.oauth.ClientSecret)
	rq.Header.Set("Accept", "application/json")
	if raw != nil {
		rq.Header.Set("Content-Type", "application/json")
	}
	answer, _, err := cloud.Do(v.http, rq, v.clock(), nil)
	return answer, err
}
