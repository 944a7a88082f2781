package oura

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"pulsegate/adapters/simulate"
)

const vendor = "oura"

// Provider is one of Oura's identity providers. A client belongs to one of them and is
// unknown to the other.
type Provider string

// The identity providers.
const (
	Legacy Provider = "legacy" // /oauth/...
	Moi    Provider = "moi"    // /oauth/v2/ext/oauth-...
)

// Client is an application that is registered with Oura.
type Client struct {
	ID, Secret string
	Provider   Provider // "" means Legacy
	// RedirectURIs lists the registered addresses, which are compared exactly. If it is
	// empty, every http and https address is accepted.
	RedirectURIs []string
}

// Options configures a Server. Clock, Wearers and Clients are required.
type Options struct {
	// Clock is the time of the wearers.
	Clock *simulate.Clock
	// Wall is the time of tokens, rate limits, signatures and subscriptions. If it is
	// nil, Clock is used.
	Wall func() time.Time
	// Start is the time from which on wearers have data.
	Start time.Time
	// Seed makes tokens and faults differ between servers. It is independent of the
	// seed of the wearers.
	Seed    uint64
	Wearers []simulate.Wearer
	Clients []Client
	Faults  simulate.Faults
	// HTTP sends challenges and events. If it is nil, a client is used that follows no
	// redirects and waits for ten seconds, as Oura documents.
	HTTP *http.Client
	// Senders is the number of concurrent webhook requests. 0 means one, which makes
	// the order of events deterministic.
	Senders int
	// PageSize limits the documents of a page, and ten times as many rows. 0 means 50.
	PageSize int
	// RateLimit is the number of requests per token in five minutes. 0 means 5000.
	RateLimit int
	// TokenLife is the lifetime of access tokens. 0 means a day.
	TokenLife time.Duration
	// OldAPI gives documents the member meta, which version 1.29 of the API describes and
	// version 1.37 no longer has, and keeps to the enumerations of version 1.29.
	OldAPI bool
}

// Server is a simulated Oura cloud. It is safe for concurrent use.
type Server struct {
	opts     Options
	model    *model
	faults   *simulate.Injector
	mux      *http.ServeMux
	accounts map[string]*simulate.Wearer // by account id; never modified

	mu      sync.Mutex
	codes   map[string]*code             // authorization codes; guarded by mu
	grants  map[string]*grant            // by id; guarded by mu
	granted map[string][]*grant          // by account; guarded by mu
	serial  int                          // number of ids drawn; guarded by mu
	lapses  map[string][]simulate.Window // by account; guarded by mu
	subs    map[string]*subscription     // by id; guarded by mu
	queue   []*delivery                  // events not yet acknowledged; guarded by mu
	cursor  time.Time                    // events before it have been created; guarded by mu
	stats   Stats                        // guarded by mu
	sending sync.Mutex                   // held by Advance
}

// Stats counts what a server has done.
type Stats struct {
	Requests   int // of the data API
	Tokens     int // pairs of tokens issued
	Reused     int // refresh tokens that were used twice, each of which ended a grant
	Limited    int // answers 429
	Events     int // events created, without duplicates
	Sent       int // requests to callbacks
	Accepted   int // answered 2xx
	Failed     int // given up after ten retries
	Challenges int // verified callbacks
	Injected   map[simulate.Fault]uint64
}

// New returns a server. Nothing is sent until Advance or Run is called.
func New(o Options) *Server {
	if o.Wall == nil {
		o.Wall = o.Clock.Now
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	o.Senders, o.PageSize = max(o.Senders, 1), orDefault(o.PageSize, 50)
	o.RateLimit, o.TokenLife = orDefault(o.RateLimit, 5000), orDefault(o.TokenLife, 24*time.Hour)
	s := &Server{opts: o, model: &model{first: simulate.DayOf(o.Start), legacy: o.OldAPI},
		faults: simulate.NewInjector(o.Seed, vendor, o.Faults), accounts: map[string]*simulate.Wearer{},
		codes: map[string]*code{}, grants: map[string]*grant{}, granted: map[string][]*grant{},
		lapses: map[string][]simulate.Window{},
		subs:   map[string]*subscription{}, cursor: o.Clock.Now()}
	for i := range o.Wearers {
		s.accounts[o.Wearers[i].Account(vendor)] = &o.Wearers[i]
	}
	s.mux = s.routes()
	return s
}

func orDefault[T int | time.Duration](v, standard T) T {
	if v == 0 {
		return standard
	}
	return v
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, p := range []struct {
		provider Provider
		prefix   string
	}{{Legacy, "/oauth/"}, {Moi, "/oauth/v2/ext/oauth-"}} {
		mux.HandleFunc("GET "+p.prefix+"authorize", s.authorizePage(p.provider))
		mux.HandleFunc("POST "+p.prefix+"authorize", s.decide(p.provider))
		mux.HandleFunc("POST "+p.prefix+"token", s.token(p.provider))
		mux.HandleFunc("POST "+p.prefix+"revoke", s.revoke(p.provider))
	}
	mux.HandleFunc("POST /oauth/v2/ext/oauth-introspect", s.introspect)
	mux.HandleFunc("GET /v2/usercollection/personal_info", s.data(s.person))
	mux.HandleFunc("GET /v2/usercollection/{type}", s.data(s.list))
	mux.HandleFunc("GET /v2/usercollection/{type}/{id}", s.data(s.read))
	mux.HandleFunc("GET /v2/webhook/subscription", s.webhook(s.listSubscriptions))
	mux.HandleFunc("POST /v2/webhook/subscription", s.webhook(s.createSubscription))
	mux.HandleFunc("GET /v2/webhook/subscription/{id}", s.webhook(s.readSubscription))
	mux.HandleFunc("PUT /v2/webhook/subscription/{id}", s.webhook(s.updateSubscription))
	mux.HandleFunc("DELETE /v2/webhook/subscription/{id}", s.webhook(s.deleteSubscription))
	mux.HandleFunc("PUT /v2/webhook/subscription/renew/{id}", s.webhook(s.renewSubscription))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { detail(w, http.StatusNotFound, "Not Found") })
	return mux
}

