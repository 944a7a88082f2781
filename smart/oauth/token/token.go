package token

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/internal/limit"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

const (
	// MaxLife is the longest life of a backend's access token.
	MaxLife = 5 * time.Minute
	// MaxUserLife is the longest that may be configured for a person's.
	MaxUserLife = time.Hour
	// Type is the typ of an access token (RFC 9068).
	Type = "at+jwt"

	room      = "jti/"
	highWater = room + "~high-water"
	// keepJTI is the time for which a jti is kept after its assertion has
	// expired, because the clock may be set back.
	keepJTI = 24 * time.Hour
)

// Options of an Endpoint.
type Options struct {
	Store      store.State
	Audit      audit.Trail
	Keys       *keys.Ring
	Assertions *client.Assertions
	Scopes     scope.Parser
	Clock      func() time.Time
	Rand       io.Reader
	Issuer     string // the server's base URL
	Audience   string // the FHIR base URL
	Logger     *slog.Logger
	Limits     Limits
	// Nonces are demanded in proofs of possession; nil: none are.
	Nonces *dpop.Nonces
	// UserLife is how long an access token for a person lives; zero: 15 min.
	UserLife time.Duration
	// Alive is asked before a refresh token is taken: whether the person's
	// account still stands (and, when the authorization goes with a session,
	// the session), and the roles that it has now. Nil: as at sign-in.
	Alive func(ctx context.Context, s authz.Subject, offline bool) (roles []string, ok bool, err error)
	// Hold returns a write that fails the commit that redeems a code when the
	// person's account has changed since it was asked; ok is false when the
	// account is not what approved. Nil: no such check.
	Hold func(ctx context.Context, s authz.Subject) (w store.StateWrite, ok bool, err error)
	// Begun adds what else goes into the commit that redeems a code, such as
	// the consent that the person's approval was. May be nil.
	Begun func(ctx context.Context, b *store.Batch, approved authz.Code) error
	// Ended adds what else goes into the commit that revokes an authorization,
	// such as the end of a consent that came with it. It is asked again when
	// the commit has lost a race. May be nil.
	Ended func(ctx context.Context, b *store.Batch, a authz.Authorization) error
}

// Endpoint issues tokens. It is safe for concurrent use.
type Endpoint struct {
	opts   Options
	grants *authz.Store
	issued metric.Int64Counter
	limits *limit.Limiter

	mu   sync.Mutex
	high int64 // Unix seconds
}

// Limits of the endpoint; zero fields take the defaults.
type Limits = limit.Limits

// UserLife is how long an access token for a person lives when that is
// configured.
func UserLife(configured time.Duration) time.Duration {
	if configured <= 0 || configured > MaxUserLife {
		return 15 * time.Minute
	}
	return configured
}

// New reads the high-water mark.
func New(ctx context.Context, o Options) (*Endpoint, error) {
	const op = "token.New"
	if o.Store == nil || o.Audit == nil || o.Keys == nil || o.Assertions == nil || o.Clock == nil ||
		o.Rand == nil || o.Issuer == "" || o.Audience == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.UserLife = UserLife(o.UserLife)
	e := &Endpoint{opts: o, limits: limit.New(o.Limits), grants: &authz.Store{State: o.Store}}
	b, err := o.Store.Get(ctx, highWater)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if b != nil {
		if e.high, err = strconv.ParseInt(string(b), 10, 64); err != nil {
			return nil, fhir.Wrap(op, err)
		}
	}
	e.issued, err = otel.Meter("pulsegate/smart/oauth/token").Int64Counter("pulsegate.token.requests",
		metric.WithUnit("{request}"),
		metric.WithDescription("Token requests by outcome"))
	return e, fhir.Wrap(op, err)
}

// Token is an issued access token.
type Token struct {
	Access  string
	Scope   string
	Expires time.Time
	Life    time.Duration
}

type claims struct {
	Iss       string           `json:"iss"`
	Sub       string           `json:"sub"`
	Aud       string           `json:"aud"`
	ClientID  string           `json:"client_id"`
	Scope     string           `json:"scope"`
	JTI       string           `json:"jti"`
	Iat       int64            `json:"iat"`
	Exp       int64            `json:"exp"`
	Authz     string           `json:"authz,omitzero"`
	Patient   string           `json:"patient,omitzero"`
	Encounter string           `json:"encounter,omitzero"`
	FHIRUser  string           `json:"fhirUser,omitzero"`
	ACR       string           `json:"acr,omitzero"`
	AuthTime  int64            `json:"auth_time,omitzero"`
	Confirm   *compact.Confirm `json:"cnf,omitempty"`
}

