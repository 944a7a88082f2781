package link_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/people/authn"
)

const (
	session  = "session-of-ada"
	callback = "https://pulsegate.example/auth/devices/callback"
)

var by = audit.Caller{Principal: &access.Principal{ClientID: "pages", Subject: "ada"}}

// request is one request that the vendor received.
type request struct {
	path  string
	form  url.Values
	close bool // the connection is not used again
}

// grant holds the vendor's state of one authorization.
type grant struct {
	account, challenge, scope, refresh string
	access                             []string
	revoked                            bool
}

// server is an authorization server with an API that returns the account.
type server struct {
	*httptest.Server
	rotates bool

	mu       sync.Mutex
	requests []request
	grants   []*grant
	codes    map[string]*grant
	issued   int
	secrets  []string // tokens, codes and verifiers that must not appear in plain text
	account  string   // of the person at the browser
	unticked []string // scopes that the person refuses
	silent   bool     // the token endpoint states no scope
	// token, revoke and api answer in place of the server if they return true.
	token, revoke, api func(w http.ResponseWriter, r *http.Request) bool
}

func newServer(t *testing.T, rotates bool) *server {
	s := &server{rotates: rotates, codes: map[string]*grant{}, account: "account-1"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /authorize", s.authorize)
	mux.HandleFunc("POST /token", s.serveToken)
	mux.HandleFunc("POST /revoke", s.serveRevoke)
	mux.HandleFunc("GET /account", s.serveAccount)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *server) authorize(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	if q.Get("client_id") != "client" || q.Get("code_challenge_method") != "S256" || q.Get("response_type") != "code" {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	var scopes []string
	for _, scope := range strings.Fields(q.Get("scope")) {
		if !slices.Contains(s.unticked, scope) {
			scopes = append(scopes, scope)
		}
	}
	s.issued++
	code := fmt.Sprintf("plain-code-%d", s.issued)
	g := &grant{account: s.account, challenge: q.Get("code_challenge"), scope: strings.Join(scopes, " ")}
	s.codes[code] = g
	s.grants, s.secrets = append(s.grants, g), append(s.secrets, code)
	back := url.Values{"code": {code}, "state": {q.Get("state")}}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// receive records a request and returns its hook.
func (s *server) receive(r *http.Request, hook func() func(http.ResponseWriter, *http.Request) bool,
) func(http.ResponseWriter, *http.Request) bool {
	_ = r.ParseForm()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, request{r.URL.Path, r.PostForm, r.Close})
	if v := r.PostForm.Get("code_verifier"); v != "" {
		s.secrets = append(s.secrets, v)
	}
	return hook()
}

func (s *server) serveToken(w http.ResponseWriter, r *http.Request) {
	hook := s.receive(r, func() func(http.ResponseWriter, *http.Request) bool { return s.token })
	if hook != nil && hook(w, r) {
		return
	}
	id, secret, _ := r.BasicAuth()
	if id != "client" || secret != "secret" {
		refuse(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	if answer := s.issue(r.PostForm); answer != nil {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	refuse(w, http.StatusBadRequest, "invalid_grant")
}

// issue uses a code or refresh token and returns the answer, or nil if it is not
// valid.
func (s *server) issue(form url.Values) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	var g *grant
	switch form.Get("grant_type") {
	case "authorization_code":
		h := sha256.Sum256([]byte(form.Get("code_verifier")))
		g = s.codes[form.Get("code")]
		if g == nil || g.challenge != base64.RawURLEncoding.EncodeToString(h[:]) ||
			form.Get("redirect_uri") != callback {
			return nil
		}
		delete(s.codes, form.Get("code"))
	case "refresh_token":
		for _, have := range s.grants {
			if have.refresh != "" && have.refresh == form.Get("refresh_token") && !have.revoked {
				g = have
			}
		}
		if g == nil {
			return nil
		}
	}
	s.issued++
	g.access = append(g.access, fmt.Sprintf("plain-access-%d", s.issued))
	s.secrets = append(s.secrets, g.access[len(g.access)-1])
	answer := map[string]any{"access_token": g.access[len(g.access)-1], "token_type": "bearer", "expires_in": 3600}
	if s.rotates || g.refresh == "" {
		g.refresh = fmt.Sprintf("plain-refresh-%d", s.issued)
		s.secrets = append(s.secrets, g.refresh)
		answer["refresh_token"] = g.refresh
	}
	if !s.silent {
		answer["scope"] = g.scope
	}
	return answer
}

func (s *server) serveRevoke(w http.ResponseWriter, r *http.Request) {
	hook := s.receive(r, func() func(http.ResponseWriter, *http.Request) bool { return s.revoke })
	if hook != nil && hook(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.grants {
		if g.refresh == r.PostForm.Get("token") || slices.Contains(g.access, r.PostForm.Get("token")) {
			g.revoked = true
		}
	}
}

func (s *server) serveAccount(w http.ResponseWriter, r *http.Request) {
	hook := s.receive(r, func() func(http.ResponseWriter, *http.Request) bool { return s.api })
	if hook != nil && hook(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.grants {
		if slices.Contains(g.access, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) && !g.revoked {
			_ = json.NewEncoder(w).Encode(strings.Fields(g.account))
			return
		}
	}
	w.WriteHeader(http.StatusUnauthorized)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": "plain-description"})
}

// answer returns a hook that sends a fixed answer.
func answer(status int, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
		return true
	}
}

// cut closes the connection without an answer.
func cut(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// set changes the server while it is in use.
func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// count returns the number of requests to a path with a grant type, or with any if
// the type is "".
func (s *server) count(path, grantType string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if r.path == path && (grantType == "" || r.form.Get("grant_type") == grantType) {
			n++
		}
	}
	return n
}

// live returns the number of grants with tokens that the vendor would accept.
func (s *server) live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, g := range s.grants {
		if len(g.access) > 0 && !g.revoked {
			n++
		}
	}
	return n
}

// vendor is the cloud.Vendor of a server.
type vendor struct {
	s          *server
	revokesAll bool
	tokenURL   string
	dialect    func(*cloud.OAuth) // changes the facts, or nil
}

func (v *vendor) Code() string            { return "ring" }
func (v *vendor) Streams() []cloud.Stream { return nil }
func (v *vendor) Budget() cloud.Budget    { return cloud.Budget{} }
func (v *vendor) OAuth() cloud.OAuth {
	o := cloud.OAuth{AuthURL: v.s.URL + "/authorize", TokenURL: v.tokenURL, RevokeURL: v.s.URL + "/revoke",
		ClientID: "client", ClientSecret: "secret", Rotates: v.s.rotates, RevokesAll: v.revokesAll,
		Scopes: []cloud.Scope{{Name: "daily", Words: "your days"},
			{Name: "heart", Words: "your pulse", Optional: true}},
		RefreshLife: func(member func(string) any) time.Duration {
			n, _ := member("refresh_token_expires_in").(float64)
			return time.Duration(n) * time.Second
		}}
	if v.dialect != nil {
		v.dialect(&o)
	}
	return o
}

func (v *vendor) Account(ctx context.Context, c *cloud.Client) (ids []string, err error) {
	if c.Account != "" {
		return []string{c.Account}, nil
	}
	b, err := c.Get(ctx, "/account", nil)
	if err != nil {
		return nil, err
	}
	return ids, json.Unmarshal(b, &ids)
}

func (v *vendor) Page(context.Context, *cloud.Client, cloud.Query) (cloud.Page, error) {
	return cloud.Page{}, nil
}

// revoker is a vendor that revokes a grant by the id of the account.
type revoker struct {
	*vendor
	refuse error         // the answer
	got    []cloud.Grant // requests
}

func (r *revoker) Revoke(_ context.Context, client *http.Client, g cloud.Grant) error {
	if client == nil {
		return errors.New("no client")
	}
	r.got = append(r.got, g)
	return r.refuse
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// world is a server of ours with links to one vendor.
type world struct {
	*testing.T
	clock  *clocktest.Clock
	db     *pebblestore.DB
	srv    *server
	vendor *vendor
	log    *buffer
	opts   link.Options
	links  *link.Links

	mu     sync.Mutex
	notes  []link.Link
	errors []error
}

func newWorld(t *testing.T, rotates bool) *world {
	t.Helper()
	w := &world{T: t, clock: clocktest.At(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)), log: &buffer{},
		srv: newServer(t, rotates)}
	w.vendor = &vendor{s: w.srv, tokenURL: w.srv.URL + "/token"}
	var err error
	if w.db, err = pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: w.clock.Now,
		CacheBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.db.Close() })
	vault, err := authn.OpenVault(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.NewRecorder(audit.Options{Store: w.db, Clock: w.clock.Now, Rand: rand.Reader,
		Observer: "https://pulsegate.example", Logger: slog.New(slog.NewTextHandler(w.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{}
	w.opts = link.Options{Store: w.db, Audit: trail, Vault: vault, Vendors: []cloud.Vendor{w.vendor}, HTTP: client,
		API: func(_ cloud.Vendor, token string) *cloud.Client {
			return &cloud.Client{HTTP: client, Base: w.srv.URL, Token: token, Clock: w.clock.Now}
		},
		Callback: callback, Clock: w.clock.Now, Logger: slog.New(slog.NewTextHandler(w.log, nil))}
	w.links = w.restart()
	t.Cleanup(w.secret)
	return w
}

// restart returns Links as a new process would have them.
func (w *world) restart() *link.Links {
	ls := link.New(w.opts)
	ls.Notify(func(l link.Link) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.notes = append(w.notes, l)
	})
	return ls
}

// browse takes the browser through the vendor's pages and returns what it brings
// back.
func (w *world) browse(patient, session string) link.Answer {
	w.Helper()
	to, err := w.links.Begin(w.Context(), patient, "ring", session)
	if err != nil {
		w.Fatal(err)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := client.Get(to)
	if err != nil {
		w.Fatal(err)
	}
	r.Body.Close()
	back, err := r.Location()
	if err != nil {
		w.Fatalf("%v: %v", r.Status, err)
	}
	if got, _, _ := strings.Cut(back.String(), "?"); got != callback {
		w.Fatalf("redirected to %s", got)
	}
	return link.Answer{State: back.Query().Get("state"), Code: back.Query().Get("code")}
}

func (w *world) complete(a link.Answer) (link.Link, error) {
	l, err := w.links.Complete(w.Context(), by, session, a)
	return l, w.keep(err)
}

// connect links the account of a patient.
func (w *world) connect(patient string) link.Link {
	w.Helper()
	l, err := w.complete(w.browse(patient, session))
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// keep keeps an error for the search for secrets.
func (w *world) keep(err error) error {
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.errors = append(w.errors, err)
	}
	return err
}

func (w *world) token(ls *link.Links, id, refused string) (string, error) {
	got, err := ls.Token(w.Context(), id, refused)
	return got, w.keep(err)
}

// mustToken returns an access token and checks that the vendor accepts it.
func (w *world) mustToken(id, refused string) string {
	w.Helper()
	got, err := w.token(w.links, id, refused)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.vendor.Account(w.Context(), w.opts.API(w.vendor, got)); err != nil {
		w.Fatalf("the vendor does not accept %s: %v", got, err)
	}
	return got
}

func (w *world) link(id string) link.Link {
	w.Helper()
	l, err := w.links.Get(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// problem checks the Problem of an error and the status of a link.
func (w *world) problem(err error, want cloud.Problem, id string, status link.Status, reason string) {
	w.Helper()
	if err == nil || cloud.ProblemOf(err) != want {
		w.Errorf("error %v, want %s", err, want)
	}
	if l := w.link(id); l.Status != status || l.Reason != reason {
		w.Errorf("status %s (%s), want %s (%s)", l.Status, l.Reason, status, reason)
	}
}

// refused checks the kind and a part of the text of an error.
func (w *world) refused(err error, kind fhir.Kind, part string) {
	w.Helper()
	if err == nil || fhir.KindOf(err) != kind || !strings.Contains(err.Error(), part) {
		w.Errorf("error %v, want %v with %q", err, kind, part)
	}
}

// keys returns the state keys with a prefix and their values.
func (w *world) keys(prefix string) map[string]string {
	w.Helper()
	out := map[string]string{}
	if err := w.db.List(context.Background(), prefix, func(key string, value []byte) bool {
		out[key] = string(value)
		return true
	}); err != nil {
		w.Fatal(err)
	}
	return out
}

// secret checks that no token, code or verifier is in plain text in the store, the
// log, or an error.
func (w *world) secret() {
	w.links.Wait()
	w.srv.mu.Lock()
	secrets := append([]string{"plain-", "session-of-"}, w.srv.secrets...)
	w.srv.mu.Unlock()
	texts := map[string]string{"log": w.log.String()}
	for key, value := range w.keys("") {
		texts["key "+key], texts["value of "+key] = key, value
	}
	for i, err := range w.errors {
		texts[fmt.Sprint("error ", i)] = err.Error()
	}
	for i, e := range w.events() {
		texts[fmt.Sprint("AuditEvent ", i)] = e
	}
	for place, text := range texts {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				w.Errorf("%s holds %s: %.200s", place, s, text)
			}
		}
	}
}

// events returns the AuditEvents as JSON.
func (w *world) events() (out []string) {
	w.Helper()
	if err := w.db.Scan(context.Background(), store.ScanRange{Types: []string{"AuditEvent"},
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		out = append(out, string(f.Resource.JSON))
		return true
	}); err != nil {
		w.Fatal(err)
	}
	return out
}

// audited returns the number of AuditEvents with a text.
func (w *world) audited(text string) int {
	n := 0
	for _, e := range w.events() {
		if strings.Contains(e, text) {
			n++
		}
	}
	return n
}
