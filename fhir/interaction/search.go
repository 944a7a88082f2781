package interaction

import (
	"context"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Search returns the searchset for raw, the query string or the form of a POST
// _search. All pages show the state as of the commit of the first page, which is
// in a sealed parameter of the next link. Current consents and scopes apply to
// each page, and resources deleted since the first page are omitted.
func (s *Service) Search(ctx context.Context, rq *Request, typ, raw string) (*Page, error) {
	return s.searchAt(ctx, rq, typ, raw, 0)
}

func (s *Service) searchAt(ctx context.Context, rq *Request, typ, raw string, at store.Seq) (*Page, error) {
	const op = "interaction.Search"
	if err := supported(op, typ); err != nil && rq.may(op, access.Search, typ) == nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: typ}, err)
	}
	return s.answer(ctx, rq, op, scope{types: []string{typ}, path: typ, interaction: "search-type"}, raw, at)
}

// answer performs a search and records it.
func (s *Service) answer(ctx context.Context, rq *Request, op string, sc scope, raw string,
	at store.Seq) (*Page, error) {
	p, recorded, err := s.search(ctx, rq, op, sc, raw, at)
	if err != nil {
		return nil, s.refuse(ctx, rq, sc.interaction, fhir.Ref{Type: sc.single()}, err)
	}
	if err := s.disclose(ctx, rq, recorded.events(rq, recorded.patients)...); err != nil {
		return nil, err
	}
	return p, nil
}

// results collects a page.
type results struct {
	page *Page
	// patients holds the patients that the page concerns: true for the patient of a
	// match, false for one that the query names, whose data decided a match through a
	// join, or that an included resource has.
	patients map[string]bool
	last     string // the position after which the next page begins, see scope.place
	matches  int
	more     bool
	resumed  bool // the request follows a page link
	// auditRead is set if the answer depends on AuditEvents beside those of the type
	// that is searched.
	auditRead bool
	includes  *includer // nil if the query includes nothing
}

// name adds a patient whose data the answer depends on.
func (res *results) name(patient string) { nameIn(res.patients, patient) }

func (s *Service) search(ctx context.Context, rq *Request, op string, sc scope, raw string,
	at store.Seq) (*Page, *found,
	error) {
	for _, typ := range sc.types {
		if err := rq.may(op, access.Search, typ); err != nil {
			return nil, nil, err
		}
	}
	queries, recorded, err := s.parseScope(rq, &sc, raw)
	if err != nil {
		return nil, nil, err
	}
	q := queries[0]
	bound := joined("search", rq.caller(), sc.path, search.SelfQuery(q))
	for _, q := range queries {
		if d := search.Definitions(q); d != "" { // a position is worth nothing under another definition
			bound = joined(string(bound), d)
		}
	}
	if sc.sorted(queries) { // the link has a position for each type
		bound = joined(append([]string{string(bound)}, sc.types...)...)
	}
	point, err := s.openPage(ctx, op, bound, q.Page)
	if err != nil {
		return nil, nil, err
	}
	if point.at > 0 {
		at = point.at
	} else if at == 0 {
		at = s.Store.LastSeq()
	}
	limits := s.Limits.withDefaults()
	limits.PageBytes = rq.pageBytes(limits)
	count := limits.Count
	if q.Count >= 0 {
		count = min(q.Count, limits.MaxCount)
	}
	res := &results{page: &Page{}, resumed: point.at > 0, patients: map[string]bool{}}
	for _, p := range sc.patients(queries) {
		res.patients[p] = false
	}
	if slices.ContainsFunc(queries, func(q *search.Query) bool { return len(q.Includes)+len(q.RevIncludes) > 0 }) {
		res.includes = newIncluder(s, rq, at, limits, res)
	}
	counting := q.Summary == search.SummaryCount || count == 0
	run := &running{service: s, rq: rq, queries: queries, at: at, count: count, limits: limits, res: res}
	if !counting {
		if err := run.page(ctx, &sc, point); err != nil {
			return nil, nil, err
		}
	}
	total := int64(-1)
	switch {
	case !counting && !res.more && point.at == 0:
		total = int64(res.matches)
	case counting || q.Total != search.TotalNone:
		if total, err = run.total(ctx); err != nil {
			return nil, nil, err
		}
	}
	if res.includes != nil {
		if err := res.includes.run(ctx, queries); err != nil {
			return nil, nil, err
		}
	}
	res.page.ignored(q.Ignored)
	id, err := s.newID()
	if err != nil {
		return nil, nil, err
	}
	links, err := s.links(ctx, &sc, q, bound, at, res)
	if err != nil {
		return nil, nil, err
	}
	res.page.open(id, "searchset", s.Clock(), total, links)
	recorded.line = rq.Line
	recorded.auditRead = res.auditRead
	return res.page, &found{*recorded, res.patients}, nil
}

// running is a search whose parameters are parsed: one query for each type.
type running struct {
	service  *Service
	rq       *Request
	queries  []*search.Query
	resolved []*resolved // parallel to queries; nil until it is needed
	at       store.Seq
	count    int
	limits   Limits
	res      *results
}

