package terminology

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Limits of the index and of answers.
const (
	MaxCodes    = 50_000
	maxConcepts = 2_000_000
	maxDepth    = 16
)

var _ search.ValueSets = (*Service)(nil)

// Service answers questions about terminology. It is safe for concurrent use.
type Service struct {
	store store.Store
	base  string
	stop  func()

	// changed holds the references that commits have changed since they were read. mu
	// guards all fields below.
	mu      sync.RWMutex
	changed map[fhir.Ref]bool
	held    map[fhir.Ref]any      // *CodeSystem, *ValueSet or *ConceptMap
	byURL   map[string][]fhir.Ref // the type, a space and the URL
	size    int                   // concepts

	builtin map[string]*ValueSet   // of R4, by URL
	systems map[string]*CodeSystem // of R4, by URL; fragments
}

// New returns a Service over the resources of a store, whose base URL is base. Close stops
// it.
func New(ctx context.Context, st store.Store, base string) (*Service, error) {
	s := &Service{store: st, base: base, changed: map[fhir.Ref]bool{}, held: map[fhir.Ref]any{},
		byURL: map[string][]fhir.Ref{}, builtin: map[string]*ValueSet{}, systems: map[string]*CodeSystem{}}
	s.builtins()
	s.stop = st.Watch(s.committed)
	var types []string
	for _, t := range fhir.Types {
		if indexed(t) {
			types = append(types, t)
		}
	}
	err := st.Scan(ctx, store.ScanRange{Types: types, Filter: access.All().Filter(access.Read)},
		func(f *store.Found) bool {
			s.mark(f.Resource.Ref())
			return true
		})
	if err == nil {
		err = s.refresh(ctx)
	}
	if err != nil {
		s.stop()
		return nil, fhir.Wrap("terminology.New", err)
	}
	return s, nil
}

// Close stops the watcher.
func (s *Service) Close() { s.stop() }

func indexed(typ string) bool { return typ == "CodeSystem" || typ == "ValueSet" || typ == "ConceptMap" }

// committed is the watcher of the store.
func (s *Service) committed(c store.Commit) {
	for i := range c.Changes {
		if ref := c.Changes[i].Ref; indexed(ref.Type) {
			s.mark(ref)
		}
	}
}

func (s *Service) mark(ref fhir.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed[ref] = true
}

// builtins adds the value sets of R4, and its code systems as fragments.
func (s *Service) builtins() {
	const version = "4.0.1"
	definitions.R4().ValueSets(func(d *definitions.ValueSet) bool {
		v := &ValueSet{URL: d.URL, Version: version, Name: d.URL[strings.LastIndexByte(d.URL, '/')+1:],
			hasCompose: true}
		for i := range d.Systems {
			p := part{System: d.Systems[i].URL}
			sys := s.systems[p.System]
			if sys == nil && (strings.HasPrefix(p.System, element.HL7) ||
				strings.HasPrefix(p.System, element.Terminology)) {
				sys = &CodeSystem{URL: p.System, Content: "fragment", CaseSensitive: true, byCode: map[string]int32{},
					Name: p.System[strings.LastIndexByte(p.System, '/')+1:]}
				s.systems[p.System] = sys
			}
			for _, code := range d.Systems[i].Codes {
				p.Concept = append(p.Concept, listed{Code: code})
				if sys != nil {
					sys.add(&rawConcept{Code: code}, -1)
				}
			}
			v.Include = append(v.Include, p)
		}
		s.builtin[d.URL] = v
		return true
	})
}

