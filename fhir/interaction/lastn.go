package interaction

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// LastN implements Observation/$lastn
// (https://hl7.org/fhir/R4/observation-operation-lastn.html). It returns the newest
// `max` Observations (1 by default) of each code, including ties, grouped by code
// and newest first. All codings of an Observation count as one code, and groups
// that share a coding are merged. The other parameters are those of a search,
// which must name one patient and a category or code.
func (s *Service) LastN(ctx context.Context, rq *Request, ps []Parameter) (*Page, error) {
	page, recorded, err := s.lastN(ctx, rq, ps)
	if err != nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: "Observation"}, err)
	}
	if err := s.disclose(ctx, rq, recorded.events(rq, recorded.patients)...); err != nil {
		return nil, err
	}
	return page, nil
}

func (s *Service) lastN(ctx context.Context, rq *Request, ps []Parameter) (*Page, *found, error) {
	const op = "interaction.LastN"
	if err := rq.may(op, access.Search, "Observation"); err != nil {
		return nil, nil, err
	}
	q, most, err := s.lastNQuery(rq, ps)
	if err != nil {
		return nil, nil, err
	}
	limits := rq.limits(s)
	when, err := selection("date")
	if err != nil {
		return nil, nil, err
	}
	cg := &codeGroups{most: most, capacity: limits.PageBytes, when: when, sets: map[string]*codeSet{},
		concepts: map[string]*codeSet{}}
	at := s.Store.LastSeq()
	joined, err := s.joins(ctx, rq, q, at, false)
	if err != nil {
		return nil, nil, err
	}
	find := store.Find{Query: joined.query, Filter: rq.filter(access.Search), At: at}
	var bad error
	add := func(f *store.Found) bool {
		bad = cg.add(f)
		return bad == nil
	}
	if fast, ok := s.Store.(store.Columnar); ok {
		err = fast.FindNewest(ctx, find, most, add)
	} else {
		err = s.Store.Find(ctx, find, add)
	}
	if bad != nil {
		err = bad
	}
	if err != nil {
		return nil, nil, err
	}
	res := &results{page: &Page{}, patients: map[string]bool{q.Patient: cg.count > 0}}
	included := newIncluder(s, rq, at, limits, res)
	for _, o := range cg.newest() {
		found := fhir.Resource{Type: "Observation", ID: o.id, JSON: o.json}
		decided, err := joined.decided(&store.Found{Resource: found})
		if err != nil {
			return nil, nil, err
		}
		for _, p := range decided {
			res.name(p)
		}
		body, err := r4.Subset("Observation", o.json, q.Summary, q.Elements)
		if err != nil {
			return nil, nil, err
		}
		res.page.match(s.Base+"/Observation/"+o.id, body, "match")
		if err := included.match(q, &found); err != nil {
			return nil, nil, err
		}
	}
	total := int64(res.page.count)
	if err := included.run(ctx, []*search.Query{q}); err != nil {
		return nil, nil, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, nil, err
	}
	self := s.Base + "/Observation/$lastn?max=" + strconv.Itoa(most) + "&" + search.SelfQuery(q)
	res.page.open(id, "searchset", s.Clock(), total, []link{{"self", self}})
	recorded := s.recordedOf(rq, ps, q.Patient)
	recorded.auditRead = res.auditRead || readsAudit(q.Clauses)
	return res.page, &found{recorded, res.patients}, nil
}

// maxPerGroup bounds max.
const maxPerGroup = 1000

