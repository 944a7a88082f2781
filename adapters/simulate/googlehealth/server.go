package googlehealth

import (
	"cmp"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"pulsegate/adapters/simulate"
)

// Client is an OAuth client of the simulated project.
type Client struct {
	ID           string
	Secret       string // empty for a public client, which must use PKCE
	RedirectURIs []string
}

// ServiceAccount is an account that manages webhook subscribers.
type ServiceAccount struct {
	Email string
	KeyID string // if set, assertions must name it
	Key   *rsa.PublicKey
}

// Options configure a Server.
type Options struct {
	Seed     uint64
	Wearers  int       // number of wearers; 0 means 10
	Unlinked int       // number of additional Google accounts without Google Health data
	Start    time.Time // first day with data; 0 means 30 days before the clock's time

	// Clock shows the time of the data and of the webhooks. It is required.
	Clock *simulate.Clock
	// AuthNow returns the time for the quota and the lifetimes of codes, tokens and
	// assertions. If it is nil, Clock is used. A client that runs on the machine's clock beside a faster Clock
	// needs time.Now here.
	AuthNow func() time.Time
	// Every is the length of the windows of steps, heart rates and other bulk types. It must
	// be a whole number of minutes that divides an hour. 0 means 10 minutes.
	Every time.Duration

	Project         string // project number; "" means 123456789012
	Clients         []Client
	ServiceAccounts []ServiceAccount
	// Testing sets the consent screen to "Testing": refresh tokens last for seven days.
	Testing bool
	// PerMinute limits the requests per user and minute. 0 means 300, a
	// negative number no limit.
	PerMinute int
	Faults    simulate.Faults

	// HTTP sends webhooks. If it is nil, a client with a timeout of 10 s is used.
	HTTP *http.Client
	// SignatureHeader is the name of the header with the signature. "" means the documented
	// GOOGLE-HEALTH-API-SIGNATURE; X-HEALTHAPI-SIGNATURE was seen, too.
	SignatureHeader string
	// AllowHTTP accepts webhook endpoints without TLS, for demonstrations on one machine.
	AllowHTTP bool
}

// Server is a simulated cloud. It is safe for concurrent use.
type Server struct {
	opts     Options
	clock    *simulate.Clock
	authNow  func() time.Time
	first    simulate.Day
	wearers  []*wearer
	accounts map[string]*wearer
	mux      *http.ServeMux
	faults   *simulate.Injector
	key      simulate.Key
	models   models
	keys     keyring

	sending sync.Mutex // serializes Deliver

	mu          sync.Mutex
	serial      int                    // number of drawn tokens and ids; guarded by mu
	codes       map[string]*code       // guarded by mu
	tokens      map[string]*token      // guarded by mu
	consents    map[string]*consent    // by account and client; guarded by mu
	rates       map[string]rate        // by account; guarded by mu
	tombs       map[string][]tomb      // by account and type; guarded by mu
	subscribers map[string]*subscriber // by id; guarded by mu
	follows     map[string]*follow     // by account; guarded by mu
	queue       []*delivery            // guarded by mu
	stats       Stats                  // guarded by mu
}

// New returns a cloud with the wearers of a seed.
func New(o Options) (*Server, error) {
	o.Wearers = cmp.Or(o.Wearers, 10)
	o.Every = cmp.Or(o.Every, grid)
	o.Project = cmp.Or(o.Project, "123456789012")
	o.PerMinute = cmp.Or(o.PerMinute, 300)
	o.SignatureHeader = cmp.Or(o.SignatureHeader, "GOOGLE-HEALTH-API-SIGNATURE")
	if o.Wearers < 0 || o.Unlinked < 0 || o.Wearers+o.Unlinked > 100_000 {
		return nil, fmt.Errorf("googlehealth: %d wearers are not between 1 and 100000", o.Wearers+o.Unlinked)
	}
	if o.Every < time.Minute || o.Every%time.Minute != 0 || time.Hour%o.Every != 0 {
		return nil, fmt.Errorf("googlehealth: the window of %v does not divide an hour into whole minutes", o.Every)
	}
	if o.Clock == nil {
		return nil, errors.New("googlehealth: a clock is required")
	}
	if o.Start.IsZero() {
		o.Start = o.Clock.Now().AddDate(0, 0, -30)
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: 10 * time.Second}
	}
	ws, err := simulate.Wearers(o.Seed, o.Wearers+o.Unlinked)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: o, clock: o.Clock, authNow: o.AuthNow, first: simulate.DayOf(o.Start), mux: http.NewServeMux(),
		accounts: map[string]*wearer{}, faults: simulate.NewInjector(o.Seed, "googlehealth", o.Faults),
		key: simulate.Key(o.Seed).Named("google health"), codes: map[string]*code{}, tokens: map[string]*token{},
		consents: map[string]*consent{}, rates: map[string]rate{}, tombs: map[string][]tomb{},
		subscribers: map[string]*subscriber{}, follows: map[string]*follow{},
		stats: Stats{Answers: map[int]int{}},
	}
	if s.authNow == nil {
		s.authNow = s.clock.Now
	}
	for i, w := range ws {
		g := newWearer(w, i < o.Wearers)
		s.wearers = append(s.wearers, g)
		s.accounts[g.account] = g
	}
	s.keys.init(s.key, s.Now())
	s.routes()
	return s, nil
}

