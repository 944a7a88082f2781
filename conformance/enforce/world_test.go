package enforce

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/subscription"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	smart "pulsegate/smart/oauth/token"
	"pulsegate/smart/people/role"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

const (
	issuer = "https://pulse.example.org"
	base   = issuer + "/fhir"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What costs time is made once: the validator, the signing keys, a client key.
var (
	door = sync.OnceValue(func() *r4.Validator { return must(r4.New(r4.Limits{})) })
	ring = sync.OnceValue(func() *keys.Ring {
		dir := must(os.MkdirTemp("", "enforce"))
		r := must(keys.Open(dir, time.Now))
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
		return r
	})
	jwks = sync.OnceValue(func() json.RawMessage {
		k := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
		j := must(jwk.FromRaw(&k.PublicKey))
		if err := j.Set(jwk.KeyIDKey, "k1"); err != nil {
			panic(err)
		}
		return must(json.Marshal(map[string]any{"keys": []any{j}}))
	})
)

// fault is what a server does wrong on purpose, for the controls.
type fault int

const (
	noFault        fault = iota
	countsAll            // totals are counted without the filter
	exportsAll           // export scans without the filter
	oldVersions          // a version is judged by the facts of the current one
	newestAll            // $lastn looks without the filter
	staleConsents        // decides by the consents at the start
	losesOne             // a search misses what it shows last
	trailAll             // searches of the audit trail look without the filter
	anyOwner             // so do those of Subscriptions
	forgetsMatches       // what criteria found is not in the trail
	tellsOthers          // events of a patient hold a query that names others
	faults
	// Of the writes of Consents, found by TestConsentWriteControls.
	scopeSuffices  // a scope alone lets a client write Consents
	consentUnowned // what a client writes is not held to what the patient said
	// Of long answers, found by TestStandingControls.
	standsForever   // a grant is good until its answer ends
	consentsUnasked // and so are the consents
)

func (f fault) String() string {
	return [...]string{"none", "countsAll", "exportsAll", "oldVersions", "newestAll", "staleConsents", "losesOne",
		"trailAll", "anyOwner", "forgetsMatches", "tellsOthers"}[f]
}

// faulty is the store with the fault; without one it changes nothing.
type faulty struct {
	*pebblestore.DB
	fault fault
	log   *trailLog // nil keeps no log
	// amid is called at the first resource of a search, an export or a history.
	amid func()
}

// then calls amid before fn.
func (s faulty) then(fn func(*store.Found) bool) func(*store.Found) bool {
	return func(f *store.Found) bool {
		s.amid()
		return fn(f)
	}
}

func all(i access.Interaction) access.Filter { return access.All().Filter(i) }

// unfiltered reports whether a search of a type looks without the filter.
func (s faulty) unfiltered(typ string) bool {
	return s.fault == trailAll && typ == "AuditEvent" || s.fault == anyOwner && typ == "Subscription"
}

func (s faulty) Count(ctx context.Context, f store.Find) (uint64, error) {
	if s.fault == countsAll || s.unfiltered(f.Query.Type) {
		f.Filter = all(access.Search)
	}
	return s.DB.Count(ctx, f)
}

func (s faulty) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	if s.fault == exportsAll {
		r.Filter = all(access.Read)
	}
	return s.DB.Scan(ctx, r, s.then(fn))
}

func (s faulty) FindNewest(ctx context.Context, f store.Find, n int, fn func(*store.Found) bool) error {
	if s.fault == newestAll {
		f.Filter = all(access.Search)
	}
	return s.DB.FindNewest(ctx, f, n, s.then(fn))
}

func (s faulty) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	if s.unfiltered(f.Query.Type) {
		f.Filter = all(access.Search)
	}
	if f.Query.Type == "Observation" {
		fn = s.then(fn)
	}
	if s.fault != losesOne || f.Query.Type != "Observation" {
		return s.DB.Find(ctx, f, fn)
	}
	n, err := s.DB.Count(ctx, store.Find{Query: f.Query, Filter: f.Filter, At: f.At})
	if err != nil || n < 2 {
		return err
	}
	f.Limit = int(n) - 1
	return s.DB.Find(ctx, f, fn)
}

func (s faulty) ReadVersion(ctx context.Context, ref fhir.Ref, n uint64) (fhir.Resource, *access.Facts, error) {
	r, facts, err := s.DB.ReadVersion(ctx, ref, n)
	if err == nil && s.fault == oldVersions {
		_, facts, err = s.DB.Read(ctx, ref, 0)
	}
	return r, facts, err
}

// frozen answers as the first time.
type frozen struct {
	access.Consents
	mu   sync.Mutex
	said map[string]bool
}