// reply writes a JSON body.
func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// detail writes an error as Oura does.
func detail(w http.ResponseWriter, status int, text string) {
	reply(w, status, map[string]string{"detail": text})
}

// draw returns a new key for an id or a token. The caller holds s.mu.
func (s *Server) draw() simulate.Key {
	s.serial++
	return simulate.Key(s.opts.Seed).Named("oura ids").With(s.serial)
}

// Record is a document or a row that the cloud holds.
type Record struct {
	Type string
	ID   string       // "" for rows
	Day  simulate.Day // 0 if the record has none
	At   time.Time    // time of a row
	JSON []byte       // with sorted members, as served
}

// Truth returns everything that the cloud holds for an account at the time of the clock,
// regardless of the scopes of its grants: documents by type, then the rows of time series. If
// types are given, it returns only these. It returns nil for unknown accounts.
func (s *Server) Truth(account string, types ...string) []Record {
	w, now := s.accounts[account], s.opts.Clock.Now()
	if w == nil {
		return nil
	}
	wanted := func(typ string) bool { return len(types) == 0 || slices.Contains(types, typ) }
	var out []Record
	add := func(r Record, doc object) {
		r.JSON = canonical(doc)
		out = append(out, r)
	}
	for _, k := range kinds {
		if !wanted(k.name) {
			continue
		}
		s.model.items(w, k, s.model.first, simulate.DayOf(now.In(w.Zone)), func(it item) bool {
			if v, ok := s.model.state(it, now); ok {
				add(Record{Type: k.name, ID: it.id(), Day: it.day}, s.model.document(it, v))
			}
			return true
		})
	}
	for _, typ := range []string{"heartrate", "ring_battery_level"} {
		if !wanted(typ) {
			continue
		}
		s.model.rowsOf(w, typ, simulate.Window{To: now}, now, func(r row) bool {
			add(Record{Type: typ, At: r.at}, r.doc)
			return true
		})
	}
	if wanted("personal_info") {
		all := func(string) bool { return true }
		add(Record{Type: "personal_info", ID: account}, s.model.personalInfo(w, now, all))
	}
	return out
}

// canonical returns a document with sorted members.
func canonical(doc object) []byte {
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err) // documents consist of strings, numbers and null
	}
	return b
}

// Sent returns statistics of the work done so far.
func (s *Server) Sent() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Injected = s.faults.Injected()
	return out
}

// Faults returns the injector. Its rates can be changed while the server runs.
func (s *Server) Faults() *simulate.Injector { return s.faults }

// Accounts returns the account ids in the order of the wearers.
func (s *Server) Accounts() []string {
	out := make([]string, len(s.opts.Wearers))
	for i := range out {
		out[i] = s.opts.Wearers[i].Account(vendor)
	}
	return out
}

// RevokeGrant ends all grants of an account, as a wearer does in Oura's settings.
func (s *Server) RevokeGrant(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.granted[account] {
		g.revoked = true
	}
}

// LapseMembership makes the membership of an account lapse for a time: its data are
// answered 403.
func (s *Server) LapseMembership(account string, from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lapses[account] = append(s.lapses[account], simulate.Window{From: from, To: to})
}

// Outage makes the server answer 503 to every request for a time.
func (s *Server) Outage(from, to time.Time) { s.faults.AddOutage(simulate.Window{From: from, To: to}) }
