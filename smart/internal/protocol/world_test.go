package protocol

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/register"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/pages"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/issuer"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

type m = map[string]any

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// clock is a clock that the tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// validator is created once, when a test first writes through the API, because
// it takes long.
var validator = sync.OnceValue(func() *r4.Validator { return must(r4.New(r4.Limits{})) })

// lazyValidator validates with the shared validator.
type lazyValidator struct{ interaction.Validator }

func (lazyValidator) Create(typ string, body []byte, id string) (fhir.Resource, error) {
	return validator().Create(typ, body, id)
}

func (lazyValidator) Resource(typ string, body []byte, id string) (fhir.Resource, error) {
	return validator().Resource(typ, body, id)
}

func (lazyValidator) Bundle(body []byte) (*r4.Bundle, error) { return validator().Bundle(body) }

// world is a complete authorization server with some data.
type world struct {
	t             testing.TB
	clock         *clock
	dir           string
	base          string
	store         *pebblestore.DB
	stop          func()
	clients       *client.Registry
	ring          *keys.Ring
	policy        *policy.Engine
	tokens        *token.Endpoint
	authorizer    *authorize.Service
	launch        *launch.Service
	registration  *register.Handler
	external      *issuer.Verifier
	requireNonces bool // require nonces in DPoP proofs
	nonces        *dpop.Nonces
	handler       *swapHandler
	browser       *http.Client
	ec            *ecdsa.PrivateKey // key of all clients with private_key_jwt

	// mu guards the fields below, which the handlers read.
	mu           sync.Mutex
	subject      authorize.Subject
	decide       func(p *authorize.Pending) authorize.Decision // approves all scopes if nil
	roles        []string                                      // current roles of the person; those of subject if nil
	accountEnded bool
}

// swapHandler passes requests to a handler that can be replaced, so that the
// server can be restarted at its address.
type swapHandler struct {
	mu sync.Mutex
	h  http.Handler
}

func (s *swapHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.h
	s.mu.Unlock()
	h.ServeHTTP(w, r)
}

// rotation passes each request to another of its handlers than the last.
type rotation struct {
	handlers []http.Handler
	next     atomic.Uint64
}

func (r *rotation) ServeHTTP(w http.ResponseWriter, rq *http.Request) {
	r.handlers[r.next.Add(1)%uint64(len(r.handlers))].ServeHTTP(w, rq)
}

const categorySystem = "http://terminology.hl7.org/CodeSystem/observation-category"

const redirect = "https://app.example/cb"

func newWorld(t testing.TB) *world { return newWorldTLS(t, false) }