func (f *frozen) Permits(recipient string, x *access.Facts) bool {
	k := fmt.Sprint(recipient, x.Type, x.Patient, x.Vendor, x.Author, x.Categories)
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.said[k]
	if !ok {
		v = f.Consents.Permits(recipient, x)
		f.said[k] = v
	}
	return v
}

// everybodyRecords takes a scope for the right to record Consents.
type everybodyRecords struct{ *policy.Engine }

func (e everybodyRecords) Authenticate(r *http.Request) (*access.Principal, error) {
	p, err := e.Engine.Authenticate(r)
	if err != nil {
		return nil, err
	}
	q, g := *p, *p.Grant
	g.RecordsConsent, q.Grant = true, &g
	return &q, nil
}

// world is one server.
type world struct {
	db       *pebblestore.DB
	consents access.Consents
	engine   *consent.Engine
	clients  *client.Registry
	grants   *authz.Store
	policy   *policy.Engine
	subs     *subscription.Engine
	exporter *bulk.Exporter
	service  *interaction.Service
	handler  http.Handler
	receiver *httptest.Server
	mu       sync.Mutex
	received [][]byte
	issued   int
	log      *trailLog
	asked    int
	faults   []error                // what onRecord found
	skew     atomic.Int64           // of the policy's clock, in nanoseconds
	ended    atomic.Bool            // the accounts of all persons
	amid     atomic.Pointer[func()] // called once, at the first resource of a scan
}

func open(f fault) *world {
	ctx, quiet := context.Background(), slog.New(slog.DiscardHandler)
	w := &world{db: must(pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20}))}
	w.log = &trailLog{byRequest: map[string][]witnessed{}}
	st := faulty{w.db, f, w.log, func() {
		if fn := w.amid.Swap(nil); fn != nil {
			(*fn)()
		}
	}}
	rec := must(audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader, Observer: issuer,
		Logger: quiet}))
	w.engine = must(consent.New(consent.Options{Store: w.db, Clock: time.Now, Logger: quiet}))
	w.consents = w.engine
	if f == staleConsents {
		w.consents = &frozen{Consents: w.engine, said: map[string]bool{}}
	}
	scopes := scope.Parser{TokenParam: scope.Registered}
	w.clients = &client.Registry{Store: st, Scopes: scopes, Clock: time.Now}
	w.grants = &authz.Store{State: st}
	w.policy = &policy.Engine{Keys: ring(), Clients: w.clients, Consents: w.consents, Scopes: scopes,
		Issuer: issuer, Audience: base,
		Clock: func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }, Grants: w.grants,
		RoleRules: role.RulesOf, Latest: w.db.LastSeq}
	grantFor := func(ctx context.Context, id, s string) (*access.Grant, error) {
		c, err := w.clients.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		if s == "" {
			s = c.Scope
		}
		set, err := scopes.Parse(s)
		return &access.Grant{Recipient: id, Rules: set.Rules(), Consents: w.consents,
			RecordsConsent: c.RecordsConsent}, err
	}
	local := egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true}
	w.subs = must(subscription.New(ctx, subscription.Options{Store: st, Audit: rec, Clock: time.Now,
		Rand: rand.Reader, Base: base, Policy: local,
		HandshakeDelay: 1, Logger: quiet,
		GrantFor: func(ctx context.Context, id string) (*access.Grant, error) { return grantFor(ctx, id, "") }}))
	w.exporter = must(bulk.New(ctx, bulk.Options{Store: st, Audit: rec, Clock: time.Now, Rand: rand.Reader,
		Base: base, GrantFor: grantFor, Logger: quiet}))
	w.service = &interaction.Service{Store: st, Validator: door(), Audit: rec, Clock: time.Now, Rand: rand.Reader,
		Base:   base,
		Checks: map[string]interaction.Check{"Subscription": w.subs.Check}}
	if f != consentUnowned {
		w.service.Checks["Consent"] = w.engine.Check
	}
	var auth rest.Authenticator = w.policy
	switch f {
	case scopeSuffices:
		auth = everybodyRecords{w.policy}
	case standsForever:
		auth = forever{w.policy}
	}
	s := &rest.Server{Service: w.service, Auth: auth, Logger: quiet, Clock: time.Now, Rand: rand.Reader,
		Metadata: func() []byte { return []byte("{}") },
		Operations: []rest.Mounter{rest.Bulk{Exporter: w.exporter, Base: base, Service: w.service},
			rest.Subscriptions{Engine: w.subs, Service: w.service}}}
	if f != consentsUnasked {
		s.Consents = w.engine
	}
	w.handler = s.Handler()
	w.receiver = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b := must(io.ReadAll(r.Body))
		w.mu.Lock()
		defer w.mu.Unlock()
		if r.URL.Path == "/s1" {
			w.received = append(w.received, b)
		}
	}))
	return w
}

