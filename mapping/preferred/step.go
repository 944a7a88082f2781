package preferred

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// Sizes of a step.
const (
	// stepSize is the number of changes after which a step ends.
	stepSize = 2000
	// maxDue is the number of separate periods after which a step ends.
	maxDue = 10_000
	// chunk is the number of days of a concept that are read together.
	chunk = 31
	// batchSize is the number of values after which a step commits.
	batchSize = 128
)

// dueKey names the values of one concept and patient.
type dueKey struct {
	patient string
	concept int
}

// days is an interval of days since 1970, ends included.
type days [2]int64

// step is one step of the follower.
type step struct {
	follower *follower
	to       store.Seq
	due      map[dueKey][]days
	count    int // of periods
	byType   map[series.Identity][]int
	writes   []write
	state    []store.StateWrite // committed with writes
	over     []store.StateWrite // deletes the days and nights that are over, in the last commit
}

// step processes about stepSize changes, and the days and nights that are over. All values
// are committed before the cursor, so that an interrupted step is repeated with the same
// result.
func (f *follower) step(ctx context.Context) (more bool, err error) {
	st := &step{follower: f, due: map[dueKey][]days{}, byType: map[series.Identity][]int{}}
	if err := st.ended(ctx); err != nil {
		return false, err
	}
	if more, err = st.changes(ctx); err != nil {
		return false, err
	}
	keys := slices.SortedFunc(maps.Keys(st.due), func(a, b dueKey) int {
		return cmp.Or(cmp.Compare(a.patient, b.patient), cmp.Compare(a.concept, b.concept))
	})
	for _, k := range keys {
		if err := st.concept(ctx, k, st.due[k]); err != nil {
			return false, err
		}
	}
	to := max(st.to, f.cursor)
	if len(st.writes)+len(st.state)+len(st.over) > 0 || f.durable.Due(to) {
		st.state = append(append(st.state, st.over...), f.durable.Write(to))
		if err := st.commit(ctx); err != nil {
			return false, err
		}
		f.durable.Saved = to
	}
	f.cursor = to
	return more, nil
}

// add marks some days of a concept.
func (st *step) add(patient string, concept int, first, last int64) {
	k := dueKey{patient, concept}
	list := st.due[k]
	if n := len(list); n > 0 && first >= list[n-1][0] && first <= list[n-1][1]+1 {
		list[n-1][1] = max(list[n-1][1], last)
		return
	}
	st.count++
	st.due[k] = append(list, days{first, last})
}

// merge joins periods that overlap or follow each other.
func merge(list []days) (out []days) {
	slices.SortFunc(list, func(a, b days) int { return cmp.Compare(a[0], b[0]) })
	for _, d := range list {
		if n := len(out); n > 0 && d[0] <= out[n-1][1]+1 {
			out[n-1][1] = max(out[n-1][1], d[1])
			continue
		}
		out = append(out, d)
	}
	return out
}

// ended marks the days and nights that are over.
func (st *step) ended(ctx context.Context) error {
	now := st.follower.opts.Clock().Unix()
	err := st.follower.opts.Store.List(ctx, openPrefix, func(key string, _ []byte) bool {
		o, ok := parseOpen(key)
		if ok && o.closes > now || len(st.over) >= stepSize {
			return false
		}
		st.over = append(st.over, store.StateWrite{Key: strings.Clone(key)})
		i := slices.IndexFunc(st.follower.opts.Policy.Concepts, func(c Concept) bool { return c.Name == o.concept })
		if ok && i >= 0 {
			st.add(o.patient, i, o.day, o.day)
		}
		return true
	})
	return fhir.Wrap("preferred.ended", err)
}

// changes marks the days of the changes after the cursor.
func (st *step) changes(ctx context.Context) (more bool, err error) {
	f := st.follower
	n, pace := 0, yield.Counter{Every: 128}
	var bad error
	each := f.opts.Store.Changes
	if s, ok := f.opts.Store.(store.Columnar); ok {
		each = s.ChangesBrief
	}
	err = each(ctx, f.cursor, func(c *store.Change) bool {
		// Process commits whole, because the cursor cannot point inside one.
		if (n >= stepSize || st.count >= maxDue) && c.Seq != st.to {
			more = true
			return false
		}
		n++
		pace.Add(1)
		st.to = c.Seq
		switch {
		case c.Samples != nil:
			bad = st.samples(c.Samples)
		case c.Ref.Type == "Observation":
			bad = st.observation(ctx, c)
		}
		return bad == nil
	})
	return more, fhir.Wrap("preferred.changes", cmp.Or(bad, err))
}

