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
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/conformance/cluster/processes"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/push"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/subscription"
	"pulsegate/mapping/preferred"
	"pulsegate/mapping/uscore/forms"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	smart "pulsegate/smart/oauth/token"
	people "pulsegate/smart/people/role"
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

// The validator, the signing keys and the client key are created once, because that takes
// time.
var (
	validator = sync.OnceValue(func() *r4.Validator { return must(r4.New(r4.Limits{})) })
	ring      = sync.OnceValue(func() *keys.Ring {
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

// fault is an intentional fault of a server, for the controls.
type fault int

const (
	noFault           fault = iota
	countsAll               // counts totals without the filter
	exportsAll              // exports without the filter
	oldVersions             // filters old versions by the facts of the current one
	newestAll               // runs $lastn without the filter
	staleConsents           // applies the consents of the first decision
	losesOne                // omits the last match of a search
	trailAll                // searches AuditEvents without the filter
	anyOwner                // searches Subscriptions without the filter
	omitsMatches            // does not record the matches of criteria
	namesOthers             // records queries that name other patients in events of a patient
	bundlesAll              // runs $ehr-bundle without the filter
	anyDevice               // adds Devices to $ehr-bundle and by _include without the filter
	prefersHidden           // chooses the preferred source of $stats without the filter
	derivesFreely           // stores derived values without the vendor of their source
	pushesAll               // sends to targets without scopes and consents
	pushesUnrecorded        // does not record what is sent to targets
	collectsAll             // receives phone-made Observations without consent
	believesPhones          // compares scopes with phone-made Observations as they were sent
	createsUnrecorded       // does not record created Observations
	runsAll                 // runs $stats and $time-buckets without the filter
	everythingAll           // runs $everything without the filter
	listsAllVersions        // lists the histories of types and of the system without the filter
	patchesUnrecorded       // does not record patches
	joinsAll                // evaluates chained parameters and _has without the filter
	writesWhole             // limits only reads by the search parameters of scopes and roles
	untagged                // does not tag what patients write
	bucketsAll              // runs $time-buckets without the filter
	listsAll                // evaluates _list without the filter
	compartmentsAll         // searches compartments without the filter
	systemAll               // searches several types without the filter
	exportJoinsAll          // evaluates chained parameters and _has of _typeFilter without the filter
	resendsAll              // sends events again without scopes and consents
	socketsAll              // sends to sockets without scopes and consents
	socketDevices           // sends to sockets the Devices of Observations without the filter
	clientTopics            // lets clients write topics of subscriptions
	faults
	// Faults that TestConsentWriteControls must detect.
	scopeSuffices     // lets every client with the scope write Consents
	uncheckedConsents // does not check the Consents that clients write
	// Faults that TestRightEndsDuringAnswerControls must detect.
	neverRechecks     // does not check grants again during an answer
	ignoresWithdrawal // does not check consents again during an answer
)

func (f fault) String() string {
	return [...]string{"none", "countsAll", "exportsAll", "oldVersions", "newestAll", "staleConsents", "losesOne",
		"trailAll", "anyOwner", "omitsMatches", "namesOthers", "bundlesAll", "anyDevice",
		"prefersHidden", "derivesFreely", "pushesAll", "pushesUnrecorded", "collectsAll", "believesPhones",
		"createsUnrecorded", "runsAll", "everythingAll", "listsAllVersions", "patchesUnrecorded", "joinsAll",
		"writesWhole", "untagged", "bucketsAll", "listsAll", "compartmentsAll", "systemAll", "exportJoinsAll",
		"resendsAll", "socketsAll", "socketDevices", "clientTopics"}[f]
}

// database is a store without faults.
type database interface {
	store.Store
	store.Columnar
}

// faulty is a store with a fault. With noFault, it changes nothing.
type faulty struct {
	database
	fault fault
	log   *trailLog // nil keeps no log
	// during is called at the first resource of a search, an export or a history.
	during func()
}

// then returns a function that calls during before fn.
func (s faulty) then(fn func(*store.Found) bool) func(*store.Found) bool {
	return func(f *store.Found) bool {
		s.during()
		return fn(f)
	}
}

func all(i access.Interaction) access.Filter { return access.All().Filter(i) }

// unfiltered reports whether the fault removes the filter from searches of a type.
func (s faulty) unfiltered(ctx context.Context, typ string) bool {
	return s.fault == trailAll && typ == "AuditEvent" || s.fault == anyOwner && typ == "Subscription" ||
		s.fault == compartmentsAll && inCompartment.MatchString(lineOf(ctx)) ||
		s.fault == systemAll && strings.HasPrefix(lineOf(ctx), "GET /fhir?")
}

// inCompartment matches the request line of a search in a compartment.
var inCompartment = regexp.MustCompile(`^GET /fhir/Patient/[a-z0-9]+/([A-Z][A-Za-z]+|\*)\?`)

// lineKey is the key of the line of a request in its context.
type lineKey struct{}

// lineOf returns method and URL of the request of which ctx is the context.
func lineOf(ctx context.Context) string {
	line, _ := ctx.Value(lineKey{}).(string)
	return line
}

func (s faulty) Count(ctx context.Context, f store.Find) (uint64, error) {
	if s.fault == countsAll || s.unfiltered(ctx, f.Query.Type) {
		f.Filter = all(access.Search)
	}
	return s.database.Count(ctx, f)
}

func (s faulty) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	if s.fault == exportsAll {
		r.Filter = all(access.Read)
	}
	return s.database.Scan(ctx, r, s.then(fn))
}

func (s faulty) Versions(ctx context.Context, r store.VersionRange,
	fn func(*store.Found) bool) (search.Position, error) {
	if s.fault == listsAllVersions {
		r.Filter, r.Patient = all(access.Read), ""
	}
	return s.database.Versions(ctx, r, s.then(fn))
}

func (s faulty) FindNewest(ctx context.Context, f store.Find, n int, fn func(*store.Found) bool) error {
	if s.fault == newestAll {
		f.Filter = all(access.Search)
	}
	return s.database.FindNewest(ctx, f, n, s.then(fn))
}

func (s faulty) FindRuns(ctx context.Context, f store.Find, doc func(*store.Found) bool,
	run func(*store.Run) bool) error {
	if s.fault == runsAll || s.fault == bucketsAll && strings.Contains(lineOf(ctx), "$time-buckets") {
		f.Filter = all(access.Search)
	}
	return s.database.FindRuns(ctx, f, doc, run)
}

// forEHR reports whether a query is the one of $ehr-bundle.
func forEHR(q *search.Query) bool {
	return slices.ContainsFunc(q.Clauses, func(c search.Clause) bool { return c.Param.Code == "_tag" })
}

func (s faulty) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	if s.unfiltered(ctx, f.Query.Type) || s.fault == bundlesAll && forEHR(f.Query) ||
		s.fault == everythingAll && ofEverything(f.Query) ||
		s.fault == listsAll && f.Limit == joinLimit+1 && f.Query.Type == "List" ||
		s.fault == joinsAll && f.Limit == joinLimit+1 {
		f.Filter = all(access.Search)
	}
	if f.Query.Type == "Observation" {
		fn = s.then(fn)
	}
	if s.fault != losesOne || f.Query.Type != "Observation" {
		return s.database.Find(ctx, f, fn)
	}
	n, err := s.database.Count(ctx, store.Find{Query: f.Query, Filter: f.Filter, At: f.At})
	if err != nil || n < 2 {
		return err
	}
	f.Limit = int(n) - 1
	return s.database.Find(ctx, f, fn)
}

func (s faulty) Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error) {
	r, facts, err := s.database.Read(ctx, ref, at)
	if err == nil && s.fault == socketDevices && ref.Type == "Device" &&
		strings.HasSuffix(lineOf(ctx), subscription.SocketPath) {
		free := *facts
		free.Patient, free.Vendor, free.Author = "", "", "ca"
		facts = &free
	}
	if err == nil && s.fault == anyDevice && ref.Type == "Device" && at != 0 {
		free := *facts
		free.Patient, free.Vendor = "", ""
		facts = &free
	}
	return r, facts, err
}

