package signin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
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
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/user"
)

const (
	roomCeremony = "ceremony/"
	// attempts is how often a commit that lost a race begins again.
	attempts = 4
	// changes is the same for a change of an account: each lost race is another
	// writer's progress.
	changes = 64
	// recorded is how many refusals a second go into the trail.
	recorded = 20
)

// Options of a Service.
type Options struct {
	Store     store.State
	Audit     audit.Trail
	Users     *user.Registry
	Sessions  *session.Sessions
	Passkeys  *authn.Passkeys // nil: the server has no host name
	Passwords *authn.Passwords
	Vault     *authn.Vault
	Provider  *authn.Provider // nil: none
	// Known reports whether a resource is there, for links of users.
	Known func(ctx context.Context, ref fhir.Ref) (bool, error)
	// Ends adds the end of what a user has beside sessions to a batch, with
	// its AuditEvents: with session "", all authorizations and emergency
	// accesses, otherwise the authorizations that last as long as that session
	// (its SID). by says who ends them.
	Ends   func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error
	Issuer string // the server's base URL
	Clock  func() time.Time
	Logger *slog.Logger
}

// Service is safe for concurrent use.
type Service struct {
	Options
	throttle authn.Throttle
	count    metric.Int64Counter

	mu     sync.Mutex
	second int64 // in which refusals are counted
	spent  int
}

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Audit == nil || o.Users == nil || o.Sessions == nil || o.Passwords == nil ||
		o.Vault == nil || o.Known == nil || o.Ends == nil || o.Clock == nil || o.Issuer == "" {
		return nil, fhir.Errorf(fhir.Internal, "signin.New", "an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	n, err := otel.Meter("pulsegate/smart/people/signin").Int64Counter("pulsegate.signin.attempts",
		metric.WithUnit("{attempt}"),
		metric.WithDescription("Sign-ins by way and outcome"))
	return &Service{Options: o, throttle: authn.Throttle{Store: o.Store, Clock: o.Clock}, count: n},
		fhir.Wrap("signin.New", err)
}

// From is where a request comes from.
type From struct {
	audit.Caller        // without a principal: sign-in finds it
	Agent        string // the browser, as session.Place has it
	// Device names the browser for an account that has signed in there; nil
	// or "" for none.
	Device func(userID string) string
}

func (f From) place() session.Browser { return session.Browser{Agent: f.Agent, IP: f.RemoteIP} }

func (f From) device(userID string) string {
	if f.Device == nil || userID == "" {
		return ""
	}
	return f.Device(userID)
}

// SignedIn is a new session.
type SignedIn struct {
	Secret  string
	Session session.Session
	User    user.User
}

// ErrStepUp is what an action answers that needs a fresh phishing-resistant
// factor (RFC 9470).
var ErrStepUp error = fhir.Errorf(fhir.Unauthorized, "signin",
	"insufficient_user_authentication: sign in again with a passkey")

// Wait is the error of kind TooMany for who has to wait.
func Wait(d time.Duration) error {
	return &waiting{fhir.Errorf(fhir.TooMany, "signin", "too many tries"), d}
}

type waiting struct {
	error
	d time.Duration
}

func (w *waiting) Unwrap() error { return w.error }

// RetryAfter is how long to wait.
func (w *waiting) RetryAfter() time.Duration { return w.d }

// Principal is u in the trail.
func (s *Service) Principal(u *user.User) *access.Principal {
	return &access.Principal{Subject: u.ID, Issuer: s.Issuer}
}

// Subject is what an authorization knows of the person and the sign-in.
func Subject(u *user.User, x *session.Session) authz.Subject {
	ref, _ := fhir.ParseRef(u.Reference())
	return authz.Subject{ID: u.ID, Name: u.Name, FHIRUser: ref, Roles: u.Roles.Strings(), AuthTime: x.Auth,
		ACR: x.ACR, AMR: x.AMR, Session: x.SID, Access: u.Access}
}

// standing returns the user that x was at its sign-in. ok is false when the
// account has ended, is another resource now, or was changed in a way that
// ends authorizations.
func (s *Service) standing(ctx context.Context, x authz.Subject) (u user.User, ok bool, err error) {
	u, err = s.Users.Get(ctx, x.ID)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			return u, false, nil
		}
		return u, false, err
	}
	ref, _ := fhir.ParseRef(u.Reference())
	return u, !u.Disabled && u.Access == x.Access && ref == x.FHIRUser, nil
}

// Roles returns the roles that the subject of an authorization has now; ok is
// false when it is not what it was at its sign-in.
func (s *Service) Roles(ctx context.Context, x authz.Subject) (roles []string, ok bool, err error) {
	u, ok, err := s.standing(ctx, x)
	return u.Roles.Strings(), ok, err
}

// Alive is Roles for an authorization; one that is not for offline use goes
// with the session.
func (s *Service) Alive(ctx context.Context, x authz.Subject, offline bool) (roles []string, ok bool, err error) {
	if roles, ok, err = s.Roles(ctx, x); err != nil || !ok || offline {
		return roles, ok, err
	}
	ok, err = s.Sessions.Alive(ctx, x.Session)
	return roles, ok, err
}

