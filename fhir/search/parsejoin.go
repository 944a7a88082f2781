package search

import (
	"slices"
	"strings"

	"pulsegate/fhir"
)

// A join is a search of another type inside of a search: a chained parameter
// (search.html#chaining), _has (search.html#has) or _list (search.html#list). The parser
// only parses; fhir/interaction evaluates joins, from the innermost.

// inner returns the parser of a query on another type inside of a join.
func (ps *parser) inner(typ string) *parser {
	return &parser{opts: ps.opts, query: &Query{Type: typ, Registry: ps.query.Registry, Count: -1}, at: ps.at,
		hops: ps.hops + 1, bounds: ps.bounds}
}

// join checks that another join is allowed.
func (ps *parser) join(name string) error {
	if !ps.opts.Joins {
		return errUnsupported("chained parameters such as %s, _has and _list are not supported here; search in several steps instead",
			safeName(name))
	}
	if ps.hops >= maxHops {
		return fhir.Errorf(fhir.Invalid, op, "parameter %s is nested more than %d deep", safeName(name), maxHops)
	}
	if ps.joins++; ps.joins > maxJoins {
		return fhir.Errorf(fhir.TooCostly, op,
			"the chained parameters take more than %d searches; name the types, as in subject:Patient.name", maxJoins)
	}
	return nil
}

// chain parses a chained parameter: reference[:Type].parameter[:modifier], where the
// parameter may be chained itself.
func (ps *parser) chain(name, value string) (Clause, error) {
	first, rest, _ := strings.Cut(name, ".")
	return ps.joined(first, rest, func(in *parser) error { return in.clause(rest, value) })
}

// joined returns the clause of a chained parameter that begins with first and goes on
// with rest. Without a type, the rest is searched in each type that the reference may
// have and that has the parameter. The function parse adds the clauses to the query of a
// type.
func (ps *parser) joined(first, rest string, parse func(in *parser) error) (Clause, error) {
	if !ps.opts.Joins {
		return Clause{}, ps.join(first)
	}
	code, target, typed := strings.Cut(first, ":")
	p, types, err := ps.chainable(code, target, typed)
	if err != nil {
		return Clause{}, err
	}
	c := Clause{Param: p}
	explicit := len(types) == 1 // then an error is about this type
	var last error
	for _, t := range types {
		in := ps.inner(t)
		if ps.opts.Registry.of(t) == nil || !explicit && !in.defines(rest) {
			continue
		}
		if err := ps.join(first); err != nil {
			return Clause{}, err
		}
		if last = parse(in); last != nil {
			if _, dropped := last.(*unknown); dropped && !explicit {
				continue
			}
			return Clause{}, inside(p.Code, last)
		}
		c.Joins = append(c.Joins, Join{Query: in.query, Name: chainName(p, t, typed)})
	}
	if len(c.Joins) == 0 {
		if last != nil {
			return Clause{}, inside(p.Code, last)
		}
		return Clause{}, errUnknown("no type that parameter %s may refer to has the parameter that is chained to it", p.Code)
	}
	return c, nil
}

// chainable returns a reference parameter and the types that it may refer to.
func (ps *parser) chainable(code, target string, typed bool) (*Param, []string, error) {
	p, err := ps.param(code)
	if err != nil {
		return nil, nil, err
	}
	if p.Type != TypeReference {
		return nil, nil, errUnknown("parameter %s is not a reference and cannot be chained", p.Code)
	}
	switch {
	case !typed && len(p.Targets) == 0:
		return p, fhir.Types, nil
	case !typed:
		return p, p.Targets, nil
	case len(p.Targets) > 0 && !slices.Contains(p.Targets, target) || ps.opts.Registry.of(target) == nil:
		return nil, nil, errUnknown("parameter %s cannot refer to that type; use one of %s", p.Code,
			strings.Join(p.Targets, ", "))
	}
	return p, []string{target}, nil
}

// inside prefixes an error about what is chained to a parameter with the parameter.
func inside(name string, err error) error {
	e, _ := err.(*fhir.Error)
	u, dropped := err.(*unknown)
	if dropped {
		e = u.err
	}
	if e == nil || len(e.Issues) == 0 {
		return err
	}
	out := *e
	out.Issues = slices.Clone(e.Issues)
	out.Issues[0].Diagnostics = name + ": " + out.Issues[0].Diagnostics
	if dropped {
		return &unknown{&out}
	}
	return &out
}

func chainName(p *Param, typ string, typed bool) string {
	if typed {
		return p.Code + ":" + typ
	}
	return p.Code
}

// defines reports whether the type has the parameter with which a chain goes on.
func (ps *parser) defines(name string) bool {
	if strings.HasPrefix(name, "_has:") {
		return true
	}
	code, _, _ := strings.Cut(name, ".")
	code, _, _ = strings.Cut(code, ":")
	p, ok := ps.opts.Registry.Lookup(ps.query.Type, code)
	return ok && p.Supported()
}

// has parses _has:Type:reference:parameter, where the parameter may be chained or
// another _has.
func (ps *parser) has(name, value string) (Clause, error) {
	f := strings.SplitN(name, ":", 4)
	if len(f) != 4 || f[3] == "" {
		return Clause{}, errUnknown("_has must be _has:Type:reference:parameter")
	}
	if err := ps.join("_has"); err != nil {
		return Clause{}, err
	}
	typ, code, rest := f[1], f[2], f[3]
	if ps.opts.Registry.of(typ) == nil {
		return Clause{}, errUnsupported("_has does not name a resource type of this server")
	}
	p, ok := ps.opts.Registry.Lookup(typ, code)
	if !ok || !p.RefersTo(ps.query.Type) {
		return Clause{}, errUnknown("_has:%s must name a reference parameter of %s that may refer to %s", typ, typ,
			ps.query.Type)
	}
	id, err := ps.param("_id")
	if err != nil {
		return Clause{}, err
	}
	in := ps.inner(typ)
	if err := in.clause(rest, value); err != nil {
		return Clause{}, inside("_has:"+typ+":"+p.Code, err)
	}
	return Clause{Param: id, Joins: []Join{{Query: in.query, Reverse: p, Name: "_has:" + typ + ":" + p.Code}}}, nil
}

// list parses _list=id. The named lists of R4, such as $current-medications, are not
// offered: this server keeps no such lists.
func (ps *parser) list(value string) (Clause, error) {
	if err := ps.join("_list"); err != nil {
		return Clause{}, err
	}
	if ps.opts.Registry.of("List") == nil {
		return Clause{}, errUnsupported("parameter _list is not supported: this server stores no Lists")
	}
	id, err := ps.param("_id")
	if err != nil {
		return Clause{}, err
	}
	if strings.HasPrefix(value, "$") {
		return Clause{}, errUnsupported("_list takes the id of a List; this server has no functional lists")
	}
	in := ps.inner("List")
	ids := split(value, ',')
	if len(ids) > maxValues {
		return Clause{}, fhir.Errorf(fhir.Invalid, op, "parameter _list has more than %d values", maxValues)
	}
	for i, s := range ids {
		if ids[i] = strings.TrimPrefix(s, "List/"); !fhir.ValidID(ids[i]) {
			return Clause{}, badValue("_list", "the id of a List")
		}
	}
	if err := in.clause("_id", strings.Join(ids, ",")); err != nil {
		return Clause{}, err
	}
	return Clause{Param: id, Joins: []Join{{Query: in.query, List: true, Name: "_list"}}}, nil
}
