package withings

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"pulsegate/adapters/simulate"
)

const vendor = "withings"

// Client is an application that is registered with Withings.
type Client struct {
	ID, Secret string
	// RedirectURIs lists the registered addresses, which are compared exactly. If it is
	// empty, every http and https address is accepted.
	RedirectURIs []string
}

// Options configures a Server. Clock, Wearers and Clients are required.
type Options struct {
	// Clock is the time of the wearers.
	Clock *simulate.Clock
	// Wall is the time of tokens, rate limits and nonces. If it is nil, Clock is used.
	Wall func() time.Time
	// Start is the time from which on wearers have data.
	Start time.Time
	// Seed makes tokens and faults differ between servers. It is independent of the
	// seed of the wearers.
	Seed    uint64
	Wearers []simulate.Wearer
	Clients []Client
	Faults  simulate.Faults
	// HTTP sends verifications and notifications. If it is nil, a client is used that
	// follows no redirects and waits for two seconds, as Withings documents.
	HTTP *http.Client
	// AllowHTTP accepts callbacks that Withings refuses: plain HTTP, IP addresses,
	// localhost, and other ports than 80 and 443.
	AllowHTTP bool
	// PageSize limits the items of a page. 0 means 100.
	PageSize int
	// RateLimit is the number of requests of an application in a minute. 0 means 120.
	RateLimit int
}

// Server is a simulated Withings cloud. It is safe for concurrent use.
type Server struct {
	opts   Options
	faults *simulate.Injector
	mux    *http.ServeMux

	mu      sync.Mutex
	codes   map[string]*code          // authorization codes; guarded by mu
	grants  []*grant                  // guarded by mu
	nonces  map[string]bool           // that were not used yet; guarded by mu
	serial  int                       // number of secrets drawn; guarded by mu
	minute  map[string]time.Time      // start of the minute of each client; guarded by mu
	spent   map[string]int            // requests in that minute; guarded by mu
	subs    map[subscription]struct{} // guarded by mu
	queue   []*delivery               // guarded by mu
	cursor  time.Time                 // notifications before it have been created; guarded by mu
	stats   Stats                     // guarded by mu
	sending sync.Mutex                // held by Advance
}

// Stats counts what a server has done.
type Stats struct {
	Requests int // of the data API
	Limited  int // answers with status 601
	Sent     int // notifications sent, with repetitions
	Accepted int
	Failed   int // given up
}

// New returns a server. Nothing is sent until Advance or Run is called.
func New(o Options) *Server {
	if o.Wall == nil {
		o.Wall = o.Clock.Now
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: 2 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	if o.PageSize == 0 {
		o.PageSize = 100
	}
	if o.RateLimit == 0 {
		o.RateLimit = 120
	}
	s := &Server{opts: o, faults: simulate.NewInjector(o.Seed, vendor, o.Faults), mux: http.NewServeMux(),
		codes: map[string]*code{}, nonces: map[string]bool{}, minute: map[string]time.Time{}, spent: map[string]int{},
		subs: map[subscription]struct{}{}, cursor: o.Clock.Now()}
	s.mux.HandleFunc("GET /oauth2_user/authorize2", s.authorize)
	s.mux.HandleFunc("POST /oauth2_user/authorize2", s.decide)
	s.mux.HandleFunc("POST /v2/oauth2", s.oauth)
	s.mux.HandleFunc("POST /v2/signature", s.signature)
	for _, path := range []string{"/measure", "/v2/measure", "/v2/sleep", "/notify"} {
		s.mux.HandleFunc("POST "+path, s.api)
	}
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Account returns the id of the user that a wearer is: a whole number.
func Account(w *simulate.Wearer) int { return (w.Index+1)*1000 + w.Key.Named("user").Between(0, 999) }

// wearer returns the wearer of an account.
func (s *Server) wearer(account int) *simulate.Wearer { return &s.opts.Wearers[account/1000-1] }

// Statuses in the body of answers ("Response status" of the API reference).
const (
	statusInvalid    = 503 // invalid parameters
	statusToken      = 401 // the token or the signature is not accepted
	statusPermission = 277 // the scope was not granted
	statusTooMany    = 601
)

// answer writes an answer.
func answer(w http.ResponseWriter, status int, body any, text string) {
	w.Header().Set("Content-Type", "application/json")
	out := map[string]any{"status": status, "body": body}
	if status != 0 {
		out["error"] = text
	}
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}

func refuse(w http.ResponseWriter, status int, text string) { answer(w, status, struct{}{}, text) }

// limited reports whether the application has used up its requests of the minute, and
// counts one. The caller holds s.mu.
func (s *Server) limited(client, subject string) bool {
	now := s.opts.Wall()
	if now.Sub(s.minute[client]) >= time.Minute {
		s.minute[client], s.spent[client] = now, 0
	}
	s.spent[client]++
	if s.spent[client] <= s.opts.RateLimit && !s.faults.Draw(simulate.RateLimit, subject) {
		return false
	}
	s.stats.Limited++
	return true
}

// api answers a request with an access token.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	s.stats.Requests++
	g := s.byAccess(token)
	s.mu.Unlock()
	if g == nil {
		refuse(w, statusToken, "XRequestID: Not provided invalid_token: The access token provided is invalid")
		return
	}
	subject := fmt.Sprint(g.account)
	if s.faults.Before(w, r, subject, s.opts.Clock.Now()) {
		return
	}
	s.mu.Lock()
	limited := s.limited(g.client.ID, subject)
	s.mu.Unlock()
	if limited {
		refuse(w, statusTooMany, "Too Many Request")
		return
	}
	action := r.PostFormValue("action")
	if r.URL.Path == "/notify" {
		s.notify(w, r, g)
		return
	}
	for i := range lists {
		l := &lists[i]
		if l.path != r.URL.Path || l.action != action {
			continue
		}
		if !slices.Contains(g.scopes, l.scope) {
			refuse(w, statusPermission, "Unauthorized")
			return
		}
		s.list(w, r, l, s.wearer(g.account))
		return
	}
	refuse(w, statusInvalid, "Invalid Params: invalid action")
}

// Run calls Advance as the clock moves, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	for {
		if err := s.Advance(ctx); err != nil {
			return err
		}
		t := time.NewTimer(min(max(s.opts.Clock.Wall(10*time.Second), 20*time.Millisecond), time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}
