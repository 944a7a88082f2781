package push

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/store"
)

// Tokens supplies the access tokens for one target. If an error has a method Class
// returning a string, that string is shown to operators.
type Tokens interface {
	Token(ctx context.Context) (string, error)
	// Reject drops a token that the target refused.
	Reject(token string)
}

// Options configures an Engine.
type Options struct {
	Store store.Store
	Audit *audit.Recorder
	Clock func() time.Time
	// Base is the FHIR base URL of this server without a trailing slash.
	Base   string
	Policy egress.Policy
	// GrantFor compiles the current grant of a client from its registered scopes and
	// the consents. After an error, the client may see nothing.
	GrantFor func(ctx context.Context, clientID string) (*access.Grant, error)
	// TokensFor returns the source of access tokens for a target.
	TokensFor func(t Target) (Tokens, error)
	// Forms holds the forms of what is sent, by name. FormStored is added.
	Forms map[string]Form
	// Roles decides which process follows the change log and sends. The default is
	// role.Alone.
	Roles role.Roles
	// MinBackoff and MaxBackoff bound the wait between attempts. The defaults are
	// 1 second and 15 minutes.
	MinBackoff, MaxBackoff time.Duration
	// Timeout bounds a request. The default is 30 seconds.
	Timeout time.Duration
	Logger  *slog.Logger
}

// Engine manages the targets in every process. In the process that holds the role, it
// follows the change log and sends what targets are to get. It is safe for concurrent
// use.
type Engine struct {
	opts   Options
	client *http.Client
	role   follow.Follower[*follower]

	// manage serializes the changes of targets in this process, so that they rarely fail
	// because of another one.
	manage sync.Mutex

	requests metric.Int64Counter
	latency  metric.Float64Histogram
}

// roleName is the name of the role of the process that sends.
const roleName = "push"

// New starts an Engine, which continues at its durable cursor.
func New(ctx context.Context, o Options) (*Engine, error) {
	const op = "push.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.GrantFor == nil || o.TokensFor == nil || o.Base == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "Store, Audit, Clock, Base, GrantFor and TokensFor are required")
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 15 * time.Minute
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	forms := map[string]Form{FormStored: stored(o.Base)}
	for name, f := range o.Forms {
		forms[name] = f
	}
	o.Forms = forms
	o.Policy.Timeout, o.Policy.MaxResponse = o.Timeout, maxAnswer
	e := &Engine{opts: o, client: egress.New(o.Policy)}
	if err := e.metrics(); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	err := e.role.Start(ctx, follow.Options[*follower]{Store: o.Store, Roles: o.Roles, Role: roleName, Begin: e.begin,
		MinBackoff: o.MinBackoff, MaxBackoff: o.MaxBackoff, Logger: o.Logger})
	if err != nil {
		e.client.CloseIdleConnections()
		return nil, fhir.Wrap(op, err)
	}
	return e, nil
}

func (e *Engine) metrics() (err error) {
	meter := otel.Meter("pulsegate/fhir/push")
	if e.requests, err = meter.Int64Counter("pulsegate.push.requests", metric.WithUnit("{request}"),
		metric.WithDescription("Observations sent to targets, by result")); err != nil {
		return err
	}
	e.latency, err = meter.Float64Histogram("pulsegate.push.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600,
			21600, 86400),
		metric.WithDescription("Time from the queueing of an Observation to its acceptance by the target"))
	return err
}

// begin returns the follower of a term of the role.
func (e *Engine) begin(ctx context.Context, t role.Term, st store.Store) *follower {
	f := &follower{Engine: e, opts: e.opts, ctx: ctx, term: t, targets: map[string]*sender{},
		purging: map[string]bool{}, look: make(chan struct{}, 1), durable: follow.Cursor{Key: cursorKey}}
	f.opts.Store = st
	return f
}

// Close stops the follower and all senders, waits for them, and gives up the role.
func (e *Engine) Close() {
	e.role.Close()
	e.client.CloseIdleConnections()
}

// visible reports whether a grant permits disclosing an Observation.
func visible(g *access.Grant, f *access.Facts) bool {
	return g != nil && f != nil && g.May(access.Read, "Observation") && g.Filter(access.Read).Allow(f)
}

// origin returns scheme and host of a URL, for the audit trail.
func origin(base string) string {
	scheme, rest, _ := strings.Cut(base, "://")
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}