func (s faulty) ReadVersion(ctx context.Context, ref fhir.Ref, n uint64) (fhir.Resource, *access.Facts, error) {
	r, facts, err := s.database.ReadVersion(ctx, ref, n)
	if err == nil && s.fault == oldVersions {
		_, facts, err = s.database.Read(ctx, ref, 0)
	}
	return r, facts, err
}

// frozen repeats the first decision for each recipient and type of data.
type frozen struct {
	access.Consents
	mu    sync.Mutex
	first map[string]bool
}

func (f *frozen) Permits(recipient string, x *access.Facts) bool {
	k := fmt.Sprint(recipient, x.Type, x.Patient, x.Vendor, x.Author, x.Categories)
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.first[k]
	if !ok {
		v = f.Consents.Permits(recipient, x)
		f.first[k] = v
	}
	return v
}

// allRecordConsents is a fault: every client may record Consents within its scope.
type allRecordConsents struct{ *policy.Engine }

func (e allRecordConsents) Authenticate(r *http.Request) (*access.Principal, error) {
	p, err := e.Engine.Authenticate(r)
	if err != nil {
		return nil, err
	}
	q, g := *p, *p.Grant
	g.RecordsConsent, q.Grant = true, &g
	return &q, nil
}

// servers selects the servers of a world.
type servers int

