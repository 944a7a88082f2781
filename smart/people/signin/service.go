package signin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/user"
)

const (
	prefixCeremony = "ceremony/"
	keyBootstrap   = "signin/bootstrap" // changes with every bootstrap link
	// attempts is the maximum number of commits of a sign-in that conflict.
	attempts = 4
	// changes is the maximum number of commits of an account change that
	// conflict. It is higher because every conflict means progress of another
	// writer.
	changes = 64
	// recorded is the maximum number of refusals per second that go into the
	// audit trail.
	recorded = 20
)

// Options configures a Service. Passkeys and Provider are optional, and so is
// Logger.
type Options struct {
	Store     store.State
	Audit     audit.Trail
	Users     *user.Registry
	Sessions  *session.Sessions
	Passkeys  *authn.Passkeys // nil if the server has no host name or no https
	Passwords *authn.Passwords
	Vault     *authn.Vault
	Provider  *authn.Provider // nil if none is configured
	// ResourceExists reports whether a resource exists, to validate the links
	// of users.
	ResourceExists func(ctx context.Context, ref fhir.Ref) (bool, error)
	// EndAccess adds the end of a user's access, other than sessions, to a
	// batch, with the AuditEvents. If session is empty, it ends all
	// authorizations and emergency accesses, otherwise the authorizations that
	// are bound to the session with that SID. by describes who ends them.
	EndAccess func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error
	Issuer    string // the server's base URL
	Clock     func() time.Time
	Logger    *slog.Logger
	// Shared, if set, makes the limit of recorded refusals that of all processes of a
	// cluster together.
	Shared limit.Shared
}

// Service implements sign-in and the management of accounts. It is safe for
// concurrent use.
type Service struct {
	Options
	throttle authn.Throttle
	count    metric.Int64Counter
	refusals *limit.Buckets // holds the refusals that may be recorded
}

// New returns a Service.
func New(options Options) (*Service, error) {
	if options.Store == nil || options.Audit == nil || options.Users == nil || options.Sessions == nil ||
		options.Passwords == nil ||
		options.Vault == nil || options.ResourceExists == nil || options.EndAccess == nil || options.Clock == nil ||
		options.Issuer == "" {
		return nil, fhir.Errorf(fhir.Internal, "signin.New", "a required option is missing")
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	n, err := otel.Meter("pulsegate/smart/people/signin").Int64Counter("pulsegate.signin.attempts",
		metric.WithUnit("{attempt}"),
		metric.WithDescription("Sign-ins by way and outcome"))
	return &Service{Options: options, throttle: authn.Throttle{Store: options.Store, Clock: options.Clock}, count: n,
			refusals: limit.NewBuckets(recorded, recorded).Share(options.Shared, "signin denied")},
		fhir.Wrap("signin.New", err)
}

// From describes the origin of a request.
type From struct {
	audit.Caller        // without a principal, which the sign-in determines
	Agent        string // description of the browser, for session.Browser
	// Device returns the id of this browser for an account that has signed in
	// there, otherwise "". It may be nil.
	Device func(userID string) string
}

func (f From) place() session.Browser { return session.Browser{Agent: f.Agent, IP: f.RemoteIP} }

func (f From) device(userID string) string {
	if f.Device == nil || userID == "" {
		return ""
	}
	return f.Device(userID)
}

// SignedIn is the result of a sign-in: a new session.
type SignedIn struct {
	Secret  string
	Session session.Session
	User    user.User
}

// ErrStepUp is returned by operations that need a recent phishing-resistant
// factor (RFC 9470).
var ErrStepUp error = fhir.Errorf(fhir.Unauthorized, "signin",
	"insufficient_user_authentication: sign in again with a passkey")

// tooMany returns the error of a delayed attempt. Its method RetryAfter returns
// the remaining delay.
func tooMany(delay time.Duration) error {
	return &waiting{fhir.Errorf(fhir.TooMany, "signin", "too many attempts"), delay}
}

type waiting struct {
	error
	delay time.Duration
}

func (w *waiting) Unwrap() error { return w.error }

// RetryAfter returns the remaining delay.
func (w *waiting) RetryAfter() time.Duration { return w.delay }

// Principal returns the principal of u for the audit trail.
func (s *Service) Principal(u *user.User) *access.Principal {
	return &access.Principal{Subject: u.ID, Issuer: s.Issuer}
}

// Subject returns the subject of an authorization that u approves in session x.
func Subject(u *user.User, sess *session.Session) authz.Subject {
	ref, _ := fhir.ParseRef(u.Reference())
	return authz.Subject{ID: u.ID, Name: u.Name, FHIRUser: ref, Roles: u.Roles.Strings(), AuthTime: sess.Auth,
		ACR: sess.ACR, AMR: sess.AMR, Session: sess.SID, Access: u.Access}
}

// standing returns the current user of a subject. ok is false if the user was
// disabled, represents another resource now, or has changed in a way that ends
// authorizations.
func (s *Service) standing(ctx context.Context, subject authz.Subject) (u user.User, ok bool, err error) {
	u, err = s.Users.Get(ctx, subject.ID)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			return u, false, nil
		}
		return u, false, err
	}
	ref, _ := fhir.ParseRef(u.Reference())
	return u, !u.Disabled && u.Access == subject.Access && ref == subject.FHIRUser, nil
}

