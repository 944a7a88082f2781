package pages_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/adapters/pushkey"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/pages"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

// world is a complete server with TLS and the embedded store, with the
// protocol's endpoints and the pages.
type world struct {
	t           *testing.T
	base        string
	srv         *httptest.Server
	store       *pebblestore.DB
	signs       *signin.Service
	allSigns    []*signin.Service // of every server
	users       *user.Registry
	glass       *breakglass.Service
	consents    *consent.Engine
	apps        *token.Endpoint
	pages       *pages.Pages
	connections *connections
	explained   *explained
	sources     *sources
	push        *pushkey.Keys
	app         client.Client

	mu    sync.Mutex
	clock time.Time // advanced only by pass, so that a slow machine does not change delays
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

// patients looks up patients in the store.
type patients struct{ w *world }

func (p patients) Get(ctx context.Context, by audit.Caller, id string) (pages.Person, error) {
	if !by.Principal.Grant.May(access.Read, "Patient") {
		return pages.Person{}, fhir.Errorf(fhir.Forbidden, "patients.Get", "not for this role")
	}
	if _, _, err := p.w.store.Read(ctx, fhir.Ref{Type: "Patient", ID: id}, 0); err != nil {
		return pages.Person{}, err
	}
	return pages.Person{ID: id, Name: strings.ToUpper(id[:1]) + id[1:] + " Beispiel", Born: "1979-04-12",
		Gender: "female"}, nil
}

func (p patients) Find(ctx context.Context, by audit.Caller, text string) ([]pages.Person, error) {
	var out []pages.Person
	for _, id := range []string{"ada", "ben"} {
		if strings.HasPrefix(id, strings.ToLower(text)) {
			one, err := p.Get(ctx, by, id)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		}
	}
	return out, nil
}

func (p patients) Visits(_ context.Context, by audit.Caller, patient string) ([]pages.Visit, error) {
	if !by.Principal.Grant.May(access.Search, "Observation") || patient != "ada" {
		return nil, nil
	}
	return []pages.Visit{{ID: "v-7", Name: "Check-up", Last: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)},
		{ID: "v-3"}}, nil
}

type launcher struct{ s *launch.Service }

func (l launcher) Launch(ctx context.Context, in pages.Launch) (string, error) {
	_, u, err := l.s.Mint(ctx, launch.Launch{ClientID: in.Client, By: "console", User: in.User, Maker: in.Maker,
		Context: authz.Context{Patient: in.Patient, Encounter: in.Encounter}},
		audit.Event{Type: audit.Rest, Interaction: "operation", Query: "launch"})
	return u, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld starts a server at https://localhost:port.
func newWorld(t *testing.T) *world {
	t.Helper()
	gin.SetMode(gin.ReleaseMode)
	w := &world{t: t, clock: time.Now(), connections: &connections{}, explained: &explained{}, sources: &sources{}}
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	var err error
	w.store, err = pebblestore.Open(filepath.Join(dir, "store"),
		pebblestore.Options{Clock: w.now, Logger: log, CacheBytes: 8 << 20})
	must(t, err)
	t.Cleanup(func() { must(t, w.store.Close()) })
	w.srv = httptest.NewUnstartedServer(nil)
	_, port, err := net.SplitHostPort(w.srv.Listener.Addr().String())
	must(t, err)
	w.base = "https://localhost:" + port
	for _, ref := range []string{"Patient/ada", "Patient/ben", "Practitioner/doc"} {
		typ, id, _ := strings.Cut(ref, "/")
		_, err := w.store.Commit(context.Background(),
			&store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: typ, ID: id,
				JSON: []byte(string(fhir.Prefix(typ, id)) + `}}`)}}}})
		must(t, err)
	}
	w.srv.Config.Handler = w.processes(dir, log)
	w.srv.StartTLS()
	t.Cleanup(w.srv.Close)
	return w
}

// exists reports whether a resource exists.
func (w *world) exists(ctx context.Context, ref fhir.Ref) (bool, error) {
	_, _, err := w.store.Read(ctx, ref, 0)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return false, nil
	}
	return err == nil, err
}

// backInApp is the page of the app to which people return.
func backInApp(c *gin.Context) {
	c.Data(http.StatusOK, "text/html; charset=utf-8",
		[]byte("<!DOCTYPE html><html lang=en><title>App</title><h1>Back in the app</h1>"))
}