// Now returns the simulated time.
func (s *Server) Now() time.Time { return s.clock.Now() }

// Accounts returns the health user ids of all wearers, in the order of their numbers.
// Accounts without Google Health data are at the end.
func (s *Server) Accounts() []string {
	out := make([]string, len(s.wearers))
	for i, w := range s.wearers {
		out[i] = w.account
	}
	return out
}

// Faults returns the injector, to change rates and to read what was injected.
func (s *Server) Faults() *simulate.Injector { return s.faults }

// Outage makes every request between two simulated times fail with 503.
func (s *Server) Outage(from, to time.Time) { s.faults.AddOutage(simulate.Window{From: from, To: to}) }

func (s *Server) routes() {
	s.mux.HandleFunc("GET /o/oauth2/v2/auth", s.authorizePage)
	s.mux.HandleFunc("POST /o/oauth2/v2/auth", s.authorizeDecision)
	s.mux.HandleFunc("POST /token", s.token)
	s.mux.HandleFunc("POST /revoke", s.revoke)
	s.mux.HandleFunc("GET "+keysetPath, s.keyset)

	const points = "/v4/users/{user}/dataTypes/{type}/{method}"
	s.mux.HandleFunc("GET "+points, s.user("list", s.read))
	s.mux.HandleFunc("POST "+points, s.user("rollUp", s.rollUp))
	s.mux.HandleFunc("GET /v4/users/{user}/dataTypes/{type}/dataPoints/{id}", s.user("get", s.getPoint))
	s.mux.HandleFunc("PATCH /v4/users/{user}/dataTypes/{type}/dataPoints/{id}", s.user("patch", unimplemented))
	s.mux.HandleFunc("GET /v4/users/{user}/{resource}", s.user("resource", s.resource))
	s.mux.HandleFunc("PATCH /v4/users/{user}/{resource}", s.user("patch", unimplemented))
	s.mux.HandleFunc("GET /v4/users/{user}/pairedDevices/{id}", s.user("pairedDevice", s.pairedDevice))
	s.mux.HandleFunc("POST /v4/shl/m/{id}", func(w http.ResponseWriter, _ *http.Request) { fail(w, errUnimplemented) })
	s.mux.HandleFunc("GET /v4/shl/r/{id}/{token}", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, errUnimplemented)
	})

	const subscribers = "/v4/projects/{project}/subscribers"
	s.mux.HandleFunc("POST "+subscribers, s.admin(s.createSubscriber))
	s.mux.HandleFunc("GET "+subscribers, s.admin(s.listSubscribers))
	s.mux.HandleFunc("PATCH "+subscribers+"/{id}", s.admin(s.patchSubscriber))
	s.mux.HandleFunc("DELETE "+subscribers+"/{id}", s.admin(s.deleteSubscriber))
	s.mux.HandleFunc("POST "+subscribers+"/{id}/subscriptions", s.admin(s.createSubscription))
	s.mux.HandleFunc("GET "+subscribers+"/{id}/subscriptions", s.admin(s.listSubscriptions))
	s.mux.HandleFunc("PATCH "+subscribers+"/{id}/subscriptions/{sub}", s.admin(s.patchSubscription))
	s.mux.HandleFunc("DELETE "+subscribers+"/{id}/subscriptions/{sub}", s.admin(s.deleteSubscription))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fail(w, errNotFound) })
}

