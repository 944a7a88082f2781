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

// Store is the part of store.Store that the engine uses.
type Store interface {
	LastSeq() store.Seq
	Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error
	Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error)
	Watch(fn func(store.Commit)) (stop func())
}

// Options configures an Engine.
type Options struct {
	Store  Store
	Clock  func() time.Time
	Logger *slog.Logger
	// Patients bounds the number of cached patients. The default is 10,000.
	Patients int
	// Limit bounds the active and withdrawn Consents of one patient, except those
	// for apps, which have another bound. Beyond it everything is denied. Clients
	// may use only half of it. The default is 10,000.
	Limit int
}

const (
	defaultPatients = 10_000
	defaultLimit    = 10_000
	maxRead         = 100_000 // Consents of one patient, including those for apps
	loadTimeout     = 5 * time.Second
)

// Engine decides with the consents as of the latest acknowledged commit. It is
// safe for concurrent use, also from callbacks of a store's scan.
//
// A patient's Consents are read and compiled at the first request for them. A
// commit that changes one of them marks it as stale, and the next request reads it
// again. Failures (too many Consents, a failing store) are cached too, so that a
// search with a thousand results of one patient does not retry a thousand times.
type Engine struct {
	opts Options
	stop func()

	mu      sync.Mutex                     // guards the following fields; epoch is read without it
	entries *simplelru.LRU[string, *entry] // by patient
	holders map[string][]string            // by Consent id, the patients with the Consent in their rule set
	// recent is a ring buffer of the latest changes: change n is at n modulo its
	// length. epoch is the number of the latest change.
	recent [remembered]change
	epoch  atomic.Uint64
}

// change records the commit of a change of a patient's Consents.
type change struct {
	patient string
	commit  store.Seq
}

// remembered is the number of recent changes that Changed can distinguish.
const remembered = 4096

// entry is the cache entry of one patient.
type entry struct {
	patient string

	reading sync.Mutex         // serializes reading the Consents of this patient
	items   map[string]counted // by id, guarded by reading; nil before the first read

	// The following fields are guarded by Engine.mu.
	ruleSet *ruleSet
	err     error               // set if the Consents could not be read
	again   time.Time           // when to retry after an error; zero for after the next change
	stale   map[string]struct{} // ids of Consents that changed since they were read
	held    []string            // ids in holders for this patient, sorted
}

// current reports whether the entry can be used without reading. It calls clock
// only for an entry with an error.
func (en *entry) current(clock func() time.Time) bool {
	if en.err != nil {
		return (en.again.IsZero() || clock().Before(en.again)) && len(en.stale) == 0
	}
	return en.ruleSet != nil && len(en.stale) == 0
}

var _ access.Consents = (*Engine)(nil)

// New returns an Engine that watches the store until Close.
func New(o Options) (*Engine, error) {
	if o.Store == nil || o.Clock == nil {
		return nil, fhir.Errorf(fhir.Internal, "consent.New", "Store and Clock are required")
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

// Close stops watching the store. The engine must not be used afterwards.
func (e *Engine) Close() { e.stop() }

// watch marks the Consents of a commit as stale before its writer gets a response.
// A Consent may have moved to another patient, so watch also marks the entries
// that hold it.
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

// mark records a change and marks the Consent as stale. The caller holds mu.
func (e *Engine) mark(seq store.Seq, patient, id string) {
	n := e.epoch.Add(1)
	e.recent[n%remembered] = change{patient, seq}
	if en, ok := e.entries.Peek(patient); ok {
		if en.stale == nil {
			en.stale = map[string]struct{}{}
		}
		en.stale[id] = struct{}{}
	}
}

// Epoch returns the number of the latest change of a Consent. Decisions made after
// the call remain valid until Changed reports a change since that epoch.
func (e *Engine) Epoch() uint64 { return e.epoch.Load() }

// Changed reports whether concerned returns true for the patient and the commit of
// any change since an epoch. It also returns true if too many changes have
// happened since then.
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
		if c := &e.recent[n%remembered]; concerned(c.patient, uint64(c.commit)) {
			return true
		}
	}
	return false
}

// hold adds a patient to the holders of a Consent. The caller holds mu.
func (e *Engine) hold(id, patient string) {
	if !slices.Contains(e.holders[id], patient) {
		e.holders[id] = append(e.holders[id], patient)
	}
}

// release removes a patient from the holders of a Consent. The caller holds mu.
func (e *Engine) release(id, patient string) {
	rest := slices.DeleteFunc(e.holders[id], func(p string) bool { return p == patient })
	if len(rest) == 0 {
		delete(e.holders, id)
		return
	}
	e.holders[id] = rest
}

