package consent

import (
	"container/list"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Store is as much of a store.Store as the engine needs.
type Store interface {
	T() store.T
	Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error
	Watch(fn func(store.Commit)) (stop func())
}

// Options of an Engine.
type Options struct {
	Store  Store
	Clock  func() time.Time
	Logger *slog.Logger
	// Patients bounds the cache; 0: 10,000.
	Patients int
}

const (
	defaultPatients = 10_000
	maxConsents     = 1_000   // of one patient; more is refused, not half read
	maxRead         = 100_000 // with those for apps
	loadTimeout     = 5 * time.Second
)

// Engine answers from the consents as of the latest acknowledged commit. It is
// safe for concurrent use, and may be asked from inside a store's scan.
type Engine struct {
	opts Options
	stop func()

	mu      sync.Mutex
	changed store.T // latest commit that touched a Consent
	books   map[string]*list.Element
	order   *list.List          // of *entry, most recently used first
	holders map[string][]string // Consent id -> patients whose book was made with it
}

type entry struct {
	patient string
	book    *book
	ids     []string // Consents read for it, active or not
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
	e := &Engine{opts: o, books: map[string]*list.Element{}, order: list.New(), holders: map[string][]string{}}
	e.stop = o.Store.Watch(e.watch)
	return e, nil
}

// Close stops watching; the engine must not be asked afterwards.
func (e *Engine) Close() { e.stop() }

// watch drops what a commit made stale. A Consent may have moved to another
// patient, so the books made with it go too.
func (e *Engine) watch(c store.Commit) {
	for i := range c.Changes {
		ch := &c.Changes[i]
		if ch.Ref.Type != "Consent" {
			continue
		}
		e.mu.Lock()
		e.changed = max(e.changed, c.T)
		e.drop(ch.Facts.Patient)
		for _, p := range append([]string(nil), e.holders[ch.Ref.ID]...) {
			e.drop(p)
		}
		e.mu.Unlock()
	}
}

func (e *Engine) drop(patient string) {
	el := e.books[patient]
	if el == nil {
		return
	}
	en := e.order.Remove(el).(*entry)
	delete(e.books, patient)
	for _, id := range en.ids {
		var left []string
		for _, p := range e.holders[id] {
			if p != patient {
				left = append(left, p)
			}
		}
		if len(left) == 0 {
			delete(e.holders, id)
		} else {
			e.holders[id] = left
		}
	}
}

func (e *Engine) cached(patient string) *book {
	e.mu.Lock()
	defer e.mu.Unlock()
	el := e.books[patient]
	if el == nil {
		return nil
	}
	e.order.MoveToFront(el)
	return el.Value.(*entry).book
}

// keep caches en, read at snapshot t, unless a Consent changed since. The
// watcher takes the same lock before a writer is answered, so whoever asks
// after that finds either no entry or one that was read after the change.
func (e *Engine) keep(en *entry, t store.T) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t < e.changed || e.books[en.patient] != nil {
		return
	}
	e.books[en.patient] = e.order.PushFront(en)
	for _, id := range en.ids {
		e.holders[id] = append(e.holders[id], en.patient)
	}
	for e.order.Len() > e.opts.Patients {
		e.drop(e.order.Back().Value.(*entry).patient)
	}
}

func (e *Engine) book(ctx context.Context, patient string) (*book, error) {
	if b := e.cached(patient); b != nil {
		return b, nil
	}
	if !fhir.ValidID(patient) {
		return nil, fhir.Errorf(fhir.Invalid, "consent.load", "patient is not an id")
	}
	q, err := ofPatient(patient)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	patient = strings.Clone(patient) // facts may point into a scan's buffer
	en := &entry{patient: patient, book: &book{}}
	now, count := e.opts.Clock().UnixMilli(), 0
	// T is taken before the read: everything acknowledged by now is in it.
	t := e.opts.Store.T()
	err = e.opts.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search), At: t},
		func(f *store.Found) bool {
			id := f.Resource.ID
			en.ids = append(en.ids, strings.Clone(id))
			c, is := compile(id, patient, f.Resource.JSON)
			if c.root.forApps() {
				// Apps come and go: what has ended decides nothing any more.
				if is == active && c.root.to > now {
					en.book.allow(c)
				}
				return len(en.ids) <= maxRead
			}
			switch is {
			case active:
				en.book.active = append(en.book.active, c)
			case withdrawn:
				en.book.withdrawn = append(en.book.withdrawn, c)
			}
			count++
			return count <= maxConsents
		})
	if err != nil {
		return nil, fhir.Wrap("consent.load", err)
	}
	if count > maxConsents || len(en.ids) > maxRead {
		return nil, fhir.Errorf(fhir.TooCostly, "consent.load", "more than %d consents of one patient", maxConsents)
	}
	e.keep(en, t)
	return en.book, nil
}

// ofPatient is Consent?patient=Patient/<id>.
func ofPatient(id string) (*search.Query, error) {
	p, ok := search.Lookup("Consent", "patient")
	if !ok {
		return nil, fhir.Errorf(fhir.Internal, "consent.load", "the search registry lacks Consent.patient")
	}
	return &search.Query{
		Type: "Consent", Count: -1, Patient: id,
		Clauses: []search.Clause{{Param: p, Values: []search.Value{{RefType: "Patient", RefID: id}}}},
	}, nil
}

// Permits implements access.Consents. It is false when the consents cannot be
// read.
func (e *Engine) Permits(recipient string, f *access.Facts) bool { return e.permits(recipient, "", f) }

// Under are the consents as they hold for a token of an authorization: what
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
		e.opts.Logger.Error("consents could not be read, access denied", "patient", f.Patient, "err", err)
		return false
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
	var out []fhir.Ref
	q := ask{now: e.opts.Clock().UnixMilli(), recipient: recipient}
	for i := range b.active {
		if b.active[i].root.opens(&q, false) {
			out = append(out, b.active[i].ref)
		}
	}
	return out, nil
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