func (w *world) close() error {
	w.subs.Close()
	w.exporter.Close()
	w.engine.Close()
	w.receiver.Close()
	return w.db.Close()
}

// register makes the client of a backend with exactly these scopes; clients of
// people have them all.
func (w *world) register(k *token, registered []string) {
	c := client.Client{ID: k.client, Name: k.client, Scope: strings.Join(registered, " "), JWKS: jwks()}
	if k.person {
		c = client.Client{ID: k.client, Name: k.client, Method: client.None,
			RedirectURIs: []string{"https://app.example/cb"},
			Scope:        "openid fhirUser launch/patient patient/*.cruds user/*.cruds"}
	}
	must(w.clients.Add(context.Background(), c))
}

// issue signs an access token as the token endpoint does.
func (w *world) issue(k *token) string {
	now := time.Now()
	w.issued++
	claims := map[string]any{"iss": issuer, "sub": k.client, "client_id": k.client, "aud": base,
		"scope": strings.Join(k.scopes, " "),
		"jti":   fmt.Sprint("t", w.issued), "iat": now.Unix(), "exp": now.Add(4 * time.Minute).Unix()}
	if k.person {
		id := fmt.Sprint("authz", w.issued)
		a := authz.Authorization{ID: id, ClientID: k.client, Scope: claims["scope"].(string), Created: now,
			Used: now, Expires: now.Add(time.Hour),
			Subject: authz.Subject{ID: "u" + id, Roles: k.roles, AuthTime: now, ACR: "phr"},
			Context: authz.Context{Patient: k.patient}}
		if ref, ok := fhir.ParseRef(k.user); ok {
			a.Subject.FHIRUser = ref
		}
		ctx := context.Background()
		write := func(s ...store.StateWrite) { must(w.db.Commit(ctx, &store.Batch{State: s})) }
		write(must(authz.NewCode(id, authz.Code{Authorization: a, Expires: now.Add(time.Minute)})))
		code := must(w.grants.Code(ctx, id))
		write(must(code.Redeem(authz.Record{Authorization: a}))...)
		claims["sub"], claims["authz"] = a.Subject.ID, id
		if k.patient != "" {
			claims["patient"] = k.patient
		}
	}
	return must(ring().Sign(smart.Type, claims))
}

// answer is one response.
type answer struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any
}

func (w *world) do(bearer, method, path, body string, header ...string) answer {
	q := httptest.NewRequest(method, "/fhir"+strings.TrimPrefix(path, base), strings.NewReader(body))
	q.Header.Set("Authorization", "Bearer "+bearer)
	if body != "" {
		q.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	w.asked++
	request := fmt.Sprint("rq-", w.asked)
	q.Header.Set("X-Request-Id", request)
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, q)
	a := answer{status: rec.Code, header: rec.Header(), body: rec.Body.Bytes()}
	if strings.Contains(a.header.Get("Content-Type"), "json") &&
		!strings.Contains(a.header.Get("Content-Type"), "ndjson") {
		if err := json.Unmarshal(a.body, &a.json); err != nil {
			panic(fmt.Sprintf("%s %s: %d, no JSON: %.200s", method, path, a.status, a.body))
		}
	}
	if err := w.onRecord(method, path, request, &a); err != nil {
		w.faults = append(w.faults, err)
	}
	return a
}

func (w *world) get(bearer, path string) answer { return w.do(bearer, "GET", path, "") }

// entries are the references of a Bundle's entries with a search mode, in order.
func (a answer) entries(mode string) (out []string) {
	list, _ := a.json["entry"].([]any)
	for _, e := range list {
		m := e.(map[string]any)
		r, ok := m["resource"].(map[string]any)
		s, _ := m["search"].(map[string]any)
		if ok && (mode == "" || s["mode"] == mode) {
			out = append(out, fmt.Sprint(r["resourceType"], "/", r["id"]))
		}
	}
	return out
}

func (a answer) link(relation string) string {
	list, _ := a.json["link"].([]any)
	for _, l := range list {
		if m := l.(map[string]any); m["relation"] == relation {
			return m["url"].(string)
		}
	}
	return ""
}

// operator is what a search matches when everything is visible.
func (w *world) operator(typ, query string) ([]string, error) {
	rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
		Grant: access.All()}}, Line: "GET " + typ}
	p, err := w.service.Search(context.Background(), rq, typ, query)
	if err != nil {
		return nil, err
	}
	a := answer{}
	if err := json.Unmarshal(p.Bytes(), &a.json); err != nil {
		return nil, err
	}
	return a.entries("match"), nil
}

func sorted(in []string) []string { s := slices.Clone(in); slices.Sort(s); return s }
