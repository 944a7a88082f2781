package interaction

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// scope is the scope of a search: the types, and the compartment if there is one.
type scope struct {
	types []string
	// path is the path of the search below the base URL, without a parameter: "" for a
	// search of several types, "Patient/1/Observation" in a compartment.
	path        string
	interaction string // the code for the audit trail
	several     bool   // the search is one of several types, even if only one is left
	// restrict returns the clauses that limit the search of a type to a compartment. It may
	// be nil.
	restrict func(typ string) ([]search.Clause, error)
	// compartment is the resource whose compartment is searched, or zero.
	compartment fhir.Ref
}

// single returns the type of a search of one type, or "".
func (sc *scope) single() string {
	if sc.several || len(sc.types) != 1 {
		return ""
	}
	return sc.types[0]
}

// place returns the position for a page link: that of the store, and for a search of
// several types the number of the type before it.
func (sc *scope) place(part int, pos search.Position) string {
	if !sc.several {
		return pos
	}
	return strconv.Itoa(part) + ":" + pos
}

// position is the inverse of place.
func (sc *scope) position(after string) (part int, pos search.Position) {
	if !sc.several {
		return 0, after
	}
	n, pos, _ := strings.Cut(after, ":")
	part, err := strconv.Atoi(n)
	if err != nil { // cannot happen: the page link is sealed
		return len(sc.types), ""
	}
	return part, pos
}

// patients returns the patients that the search names.
func (sc *scope) patients(queries []*search.Query) []string {
	var out []string
	for _, q := range queries {
		if q.Patient != "" {
			out = append(out, q.Patient)
		}
	}
	if sc.compartment.Type == "Patient" {
		out = append(out, sc.compartment.ID)
	}
	return out
}

// SearchSystem returns the searchset of a search of several types, GET [base]?_type=A,B.
// The parameters must be ones that all of the types have. Without _type, all types are
// searched that the token covers, except the audit trail. Without _sort, the types follow
// one another, in the order of _type.
func (s *Service) SearchSystem(ctx context.Context, rq *Request, raw string) (*Page, error) {
	return s.searchSystem(ctx, rq, raw, 0)
}

func (s *Service) searchSystem(ctx context.Context, rq *Request, raw string, at store.Seq) (*Page, error) {
	const op = "interaction.SearchSystem"
	sc := scope{interaction: "search-system", several: true}
	rest, err := s.types(rq, op, &sc, raw, fhir.Types)
	if err != nil {
		return nil, s.refuse(ctx, rq, sc.interaction, fhir.Ref{}, err)
	}
	return s.answer(ctx, rq, op, sc, rest, at)
}

// SearchCompartment returns the searchset of a search in a compartment: GET
// [base]/Patient/[id]/[type], with "*" for all types of the compartment. The answer does
// not depend on whether the caller may see the resource whose compartment it is.
func (s *Service) SearchCompartment(ctx context.Context, rq *Request, in fhir.Ref, typ, raw string) (*Page, error) {
	return s.searchCompartment(ctx, rq, in, typ, raw, 0)
}

func (s *Service) searchCompartment(ctx context.Context, rq *Request, in fhir.Ref, typ, raw string, at store.Seq) (
	*Page, error) {
	const op = "interaction.SearchCompartment"
	sc := scope{path: in.String() + "/" + typ, interaction: "search-type", types: []string{typ}, compartment: in}
	var err error
	switch {
	case !hasCompartment(in.Type) || !fhir.ValidID(in.ID):
		err = fhir.Errorf(fhir.NotFound, op, "there is no such compartment")
	case typ == "*":
		sc.several, sc.interaction, sc.types = true, "search-system", nil
		var types []string
		for _, t := range fhir.Types {
			if len(search.Compartment(t)[in.Type]) > 0 || t == in.Type {
				types = append(types, t)
			}
		}
		raw, err = s.types(rq, op, &sc, raw, types)
	case len(search.Compartment(typ)[in.Type]) == 0 && typ != in.Type || !fhir.KnownType(typ):
		err = fhir.Errorf(fhir.NotFound, op, "the compartment of a %s has no resources of this type", in.Type)
	}
	if err != nil {
		return nil, s.refuse(ctx, rq, sc.interaction, fhir.Ref{Type: sc.single()}, err)
	}
	sc.restrict = func(typ string) ([]search.Clause, error) {
		return s.within(op, in, typ, search.Compartment(typ)[in.Type])
	}
	return s.answer(ctx, rq, op, sc, raw, at)
}

// hasCompartment reports whether R4 defines a compartment of the type.
func hasCompartment(typ string) bool {
	switch typ {
	case "Patient", "Practitioner", "RelatedPerson", "Device", "Encounter":
		return true
	}
	return false
}