const (
	// oneStore is two servers over one store, of which one does the work of one server
	// at a time.
	oneStore servers = iota
	// threeStores is three servers over stores of their own, which share a log.
	threeStores
	// roughLog is threeStores with a log that loses requests and answers, and receives
	// entries late.
	roughLog
)

// logSeed is the seed of the faults of a rough log.
const logSeed = 1

// world is several servers in this process. The clients, the grants and the service are
// those of one of them.
type world struct {
	db        database             // of all servers, each call to another one
	cluster   *processes.Processes // nil with oneStore
	roles     *roletest.Roles      // of the sites, with a cluster
	holder    int                  // site that has the roles
	clients   *client.Registry
	grants    *authz.Store
	sites     []*site
	processes []*process
	service   *interaction.Service
	handler   http.Handler
	receiver  *httptest.Server
	listener  *httptest.Server // of handler, for sockets
	mu        sync.Mutex
	received  [][]byte
	pushes    int                 // calls of the targets' engines
	pushed    map[string][]string // references of what targets got, by name
	issued    int
	log       *trailLog
	requests  int                    // number of requests
	trailErrs []error                // errors of checkTrail
	skew      atomic.Int64           // of the clock of the policy, in nanoseconds
	ended     atomic.Bool            // the accounts of all persons have ended
	during    atomic.Pointer[func()] // called once, at the first resource of a scan
}

// site is a store and the work over it that one process does at a time.
type site struct {
	store     faulty
	rec       *audit.Recorder
	role      *roletest.Process // nil with oneStore
	roles     role.Roles
	subs      *subscription.Engine
	exporter  *bulk.Exporter
	preferred *preferred.Engine
	view      interaction.Preferred
	push      *push.Engine
}

// open starts servers with a fault. Each request goes to another one than the last.
func open(f fault, which servers) *world {
	quiet := slog.New(slog.DiscardHandler)
	w := &world{log: &trailLog{byRequest: map[string][]loggedEvent{}}, pushed: map[string][]string{}}
	var stores []database // of the processes
	if which == oneStore {
		db := must(pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20}))
		w.db, stores = db, []database{db, db}
	} else {
		seed := uint64(0)
		if which == roughLog {
			seed = logSeed
		}
		w.cluster = must(processes.New(3, nil, seed))
		w.db, w.roles = w.cluster.Store, roletest.New(w.cluster.Store)
		for _, db := range w.cluster.DBs {
			stores = append(stores, db)
		}
	}
	var handlers []http.Handler
	for i, db := range stores {
		if i == 0 || w.cluster != nil {
			w.sites = append(w.sites, w.site(f, db, quiet))
		}
		at := w.sites[len(w.sites)-1]
		p := w.process(f, at, quiet)
		w.processes = append(w.processes, p)
		if at.subs == nil {
			w.startWork(f, at, p, quiet)
		}
		p.service.Preferred = at.view
		if p.service.Checks["Subscription"] = at.subs.Check; f != clientTopics {
			p.service.Checks["Basic"] = at.subs.CheckBasic
		}
		handlers = append(handlers, w.serve(f, at, p, quiet))
	}
	if w.cluster != nil {
		w.moveRoles()
	}
	first := w.processes[0]
	w.clients, w.service, w.grants = first.clients, first.service, first.grants
	var next atomic.Uint64
	w.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), lineKey{}, r.Method+" "+r.URL.RequestURI())
		handlers[next.Add(1)%uint64(len(handlers))].ServeHTTP(rw, r.WithContext(ctx))
	})
	w.receiver = httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		b := must(io.ReadAll(r.Body))
		w.mu.Lock()
		defer w.mu.Unlock()
		if name, ok := strings.CutPrefix(r.URL.Path, "/ehr/"); ok {
			w.accept(answer, name, b)
		}
		if r.URL.Path == "/s1" {
			w.received = append(w.received, b)
		}
	}))
	w.listener = httptest.NewServer(w.handler)
	return w
}

// site returns a site whose work has not started.
func (w *world) site(f fault, db database, quiet *slog.Logger) *site {
	st := faulty{db, f, w.log, func() {
		if fn := w.during.Swap(nil); fn != nil {
			(*fn)()
		}
	}}
	at := &site{store: st, roles: role.Alone{}, rec: must(audit.NewRecorder(audit.Options{Store: st, Clock: time.Now,
		Rand: rand.Reader, Observer: issuer, Logger: quiet}))}
	if w.roles != nil {
		at.role = w.roles.Process()
		at.roles = at.role
	}
	return at
}

