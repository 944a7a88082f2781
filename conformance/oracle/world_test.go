package oracle

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/adapters"
	"pulsegate/conformance/cluster/processes"
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
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
	"pulsegate/mapping/uscore/forms"
	"pulsegate/smart/scope"
)

const base = "https://pulse.example.org/fhir"

var (
	validator = sync.OnceValues(func() (*r4.Validator, error) { return r4.New(r4.Limits{}) })
	mapper    = sync.OnceValues(func() (*mapping.Mapper,
		error) {
		return mapping.New(table.Builtin(), mapping.Options{})
	})
)

// source is the random source of one component. It outlives restarts, so that ids do not
// repeat.
type source struct {
	mu  sync.Mutex
	rnd *rand.ChaCha8 // guarded by mu
}

func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rnd.Read(p)
}

// newSource returns the source of the named component.
func newSource(seed uint64, name string) *source {
	var k [32]byte
	copy(k[8:], name)
	for i := range 8 {
		k[i] = byte(seed >> (8 * i))
	}
	return &source{rnd: rand.NewChaCha8(k)}
}

// world is one server and its clock.
type world struct {
	t     *testing.T
	tier  bool // uses the sample tier
	fault fault
	fs    *vfs.MemFS
	// cluster is not nil if the server's calls go to the stores of several processes in
	// turn, which replace the store with files in fs.
	cluster *processes.Processes
	db      database
	store   store.Store
	rand    map[string]*source

	// Time advances only by commits, each of which takes tick.
	mu     sync.Mutex // guards the fields of this group
	now    time.Time
	tick   time.Duration
	frozen time.Time // for ingest, because its goroutines read the clock while others commit
	ticks  int
	states map[string]string // state of background work

	gate     *gate
	consents *consent.Engine
	subs     *subscription.Engine
	exporter *bulk.Exporter
	pipeline *ingest.Pipeline
	handler  http.Handler
	scopes   map[string]string // by client; shared by both worlds
	received []string          // notifications
}

// database is a store without the faults of this test.
type database interface {
	store.Store
	store.Columnar
}

// documents is the store of the first world.
type documents struct {
	store.Documents
	world *world
}

// tier is the store of the second world. It promotes the optional methods of the driver.
type tier struct {
	database
	world *world
}

func (d documents) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	r, err := d.Documents.Commit(ctx, b)
	return d.world.committed(b, r, err)
}

func (d tier) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	r, err := d.database.Commit(ctx, b)
	return d.world.committed(b, r, err)
}

// fault is an intentional fault of a server, for the control.
type fault int

const (
	noFault      fault = iota
	findsLess          // omits the last match of a search
	countsMore         // counts one match too many
	scansLess          // omits an Observation from exports
	wrongVersion       // does not find the second version of a sample
	faults
)

// faulty is a tier with the fault of its world.
type faulty struct{ tier }

func (s faulty) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	if s.world.fault != findsLess || f.Query.Type != "Observation" {
		return s.tier.Find(ctx, f, fn)
	}
	n, err := s.tier.Count(ctx, store.Find{Query: f.Query, Filter: f.Filter, At: f.At})
	if err != nil {
		return err
	}
	return s.tier.Find(ctx, f, func(m *store.Found) bool { n--; return n > 0 && fn(m) })
}

func (s faulty) Count(ctx context.Context, f store.Find) (uint64, error) {
	n, err := s.tier.Count(ctx, f)
	if s.world.fault == countsMore && n > 3 {
		n++
	}
	return n, err
}

func (s faulty) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	n := 0
	return s.tier.Scan(ctx, r, func(f *store.Found) bool {
		if n++; s.world.fault == scansLess && n == 3 && f.Resource.Type == "Observation" {
			return true
		}
		return fn(f)
	})
}

func (s faulty) ReadVersion(ctx context.Context, ref fhir.Ref, version uint64) (fhir.Resource, *access.Facts, error) {
	if s.world.fault == wrongVersion && version == 2 && len(ref.ID) == 32 {
		version = 99
	}
	return s.tier.ReadVersion(ctx, ref, version)
}

