package search

import (
	"slices"
	"strings"

	"pulsegate/fhir"
)

// maxIncludes bounds the _include and _revinclude of a search.
const maxIncludes = 16

// include parses _include. R4 search.html#include: the
// value is Type:parameter[:Target], the parameter may be "*", and _include may be "*"
// alone.
func (ps *parser) include(mod, value string) error {
	const name = "_include"
	iterate, err := iterates(name, mod)
	if err != nil {
		return err
	}
	if value == "*" {
		value = ps.query.Type + ":*"
	}
	in, err := ps.included(name, value)
	if err != nil {
		return err
	}
	if !iterate && in.Source != ps.query.Type {
		if slices.Contains(ps.opts.Types, in.Source) {
			return nil
		}
		return errUnsupported("the source type of _include must be %s; for another type use _include:iterate",
			ps.query.Type)
	}
	in.Iterate = iterate
	ps.query.Includes = append(ps.query.Includes, in)
	return nil
}

func iterates(name, mod string) (bool, error) {
	if mod != "" && mod != "iterate" && mod != "recurse" {
		return false, errUnknown("%s takes only the modifier iterate", name)
	}
	return mod != "", nil
}

// included parses Type:parameter[:Target].
func (ps *parser) included(name, value string) (in Include, err error) {
	f := strings.Split(value, ":")
	if len(f) < 2 || len(f) > 3 {
		return in, errUnsupported("%s must be Type:parameter, Type:parameter:Target or Type:*", name)
	}
	in = Include{Source: f[0], Param: f[1]}
	if len(f) == 3 {
		in.Target = f[2]
	}
	if ps.opts.Registry.of(in.Source) == nil {
		return in, errUnsupported("%s does not name a resource type of this server", name)
	}
	if len(ps.query.Includes)+len(ps.query.RevIncludes) >= maxIncludes {
		return in, fhir.Errorf(fhir.Invalid, op, "_include and _revinclude are given more than %d times", maxIncludes)
	}
	if in.Target != "" && !isName(in.Target) {
		return in, badValue(name, "Type:parameter:Target with the name of a type")
	}
	if in.Param == "*" {
		return in, nil
	}
	p, ok := ps.opts.Registry.Lookup(in.Source, in.Param)
	if !ok || p.Type != TypeReference || !p.Supported() {
		return in, errUnsupported("%s does not name a reference parameter; %s has %s", name, in.Source,
			strings.Join(ps.codes(in.Source, TypeReference), ", "))
	}
	if in.Target != "" && len(p.Targets) > 0 && !slices.Contains(p.Targets, in.Target) {
		return in, badValue(name, "Type:parameter:Target with a target type that "+in.Param+" may refer to")
	}
	return in, nil
}

// revinclude parses _revinclude. With the modifier iterate it may refer to included
// resources of other types. A search of all types for references to a page is not
// offered: R4 leaves "*" alone to the server.
func (ps *parser) revinclude(mod, value string) error {
	const name = "_revinclude"
	if !ps.opts.Joins {
		return errUnsupported("parameter %s is not supported here", name)
	}
	iterate, err := iterates(name, mod)
	if err != nil {
		return err
	}
	in, err := ps.included(name, value)
	if err != nil {
		return err
	}
	in.Iterate = iterate
	if !iterate && !ps.refersTo(in, ps.query.Type) {
		if len(ps.opts.Types) > 0 {
			return nil
		}
		return badValue(name, "Type:parameter with a parameter that may refer to "+ps.query.Type)
	}
	ps.query.RevIncludes = append(ps.query.RevIncludes, in)
	return nil
}

// refersTo reports whether in.Param of in.Source may refer to a type.
func (ps *parser) refersTo(in Include, typ string) bool {
	if in.Target != "" && in.Target != typ {
		return false
	}
	for _, p := range ps.opts.Registry.Params(in.Source) {
		if (p.Code == in.Param || in.Param == "*") && p.RefersTo(typ) {
			return true
		}
	}
	return false
}

// RefersTo reports whether p is a supported reference parameter that may refer to a type.
func (p *Param) RefersTo(typ string) bool {
	return p.Type == TypeReference && p.Supported() && (len(p.Targets) == 0 || slices.Contains(p.Targets, typ))
}
