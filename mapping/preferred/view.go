package preferred

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

var _ interaction.Preferred = (*View)(nil)

// View answers $stats over the preferred sources. It determines them by the same rules as
// the Engine, among the measurements that the caller may see. So it neither uses nor reveals
// a source that is hidden from the caller, and does not lag behind.
type View struct {
	Store  store.Store
	Policy *Policy
}

// request is one call of Values.
type request struct {
	*reader
	concept *Concept
	derived *element.Coding  // set if the preferred values themselves are requested
	codes   []element.Coding // otherwise, the inputs that are requested
	query   *interaction.PreferredQuery
	fn      func(*interaction.Numbers) bool
}

// Values implements interaction.Preferred. If a code is the first code of a concept, or its
// own code, the numbers are the preferred values; if it is one of the inputs, they are the
// measurements of each day's preferred source.
func (v *View) Values(ctx context.Context, q *interaction.PreferredQuery, fn func(*interaction.Numbers) bool) error {
	var list []*request
	for n, code := range q.Codes {
		i, derived := v.Policy.find(code)
		if i < 0 {
			return fhir.Errorf(fhir.Invalid, "interaction.Stats",
				"code %d has no preferred source; leave out preferred, or "+
					"use one of %s", n+1, v.Policy.offered())
		}
		at := slices.IndexFunc(list, func(r *request) bool {
			return r.concept == &v.Policy.Concepts[i] && (r.derived != nil) == (derived != nil)
		})
		if at < 0 {
			at = len(list)
			list = append(list, &request{concept: &v.Policy.Concepts[i], derived: derived, query: q, fn: fn,
				reader: &reader{store: v.Store, policy: v.Policy, filter: q.Filter, at: q.At, patient: q.Patient,
					kinds: map[string]string{}}})
		}
		list[at].codes = append(list[at].codes, code)
	}
	for _, r := range list {
		if more, err := r.run(ctx); err != nil || !more {
			return fhir.Wrap("preferred.Values", err)
		}
	}
	return nil
}

// find returns the concept of a code, and the code of the derived value if it is one.
func (p *Policy) find(code element.Coding) (i int, derived *element.Coding) {
	is := func(c element.Coding) bool {
		return c.Code == code.Code && (code.System == "" || c.System == code.System)
	}
	for i := range p.Concepts {
		c := &p.Concepts[i]
		if len(c.Codes) > 0 && is(c.Codes[0].coding) {
			return i, &c.Codes[0].coding
		}
		if is(c.own) {
			return i, &c.own
		}
	}
	return slices.IndexFunc(p.Concepts, func(c Concept) bool { return slices.ContainsFunc(c.inputs, is) }), nil
}

// offered lists the codes of the concepts.
func (p *Policy) offered() string {
	s := ""
	for i := range p.Concepts {
		if i > 0 {
			s += ", "
		}
		s += p.Concepts[i].Name
	}
	return s
}

// run passes the numbers of one concept on, some days at a time.
func (r *request) run(ctx context.Context) (more bool, err error) {
	first, last, err := r.bounds(ctx)
	if err != nil {
		return false, err
	}
	more = true
	for day := first; day <= last && more; day += chunk {
		end := min(day+chunk-1, last)
		k, err := r.days(ctx, r.concept, day, end)
		if err != nil {
			return false, err
		}
		if r.derived != nil {
			more = r.values(k, day, end)
		} else if more, err = r.inputs(ctx, k, day, end); err != nil {
			return false, err
		}
	}
	return more, nil
}

// bounds returns the first and the last day of the request.
func (r *request) bounds(ctx context.Context) (first, last int64, err error) {
	least, greatest := time.Unix(-200*365*86400, 0), time.Unix(400*365*86400, 0)
	from, to := least, greatest
	if !r.query.From.IsZero() {
		from = r.query.From.Add(-offsets - maxSession)
	}
	if !r.query.To.IsZero() {
		to = r.query.To.Add(offsets + maxSession)
	}
	first, last = math.MaxInt64, math.MinInt64
	add := func(lo, hi int64) { first, last = min(first, lo), max(last, hi) }
	f, err := r.find(r.concept.inputs, from, to)
	if err != nil {
		return 0, 0, err
	}
	doc := func(found *store.Found) bool {
		if m, preferred, ok := read(found.Resource.JSON, "", found.Facts.Vendor); ok && !preferred {
			add(m.span())
		}
		return true
	}
	columnar, ok := r.store.(store.Columnar)
	if !ok {
		return first, last, r.store.Find(ctx, f, doc)
	}
	var failure error
	err = columnar.FindRuns(ctx, f, doc, func(run *store.Run) bool {
		var columns *series.Columns
		if run.Header != nil {
			add(dayOf(time.UnixMicro(run.Header.MinStart).Add(-offsets).UTC()),
				dayOf(time.UnixMilli(run.Header.MaxEnd).Add(offsets).UTC()))
			return true
		}
		if columns, failure = run.Load(); failure != nil {
			return false
		}
		add(dayOf(time.UnixMicro(columns.Start[run.From]).Add(-offsets).UTC()),
			dayOf(time.UnixMicro(columns.Start[run.To-1]).Add(offsets).UTC()))
		return true
	})
	// A header covers its whole block, so that the period limits the days.
	first, last = max(first, dayOf(from.UTC())), min(last, dayOf(to.UTC()))
	return first, last, cmp.Or(err, failure)
}