// committed advances the time by that of a commit, and then publishes the commit.
func (w *world) committed(b *store.Batch, r store.Result, err error) (store.Result, error) {
	if err != nil || r.Seq == 0 {
		return r, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.ticks = w.now.Add(w.tick), w.ticks+1
	for i := range b.State {
		if k := b.State[i].Key; strings.HasPrefix(k, "bulk/") || strings.HasSuffix(k, "/sent") ||
			strings.HasSuffix(k, "/head") {
			w.states[k] = string(b.State[i].Value)
		}
	}
	w.gate.publish()
	return r, nil
}

// state returns a value of the state as of the last published commit.
func (w *world) state(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states[key]
}

// clock returns the current time.
func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// frozenClock returns the time at the start of the step.
func (w *world) frozenClock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frozen
}

// advance advances the time by d before a step. Each commit of the step takes tick.
func (w *world) advance(d, tick time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
	w.frozen, w.tick = w.now, tick
}

// newWorld starts a server of n processes. Their log has faults if logSeed is not zero.
func newWorld(t *testing.T, seed uint64, tier bool, n int, logSeed uint64, scopes map[string]string) *world {
	w := &world{t: t, tier: tier, fs: vfs.NewCrashableMem(), scopes: scopes, gate: newGate(),
		rand: map[string]*source{}, states: map[string]string{},
		now: time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC), tick: time.Millisecond}
	for _, name := range []string{"audit", "ids", "requests", "export", "notifications"} {
		w.rand[name] = newSource(seed, name)
	}
	if n > 1 {
		var err error
		if w.cluster, err = processes.New(n, w.clock, logSeed); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	return w
}

// Authenticate implements rest.Authenticator. The token is the name of the client.
func (w *world) Authenticate(r *http.Request) (*access.Principal, error) {
	id, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if id == "operator" { // the operator's Consents count after withdrawals, too
		return &access.Principal{Operator: "uid:0", Grant: access.All()}, nil
	}
	if !ok || w.scopes[id] == "" {
		return nil, fhir.Errorf(fhir.Unauthorized, "oracle", "an access token is needed")
	}
	g, err := w.grant(context.Background(), id, "")
	return &access.Principal{ClientID: id, ClientName: "Client " + id, TokenID: "jti-" + id, Scope: w.scopes[id],
		Grant: g}, err
}

// grant returns the grant of a client under scopes, or under its own if scopes is empty.
func (w *world) grant(_ context.Context, client, scopes string) (*access.Grant, error) {
	if scopes == "" {
		scopes = w.scopes[client]
	}
	set, err := scope.Parser{TokenParam: scope.Registered}.Parse(scopes)
	if err != nil {
		return nil, err
	}
	return &access.Grant{Recipient: client, Rules: set.Rules(), Consents: w.consents}, nil
}

