package subscription

import (
	"net/url"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/subscription/topic"
)

// Filter is one filter criterion: conditions on the resources of one type, all of which
// must hold.
type Filter struct {
	Type string
	// Patients and IDs, if not empty, list the patients to whom the resource must
	// belong, and the ids that it may have.
	Patients, IDs []string
	// Tokens holds the conditions on tokens without a modifier. They need only the facts
	// of a change, and the other Clauses need the resource.
	Tokens, Clauses []search.Clause
	// Triggers, if not empty, lists the trigger codes of which the event must have one.
	Triggers []access.Token
}

const (
	maxFilters      = 20
	maxFilterValues = 100
)

// newFilter sorts clauses by what they need.
func newFilter(typ string, clauses []search.Clause) Filter {
	f := Filter{Type: typ}
	patient, single := search.PatientParam(typ)
	for _, c := range clauses {
		plain := c.Modifier == search.NoModifier && !c.Not
		switch {
		case plain && c.Param.Code == "_id" && len(f.IDs) == 0:
			for _, v := range c.Values {
				f.IDs = append(f.IDs, v.Code)
			}
		case plain && c.Param.Code == patient && single && len(f.Patients) == 0 && onlyPatients(c.Values):
			for _, v := range c.Values {
				f.Patients = append(f.Patients, v.RefID)
			}
		case plain && c.Param.Type == search.TypeToken:
			f.Tokens = append(f.Tokens, c)
		default:
			f.Clauses = append(f.Clauses, c)
		}
	}
	return f
}

func onlyPatients(values []search.Value) bool {
	return !slices.ContainsFunc(values, func(v search.Value) bool { return v.RefType != "Patient" || v.RefID == "" })
}

// parseFilter parses the text of a filter on a topic.
func parseFilter(at, text, base string, t *topic.Topic) (Filter, error) {
	typ, query, ok := strings.Cut(text, "?")
	if !ok || query == "" || !slices.Contains(t.Types(), typ) {
		return Filter{}, refuse(at, "value", "must have the form %s?parameter=value", strings.Join(t.Types(), " or "))
	}
	pairs, err := search.Pairs(query)
	if err != nil {
		return Filter{}, refuse(at, "value", "is not a well-formed query")
	}
	var triggers []access.Token
	seen := map[string]bool{}
	kept := pairs[:0]
	for _, p := range pairs {
		name, modifier, _ := strings.Cut(p[0], ":")
		if !t.MayFilter(typ, name, modifier) {
			return Filter{}, refuse(at, "not-supported", "the topic filters %s by %s only%s", typ,
				strings.Join(t.Parameters(typ), ", "), map[bool]string{true: ", without this modifier"}[modifier != ""])
		}
		if seen[name] || strings.Trim(p[1], ", \t") == "" {
			return Filter{}, refuse(at, "value",
				"each parameter must be given once, with a value; use a second filter for a further condition")
		}
		seen[name] = true
		if strings.Count(p[1], ",") >= maxFilterValues {
			return Filter{}, refuse(at, "too-long", "has more than %d values for one parameter", maxFilterValues)
		}
		if name == topic.TriggerParameter && t.Feed {
			if triggers, err = parseTriggers(at, p[1]); err != nil {
				return Filter{}, err
			}
			continue
		}
		kept = append(kept, p)
	}
	var clauses []search.Clause
	if len(kept) > 0 {
		if clauses, err = topic.Criteria(at, typ, encode(kept), base); err != nil {
			return Filter{}, err
		}
	}
	f := newFilter(typ, clauses)
	f.Triggers = triggers
	for _, id := range append(slices.Clone(f.Patients), f.IDs...) {
		if !fhir.ValidID(id) {
			return Filter{}, refuse(at, "value", "has an id that cannot exist")
		}
	}
	return f, nil
}

// encode encodes the parameters of a query.
func encode(pairs [][2]string) string {
	var b strings.Builder
	for _, p := range pairs {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(p[0]) + "=" + url.QueryEscape(p[1]))
	}
	return b.String()
}

// parseTriggers parses the values of the filter parameter trigger. Each must be a code
// that events can have.
func parseTriggers(at, value string) ([]access.Token, error) {
	var out []access.Token
	all := topic.Codes(topic.Create | topic.Update | topic.Delete)
	for _, v := range strings.Split(value, ",") {
		system, code, bar := strings.Cut(v, "|")
		if !bar {
			system, code = "", v
		}
		known := false
		for _, c := range all {
			known = known || c.Code == code && (!bar || c.System == system)
		}
		if !known {
			return nil, refuse(at, "code-invalid", "trigger must be feed-event, create, update or delete")
		}
		out = append(out, access.Token{System: system, Code: code})
	}
	return out, nil
}

// facts reports whether a change with these facts satisfies the conditions that need no
// more than the facts.
func (f *Filter) facts(facts *access.Facts, by topic.Interaction) bool {
	if len(f.Patients) > 0 && !slices.ContainsFunc(facts.Patients(),
		func(p string) bool { return slices.Contains(f.Patients, p) }) ||
		len(f.IDs) > 0 && !slices.Contains(f.IDs, facts.ID) {
		return false
	}
	if len(f.Triggers) > 0 && !triggered(f.Triggers, by) {
		return false
	}
	for i := range f.Tokens {
		if !matchTokens(f.Tokens[i].Values, facts.Tokens(f.Tokens[i].Param.Code)) {
			return false
		}
	}
	return true
}

func triggered(want []access.Token, by topic.Interaction) bool {
	for _, c := range topic.Codes(by) {
		for _, w := range want {
			if w.Code == c.Code && (w.System == "" || w.System == c.System) {
				return true
			}
		}
	}
	return false
}

// matchTokens compares tokens as package search does.
func matchTokens(want []search.Value, have []access.Token) bool {
	for i := range want {
		w := &want[i]
		for _, h := range have {
			if (w.Code == "" || w.Code == h.Code) && (!w.HasSystem || w.System == h.System) {
				return true
			}
		}
	}
	return false
}

// rule is the conditions of a Subscription for changes of one type: all of its filters
// hold.
type rule struct {
	sub     *sub
	spec    *Spec
	typ     string
	filters []*Filter
	// stamp is the number of the last lookup that found the rule.
	stamp uint64
}

// rules returns the rules of a Subscription. Filters on one type must all hold. If a
// topic is about several types and there are filters, they also select the types.
func (s *Spec) rules(owner *sub) []*rule {
	byType := map[string]*rule{}
	var out []*rule
	add := func(typ string) *rule {
		r := byType[typ]
		if r == nil {
			r = &rule{sub: owner, spec: s, typ: typ}
			byType[typ] = r
			out = append(out, r)
		}
		return r
	}
	for i := range s.Filters {
		r := add(s.Filters[i].Type)
		r.filters = append(r.filters, &s.Filters[i])
	}
	if len(s.Filters) == 0 && s.Topic != nil {
		for _, typ := range s.Topic.Types() {
			add(typ)
		}
	}
	return out
}

// types returns the types that a Subscription notifies of.
func (s *Spec) types() (out []string) {
	for _, r := range s.rules(nil) {
		out = append(out, r.typ)
	}
	return out
}