// values passes the preferred values of some days on.
func (r *request) values(k *collector, first, last int64) (more bool) {
	n := interaction.Numbers{Code: []element.Coding{*r.derived}, From: math.MaxInt64, To: math.MinInt64,
		Unit: interaction.Unit{Text: r.concept.Text, Code: r.concept.Unit}}
	more = true
	add := func(d *derived, from, to time.Time) {
		if !more || d == nil || !r.query.From.IsZero() && !to.After(r.query.From) || !r.query.To.IsZero() &&
			!from.Before(r.query.To) {
			return
		}
		v, err := strconv.ParseFloat(d.value, 64)
		if err != nil {
			return
		}
		if r.query.Each {
			one := n
			one.Values, one.From, one.To = []float64{v}, from.UnixMilli(), to.UnixMilli()
			one.Date = r.concept.Kind != night
			more = r.fn(&one)
			return
		}
		n.Values = append(n.Values, v)
		n.From, n.To = min(n.From, from.UnixMilli()), max(n.To, to.UnixMilli())
	}
	if r.concept.Kind == night {
		for day, list := range k.preferredNights() {
			for _, d := range list {
				if day >= first && day <= last {
					add(d, d.start, d.end)
				}
			}
		}
		slices.Sort(n.Values)
	} else {
		for day := first; day <= last; day++ {
			add(k.choose(day, nil), time.Unix(day*86400, 0), time.Unix((day+1)*86400, 0))
		}
	}
	return more && (len(n.Values) == 0 || r.fn(&n))
}

// inputs passes the measurements of each day's preferred source on.
func (r *request) inputs(ctx context.Context, k *collector, first, last int64) (more bool, err error) {
	winners := map[int64]source{}
	for day := first; day <= last; day++ {
		if d := k.choose(day, nil); d != nil {
			winners[day] = d.source
		}
	}
	codes := r.requested()
	from, to := window(first, last)
	var dates []string
	if !r.query.From.IsZero() {
		dates = append(dates, "ge"+r.query.From.UTC().Format(fhir.InstantLayout))
	}
	if !r.query.To.IsZero() {
		dates = append(dates, "lt"+r.query.To.UTC().Format(fhir.InstantLayout))
	}
	f, err := r.find(codes, from, to, dates...)
	if err != nil {
		return false, err
	}
	groups := map[interaction.Unit]*interaction.Numbers{}
	more = true
	err = r.eachOf(ctx, f, func(m *measurement) {
		day, _ := k.place(m)
		if w, ok := winners[day]; !more || !ok || w != m.source || m.status == statusRetracted ||
			!r.concept.accepts(m.unit) {
			return
		}
		unit := interaction.Unit{Code: m.unit}
		n := groups[unit]
		if n == nil {
			n = &interaction.Numbers{Code: matching(m.codes, codes), Unit: unit, From: math.MaxInt64, To: math.MinInt64}
			groups[unit] = n
		}
		if r.query.Each {
			n.Values, n.From, n.To = append(n.Values[:0], m.value), m.start.UnixMilli(), m.end.UnixMilli()
			n.Date = m.date
			more = r.fn(n)
			return
		}
		n.Values = append(n.Values, m.value)
		n.From, n.To = min(n.From, m.start.UnixMilli()), max(n.To, m.end.UnixMilli())
	})
	if err != nil || r.query.Each {
		return more, err
	}
	for _, n := range groups {
		if !r.fn(n) {
			return false, nil
		}
	}
	return true, nil
}

// requested returns the requested inputs with their systems.
func (r *request) requested() (out []element.Coding) {
	for _, in := range r.concept.inputs {
		if slices.ContainsFunc(r.codes, func(c element.Coding) bool {
			return c.Code == in.Code && (c.System == "" || c.System == in.System)
		}) {
			out = append(out, in)
		}
	}
	return out
}

// matching returns the codings of have that are in want.
func matching(have, want []element.Coding) (out []element.Coding) {
	for _, c := range have {
		if hasCode(want, c) {
			out = append(out, c)
		}
	}
	return out
}
