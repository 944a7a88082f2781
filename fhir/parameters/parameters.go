// Package parameters keeps the search parameters that SearchParameter resources define at
// run time: the active ones, as of the newest commit that the process shows. It owns which
// definitions count, who may write them and how many there may be. fhir/search decides what
// a definition may say; the store and fhir/store/reindex keep the index.
//
// Every process of a cluster reads the definitions from the commits, so that one that is
// written to a server is known to the others when they show the commit. Until its index is
// complete, a search with the parameter reads every resource of the type, and finds the same.
package parameters

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Max is the number of active definitions that count. Each makes writes of its types
// slower.
const Max = 500

const typeName = "SearchParameter"

// Live holds the search parameters of a process. It is safe for concurrent use.
type Live struct {
	registry atomic.Pointer[search.Registry]
	version  atomic.Uint64
	changed  chan struct{} // capacity 1

	// mu guards the fields below.
	mu     sync.Mutex
	store  store.Store
	logger *slog.Logger
	stop   func()
	// open is set when the definitions of the store have been read. Until then, commits are
	// only noted.
	open bool
	// due holds the ids that commits have written and that were not read since.
	due         map[string]bool
	definitions map[string]*search.Definition // active ones by id
}

// New returns a Live with the parameters of R4 only.
func New() *Live {
	return &Live{changed: make(chan struct{}, 1), due: map[string]bool{}, definitions: map[string]*search.Definition{}}
}

// Registry returns the parameters of this moment. It never waits.
func (l *Live) Registry() *search.Registry { return l.registry.Load() }

// Version returns a number that grows when the parameters change.
func (l *Live) Version() uint64 { return l.version.Load() }

// Changed receives after the parameters have changed.
func (l *Live) Changed() <-chan struct{} { return l.changed }

// Open reads the definitions of a store and follows its commits until Close.
func (l *Live) Open(ctx context.Context, st store.Store, logger *slog.Logger) error {
	l.mu.Lock()
	l.store, l.logger = st, logger
	l.stop = st.Watch(l.committed) // before the store is read, so that no commit is missed
	l.mu.Unlock()
	err := st.Scan(ctx, store.ScanRange{Types: []string{typeName}, Filter: access.All().Filter(access.Read)},
		func(f *store.Found) bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.due[strings.Clone(f.Resource.ID)] = true
			return true
		})
	if err != nil {
		return fhir.Wrap("parameters.Open", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = true
	return l.read(ctx)
}

// Close ends Open.
func (l *Live) Close() {
	if l.stop != nil {
		l.stop()
	}
}

// committed is called for every commit.
func (l *Live) committed(c store.Commit) {
	concerns := func(x store.Change) bool { return x.Ref.Type == typeName }
	if !slices.ContainsFunc(c.Changes, concerns) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range c.Changes {
		if ref := c.Changes[i].Ref; ref.Type == typeName {
			l.due[strings.Clone(ref.ID)] = true
		}
	}
	if !l.open {
		return
	}
	if err := l.read(context.Background()); err != nil {
		// The definitions that could not be read stay due for the next one.
		l.logger.Error("a SearchParameter cannot be read", "error", err, "kind", fhir.KindOf(err))
	}
}

// read reads the definitions that are due, with mu held.
func (l *Live) read(ctx context.Context) error {
	for id := range l.due {
		r, facts, err := l.store.Read(ctx, fhir.Ref{Type: typeName, ID: id}, 0)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return fhir.Wrap("parameters.read", err)
		}
		delete(l.definitions, id)
		// One without an author is of the server itself or its operator.
		if err == nil && !r.Deleted && facts.Vendor == "" {
			// One that an earlier version of the server has taken may not be supported any more.
			if d, err := search.ParseDefinition(r.JSON); err == nil && d != nil {
				l.definitions[id] = d
			}
		}
		delete(l.due, id)
	}
	var all []*search.Definition
	for _, d := range l.definitions {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *search.Definition) int { return strings.Compare(a.URL, b.URL) })
	r := (*search.Registry)(nil)
	if len(all) > 0 {
		r = search.Builtin().With(all[:min(len(all), Max)]...)
	}
	l.registry.Store(r)
	l.version.Add(1)
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return nil
}

// Check validates a write of a SearchParameter. It implements interaction.Check. The
// parameters are those of all clients, and cost every writer time, so that only the operator
// and clients that act without a person write them. An active definition must be one that
// the server can take, with a URL of its own and codes that its types do not have yet.
func (l *Live) Check(_ context.Context, p *access.Principal, next, _ *fhir.Resource) (*fhir.Resource, error) {
	const op = "parameters.Check"
	if p == nil || p.Operator == "" && (p.Grant == nil || p.Grant.Person) {
		return nil, fhir.Errorf(fhir.Forbidden, op,
			"search parameters are written by clients with system scopes and by the operator of this server")
	}
	if next == nil {
		return nil, nil
	}
	d, err := search.ParseDefinition(next.JSON)
	if err != nil || d == nil {
		return next, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ours := func(typ string) bool { return slices.Contains(d.Base, typ) }
	for id, other := range l.definitions {
		switch {
		case id == next.ID:
		case other.URL == d.URL:
			return nil, fhir.Errorf(fhir.Conflict, op, "another active SearchParameter has this URL")
		case other.Code == d.Code && slices.ContainsFunc(other.Base, ours):
			return nil, fhir.Errorf(fhir.Conflict, op,
				"another active SearchParameter gives a type of its base a parameter of this code")
		}
	}
	if l.definitions[next.ID] == nil && len(l.definitions) >= Max {
		return nil, fhir.Errorf(fhir.TooMany, op, "there are %d active SearchParameters already; retire one first", Max)
	}
	return next, nil
}

// State is the progress of a parameter's index.
type State struct {
	URL, Type, Code string
	store.IndexState
}

// States returns the progress of the indexes of all parameters, by URL and type.
func (l *Live) States(ctx context.Context, x store.Indexer) ([]State, error) {
	r := l.Registry()
	var out []State
	for _, d := range l.list() {
		for _, base := range d.Base {
			p, ok := r.Lookup(base, d.Code)
			if !ok || p.URL != d.URL {
				continue
			}
			st, err := x.IndexState(ctx, p)
			if err != nil {
				return nil, fhir.Wrap("parameters.States", err)
			}
			out = append(out, State{d.URL, base, d.Code, st})
		}
	}
	slices.SortFunc(out, func(a, b State) int { return strings.Compare(a.URL+" "+a.Type, b.URL+" "+b.Type) })
	return out, nil
}

// list returns the active definitions.
func (l *Live) list() []*search.Definition {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*search.Definition, 0, len(l.definitions))
	for _, d := range l.definitions {
		out = append(out, d)
	}
	return out
}