// moveRoles gives the roles to another site. The world has a cluster.
func (w *world) moveRoles() {
	w.holder = (w.holder + 1) % len(w.sites)
	if err := w.roles.Give(w.sites[w.holder].role); err != nil {
		panic(err)
	}
}

// startWork starts the work of a site, with the grants of one of its processes.
func (w *world) startWork(f fault, at *site, p *process, quiet *slog.Logger) {
	ctx := context.Background()
	grantFor := func(ctx context.Context, id, s string) (*access.Grant, error) {
		c, err := p.clients.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		if s == "" {
			s = c.Scope
		}
		set, err := p.clients.Scopes.Parse(s)
		return &access.Grant{Recipient: id, Rules: set.Rules(), Consents: p.consents,
			RecordsConsent: c.RecordsConsent}, err
	}
	local := egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true}
	at.subs = must(subscription.New(ctx, subscription.Options{Store: at.store, Audit: at.rec, Clock: time.Now,
		Rand: rand.Reader, Base: base, Policy: local, Roles: at.roles,
		HandshakeDelay: 1, Logger: quiet,
		GrantFor: func(ctx context.Context, id string) (*access.Grant, error) {
			if line := lineOf(ctx); f == resendsAll && strings.HasSuffix(line, "/s1/$resend") ||
				f == socketsAll && strings.HasSuffix(line, subscription.SocketPath) {
				return access.All(), nil
			}
			return grantFor(ctx, id, "")
		}}))
	joins := at.store
	if f == exportJoinsAll {
		joins.fault = joinsAll
	}
	at.exporter = must(bulk.New(ctx, bulk.Options{Store: at.store, Audit: at.rec, Clock: time.Now, Rand: rand.Reader,
		Base: base, GrantFor: grantFor, Logger: quiet, Roles: at.roles,
		Search: &interaction.Service{Store: joins, Base: base, Clock: time.Now,
			Limits: interaction.Limits{Joined: joinLimit}}}))
	startDerived(f, at)
	startPush(f, at, local, grantFor)
}

// process is the part of a server that keeps state in memory.
type process struct {
	engine   *consent.Engine
	consents access.Consents
	clients  *client.Registry
	grants   *authz.Store
	policy   *policy.Engine
	service  *interaction.Service
}

func (w *world) process(f fault, at *site, quiet *slog.Logger) *process {
	st := at.store
	p := &process{engine: must(consent.New(consent.Options{Store: st.database, Clock: time.Now, Logger: quiet}))}
	p.consents = p.engine
	if f == staleConsents {
		p.consents = &frozen{Consents: p.engine, first: map[string]bool{}}
	}
	scopes := scope.Parser{TokenParam: scope.Registered}
	p.clients, p.grants = &client.Registry{Store: st, Scopes: scopes, Clock: time.Now}, &authz.Store{State: st}
	p.policy = &policy.Engine{Keys: ring(), Clients: p.clients, Consents: p.consents, Scopes: scopes,
		Issuer: issuer, Audience: base,
		Clock: func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }, Authorizations: p.grants,
		RoleRules: people.RulesOf, Latest: st.LastSeq}
	p.service = &interaction.Service{Store: st, Validator: validator(), Audit: at.rec, Clock: time.Now,
		Rand: rand.Reader, Base: base, Limits: interaction.Limits{Joined: joinLimit},
		Checks: map[string]interaction.Check{}, Forms: forms.All(nil),
		Receiver: newPhones(f, st, at.rec, p.engine)}
	if f != uncheckedConsents {
		p.service.Checks["Consent"] = p.engine.Check
	}
	return p
}

// serve returns the handler of a process.
func (w *world) serve(f fault, at *site, p *process, quiet *slog.Logger) http.Handler {
	var auth rest.Authenticator = p.policy
	switch f {
	case scopeSuffices:
		auth = allRecordConsents{p.policy}
	case writesWhole:
		auth = wholeWrites{p.policy}
	case untagged:
		auth = untags{p.policy}
	case neverRechecks:
		auth = neverRechecked{p.policy}
	}
	s := &rest.Server{Service: p.service, Auth: auth, Logger: quiet, Clock: time.Now, Rand: rand.Reader,
		Metadata: func() []byte { return []byte("{}") },
		Operations: []rest.Mounter{rest.Bulk{Exporter: at.exporter, Base: base, Service: p.service},
			rest.Subscriptions{Engine: at.subs, Service: p.service}},
		Public: []rest.Mounter{rest.Sockets{Engine: at.subs, Auth: auth}}}
	if f != ignoresWithdrawal {
		s.Consents = p.engine
	}
	return s.Handler()
}

