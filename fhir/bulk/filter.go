package bulk

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// queryStart matches a comma that separates two queries of _typeFilter: the next one
// begins with its resource type. Other commas belong to a query.
var queryStart = regexp.MustCompile(`,\s*([A-Z][A-Za-z]+\?)`)

// typeFilters splits the values of _typeFilter into queries.
func typeFilters(values []string) (out []string) {
	for _, v := range values {
		for q := range strings.SplitSeq(queryStart.ReplaceAllString(v, "\x00$1"), "\x00") {
			if q = strings.Trim(q, ", "); q != "" {
				out = append(out, q)
			}
		}
	}
	return out
}

// maxFilters bounds the queries of _typeFilter, each of which is evaluated for every
// resource of its type.
const maxFilters = 50

// resultParams lists the search result parameters of R4, which the guide excludes from
// _typeFilter, and parameters that are not supported there.
var resultParams = []string{"_sort", "_count", "_include", "_revinclude", "_summary", "_total", "_elements",
	"_contained", "_containedType", "_score", "_format", "_pretty", "_type", "_text", "_content",
	"_query", "_filter"} // read only

// Searcher parses and evaluates queries of _typeFilter as searches are. *interaction.Service
// implements it.
type Searcher interface {
	// ParseFilter parses the parameters of a search of one type.
	ParseFilter(typ string, pairs [][2]string) (*search.Query, error)
	// FilterJoins evaluates chained parameters, _has and _list of a query, at a snapshot and
	// under the grant of a principal. It returns a query without them, and a function that
	// returns the patients whose data decided that a resource matches it.
	FilterJoins(ctx context.Context, p *access.Principal, q *search.Query, at store.Seq) (*search.Query,
		func(*store.Found) ([]string, error), error)
}

// parseFilter parses a query of _typeFilter. If s is nil, it may have no chained parameters,
// _has, _list and modifiers that need terminology. The error names no part of the value but
// the type and the parameters of R4.
func parseFilter(query, base string, s Searcher) (*search.Query, error) {
	const op = "bulk.KickOff"
	typ, raw, ok := strings.Cut(query, "?")
	typ = strings.TrimPrefix(strings.TrimPrefix(typ, base), "/")
	if !ok || !fhir.KnownType(typ) {
		return nil, fhir.Errorf(fhir.Invalid, op, "_typeFilter must be of the form [type]?[parameters]")
	}
	pairs, err := search.Pairs(raw)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		name, _, _ := strings.Cut(p[0], ":")
		if slices.Contains(resultParams, name) {
			return nil, fhir.Errorf(fhir.Invalid, op, "the parameter %s is not permitted in _typeFilter", name)
		}
	}
	var q *search.Query
	if s == nil {
		q, err = search.Parse(typ, pairs, search.ParseOptions{Base: base})
	} else {
		q, err = s.ParseFilter(typ, pairs)
	}
	if err != nil {
		return nil, err
	}
	if len(q.Clauses) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, op, "a query of _typeFilter has no parameter")
	}
	return q, nil
}

func (c *checker) checkFilters() error {
	queries := typeFilters(c.Params["_typeFilter"])
	if len(queries) > maxFilters {
		return fhir.Errorf(fhir.TooLarge, "bulk.KickOff", "at most %d queries in _typeFilter", maxFilters)
	}
	for _, query := range queries {
		q, err := parseFilter(query, c.base, c.search)
		if err != nil {
			if fhir.KindOf(err) != fhir.Invalid {
				return err
			}
			if !c.Lenient {
				return err
			}
			c.Warnings = append(c.Warnings, "a query of _typeFilter is not supported; it was ignored")
			continue
		}
		if !slices.Contains(c.Types, q.Type) {
			if err := c.unsupported("_typeFilter names a resource type that is not exported"); err != nil {
				return err
			}
			continue
		}
		c.Filters = append(c.Filters, query)
	}
	return nil
}