// refresh reads what commits have changed.
func (s *Service) refresh(ctx context.Context) error {
	s.mu.RLock()
	var todo map[fhir.Ref]bool
	if len(s.changed) > 0 {
		todo = maps.Clone(s.changed)
	}
	s.mu.RUnlock()
	for ref := range todo {
		if err := s.reread(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

// reread replaces a resource in the index by its current version, unless another reader has
// done that since the change.
func (s *Service) reread(ctx context.Context, ref fhir.Ref) error {
	// The lock is held while the resource is read: two readers of one resource might
	// otherwise leave the older version.
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.changed[ref]; !ok {
		return nil
	}
	r, _, err := s.store.Read(ctx, ref, 0)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return err
	}
	delete(s.changed, ref) // a commit that comes now waits for the lock, and marks it again
	s.forget(ref)
	if err != nil || r.Deleted {
		return nil
	}
	var x any
	switch ref.Type {
	case "CodeSystem":
		var c *CodeSystem
		if c, err = ParseCodeSystem(r.JSON); err == nil {
			c.Ref, x = ref, c
		}
	case "ValueSet":
		var v *ValueSet
		if v, err = ParseValueSet(r.JSON); err == nil {
			v.Ref, x = ref, v
		}
	case "ConceptMap":
		var m *ConceptMap
		if m, err = ParseConceptMap(r.JSON); err == nil {
			m.Ref, x = ref, m
		}
	}
	if n := sizeOf(x); err == nil && s.size+n <= maxConcepts {
		s.size += n
		s.held[ref] = x
		key := ref.Type + " " + urlOf(x)
		s.byURL[key] = append(s.byURL[key], ref)
		slices.SortFunc(s.byURL[key], func(a, b fhir.Ref) int { return strings.Compare(a.ID, b.ID) })
	}
	return nil
}

func (s *Service) forget(ref fhir.Ref) {
	x, ok := s.held[ref]
	if !ok {
		return
	}
	s.size -= sizeOf(x)
	delete(s.held, ref)
	key := ref.Type + " " + urlOf(x)
	s.byURL[key] = slices.DeleteFunc(s.byURL[key], func(r fhir.Ref) bool { return r == ref })
	if len(s.byURL[key]) == 0 {
		delete(s.byURL, key)
	}
}

func urlOf(x any) string {
	switch x := x.(type) {
	case *CodeSystem:
		return x.URL
	case *ValueSet:
		return x.URL
	case *ConceptMap:
		return x.URL
	}
	return ""
}

func versionOf(x any) string {
	switch x := x.(type) {
	case *CodeSystem:
		return x.Version
	case *ValueSet:
		return x.Version
	case *ConceptMap:
		return x.Version
	}
	return ""
}

func sizeOf(x any) int {
	switch x := x.(type) {
	case *CodeSystem:
		return 1 + len(x.Concepts)
	case *ValueSet:
		return 1 + x.size()
	case *ConceptMap:
		return 1 + x.size()
	}
	return 0
}

// find returns the resource with a canonical URL, whose version may follow a vertical bar,
// or which may be a reference such as ValueSet/1. It is nil if there is none.
func (s *Service) find(ctx context.Context, typ, canonical, version string) (any, error) {
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if ref, ok := fhir.ParseRef(strings.TrimPrefix(canonical, s.base+"/")); ok && ref.Type == typ {
		if x, held := s.held[ref]; held {
			return x, nil
		}
	}
	url, own, _ := strings.Cut(canonical, "|")
	version = cmp.Or(version, own)
	var best any
	if url == "" {
		return nil, nil
	}
	for _, ref := range s.byURL[typ+" "+url] {
		x := s.held[ref]
		if version != "" && versionOf(x) != version {
			continue
		}
		if best == nil || compareVersions(versionOf(x), versionOf(best)) > 0 {
			best = x
		}
	}
	return best, nil
}

// compareVersions compares versions number by number, and otherwise as text.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		m, errM := strconv.Atoi(x)
		n, errN := strconv.Atoi(y)
		c := strings.Compare(x, y)
		if errM == nil && errN == nil {
			c = cmp.Compare(m, n)
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// CodeSystem returns the code system with a canonical URL, or nil.
func (s *Service) CodeSystem(ctx context.Context, url, version string) (*CodeSystem, error) {
	x, err := s.find(ctx, "CodeSystem", url, version)
	if c, ok := x.(*CodeSystem); ok || err != nil {
		return c, err
	}
	bare, own, _ := strings.Cut(url, "|")
	if c := s.systems[bare]; c != nil && cmp.Or(version, own) == "" {
		return c, nil
	}
	return nil, nil
}

// ValueSet returns the value set with a canonical URL, or nil.
func (s *Service) ValueSet(ctx context.Context, url, version string) (*ValueSet, error) {
	x, err := s.find(ctx, "ValueSet", url, version)
	if v, ok := x.(*ValueSet); ok || err != nil {
		return v, err
	}
	bare, own, _ := strings.Cut(url, "|")
	if v := s.builtin[bare]; v != nil && (cmp.Or(version, own) == "" || cmp.Or(version, own) == v.Version) {
		return v, nil
	}
	return s.implicit(bare, cmp.Or(version, own)), nil
}

// implicit returns the value set of all codes of a code system that names it, or nil.
func (s *Service) implicit(url, version string) *ValueSet {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, x := range s.held {
		if c, ok := x.(*CodeSystem); ok && c.ValueSet == url && url != "" && (version == "" || version == c.Version) {
			return &ValueSet{Ref: c.Ref, URL: url, Version: c.Version, Name: c.Name, Title: c.Title, hasCompose: true,
				Include: []part{{System: c.URL, Version: c.Version}}}
		}
	}
	return nil
}

// ConceptMap returns the concept map with a canonical URL, or nil.
func (s *Service) ConceptMap(ctx context.Context, url, version string) (*ConceptMap, error) {
	x, err := s.find(ctx, "ConceptMap", url, version)
	m, _ := x.(*ConceptMap)
	return m, err
}

// ConceptMaps returns all concept maps, by reference.
func (s *Service) ConceptMaps(ctx context.Context) (out []*ConceptMap, err error) {
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, x := range s.held {
		if m, ok := x.(*ConceptMap); ok {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *ConceptMap) int { return strings.Compare(a.Ref.ID, b.Ref.ID) })
	return out, nil
}

// Held returns the resource of a reference: a *CodeSystem, *ValueSet or *ConceptMap, or nil.
func (s *Service) Held(ctx context.Context, ref fhir.Ref) (any, error) {
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.held[ref], nil
}
