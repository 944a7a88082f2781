package searchparameter

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

const resourceType = "SearchParameter"

// Bounds of the parameters in effect. A definition counts once for each base type.
const (
	maxParameters = 1000
	maxPerType    = 64
)

// Parameters holds the search parameters of this moment. It is safe for concurrent use.
// A nil Parameters has those of R4.
type Parameters struct {
	log      *slog.Logger
	registry atomic.Pointer[search.Registry]
	changed  chan struct{}

	// mu guards all fields below.
	mu    sync.Mutex
	store store.Store
	// pending holds the resources that commits have changed since they were read.
	pending map[string]struct{}
	// defined holds the active definitions by the id of their SearchParameter. One that
	// this version of the server cannot take is nil.
	defined map[string]*search.Definition
}

// New returns Parameters with those of R4. Follow adds those of a store. They are separate
// so that the store can be opened with the Registry.
func New(log *slog.Logger) *Parameters {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Parameters{log: log, changed: make(chan struct{}, 1), pending: map[string]struct{}{},
		defined: map[string]*search.Definition{}}
	p.registry.Store(search.Builtin())
	return p
}

// Registry returns the parameters of this moment.
func (p *Parameters) Registry() *search.Registry {
	if p == nil {
		return search.Builtin()
	}
	return p.registry.Load()
}

// Changed returns a channel that receives after changes of the Registry. It has one
// reader.
func (p *Parameters) Changed() <-chan struct{} { return p.changed }

// Follow reads the SearchParameters of a store and follows its commits until stop is
// called. It is called once, before the store is searched or reindexed: the rows of
// parameters that the Registry does not have are removed.
func (p *Parameters) Follow(ctx context.Context, st store.Store) (stop func(), err error) {
	const op = "searchparameter.Follow"
	if !fhir.KnownType(resourceType) {
		return func() {}, nil
	}
	q, err := search.Parse(resourceType, [][2]string{{"status", "active"}}, search.ParseOptions{})
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.store = st
	stop = st.Watch(p.committed)
	err = st.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)}, func(f *store.Found) bool {
		p.take(strings.Clone(f.Resource.ID), bytes.Clone(f.Resource.JSON))
		return true
	})
	if err != nil {
		stop()
		return nil, fhir.Wrap(op, err)
	}
	p.replace()
	return stop, nil
}

// committed is the watcher of the store.
func (p *Parameters) committed(c store.Commit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range c.Changes {
		if c.Changes[i].Ref.Type == resourceType {
			p.pending[strings.Clone(c.Changes[i].Ref.ID)] = struct{}{}
		}
	}
	if len(p.pending) > 0 {
		p.refresh()
	}
}

// refresh reads the pending resources. Those that cannot be read stay pending, and are
// read again after the next commit. The caller holds mu.
func (p *Parameters) refresh() {
	changed := false
	for id := range p.pending {
		r, _, err := p.store.Read(context.Background(), fhir.Ref{Type: resourceType, ID: id}, 0)
		if err != nil && fhir.KindOf(err) != fhir.NotFound && fhir.KindOf(err) != fhir.Gone {
			p.log.Error("a SearchParameter could not be read", "error", err, "kind", fhir.KindOf(err))
			continue
		}
		delete(p.pending, id)
		_, had := p.defined[id]
		delete(p.defined, id)
		if err == nil && !r.Deleted {
			p.take(id, r.JSON)
		}
		_, has := p.defined[id]
		changed = changed || had || has
	}
	if changed {
		p.replace()
	}
}

// take adds the definition of a resource, if it is active. The caller holds mu.
func (p *Parameters) take(id string, resource []byte) {
	d, err := search.ParseDefinition(resource)
	if d != nil || err != nil {
		p.defined[id] = d
	}
}

// replace makes the Registry of the definitions. The caller holds mu.
func (p *Parameters) replace() {
	in, out := p.effective("")
	if len(out) > 0 {
		p.log.Warn("SearchParameters that are active have no effect", "count", len(out))
	}
	p.registry.Store(search.Builtin().With(in...))
	select {
	case p.changed <- struct{}{}:
	default: // the reader has one to receive
	}
}

// effective returns the definitions in effect, in the order of their ids, and the reason
// for each of the others by id. The resource with the id except is left out. The caller
// holds mu.
func (p *Parameters) effective(except string) (in []*search.Definition, out map[string]error) {
	out = map[string]error{}
	for _, id := range slices.Sorted(maps.Keys(p.defined)) {
		d := p.defined[id]
		switch {
		case id == except:
		case d == nil:
			out[id] = refuse("", "this version of the server does not support the definition")
		default:
			if err := admissible(in, d); err != nil {
				out[id] = err
			} else {
				in = append(in, d)
			}
		}
	}
	return in, out
}

// admissible returns the reason why d cannot be in effect together with others, or nil.
func admissible(others []*search.Definition, d *search.Definition) error {
	total, perType := len(d.Base), map[string]int{}
	for _, o := range others {
		if o.URL == d.URL {
			return refuse("url", "another active SearchParameter has this url")
		}
		total += len(o.Base)
		for _, base := range o.Base {
			if perType[base]++; o.Code == d.Code && slices.Contains(d.Base, base) {
				return refuse("code", base+" already has a search parameter of this code, by another SearchParameter")
			}
		}
	}
	if total > maxParameters {
		return refuse("base", "too many search parameters: at most 1000 can be active, counted by base; "+
			"retire others first")
	}
	for _, base := range d.Base {
		if perType[base] >= maxPerType {
			return refuse("base", "too many search parameters of "+base+": at most 64 can be active; "+
				"retire others first")
		}
	}
	return nil
}

// refuse returns an Unprocessable error about an element of a SearchParameter.
func refuse(element, text string) error {
	path := resourceType
	if element != "" {
		path += "." + element
	}
	return &fhir.Error{Kind: fhir.Unprocessable, Op: "searchparameter.Check", Issues: []fhir.Issue{{Severity: "error",
		Code: "business-rule", Diagnostics: text, Expression: []string{path}}}}
}

// Check validates a write of a SearchParameter. It implements interaction.Check. An active
// SearchParameter must be one that takes effect. Others are not restricted.
func (p *Parameters) Check(_ context.Context, _ *access.Principal, next, _ *fhir.Resource) (*fhir.Resource, error) {
	if next == nil {
		return nil, nil
	}
	d, err := search.ParseDefinition(next.JSON)
	if err != nil || d == nil {
		return next, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	in, _ := p.effective(next.ID)
	return next, admissible(in, d)
}
