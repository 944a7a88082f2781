package consent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Store is as much of a store.Store as the engine needs.
type Store interface {
	LastSeq() store.Seq
	Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error
	Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error)
	Watch(fn func(store.Commit)) (stop func())
}

// Options of an Engine.
type Options struct {
	Store  Store
	Clock  func() time.Time
	Logger *slog.Logger
	// Patients bounds the cache; 0: 10,000.
	Patients int
	// Limit bounds the Consents of one patient that decide something (those for
	// apps have a bound of their own); beyond it everything is denied. Zero
	// means 10,000. A client is refused to record more than half of it.
	Limit int
}

const (
	defaultPatients = 10_000
	defaultLimit    = 10_000
	maxRead         = 100_000 // Consents of one patient, with those for apps
	loadTimeout     = 5 * time.Second
)

// Engine answers from the consents as of the latest acknowledged commit. It is
// safe for concurrent use, and may be asked from inside a store's scan.
//
// A patient's Consents are read and compiled at the first question about them.
// A commit that changes one of them marks it, and the next question reads that
// one again. What cannot be compiled (too many, a failing store) is remembered
// as well, so that a search which meets the patient a thousand times does not
// try a thousand times.
type Engine struct {
	opts Options
	stop func()

	mu      sync.Mutex
	entries *simplelru.LRU[string, *entry] // by patient
	holders map[string][]string            // Consent id -> patients whose book was made with it
	// recent holds the latest changes: change n at n modulo its length. epoch is
	// the number of the latest.
	recent [remembered]change
	epoch  atomic.Uint64
}

// change is one of a patient's Consents, and its commit.
type change struct {
	patient string
	commit  store.Seq
}

// remembered bounds the number of recent changes that are told apart.
const remembered = 4096

// entry is one patient's book on its way. The fields below mu belong to
// Engine.mu; items belongs to whoever holds reading.
type entry struct {
	patient string

	reading sync.Mutex         // serializes the reading for this patient
	items   map[string]counted // Consents that decide something, by id; nil before the first read

	book  *book
	err   error               // why there is no book
	again time.Time           // when a failure is tried again; zero: after the next change
	stale map[string]struct{} // ids of Consents changed since they were read
	held  []string            // ids that holders lists for this patient, sorted
}

// settled reports whether the entry answers without reading. The clock is asked
// only for an entry that could not be read.
func (en *entry) settled(clock func() time.Time) bool {
	if en.err != nil {
		return (en.again.IsZero() || clock().Before(en.again)) && len(en.stale) == 0
	}
	return en.book != nil && len(en.stale) == 0
}

var _ access.Consents = (*Engine)(nil)