// lastNQuery parses max and, as a search, the other parameters.
func (s *Service) lastNQuery(rq *Request, ps []Parameter) (*search.Query, int, error) {
	const op = "interaction.LastN"
	most, given := 1, false
	var pairs [][2]string
	for _, p := range ps {
		if p.Coding != nil || p.Period != nil {
			return nil, 0, fhir.Errorf(fhir.Invalid, op, "the parameters of $lastn must be strings, as in a search")
		}
		switch p.Name {
		case "max":
			n, err := strconv.Atoi(p.Value)
			if err != nil || n < 1 || n > maxPerGroup || given {
				return nil, 0, fhir.Errorf(fhir.Invalid, op, "max must be a single whole number from 1 to %d",
					maxPerGroup)
			}
			most, given = n, true
		case "_sort", "_count", "_total", "__page":
			return nil, 0, fhir.Errorf(fhir.Invalid, op,
				"%s is not allowed in $lastn; the order is fixed and the answer is a single page", p.Name)
		default:
			pairs = append(pairs, [2]string{p.Name, p.Value})
		}
	}
	o := s.parseOptions(rq.Lenient)
	o.Joins = true
	q, err := search.Parse("Observation", pairs, o)
	if err != nil {
		return nil, 0, err
	}
	coded := slices.ContainsFunc(q.Clauses, func(c search.Clause) bool {
		return !c.Param.Defined() && (c.Param.Code == "category" || c.Param.Code == "code" || strings.HasSuffix(c.Param.Code, "-code"))
	})
	switch {
	case q.Patient == "":
		return nil, 0, &fhir.Error{Kind: fhir.Invalid, Op: op,
			Issues: []fhir.Issue{{Code: "required", Diagnostics: "$lastn needs patient or subject, with one patient"}}}
	case !coded:
		return nil, 0, &fhir.Error{Kind: fhir.Invalid, Op: op,
			Issues: []fhir.Issue{{Code: "required", Diagnostics: "$lastn needs category or code"}}}
	case q.Summary == search.SummaryCount:
		return nil, 0, fhir.Errorf(fhir.Invalid, op, "_summary=count is not allowed in $lastn")
	}
	q.Sort = []search.SortKey{{Param: "date", Desc: true}}
	return q, most, nil
}

var errStored = errors.New("a stored Observation is not JSON")

// selection returns the Selection of one search parameter of Observation.
func selection(param string) (*search.Selection, error) {
	p, ok := search.Lookup("Observation", param)
	if !ok {
		return nil, fhir.Errorf(fhir.Internal, "interaction.selection", "no such parameter")
	}
	return search.Select(&search.Query{Type: "Observation", Clauses: []search.Clause{{Param: p}}})
}

// recent is an Observation that may be among the newest.
type recent struct {
	id   string
	at   int64 // beginning of its time in Unix milliseconds; math.MinInt64 if it has none
	json []byte
}

// codeSet is a group of Observations with the same code. parent is set if it has
// been merged into another group.
type codeSet struct {
	parent *codeSet
	order  int // of its first Observation
	kept   []recent
}

func (s *codeSet) root() *codeSet {
	for s.parent != nil {
		if s.parent.parent != nil {
			s.parent = s.parent.parent
		}
		s = s.parent
	}
	return s
}

type codeGroups struct {
	most      int
	capacity  int // bytes that may yet be held
	count     int
	parser    fastjson.Parser
	templates search.TemplateCache[templateCode]
	when      *search.Selection
	sets      map[string]*codeSet // by coding or text
	concepts  map[string]*codeSet // by the bytes of a whole code
	all       []*codeSet
}

// templateCode is the group of the Observations with one template.
type templateCode struct {
	set  *codeSet
	when *search.Reader // nil if they must be parsed
}

// add adds an Observation. They may come in any order.
func (cg *codeGroups) add(f *store.Found) error {
	cg.count++
	if x, leaves, ok := cg.templates.Find(f.Resource.JSON); ok && x.when != nil {
		at := int64(math.MinInt64)
		for _, d := range x.when.Values(leaves) {
			at = d.Lo
		}
		return cg.take(f, x.set.root(), at)
	}
	v, err := cg.parser.ParseBytes(f.Resource.JSON)
	if err != nil {
		return &fhir.Error{Kind: fhir.Internal, Op: "interaction.LastN", Err: errStored}
	}
	vals, err := search.Extractor{}.ExtractFor(cg.when, f.Resource.JSON)
	if err != nil {
		return fhir.Wrap("interaction.LastN", err)
	}
	dates := vals.ByParam["date"]
	at := int64(math.MinInt64)
	for _, d := range dates {
		at = max(at, d.Lo)
	}
	set := cg.set(v.Get("code"))
	cg.templates.Learn(f.Resource.JSON, func(s *search.Template, leaves []search.Leaf) (x templateCode, ok bool) {
		p, ok := search.Lookup("Observation", "date")
		if !ok {
			return x, false
		}
		return templateCode{set, s.Reader(p, dates, leaves)}, true // no slot is part of code
	})
	return cg.take(f, set, at)
}