// entryOf returns the entry of a patient and creates it if necessary. From then
// on, watch marks it. The caller holds mu.
func (e *Engine) entryOf(patient string) *entry {
	if en, ok := e.entries.Get(patient); ok {
		return en
	}
	en := &entry{patient: strings.Clone(patient)} // the string may point into the buffer of a scan
	e.entries.Add(en.patient, en)
	return en
}

// evicted removes an entry that left the cache from holders. The caller holds mu.
func (e *Engine) evicted(patient string, en *entry) {
	for _, id := range en.held {
		e.release(id, patient)
	}
}

// ruleSet returns the patient's consents as of the latest commit that was
// acknowledged before the call.
func (e *Engine) ruleSet(ctx context.Context, patient string) (*ruleSet, error) {
	for {
		e.mu.Lock()
		if !e.entries.Contains(patient) && !fhir.ValidID(patient) {
			e.mu.Unlock()
			return nil, fhir.Errorf(fhir.Invalid, "consent.load", "the patient id is not valid")
		}
		en := e.entryOf(patient)
		if en.current(e.opts.Clock) {
			set, err := en.ruleSet, en.err
			e.mu.Unlock()
			return set, err
		}
		e.mu.Unlock()
		if set, err, ok := e.refresh(ctx, en); ok {
			return set, err
		}
	}
}

// refresh reads the stale Consents of an entry. ok is false if the entry was
// evicted meanwhile, because evicted entries are not marked.
func (e *Engine) refresh(ctx context.Context, en *entry) (set *ruleSet, err error, ok bool) {
	en.reading.Lock()
	defer en.reading.Unlock()
	e.mu.Lock()
	if current, _ := e.entries.Peek(en.patient); current != en {
		e.mu.Unlock()
		return nil, nil, false
	}
	if en.current(e.opts.Clock) { // another caller has read it
		defer e.mu.Unlock()
		return en.ruleSet, en.err, true
	}
	now := e.opts.Clock()
	// Concurrent callers wait for reading until the entry has been read.
	stale := en.stale
	en.stale, en.ruleSet, en.err = nil, nil, nil
	e.mu.Unlock()

	// The result serves all callers, so it does not depend on the context of the
	// first one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	if en.items == nil {
		err = e.readAll(ctx, en)
	} else {
		err = e.readSome(ctx, en, stale)
	}
	if err == nil {
		set = newRuleSet(en.items, now.UnixMilli())
	} else {
		en.items = nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	en.ruleSet, en.err, en.again = set, err, time.Time{}
	if err != nil {
		if fhir.KindOf(err) != fhir.TooCostly {
			en.again = now.Add(loadTimeout)
		}
		// Log only the kind of the error. Its text may contain keys of the store,
		// and those the patient id.
		e.opts.Logger.Error("the consents of a patient cannot be read; access to this patient's data is denied",
			"cause", fhir.KindOf(err).IssueCode())
	}
	if current, _ := e.entries.Peek(en.patient); current == en {
		e.updateHolders(en, set)
	}
	return set, err, true
}