func newWorldTLS(t testing.TB, secure bool) *world {
	w := &world{t: t, clock: &clock{t: time.Now().UTC().Truncate(time.Second)}, dir: t.TempDir(),
		handler: &swapHandler{}}
	w.ec = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	srv := httptest.NewUnstartedServer(w.handler)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	w.base = "http://" + srv.Listener.Addr().String()
	if secure {
		w.base = "https://" + srv.Listener.Addr().String()
		srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	w.browser = w.client(srv)
	w.subject = authorize.Subject{ID: "u1", Name: "Dr Test", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"},
		Roles:    []string{"practitioner"},
		AuthTime: w.clock.now(), ACR: "phr", AMR: []string{"hwk"}, Session: "s1"}
	w.open()
	t.Cleanup(func() { w.close() })
	w.seed()
	return w
}

// client returns an HTTP client that keeps cookies and does not follow
// redirects.
func (w *world) client(srv *httptest.Server) *http.Client {
	c := *srv.Client()
	c.Jar = must(cookiejar.New(nil))
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

func (w *world) close() {
	w.stop()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

// processes is the number of servers behind the address of a world. They share the
// store and the keys, and nothing that one of them keeps in memory.
const processes = 2

// open starts the servers again with the same data directory.
func (w *world) open() {
	w.store = must(pebblestore.Open(filepath.Join(w.dir, "store"), pebblestore.Options{Clock: w.clock.now}))
	w.ring = must(keys.Open(w.dir, w.clock.now)) // one for all
	r := &rotation{}
	var stops []func()
	for range processes {
		h, stop := w.process()
		r.handlers, stops = append(r.handlers, h), append(stops, stop)
	}
	w.stop = func() {
		for _, stop := range stops {
			stop()
		}
	}
	w.handler.mu.Lock()
	w.handler.h = r
	w.handler.mu.Unlock()
}

// process starts one server. The fields of the world are those of the last one.
func (w *world) process() (h http.Handler, stop func()) {
	ctx := context.Background()
	now := w.clock.now
	logger := slog.New(slog.DiscardHandler)
	scopes := scope.Parser{TokenParam: scope.Registered}
	rec := must(audit.NewRecorder(audit.Options{Store: w.store, Clock: now, Rand: rand.Reader, Observer: w.base,
		Logger: logger}))
	consents := must(consent.New(consent.Options{Store: w.store, Clock: now, Logger: logger}))
	w.clients = &client.Registry{Store: w.store, Scopes: scopes, Clock: now, AllowHTTP: true}
	as := must(client.NewAssertions(w.clients, &client.Keys{HTTP: http.DefaultClient, Clock: now}, w.base+token.Path))
	grants := &authz.Store{State: w.store}
	if w.nonces = nil; w.requireNonces {
		w.nonces = must(dpop.OpenNonces(ctx, w.store, rand.Reader, now))
	}
	base := w.base + "/fhir"
	w.policy = &policy.Engine{Keys: w.ring, Clients: w.clients, Consents: consents, Scopes: scopes, Issuer: w.base,
		Audience: base, Clock: now,
		Authorizations: grants, RoleRules: roleRules, Roles: w.currentRoles, ExternalIssuers: w.external,
		Nonces:     w.nonces,
		ConsentsOf: func(_, authorization string) access.Consents { return consents.ForAuthorization(authorization) }}
	appConsents := &appconsent.Approvals{Store: w.store, Audit: rec, Scopes: scopes, Issuer: w.base,
		UserLife: token.UserLife(0),
		Says:     func(granted string) []string { return pages.Says(scopes, granted) }, Logger: logger}
	unlimited := limit.Limits{Global: 1e6, Remote: 1e6, Failures: 1e6, Denied: 1e6}
	w.tokens = must(token.New(ctx, token.Options{Store: w.store, Audit: rec, Keys: w.ring, Assertions: as,
		Scopes: scopes, Clock: now,
		Rand: rand.Reader, Issuer: w.base, Audience: base, Limits: unlimited, Alive: w.alive, Begun: appConsents.Begun,
		Ended: appConsents.Ended, Nonces: w.nonces}))
	w.launch = &launch.Service{Store: w.store, Audit: rec, Clients: w.clients, Auth: w.policy, Scopes: scopes,
		Clock: now,
		Base:  base, Logger: logger}
	w.authorizer = must(authorize.New(authorize.Options{Store: w.store, Audit: rec, Clients: w.clients,
		Launches: w.launch,
		Scopes:   scopes, Clock: now,
		Rand: rand.Reader, Issuer: w.base, Audience: base, RoleRules: roleRules, Now: w.tokens.Now, Limits: unlimited,
		MaySelect: w.maySelect}))
	w.registration = &register.Handler{Store: w.store, Audit: rec, Registry: w.clients, Scopes: scopes, Clock: now,
		Rand: rand.Reader, Issuer: w.base,
		Logger: logger, Limits: limit.New(unlimited)}
	intro := introspect.New(introspect.Options{Policy: w.policy, Assertions: as, Tokens: w.tokens,
		Authorizations: grants,
		Clients:        w.clients, Audit: rec,
		Clock: now, Issuer: w.base, Limits: unlimited})
	service := &interaction.Service{Store: w.store, Validator: lazyValidator{}, Audit: rec, Clock: now,
		Rand:   rand.Reader,
		Base:   base,
		Checks: map[string]interaction.Check{"Device": policy.StepUp{Clock: now}.Device}}
	exporter := must(bulk.New(ctx, bulk.Options{Store: w.store, Audit: rec, Clock: now, Rand: rand.Reader,
		Base: base, Logger: logger,
		GrantFor: func(context.Context, string, string) (*access.Grant, error) {
			return nil, fhir.Errorf(fhir.NotFound, "test", "no export job runs in this test")
		}}))
	s := &rest.Server{Service: service, Auth: w.policy, Metadata: func() []byte { return []byte("{}") }, Logger: logger,
		Clock: now, Rand: rand.Reader,
		Operations: []rest.Mounter{rest.Bulk{Exporter: exporter, Base: base, Service: service,
			StepUp: policy.StepUp{Clock: now}.Demand}}}
	engine := s.Engine()
	endpoints := discovery.Endpoints{Token: w.base + token.Path, Authorize: w.base + authorize.Path,
		Introspect: w.base + introspect.Path,
		Revoke:     w.base + introspect.RevokePath, Register: w.base + register.Path}
	for _, mounter := range []rest.Mounter{w.ring, w.tokens, w.authorizer, w.launch, w.registration, intro,
		discovery.Handler{BaseURL: w.base, Endpoints: endpoints}} {
		mounter.Mount(engine)
	}
	engine.GET("/auth/consent", w.page)
	return w.nonces.Offer(engine), func() { exporter.Close(); consents.Close() }
}

func (w *world) reopen() { w.close(); w.open() }

func roleRules(roles []string) (out []access.Rule) {
	for _, r := range roles {
		switch r {
		case "practitioner":
			out = append(out, access.Rule{Type: "*", May: access.Read | access.Search})
		case "keeper":
			out = append(out, access.Rule{Type: "*",
				May: access.Create | access.Read | access.Update | access.Delete | access.Search})
		case "patient", "reader":
			out = append(out, access.Rule{Type: "Observation", May: access.Read | access.Search},
				access.Rule{Type: "Patient", May: access.Read | access.Search})
		}
	}
	return out
}

func (w *world) currentRoles(_ context.Context, _ authz.Subject) ([]string, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.roles != nil {
		return w.roles, !w.accountEnded, nil
	}
	return w.subject.Roles, !w.accountEnded, nil
}

func (w *world) alive(ctx context.Context, s authz.Subject, _ bool) ([]string, bool, error) {
	return w.currentRoles(ctx, s)
}

func (w *world) maySelect(_ context.Context, s authorize.Subject, patient, _ string) error {
	if s.FHIRUser.Type == "Practitioner" && strings.HasPrefix(patient, "p") {
		return nil
	}
	return fhir.Errorf(fhir.NotFound, "test", "the patient does not exist")
}

// page is the consent page. It makes the decision of the person.
func (w *world) page(c *gin.Context) {
	ctx, id := authorize.WithBrowser(c.Request), c.Query("request")
	p, err := w.authorizer.Pending(ctx, id)
	if err != nil {
		c.String(fhir.KindOf(err).HTTPStatus(), "%v", err)
		return
	}
	w.mu.Lock()
	d := authorize.Decision{Subject: w.subject, Scopes: strings.Fields(p.Scopes.String())}
	if p.NeedsPatient && w.subject.FHIRUser.Type != "Patient" {
		d.Patient = "p1"
	}
	if w.decide != nil {
		d = w.decide(p)
	}
	w.mu.Unlock()
	var to string
	if len(d.Scopes) == 0 {
		to, err = w.authorizer.Deny(ctx, id, "")
	} else {
		to, err = w.authorizer.Approve(ctx, id, d)
	}
	if err != nil {
		c.String(fhir.KindOf(err).HTTPStatus(), "%v", err)
		return
	}
	c.Redirect(http.StatusSeeOther, to)
}

// seed stores two patients with Observations and Consents, and a practitioner.
func (w *world) seed() {
	put := func(typ, id, rest string) store.Write {
		return store.Write{Resource: fhir.Resource{Type: typ, ID: id,
			JSON: []byte(fhir.Prefix(typ, id) + `}` + rest + `}`)}}
	}
	obs := func(id, patient, category string) store.Write {
		return put("Observation", id, `,"status":"final","category":[{"coding":[{"system":"`+categorySystem+
			`","code":"`+category+`"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},`+
			`"subject":{"reference":"Patient/`+patient+`"},"effectiveDateTime":"2026-01-02T03:04:05Z"`)
	}
	b := &store.Batch{Writes: []store.Write{put("Patient", "p1", ""), put("Patient", "p2", ""),
		put("Practitioner", "d1", ""),
		obs("o1", "p1", "vital-signs"), obs("o2", "p1", "laboratory"), obs("o3", "p2", "vital-signs")}}
	for _, p := range []string{"p1", "p2"} {
		r := must(consent.Build(consent.Terms{ID: "c-" + p, Patient: p, Recipient: consent.AnyRecipient,
			Now: w.clock.now()}))
		b.Writes = append(b.Writes, store.Write{Resource: r})
	}
	must(w.store.Commit(context.Background(), b))
}

// jwks returns a JWK set with the public key.
func (w *world) jwks(priv *ecdsa.PrivateKey) json.RawMessage {
	j := must(jwk.FromRaw(&priv.PublicKey))
	if err := j.Set(jwk.KeyIDKey, "k1"); err != nil {
		panic(err)
	}
	return must(json.Marshal(m{"keys": []any{j}}))
}

const allScopes = "openid fhirUser profile launch launch/patient launch/encounter offline_access online_access " +
	"patient/*.cruds user/*.cruds patient/*.* user/*.*"

// app registers an app with an authentication method.
func (w *world) app(method client.Method, edit func(*client.Client)) client.Client {
	c := client.Client{Name: "App", Method: method, RedirectURIs: []string{redirect}, Scope: allScopes}
	switch method {
	case client.SecretBasic, client.SecretPost:
		c.SecretHash = client.Hash("s3cret-of-the-app")
	case client.PrivateKeyJWT:
		c.JWKS = w.jwks(w.ec)
	}
	if edit != nil {
		edit(&c)
	}
	return must(w.clients.Add(context.Background(), c))
}

// backend registers a backend client.
func (w *world) backend(scopes string) client.Client {
	return must(w.clients.Add(context.Background(), client.Client{Name: "Backend", JWKS: w.jwks(w.ec), Scope: scopes}))
}

// jwt returns a signed JWT with any header.
func jwt(header, claims m, key *ecdsa.PrivateKey) string {
	enc := base64.RawURLEncoding
	in := enc.EncodeToString(must(json.Marshal(header))) + "." + enc.EncodeToString(must(json.Marshal(claims)))
	alg := jwa.ES384
	if key.Curve == elliptic.P256() {
		alg = jwa.ES256
	}
	return in + "." + enc.EncodeToString(must(must(jws.NewSigner(alg)).Sign([]byte(in), key)))
}

// assertion returns a new client assertion.
func (w *world) assertion(id string) string {
	now := w.clock.now()
	return jwt(m{"alg": "ES384", "kid": "k1", "typ": "JWT"},
		m{"iss": id, "sub": id, "aud": w.base + token.Path, "jti": rand.Text(),
			"iat": now.Unix(), "exp": now.Add(4 * time.Minute).Unix()}, w.ec)
}

const verifier = "a-verifier-that-is-long-enough-for-rfc-7636-4.1"

func challenge(v string) string {
	sum := sha256.Sum256([]byte(v))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// params returns the parameters of a valid authorization request with changes.
// A nil value removes the parameter.
func (w *world) params(c client.Client, scopes string, change url.Values) url.Values {
	v := url.Values{"response_type": {"code"}, "client_id": {c.ID}, "redirect_uri": {redirect}, "scope": {scopes},
		"state": {"st&te=1"},
		"aud":   {w.base + "/fhir"}, "code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"}}
	for k, values := range change {
		if values == nil {
			v.Del(k)
		} else {
			v[k] = values
		}
	}
	return v
}

// follow sends an authorization request and follows redirects. If they end at
// the app, follow returns the parameters that the app gets, the status and the
// URL. If they end at a page, the parameters are nil, and follow returns the
// status and the body of the page.
func (w *world) follow(params url.Values, post bool) (response url.Values, status int, text string) {
	w.t.Helper()
	var res *http.Response
	var err error
	if post {
		res, err = w.browser.PostForm(w.base+authorize.Path, params)
	} else {
		res, err = w.browser.Get(w.base + authorize.Path + "?" + params.Encode())
	}
	for range 3 {
		if err != nil {
			w.t.Fatal(err)
		}
		b, rerr := io.ReadAll(res.Body)
		if cerr := res.Body.Close(); rerr != nil || cerr != nil {
			w.t.Fatal(rerr, cerr)
		}
		if res.Header.Get("Access-Control-Allow-Origin") != "" {
			w.t.Error("CORS on the authorization endpoint")
		}
		to := res.Header.Get("Location")
		if to == "" {
			return nil, res.StatusCode, string(b)
		}
		u := must(url.Parse(to))
		if u.Host != "" && w.base != u.Scheme+"://"+u.Host {
			return u.Query(), res.StatusCode, to
		}
		res, err = w.browser.Get(w.base + to)
	}
	w.t.Fatal("redirects do not end")
	return nil, 0, ""
}

// code returns the code for a valid authorization request.
func (w *world) code(c client.Client, scopes string, change url.Values) string {
	w.t.Helper()
	v, status, text := w.follow(w.params(c, scopes, change), false)
	if v.Get("code") == "" || v.Get("iss") != w.base || v.Get("state") != "st&te=1" || v.Has("error") {
		w.t.Fatalf("no code: %d %s", status, text)
	}
	return v.Get("code")
}

// postForm sends a form as an authenticated client.
func (w *world) postForm(path string, c client.Client, form url.Values,
	edit func(*http.Request)) (int, m, http.Header) {
	w.t.Helper()
	v := url.Values{}
	for k, values := range form {
		v[k] = values
	}
	switch c.Method {
	case client.None:
		v.Set("client_id", c.ID)
	case client.SecretPost:
		v.Set("client_id", c.ID)
		v.Set("client_secret", "s3cret-of-the-app")
	case client.PrivateKeyJWT, "":
		v.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		v.Set("client_assertion", w.assertion(c.ID))
	}
	r := must(http.NewRequest("POST", w.base+path, strings.NewReader(v.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", "https://app.example")
	if c.Method == client.SecretBasic {
		r.SetBasicAuth(c.ID, "s3cret-of-the-app")
	}
	if edit != nil {
		edit(r)
	}
	res, err := w.browser.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	var out m
	b := must(io.ReadAll(res.Body))
	if len(b) > 0 {
		if err := json.Unmarshal(b, &out); err != nil {
			w.t.Fatalf("%d %q", res.StatusCode, b)
		}
	}
	return res.StatusCode, out, res.Header
}

// redeem redeems a code. The changes apply to the parameters of the request.
func (w *world) redeem(c client.Client, code string, change url.Values) (int, m, http.Header) {
	w.t.Helper()
	v := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
		"code_verifier": {verifier}}
	for k, values := range change {
		if values == nil {
			v.Del(k)
		} else {
			v[k] = values
		}
	}
	return w.postForm(token.Path, c, v, nil)
}

// authorize runs a whole authorization and returns the token response.
func (w *world) authorize(c client.Client, scopes string) m {
	w.t.Helper()
	s, out, _ := w.redeem(c, w.code(c, scopes, nil), nil)
	if s != 200 {
		w.t.Fatal(s, out)
	}
	return out
}

// refresh redeems a refresh token.
func (w *world) refresh(c client.Client, tok any, change url.Values) (int, m) {
	w.t.Helper()
	v := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tok)}}
	for k, values := range change {
		v[k] = values
	}
	s, out, _ := w.postForm(token.Path, c, v, nil)
	return s, out
}

// read sends a GET request to the FHIR API with a bearer token and returns the
// status.
func (w *world) read(tok any, path string) int {
	w.t.Helper()
	s, _ := w.fetch(tok, path)
	return s
}

// fetch sends a GET request to the FHIR API with a bearer token and returns the
// status and the body.
func (w *world) fetch(tok any, path string) (int, m) {
	w.t.Helper()
	r := must(http.NewRequest("GET", w.base+"/fhir/"+path, nil))
	r.Header.Set("Authorization", "Bearer "+fmt.Sprint(tok))
	res, err := w.browser.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	var out m
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, out
}