// New starts watching the store. Close ends it.
func New(o Options) (*Engine, error) {
	if o.Store == nil || o.Clock == nil {
		return nil, fhir.Errorf(fhir.Internal, "consent.New", "store and clock are needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Patients <= 0 {
		o.Patients = defaultPatients
	}
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	e := &Engine{opts: o, holders: map[string][]string{}}
	e.entries, _ = simplelru.NewLRU(o.Patients, e.evicted) // fails only for a size below one
	e.stop = o.Store.Watch(e.watch)
	return e, nil
}

// Close stops watching; the engine must not be asked afterwards.
func (e *Engine) Close() { e.stop() }

// watch marks what a commit made stale, before its writer is answered. A
// Consent may have moved to another patient, so the books made with it are
// marked too.
func (e *Engine) watch(c store.Commit) {
	for i := range c.Changes {
		ch := &c.Changes[i]
		if ch.Ref.Type != "Consent" {
			continue
		}
		e.mu.Lock()
		id := strings.Clone(ch.Ref.ID)
		e.mark(c.Seq, strings.Clone(ch.Facts.Patient), id)
		for _, p := range e.holders[id] {
			e.mark(c.Seq, p, id)
		}
		e.mu.Unlock()
	}
}

func (e *Engine) mark(t store.Seq, patient, id string) {
	n := e.epoch.Add(1)
	e.recent[n%remembered] = change{patient, t}
	if en, ok := e.entries.Peek(patient); ok {
		if en.stale == nil {
			en.stale = map[string]struct{}{}
		}
		en.stale[id] = struct{}{}
	}
}

// Epoch is the number of the latest change of a Consent. Answers that were
// decided after a call stand until Changed says otherwise.
func (e *Engine) Epoch() uint64 { return e.epoch.Load() }

// Changed reports whether there was a change since an epoch that concerns the
// caller: concerned is asked with its patient and its commit. It is true, too,
// after more changes than are told apart.
func (e *Engine) Changed(since uint64, concerned func(patient string, commit uint64) bool) bool {
	if e.epoch.Load() == since {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	latest := e.epoch.Load()
	if latest-since >= remembered {
		return true
	}
	for n := since + 1; n <= latest; n++ {
		if x := &e.recent[n%remembered]; concerned(x.patient, uint64(x.commit)) {
			return true
		}
	}
	return false
}

// hold and release keep holders. The caller holds mu.
func (e *Engine) hold(id, patient string) {
	if !slices.Contains(e.holders[id], patient) {
		e.holders[id] = append(e.holders[id], patient)
	}
}

func (e *Engine) release(id, patient string) {
	left := slices.DeleteFunc(e.holders[id], func(p string) bool { return p == patient })
	if len(left) == 0 {
		delete(e.holders, id)
		return
	}
	e.holders[id] = left
}

// entryOf finds or makes the entry of a patient. From then on every commit
// marks it. The caller holds mu.
func (e *Engine) entryOf(patient string) *entry {
	if en, ok := e.entries.Get(patient); ok {
		return en
	}
	en := &entry{patient: strings.Clone(patient)} // facts may point into a scan's buffer
	e.entries.Add(en.patient, en)
	return en
}

// evicted removes an entry that left the cache from holders. The caller holds
// mu.
func (e *Engine) evicted(patient string, en *entry) {
	for _, id := range en.held {
		e.release(id, patient)
	}
}

// book returns the patient's consents as of the latest commit that was
// acknowledged before the call.
func (e *Engine) book(ctx context.Context, patient string) (*book, error) {
	for {
		e.mu.Lock()
		if !e.entries.Contains(patient) && !fhir.ValidID(patient) {
			e.mu.Unlock()
			return nil, fhir.Errorf(fhir.Invalid, "consent.load", "patient is not an id")
		}
		en := e.entryOf(patient)
		if en.settled(e.opts.Clock) {
			b, err := en.book, en.err
			e.mu.Unlock()
			if err != nil {
				return nil, err
			}
			return b, nil
		}
		e.mu.Unlock()
		if b, err, ok := e.refresh(ctx, en); ok {
			return b, err
		}
	}
}

// refresh reads what is stale of an entry. ok is false when the entry was
// dropped from the cache meanwhile: then nobody marked it.
func (e *Engine) refresh(ctx context.Context, en *entry) (b *book, err error, ok bool) {
	en.reading.Lock()
	defer en.reading.Unlock()
	e.mu.Lock()
	if cached, _ := e.entries.Peek(en.patient); cached != en {
		e.mu.Unlock()
		return nil, nil, false
	}
	if en.settled(e.opts.Clock) { // another caller has read it
		defer e.mu.Unlock()
		return en.book, en.err, true
	}
	now := e.opts.Clock()
	// Until it is read again the entry answers nobody: the others wait for
	// reading.
	stale := en.stale
	en.stale, en.book, en.err = nil, nil, nil
	e.mu.Unlock()

	// The result is for everybody who asks: it does not end with the request
	// that happens to be the first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	if en.items == nil {
		err = e.readAll(ctx, en)
	} else {
		err = e.readSome(ctx, en, stale)
	}
	if err == nil {
		b = newBook(en.items, now.UnixMilli())
	} else {
		en.items = nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	en.book, en.err, en.again = b, err, time.Time{}
	if err != nil {
		if fhir.KindOf(err) != fhir.TooCostly {
			en.again = now.Add(loadTimeout)
		}
		// The error may hold keys of the store, and those the patient: the log
		// gets its kind.
		e.opts.Logger.Error("the consents of a patient cannot be read; access to this patient's data is denied",
			"cause", fhir.KindOf(err).IssueCode())
	}
	if cached, _ := e.entries.Peek(en.patient); cached == en {
		e.holdAll(en, b)
	}
	return b, err, true
}

// holdAll notes which Consents the book of en is made with. The caller holds
// mu.
func (e *Engine) holdAll(en *entry, b *book) {
	var ids []string
	if b != nil {
		ids = b.ids
	}
	for _, id := range en.held {
		if _, kept := slices.BinarySearch(ids, id); !kept {
			e.release(id, en.patient)
		}
	}
	for _, id := range ids {
		if _, had := slices.BinarySearch(en.held, id); !had {
			e.hold(id, en.patient)
		}
	}
	en.held = ids
}

// readAll reads every Consent of the patient that decides something. The
// entry is in the cache already, so that what changes meanwhile is marked.
func (e *Engine) readAll(ctx context.Context, en *entry) error {
	q, err := ofPatient(en.patient)
	if err != nil {
		return err
	}
	items, now, read, count := map[string]counted{}, e.opts.Clock().UnixMilli(), 0, 0
	// T is taken before the read: everything acknowledged by now is in it.
	t := e.opts.Store.LastSeq()
	err = e.opts.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search), At: t},
		func(f *store.Found) bool {
			read++
			if x, ok := countedIf(&f.Resource, f.Facts, en.patient, now); ok {
				items[x.ref.ID] = x
				if !x.root.forApps() {
					count++
				}
			}
			return count <= e.opts.Limit && read <= maxRead
		})
	if err != nil {
		return fhir.Wrap("consent.load", err)
	}
	if count > e.opts.Limit || read > maxRead {
		return e.tooMany()
	}
	en.items = items
	return nil
}

func (e *Engine) tooMany() error {
	return fhir.Errorf(fhir.TooCostly, "consent.load", "more than %d consents of one patient", e.opts.Limit)
}