// within returns the clauses for membership in a compartment: a parameter refers to the
// resource, or the resource is in its own compartment.
func (s *Service) within(op string, in fhir.Ref, typ string, params []string) ([]search.Clause, error) {
	var any [][]search.Clause
	if typ == in.Type { // the resource is in its own compartment
		params = append([]string{"_id"}, params...)
	}
	for _, code := range params {
		p, ok := search.Lookup(typ, code)
		if !ok || !p.Supported() {
			continue
		}
		v := search.Value{RefType: in.Type, RefID: in.ID, Code: s.Base + "/" + in.String()}
		if code == "_id" {
			v = search.Value{Code: in.ID}
		}
		any = append(any, []search.Clause{{Param: p, Values: []search.Value{v}}})
	}
	switch len(any) {
	case 0:
		return nil, fhir.Errorf(fhir.NotFound, op, "the compartment of a %s has no resources of this type", in.Type)
	case 1:
		return any[0], nil
	}
	return []search.Clause{{Param: search.AnyOf, Any: any}}, nil
}

// types reads _type from raw, sets the types of sc, and returns the other parameters.
func (s *Service) types(rq *Request, op string, sc *scope, raw string, all []string) (string, error) {
	if rq.Principal == nil {
		return "", fhir.Errorf(fhir.Unauthorized, op, "an access token is needed")
	}
	var list string
	given := false
	for part := range strings.SplitSeq(raw, "&") {
		pairs, err := search.Pairs(part)
		if err != nil {
			return "", err
		}
		if len(pairs) != 1 || pairs[0][0] != "_type" {
			continue
		}
		if given {
			return "", fhir.Errorf(fhir.Invalid, op, "parameter _type is given more than once; give it once")
		}
		given, list = true, pairs[0][1]
	}
	if !given || strings.Trim(list, ", ") == "" {
		for _, t := range all {
			if t != "AuditEvent" && rq.Principal.Grant.May(access.Search, t) {
				sc.types = append(sc.types, t)
			}
		}
		if len(sc.types) == 0 {
			return "", fhir.Errorf(fhir.Forbidden, op, "the granted scopes cover no search")
		}
		return raw, nil
	}
	for t := range strings.SplitSeq(list, ",") {
		if t == "" {
			continue
		}
		if !slices.Contains(all, t) {
			return "", fhir.Errorf(fhir.Invalid, op,
				"_type must be a comma-separated list of resource types of this server")
		}
		if !slices.Contains(sc.types, t) {
			sc.types = append(sc.types, t)
		}
	}
	return raw, nil
}

// parseScope parses a query string or form for each type.
func (s *Service) parseScope(rq *Request, sc *scope, raw string) ([]*search.Query, *recorded, error) {
	pairs, err := search.Pairs(raw)
	if err != nil {
		return nil, nil, err
	}
	rest := pairs
	if sc.several {
		rest = slices.DeleteFunc(slices.Clone(pairs), func(p [2]string) bool { return p[0] == "_type" })
	}
	var queries []*search.Query
	for _, typ := range sc.types {
		o := s.parseOptions(rq.Lenient)
		o.Joins = true
		if sc.several {
			o.Types = sc.types
		}
		q, err := search.Parse(typ, rest, o)
		if err != nil {
			return nil, nil, err
		}
		if sc.restrict != nil {
			clauses, err := sc.restrict(typ)
			if err != nil {
				return nil, nil, err
			}
			q.Clauses = append(q.Clauses, clauses...)
		}
		queries = append(queries, q)
	}
	q := queries[0]
	if sc.several {
		for _, p := range pairs {
			if p[0] == "_type" {
				q.Applied = append([][2]string{p}, q.Applied...)
			}
		}
	}
	recorded := &recorded{typ: sc.types[0], pairs: pairs, single: q.Patient, base: s.Base, interaction: sc.interaction,
		registry: q.Registry}
	if sc.several {
		recorded.typ, recorded.single = "", ""
		if slices.Contains(sc.types, "AuditEvent") {
			recorded.auditRead = true
		}
	}
	if sc.compartment.Type == "Patient" {
		recorded.compartment, recorded.path = sc.compartment.ID, sc.path
	}
	return queries, recorded, nil
}

// readsAudit reports whether joins search the audit trail.
func readsAudit(clauses []search.Clause) bool {
	return slices.ContainsFunc(clauses, func(c search.Clause) bool {
		return slices.ContainsFunc(c.Any, readsAudit) || slices.ContainsFunc(c.Joins, func(j search.Join) bool {
			return j.Query.Type == "AuditEvent" || readsAudit(j.Query.Clauses)
		})
	})
}
