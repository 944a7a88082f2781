package subscription

import (
	"slices"

	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/subscription/topic"
)

// index finds the rules that a change may satisfy without looking at the others: by
// type, then by patient or id, then by the codes of one token condition. A rule is in
// one place for each combination of the values that it is found by. The index belongs to
// the goroutine of Step.
type index struct {
	types map[string]*typeIndex
	// stamp numbers the lookups, so that a rule that is found twice is returned once.
	stamp uint64
}

type typeIndex struct {
	patients, ids  map[string]*bucket
	rest           *bucket
	rules, deletes int // number of rules, and of those that a deletion may fire
}

// bucket holds rules by the codes of one token parameter, and those without one.
type bucket struct {
	tokens map[string]map[string][]*rule // by parameter, then code
	rest   []*rule
}

// maxPlaces bounds the places at which one rule is found. A rule with more values is
// found by fewer conditions.
const maxPlaces = 256

// update adds a rule, or removes it.
func (x *index) update(r *rule, add bool) {
	t := x.types[r.typ]
	if t == nil {
		if !add {
			return
		}
		t = &typeIndex{patients: map[string]*bucket{}, ids: map[string]*bucket{}, rest: &bucket{}}
		x.types[r.typ] = t
	}
	n := -1
	if add {
		n = 1
	}
	t.rules += n
	if r.deletes() {
		t.deletes += n
	}
	patients, ids, param, codes := r.places()
	switch {
	case len(ids) > 0:
		for _, id := range ids {
			place(t.ids, id).update(r, param, codes, add)
			prune(t.ids, id)
		}
	case len(patients) > 0:
		for _, p := range patients {
			place(t.patients, p).update(r, param, codes, add)
			prune(t.patients, p)
		}
	default:
		t.rest.update(r, param, codes, add)
	}
	if t.rules == 0 {
		delete(x.types, r.typ)
	}
}

func place(m map[string]*bucket, key string) *bucket {
	b := m[key]
	if b == nil {
		b = &bucket{}
		m[key] = b
	}
	return b
}

func prune(m map[string]*bucket, key string) {
	if b := m[key]; len(b.rest) == 0 && len(b.tokens) == 0 {
		delete(m, key)
	}
}

func (b *bucket) update(r *rule, param string, codes []string, add bool) {
	without := func(list []*rule) []*rule {
		if add {
			return append(list, r)
		}
		return slices.DeleteFunc(list, func(x *rule) bool { return x == r })
	}
	if param == "" {
		b.rest = without(b.rest)
		return
	}
	if b.tokens == nil {
		b.tokens = map[string]map[string][]*rule{}
	}
	m := b.tokens[param]
	if m == nil {
		m = map[string][]*rule{}
		b.tokens[param] = m
	}
	for _, code := range codes {
		if m[code] = without(m[code]); len(m[code]) == 0 {
			delete(m, code)
		}
	}
	if len(m) == 0 {
		delete(b.tokens, param)
	}
}

// places returns the values by which a rule is found: ids or patients, if it is limited
// to some, and the codes of a token condition, preferably on code.
func (r *rule) places() (patients, ids []string, param string, codes []string) {
	var best *search.Clause
	for _, f := range r.filters {
		if len(f.IDs) > 0 && ids == nil {
			ids = unique(f.IDs)
		}
		if len(f.Patients) > 0 && patients == nil {
			patients = unique(f.Patients)
		}
		for i := range f.Tokens {
			c := &f.Tokens[i]
			if coded(c.Values) && (best == nil || c.Param.Code == "code") {
				best = c
			}
		}
	}
	if best != nil && len(best.Values)*max(1, len(patients), len(ids)) <= maxPlaces {
		param = best.Param.Code
		for _, v := range best.Values {
			codes = append(codes, v.Code)
		}
		codes = unique(codes)
	}
	return patients, ids, param, codes
}

func unique(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// coded reports whether all values have a code ("system|" has none).
func coded(values []search.Value) bool {
	return len(values) > 0 && !slices.ContainsFunc(values, func(v search.Value) bool { return v.Code == "" })
}

// deletes reports whether a deletion may satisfy the rule.
func (r *rule) deletes() bool {
	return r.spec.Topic != nil && slices.ContainsFunc(r.spec.Topic.Triggers, func(t topic.Trigger) bool {
		return t.Resource == r.typ && t.Interactions&topic.Delete != 0
	})
}

// find calls fn once for each rule that a change with these facts may satisfy.
func (x *index) find(facts *access.Facts, fn func(*rule)) {
	t := x.types[facts.Type]
	if t == nil {
		return
	}
	x.stamp++
	each := func(list []*rule) {
		for _, r := range list {
			if r.stamp != x.stamp {
				r.stamp = x.stamp
				fn(r)
			}
		}
	}
	buckets := []*bucket{t.ids[facts.ID], t.rest}
	for _, p := range facts.Patients() {
		buckets = append(buckets, t.patients[p])
	}
	for _, b := range buckets {
		if b == nil {
			continue
		}
		each(b.rest)
		for param, m := range b.tokens {
			for _, have := range facts.Tokens(param) {
				each(m[have.Code])
			}
		}
	}
}
