package interaction

import (
	"context"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/calendar"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// maxBuckets bounds the Observations of an answer of $time-buckets.
const maxBuckets = 20_000

// TimeBuckets implements Observation/$time-buckets. It returns a Bundle with one
// Observation per code, unit and bucket of time that has measurements, in order of time.
// Its parameters are
//
//	subject    reference to the Patient
//	code, system, coding
//	           codes, as in $stats
//	calendar   hour, day, week, month or year: buckets of a time zone (package calendar)
//	minutes    instead of calendar: buckets of this length in UTC, counted from 1970
//	zone       IANA time zone of calendar; the one of the Patient resource by default
//	start, end the range of the measurements; a date is a day of the zone
//	statistic  some of count, minimum, maximum, average and sum; all by default
//	device     restricts the measurements to one Device
//	preferred  restricts the measurements of each day to the preferred source, as in $stats
//
// A measurement belongs to the bucket in which it begins. One of a date without a time,
// such as the steps of a day, belongs to the bucket of that date, whatever the zone, and to
// none that is shorter. Only numbers in a UCUM unit count. The period of a bucket is cut to
// the requested range.
func (s *Service) TimeBuckets(ctx context.Context, rq *Request, ps []Parameter) (*Page, error) {
	page, patient, matched, err := s.timeBuckets(ctx, rq, ps)
	if err != nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: "Observation"}, err)
	}
	recorded := s.recordedOf(rq, ps, patient)
	if err := s.disclose(ctx, rq, recorded.events(rq, map[string]bool{patient: matched})...); err != nil {
		return nil, err
	}
	return page, nil
}

func (s *Service) timeBuckets(ctx context.Context, rq *Request, ps []Parameter) (*Page, string, bool, error) {
	const op = "interaction.TimeBuckets"
	if err := rq.may(op, access.Search, "Observation"); err != nil {
		return nil, "", false, err
	}
	a, err := s.readBuckets(ps)
	if err != nil {
		return nil, "", false, err
	}
	find := store.Find{Filter: rq.filter(access.Search), At: s.Store.LastSeq()}
	if find.Query, err = a.find(s); err != nil {
		return nil, "", false, err
	}
	if err := s.locate(ctx, rq, a, find); err != nil {
		return nil, "", false, err
	}
	if find.Query, err = a.find(s); err != nil {
		return nil, "", false, err
	}
	b := newBucketing(a)
	if a.preferred {
		err = s.Preferred.Values(ctx, &PreferredQuery{Patient: a.patient, Codes: a.codes, From: a.from, To: a.to,
			Filter: find.Filter, At: find.At, Each: true}, b.preferred)
	} else {
		err = b.collect(ctx, s.Store, find)
	}
	if err == nil {
		err = b.err
	}
	if err != nil {
		return nil, "", false, err
	}
	page := &Page{}
	if err := b.write(page, rq.pageBytes(s.Limits.withDefaults())); err != nil {
		return nil, "", false, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, "", false, err
	}
	self := s.Base + "/Observation/$time-buckets?" + FormatParameters(ps)
	page.open(id, "collection", s.Clock(), -1, []link{{"self", self}})
	return page, a.patient, b.count > 0, nil
}

// dateSlack is the greatest difference between the beginning of a date in a zone and in
// UTC, with room to spare.
const dateSlack = 24 * time.Hour

// find returns the search for the measurements. It finds more than the range, since it
// takes dates in UTC and finds what begins before the range and ends in it; place leaves
// the others out.
func (a *bucketRequest) find(s *Service) (*search.Query, error) {
	a.from, a.to = time.Time{}, time.Time{}
	year := func(ms int64) int { return time.UnixMilli(ms).UTC().Year() }
	if a.lo != math.MinInt64 && year(a.lo) > 1 {
		a.from = time.UnixMilli(a.lo).Add(-dateSlack)
	}
	if a.hi != math.MaxInt64 && year(a.hi) < 9999 {
		a.to = time.UnixMilli(a.hi).Add(dateSlack)
	}
	q, err := a.query(s)
	if err == nil && a.device != "" {
		var more *search.Query
		more, err = search.Parse("Observation", [][2]string{{"device", "Device/" + a.device}},
			search.ParseOptions{Base: s.Base, Now: s.Clock})
		if err == nil {
			q.Clauses = append(q.Clauses, more.Clauses...)
		}
	}
	return q, err
}

// timeBucket holds the measurements of one code and unit in a bucket.
type timeBucket struct {
	from, to int64
	sum      exactSum
}

