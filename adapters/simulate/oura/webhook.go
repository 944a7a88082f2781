package oura

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// subscriptionLife is the time after which a subscription ends unless it is renewed.
const subscriptionLife = 90 * 24 * time.Hour

// dataTypes lists the types that a subscription can name.
var dataTypes = []string{"tag", "enhanced_tag", "workout", "session", "sleep", "daily_sleep", "daily_readiness",
	"daily_activity", "daily_spo2", "sleep_time", "rest_mode_period", "ring_configuration", "daily_stress",
	"daily_cardiovascular_age", "daily_resilience", "vo2_max", "meal"}

var eventTypes = []string{"create", "update", "delete"}

// subscription is a webhook subscription. It is immutable; an update replaces it.
type subscription struct {
	id       string
	client   Client
	callback string
	token    string // verification_token
	event    string
	dataType string
	expires  time.Time
	serial   int // order of creation
}

// body returns the subscription as the API shows it. The time has no zone, as in the live
// service; it is in UTC.
func (sub *subscription) body() map[string]any {
	return map[string]any{"id": sub.id, "callback_url": sub.callback, "event_type": sub.event,
		"data_type": sub.dataType, "expiration_time": sub.expires.UTC().Format("2006-01-02T15:04:05.000000")}
}

// webhook checks the client of a request and injects faults.
func (s *Server) webhook(handle func(http.ResponseWriter, *http.Request, Client)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, c := range s.opts.Clients {
			if c.ID == r.Header.Get("x-client-id") && subtle.ConstantTimeCompare([]byte(c.Secret),
				[]byte(r.Header.Get("x-client-secret"))) == 1 {
				if !s.faults.Before(w, r, "webhook "+c.ID, s.opts.Clock.Now()) {
					handle(w, r, c)
				}
				return
			}
		}
		detail(w, http.StatusUnauthorized, "Invalid client id or secret")
	}
}

// expire removes the subscriptions that have ended. The caller holds s.mu.
func (s *Server) expire() {
	now := s.opts.Wall()
	for id, sub := range s.subs {
		if !now.Before(sub.expires) {
			delete(s.subs, id)
		}
	}
}

func (s *Server) listSubscriptions(w http.ResponseWriter, _ *http.Request, c Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	var own []*subscription
	for _, sub := range s.subs {
		if sub.client.ID == c.ID {
			own = append(own, sub)
		}
	}
	slices.SortFunc(own, func(a, b *subscription) int { return a.serial - b.serial })
	out := []any{}
	for _, sub := range own {
		out = append(out, sub.body())
	}
	reply(w, http.StatusOK, out)
}

// own returns a subscription of a client, or answers 404 with a text that contains its id.
func (s *Server) own(w http.ResponseWriter, r *http.Request, c Client, text string) (subscription, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	id := r.PathValue("id")
	if sub := s.subs[id]; sub != nil && sub.client.ID == c.ID {
		return *sub, true
	}
	detail(w, http.StatusNotFound, fmt.Sprintf(text, id)) // the description says 403, the live service 404
	return subscription{}, false
}

const (
	noSubscription = "Subscription with id %s not found."
	noWebhook      = "No webhook id %s found."
)

func (s *Server) readSubscription(w http.ResponseWriter, r *http.Request, c Client) {
	if sub, ok := s.own(w, r, c, noWebhook); ok {
		reply(w, http.StatusOK, sub.body())
	}
}