// order is what one issue needs.
type order struct {
	client  client.Client
	scope   string // asked
	life    time.Duration
	now     time.Time
	use     *client.Assertion // its jti is used up; nil for the operator
	proof   *dpop.Proof       // is used up; nil none
	confirm compact.Confirm
	context audit.Event // query, addresses
}

// errScope marks an error of the asked scope.
type errScope struct{ error }

func (e errScope) Unwrap() error { return e.error }

// backend is what a client without a person may ask for: system/ scopes, and
// launch, which lets an EHR make launches.
func backend(s scope.Set) scope.Set {
	out := s.At(scope.System)
	if s.Has(scope.Launch) {
		out = append(out, scope.Scope{Name: scope.Launch})
	}
	return out
}

// issue narrows the scope and commits jti, event and leaf, before the token
// is given out.
func (e *Endpoint) issue(ctx context.Context, o order) (Token, error) {
	const op = "token.issue"
	asked, err := e.opts.Scopes.Parse(o.scope)
	if err != nil {
		return Token{}, errScope{err}
	}
	if len(backend(asked)) != len(asked) {
		return Token{}, errScope{fhir.Errorf(fhir.Invalid, op, "without a person there are system/ scopes only")}
	}
	allowed, err := e.opts.Scopes.Parse(o.client.Scope)
	if err != nil {
		return Token{}, fhir.Wrap(op, err)
	}
	set := scope.Narrow(asked, allowed)
	granted := set.String()
	if granted == "" || len(granted) > scope.MaxLength {
		return Token{}, errScope{fhir.Errorf(fhir.Invalid, op, "the client is registered for none of the scopes")}
	}
	c := claims{Sub: o.client.ID, ClientID: o.client.ID, Scope: granted}
	tok, err := e.sign(&c, min(o.life, MaxLife), o.confirm)
	if err != nil {
		return Token{}, err
	}
	batch, err := e.batch(c, o)
	if err != nil {
		return Token{}, err
	}
	if _, err := e.opts.Store.Commit(ctx, batch); err != nil {
		return Token{}, e.conflict(ctx, o, err)
	}
	if asked.AskedV1() {
		tok.Scope = set.V1()
	}
	return tok, nil
}

// sign completes the claims and makes the token.
func (e *Endpoint) sign(c *claims, life time.Duration, confirm compact.Confirm) (Token, error) {
	c.Iss, c.Aud, c.JTI = e.opts.Issuer, e.opts.Audience, rand.Text()
	// The API that takes the token has the clock alone, not the mark.
	at := e.opts.Clock()
	c.Iat, c.Exp = at.Unix(), at.Add(life).Unix()
	if !confirm.IsZero() {
		c.Confirm = &confirm
	}
	access, err := e.opts.Keys.Sign(Type, *c)
	return Token{Access: access, Scope: c.Scope, Expires: time.Unix(c.Exp, 0).UTC(),
		Life: time.Duration(c.Exp-c.Iat) * time.Second}, err
}

// batch is what every issue commits: the record of it, and what it uses up.
func (e *Endpoint) batch(c claims, o order) (*store.Batch, error) {
	ev := o.context
	ev.Outcome, ev.Principal = audit.Success, principal(c, o.client.Name, ev.Principal)
	w, leaf, err := e.opts.Audit.Prepare(ev)
	if err != nil {
		return nil, fhir.Wrap("token.batch", err)
	}
	b := &store.Batch{Writes: []store.Write{w}, Leaves: []store.Leaf{leaf}}
	if o.use != nil {
		b.State = append(b.State, jtiWrite(o.client.ID, o.use))
	}
	if o.proof != nil {
		b.State = append(b.State, o.proof.Use())
	}
	if o.use != nil || o.proof != nil || c.Authz != "" {
		b.State = append(b.State, markWrite(o.now.Unix()))
	}
	return b, nil
}

// conflict says what of a request had been used before.
func (e *Endpoint) conflict(ctx context.Context, o order, err error) error {
	if fhir.KindOf(err) != fhir.Conflict {
		return fhir.Wrap("token.issue", err)
	}
	if o.use != nil {
		spent, gerr := e.opts.Store.Get(ctx, jtiKey(o.client.ID, o.use.JTI))
		if gerr != nil {
			return fhir.Wrap("token.issue", gerr)
		}
		if spent != nil {
			return fhir.Errorf(fhir.Unauthorized, "token.issue", "client_assertion: jti was used before")
		}
	}
	if o.proof != nil {
		return oauth.Bad("invalid_dpop_proof", "DPoP: the proof was used before")
	}
	return &fhir.Error{Kind: fhir.Unavailable, Op: "token.issue", Err: err}
}

