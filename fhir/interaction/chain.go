package interaction

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Joins (chained parameters, _has and _list) are evaluated before the search itself, from
// the innermost: each is a search of its own, under the caller's Filter for its type and
// at the snapshot of the page, and becomes a clause that lists the ids. So a resource
// that the caller may not see decides nothing, not even whether a search is too costly.
//
// If a join finds more than Limits.Joined resources, the search goes the other way:
// resources that satisfy the other clauses are tested one by one, as long as there are
// not more than Limits.Joined of those.

// joiner evaluates the joins of one search.
type joiner struct {
	service *Service
	rq      *Request
	at      store.Seq
	// undeleted leaves out what was deleted after the snapshot (store.Find.Undeleted).
	undeleted bool
	limit     int
	// steps bounds the resources that all joins of the search may look at.
	steps int
	// tests bounds the tests of single resources, see candidates.
	tests int
}

// joinSteps is the number of resources that the joins of one search may look at, and of
// those that they may test one by one, as a multiple of Limits.Joined.
const joinSteps = 4

// resolved is a query whose joins have been evaluated.
type resolved struct {
	query *search.Query
	// evidence tells why resources match.
	evidence []evidence
}

// evidence tells which patients' data decided that a resource matches a join: patients
// holds them by the value of the parameter, an id or "Type/id".
type evidence struct {
	param    *search.Param
	patients map[string][]string
}

// add adds patients to those of a key.
func (e *evidence) add(key string, patients []string) {
	have := e.patients[key]
	for _, p := range patients {
		if p != "" && !slices.Contains(have, p) {
			have = append(have, p)
		}
	}
	e.patients[key] = have
}

// joins evaluates the joins of q.
func (s *Service) joins(ctx context.Context, rq *Request, q *search.Query, at store.Seq,
	resumed bool) (resolved, error) {
	limit := s.Limits.withDefaults().Joined
	j := &joiner{service: s, rq: rq, at: at, undeleted: resumed, limit: limit, steps: joinSteps * limit,
		tests: joinSteps * limit}
	return j.resolve(ctx, q)
}

// ParseFilter parses the parameters of a search that another service evaluates.
func (s *Service) ParseFilter(typ string, pairs [][2]string) (*search.Query, error) {
	o := s.parseOptions(false)
	o.Joins = true
	q, err := search.Parse(typ, pairs, o)
	if err == nil && readsAudit(q.Clauses) {
		err = fhir.Errorf(fhir.Invalid, "interaction.ParseFilter", "AuditEvents cannot be used in this query")
	}
	return q, err
}

// FilterJoins evaluates the joins of a query at a snapshot, under the grant of a principal. It
// returns the query without them, and a function that returns the patients whose data decided
// that a resource matches.
func (s *Service) FilterJoins(ctx context.Context, p *access.Principal, q *search.Query, at store.Seq) (
	*search.Query, func(*store.Found) ([]string, error), error) {
	r, err := s.joins(ctx, &Request{Caller: audit.Caller{Principal: p}}, q, at, false)
	if err != nil {
		return nil, nil, err
	}
	return r.query, r.decided, nil
}

// resolve returns q with its joins replaced by values. Clauses without joins come first,
// so that those that follow can use them.
func (j *joiner) resolve(ctx context.Context, q *search.Query) (resolved, error) {
	if !search.HasJoins(q.Clauses) {
		return resolved{query: q}, nil
	}
	out := *q
	out.Clauses = nil
	res := resolved{query: &out}
	for i := range q.Clauses {
		if !search.HasJoins(q.Clauses[i : i+1]) {
			out.Clauses = append(out.Clauses, q.Clauses[i])
		}
	}
	for i := range q.Clauses {
		c := q.Clauses[i]
		switch {
		case len(c.Joins) > 0:
			replaced, err := j.clause(ctx, &out, c, &res, true)
			if err != nil {
				return resolved{}, err
			}
			out.Clauses = append(out.Clauses, replaced)
		case slices.ContainsFunc(c.Any, search.HasJoins):
			replaced, err := j.lists(ctx, &out, c, &res)
			if err != nil {
				return resolved{}, err
			}
			out.Clauses = append(out.Clauses, replaced)
		}
	}
	return res, nil
}