func (s *Server) deleteSubscription(w http.ResponseWriter, r *http.Request, c Client) {
	if sub, ok := s.own(w, r, c, noWebhook); ok {
		s.mu.Lock()
		delete(s.subs, sub.id)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) renewSubscription(w http.ResponseWriter, r *http.Request, c Client) {
	if sub, ok := s.own(w, r, c, noSubscription); ok {
		sub.expires = s.opts.Wall().Add(subscriptionLife)
		s.put(w, http.StatusOK, sub)
	}
}

// put stores a subscription and answers with it. A client has one subscription per event
// and type.
func (s *Server) put(w http.ResponseWriter, status int, sub subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.subs {
		if other.id != sub.id && other.client.ID == sub.client.ID && other.event == sub.event &&
			other.dataType == sub.dataType {
			detail(w, http.StatusConflict, "A subscription for this event type and data type exists")
			return
		}
	}
	s.subs[sub.id] = &sub
	reply(w, status, sub.body())
}

// requestBody is the body that creates or changes a subscription.
type requestBody struct {
	Callback string `json:"callback_url"`
	Token    string `json:"verification_token"`
	Event    string `json:"event_type"`
	DataType string `json:"data_type"`
}

// parseBody reads a body, or answers 422. If all is set, every member is required.
func parseBody(w http.ResponseWriter, r *http.Request, all bool) (b requestBody, ok bool) {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&b); err != nil {
		reply(w, http.StatusUnprocessableEntity, map[string]any{"detail": []any{
			map[string]any{"type": "json_invalid", "loc": []string{"body"}, "msg": "JSON decode error"}}})
		return b, false
	}
	problems := []any{}
	check := func(name, value string, required bool, allowed []string) {
		switch {
		case value == "" && required:
			problems = append(problems, map[string]any{"type": "missing", "loc": []string{"body", name},
				"msg": "Field required"})
		case value != "" && allowed != nil && !slices.Contains(allowed, value):
			problems = append(problems, map[string]any{"type": "enum", "loc": []string{"body", name},
				"msg": "Input should be one of " + strings.Join(allowed, ", "), "input": value})
		}
	}
	check("callback_url", b.Callback, all, nil)
	check("verification_token", b.Token, true, nil)
	check("event_type", b.Event, all, eventTypes)
	check("data_type", b.DataType, all, dataTypes)
	if len(problems) > 0 {
		reply(w, http.StatusUnprocessableEntity, map[string]any{"detail": problems})
		return b, false
	}
	return b, true
}

func (s *Server) createSubscription(w http.ResponseWriter, r *http.Request, c Client) {
	b, ok := parseBody(w, r, true)
	if !ok {
		return
	}
	s.mu.Lock()
	key := s.draw()
	sub := subscription{id: key.UUID(), client: c, callback: b.Callback, token: b.Token, event: b.Event,
		dataType: b.DataType, expires: s.opts.Wall().Add(subscriptionLife), serial: s.serial}
	s.mu.Unlock()
	if s.verified(w, r, &sub, key.Named("challenge").Hex(32)) {
		s.put(w, http.StatusCreated, sub)
	}
}

func (s *Server) updateSubscription(w http.ResponseWriter, r *http.Request, c Client) {
	sub, ok := s.own(w, r, c, noWebhook)
	if !ok {
		return
	}
	b, ok := parseBody(w, r, false)
	if !ok {
		return
	}
	sub.token = b.Token
	for _, m := range []struct {
		to    *string
		value string
	}{{&sub.callback, b.Callback}, {&sub.event, b.Event}, {&sub.dataType, b.DataType}} {
		if m.value != "" {
			*m.to = m.value
		}
	}
	s.mu.Lock()
	challenge := s.draw().Hex(32)
	s.mu.Unlock()
	if s.verified(w, r, &sub, challenge) {
		s.put(w, http.StatusOK, sub)
	}
}

// verified sends the challenge to the callback, which must repeat it. Otherwise it
// answers 400.
func (s *Server) verified(w http.ResponseWriter, r *http.Request, sub *subscription, challenge string) bool {
	to, err := url.Parse(sub.callback)
	if err != nil || to.Host == "" {
		detail(w, http.StatusBadRequest, "Callback URL is not valid")
		return false
	}
	q := to.Query()
	q.Set("verification_token", sub.token)
	q.Set("challenge", challenge)
	to.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, to.String(), nil)
	if err != nil {
		detail(w, http.StatusBadRequest, "Callback URL is not valid")
		return false
	}
	res, err := s.opts.HTTP.Do(req)
	if err != nil {
		detail(w, http.StatusBadRequest, "Callback URL could not be verified: no answer")
		return false
	}
	var got struct{ Challenge string }
	err = json.NewDecoder(io.LimitReader(res.Body, 1<<16)).Decode(&got)
	if closed := res.Body.Close(); err == nil {
		err = closed
	}
	if err != nil || res.StatusCode != http.StatusOK || got.Challenge != challenge {
		detail(w, http.StatusBadRequest, "Callback URL could not be verified: the challenge was not repeated")
		return false
	}
	s.mu.Lock()
	s.stats.Challenges++
	s.mu.Unlock()
	return true
}