// processes starts two servers over the store and returns a handler that passes each
// request to another one than the last. They share the keys, and nothing that one of
// them keeps in memory.
func (w *world) processes(dir string, log *slog.Logger) http.Handler {
	var all [2]*gin.Engine
	for i := range all {
		all[i] = gin.New()
		w.build(all[i], dir, log)
	}
	var next atomic.Uint64
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		all[next.Add(1)%uint64(len(all))].ServeHTTP(rw, r)
	})
}

// build starts one server. The fields of the world are those of the last one.
func (w *world) build(engine *gin.Engine, dir string, log *slog.Logger) {
	t := w.t
	ctx := context.Background()
	rec, err := audit.NewRecorder(audit.Options{Store: w.store, Clock: w.now, Rand: rand.Reader, Observer: w.base,
		Logger: log})
	must(t, err)
	scopes := scope.Parser{TokenParam: func(typ, code string) bool {
		p, ok := search.Lookup(typ, code)
		return ok && p.Type == search.TypeToken
	}}
	clients := &client.Registry{Store: w.store, Scopes: scopes, Clock: w.now}
	ring, err := keys.Open(dir, w.now)
	must(t, err)
	assertions, err := client.NewAssertions(clients, &client.Keys{Clock: w.now, HTTP: http.DefaultClient},
		w.base+"/oauth/token")
	must(t, err)
	vault, err := authn.OpenVault(dir, true)
	must(t, err)
	passkeys, err := authn.NewPasskeys(w.base, w.now)
	must(t, err)
	w.users = &user.Registry{Store: w.store, Clock: w.now}
	sessions := &session.Sessions{Store: w.store, Users: w.users, Clock: w.now}
	w.signs, err = signin.New(signin.Options{Store: w.store, Audit: rec, Users: w.users, Sessions: sessions,
		Passkeys:  passkeys,
		Passwords: authn.NewPasswords(nil), Vault: vault, Issuer: w.base, Clock: w.now, Logger: log,
		ResourceExists: w.exists,
		EndAccess: func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error {
			if err := w.apps.EndAll(ctx, b, userID, session, by); err != nil || session != "" {
				return err
			}
			return w.glass.EndAll(ctx, b, userID, by)
		}})
	must(t, err)
	w.allSigns = append(w.allSigns, w.signs)
	agreements := &appconsent.Approvals{Store: w.store, Audit: rec, Scopes: scopes, Issuer: w.base,
		UserLife: token.UserLife(0),
		Says:     func(granted string) []string { return pages.Says(scopes, granted) }, Logger: log}
	w.apps, err = token.New(ctx, token.Options{Store: w.store, Audit: rec, Keys: ring, Assertions: assertions,
		Scopes: scopes, Clock: w.now, Rand: rand.Reader,
		Issuer: w.base, Audience: w.base + "/fhir", Alive: w.signs.Alive, Hold: w.signs.Hold,
		Begun: agreements.Begun, Ended: agreements.Ended})
	must(t, err)
	launches := &launch.Service{Store: w.store, Audit: rec, Clients: clients, Scopes: scopes, Clock: w.now,
		Roles: w.signs.Roles, Base: w.base + "/fhir", Logger: log}
	flow, err := authorize.New(authorize.Options{Store: w.store, Audit: rec, Clients: clients, Launches: launches,
		Scopes: scopes, Clock: w.now, Rand: rand.Reader,
		Issuer: w.base, Audience: w.base + "/fhir", RoleRules: role.RulesOf,
		ShowError: func(rw http.ResponseWriter, r *http.Request, status int, text string) {
			w.pages.Refused(rw, r, status, text)
		},
		MaySelect: func(_ context.Context, s authorize.Subject, patient, _ string) error {
			if s.HasRole("practitioner") || s.FHIRUser == (fhir.Ref{Type: "Patient", ID: patient}) {
				return nil
			}
			return fhir.Errorf(fhir.Forbidden, "MaySelect", "no")
		}})
	must(t, err)
	w.consents, err = consent.New(consent.Options{Store: w.store, Clock: w.now, Logger: log})
	must(t, err)
	t.Cleanup(w.consents.Close)
	pol := &policy.Engine{Keys: ring, Clients: clients, Consents: w.consents, Scopes: scopes, Issuer: w.base,
		Audience: w.base + "/fhir", Clock: w.now,
		Authorizations: &authz.Store{State: w.store}, RoleRules: role.RulesOf, Roles: w.signs.Roles,
		ConsentsOf: func(_, authorization string) access.Consents { return w.consents.ForAuthorization(authorization) }}
	api := &rest.Server{Service: &interaction.Service{Store: w.store, Audit: rec, Clock: w.now, Rand: rand.Reader,
		Base: w.base + "/fhir"}, Auth: pol,
		Metadata: func() []byte { return []byte("{}") }, Logger: log, Clock: w.now, Rand: rand.Reader}
	engine.Any("/fhir/*path", gin.WrapH(api.Engine()))
	w.glass, err = breakglass.New(w.store, rec, w.now, log)
	must(t, err)
	w.push, err = pushkey.New(pushkey.Options{Store: w.store, Audit: rec, Clock: w.now, Rand: rand.Reader,
		Secure: func(*http.Request) bool { return true }})
	must(t, err)
	w.pages, err = pages.New(pages.Options{Base: w.base, Version: "test", SignIn: w.signs, Sessions: sessions,
		Users:   w.users,
		Cookies: session.Cookies{Origin: w.base, Vault: vault, Clock: w.now}, Flow: flow, Apps: w.apps,
		Refusals: &appconsent.Refusals{Store: w.store, Audit: rec, Consents: w.consents, Clock: w.now},
		Clients:  clients, Launcher: launcher{launches},
		Glass: w.glass, UserLife: token.UserLife(0), Patients: patients{w}, PushKeys: pushKeys{w},
		Connections: w.connections, Explanations: w.explained, Sources: w.sources, Scopes: scopes, Audit: rec,
		Clock: w.now, Logger: log})
	must(t, err)
	w.pages.Mount(engine)
	flow.Mount(engine)
	w.apps.Mount(engine)
	engine.GET("/app/callback", backInApp)
	if w.app.ID != "" {
		return
	}
	w.app, err = clients.Add(ctx, client.Client{ID: "heartbook", Name: "Heartbook", Method: client.None,
		RedirectURIs: []string{w.base + "/app/callback"},
		LaunchURL:    w.base + "/app/launch",
		Scope:        "openid fhirUser launch launch/patient launch/encounter offline_access online_access patient/*.rs user/*.rs"})
	must(t, err)
}