// bucketGroup holds the buckets of one code and unit.
type bucketGroup struct {
	buckets map[int64]*timeBucket // by their beginning
	last    *timeBucket
}

// bucketing sorts measurements into buckets.
type bucketing struct {
	request      *bucketRequest
	summary      summary // finds the group of a code and a unit
	groups       map[*summaryGroup]*bucketGroup
	measurements measurements
	templates    map[*series.Template]*bucketGroup // of samples with one number
	probed       map[*series.Template]bool
	parser       fastjson.Parser
	at           effective // of the Observation that is being read
	count        int       // buckets
	err          error
}

// effective is the beginning of a measurement.
type effective struct {
	ms   int64
	date calendar.Unit // the precision of a date without a time; zero for an instant
	ok   bool
}

func newBucketing(a *bucketRequest) *bucketing {
	b := &bucketing{request: a, summary: summary{request: &a.statsRequest}, groups: map[*summaryGroup]*bucketGroup{},
		templates: map[*series.Template]*bucketGroup{}, probed: map[*series.Template]bool{}}
	b.measurements = measurements{codes: a.codes, fn: b.one}
	return b
}

// collect reads all matches.
func (b *bucketing) collect(ctx context.Context, st store.Store, f store.Find) (err error) {
	if b.measurements.when, err = selection("date"); err != nil {
		return err
	}
	doc := func(o *store.Found) bool {
		if o.Facts.Vendor != "" && isPreferred(o.Resource.JSON) {
			return true // the measurements that it is derived from count
		}
		return b.document(o.Resource.JSON)
	}
	if fast, ok := st.(store.Columnar); ok {
		return fast.FindRuns(ctx, f, doc, b.run)
	}
	return st.Find(ctx, f, doc)
}

// document adds the numbers of an Observation.
func (b *bucketing) document(json []byte) bool {
	v, err := b.parser.ParseBytes(json)
	if err != nil {
		b.err = &fhir.Error{Kind: fhir.Internal, Op: "interaction.TimeBuckets", Err: errStored}
		return false
	}
	if b.at = effectiveOf(v); !b.at.ok {
		return true
	}
	more, err := b.measurements.observation(v, json)
	if b.err == nil {
		b.err = err
	}
	return more && b.err == nil
}

// effectiveOf returns the beginning of an Observation.
func effectiveOf(v *fastjson.Value) (e effective) {
	text := v.GetStringBytes("effectiveDateTime")
	for _, path := range [][]string{{"effectivePeriod", "start"}, {"effectiveInstant"},
		{"effectiveTiming", "event", "0"}} {
		if text == nil {
			text = v.GetStringBytes(path...)
		}
	}
	e.ms, _, e.ok = search.DateInterval(string(text))
	switch len(text) {
	case len("2006"):
		e.date = calendar.Year
	case len("2006-01"):
		e.date = calendar.Month
	case len("2006-01-02"):
		e.date = calendar.Day
	}
	return e
}

// one adds the number of an Observation or component that begins at b.at.
func (b *bucketing) one(n *Numbers) bool {
	if len(n.Values) == 0 {
		return true
	}
	g := b.group(n.Code, n.Unit)
	if g == nil {
		return false
	}
	x, err := b.place(g, b.at)
	if err != nil || x == nil {
		b.err = err
		return err == nil
	}
	for _, v := range n.Values {
		x.sum.add(v)
	}
	return true
}

// preferred adds one number of a preferred source.
func (b *bucketing) preferred(n *Numbers) bool {
	b.at = effective{ms: n.From, ok: true}
	if n.Date {
		b.at.date = calendar.Day
	}
	return b.one(n)
}

// group returns the group of a code and a unit, or nil if there are too many.
func (b *bucketing) group(code []element.Coding, unit Unit) *bucketGroup {
	g := b.summary.group(&Numbers{Code: code, Unit: unit})
	if g == nil {
		b.err = fhir.Errorf(fhir.TooCostly, "interaction.TimeBuckets",
			"the measurements have more than %d codes and units; request fewer codes", maxStatsGroups)
		return nil
	}
	x := b.groups[g]
	if x == nil {
		x = &bucketGroup{buckets: map[int64]*timeBucket{}}
		b.groups[g] = x
	}
	return x
}

