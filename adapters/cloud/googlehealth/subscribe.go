package googlehealth

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

const (
	platformScope = "https://www.googleapis.com/auth/cloud-platform"
	assertionLife = time.Hour
	tokenMargin   = time.Minute
	reconcile     = day
	retry         = time.Hour        // after a failure
	poll          = 10 * time.Second // while an operation is running
)

// subscriber manages the subscriber of this server in the operator's project. It is
// safe for concurrent use.
type subscriber struct {
	vendor      *vendor
	project, id string
	secret      string // value of Authorization
	email       string
	keyID       string
	key         *rsa.PrivateKey
	tokenURL    string

	mu       sync.Mutex // protects the fields below, and is held during Subscribe
	token    string
	expires  time.Time
	pending  string   // name of the operation that is running, or ""
	verified [32]byte // hash of the callback and the secret that Google has verified
}

// newSubscriber reads the key of the service account.
func (v *vendor) newSubscriber(c cloud.Config, secret string) (*subscriber, error) {
	var account struct {
		Type         string `json:"type"`
		ClientEmail  string `json:"client_email"`
		PrivateKeyID string `json:"private_key_id"`
		PrivateKey   string `json:"private_key"`
		TokenURI     string `json:"token_uri"`
	}
	if json.Unmarshal([]byte(c.Options["service-account-file"]), &account) != nil ||
		account.Type != "service_account" || account.ClientEmail == "" {
		return nil, errors.New("fitbit: service-account-file is not the key of a service account in JSON")
	}
	block, _ := pem.Decode([]byte(account.PrivateKey))
	if block == nil {
		return nil, errors.New("fitbit: service-account-file has no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("fitbit: the private key in service-account-file is not RSA in PKCS #8")
	}
	tokenURL, err := c.Address("token_uri in service-account-file", account.TokenURI, documentedToken)
	if err != nil {
		return nil, fmt.Errorf("fitbit: %w", err)
	}
	s := &subscriber{vendor: v, project: c.Options["project-number"], id: c.Options["subscriber-id"], secret: secret,
		email: account.ClientEmail, keyID: account.PrivateKeyID, key: key, tokenURL: tokenURL}
	if s.id == "" {
		s.id = "pulsegate"
	}
	if s.project == "" || strings.Trim(s.project, "0123456789") != "" {
		return nil, errors.New("fitbit: project-number must be the number of the Google Cloud project, not its id")
	}
	if !isSubscriberID(s.id) {
		return nil, errors.New("fitbit: subscriber-id must have 4 to 36 lower-case letters, digits and hyphens, " +
			"and begin with a letter")
	}
	if secret == "" {
		return nil, errors.New("fitbit: service-account-file needs webhook-secret-file")
	}
	return s, nil
}

func isSubscriberID(s string) bool {
	return len(s) >= 4 && len(s) <= 36 && s[0] >= 'a' && s[0] <= 'z' && !strings.HasSuffix(s, "-") &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// resourceOf is a subscriber as Google states it.
type resourceOf struct {
	Name        string       `json:"name,omitempty"`
	EndpointURI string       `json:"endpointUri"`
	State       string       `json:"state,omitempty"`
	Configs     []config     `json:"subscriberConfigs"`
	Secret      *authorizing `json:"endpointAuthorization,omitempty"`
}

type config struct {
	DataTypes []string `json:"dataTypes"`
	Policy    string   `json:"subscriptionCreatePolicy"`
}

type authorizing struct {
	Secret string `json:"secret,omitempty"`
}

// operation is a long-running operation.
type operation struct {
	Name  string  `json:"name"`
	Done  bool    `json:"done"`
	Error *status `json:"error"`
}

// Subscribe implements cloud.Notifier. Creating and changing a subscriber takes Google
// some time, because it verifies the endpoint. Meanwhile Subscribe wants to be called
// again after some seconds.
func (v *vendor) Subscribe(ctx context.Context, callback string) (time.Time, error) {
	now := v.clock()
	if len(v.secrets) == 0 {
		return now.Add(reconcile), &cloud.Error{Problem: cloud.Rejected, Reason: "no-webhook-secret"}
	}
	if v.subscriber == nil {
		return now.Add(reconcile), nil
	}
	s := v.subscriber
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := s.reconcile(ctx, callback)
	if err == nil {
		return now.Add(next), nil
	}
	wait := retry
	if e, ok := errors.AsType[*cloud.Error](err); ok {
		wait = max(wait, e.RetryAfter)
	}
	return now.Add(wait), err
}

// reconcile makes the subscriber what it should be. It returns the time until it is to
// be called again.
func (s *subscriber) reconcile(ctx context.Context, callback string) (time.Duration, error) {
	want := resourceOf{EndpointURI: callback, Secret: &authorizing{Secret: s.secret},
		Configs: []config{{DataTypes: s.dataTypes(), Policy: "AUTOMATIC"}}}
	sum := sha256.Sum256([]byte(callback + "\n" + s.secret))
	if s.pending != "" {
		running, err := s.poll(ctx)
		if err != nil {
			return 0, err
		}
		if running {
			return poll, nil
		}
		s.verified = sum
	}
	have, err := s.read(ctx)
	if err != nil {
		return 0, err
	}
	var op []byte
	switch {
	case have == nil:
		op, err = s.call(ctx, http.MethodPost, s.parent()+"/subscribers", url.Values{"subscriberId": {s.id}}, want)
	case s.verified != sum || !have.equal(&want):
		op, err = s.call(ctx, http.MethodPatch, s.name(),
			url.Values{"updateMask": {"endpoint_uri,subscriber_configs,endpoint_authorization"}}, want)
	default:
		return reconcile, nil
	}
	if err != nil {
		return 0, err
	}
	running, err := s.follow(op)
	if err != nil {
		return 0, err
	}
	if running {
		return poll, nil
	}
	s.verified = sum
	return reconcile, nil
}

func (s *subscriber) parent() string { return "projects/" + s.project }
func (s *subscriber) name() string   { return s.parent() + "/subscribers/" + s.id }

// dataTypes returns the types to be announced.
func (s *subscriber) dataTypes() []string {
	var out []string
	for _, t := range s.vendor.types {
		if t.notified {
			out = append(out, t.name)
		}
	}
	slices.Sort(out)
	return out
}

// equal reports whether a subscriber is what it should be. Google does not tell the
// secret.
func (r *resourceOf) equal(want *resourceOf) bool {
	if r.EndpointURI != want.EndpointURI || r.State != "ACTIVE" || len(r.Configs) != 1 ||
		r.Configs[0].Policy != want.Configs[0].Policy {
		return false
	}
	return slices.Equal(slices.Sorted(slices.Values(r.Configs[0].DataTypes)), want.Configs[0].DataTypes)
}

// read returns the subscriber, or nil if there is none.
func (s *subscriber) read(ctx context.Context) (*resourceOf, error) {
	cursor := ""
	for range 20 { // 1000 subscribers each
		params := url.Values{"pageSize": {"1000"}}
		if cursor != "" {
			params.Set("pageToken", cursor)
		}
		body, err := s.call(ctx, http.MethodGet, s.parent()+"/subscribers", params, nil)
		if err != nil {
			return nil, err
		}
		var list *struct {
			Subscribers []resourceOf `json:"subscribers"`
			Next        string       `json:"nextPageToken"`
		}
		if json.Unmarshal(body, &list) != nil || list == nil {
			return nil, cloud.Malformed()
		}
		for _, r := range list.Subscribers {
			// The name may have the id of the project instead of its number.
			if strings.HasSuffix(r.Name, "/subscribers/"+s.id) {
				return &r, nil
			}
		}
		if list.Next == "" {
			return nil, nil
		}
		cursor = list.Next
	}
	return nil, cloud.Malformed()
}

// follow reads an operation. It returns true if the operation is still running.
func (s *subscriber) follow(body []byte) (bool, error) {
	var op *operation
	if json.Unmarshal(body, &op) != nil || op == nil {
		return false, cloud.Malformed()
	}
	s.pending = ""
	switch {
	case op.Error != nil:
		reason := op.Error.reason()
		if reason == "" {
			reason = "operation-failed"
		}
		return false, &cloud.Error{Problem: cloud.Rejected, Reason: reason}
	case op.Done:
		return false, nil
	}
	for part := range strings.SplitSeq(op.Name, "/") {
		if !answer.IsID(part) {
			return false, cloud.Malformed()
		}
	}
	s.pending = op.Name
	return true, nil
}

// poll reads the operation that is running. An operation that is no longer known is
// over; its result shows in the subscriber.
func (s *subscriber) poll(ctx context.Context) (running bool, err error) {
	body, err := s.call(ctx, http.MethodGet, s.pending, nil, nil)
	if err != nil {
		if cloud.ProblemOf(err) == cloud.NotFound {
			s.pending = ""
			return false, nil
		}
		return false, err
	}
	return s.follow(body)
}

// call sends a request with the token of the service account.
func (s *subscriber) call(ctx context.Context, method, path string, query url.Values, body any) ([]byte, error) {
	token, err := s.accessToken(ctx)
	if err != nil {
		return nil, err
	}
	var raw []byte
	if body != nil {
		if raw, err = json.Marshal(body); err != nil {
			return nil, &cloud.Error{Problem: cloud.Rejected, Err: err}
		}
	}
	to := s.vendor.api + "/v4/" + path
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	rq, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(raw))
	if err != nil {
		return nil, &cloud.Error{Problem: cloud.Rejected, Err: err}
	}
	rq.Header.Set("Authorization", "Bearer "+token)
	rq.Header.Set("Accept", "application/json")
	if raw != nil {
		rq.Header.Set("Content-Type", "application/json")
	}
	reply, _, err := cloud.Do(s.vendor.http, rq, s.vendor.clock(), classify)
	if cloud.ProblemOf(err) == cloud.Unauthorized {
		s.token = ""
	}
	return reply, err
}

// accessToken returns a token of the service account: RFC 7523, section 2.1.
func (s *subscriber) accessToken(ctx context.Context) (string, error) {
	now := s.vendor.clock()
	if s.token != "" && now.Before(s.expires) {
		return s.token, nil
	}
	assertion, err := s.assertion(now)
	if err != nil {
		return "", &cloud.Error{Problem: cloud.Rejected, Reason: "service-account-key"}
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, s.tokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", &cloud.Error{Problem: cloud.Rejected, Err: err}
	}
	rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	body, _, err := cloud.Do(s.vendor.http, rq, now, func(code int, _ http.Header, body []byte) *cloud.Error {
		var b struct{ Error string }
		_ = json.Unmarshal(body, &b) // no reason then
		return &cloud.Error{Problem: cloud.ByStatus(code), Reason: cloud.Reason(b.Error)}
	})
	if err != nil {
		return "", err
	}
	var t struct {
		Token string  `json:"access_token"`
		Type  string  `json:"token_type"`
		Life  float64 `json:"expires_in"`
	}
	if json.Unmarshal(body, &t) != nil || t.Token == "" || !strings.EqualFold(t.Type, "Bearer") || t.Life <= 0 ||
		t.Life > 1e6 {
		return "", cloud.Malformed()
	}
	s.token, s.expires = t.Token, now.Add(time.Duration(t.Life)*time.Second-tokenMargin)
	return s.token, nil
}

func (s *subscriber) assertion(now time.Time) (string, error) {
	t, err := jwt.NewBuilder().Issuer(s.email).Audience([]string{s.tokenURL}).IssuedAt(now).
		Expiration(now.Add(assertionLife)).Claim("scope", platformScope).Build()
	if err != nil {
		return "", err
	}
	t.Options().Enable(jwt.FlattenAudience) // Google documents a string
	h := jws.NewHeaders()
	if s.keyID != "" {
		if err := h.Set(jws.KeyIDKey, s.keyID); err != nil {
			return "", err
		}
	}
	signed, err := jwt.Sign(t, jwt.WithKey(jwa.RS256, s.key, jws.WithProtectedHeaders(h)))
	return string(signed), err
}
