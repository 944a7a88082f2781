package interaction

import (
	"bytes"
	"context"
	"slices"
	"strconv"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// includer adds to a page what its matches refer to (_include) and what refers to them
// (_revinclude), as of the snapshot, if the current filter shows it. Each resource is on
// the page once. A contained resource is not included: it is inside of the match. A
// reference to a version includes that version (R4 search.html#versions).
type includer struct {
	service *Service
	rq      *Request
	at      store.Seq
	limits  Limits
	res     *results
	// seen holds the matches, what was included, and what is hidden.
	seen     map[fhir.Ref]bool
	wanted   []wantedRef
	frontier []fhir.Ref // resources to which the next round of _revinclude refers
	added    int
}

// wantedRef is a resource to include.
type wantedRef struct {
	ref     fhir.Ref
	version uint64 // 0 is the current one
	query   *search.Query
}

func newIncluder(s *Service, rq *Request, at store.Seq, limits Limits, res *results) *includer {
	return &includer{service: s, rq: rq, at: at, limits: limits, res: res, seen: map[fhir.Ref]bool{}}
}

// match takes a match of q.
func (in *includer) match(q *search.Query, r *fhir.Resource) error {
	in.seen[r.Ref()] = true
	if len(q.RevIncludes) > 0 {
		in.frontier = append(in.frontier, r.Ref())
	}
	return in.collect(q, r, false)
}

// collect adds the references of r that the query includes.
func (in *includer) collect(q *search.Query, r *fhir.Resource, included bool) error {
	var values *search.Values
	for _, inc := range q.Includes {
		if inc.Source != r.Type || included && !inc.Iterate {
			continue
		}
		if values == nil {
			v, err := search.Extractor{Base: in.service.Base, Registry: q.Registry}.Extract(r.Type, r.JSON)
			if err != nil {
				return fhir.Wrap("interaction.include", err)
			}
			values = v
		}
		codes := []string{inc.Param}
		if inc.Param == "*" {
			codes = sortedKeys(values.ByParam)
		}
		for _, code := range codes {
			for _, v := range values.ByParam[code] {
				ref := fhir.Ref{Type: v.RefType, ID: v.RefID}
				if p, ok := q.Registry.Lookup(r.Type, code); !ok || p.Type != search.TypeReference || ref.ID == "" ||
					inc.Target != "" && inc.Target != ref.Type || in.seen[ref] || !fhir.KnownType(ref.Type) {
					continue
				}
				in.wanted = append(in.wanted, wantedRef{ref, versionOf(r.JSON, ref), q})
			}
		}
	}
	return nil
}

// versionOf returns the version that the references of a resource to ref name, or 0. The
// index values do not contain it.
func versionOf(json []byte, ref fhir.Ref) uint64 {
	_, rest, ok := bytes.Cut(json, []byte(ref.String()+"/_history/"))
	if !ok {
		return 0
	}
	digits, _, _ := bytes.Cut(rest, []byte{'"'})
	version, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return 0
	}
	return version
}

// run includes until nothing is left to include. Only parameters with the modifier
// iterate apply to what was included.
func (in *includer) run(ctx context.Context, queries []*search.Query) error {
	matches := in.frontier
	in.frontier = nil
	if err := in.forward(ctx); err != nil {
		return err
	}
	reverse := func(around []fhir.Ref, first bool) error {
		for _, q := range queries {
			for _, inc := range q.RevIncludes {
				if !first && !inc.Iterate {
					continue
				}
				if err := in.reverse(ctx, q, inc, around); err != nil {
					return err
				}
			}
			if len(queries) > 1 && !slices.ContainsFunc(q.RevIncludes,
				func(i search.Include) bool { return i.Iterate }) {
				continue
			}
		}
		return in.forward(ctx)
	}
	if err := reverse(matches, true); err != nil {
		return err
	}
	for len(in.frontier) > 0 {
		around := in.frontier
		in.frontier = nil
		if err := reverse(around, false); err != nil {
			return err
		}
	}
	return nil
}