// place returns the bucket of a time, or nil if it is out of range.
func (b *bucketing) place(g *bucketGroup, at effective) (*timeBucket, error) {
	a := b.request
	from, to := int64(0), int64(0)
	if at.date > 0 {
		var ok bool
		year, month, day := time.UnixMilli(at.ms).UTC().Date()
		if from, to, ok = a.division.OfDate(year, month, day, at.date); !ok {
			return nil, nil
		}
		at.ms = calendar.Midnight(a.division.Zone(), year, month, day).UnixMilli()
	}
	switch x := g.last; {
	case at.ms < a.lo || at.ms >= a.hi:
		return nil, nil
	case x != nil && at.ms >= x.from && at.ms < x.to:
		return x, nil
	case at.date == 0:
		from, to = a.division.Of(at.ms)
	}
	x := g.buckets[from]
	if x == nil {
		if b.count++; b.count > maxBuckets {
			return nil, fhir.Errorf(fhir.TooCostly, "interaction.TimeBuckets",
				"the measurements lie in more than %d buckets; request a shorter period or longer buckets", maxBuckets)
		}
		x = &timeBucket{from: from, to: to}
		g.buckets[from] = x
	}
	g.last = x
	return x, nil
}

// run adds samples. Those of a whole block that lies in one bucket are not read if its
// header counts them.
func (b *bucketing) run(r *store.Run) bool {
	g, probed := b.templates[r.Template], b.probed[r.Template]
	if probed && g != nil && r.Header != nil && r.Header.Values[0].Counts != nil {
		if more, done := b.block(r, g); done {
			return more
		}
	}
	cols, err := r.Load()
	if err == nil && !probed {
		g, err = b.learn(r.Template, cols.At(r.From))
	}
	if b.err == nil {
		b.err = err
	}
	if b.err != nil {
		return false
	}
	if g != nil {
		return b.column(cols, r.From, r.To, g)
	}
	var body []byte
	for i := r.From; i < r.To; i++ {
		s := cols.At(i)
		body = r.Template.Append(body[:0], &s)
		if !b.document(body) {
			return false
		}
	}
	return true
}

// learn returns the group of the samples of a template, or nil if their Observations have
// other numbers than the first value.
func (b *bucketing) learn(t *series.Template, first series.Sample) (*bucketGroup, error) {
	group, err := b.measurements.groupOf(t, first)
	if err != nil {
		return nil, err
	}
	b.probed[t] = true
	if group != nil {
		b.templates[t] = b.group(group.code, group.unit)
	}
	return b.templates[t], nil
}

// block adds a whole block by its header, and the samples before a bound in it. It reports whether the header suffices.
func (b *bucketing) block(r *store.Run, g *bucketGroup) (more, done bool) {
	h := r.Header
	first, last := millis(h.MinStart), millis(h.MaxStart)
	if first < b.request.lo || last >= b.request.hi {
		return true, false
	}
	x, err := b.place(g, effective{ms: first, ok: true})
	switch {
	case err != nil:
		b.err = err
		return false, true
	case last >= x.to:
		return b.split(r, g, x)
	case !x.sum.addCounts(h.Values[0].Counts, h.Count):
		b.err = &fhir.Error{Kind: fhir.Internal, Op: "interaction.TimeBuckets", Err: errStored}
		return false, true
	}
	return true, true
}

// split adds a whole block that lies in two buckets, x and the next one. It reads the samples
// of x only: the others are those that the header counts besides. It reports whether the
// header suffices.
func (b *bucketing) split(r *store.Run, g *bucketGroup, x *timeBucket) (more, done bool) {
	h := r.Header
	if x.to > math.MaxInt64/1000 {
		return true, false
	}
	next, err := b.place(g, effective{ms: millis(h.MaxStart), ok: true})
	if err != nil {
		b.err = err
		return false, true
	}
	if next.from != x.to {
		return true, false
	}
	// The samples of most blocks are about evenly spaced.
	share := float64(x.to*1000-h.MinStart) / float64(h.MaxStart-h.MinStart+1)
	cols, n := (*series.Columns)(nil), 0
	for guess := int(share*float64(h.Count)) + h.Count/64 + 8; ; guess = h.Count {
		if cols, err = r.First(guess); err != nil {
			b.err = err
			return false, true
		}
		n = sort.Search(cols.Len(), func(i int) bool { return cols.Start[i] >= x.to*1000 })
		if n < cols.Len() || guess >= h.Count {
			break
		}
	}
	if n == cols.Len() {
		b.err = &fhir.Error{Kind: fhir.Internal, Op: "interaction.TimeBuckets", Err: errStored}
		return false, true
	}
	col := cols.Values[0][:n]
	x.sum.addColumn(col)
	if !next.sum.addCountsWithout(h.Values[0].Counts, h.Count, col) {
		b.err = &fhir.Error{Kind: fhir.Internal, Op: "interaction.TimeBuckets", Err: errStored}
		return false, true
	}
	return true, true
}