// invite creates a user and returns their one-time link.
func (w *world) invite(login, name string, roles ...string) string {
	w.t.Helper()
	n := signin.NewUser{Login: login, Name: name, Roles: roles}
	for _, r := range roles {
		switch r {
		case "patient":
			n.Patient = "ada"
		case "practitioner":
			n.Practitioner = "doc"
		}
	}
	_, tok, err := w.signs.Invite(context.Background(), signin.From{}, signin.Actor{Operator: "uid:0"}, n)
	must(w.t, err)
	return w.base + "/auth/invite?token=" + tok
}

// browser is a person's browser without script.
type browser struct {
	w *world
	c *http.Client
	// headers are the headers of the next requests. By default they are the
	// headers that browsers send.
	headers map[string]string
	body    string
	resp    *http.Response
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	must(w.t, err)
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // certificate of httptest
	w.t.Cleanup(tr.CloseIdleConnections)
	return &browser{w: w, c: &http.Client{Jar: jar, Transport: tr,
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(r.URL.Path, "/app/") {
				return http.ErrUseLastResponse
			}
			return nil
		}}, headers: map[string]string{"Sec-Fetch-Site": "same-origin"}}
}

func (b *browser) do(method, to, kind string, body io.Reader) *browser {
	b.w.t.Helper()
	if !strings.HasPrefix(to, "https://") {
		to = b.w.base + to
	}
	req, err := http.NewRequest(method, to, body)
	must(b.w.t, err)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for k, v := range b.headers {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	b.resp, err = b.c.Do(req)
	must(b.w.t, err)
	raw, err := io.ReadAll(b.resp.Body)
	must(b.w.t, err)
	must(b.w.t, b.resp.Body.Close())
	b.body = string(raw)
	return b
}

func (b *browser) get(path string) *browser {
	b.w.t.Helper()
	return b.do(http.MethodGet, path, "", nil)
}

var csrfField = regexp.MustCompile(`(?:name="csrf" value|data-csrf)="([^"]+)"`)

func (b *browser) csrf() string {
	b.w.t.Helper()
	m := csrfField.FindStringSubmatch(b.body)
	if m == nil {
		b.w.t.Fatalf("no token on %s:\n%s", b.resp.Request.URL, b.body)
	}
	return m[1]
}

// post submits a form of the current page.
func (b *browser) post(path string, form url.Values) *browser {
	b.w.t.Helper()
	form.Set("csrf", b.csrf())
	return b.do(http.MethodPost, path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
}

// call posts JSON as the script does.
func (b *browser) call(path, csrf string, in any) map[string]any {
	b.w.t.Helper()
	raw, err := json.Marshal(in)
	must(b.w.t, err)
	page := b.body
	b.headers["X-CSRF-Token"] = csrf
	b.do(http.MethodPost, path, "application/json", strings.NewReader(string(raw)))
	delete(b.headers, "X-CSRF-Token")
	var out map[string]any
	if err := json.Unmarshal([]byte(b.body), &out); err != nil {
		b.w.t.Fatalf("%s: %d %s", path, b.resp.StatusCode, b.body)
	}
	b.body = page
	return out
}

func (b *browser) status(want int) *browser {
	b.w.t.Helper()
	if b.resp.StatusCode != want {
		b.w.t.Fatalf("%s %s: %d, want %d\n%s", b.resp.Request.Method, b.resp.Request.URL.Path, b.resp.StatusCode,
			want, b.body)
	}
	return b
}

func (b *browser) has(texts ...string) *browser {
	b.w.t.Helper()
	for _, s := range texts {
		if !strings.Contains(b.body, s) {
			b.w.t.Fatalf("%s: no %q in\n%s", b.resp.Request.URL.Path, s, b.body)
		}
	}
	return b
}

func (b *browser) at(path string) *browser {
	b.w.t.Helper()
	if got := b.resp.Request.URL.Path; got != path {
		b.w.t.Fatalf("at %s, want %s\n%s", got, path, b.body)
	}
	return b
}

// authorizeURL returns the URL of an app's authorization request and its PKCE
// verifier.
func (w *world) authorizeURL(scopes string, more url.Values) (to, verifier string) {
	verifier = rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	query := url.Values{"response_type": {"code"}, "client_id": {w.app.ID}, "redirect_uri": {w.base + "/app/callback"},
		"scope": {scopes}, "state": {"s-1"},
		"aud": {w.base + "/fhir"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"code_challenge_method": {"S256"}}
	for k, v := range more {
		query[k] = v
	}
	return w.base + "/oauth/authorize?" + query.Encode(), verifier
}

// redeem redeems the code in the browser's redirect.
func (w *world) redeem(b *browser, verifier string) (int, map[string]any) {
	w.t.Helper()
	to, err := url.Parse(b.resp.Header.Get("Location"))
	must(w.t, err)
	code := to.Query().Get("code")
	if code == "" {
		w.t.Fatalf("no code in %s", to)
	}
	return w.token(b.c, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "client_id": {w.app.ID},
		"redirect_uri": {w.base + "/app/callback"}, "code_verifier": {verifier}})
}

func (w *world) token(c *http.Client, form url.Values) (int, map[string]any) {
	w.t.Helper()
	resp, err := c.PostForm(w.base+"/oauth/token", form)
	must(w.t, err)
	defer resp.Body.Close()
	var out map[string]any
	must(w.t, json.NewDecoder(resp.Body).Decode(&out))
	return resp.StatusCode, out
}

// measured stores an Observation and a Device of a patient, and a Consent that
// permits a client to read everything.
func (w *world) measured(patient, client string) {
	w.t.Helper()
	put := func(typ, id, rest string) store.Write {
		return store.Write{Vendor: "apple",
			Resource: fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + `}` + rest + `}`)}}
	}
	c, err := consent.Build(consent.Terms{ID: "to-" + client, Patient: patient, Recipient: client, Now: w.now()})
	must(w.t, err)
	_, err = w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: c},
		put("Device", "watch", `,"patient":{"reference":"Patient/`+patient+`"}`),
		put("Observation", "pulse", `,"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],`+
			`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/`+
			patient+`"},"effectiveDateTime":"2026-01-02T03:04:05Z"`)}})
	must(w.t, err)
}

// reads sends a request to the FHIR API with a token and returns the status.
func (w *world) reads(c *http.Client, tok any, path string) int {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodGet, w.base+"/fhir/"+path, nil)
	must(w.t, err)
	req.Header.Set("Authorization", "Bearer "+tok.(string))
	resp, err := c.Do(req)
	must(w.t, err)
	must(w.t, resp.Body.Close())
	return resp.StatusCode
}

// events counts the AuditEvents that contain a text.
func (w *world) events(text string) int {
	w.t.Helper()
	q, err := search.Parse("AuditEvent", [][2]string{{"_count", "1000"}}, search.ParseOptions{})
	must(w.t, err)
	n := 0
	must(w.t, w.store.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if strings.Contains(string(f.Resource.JSON), text) {
				n++
			}
			return true
		}))
	return n
}
