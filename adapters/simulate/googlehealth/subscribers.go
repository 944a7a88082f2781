package googlehealth

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Policies for creating subscriptions.
const (
	automatic = "AUTOMATIC"
	manual    = "MANUAL"
)

// subscriberConfig is a SubscriberConfig.
type subscriberConfig struct {
	DataTypes                []string `json:"dataTypes"`
	SubscriptionCreatePolicy string   `json:"subscriptionCreatePolicy"`
}

// endpointAuthorization is an EndpointAuthorization.
type endpointAuthorization struct {
	Secret    string `json:"secret"`
	SecretSet bool   `json:"secretSet"`
}

// subscriber receives the webhooks of the project.
type subscriber struct {
	id, uri, secret  string
	configs          []subscriberConfig
	created, updated time.Time
	subscriptions    map[string]*subscription
}

// subscription is one of the MANUAL policy.
type subscription struct {
	id, account string
	types       []string
	created     time.Time
}

// policy returns the policy for a type, or "".
func (s *subscriber) policy(t *dataType) string {
	for _, c := range s.configs {
		if slices.Contains(c.DataTypes, t.name) {
			return c.SubscriptionCreatePolicy
		}
	}
	return ""
}

// admin returns a handler that checks the access token of a service account and the
// project of the path before it calls next.
func (s *Server) admin(next func(*http.Request) (any, *apiError)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t := s.find(bearer(r))
		body, bad := any(nil), (*apiError)(nil)
		switch project := r.PathValue("project"); {
		case t == nil:
			bad = errUnauthenticated
		case !slices.Contains(t.scopes, cloudPlatform):
			bad = errScope
		case strings.Trim(project, "0123456789") != "":
			bad = invalid("parent", "The project must be given by its number.")
		case project != s.opts.Project:
			bad = denied("The caller does not have permission.")
		default:
			body, bad = next(r)
		}
		if bad != nil {
			fail(w, bad)
			return
		}
		send(w, http.StatusOK, body)
	}
}

var idPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{2,34}[a-z0-9]$`)

// chooseID returns the id that the client asks for, or a new one. The caller holds mu.
func (s *Server) chooseID(asked, field string) (string, *apiError) {
	if asked == "" {
		s.serial++
		return s.key.Named(field).With(s.serial).UUID(), nil
	}
	if !idPattern.MatchString(asked) {
		return "", invalid(field, "The id must match [a-z]([a-z0-9-]{2,34}[a-z0-9]).")
	}
	return asked, nil
}

// checkConfigs checks the configurations of a subscriber.
func checkConfigs(configs []subscriberConfig) *apiError {
	seen := map[string]bool{}
	for _, c := range configs {
		if c.SubscriptionCreatePolicy != automatic && c.SubscriptionCreatePolicy != manual {
			return invalid("subscriberConfigs.subscriptionCreatePolicy", "The policy must be AUTOMATIC or MANUAL.")
		}
		if len(c.DataTypes) == 0 {
			return invalid("subscriberConfigs.dataTypes", "At least one data type is required.")
		}
		for _, name := range c.DataTypes {
			if t := dataTypes[name]; t == nil || !t.webhook || seen[name] {
				return invalid("subscriberConfigs.dataTypes", "A data type is repeated or has no notifications.")
			}
			seen[name] = true
		}
	}
	return nil
}

// checkEndpoint checks address and secret of an endpoint.
func (s *Server) checkEndpoint(uri, secret string) *apiError {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(s.opts.AllowHTTP && u.Scheme == "http") {
		return invalid("endpointUri", "The endpoint must be a full HTTPS URI.")
	}
	if secret == "" || strings.ContainsAny(secret, "\r\n") || !strings.Contains(secret, " ") {
		return invalid("endpointAuthorization.secret", "The secret must include the authorization scheme.")
	}
	return nil
}

// verify sends the two verification requests.
func (s *Server) verify(ctx context.Context, uri, secret string) *apiError {
	body := []byte(`{"type": "verification"}`)
	if code := s.post(ctx, uri, secret, "", body); code != http.StatusCreated && code != http.StatusOK {
		return precondition("Endpoint verification failed: the request with authorization was not answered 201.")
	}
	if code := s.post(ctx, uri, "", "", body); code != http.StatusUnauthorized && code != http.StatusForbidden {
		return precondition("Endpoint verification failed: the request without authorization was not answered " +
			"401 or 403.")
	}
	return nil
}

// post sends a body to an endpoint and returns the status, or 0 if there is no answer. It
// follows no redirects.
func (s *Server) post(ctx context.Context, uri, secret, signature string, body []byte) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Google-Health-API-Webhooks")
	if secret != "" {
		req.Header.Set("Authorization", secret)
	}
	if signature != "" {
		req.Header.Set(s.opts.SignatureHeader, signature)
	}
	client := *s.opts.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()                     // the answer has been read
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // only to reuse the connection
	return resp.StatusCode
}

// subscriberJSON returns a subscriber as the API answers it.
func (s *Server) subscriberJSON(sub *subscriber) object {
	var configs []any
	for _, c := range sub.configs {
		configs = append(configs, object{"dataTypes": c.DataTypes,
			"subscriptionCreatePolicy": c.SubscriptionCreatePolicy})
	}
	out := object{"name": s.subscriberName(sub), "endpointUri": sub.uri, "state": "ACTIVE",
		"endpointAuthorization": object{"secretSet": true}, "createTime": stamp(sub.created),
		"updateTime": stamp(sub.updated)}
	if configs != nil {
		out["subscriberConfigs"] = configs
	}
	return out
}

func (s *Server) subscriberName(sub *subscriber) string {
	return "projects/" + s.opts.Project + "/subscribers/" + sub.id
}

// operation returns a finished long-running operation. The caller holds mu.
func (s *Server) operation(typ string, response object) object {
	if typ == "" {
		typ = "google.protobuf.Empty"
	} else {
		typ = "google.devicesandservices.health.v4." + typ
	}
	response["@type"] = "type.googleapis.com/" + typ
	return object{"name": "operations/" + s.draw("operation", 20), "done": true, "response": response}
}

func (s *Server) createSubscriber(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r, "subscriberId"); bad != nil {
		return nil, bad
	}
	var body struct {
		EndpointURI           string                `json:"endpointUri"`
		SubscriberConfigs     []subscriberConfig    `json:"subscriberConfigs"`
		EndpointAuthorization endpointAuthorization `json:"endpointAuthorization"`
	}
	if bad := readJSON(r.Body, &body); bad != nil {
		return nil, bad
	}
	secret := body.EndpointAuthorization.Secret
	if bad := cmp.Or(s.checkEndpoint(body.EndpointURI, secret), checkConfigs(body.SubscriberConfigs)); bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	id, bad := s.chooseID(r.URL.Query().Get("subscriberId"), "subscriberId")
	exists := s.subscribers[id] != nil
	s.mu.Unlock()
	if bad != nil {
		return nil, bad
	}
	if exists {
		return nil, errExists
	}
	if bad := s.verify(r.Context(), body.EndpointURI, secret); bad != nil {
		return nil, bad
	}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subscribers[id] != nil {
		return nil, errExists
	}
	s.collectAll(now)
	sub := &subscriber{id: id, uri: body.EndpointURI, secret: secret, configs: body.SubscriberConfigs, created: now,
		updated: now, subscriptions: map[string]*subscription{}}
	s.subscribers[id] = sub
	s.forget()
	return s.operation("Subscriber", s.subscriberJSON(sub)), nil
}

// pageOf cuts a page out of a list of n items. The token is the number of the first item.
func (s *Server) pageOf(r *http.Request, n, preset, most int) (from, to int, next string, bad *apiError) {
	params := r.URL.Query()
	size, bad := pageSize(params.Get("pageSize"), preset, most)
	if bad != nil {
		return 0, 0, "", bad
	}
	tok, bad := s.openToken(params.Get("pageToken"), requestHash(r.URL.Path, params))
	if bad != nil {
		return 0, 0, "", bad
	}
	from = min(max(tok.Rank, 0), n)
	to = min(from+size, n)
	if to < n {
		tok.Rank = to
		next = s.sealToken(tok)
	}
	return from, to, next, nil
}

func (s *Server) listSubscribers(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r, "pageSize", "pageToken"); bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.sortedSubscribers()
	from, to, next, bad := s.pageOf(r, len(all), 50, 1000)
	if bad != nil {
		return nil, bad
	}
	out := object{}
	if len(all) > 0 {
		out["totalSize"] = len(all)
	}
	var list []any
	for _, sub := range all[from:to] {
		list = append(list, s.subscriberJSON(sub))
	}
	if list != nil {
		out["subscribers"] = list
	}
	if next != "" {
		out["nextPageToken"] = next
	}
	return out, nil
}

// sortedSubscribers returns the subscribers by id. The caller holds mu.
func (s *Server) sortedSubscribers() []*subscriber {
	var out []*subscriber
	for _, sub := range s.subscribers {
		out = append(out, sub)
	}
	slices.SortFunc(out, func(a, b *subscriber) int { return cmp.Compare(a.id, b.id) })
	return out
}

// subscriber returns the subscriber of the path. The caller holds mu.
func (s *Server) subscriber(r *http.Request) (*subscriber, *apiError) {
	sub := s.subscribers[r.PathValue("id")]
	if sub == nil {
		return nil, errNotFound
	}
	return sub, nil
}

// masked returns a function that reports whether a field is to be updated. Without a mask
// the fields of the body are.
func masked(r *http.Request) func(camelName, snakeName string, given bool) bool {
	mask := r.URL.Query().Get("updateMask")
	return func(camelName, snakeName string, given bool) bool {
		if mask == "" || mask == "*" {
			return given
		}
		return slices.ContainsFunc(strings.Split(mask, ","), func(f string) bool {
			f, _, _ = strings.Cut(strings.TrimSpace(f), ".")
			return f == camelName || f == snakeName
		})
	}
}

func (s *Server) patchSubscriber(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r, "updateMask"); bad != nil {
		return nil, bad
	}
	var body struct {
		Name                  string                 `json:"name"`
		State                 string                 `json:"state"`
		CreateTime            string                 `json:"createTime"`
		UpdateTime            string                 `json:"updateTime"`
		EndpointURI           string                 `json:"endpointUri"`
		SubscriberConfigs     []subscriberConfig     `json:"subscriberConfigs"`
		EndpointAuthorization *endpointAuthorization `json:"endpointAuthorization"`
	}
	if bad := readJSON(r.Body, &body); bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	sub, bad := s.subscriber(r)
	var next subscriber
	if bad == nil {
		next = *sub
	}
	s.mu.Unlock()
	if bad != nil {
		return nil, bad
	}
	updates, verify := masked(r), false
	if updates("endpointUri", "endpoint_uri", body.EndpointURI != "") {
		next.uri, verify = body.EndpointURI, true
	}
	if updates("endpointAuthorization", "endpoint_authorization", body.EndpointAuthorization != nil) {
		next.secret, verify = "", true
		if body.EndpointAuthorization != nil {
			next.secret = body.EndpointAuthorization.Secret
		}
	}
	if updates("subscriberConfigs", "subscriber_configs", body.SubscriberConfigs != nil) {
		next.configs = body.SubscriberConfigs
	}
	if bad := cmp.Or(s.checkEndpoint(next.uri, next.secret), checkConfigs(next.configs)); bad != nil {
		return nil, bad
	}
	if verify {
		if bad := s.verify(r.Context(), next.uri, next.secret); bad != nil {
			return nil, bad
		}
	}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub, bad = s.subscriber(r); bad != nil {
		return nil, bad
	}
	s.collectAll(now)
	sub.uri, sub.secret, sub.configs, sub.updated = next.uri, next.secret, next.configs, now
	s.forget()
	return s.operation("Subscriber", s.subscriberJSON(sub)), nil
}

func (s *Server) deleteSubscriber(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r, "force"); bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, bad := s.subscriber(r)
	if bad != nil {
		return nil, bad
	}
	if len(sub.subscriptions) > 0 && r.URL.Query().Get("force") != "true" {
		return nil, precondition("The subscriber has subscriptions; delete them or use force.")
	}
	delete(s.subscribers, sub.id)
	s.queue = slices.DeleteFunc(s.queue, func(d *delivery) bool { return d.subscriber == sub.id })
	return s.operation("", object{}), nil
}