// readSome reads the Consents with these ids again.
func (e *Engine) readSome(ctx context.Context, en *entry, ids map[string]struct{}) error {
	now := e.opts.Clock().UnixMilli()
	for id := range ids {
		if err := ctx.Err(); err != nil {
			return fhir.Wrap("consent.load", err)
		}
		r, facts, err := e.opts.Store.Read(ctx, fhir.Ref{Type: "Consent", ID: id}, 0)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return fhir.Wrap("consent.load", err)
		}
		delete(en.items, id)
		if err != nil || r.Deleted || facts == nil || facts.Patient != en.patient {
			continue
		}
		if x, ok := countedIf(&r, facts, en.patient, now); ok {
			en.items[id] = x
		}
	}
	if len(en.items) <= e.opts.Limit {
		return nil
	}
	count := 0
	for _, x := range en.items {
		if !x.root.forApps() {
			count++
		}
	}
	if count > e.opts.Limit || len(en.items) > maxRead {
		return e.tooMany()
	}
	return nil
}

// countedIf compiles one Consent; ok is false for one that decides nothing.
func countedIf(r *fhir.Resource, facts *access.Facts, patient string, now int64) (x counted, ok bool) {
	x.compiled, x.is = compile(strings.Clone(r.ID), patient, r.JSON)
	if facts != nil {
		x.author = strings.Clone(facts.Author)
	}
	if x.root.forApps() {
		// Apps come and go: what has ended decides nothing any more.
		return x, x.is == active && x.root.to > now
	}
	return x, x.is != ignored
}

// ofPatient is Consent?patient=Patient/<id>, without those whose status makes
// them decide nothing, such as drafts.
func ofPatient(id string) (*search.Query, error) {
	p, ok := search.Lookup("Consent", "patient")
	status, also := search.Lookup("Consent", "status")
	if !ok || !also {
		return nil, fhir.Errorf(fhir.Internal, "consent.load",
			"the search registry lacks Consent.patient or Consent.status")
	}
	return &search.Query{
		Type: "Consent", Count: -1, Patient: id,
		Clauses: []search.Clause{
			{Param: p, Values: []search.Value{{RefType: "Patient", RefID: id}}},
			{Param: status, Values: []search.Value{{Code: statusActive}, {Code: statusWithdrawn},
				{Code: statusRejected}}},
		},
	}, nil
}

// Permits implements access.Consents. It is false when the consents cannot be
// read.
func (e *Engine) Permits(recipient string, f *access.Facts) bool { return e.permits(recipient, "", f) }

// Under returns the consents as they hold for a token of an authorization: what
// the person allowed the app counts for it, and for no other token of the same
// client.
func (e *Engine) Under(authorization string) access.Consents {
	if authorization == "" {
		return e
	}
	return under{e, authorizedBy + authorization}
}

type under struct {
	e             *Engine
	authorization string
}

func (u under) Permits(recipient string, f *access.Facts) bool {
	return u.e.permits(recipient, u.authorization, f)
}

func (e *Engine) permits(recipient, authorization string, f *access.Facts) bool {
	if f == nil {
		return false
	}
	if f.Patient == "" {
		// Belongs to nobody: only who wrote it may read it back.
		return f.Vendor == "" && f.Author != "" && f.Author == recipient
	}
	b, err := e.book(context.Background(), f.Patient)
	if err != nil {
		return false // logged once, where it was found out
	}
	return b.permits(recipient, authorization, f, e.opts.Clock())
}

// Opens lists the patient's Consents that permit a client, whoever uses it, to
// be shown something now. What denials take away again is not asked.
func (e *Engine) Opens(ctx context.Context, patient, recipient string) ([]fhir.Ref, error) {
	b, err := e.book(ctx, patient)
	if err != nil {
		return nil, err
	}
	return b.opens(recipient, e.opts.Clock().UnixMilli()), nil
}

// Collects reports whether data of vendor may be taken in for the patient, and
// the Consent that says so.
func (e *Engine) Collects(ctx context.Context, patient, vendor string) (fhir.Ref, bool, error) {
	return e.collects(ctx, patient, &ask{vendor: vendor, uncoded: true})
}

// CollectsCategory reports whether data of vendor with all of these category
// codes may be taken in. It costs a map lookup once the patient is cached, so
// ingest can ask for every resource.
func (e *Engine) CollectsCategory(ctx context.Context, patient, vendor string, categories ...string) (bool, error) {
	_, ok, err := e.collects(ctx, patient, &ask{vendor: vendor, categories: categories})
	return ok, err
}

func (e *Engine) collects(ctx context.Context, patient string, q *ask) (fhir.Ref, bool, error) {
	b, err := e.book(ctx, patient)
	if err != nil {
		return fhir.Ref{}, false, err
	}
	if q.vendor == "" {
		return fhir.Ref{}, false, nil
	}
	q.collect, q.now = true, e.opts.Clock().UnixMilli()
	a, ref := b.decide(q)
	return ref, a == permit, nil
}