// Hold returns a write that fails its batch with Conflict when the subject's
// account has changed since: what begins in the same commit as an account
// changes must not escape that change's end of everything. ok is as in Roles.
func (s *Service) Hold(ctx context.Context, x authz.Subject) (w store.StateWrite, ok bool, err error) {
	u, ok, err := s.standing(ctx, x)
	if err != nil || !ok {
		return w, false, err
	}
	return u.Unchanged(), true, nil
}

// commit makes state and event durable together.
func (s *Service) commit(ctx context.Context, ev audit.Event, state ...store.StateWrite) error {
	return s.commitBatch(ctx, &store.Batch{State: state}, ev)
}

// Commit makes state durable together with an event, for what administrators
// do on pages.
func (s *Service) Commit(ctx context.Context, ev audit.Event, state ...store.StateWrite) error {
	return s.commit(ctx, ev, state...)
}

// commitBatch commits b with an event.
func (s *Service) commitBatch(ctx context.Context, b *store.Batch, ev audit.Event) error {
	_, err := audit.Commit(ctx, s.Store, s.Audit, b, ev)
	return fhir.Wrap("signin.commit", err)
}

// once is the write that uses a challenge or a state up.
func once(secret string, until time.Time) store.StateWrite {
	h := sha256.Sum256([]byte(secret))
	return store.StateWrite{Key: roomCeremony + base64.RawURLEncoding.EncodeToString(h[:]), Value: []byte("1"),
		Expect: store.StateAbsent, Expires: until.Add(time.Hour)}
}

// mayRecord takes one of the refusals of this second.
func (s *Service) mayRecord() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.Clock().Unix(); now != s.second {
		s.second, s.spent = now, 0
	}
	s.spent++
	return s.spent <= recorded
}

func (s *Service) counted(ctx context.Context, way, outcome string) {
	s.count.Add(ctx, 1, metric.WithAttributes(attribute.String("pulsegate.signin.method", way),
		attribute.String("pulsegate.outcome", outcome)))
}

// refused records a failed sign-in with the writes that count it. userID is
// whose sign-in failed, as far as that is known; reason is a fixed text.
func (s *Service) refused(ctx context.Context, from From, way, userID, reason string,
	state func() ([]store.StateWrite, error)) error {
	s.counted(ctx, way, "refused")
	ctx = context.WithoutCancel(ctx)
	ev := audit.Event{Type: audit.SignIn, Interaction: "login", Outcome: audit.Serious, Reason: way + ": " + reason,
		Caller: from.Caller}
	if userID != "" {
		ev.Principal = &access.Principal{Subject: userID, Issuer: s.Issuer}
	}
	record := s.mayRecord()
	s.Logger.InfoContext(ctx, "sign-in refused", "way", way, "rule", reason, "request", from.RequestID, "recorded",
		record)
	return store.Retry(attempts, "signin.refused", "try again", func() error {
		var writes []store.StateWrite
		if state != nil {
			var err error
			if writes, err = state(); err != nil {
				return err
			}
		}
		var err error
		switch {
		case record:
			err = s.commit(ctx, ev, writes...)
		case len(writes) > 0:
			_, err = s.Store.Commit(ctx, &store.Batch{State: writes})
		}
		return fhir.Wrap("signin.refused", err)
	})
}

// begin ends a sign-in: user, session and event in one commit.
func (s *Service) begin(ctx context.Context, from From, way string, u *user.User, p session.Proof,
	before *session.Session, state ...store.StateWrite) (SignedIn, error) {
	writes, err := s.Users.Writes(u)
	if err != nil {
		return SignedIn{}, err
	}
	secret, x, sw, err := s.Sessions.Begin(u, p, from.place(), before)
	if err != nil {
		return SignedIn{}, err
	}
	what := "login"
	if before != nil && before.User == u.ID {
		what = "step-up"
	}
	ev := audit.Event{Type: audit.SignIn, Interaction: what, Caller: from.As(s.Principal(u)),
		Extra: [][2]string{{"acr", p.ACR}, {"way", way}}}
	if err := s.commit(ctx, ev, append(append(writes, sw...), state...)...); err != nil {
		return SignedIn{}, err
	}
	s.counted(ctx, way, "signed-in")
	return SignedIn{Secret: secret, Session: x, User: *u}, nil
}

// Actor is who does something to others.
type Actor struct {
	User    *user.User
	Session *session.Session
	// Operator is set instead of both at the admin socket.
	Operator string
}

// allow holds an actor to the table of roles and to the step-up that the
// action needs.
func (s *Service) allow(a Actor, what role.Action) error {
	if a.Operator != "" {
		return nil
	}
	if a.User == nil || a.Session == nil || !a.User.Roles.May(what) {
		return fhir.Errorf(fhir.Forbidden, "signin.allow", "your role does not do this")
	}
	if role.StepUp(what) && !a.Session.Meets(session.StepUp(), s.Clock()) {
		return ErrStepUp
	}
	return nil
}

func (s *Service) actor(a Actor) *access.Principal {
	if a.Operator != "" {
		return &access.Principal{Operator: a.Operator}
	}
	return s.Principal(a.User)
}