// updateHolders records which Consents are in the rule set of en. The caller holds
// mu.
func (e *Engine) updateHolders(en *entry, set *ruleSet) {
	var ids []string
	if set != nil {
		ids = set.ids
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

// readAll reads all active and withdrawn Consents of the patient. The entry is
// already in the cache, so watch marks the Consents that change meanwhile.
func (e *Engine) readAll(ctx context.Context, en *entry) error {
	q, err := consentsOf(en.patient)
	if err != nil {
		return err
	}
	items, now, read, count := map[string]counted{}, e.opts.Clock().UnixMilli(), 0, 0
	at := e.opts.Store.LastSeq() // includes every commit acknowledged before the call
	err = e.opts.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search), At: at},
		func(f *store.Found) bool {
			read++
			if x, ok := compileResource(&f.Resource, f.Facts, en.patient, now); ok {
				items[x.ref.ID] = x
				if !x.root.onlyForApps() {
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
	return fhir.Errorf(fhir.TooCostly, "consent.load", "the patient has more than %d consents", e.opts.Limit)
}

// readSome reads the Consents with the given ids again.
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
		if x, ok := compileResource(&r, facts, en.patient, now); ok {
			en.items[id] = x
		}
	}
	if len(en.items) <= e.opts.Limit {
		return nil
	}
	count := 0
	for _, x := range en.items {
		if !x.root.onlyForApps() {
			count++
		}
	}
	if count > e.opts.Limit || len(en.items) > maxRead {
		return e.tooMany()
	}
	return nil
}

// compileResource compiles one Consent. ok is false if it has no effect.
func compileResource(r *fhir.Resource, facts *access.Facts, patient string, now int64) (x counted, ok bool) {
	x.compiled, x.effect = compile(strings.Clone(r.ID), patient, r.JSON)
	if facts != nil {
		x.author = strings.Clone(facts.Author)
	}
	if x.root.onlyForApps() {
		// Apps come and go. A Consent for an app that has ended has no effect.
		return x, x.effect == active && x.root.to > now
	}
	return x, x.effect != ignored
}

// consentsOf returns the query Consent?patient=Patient/<id> restricted to the
// statuses that have an effect.
func consentsOf(id string) (*search.Query, error) {
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

// Permits implements access.Consents. It returns false if the consents cannot be
// read.
func (e *Engine) Permits(recipient string, f *access.Facts) bool { return e.permits(recipient, "", f) }

// ForAuthorization returns the consents for tokens of an authorization. They
// include the Consent for that authorization, which does not apply to other tokens
// of the same client.
func (e *Engine) ForAuthorization(authorization string) access.Consents {
	if authorization == "" {
		return e
	}
	return authorizationView{e, authorizedBy + authorization}
}

// authorizationView decides for the tokens of one authorization.
type authorizationView struct {
	engine        *Engine
	authorization string
}

func (v authorizationView) Permits(recipient string, f *access.Facts) bool {
	return v.engine.permits(recipient, v.authorization, f)
}

func (e *Engine) permits(recipient, authorization string, f *access.Facts) bool {
	if f == nil {
		return false
	}
	if f.Patient == "" {
		// Without a patient, only the author may read the resource back.
		return f.Vendor == "" && f.Author != "" && f.Author == recipient
	}
	set, err := e.ruleSet(context.Background(), f.Patient)
	if err != nil {
		return false // refresh has logged the error
	}
	return set.permits(recipient, authorization, f, e.opts.Clock())
}

// Permitting lists the patient's Consents that now permit a client to see any
// data, regardless of denials and of the authorizations of its users.
func (e *Engine) Permitting(ctx context.Context, patient, recipient string) ([]fhir.Ref, error) {
	set, err := e.ruleSet(ctx, patient)
	if err != nil {
		return nil, err
	}
	return set.permitting(recipient, e.opts.Clock().UnixMilli()), nil
}

// Recipients lists whom the patient's consents permit to see any data of a vendor, or
// data with the given categories: the ids of clients, or AnyRecipient if all may, and
// the ids of authorizations.
func (e *Engine) Recipients(ctx context.Context, patient, vendor string,
	categories ...string) (clients, authorizations []string, err error) {
	set, err := e.ruleSet(ctx, patient)
	if err != nil {
		return nil, nil, err
	}
	req := request{now: e.opts.Clock().UnixMilli(), typ: "Observation", vendor: vendor, categories: categories,
		withoutCategories: len(categories) == 0}
	if a, _ := set.decide(&req); a == permit {
		return []string{AnyRecipient}, nil, nil
	}
	for _, name := range set.recipients() {
		one := req
		authorization, isApp := strings.CutPrefix(name, authorizedBy)
		if one.recipient = name; isApp {
			one.recipient, one.authorization = "", name
		}
		switch a, _ := set.decide(&one); {
		case a != permit:
		case isApp:
			authorizations = append(authorizations, authorization)
		default:
			clients = append(clients, name)
		}
	}
	return clients, authorizations, nil
}

// Collects reports whether data of a vendor may be collected for the patient, and
// returns the Consent that decides.
func (e *Engine) Collects(ctx context.Context, patient, vendor string) (fhir.Ref, bool, error) {
	return e.collects(ctx, patient, &request{vendor: vendor, withoutCategories: true})
}

// CollectsCategory reports whether data of a vendor with the given category codes
// may be collected. Once the patient is cached it costs a map lookup, so ingest
// can call it for every resource.
func (e *Engine) CollectsCategory(ctx context.Context, patient, vendor string, categories ...string) (bool, error) {
	_, ok, err := e.collects(ctx, patient, &request{vendor: vendor, categories: categories})
	return ok, err
}

func (e *Engine) collects(ctx context.Context, patient string, req *request) (fhir.Ref, bool, error) {
	set, err := e.ruleSet(ctx, patient)
	if err != nil {
		return fhir.Ref{}, false, err
	}
	if req.vendor == "" {
		return fhir.Ref{}, false, nil
	}
	req.collect, req.now = true, e.opts.Clock().UnixMilli()
	a, ref := set.decide(req)
	return ref, a == permit, nil
}
