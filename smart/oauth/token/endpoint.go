package token

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

// Path of the endpoint below the base URL.
const Path = "/oauth/token"

// Options of an Endpoint. Limits, Logger, Nonces, UserLife and the functions
// are optional.
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
	// Nonces issues and checks the nonces of DPoP proofs. If it is nil, proofs
	// need no nonce.
	Nonces *dpop.Nonces
	// UserLife is the lifetime of a person's access token. If it is zero, the
	// lifetime is 15 minutes.
	UserLife time.Duration
	// Alive reports whether the person's account (and, unless the authorization
	// is offline, their session) still stands, and the roles that the person has
	// now. It is called before a refresh token is accepted. If it is nil, the
	// account stands and the roles are those of the sign-in.
	Alive func(ctx context.Context, s authz.Subject, offline bool) (roles []string, ok bool, err error)
	// Hold returns a write that fails the commit that redeems a code if the
	// person's account changes before it. If the account is no longer as it was
	// at the approval, ok is false. If Hold is nil, this is not checked.
	Hold func(ctx context.Context, s authz.Subject) (w store.StateWrite, ok bool, err error)
	// Begun adds to the commit that redeems a code, for example the Consent that
	// the person's approval gives. It may be nil.
	Begun func(ctx context.Context, b *store.Batch, approved authz.Code) error
	// Ended adds to the commit that revokes an authorization, for example the
	// end of the Consent that came with it. When that commit loses to another
	// writer, Ended is called again. It may be nil.
	Ended func(ctx context.Context, b *store.Batch, a authz.Authorization) error
}

// Endpoint issues tokens. It is safe for concurrent use.
type Endpoint struct {
	opts   Options
	grants *authz.Store
	issued metric.Int64Counter
	limits *limit.Limiter
}

// Limits of the endpoint; zero fields take the defaults.
type Limits = limit.Limits

// New returns the endpoint. It fails if the high-water mark cannot be read.
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
	o.Limits.Name = "token"
	e := &Endpoint{opts: o, limits: limit.New(o.Limits), grants: &authz.Store{State: o.Store}}
	_, _, err := e.readMark(ctx)
	if err != nil {
		return nil, err
	}
	e.issued, err = otel.Meter("pulsegate/smart/oauth/token").Int64Counter("pulsegate.token.requests",
		metric.WithUnit("{request}"),
		metric.WithDescription("Token requests by outcome"))
	return e, fhir.Wrap(op, err)
}

// Mount registers the endpoint at Path.
func (e *Endpoint) Mount(m gin.IRouter) { m.Any(Path, gin.WrapH(e)) }

// ServeHTTP implements the token endpoint (RFC 6749 3.2).
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	if oauth.CORS(w, r, http.MethodPost) {
		return
	}
	now := e.opts.Clock()
	out := e.serve(w, r, now)
	if f := out.err; f != nil {
		if f.Status < 500 && f.Status != http.StatusTooManyRequests {
			e.limits.Failed(limit.Failing(out.event.RemoteIP, claimedClient(&out.event)), now)
		}
		e.refuse(w, r, out)
		return
	}
	e.count(r.Context(), "issued")
	if _, err := w.Write(out.response); err != nil {
		return // the caller has disconnected
	}
}

// serve runs the phases of a token request in order: limits, parsing,
// authentication of the client, proof of possession, and the grant type.
func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request, now time.Time) outcome {
	rq := &request{event: audit.Event{Type: audit.TokenIssue, Caller: oauth.Caller(w, r)}}
	if wait, ok := e.limits.Admit(rq.event.RemoteIP, now); !ok {
		return rq.refused(oauth.TooMany(wait))
	}
	if fail := rq.parse(w, r); fail != nil {
		return rq.refused(fail)
	}
	if fail := e.authenticate(r, rq); fail != nil {
		return rq.refused(fail)
	}
	if fail := e.bind(r, rq); fail != nil {
		return rq.refused(fail)
	}
	switch rq.grantType {
	case client.Code:
		return e.redeem(r.Context(), rq)
	case client.Refresh:
		return e.refresh(r.Context(), rq)
	default: // client.Credentials; parse refuses all others
		return e.credentials(r.Context(), rq)
	}
}

// refuse records and answers a failed request. If the failure cannot be
// recorded, the answer is 503. Above the limiter's rate, refusals are only
// counted and logged, so that an attacker cannot fill the trail.
func (e *Endpoint) refuse(w http.ResponseWriter, r *http.Request, out outcome) {
	ctx, ev, f := r.Context(), out.event, out.err
	ev.Outcome, ev.Reason = audit.Serious, f.Error()
	if f.Status >= 500 {
		ev.Outcome = audit.Major
	}
	record := e.limits.Record(e.opts.Clock())
	label := f.Code
	if f.Status == http.StatusTooManyRequests {
		label = "throttled"
	}
	if !record {
		e.count(ctx, "unrecorded")
	} else if err := e.opts.Audit.Record(context.WithoutCancel(ctx), ev); err != nil {
		label, f = "temporarily_unavailable", oauth.Unavailable(err)
	}
	e.count(ctx, label)
	e.opts.Logger.InfoContext(ctx, "token refused", "error", f.Code, "rule", f.Description, "client",
		claimedClient(&ev), "request_id", ev.RequestID, "recorded", record, "cause", f.Cause)
	if f.Status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
		f.Challenge = `Basic realm="token"` // RFC 6749 5.2
	}
	oauth.Refuse(w, f)
}

func (e *Endpoint) count(ctx context.Context, outcome string) {
	e.issued.Add(ctx, 1, metric.WithAttributes(attribute.String("pulsegate.outcome", outcome)))
}