// millis returns the millisecond of a time in microseconds.
func millis(us int64) int64 {
	if us%1000 < 0 {
		return us/1000 - 1
	}
	return us / 1000
}

// column adds samples, which are in order of their starts.
func (b *bucketing) column(cols *series.Columns, from, to int, g *bucketGroup) bool {
	// below returns the first sample of [i, to) that begins at ms or later.
	below := func(i int, ms int64) int {
		if ms > math.MaxInt64/1000 {
			return to
		}
		return i + sort.Search(to-i, func(k int) bool { return cols.Start[i+k] >= ms*1000 })
	}
	if b.request.lo > math.MinInt64/1000 {
		from = below(from, b.request.lo)
	}
	for to = below(from, b.request.hi); from < to; {
		x, err := b.place(g, effective{ms: millis(cols.Start[from]), ok: true})
		if err != nil {
			b.err = err
			return false
		}
		end := below(from, x.to)
		x.sum.addColumn(cols.Values[0][from:end])
		from = end
	}
	return true
}

// write writes the Observations.
func (b *bucketing) write(page *Page, capacity int) error {
	b.summary.answered() // sorts the groups
	for _, g := range b.summary.groups {
		x := b.groups[g]
		if x == nil {
			continue
		}
		all := make([]*timeBucket, 0, len(x.buckets))
		for _, t := range x.buckets {
			all = append(all, t)
		}
		slices.SortFunc(all, func(s, t *timeBucket) int { return int(min(1, max(-1, s.from-t.from))) })
		head, units := b.head(g), b.units(g)
		for _, t := range all {
			if page.count++; page.count > 1 {
				page.entries = append(page.entries, ',')
			}
			page.entries = append(append(page.entries, `{"resource":`...), head...)
			page.entries = append(b.observation(page.entries, t, units), '}')
			if len(page.entries) > capacity {
				return fhir.Errorf(fhir.TooCostly, "interaction.TimeBuckets",
					"the answer exceeds %d bytes; request a shorter period or longer buckets", capacity)
			}
		}
	}
	return nil
}

// head returns the beginning of the Observations of a group.
func (b *bucketing) head(g *summaryGroup) []byte {
	h := []byte(`{"resourceType":"Observation","status":"final","code":{"coding":[`)
	for i, c := range g.code {
		if i > 0 {
			h = append(h, ',')
		}
		h = c.Append(h, element.AppendString)
	}
	h = element.AppendString(append(h, `]},"subject":{"reference":`...), "Patient/"+b.request.patient)
	h = append(h, '}')
	if b.request.device != "" {
		h = element.AppendString(append(h, `,"device":{"reference":`...), "Device/"+b.request.device)
		h = append(h, '}')
	}
	return h
}

// statisticText is a component of a bucket, before and after its number.
type statisticText struct{ name, before, after string }

// units returns the parts of the components of a group that do not depend on the bucket.
func (b *bucketing) units(g *summaryGroup) (out []statisticText) {
	for _, name := range b.request.statistics {
		st := statistics[name]
		before := []byte(`{"code":{"coding":[`)
		before = element.Coding{System: sysStatistics, Code: name, Display: st.display}.Append(before,
			element.AppendString)
		before = append(before, `]},`...)
		whole := string(appendQuantity(nil, name, 0, g.unit, st.plain))
		start, after, _ := strings.Cut(whole, `"value":0`)
		out = append(out, statisticText{name, string(before) + start + `"value":`, after + "}"})
	}
	return out
}

// observation writes the rest of an Observation, after its head.
func (b *bucketing) observation(out []byte, t *timeBucket, units []statisticText) []byte {
	const layout = "2006-01-02T15:04:05.000Z07:00"
	zone := b.request.division.Zone()
	out = append(out, `,"effectivePeriod":{"start":"`...)
	out = time.UnixMilli(max(t.from, b.request.lo)).In(zone).AppendFormat(out, layout)
	// The end of a Period is inclusive: its last millisecond.
	out = append(out, `","end":"`...)
	out = time.UnixMilli(min(t.to, b.request.hi)-1).In(zone).AppendFormat(out, layout)
	out = append(out, `"},"component":[`...)
	for i := range units {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, units[i].before...)
		v := 0.0
		switch units[i].name {
		case "count":
			v = float64(t.sum.count)
		case "minimum":
			v = t.sum.least
		case "maximum":
			v = t.sum.most
		case "average":
			v = t.sum.over(t.sum.count)
		case "sum":
			v = t.sum.over(1)
		}
		out = append(strconv.AppendFloat(out, rounded(v), 'f', -1, 64), units[i].after...)
	}
	return append(out, "]}"...)
}