// checkElements parses _elements, which names root elements of one type or of all.
func (c *checker) checkElements() error {
	for _, v := range c.list("_elements") {
		typ, name, typed := strings.Cut(v, ".")
		if !typed {
			typ, name = "", v
		}
		if strings.Contains(name, ".") {
			return fhir.Errorf(fhir.Invalid, "bulk.KickOff",
				"_elements may name only root elements, such as Patient.name or name")
		}
		if !isElement(c.Types, typ, name) {
			if err := c.unsupported("_elements names no element of an exported resource type"); err != nil {
				return err
			}
			continue
		}
		c.Elements = append(c.Elements, v)
	}
	return nil
}

// isElement reports whether one of the types, typ if it is not empty, has the element.
func isElement(types []string, typ, name string) bool {
	for _, t := range types {
		if typ != "" && t != typ {
			continue
		}
		st := definitions.R4().Structure(t)
		if st == nil {
			continue
		}
		if st.LookupString(name) != nil {
			return true
		}
		for i := range st.Elements { // value[x] is value
			if strings.TrimSuffix(st.Elements[i].Name, "[x]") == name {
				return true
			}
		}
	}
	return false
}

// elementsOf returns the elements that the request selects of a type, or nil for all. A
// type that only other types' elements are named of is returned whole.
func (s *spec) elementsOf(typ string) (out []string) {
	for _, v := range s.Elements {
		t, name, typed := strings.Cut(v, ".")
		if !typed {
			out = append(out, v)
		} else if t == typ {
			out = append(out, name)
		}
	}
	return out
}

// matchers holds the queries of a type. A resource must match one of them.
type matchers []matcher

type matcher struct {
	*search.Matcher
	// decided returns the patients whose data decided that a resource matches. It is nil if the
	// query has no joins.
	decided func(*store.Found) ([]string, error)
}

// matchersOf returns the matchers of _typeFilter for a type, as of the consents of now. Joins
// see only what the client may see.
func (w *walk) matchersOf(ctx context.Context, typ string) (matchers, error) {
	if epoch := w.exporter.epoch.Load(); w.joined && epoch != w.epoch {
		w.epoch = epoch
		clear(w.matchers)
	}
	if m, ok := w.matchers[typ]; ok {
		return m, nil
	}
	var out matchers
	for _, query := range w.job.Filters {
		q, err := parseFilter(query, w.exporter.opts.Base, w.exporter.opts.Search)
		if err != nil {
			return nil, err
		}
		if q.Type != typ {
			continue
		}
		m, err := w.exporter.matcher(ctx, q, w.principal, w.job.Seq)
		if err != nil {
			return nil, err
		}
		w.joined = w.joined || m.decided != nil
		out = append(out, m)
	}
	w.matchers[typ] = out
	return out, nil
}

// matcher returns the matcher of a query at a snapshot.
func (e *Exporter) matcher(ctx context.Context, q *search.Query, p *access.Principal, at store.Seq) (m matcher,
	err error) {
	if search.HasJoins(q.Clauses) {
		if q, m.decided, err = e.opts.Search.FilterJoins(ctx, p, q, at); err != nil {
			return matcher{}, err
		}
	}
	sel, err := search.Select(q)
	if err != nil {
		return matcher{}, err
	}
	m.Matcher = search.NewMatcher(q, sel)
	return m, nil
}

// checkJoins checks at the kick-off that the joins of _typeFilter are permitted and not too
// costly.
func (e *Exporter) checkJoins(ctx context.Context, p *access.Principal, s *spec) error {
	for _, query := range s.Filters {
		q, err := parseFilter(query, e.opts.Base, e.opts.Search)
		if err == nil && search.HasJoins(q.Clauses) {
			_, err = e.matcher(ctx, q, p, e.opts.Store.LastSeq())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// match reports whether a resource matches, and whose data decided that it does.
func (m matchers) match(f *store.Found, body []byte) (ok bool, decided []string, err error) {
	for i := range m {
		if !m[i].Match(body) {
			continue
		}
		if m[i].decided != nil {
			was := *f
			was.Resource.JSON = body
			decided, err = m[i].decided(&was)
		}
		return true, decided, err
	}
	return len(m) == 0, nil, nil
}