func (w *world) close() error {
	for _, at := range w.sites {
		at.subs.Close()
		at.push.Close()
		at.preferred.Close()
		at.exporter.Close()
	}
	for _, p := range w.processes {
		p.engine.Close()
	}
	w.receiver.Close()
	w.listener.Close()
	if w.cluster != nil {
		return w.cluster.Close()
	}
	return w.db.Close()
}

// register registers the client of a token. A backend has exactly these scopes; the app of
// a person has all of them.
func (w *world) register(tok *token, registered []string) {
	phones := registeredPhones(tok.client)
	c := client.Client{ID: tok.client, Name: tok.client, Scope: strings.Join(registered, " "), JWKS: jwks(),
		PhoneMade: phones}
	if tok.person {
		c = client.Client{ID: tok.client, Name: tok.client, Method: client.None, PhoneMade: phones,
			RedirectURIs: []string{"https://app.example/cb"},
			Scope:        "openid fhirUser launch/patient patient/*.cruds user/*.cruds"}
	}
	must(w.clients.Add(context.Background(), c))
}

// issue returns a signed access token like those of the token endpoint.
func (w *world) issue(tok *token) string {
	now := time.Now()
	w.issued++
	claims := map[string]any{"iss": issuer, "sub": tok.client, "client_id": tok.client, "aud": base,
		"scope": strings.Join(tok.scopes, " "),
		"jti":   fmt.Sprint("t", w.issued), "iat": now.Unix(), "exp": now.Add(4 * time.Minute).Unix()}
	if tok.person {
		id := fmt.Sprint("authz", w.issued)
		a := authz.Authorization{ID: id, ClientID: tok.client, Scope: claims["scope"].(string), Created: now,
			Used: now, Expires: now.Add(time.Hour),
			Subject: authz.Subject{ID: "u" + id, Roles: tok.roles, AuthTime: now, ACR: "phr"},
			Context: authz.Context{Patient: tok.patient}}
		if ref, ok := fhir.ParseRef(tok.user); ok {
			a.Subject.FHIRUser = ref
		}
		ctx := context.Background()
		write := func(s ...store.StateWrite) { must(w.db.Commit(ctx, &store.Batch{State: s})) }
		write(must(authz.NewCode(id, authz.Code{Authorization: a, Expires: now.Add(time.Minute)})))
		code := must(w.grants.Code(ctx, id))
		write(must(code.Redeem(authz.Record{Authorization: a}))...)
		claims["sub"], claims["authz"] = a.Subject.ID, id
		if tok.patient != "" {
			claims["patient"] = tok.patient
		}
	}
	return must(ring().Sign(smart.Type, claims))
}

// answer is the answer to one request.
type answer struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any
}

// do sends a request and checks its answer against the audit trail. header holds names
// and values in turn.
func (w *world) do(bearer, method, path, body string, header ...string) answer {
	req := httptest.NewRequest(method, "/fhir"+strings.TrimPrefix(path, base), strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+bearer)
	if body != "" {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w.requests++
	id := fmt.Sprint("rq-", w.requests)
	req.Header.Set("X-Request-Id", id)
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, req)
	a := answer{status: rec.Code, header: rec.Header(), body: rec.Body.Bytes()}
	if strings.Contains(a.header.Get("Content-Type"), "json") &&
		!strings.Contains(a.header.Get("Content-Type"), "ndjson") {
		if err := json.Unmarshal(a.body, &a.json); err != nil {
			panic(fmt.Sprintf("%s %s: %d, not JSON: %.200s", method, path, a.status, a.body))
		}
	}
	if err := w.checkTrail(method, path, id, &a); err != nil {
		w.trailErrs = append(w.trailErrs, err)
	}
	return a
}

func (w *world) get(bearer, path string) answer { return w.do(bearer, "GET", path, "") }

// entries returns the references of the entries of a Bundle with a search mode, in order.
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

// link returns the URL of a link of a Bundle.
func (a answer) link(relation string) string {
	list, _ := a.json["link"].([]any)
	for _, l := range list {
		if m := l.(map[string]any); m["relation"] == relation {
			return m["url"].(string)
		}
	}
	return ""
}

// operator returns the matches of a search when everything is visible.
func (w *world) operator(typ, query string) ([]string, error) {
	rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
		Grant: access.All()}}, Line: "GET " + typ}
	if err := w.db.Sync(context.Background()); err != nil {
		return nil, err
	}
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