// samples marks the days of samples of a series.
func (st *step) samples(run *store.SampleChange) error {
	t, err := run.Template()
	if err != nil {
		return err
	}
	concepts, known := st.byType[t.Identity]
	if !known {
		s := series.Sample{Start: run.First, End: series.NoEnd}
		if m, ok := specimen(t, s); ok {
			concepts = st.follower.opts.Policy.conceptsOf(m.codes)
		}
		st.byType[t.Identity] = concepts
	}
	if len(concepts) == 0 {
		return nil
	}
	first := dayOf(time.UnixMicro(run.First).Add(-offsets).UTC())
	last := dayOf(time.UnixMicro(run.Last).Add(offsets).UTC())
	for _, i := range concepts {
		st.add(t.Patient, i, first, last)
	}
	return nil
}

// conceptsOf returns the indexes of the concepts of which one of the codes is an input.
func (p *Policy) conceptsOf(codes []element.Coding) (out []int) {
	for _, c := range codes {
		for _, i := range p.byInput[element.Coding{System: c.System, Code: c.Code}] {
			if !slices.Contains(out, i) {
				out = append(out, i)
			}
		}
	}
	return out
}

// observation marks the days of a document: those of the new version and of the one
// before. The follower's own writes change nothing.
func (st *step) observation(ctx context.Context, c *store.Change) error {
	if c.Facts.Vendor == "" && c.Version == 1 {
		return nil // a client has written it
	}
	if !c.Deleted {
		for _, t := range c.Facts.Tokens("_tag") {
			if t == (access.Token{System: measures, Code: Tag}) {
				return nil
			}
		}
		input := false
		for _, t := range c.Facts.Tokens("code") {
			input = input || len(st.follower.opts.Policy.byInput[element.Coding{System: t.System, Code: t.Code}]) > 0
		}
		if !input && c.Version == 1 {
			return nil
		}
		if err := st.version(ctx, c.Ref, c.Version); err != nil {
			return err
		}
	}
	if c.Version > 1 {
		return st.version(ctx, c.Ref, c.Version-1)
	}
	return nil
}

// version marks the days of one version of an Observation.
func (st *step) version(ctx context.Context, ref fhir.Ref, version uint64) error {
	res, facts, err := st.follower.opts.Store.ReadVersion(ctx, ref, version)
	if fhir.KindOf(err) == fhir.NotFound {
		return nil
	}
	if err != nil || res.Deleted || facts.Patient == "" {
		return err
	}
	p := st.follower.opts.Policy
	m, preferred, ok := read(res.JSON, ref.ID, facts.Vendor)
	if preferred { // it was deleted
		if i, day, ok := p.timing(res.JSON); ok {
			st.add(facts.Patient, i, day, day)
		}
		return nil
	}
	if !ok {
		return nil
	}
	first, last := m.span()
	for _, i := range p.conceptsOf(m.codes) {
		st.add(facts.Patient, i, first, last)
		if p.Concepts[i].Kind != night {
			continue
		}
		for j := range p.Concepts { // values of nights depend on the nights
			if p.Concepts[j].Kind == nightValue {
				st.add(facts.Patient, j, first, last)
			}
		}
	}
	return nil
}

// concept determines the values of a concept on some days again.
func (st *step) concept(ctx context.Context, k dueKey, periods []days) error {
	f := st.follower
	r := &reader{store: f.opts.Store, policy: f.opts.Policy, filter: access.All().Filter(access.Search),
		patient: k.patient, kinds: map[string]string{}}
	var zone *time.Location
	if f.opts.Zone != nil {
		var err error
		if zone, err = f.opts.Zone(ctx, k.patient); err != nil && fhir.KindOf(err) != fhir.NotFound {
			return err
		}
	}
	c := &f.opts.Policy.Concepts[k.concept]
	if c.Kind == night || c.Kind == nightValue {
		for i := range periods { // sessions of a night may move it to another day
			periods[i][0] -= 2
			periods[i][1] += 2
		}
	}
	for _, p := range merge(periods) {
		for first := p[0]; first <= p[1]; first += chunk {
			last := min(first+chunk-1, p[1])
			if err := st.chunk(ctx, r, c, zone, first, last); err != nil {
				return err
			}
			if len(st.writes) >= batchSize {
				if err := st.commit(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// chunk determines the values of some days.
func (st *step) chunk(ctx context.Context, r *reader, c *Concept, zone *time.Location, first, last int64) error {
	r.at = r.store.LastSeq()
	k, err := r.days(ctx, c, first, last)
	if err != nil {
		return err
	}
	var nights map[int64][]*derived
	if c.Kind == night {
		nights = k.preferredNights()
	}
	for day := first; day <= last; day++ {
		if c.Kind != night {
			if err := st.value(ctx, r, k, day, 0, k.choose(day, zone)); err != nil {
				return err
			}
			continue
		}
		list := nights[day]
		for i, d := range list {
			if err := st.value(ctx, r, k, day, i+1, d); err != nil {
				return err
			}
		}
		for nth := len(list) + 1; ; nth++ {
			stored, err := st.stored(ctx, r, c, day, nth)
			if err != nil {
				return err
			}
			if stored.Version == 0 {
				break
			}
			if err := st.value(ctx, r, k, day, nth, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