// take adds an Observation to a group if it may be among the newest.
func (cg *codeGroups) take(f *store.Found, set *codeSet, at int64) error {
	if len(set.kept) >= cg.most && at < set.kept[cg.most-1].at {
		return nil
	}
	if cg.capacity -= len(f.Resource.JSON); cg.capacity < 0 {
		return fhir.Errorf(fhir.TooCostly, "interaction.LastN",
			"the newest Observations of all codes exceed the size of an answer; request fewer codes or a smaller max")
	}
	set.kept = append(set.kept, recent{id: f.Resource.ID, at: at, json: slices.Clone(f.Resource.JSON)})
	cg.trim(set)
	return nil
}

// newer compares like a search sorted by -date. Observations at the same instant
// are ordered by id.
func newer(a, b recent) int {
	return cmp.Or(cmp.Compare(b.at, a.at), strings.Compare(b.id, a.id))
}

// trim keeps the newest Observations and their ties, in order.
func (cg *codeGroups) trim(s *codeSet) {
	slices.SortFunc(s.kept, newer)
	if len(s.kept) <= cg.most {
		return
	}
	n := cg.most
	for n < len(s.kept) && s.kept[n].at == s.kept[cg.most-1].at && s.kept[n].at != math.MinInt64 {
		n++
	}
	for _, o := range s.kept[n:] {
		cg.capacity += len(o.json)
	}
	clear(s.kept[n:])
	s.kept = s.kept[:n]
}

// set returns the group of a code and merges groups whose codings the code
// combines.
func (cg *codeGroups) set(code *fastjson.Value) *codeSet {
	var whole string
	if code != nil {
		whole = string(code.MarshalTo(nil))
	}
	if s := cg.concepts[whole]; s != nil {
		return s.root()
	}
	s := &codeSet{order: cg.count}
	cg.all = append(cg.all, s)
	for _, k := range codeKeys(code) {
		if old := cg.sets[k]; old != nil {
			s = cg.join(s, old.root())
		}
		cg.sets[k] = s
	}
	cg.concepts[whole] = s
	return s
}

// codeKeys returns the keys of a code: its codings or, if it has none, its text.
// Codes that share a key are the same.
func codeKeys(code *fastjson.Value) []string {
	if code == nil {
		return []string{"none"}
	}
	var out []string
	for _, c := range code.GetArray("coding") {
		if k := string(c.GetStringBytes("code")); k != "" {
			out = append(out, "c"+string(c.GetStringBytes("system"))+"|"+k)
		}
	}
	if out == nil {
		out = []string{"t" + string(code.GetStringBytes("text"))}
	}
	return out
}

func (cg *codeGroups) join(a, b *codeSet) *codeSet {
	if a == b {
		return a
	}
	if a.order < b.order {
		a, b = b, a
	}
	a.parent = b
	b.kept = append(b.kept, a.kept...)
	a.kept = nil
	cg.trim(b)
	return b
}

// newest returns the groups in order of their newest Observations, each newest
// first.
func (cg *codeGroups) newest() []recent {
	var groups []*codeSet
	for _, s := range cg.all {
		if s.parent == nil && len(s.kept) > 0 {
			groups = append(groups, s)
		}
	}
	slices.SortFunc(groups, func(a, b *codeSet) int { return newer(a.kept[0], b.kept[0]) })
	var out []recent
	for _, s := range groups {
		out = append(out, s.kept...)
	}
	return out
}