// Roles returns the current roles of an authorization's subject. ok is false if
// the subject's authorizations have ended.
func (s *Service) Roles(ctx context.Context, subject authz.Subject) (roles []string, ok bool, err error) {
	u, ok, err := s.standing(ctx, subject)
	return u.Roles.Strings(), ok, err
}

// Alive is like Roles, but an authorization without offline access also ends
// with its session.
func (s *Service) Alive(ctx context.Context, subject authz.Subject, offline bool) (roles []string, ok bool, err error) {
	if roles, ok, err = s.Roles(ctx, subject); err != nil || !ok || offline {
		return roles, ok, err
	}
	ok, err = s.Sessions.Alive(ctx, subject.Session)
	return roles, ok, err
}

// Hold returns a write that fails its batch with Conflict if the subject's
// account has changed since. Access that begins concurrently with a change of
// the account can therefore not escape the end of all access. ok is as in
// Roles.
func (s *Service) Hold(ctx context.Context, subject authz.Subject) (w store.StateWrite, ok bool, err error) {
	u, ok, err := s.standing(ctx, subject)
	if err != nil || !ok {
		return w, false, err
	}
	return u.Unchanged(), true, nil
}

// commit commits state together with an event.
func (s *Service) commit(ctx context.Context, ev audit.Event, state ...store.StateWrite) error {
	return s.commitBatch(ctx, &store.Batch{State: state}, ev)
}

// Commit commits state together with an event, for the pages of administrators.
func (s *Service) Commit(ctx context.Context, ev audit.Event, state ...store.StateWrite) error {
	return s.commit(ctx, ev, state...)
}

// commitBatch commits b with an event.
func (s *Service) commitBatch(ctx context.Context, b *store.Batch, ev audit.Event) error {
	_, err := audit.Commit(ctx, s.Store, s.Audit, b, ev)
	return fhir.Wrap("signin.commit", err)
}

// once returns the write that uses up a challenge or a state.
func once(secret string, until time.Time) store.StateWrite {
	h := sha256.Sum256([]byte(secret))
	return store.StateWrite{Key: prefixCeremony + base64.RawURLEncoding.EncodeToString(h[:]), Value: []byte("1"),
		Expect: store.StateAbsent, Expires: until.Add(time.Hour)}
}

// mayRecord counts a refusal and reports whether it may be recorded.
func (s *Service) mayRecord() bool {
	_, ok := s.refusals.Take(limit.Named(""), s.Clock(), 1)
	return ok
}

func (s *Service) counted(ctx context.Context, method, outcome string) {
	s.count.Add(ctx, 1, metric.WithAttributes(attribute.String("pulsegate.signin.method", method),
		attribute.String("pulsegate.outcome", outcome)))
}

// refused counts and records a failed sign-in, with the writes that delay
// further attempts. userID is the user, if known. reason is a fixed text.
func (s *Service) refused(ctx context.Context, from From, method, userID, reason string,
	state func() ([]store.StateWrite, error)) error {
	s.counted(ctx, method, "refused")
	ctx = context.WithoutCancel(ctx)
	ev := audit.Event{Type: audit.SignIn, Interaction: "login", Outcome: audit.Serious, Reason: method + ": " + reason,
		Caller: from.Caller}
	if userID != "" {
		ev.Principal = &access.Principal{Subject: userID, Issuer: s.Issuer}
	}
	record := s.mayRecord()
	s.Logger.InfoContext(ctx, "sign-in refused", "way", method, "rule", reason, "request_id", from.RequestID,
		"recorded",
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

// begin completes a sign-in: it commits the user, the session and the event
// together.
func (s *Service) begin(ctx context.Context, from From, method string, u *user.User, proof session.Proof,
	before *session.Session, state ...store.StateWrite) (SignedIn, error) {
	writes, err := s.Users.Writes(u)
	if err != nil {
		return SignedIn{}, err
	}
	secret, sess, sw, err := s.Sessions.Begin(u, proof, from.place(), before)
	if err != nil {
		return SignedIn{}, err
	}
	what := "login"
	if before != nil && before.User == u.ID {
		what = "step-up"
	}
	ev := audit.Event{Type: audit.SignIn, Interaction: what, Caller: from.As(s.Principal(u)),
		Extra: [][2]string{{"acr", proof.ACR}, {"way", method}}}
	if err := s.commit(ctx, ev, append(append(writes, sw...), state...)...); err != nil {
		return SignedIn{}, err
	}
	s.counted(ctx, method, "signed-in")
	return SignedIn{Secret: secret, Session: sess, User: *u}, nil
}

// Actor is the person who changes another account.
type Actor struct {
	User    *user.User
	Session *session.Session
	// Operator is set instead of User and Session for requests through the
	// admin socket.
	Operator string
}

// allow checks that the actor's role allows the action and that the step-up it
// needs was done.
func (s *Service) allow(actor Actor, action role.Action) error {
	if actor.Operator != "" {
		return nil
	}
	if actor.User == nil || actor.Session == nil || !actor.User.Roles.May(action) {
		return fhir.Errorf(fhir.Forbidden, "signin.allow", "your role does not allow this")
	}
	if role.StepUp(action) && !actor.Session.Meets(session.StepUp(), s.Clock()) {
		return ErrStepUp
	}
	return nil
}

func (s *Service) actor(actor Actor) *access.Principal {
	if actor.Operator != "" {
		return &access.Principal{Operator: actor.Operator}
	}
	return s.Principal(actor.User)
}