// maxBody bounds the body of a request.
const maxBody = 1 << 20

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	rec := &answer{ResponseWriter: w}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stats.Answers[rec.code]++
	}()
	if r.URL.Path != keysetPath && s.faults.Before(&vendorErrors{ResponseWriter: rec}, r, s.subject(r), s.Now()) {
		return
	}
	s.mux.ServeHTTP(rec, r)
}

// subject names the account of a request for the injector.
func (s *Server) subject(r *http.Request) string {
	if t := s.find(bearer(r)); t != nil && t.consent != nil {
		return t.consent.account
	}
	return r.URL.Path
}

// answer remembers the status code. It is 0 if the connection was dropped.
type answer struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	a.code = code
	a.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.code = cmp.Or(a.code, http.StatusOK)
	return a.ResponseWriter.Write(b)
}

// vendorErrors replaces the bodies of injected errors with a google.rpc.Status.
type vendorErrors struct {
	http.ResponseWriter
	replaced bool
}

// WriteHeader implements http.ResponseWriter.
func (v *vendorErrors) WriteHeader(code int) {
	if code < 500 {
		v.ResponseWriter.WriteHeader(code)
		return
	}
	v.replaced = true
	e := *errUnavailable
	e.code = code
	e.status = cmp.Or(map[int]string{500: "INTERNAL", 504: "DEADLINE_EXCEEDED"}[code], "UNAVAILABLE")
	fail(v.ResponseWriter, &e)
}

// Write implements http.ResponseWriter.
func (v *vendorErrors) Write(b []byte) (int, error) {
	if v.replaced {
		return len(b), nil
	}
	return v.ResponseWriter.Write(b)
}

// call is an authorized request for the data of a user.
type call struct {
	request *http.Request
	wearer  *wearer
	scopes  []string
	now     time.Time
}

// may reports whether the access token has the scope.
func (c *call) may(scope string) bool { return slices.Contains(c.scopes, scope) }

// user returns a handler that checks the access token, the quota and the user of the
// path before it calls next. next returns the body of a successful answer.
func (s *Server) user(method string, next func(*call) (any, *apiError)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t := s.find(bearer(r))
		if t == nil || t.consent == nil {
			fail(w, errUnauthenticated)
			return
		}
		c := &call{request: r, wearer: s.accounts[t.consent.account], scopes: t.scopes, now: s.Now()}
		if !s.spend(c.wearer.account, s.authNow()) || s.faults.Draw(simulate.RateLimit, c.wearer.account) {
			fail(w, errQuota)
			return
		}
		if user := r.PathValue("user"); user != "me" && user != c.wearer.account {
			fail(w, denied("The caller does not have permission."))
			return
		}
		if !c.wearer.linked {
			fail(w, errNotLinked)
			return
		}
		body, bad := next(c)
		if bad != nil {
			fail(w, bad)
			return
		}
		s.count(method)
		if m, ok := body.(media); ok {
			w.Header().Set("Content-Type", m.contentType)
			_, _ = io.WriteString(w, m.text) // the client may be gone
			return
		}
		send(w, http.StatusOK, body)
	}
}

func unimplemented(*call) (any, *apiError) { return nil, errUnimplemented }

// rate counts the requests of a user in a minute.
type rate struct {
	minute   int64
	requests int
}

// spend counts a request of a user. It reports false if the minute's quota is used up.
func (s *Server) spend(account string, now time.Time) bool {
	if s.opts.PerMinute < 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rates[account]
	if minute := now.Unix() / 60; r.minute != minute {
		r = rate{minute: minute}
	}
	r.requests++
	s.rates[account] = r
	return r.requests <= s.opts.PerMinute
}

// bearer returns the access token of a request.
func bearer(r *http.Request) string {
	if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return t
	}
	return r.URL.Query().Get("access_token")
}

// draw returns a new token or id of n hexadecimal digits. The caller holds mu.
func (s *Server) draw(purpose string, n int) string {
	s.serial++
	return s.key.Named(purpose).With(s.serial).Hex(n)
}
