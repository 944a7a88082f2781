package token

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/keys"
	"pulsegate/smart/scope"
)

const (
	// MaxLife is the longest life of an access token.
	MaxLife = 5 * time.Minute
	// Type is the typ of an access token (RFC 9068).
	Type = "at+jwt"

	room      = "jti/"
	highWater = room + "~high-water"
	keepJTI   = time.Hour
)

// Store is the small state of a store.Store.
type Store interface {
	Commit(ctx context.Context, b *store.Batch) (store.Result, error)
	Get(ctx context.Context, key string) ([]byte, error)
}

// Recorder is the audit.Recorder.
type Recorder interface {
	Prepare(ev audit.Event) (store.Write, store.Leaf, error)
	Record(ctx context.Context, evs ...audit.Event) error
}

// Options of an Endpoint.
type Options struct {
	Store      Store
	Audit      Recorder
	Keys       *keys.Ring
	Assertions *client.Assertions
	Scopes     scope.Parser
	Clock      func() time.Time
	Issuer     string // the server's base URL
	Audience   string // the FHIR base URL
	Logger     *slog.Logger
	Limits     Limits
}

// Endpoint issues tokens. It is safe for concurrent use.
type Endpoint struct {
	opts   Options
	issued metric.Int64Counter
	limits *limiter

	mu   sync.Mutex
	high int64 // Unix seconds
}

// New reads the high-water mark.
func New(ctx context.Context, o Options) (*Endpoint, error) {
	const op = "token.New"
	if o.Store == nil || o.Audit == nil || o.Keys == nil || o.Assertions == nil || o.Clock == nil || o.Issuer == "" || o.Audience == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Endpoint{opts: o, limits: newLimiter(o.Limits)}
	b, err := o.Store.Get(ctx, highWater)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if b != nil {
		if e.high, err = strconv.ParseInt(string(b), 10, 64); err != nil {
			return nil, fhir.Wrap(op, err)
		}
	}
	e.issued, err = otel.Meter("pulsegate/smart/token").Int64Counter("pulsegate.token.requests",
		metric.WithDescription("Token requests by outcome"))
	return e, fhir.Wrap(op, err)
}

// now is the time that never goes back.
func (e *Endpoint) now(ctx context.Context) time.Time {
	t := e.opts.Clock().UTC()
	e.mu.Lock()
	defer e.mu.Unlock()
	if behind := e.high - t.Unix(); behind > 0 {
		if behind > int64(client.Skew/time.Second) {
			e.opts.Logger.WarnContext(ctx, "the clock is behind the time of an earlier token", "seconds", behind)
		}
		return time.Unix(e.high, 0).UTC()
	}
	e.high = t.Unix()
	return t
}

// Token is an issued access token.
type Token struct {
	Access  string
	Scope   string
	Expires time.Time
	Life    time.Duration
}

type claims struct {
	Iss      string `json:"iss"`
	Sub      string `json:"sub"`
	Aud      string `json:"aud"`
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
	JTI      string `json:"jti"`
	Iat      int64  `json:"iat"`
	Exp      int64  `json:"exp"`
}

// order is what one issue needs.
type order struct {
	client  client.Client
	scope   string // asked
	life    time.Duration
	now     time.Time
	use     *client.Assertion // its jti is used up; nil for the operator
	context audit.Event       // query, addresses
}

// errScope marks an error of the asked scope.
type errScope struct{ error }

func (e errScope) Unwrap() error { return e.error }

// issue narrows the scope and commits jti, event and leaf, before the token
// is given out.
func (e *Endpoint) issue(ctx context.Context, o order) (Token, error) {
	const op = "token.issue"
	asked, err := e.opts.Scopes.Parse(o.scope)
	if err != nil {
		return Token{}, errScope{err}
	}
	allowed, err := e.opts.Scopes.Parse(o.client.Scope)
	if err != nil {
		return Token{}, fhir.Wrap(op, err)
	}
	granted := scope.Narrow(asked, allowed).String()
	if granted == "" || len(granted) > scope.MaxLength {
		return Token{}, errScope{fhir.Errorf(fhir.Invalid, op, "the client is registered for none of the scopes")}
	}
	life := min(o.life, MaxLife)
	c := claims{Iss: e.opts.Issuer, Sub: o.client.ID, Aud: e.opts.Audience, ClientID: o.client.ID, Scope: granted,
		JTI: rand.Text(), Iat: o.now.Unix(), Exp: o.now.Add(life).Unix()}
	access, err := e.opts.Keys.Sign(Type, c)
	if err != nil {
		return Token{}, err
	}
	ev := o.context
	ev.Outcome, ev.Principal = audit.Success, principal(c, o.client.Name, ev.Principal)
	w, leaf, err := e.opts.Audit.Prepare(ev)
	if err != nil {
		return Token{}, fhir.Wrap(op, err)
	}
	batch := store.Batch{Writes: []store.Write{w}, Leaves: []store.Leaf{leaf}}
	if o.use != nil {
		batch.State = []store.StateWrite{{
			Key:     jtiKey(o.client.ID, o.use.JTI),
			Value:   strconv.AppendInt(nil, o.use.Exp.Unix(), 10),
			Expect:  store.StateAbsent,
			Expires: o.use.Exp.Add(client.Skew + keepJTI),
		}, {Key: highWater, Value: strconv.AppendInt(nil, o.now.Unix(), 10)}}
	}
	if _, err := e.opts.Store.Commit(ctx, &batch); err != nil {
		if o.use != nil && fhir.KindOf(err) == fhir.Conflict {
			return Token{}, fhir.Errorf(fhir.Unauthorized, op, "client_assertion: jti was used before")
		}
		return Token{}, fhir.Wrap(op, err)
	}
	return Token{Access: access, Scope: granted, Expires: time.Unix(c.Exp, 0).UTC(), Life: time.Duration(c.Exp-c.Iat) * time.Second}, nil
}

func jtiKey(clientID, jti string) string {
	sum := sha256.Sum256([]byte(jti))
	return room + clientID + "/" + base64.RawURLEncoding.EncodeToString(sum[:])
}

func principal(c claims, name string, by *access.Principal) *access.Principal {
	p := &access.Principal{ClientID: c.ClientID, ClientName: name, Subject: c.Sub, Issuer: c.Iss, TokenID: c.JTI,
		Scope: c.Scope, Expires: time.Unix(c.Exp, 0).UTC()}
	if by != nil {
		p.Operator = by.Operator
	}
	return p
}

// Issue makes a token for a registered client without an assertion: for the
// admin socket and the server's own start only. operator goes into the audit
// trail.
func (e *Endpoint) Issue(ctx context.Context, clientID, asked string, life time.Duration, operator string) (Token, error) {
	c, err := e.opts.Assertions.Clients.Get(ctx, clientID)
	if err != nil {
		return Token{}, err
	}
	if c.Disabled {
		return Token{}, fhir.Errorf(fhir.Forbidden, "token.Issue", "the client is disabled")
	}
	if life < time.Second {
		return Token{}, fhir.Errorf(fhir.Invalid, "token.Issue", "a token lives at least a second")
	}
	return e.issue(ctx, order{client: c, scope: asked, life: life, now: e.now(ctx), context: audit.Event{
		Kind: audit.TokenIssue, Query: "operator issue", Principal: &access.Principal{Operator: operator}}})
}

func (e *Endpoint) count(ctx context.Context, outcome string) {
	e.issued.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}

func remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return strings.Clone(r.RemoteAddr)
}
