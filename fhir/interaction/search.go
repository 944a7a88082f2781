package interaction

import (
	"context"

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
	p, recorded, err := s.search(ctx, rq, op, typ, raw, at)
	if err != nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: typ}, err)
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
	// match, false for one that the query names or that an included resource has.
	patients map[string]bool
	seen     map[fhir.Ref]bool
	last     search.Position
	more     bool
	resumed  bool       // the request follows a page link
	refs     []fhir.Ref // to include
}

func (s *Service) search(ctx context.Context, rq *Request, op, typ, raw string, at store.Seq) (*Page, *found, error) {
	if err := rq.may(op, access.Search, typ); err != nil {
		return nil, nil, err
	}
	if err := supported(op, typ); err != nil {
		return nil, nil, err
	}
	q, recorded, err := s.parse(typ, raw, rq.Lenient)
	if err != nil {
		return nil, nil, err
	}
	bound := joined("search", rq.caller(), typ, search.SelfQuery(q))
	point, err := s.openPage(ctx, op, bound, q.Page)
	if err != nil {
		return nil, nil, err
	}
	if point.at > 0 {
		at, q.After = point.at, point.after
	} else if at == 0 {
		at = s.Store.LastSeq()
	}
	limits := s.Limits.withDefaults()
	limits.PageBytes = rq.pageBytes(limits)
	count := limits.Count
	if q.Count >= 0 {
		count = min(q.Count, limits.MaxCount)
	}
	find := store.Find{Query: q, Filter: rq.filter(access.Search), At: at, After: q.After, Limit: count + 1,
		Owner: rq.caller(), Undeleted: point.at > 0}
	res := &results{page: &Page{}, resumed: point.at > 0, patients: map[string]bool{}, seen: map[fhir.Ref]bool{}}
	if q.Patient != "" {
		res.patients[q.Patient] = false
	}
	counting := q.Summary == search.SummaryCount || count == 0
	if !counting {
		if err := s.gather(ctx, rq, find, count, limits, res); err != nil {
			return nil, nil, err
		}
	}
	total := int64(-1)
	switch {
	case !counting && !res.more && q.After == "":
		total = int64(res.page.count)
	case counting || q.Total != search.TotalNone:
		find.After, find.Limit = "", 0
		n, err := s.Store.Count(ctx, find)
		if err != nil {
			return nil, nil, err
		}
		total = int64(n)
	}
	if len(res.refs) > 0 {
		if err := s.include(ctx, rq, q, at, limits, res); err != nil {
			return nil, nil, err
		}
	}
	res.page.ignored(q.Ignored)
	id, err := s.newID()
	if err != nil {
		return nil, nil, err
	}
	links, err := s.links(ctx, q, bound, at, res)
	if err != nil {
		return nil, nil, err
	}
	res.page.open(id, "searchset", s.Clock(), total, links)
	recorded.line = rq.Line
	return res.page, &found{*recorded, res.patients}, nil
}

// firstPage bounds the bytes that are allocated for a page in advance.
const firstPage = 256 << 10

// gather runs the scan into the page.
func (s *Service) gather(ctx context.Context, rq *Request, find store.Find, count int, limits Limits,
	res *results) error {
	q := find.Query
	n := 0
	var cbErr error
	err := s.Store.Find(ctx, find, func(f *store.Found) bool {
		if n == count || len(res.page.entries) > limits.PageBytes {
			res.more = true
			return false
		}
		n++
		res.last = f.Pos
		addAll(res.patients, f.Facts.Patients())
		body, err := r4.Subset(q.Type, f.Resource.JSON, q.Summary, q.Elements)
		if err != nil {
			cbErr = err
			return false
		}
		if n == 1 { // the others usually have a similar size
			res.page.entries = make([]byte, 0, min(count*(len(body)+len(s.Base)+128), firstPage))
		}
		res.page.match(s.Base+"/"+f.Resource.Type+"/"+f.Resource.ID, body, "match")
		if len(q.Includes) > 0 {
			res.seen[f.Resource.Ref()] = true
			if cbErr = res.collect(q, &f.Resource, false); cbErr != nil {
				return false
			}
		}
		return true
	})
	if cbErr != nil {
		return cbErr
	}
	return err
}

// collect adds the references of r that the query includes.
func (res *results) collect(q *search.Query, r *fhir.Resource, included bool) error {
	var values *search.Values
	for _, inc := range q.Includes {
		if inc.Source != r.Type || included && !inc.Iterate {
			continue
		}
		if values == nil {
			v, err := search.Extract(r.Type, r.JSON)
			if err != nil {
				return fhir.Wrap("interaction.include", err)
			}
			values = v
		}
		for code, vs := range values.ByParam {
			if inc.Param != code && inc.Param != "*" {
				continue
			}
			for _, v := range vs {
				ref := fhir.Ref{Type: v.RefType, ID: v.RefID}
				if ref.ID == "" || inc.Target != "" && inc.Target != ref.Type || res.seen[ref] ||
					!fhir.KnownType(ref.Type) {
					continue
				}
				res.seen[ref] = true
				res.refs = append(res.refs, ref)
			}
		}
	}
	return nil
}

// include adds the resources to which the matches refer, as of the snapshot, if
// the current filter shows them.
func (s *Service) include(ctx context.Context, rq *Request, q *search.Query, at store.Seq, limits Limits,
	res *results) error {
	const op = "interaction.include"
	for n := 0; len(res.refs) > 0; n++ {
		if n >= limits.Includes || len(res.page.entries) > 2*limits.PageBytes {
			return fhir.Errorf(fhir.TooCostly, op,
				"_include would add more than %d resources to this page; request smaller pages with _count", limits.Includes)
		}
		ref := res.refs[0]
		res.refs = res.refs[1:]
		r, facts, err := s.Store.Read(ctx, ref, at)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return err
		}
		if err != nil || r.Deleted || !rq.filter(access.Search).Allow(facts) && !rq.filter(access.Read).Allow(facts) {
			continue
		}
		if res.resumed { // omit resources deleted since the first page
			now, err := s.Store.Heads(ctx, []fhir.Ref{ref})
			if err != nil {
				return err
			}
			if now[0].Deleted {
				continue
			}
		}
		for _, p := range facts.Patients() {
			res.patients[p] = res.patients[p] // an included resource does not make it a match
		}
		res.page.match(s.Base+"/"+ref.String(), r.JSON, "include")
		if err := res.collect(q, &r, true); err != nil {
			return err
		}
	}
	return nil
}

// parse parses a query string or form. The caller sets the line of the result.
func (s *Service) parse(typ, raw string, lenient bool) (*search.Query, *recorded, error) {
	pairs, err := search.Pairs(raw)
	if err != nil {
		return nil, nil, err
	}
	q, err := search.Parse(typ, pairs, search.ParseOptions{Lenient: lenient, Base: s.Base,
		MaxCount: s.Limits.withDefaults().MaxCount, Now: s.Clock})
	if err != nil {
		return nil, nil, err
	}
	return q, &recorded{typ: typ, pairs: pairs, single: q.Patient, base: s.Base}, nil
}

// links returns the self link, with the applied parameters, and the next link,
// which is valid only for the caller and search in bound.
func (s *Service) links(ctx context.Context, q *search.Query, bound []byte, at store.Seq,
	res *results) ([]link, error) {
	self := s.Base + "/" + q.Type
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
		out = append(out, link{"next", self + sep + "__page=" + p.seal(bound, pagePoint{at, res.last})})
	}
	return out, nil
}
