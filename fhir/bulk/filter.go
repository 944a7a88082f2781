package bulk

import (
	"regexp"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/search"
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
// _typeFilter, and the parameters that select across resources, which are not supported
// there.
var resultParams = []string{"_sort", "_count", "_include", "_revinclude", "_summary", "_total", "_elements",
	"_contained", "_containedType", "_score", "_format", "_pretty", "_has", "_list", "_type", "_text", "_content",
	"_query", "_filter"} // read only

// parseFilter parses a query of _typeFilter. The error names no part of the value but the
// type and the parameters of R4.
func parseFilter(query string, o search.ParseOptions) (*search.Query, error) {
	const op = "bulk.KickOff"
	typ, raw, ok := strings.Cut(query, "?")
	typ = strings.TrimPrefix(strings.TrimPrefix(typ, o.Base), "/")
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
		if strings.Contains(p[0], ".") {
			return nil, fhir.Errorf(fhir.Invalid, op, "chained parameters are not supported in _typeFilter")
		}
	}
	q, err := search.Parse(typ, pairs, o)
	if err != nil {
		return nil, err
	}
	for i := range q.Clauses {
		if q.Clauses[i].Modifier > search.ModIdentifier {
			return nil, fhir.Errorf(fhir.Invalid, op, "a modifier is not supported in _typeFilter")
		}
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
		q, err := parseFilter(query, c.parse)
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
type matchers []*search.Matcher

// matchersOf returns the matchers of _typeFilter by type.
func (s *spec) matchersOf(o search.ParseOptions) (map[string]matchers, error) {
	out := map[string]matchers{}
	for _, query := range s.Filters {
		q, err := parseFilter(query, o)
		if err != nil {
			return nil, err
		}
		sel, err := search.Select(q)
		if err != nil {
			return nil, err
		}
		out[q.Type] = append(out[q.Type], search.NewMatcher(q, sel))
	}
	return out, nil
}

func (m matchers) match(json []byte) bool {
	return len(m) == 0 || slices.ContainsFunc(m, func(m *search.Matcher) bool { return m.Match(json) })
}