// lists evaluates the joins inside of a clause of lists, as _filter makes.
func (j *joiner) lists(ctx context.Context, q *search.Query, c search.Clause, res *resolved) (search.Clause, error) {
	any := make([][]search.Clause, len(c.Any))
	for i, list := range c.Any {
		for _, inner := range list {
			var err error
			switch {
			case len(inner.Joins) > 0:
				inner, err = j.clause(ctx, q, inner, res, false)
			case inner.Any != nil:
				inner, err = j.lists(ctx, q, inner, res)
			}
			if err != nil {
				return c, err
			}
			any[i] = append(any[i], inner)
		}
	}
	c.Any = any
	return c, nil
}

// errMany is the error of a join that finds more resources than its limit.
type errMany struct{ name string }

func (e *errMany) Error() string { return e.name }

// tooCostly returns the error for the client.
func (e *errMany) tooCostly(limit int) error {
	return fhir.Errorf(fhir.TooCostly, "interaction.joins",
		"%s finds more than %d resources, and so does the rest of the search; make one of them more selective",
		e.name, limit)
}

// clause evaluates the joins of one clause of q. If direct is set, the clause restricts
// q, so that the other clauses of q can be used.
func (j *joiner) clause(ctx context.Context, q *search.Query, c search.Clause, res *resolved, direct bool) (
	search.Clause, error) {
	out := search.Clause{Param: c.Param, Not: c.Not}
	ev := evidence{param: c.Param, patients: map[string][]string{}}
	inners, err := j.inners(ctx, c.Joins)
	if err != nil {
		return c, err
	}
	for i := range inners {
		err := inners[i].costly
		if err == nil {
			err = j.collect(ctx, q.Type, inners[i], &ev)
		}
		many, _ := err.(*errMany)
		if many != nil {
			if !direct {
				return c, many.tooCostly(j.limit)
			}
			return j.candidates(ctx, q, c, inners, res, many)
		}
		if err != nil {
			return c, err
		}
	}
	j.values(&out, ev.patients)
	res.evidence = append(res.evidence, ev)
	return out, nil
}

// inner is the query of a join whose own joins have been evaluated.
type inner struct {
	*search.Join
	resolved
	// costly is set if the joins of the query find too many resources, unless another
	// clause restricts it.
	costly error
}

// inners evaluates the queries inside of joins. A reference to several types is followed
// to those that the token covers; if there are none, the search is forbidden.
func (j *joiner) inners(ctx context.Context, joins []search.Join) ([]inner, error) {
	var out []inner
	for i := range joins {
		if !j.rq.Principal.Grant.May(access.Search, joins[i].Query.Type) {
			continue
		}
		in := inner{Join: &joins[i]}
		var err error
		if in.resolved, err = j.resolve(ctx, in.Query); fhir.KindOf(err) == fhir.TooCostly && err != nil {
			in.resolved, in.costly, err = resolved{query: in.Query}, &errMany{in.Name}, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, in)
	}
	if len(out) == 0 {
		return nil, j.rq.may("interaction.joins", access.Search, joins[0].Query.Type)
	}
	return out, nil
}

// values sets the values of a clause.
func (j *joiner) values(c *search.Clause, keys map[string][]string) {
	for _, key := range sortedKeys(keys) {
		v := search.Value{Code: key}
		if c.Param.Type == search.TypeReference {
			ref, _ := fhir.ParseRef(key)
			v = search.Value{RefType: ref.Type, RefID: ref.ID, Code: j.service.Base + "/" + key}
		}
		c.Values = append(c.Values, v)
	}
	c.Index()
}

// step counts a resource that a join has found.
func (j *joiner) step(join *search.Join, found int) error {
	if j.steps--; j.steps < 0 || found > j.limit {
		return &errMany{join.Name}
	}
	return nil
}