// forward includes the wanted resources, and those that they refer to.
func (in *includer) forward(ctx context.Context) error {
	for len(in.wanted) > 0 {
		w := in.wanted[0]
		in.wanted = in.wanted[1:]
		if in.seen[w.ref] {
			continue
		}
		in.seen[w.ref] = true
		r, facts, err := in.read(ctx, w)
		if err != nil {
			return err
		}
		if r != nil {
			if err := in.add(w.query, r, facts); err != nil {
				return err
			}
		}
	}
	return nil
}

// read returns a resource to include, or nil if there is none that the caller may see.
func (in *includer) read(ctx context.Context, w wantedRef) (*fhir.Resource, *access.Facts, error) {
	r, facts, err := in.service.Store.Read(ctx, w.ref, in.at)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			err = nil
		}
		return nil, nil, err
	}
	if r.Deleted || !in.shows(facts) {
		return nil, nil, nil
	}
	if in.res.resumed { // omit resources deleted since the first page
		now, err := in.service.Store.Heads(ctx, []fhir.Ref{w.ref})
		if err != nil || now[0].Deleted {
			return nil, nil, err
		}
	}
	if w.version == 0 || w.version >= r.Version {
		return &r, facts, nil
	}
	old, facts, err := in.service.Store.ReadVersion(ctx, w.ref, w.version)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			err = nil
		}
		return nil, nil, err
	}
	if old.Deleted || !in.shows(facts) {
		return nil, nil, nil
	}
	return &old, facts, nil
}

// shows reports whether the caller may see a resource by a search or by a read.
func (in *includer) shows(facts *access.Facts) bool {
	return in.rq.filter(access.Search).Allow(facts) || in.rq.filter(access.Read).Allow(facts)
}

// add adds a resource to the page.
func (in *includer) add(q *search.Query, r *fhir.Resource, facts *access.Facts) error {
	if in.added >= in.limits.Includes || len(in.res.page.entries) > 2*in.limits.PageBytes {
		return in.tooMany()
	}
	in.added++
	in.seen[r.Ref()] = true
	for _, p := range facts.Patients() {
		in.res.name(p)
	}
	in.res.auditRead = in.res.auditRead || r.Type == "AuditEvent"
	in.res.page.match(in.service.Base+"/"+r.Ref().String(), r.JSON, "include")
	if slices.ContainsFunc(q.RevIncludes, func(i search.Include) bool { return i.Iterate }) {
		in.frontier = append(in.frontier, r.Ref())
	}
	return in.collect(q, r, true)
}

func (in *includer) tooMany() error {
	return fhir.Errorf(fhir.TooCostly, "interaction.include",
		"_include and _revinclude would add more than %d resources to this page; request smaller pages with _count",
		in.limits.Includes)
}

// reverse includes the resources of a type that refer to others. It needs the permission
// to search them.
func (in *includer) reverse(ctx context.Context, q *search.Query, inc search.Include, around []fhir.Ref) error {
	if !in.rq.Principal.Grant.May(access.Search, inc.Source) {
		return nil
	}
	for _, p := range q.Registry.Params(inc.Source) {
		if p.Code != inc.Param && inc.Param != "*" {
			continue
		}
		c := search.Clause{Param: p}
		for _, ref := range around {
			if p.RefersTo(ref.Type) && (inc.Target == "" || inc.Target == ref.Type) {
				c.Values = append(c.Values, search.Value{RefType: ref.Type, RefID: ref.ID,
					Code: in.service.Base + "/" + ref.String()})
			}
		}
		if len(c.Values) == 0 {
			continue
		}
		c.Index()
		if err := in.referring(ctx, q, &search.Query{Type: inc.Source, Registry: q.Registry, Count: -1,
			Clauses: []search.Clause{c}}); err != nil {
			return err
		}
	}
	return nil
}

// referring includes the matches of a query of _revinclude.
func (in *includer) referring(ctx context.Context, q, referring *search.Query) error {
	var failed error
	err := in.service.Store.Find(ctx, store.Find{Query: referring, Filter: in.rq.filter(access.Search), At: in.at,
		Owner: in.rq.caller(), Undeleted: in.res.resumed, Limit: len(in.seen) + in.limits.Includes + 1},
		func(f *store.Found) bool {
			if !in.seen[f.Resource.Ref()] {
				failed = in.add(q, &f.Resource, f.Facts)
			}
			return failed == nil
		})
	if failed != nil {
		return failed
	}
	return err
}
