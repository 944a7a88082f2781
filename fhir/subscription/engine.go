package subscription

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription/topic"
)

// Options configures an Engine.
type Options struct {
	Store store.Store
	Audit *audit.Recorder
	Clock func() time.Time
	Rand  io.Reader // safe for concurrent use, like crypto/rand.Reader
	// Base is the FHIR base URL without a trailing slash.
	Base   string
	Policy egress.Policy
	// GrantFor compiles the current grant of a client from its registered scopes
	// and the consents. After an error, the client may see nothing.
	GrantFor func(ctx context.Context, clientID string) (*access.Grant, error)
	// HandshakeDelay is the time between the creation of a Subscription and its
	// first handshake, so that the client gets the response to its request first.
	// The default is 1 second.
	HandshakeDelay time.Duration
	// MinBackoff and MaxBackoff bound the wait between attempts. The defaults are
	// 1 second and 1 minute. If an attempt after a wait of MaxBackoff fails, the
	// Subscription goes to error.
	MinBackoff, MaxBackoff time.Duration
	// Roles decides which process numbers and delivers events. The default is
	// role.Alone.
	Roles role.Roles
	// MaxPerClient bounds the Subscriptions of one client. The default is 100.
	MaxPerClient int
	// Mail sends the notifications of the channel email. If it is nil, the channel is not
	// offered.
	Mail Mailer
	// Publishers sends notifications to message brokers, by the name of the channel. See
	// Publisher.
	Publishers map[string]Publisher
	// Authorize returns the value of the Authorization header for requests to the
	// endpoints of a client, or "" for none. It may be nil.
	Authorize func(ctx context.Context, clientID string, endpoint *url.URL) (string, error)
	// SocketURL is the URL of the WebSocket. If it is empty, it follows from Base.
	SocketURL string
	// TokenTTL is the time for which a binding token, and what it has bound, is valid. The
	// default is 10 minutes.
	TokenTTL time.Duration
	// Terminology answers memberOf() and subsumes() in the criteria of topics. If it is nil,
	// a criterion that asks is not met.
	Terminology fhirpath.Terminology
	Logger      *slog.Logger
}

// Engine answers the requests about Subscriptions in every process, and numbers and
// delivers events in the process that holds the role. It is safe for concurrent use.
type Engine struct {
	opts   Options
	client *http.Client
	role   follow.Follower[*follower]
	topics topics
	hub    hub
	// unwatch ends the calls for commits.
	unwatch []func()

	latency  metric.Float64Histogram
	attempts metric.Int64Counter
}

// roleName is the name of the role of the process that numbers and delivers events.
const roleName = "subscriptions"

// head is the durable state of a Subscription.
type head struct {
	Owner  string `json:"owner"`
	Events uint64 `json:"events"`
	// At is set while events are only counted. Events is then the count up to this
	// commit, otherwise up to the cursor.
	At store.Seq `json:"at,omitempty"`
}

// keyPrefix is the prefix of all state keys of this package.
const keyPrefix = "subscription/"

func headKey(id string) string { return keyPrefix + id + "/head" }
func sentKey(id string) string { return keyPrefix + id + "/sent" }
func eventPrefix(id string) string {
	return keyPrefix + id + "/event/"
}
func eventKey(id string, n uint64) string { return eventPrefix(id) + fmt.Sprintf("%016x", n) }

const cursorKey = keyPrefix + "cursor"

// New starts an Engine, which continues at its durable cursor.
func New(ctx context.Context, o Options) (*Engine, error) {
	const op = "subscription.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.Rand == nil || o.GrantFor == nil || o.Base == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "Store, Audit, Clock, Rand, Base and GrantFor are required")
	}
	setDefaults(&o)
	builtin, err := topic.Builtin(o.Base)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	e := &Engine{opts: o, client: egress.New(o.Policy), topics: topics{base: o.Base, builtin: builtin, store: o.Store}}
	if err := e.metrics(); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	e.hub.start(e)
	e.unwatch = append(e.unwatch, o.Store.Watch(e.topics.note), o.Store.Watch(e.hub.note))
	err = e.role.Start(ctx, follow.Options[*follower]{Store: o.Store, Roles: o.Roles, Role: roleName, Begin: e.begin,
		MinBackoff: o.MinBackoff, MaxBackoff: o.MaxBackoff, Logger: o.Logger})
	if err != nil {
		e.release()
		return nil, fhir.Wrap(op, err)
	}
	return e, nil
}

// parser returns the parser with the topics of this moment.
func (e *Engine) parser(ctx context.Context) (*parser, error) {
	c, err := e.topics.catalog(ctx)
	return &parser{base: e.opts.Base, policy: e.opts.Policy, topics: c, mail: e.opts.Mail,
		publishers: e.opts.Publishers}, err
}

func setDefaults(o *Options) {
	if o.HandshakeDelay <= 0 {
		o.HandshakeDelay = time.Second
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = time.Minute
	}
	if o.MaxPerClient <= 0 {
		o.MaxPerClient = 100
	}
	if o.TokenTTL <= 0 {
		o.TokenTTL = 10 * time.Minute
	}
	if o.SocketURL == "" {
		o.SocketURL = "ws" + strings.TrimPrefix(o.Base, "http") + SocketPath
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Policy.Timeout = maxTimeout
}

func (e *Engine) metrics() (err error) {
	meter := otel.Meter("pulsegate/fhir/subscription")
	if e.latency, err = meter.Float64Histogram("pulsegate.subscription.notification.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60,
			300, 900, 3600),
		metric.WithDescription("Time from the numbering of an event to its acceptance by the endpoint")); err != nil {
		return err
	}
	e.attempts, err = meter.Int64Counter("pulsegate.subscription.notifications", metric.WithUnit("{notification}"),
		metric.WithDescription("Notifications sent, including those that failed"))
	return err
}

// begin returns the follower of a term of the role.
func (e *Engine) begin(ctx context.Context, _ role.Term, st store.Store) *follower {
	f := &follower{Engine: e, opts: e.opts, ctx: ctx, subs: map[string]*sub{}, durable: follow.Cursor{Key: cursorKey},
		index: index{types: map[string]*typeIndex{}}}
	f.opts.Store = st
	return f
}

// Close stops the follower and all senders, waits for them, and gives up the role.
func (e *Engine) Close() {
	e.hub.close()
	e.role.Close()
	e.release()
}

func (e *Engine) release() {
	e.hub.close()
	for _, stop := range e.unwatch {
		stop()
	}
	e.client.CloseIdleConnections()
}