// open starts the server on the data of the file system.
func (w *world) open() {
	t := w.t
	d, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	m, err := mapper()
	if err != nil {
		t.Fatal(err)
	}
	if w.cluster != nil {
		w.db = w.cluster.Store
	} else if w.db, err = pebblestore.Open("", pebblestore.Options{FS: w.fs, Clock: w.clock,
		CacheBytes: 32 << 20}); err != nil {
		t.Fatal(err)
	}
	if w.tier {
		w.store = tier{w.db, w}
		if w.fault != noFault {
			w.store = faulty{tier{w.db, w}}
		}
	} else {
		w.store = documents{store.Documents{Store: w.db}, w}
	}
	w.gate.watch(w.db)
	log := slog.New(slog.DiscardHandler)
	rec, err := audit.NewRecorder(audit.Options{Store: w.store, Clock: w.clock, Rand: w.rand["audit"],
		Observer: "https://pulse.example.org", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if w.consents, err = consent.New(consent.Options{Store: w.store, Clock: w.frozenClock, Logger: log,
		Patients: 2}); err != nil {
		t.Fatal(err)
	}
	local := egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true}
	w.subs, err = subscription.New(context.Background(), subscription.Options{
		Store: followed{w.store, w.gate}, Audit: rec, Clock: w.clock, Rand: w.rand["notifications"], Base: base,
		Policy:         local,
		HandshakeDelay: 1, Logger: log,
		GrantFor: func(ctx context.Context, client string) (*access.Grant, error) {
			w.gate.waitTurn(ctx, client)
			return w.grant(ctx, client, "")
		}})
	if err != nil {
		t.Fatal(err)
	}
	w.exporter, err = bulk.New(context.Background(),
		bulk.Options{Store: prepared{w.store, w.gate}, Audit: rec, Clock: w.clock, Rand: w.rand["export"],
			Base: base, GrantFor: w.grant, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	svc := &interaction.Service{Store: w.store, Validator: d, Audit: rec, Clock: w.clock, Rand: w.rand["ids"],
		Limits: interaction.Limits{BatchTogether: 1}, // so that the commits of both stores are the same
		Base:   base,
		Checks: map[string]interaction.Check{"Subscription": w.subs.Check, "Basic": w.subs.CheckBasic},
		Forms:  forms.All(nil)}
	w.pipeline = &ingest.Pipeline{Store: w.store, Audit: rec, Consents: w.consents, Mapper: m, Clock: w.frozenClock,
		Zone: zoneOf, Logger: log}
	s := &rest.Server{Service: svc, Auth: w, Logger: log, Clock: w.clock, Rand: w.rand["requests"],
		Metadata: func() []byte { return []byte(`{"resourceType":"CapabilityStatement"}`) },
		Operations: []rest.Mounter{
			rest.Bulk{Exporter: w.exporter, Base: base, Service: svc},
			rest.Subscriptions{Engine: w.subs, Service: svc},
		}}
	w.handler = s.Handler()
}

// zoneOf returns the time zone of a patient: one with daylight saving time, one west of
// Greenwich, and none for the others.
func zoneOf(_ context.Context, patient string) (*time.Location, error) {
	switch patient {
	case "p1":
		return time.LoadLocation("Europe/Berlin")
	case "p2":
		return time.LoadLocation("America/New_York")
	}
	return nil, nil
}

// stop stops all of the server but its store.
func (w *world) stop() {
	w.subs.Close()
	w.exporter.Close()
	w.consents.Close()
}

// close stops the server. An error means that the server was not idle, which is a bug in
// this test.
func (w *world) close() {
	w.stop()
	closeStore := w.db.Close
	if w.cluster != nil {
		closeStore = w.cluster.Close
	}
	if err := closeStore(); err != nil {
		w.t.Error(err)
	}
}

// restart stops and restarts the server.
func (w *world) restart() {
	w.close()
	if w.cluster != nil {
		if err := w.cluster.Open(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.open()
}

// kill restarts the server on a copy of its files that has the durable data and a random
// part of the rest.
func (w *world) kill(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 5))
	if w.cluster != nil {
		left := w.cluster.Crash(r)
		w.close()
		if err := w.cluster.OpenFrom(left); err != nil {
			w.t.Fatal(err)
		}
		w.open()
		return
	}
	clone := w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
	w.close()
	w.fs = clone
	w.open()
}

// feed is an adapter that yields given samples.
type feed struct {
	vendor  string
	samples []sample.Sample
}

func (f feed) Vendor() string                     { return f.vendor }
func (f feed) Name() string                       { return f.vendor }
func (feed) Formats() []adapters.Format           { return []adapters.Format{{Name: "feed"}} }
func (feed) Detect(string, []byte) (string, bool) { return "feed", true }

// Decode reuses the sample that it passes to the sink, as adapters may.
func (f feed) Decode(_ context.Context, _ adapters.Input, sink adapters.Sink) error {
	var s sample.Sample
	var parts []sample.Component
	for i := range f.samples {
		s, parts = f.samples[i], append(parts[:0], f.samples[i].Components...)
		s.Components = parts
		if err := sink.Sample(&s); err != nil {
			return err
		}
		for j := range parts {
			parts[j] = sample.Component{Name: "reused"}
		}
	}
	return nil
}