func jtiWrite(clientID string, a *client.Assertion) store.StateWrite {
	return store.StateWrite{Key: jtiKey(clientID, a.JTI), Value: strconv.AppendInt(nil, a.Exp.Unix(), 10),
		Expect: store.StateAbsent, Expires: a.Exp.Add(client.Skew + keepJTI)}
}

// UseAssertion is the write that uses an assertion up, for the other endpoints
// that take one.
func UseAssertion(p *client.Proof) []store.StateWrite {
	if p.Assertion == nil {
		return nil
	}
	return []store.StateWrite{jtiWrite(p.Client.ID, p.Assertion)}
}

// Now is the time that never goes back, for the other endpoints.
func (e *Endpoint) Now(ctx context.Context) time.Time { return e.now(ctx) }

// Alive reports whether the person of an authorization may still refresh it.
func (e *Endpoint) Alive(ctx context.Context, a *authz.Authorization) (bool, error) {
	if e.opts.Alive == nil {
		return true, nil
	}
	_, ok, err := e.opts.Alive(ctx, a.Subject, a.Offline)
	return ok, fhir.Wrap("token.Alive", err)
}

// Authorizations lists what a person allows, newest first.
func (e *Endpoint) Authorizations(ctx context.Context, subjectID string) ([]authz.Authorization, error) {
	return e.grants.Authorizations(ctx, subjectID, e.now(ctx))
}

// About lists what anybody allows with a patient in context, newest first.
func (e *Endpoint) About(ctx context.Context, patient string) ([]authz.Authorization, error) {
	return e.grants.About(ctx, patient, e.now(ctx))
}

// Revoke ends an authorization of a person, with all its tokens, from the
// next request on, in one commit with an AuditEvent that by says who it is of;
// NotFound when it is not that person's.
func (e *Endpoint) Revoke(ctx context.Context, by audit.Caller, subjectID, authorizationID string) error {
	if subjectID == "" {
		return fhir.Errorf(fhir.NotFound, "token.Revoke", "no such authorization")
	}
	return e.revoke(ctx, subjectID, authorizationID, func(b *store.Batch, a authz.Authorization) error {
		return e.ended(b, by, &a, "access-taken-back")
	})
}

// EndAll adds the end of a person's authorizations to the batch of what ends
// them: all, or with a session's SID those that last as long as it. Each has
// an AuditEvent of its own, which by says who it is of.
func (e *Endpoint) EndAll(ctx context.Context, b *store.Batch, subjectID, session string, by audit.Caller) error {
	rs, err := e.grants.Of(ctx, subjectID, e.opts.Clock().Add(-client.Skew)) // all that any clock here takes for live
	if err != nil {
		return err
	}
	for i := range rs {
		r := &rs[i]
		if session != "" && (r.Offline || r.Subject.Session != session) {
			continue
		}
		state, err := r.End()
		if err != nil {
			return err
		}
		b.State = append(b.State, state...)
		if e.opts.Ended != nil {
			if err := e.opts.Ended(ctx, b, r.Authorization); err != nil {
				return err
			}
		}
		if err := e.ended(b, by, &r.Authorization, "access-ended"); err != nil {
			return err
		}
	}
	return nil
}

// ended adds the event of an authorization's end.
func (e *Endpoint) ended(b *store.Batch, by audit.Caller, a *authz.Authorization, what string) error {
	return audit.Append(e.opts.Audit, b, audit.Event{Type: audit.Decision, Interaction: "revoke", Caller: by,
		Patient: a.Context.Patient, Extra: [][2]string{{"change", what}, {"authorization", a.ID},
			{"client", a.ClientID}}})
}

// End revokes an authorization whose refresh token or code was presented: by
// the client that gives it back, or by two of which one is a thief.
func (e *Endpoint) End(ctx context.Context, authorizationID string) error {
	return e.revoke(ctx, "", authorizationID)
}

func (e *Endpoint) revoke(ctx context.Context, subjectID, id string,
	also ...func(*store.Batch, authz.Authorization) error) error {
	if e.opts.Ended != nil {
		also = append(also, func(b *store.Batch, a authz.Authorization) error { return e.opts.Ended(ctx, b, a) })
	}
	return e.grants.Revoke(ctx, subjectID, id, also...)
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
func (e *Endpoint) Issue(ctx context.Context, clientID, asked string, life time.Duration,
	operator string) (Token, error) {
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
		Type: audit.TokenIssue, Query: "operator issue",
		Caller: audit.Caller{Principal: &access.Principal{Operator: operator}}}})
}

func (e *Endpoint) count(ctx context.Context, outcome string) {
	e.issued.Add(ctx, 1, metric.WithAttributes(attribute.String("pulsegate.outcome", outcome)))
}