// collect finds the resources of a join and adds the values for the clause: their
// references, or, for _has and _list, the ids to which they refer.
func (j *joiner) collect(ctx context.Context, typ string, in inner, ev *evidence) error {
	find := j.find(in.query)
	find.Limit = j.limit + 1
	n := 0
	var failed error
	err := j.service.Store.Find(ctx, find, func(f *store.Found) bool {
		if n++; failed == nil {
			failed = j.step(in.Join, n)
		}
		if failed != nil {
			return false
		}
		var decided []string
		if decided, failed = in.decided(f); failed != nil {
			return false
		}
		decided = append(decided, f.Facts.Patients()...)
		var keys []string
		switch {
		case in.List:
			keys = listed(f.Resource.JSON, typ, j.service.Base)
		case in.Reverse != nil:
			keys, failed = referred(&f.Resource, in.Join, typ, j.service.Base)
		default:
			keys = []string{f.Resource.Ref().String()}
		}
		for _, key := range keys {
			ev.add(key, decided)
		}
		if failed == nil && len(ev.patients) > j.limit {
			failed = &errMany{in.Name}
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func (j *joiner) find(q *search.Query) store.Find {
	return store.Find{Query: q, Filter: j.rq.filter(access.Search), At: j.at, Owner: j.rq.caller(),
		Undeleted: j.undeleted}
}

// referred returns the ids of the resources of a type to which r refers.
func referred(r *fhir.Resource, join *search.Join, typ, base string) ([]string, error) {
	vals, err := search.Extractor{Base: base, Registry: join.Query.Registry}.Extract(r.Type, r.JSON)
	if err != nil {
		return nil, fhir.Wrap("interaction.joins", err)
	}
	var out []string
	for _, v := range vals.ByParam[join.Reverse.Code] {
		if v.RefType == typ && !v.HasSystem {
			out = append(out, v.RefID)
		}
	}
	return out, nil
}

// listed returns the ids of the resources of a type that are current entries of a List.
func listed(body []byte, typ, base string) []string {
	var list struct {
		Entry []struct {
			Deleted bool `json:"deleted"`
			Item    struct {
				Reference string `json:"reference"`
			} `json:"item"`
		} `json:"entry"`
	}
	if json.Unmarshal(body, &list) != nil {
		return nil
	}
	var out []string
	for _, e := range list.Entry {
		if ref, ok := localRef(e.Item.Reference, base); ok && !e.Deleted && ref.Type == typ {
			out = append(out, ref.ID)
		}
	}
	return out
}

// decided returns the patients whose data decided that the resource matches the joins.
func (d *resolved) decided(f *store.Found) ([]string, error) {
	if len(d.evidence) == 0 {
		return nil, nil
	}
	vals, err := search.Extractor{Registry: d.query.Registry}.Extract(f.Resource.Type, f.Resource.JSON)
	if err != nil {
		return nil, fhir.Wrap("interaction.joins", err)
	}
	var out []string
	for i := range d.evidence {
		e := &d.evidence[i]
		for _, v := range vals.ByParam[e.param.Code] {
			key := v.Code
			if v.RefType != "" && e.param.Type == search.TypeReference {
				key = v.RefType + "/" + v.RefID
			}
			out = append(out, e.patients[key]...)
		}
	}
	return out, nil
}

// candidates evaluates a join that finds too many resources from the other side: it tests
// the resources that satisfy the other clauses of q one by one.
func (j *joiner) candidates(ctx context.Context, q *search.Query, c search.Clause, inners []inner, res *resolved,
	many *errMany) (search.Clause, error) {
	id, ok := q.Registry.Lookup(q.Type, "_id")
	if !ok {
		return c, many.tooCostly(j.limit)
	}
	outer, err := j.outer(ctx, q, c, many)
	if err != nil {
		return c, err
	}
	ev := evidence{param: id, patients: map[string][]string{}}
	known := map[string]*tested{} // by the number of the join and the id
	for i := range outer {
		for k, in := range inners {
			for _, key := range outer[i].keys(c.Param, in.query.Type) {
				cached := strconv.Itoa(k) + "/" + key
				t := known[cached]
				if t == nil {
					if t, err = j.test(ctx, in, fhir.Ref{Type: q.Type, ID: key}); err != nil {
						return c, err
					}
					known[cached] = t
				}
				if t.matches {
					ev.add(outer[i].id, t.patients)
				}
			}
		}
	}
	out := search.Clause{Param: id, Not: c.Not}
	j.values(&out, ev.patients)
	res.evidence = append(res.evidence, ev)
	return out, nil
}

// candidate is a resource that satisfies the other clauses of a search.
type candidate struct {
	id   string
	refs []fhir.Ref // of the clause's parameter
}

// keys returns the ids for which a join with resources of a type is to be tested.
func (o *candidate) keys(p *search.Param, typ string) []string {
	if p.Type != search.TypeReference {
		return []string{o.id}
	}
	var out []string
	for _, ref := range o.refs {
		if ref.Type == typ {
			out = append(out, ref.ID)
		}
	}
	return out
}

// outer finds the candidates.
func (j *joiner) outer(ctx context.Context, q *search.Query, c search.Clause, many *errMany) ([]candidate,
	error) {
	if c.Joins[0].List || len(q.Clauses) == 0 && c.Param.Type == search.TypeReference {
		return nil, many.tooCostly(j.limit)
	}
	find := j.find(&search.Query{Type: q.Type, Registry: q.Registry, Clauses: q.Clauses, Patient: q.Patient})
	find.Limit = j.limit + 1
	var out []candidate
	var failed error
	err := j.service.Store.Find(ctx, find, func(f *store.Found) bool {
		if len(out) == j.limit {
			failed = many.tooCostly(j.limit)
			return false
		}
		o := candidate{id: f.Resource.ID}
		if c.Param.Type == search.TypeReference {
			var vals *search.Values
			if vals, failed = (search.Extractor{Base: j.service.Base, Registry: q.Registry}).Extract(q.Type,
				f.Resource.JSON); failed != nil {
				return false
			}
			for _, v := range vals.ByParam[c.Param.Code] {
				if v.RefType != "" && !v.HasSystem {
					o.refs = append(o.refs, fhir.Ref{Type: v.RefType, ID: v.RefID})
				}
			}
		}
		out = append(out, o)
		return true
	})
	if failed != nil {
		return nil, failed
	}
	return out, err
}

// tested is the outcome of a test of one candidate.
type tested struct {
	matches  bool
	patients []string
}

// test tests whether a join holds for one resource: the one with the id of ref to which a
// chained parameter refers, or, for _has, ref.
func (j *joiner) test(ctx context.Context, in inner, ref fhir.Ref) (*tested, error) {
	if j.tests--; j.tests < 0 {
		return nil, (&errMany{in.Name}).tooCostly(j.limit)
	}
	q := *in.query
	q.Clauses = slices.Clone(q.Clauses)
	if in.Reverse != nil {
		v := search.Value{RefType: ref.Type, RefID: ref.ID, Code: j.service.Base + "/" + ref.String()}
		q.Clauses = append(q.Clauses, search.Clause{Param: in.Reverse, Values: []search.Value{v}})
	} else {
		p, _ := q.Registry.Lookup(q.Type, "_id")
		q.Clauses = append(q.Clauses, search.Clause{Param: p, Values: []search.Value{{Code: ref.ID}}})
	}
	t := &tested{}
	if in.costly != nil {
		var err error
		if in.resolved, err = j.resolve(ctx, &q); err != nil {
			return nil, err
		}
		q = *in.query
	}
	find := j.find(&q)
	find.Limit = 1
	var failed error
	err := j.service.Store.Find(ctx, find, func(f *store.Found) bool {
		t.matches = true
		if t.patients, failed = in.decided(f); failed == nil {
			t.patients = append(t.patients, f.Facts.Patients()...)
		}
		return false
	})
	if failed != nil {
		err = failed
	}
	return t, err
}

// localRef returns the resource of this server to which a reference refers.
func localRef(reference, base string) (fhir.Ref, bool) {
	if rest, ok := strings.CutPrefix(reference, base+"/"); ok {
		reference = rest
	}
	return fhir.ParseRef(reference)
}
