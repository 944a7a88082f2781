package subscription

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription/topic"
)

// change is one change of the log, with what the rules have needed of it so far. It
// belongs to the goroutine of Step.
type change struct {
	*store.Change
	by topic.Interaction
	// facts describes the current version, or the previous one if the change is a
	// deletion: what was deleted decides who is told.
	facts *access.Facts

	store             store.Store
	extractor         search.Extractor
	terminology       fhirpath.Terminology // may be nil
	previous, current *topic.Version       // nil until they are read
	fired             map[*topic.Trigger]bool
}

// newChange returns a change to be matched, or nil if a deletion has no previous version.
func (f *follower) newChange(ctx context.Context, c *store.Change) (*change, error) {
	x := &change{Change: c, by: topic.Update, facts: &c.Facts, store: f.opts.Store,
		extractor: search.Extractor{Base: f.opts.Base}, terminology: f.opts.Terminology}
	switch {
	case c.Deleted:
		x.by = topic.Delete
		if c.Version < 2 {
			return nil, nil
		}
		res, facts, err := f.opts.Store.ReadVersion(ctx, c.Ref, c.Version-1)
		if err != nil || res.Deleted || facts == nil {
			return nil, ignoreMissing(err)
		}
		x.facts, x.previous = facts, &topic.Version{JSON: res.JSON, Time: res.LastUpdated}
	case c.Created:
		x.by = topic.Create
	}
	return x, nil
}

// ignoreMissing returns err unless it says that there is no such version.
func ignoreMissing(err error) error {
	if fhir.KindOf(err) == fhir.NotFound {
		return nil
	}
	return err
}

// versions reads the versions before and after the change.
func (c *change) versions(ctx context.Context) (previous, current *topic.Version, err error) {
	if c.previous == nil {
		c.previous = &topic.Version{}
		if c.by == topic.Update && c.Version > 1 {
			if c.previous, err = c.version(ctx, c.Version-1); err != nil {
				return nil, nil, err
			}
		}
	}
	if c.current == nil {
		if c.current, err = c.version(ctx, c.Version); err != nil {
			return nil, nil, err
		}
	}
	return c.previous, c.current, nil
}

func (c *change) version(ctx context.Context, n uint64) (*topic.Version, error) {
	res, _, err := c.store.ReadVersion(ctx, c.Ref, n)
	if err != nil {
		return &topic.Version{}, ignoreMissing(err)
	}
	v := &topic.Version{Time: res.LastUpdated}
	if !res.Deleted {
		v.JSON = res.JSON
	}
	return v, nil
}

// matches reports whether the change satisfies a rule. The cheapest conditions come
// first.
func (c *change) matches(ctx context.Context, r *rule) (bool, error) {
	more := false
	for _, f := range r.filters {
		if !f.facts(c.facts, c.by) {
			return false, nil
		}
		more = more || len(f.Clauses) > 0
	}
	if ok, err := c.fires(ctx, r); err != nil || !ok {
		return false, err
	}
	if !more {
		return true, nil
	}
	previous, current, err := c.versions(ctx)
	if err != nil {
		return false, err
	}
	if c.by == topic.Delete {
		current = previous
	}
	values := current.Values(c.extractor, r.typ)
	if values == nil {
		return false, nil
	}
	for _, f := range r.filters {
		if !topic.Match(f.Clauses, values) {
			return false, nil
		}
	}
	return true, nil
}

// fires reports whether a trigger of the topic fires. R4 criteria have none: they are
// about every created and updated resource.
func (c *change) fires(ctx context.Context, r *rule) (bool, error) {
	if r.spec.Topic == nil {
		return c.by != topic.Delete, nil
	}
	for i := range r.spec.Topic.Triggers {
		t := &r.spec.Topic.Triggers[i]
		if t.Resource != r.typ || t.Interactions&c.by == 0 {
			continue
		}
		if t.Bare() {
			return true, nil
		}
		fired, known := c.fired[t]
		if !known {
			previous, current, err := c.versions(ctx)
			if err != nil {
				return false, err
			}
			fired, err = t.Fires(ctx, c.by, previous, current, c.terminology)
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if err != nil {
				fired = false // see package topic
			}
			if c.fired == nil {
				c.fired = map[*topic.Trigger]bool{}
			}
			c.fired[t] = fired
		}
		if fired {
			return true, nil
		}
	}
	return false, nil
}

// change numbers a change for every Subscription that it matches. index is the index of
// the change within its commit.
func (st *stepState) change(ctx context.Context, c *store.Change, index uint64) error {
	f := st.follower
	t := f.index.types[c.Ref.Type]
	if t == nil || c.Deleted && t.deletes == 0 {
		return nil
	}
	x, err := f.newChange(ctx, c)
	if err != nil || x == nil {
		return err
	}
	f.index.find(x.facts, func(r *rule) {
		f.evaluations++
		s := r.sub
		if err != nil || c.Seq <= s.skip {
			return
		}
		var ok bool
		if ok, err = x.matches(ctx, r); err != nil || !ok {
			return
		}
		g := st.grant(ctx, s.owner)
		if g.May(access.Read, c.Ref.Type) && g.Filter(access.Read).Allow(x.facts) {
			st.number(s, c, index)
		}
	})
	return err
}

// number gives the next number of a Subscription to a change.
func (st *stepState) number(s *sub, c *store.Change, index uint64) {
	if st.countOnly(s) {
		st.counted[s.id]++
		return
	}
	st.numbered[s.id]++
	r := st.runs[s.id]
	if r == nil || !r.follows(c.Seq, index) {
		st.finish(s.id)
		r = &run{event: event{Number: s.events + st.numbered[s.id], At: st.follower.opts.Clock().UTC()}, Seq: c.Seq,
			Index: index}
		st.runs[s.id] = r
	}
	r.add(c)
}

// reindex replaces the rules of a Subscription in the index.
func (f *follower) reindex(s *sub, spec *Spec, status string) {
	for _, r := range s.rules {
		f.index.update(r, false)
	}
	s.rules = nil
	if spec == nil || status == "off" {
		return
	}
	s.rules = spec.rules(s)
	for _, r := range s.rules {
		f.index.update(r, true)
	}
}