// query returns the query with an index, with its joins evaluated.
func (r *running) query(ctx context.Context, i int) (*resolved, error) {
	if r.resolved == nil {
		r.resolved = make([]*resolved, len(r.queries))
	}
	if r.resolved[i] == nil {
		q, err := r.service.joins(ctx, r.rq, r.queries[i], r.at, r.res.resumed)
		if err != nil {
			return nil, err
		}
		r.res.auditRead = r.res.auditRead || readsAudit(r.queries[i].Clauses)
		r.resolved[i] = &q
	}
	return r.resolved[i], nil
}

func (r *running) find(q *search.Query) store.Find {
	return store.Find{Query: q, Filter: r.rq.filter(access.Search), At: r.at, Owner: r.rq.caller(),
		Undeleted: r.res.resumed}
}

// page gathers the page that begins at a point.
func (r *running) page(ctx context.Context, sc *scope, point pagePoint) error {
	if sc.sorted(r.queries) {
		return r.merge(ctx, point)
	}
	first, after := 0, ""
	if point.at > 0 {
		first, after = sc.position(point.after)
	}
	return r.gather(ctx, sc, first, after)
}

// gather runs the searches into the page, from the query with the index first and from
// the match after a position on.
func (r *running) gather(ctx context.Context, sc *scope, first int, after search.Position) error {
	for i := first; i < len(r.queries) && !r.res.more; i++ {
		q, err := r.query(ctx, i)
		if err != nil {
			return err
		}
		find := r.find(q.query)
		find.After, find.Limit = after, r.count-r.res.matches+1
		after = ""
		var failed error
		err = r.service.Store.Find(ctx, find, func(f *store.Found) bool {
			var taken bool
			if taken, failed = r.take(f, q); taken {
				r.res.last = sc.place(i, f.Pos)
			}
			return taken
		})
		if failed != nil {
			err = failed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// total returns the number of matches of all types.
func (r *running) total(ctx context.Context) (int64, error) {
	total := int64(0)
	for i := range r.queries {
		q, err := r.query(ctx, i)
		if err != nil {
			return 0, err
		}
		n, err := r.service.Store.Count(ctx, r.find(q.query))
		if err != nil {
			return 0, err
		}
		total += int64(n)
	}
	return total, nil
}

// firstPage bounds the bytes that are allocated for a page in advance.
const firstPage = 256 << 10

// take adds a match to the page. It reports false if the page is full.
func (r *running) take(f *store.Found, joins *resolved) (taken bool, err error) {
	q, res, limits := joins.query, r.res, r.limits
	if res.matches == r.count || len(res.page.entries) > limits.PageBytes {
		res.more = true
		return false, nil
	}
	res.matches++
	if q.Type == "Observation" { // the most frequent type has one patient
		if f.Facts.Patient != "" {
			res.patients[f.Facts.Patient] = true
		}
	} else {
		for _, p := range f.Facts.Patients() {
			res.patients[p] = true
		}
	}
	if len(joins.evidence) > 0 {
		decided, err := joins.decided(f)
		if err != nil {
			return false, err
		}
		for _, p := range decided {
			res.name(p)
		}
	}
	body, err := r4.Subset(q.Type, f.Resource.JSON, q.Summary, q.Elements)
	if err != nil {
		return false, err
	}
	if res.matches == 1 { // the others usually have a similar size
		res.page.entries = make([]byte, 0, min(r.count*(len(body)+len(r.service.Base)+128), firstPage))
	}
	res.page.match(r.service.Base+"/"+f.Resource.Type+"/"+f.Resource.ID, body, "match")
	if res.includes != nil {
		if err := res.includes.match(q, &f.Resource); err != nil {
			return false, err
		}
	}
	return true, nil
}

// parse parses a query string or form. The caller sets the line of the result, and
// evaluates the joins.
func (s *Service) parse(typ, raw string, lenient bool) (*search.Query, *recorded, error) {
	pairs, err := search.Pairs(raw)
	if err != nil {
		return nil, nil, err
	}
	o := s.parseOptions(lenient)
	o.Joins = true
	q, err := search.Parse(typ, pairs, o)
	if err != nil {
		return nil, nil, err
	}
	return q, &recorded{typ: typ, pairs: pairs, single: q.Patient, base: s.Base, registry: q.Registry}, nil
}

// valueSets returns the terminology for searches, or nil.
func (s *Service) valueSets() search.ValueSets {
	if s.Terminology == nil {
		return nil
	}
	return s.Terminology
}

func (s *Service) parseOptions(lenient bool) search.ParseOptions {
	return search.ParseOptions{Lenient: lenient, Base: s.Base, MaxCount: s.Limits.withDefaults().MaxCount, Now: s.Clock,
		ValueSets: s.valueSets(), Registry: s.registry()}
}

// links returns the self link, with the applied parameters, and the next link,
// which is valid only for the caller and search in bound.
func (s *Service) links(ctx context.Context, sc *scope, q *search.Query, bound []byte, at store.Seq,
	res *results) ([]link, error) {
	self := s.Base
	if sc.path != "" {
		self += "/" + sc.path
	}
	sep := "?"
	if params := search.SelfQuery(q); params != "" {
		self, sep = self+"?"+params, "&"
	}
	inCommit := self
	if q.Page != "" {
		inCommit = self + sep + "__page=" + q.Page
	}
	out := []link{{"self", inCommit}}
	if res.more && res.last != "" {
		p, err := s.sealer(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, link{"next", self + sep + "__page=" +
			p.seal(bound, pagePoint{at, res.last})})
	}
	return out, nil
}
