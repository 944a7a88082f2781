package interaction

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/valyala/fastjson"
	"github.com/valyala/fastjson/fastfloat"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const (
	maxStatsCodes  = 50
	maxSources     = 1000
	maxStatsPeriod = 200 * 365 * 24 // hours
)

// readStats validates the inputs of $stats. In a URL, which has no structures, a
// coding is system|code and a period is start/end.
func (s *Service) readStats(ps []Parameter) (*statsRequest, error) {
	const op = "interaction.Stats"
	a := &statsRequest{limit: maxSources}
	r := &statsReader{service: s, request: a}
	for i := range ps {
		if err := r.parameter(&ps[i]); err != nil {
			return nil, err
		}
	}
	for _, c := range r.codes {
		a.codes = append(a.codes, element.Coding{System: r.system, Code: c})
	}
	for _, n := range []string{"subject", "statistic"} {
		if !slices.Contains(r.seen, n) {
			return nil, &fhir.Error{Kind: fhir.Invalid, Op: op,
				Issues: []fhir.Issue{{Code: "required", Diagnostics: "$stats needs the parameter " + n}}}
		}
	}
	switch {
	case len(a.codes) == 0:
		return nil, &fhir.Error{Kind: fhir.Invalid, Op: op,
			Issues: []fhir.Issue{{Code: "required", Diagnostics: "$stats needs code, or coding"}}}
	case len(a.codes) > maxStatsCodes:
		return nil, fhir.Errorf(fhir.Invalid, op, "$stats takes at most %d codes", maxStatsCodes)
	}
	if r.hours > 0 { // a duration takes precedence over a period
		a.to = s.Clock()
		a.from = a.to.Add(-time.Duration(r.hours * float64(time.Hour)))
		a.to = a.to.Add(time.Millisecond) // include the current millisecond
	}
	if !a.include {
		a.limit = 0
	}
	if a.preferred && a.include {
		return nil, fhir.Errorf(fhir.Invalid, op, "include cannot be combined with preferred; leave out one of them")
	}
	if a.preferred && len(a.narrow) > 0 {
		return nil, fhir.Errorf(fhir.Invalid, op,
			"search parameters cannot be combined with preferred; leave out one of them")
	}
	if a.preferred && s.Preferred == nil {
		return nil, fhir.Errorf(fhir.Unsupported, op, "this server has no preferred sources; leave out preferred")
	}
	return a, nil
}

type statsReader struct {
	service *Service
	request *statsRequest
	seen    []string
	codes   []string
	system  string
	hours   float64
	nth     int // number of parameters named statistic
}

func (r *statsReader) parameter(p *Parameter) error {
	const op = "interaction.Stats"
	single := true
	ok := utf8.ValidString(p.Value)
	want := ""
	switch p.Name {
	case "subject":
		want = "a reference to a Patient of this server, Patient/[id]"
		ref, valid := fhir.ParseRef(strings.TrimPrefix(p.Value, r.service.Base+"/"))
		r.request.patient, ok = ref.ID, valid && ref.Type == "Patient"
	case "code":
		want, single = "a code without a system; for system|code, use coding", false
		r.codes, ok = append(r.codes, p.Value), ok && p.Value != "" && len(p.Value) <= 256 &&
			!strings.Contains(p.Value, "|")
	case "system":
		want = "a URI"
		r.system, ok = p.Value, ok && p.Value != "" && len(p.Value) <= 512
	case "coding":
		want, single = "a Coding with a code, in a URL system|code", false
		ok = r.coding(p)
	case "duration":
		want = "hours, above 0"
		h, err := strconv.ParseFloat(p.Value, 64)
		r.hours, ok = h, err == nil && h > 0 && h <= maxStatsPeriod
	case "period":
		want = "a Period, in a URL start/end"
		ok = r.period(p)
	case "statistic":
		return r.statistic(p)
	case "include":
		want = "true or false"
		r.request.include, ok = p.Value == "true", p.Value == "true" || p.Value == "false"
	case "preferred":
		want = "true or false"
		r.request.preferred, ok = p.Value == "true", p.Value == "true" || p.Value == "false"
	case "limit":
		want = "a whole number above 0"
		n, err := strconv.Atoi(p.Value)
		r.request.limit, ok = min(n, maxSources), err == nil && n > 0
	case "_format", "_pretty":
		return nil
	default:
		if !r.restricts(p) {
			return fhir.Errorf(fhir.Invalid, op,
				"a parameter is not supported; $stats takes subject, code, system, coding, duration, period, statistic, "+
					"include, limit, preferred, and search parameters of Observation")
		}
		r.request.narrow = append(r.request.narrow, [2]string{p.Name, p.Value})
		return nil
	}
	if !ok {
		return fhir.Errorf(fhir.Invalid, op, "%s must be %s", p.Name, want)
	}
	if single && slices.Contains(r.seen, p.Name) {
		return fhir.Errorf(fhir.Invalid, op, "%s is given more than once; give it once", p.Name)
	}
	r.seen = append(r.seen, p.Name)
	return nil
}

// restricts reports whether p is a search parameter that selects Observations.
func (r *statsReader) restricts(p *Parameter) bool {
	if p.Coding != nil || p.Period != nil {
		return false
	}
	code, _, _ := strings.Cut(p.Name, ":")
	code, _, _ = strings.Cut(code, ".")
	switch code {
	case "_has", "_list", "_filter":
		return true
	}
	_, ok := r.service.registry().Lookup("Observation", code)
	return ok
}

func (r *statsReader) coding(p *Parameter) bool {
	c := p.Coding
	if c == nil {
		system, code, ok := strings.Cut(p.Value, "|")
		if !ok {
			system, code = "", p.Value
		}
		c = &element.Coding{System: system, Code: code}
	}
	r.request.codes = append(r.request.codes, element.Coding{System: c.System, Code: c.Code})
	return c.Code != "" && len(c.Code) <= 256 && len(c.System) <= 512 && utf8.ValidString(c.Code) &&
		utf8.ValidString(c.System)
}

// statistic parses codes of statistics. Its error gives the position of an
// unsupported code rather than the code, because that may be any input.
func (r *statsReader) statistic(p *Parameter) error {
	r.nth++
	names := strings.Split(p.Value, ",")
	if len(names) > 64 || r.nth > 64 {
		return fhir.Errorf(fhir.Invalid, "interaction.Stats", "statistic must have at most 64 codes")
	}
	for k, name := range names {
		if _, ok := statistics[name]; ok {
			if !slices.Contains(r.request.statistics, name) {
				r.request.statistics = append(r.request.statistics, name)
			}
			continue
		}
		what := "value " + strconv.Itoa(k+1) + " of the parameter statistic number " + strconv.Itoa(r.nth)
		if name == "regression" {
			what = "statistic regression"
		}
		offered := make([]string, 0, len(statistics))
		for n := range statistics {
			offered = append(offered, n)
		}
		slices.Sort(offered)
		return &fhir.Error{Kind: fhir.Invalid, Op: "interaction.Stats", Issues: []fhir.Issue{{Code: "not-supported",
			Diagnostics: what + " is not supported; use one of " + strings.Join(offered, ", ")}}}
	}
	r.seen = append(r.seen, "statistic")
	return nil
}

func (r *statsReader) period(p *Parameter) bool {
	x := p.Period
	if x == nil {
		start, end, ok := strings.Cut(p.Value, "/")
		if !ok {
			return false
		}
		x = &element.Period{Start: start, End: end}
	}
	ok := x.Start != "" || x.End != ""
	if x.Start != "" {
		lo, _, valid := search.DateInterval(search.Plus(x.Start))
		r.request.from, ok = time.UnixMilli(lo), ok && valid
	}
	if x.End != "" {
		_, hi, valid := search.DateInterval(search.Plus(x.End))
		r.request.to, ok = time.UnixMilli(hi), ok && valid
	}
	return ok && (r.request.from.IsZero() || r.request.to.IsZero() || r.request.from.Before(r.request.to))
}

// sources collects the Observations behind the statistics.
type sources struct {
	limit, capacity int
	kept            [][]byte
	// each, if set, is called with every match.
	each func(*store.Found) error
}

func (s *sources) add(json []byte) {
	if len(s.kept) < s.limit && s.capacity >= len(json) {
		s.capacity -= len(json)
		s.kept = append(s.kept, slices.Clone(json))
	}
}

// summarize calls fn with the numbers of the matches. A store with columns does not
// render Observations unless src needs them.
func summarize(ctx context.Context, st store.Store, f store.Find, codes []element.Coding,
	fn func(*Numbers) bool, src *sources) error {
	when, err := selection("date")
	if err != nil {
		return err
	}
	m := &measurements{codes: codes, fn: fn, when: when, groups: map[*series.Template]*valueGroup{}}
	var bad error
	one := func(o *store.Found) bool {
		if o.Facts.Vendor != "" && isPreferred(o.Resource.JSON) {
			return true // the measurements that it is derived from count
		}
		if src.each != nil {
			if bad = src.each(o); bad != nil {
				return false
			}
		}
		src.add(o.Resource.JSON)
		more, err := m.resource(o.Resource.JSON)
		bad = err
		return more && err == nil
	}
	if fast, ok := st.(store.Columnar); ok && src.limit == 0 && src.each == nil {
		err = fast.FindRuns(ctx, f, one, func(r *store.Run) bool {
			more, err := m.run(r)
			bad = err
			return more && err == nil
		})
	} else {
		err = st.Find(ctx, f, one)
	}
	m.flush()
	if bad != nil {
		return bad
	}
	return err
}

// resource extracts the numbers of an Observation. It does not parse an Observation
// with a cached template.
func (m *measurements) resource(json []byte) (more bool, err error) {
	x, leaves, known := m.templates.Find(json)
	if known && x.number >= 0 {
		v, err := fastfloat.Parse(string(leaves[x.number]))
		if when := x.when.Values(leaves); err == nil && !math.IsInf(v, 0) && len(when) == 1 {
			return m.collect(x.valueGroup, v, when[0].Lo, when[0].Hi), nil
		}
	}
	more, err = m.parsed(json)
	if !known && more && err == nil {
		m.templates.Learn(json, m.learn)
	}
	return more, err
}

func (m *measurements) parsed(json []byte) (more bool, err error) {
	v, err := m.parser.ParseBytes(json)
	if err != nil {
		return false, &fhir.Error{Kind: fhir.Internal, Op: "interaction.Stats", Err: errStored}
	}
	return m.observation(v, json)
}

// templateGroup is the group of the documents with one template, with the slots of
// their number and time.
type templateGroup struct {
	*valueGroup
	number int // index of the leaf; -1 if the documents must be parsed
	when   *search.Reader
}

// learn returns the group of the documents with a template.
func (m *measurements) learn(s *search.Template, leaves []search.Leaf) (x templateGroup, sure bool) {
	x.number = -1
	at := s.Only(search.SlotValue)
	date, ok := search.Lookup("Observation", "date")
	if at < 0 || !ok {
		return x, true
	}
	vals, err := search.Extractor{}.ExtractFor(m.when, s.Append(nil, leaves))
	if err != nil {
		return x, false
	}
	if x.when = s.Reader(date, vals.ByParam["date"], leaves); x.when == nil {
		return x, true
	}
	first, err := fastfloat.Parse(string(leaves[at]))
	if err != nil {
		return x, true
	}
	other := slices.Clone(leaves)
	if other[at] = []byte("1"); first == 1 {
		other[at] = []byte("2")
	}
	group, err := m.probe(func(i int) ([]byte, float64) {
		if i == 0 {
			return s.Append(nil, leaves), first
		}
		v, _ := fastfloat.Parse(string(other[at])) // cannot fail, since it is "1" or "2"
		return s.Append(nil, other), v
	})
	if err != nil {
		return x, false
	}
	if group == nil {
		return x, true
	}
	i := slices.IndexFunc(m.documents, func(a *valueGroup) bool {
		return a.unit == group.unit &&
			slices.Equal(a.code, group.code)
	})
	if i < 0 && len(m.documents) == maxStatsGroups {
		return x, true
	}
	if i < 0 {
		i = len(m.documents)
		m.documents = append(m.documents, group)
	}
	x.valueGroup, x.number = m.documents[i], at
	return x, true
}

// collect adds a number to the pending ones.
func (m *measurements) collect(group *valueGroup, v float64, from, to int64) (more bool) {
	if len(group.floats) == 0 {
		group.from, group.to = from, to
	}
	group.from, group.to = min(group.from, from), max(group.to, to)
	group.floats = append(group.floats, v)
	return len(group.floats) < maxPending || m.drain(group)
}

const maxPending = 4096 // numbers

// run extracts the numbers of samples from their column, or from its Counts, if
// each of their Observations would have exactly one number, the first value.
func (m *measurements) run(r *store.Run) (more bool, err error) {
	group, known := m.groups[r.Template]
	if known && group != nil && r.Header != nil && r.Header.Values[0].Counts != nil {
		return m.counted(r.Header, group)
	}
	cols, err := r.Load()
	if err != nil {
		return false, err
	}
	if !known {
		if group, err = m.groupOf(r.Template, cols.At(r.From)); err != nil {
			return false, err
		}
		m.groups[r.Template] = group
	}
	if group != nil {
		return m.column(cols, r.From, r.To, group), nil
	}
	for i := r.From; i < r.To; i++ {
		s := cols.At(i)
		if more, err = m.parsed(r.Template.Append(nil, &s)); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}

// groupOf returns the group of the samples of a template, or nil if their
// Observations have other numbers than the first value. It tries a sample with two
// different values.
func (m *measurements) groupOf(t *series.Template, first series.Sample) (*valueGroup, error) {
	if t.Values == 0 {
		return nil, nil
	}
	other := first
	other.Values[0] = series.Decimal{Mant: 1}
	if first.Values[0] == other.Values[0] {
		other.Values[0].Mant = 2
	}
	return m.probe(func(i int) ([]byte, float64) {
		if i == 0 {
			return t.Append(nil, &first), first.Values[0].Float()
		}
		return t.Append(nil, &other), other.Values[0].Float()
	})
}

// probe returns the group of two Observations that differ in one number, or nil if
// they have other numbers than this one.
func (m *measurements) probe(nth func(i int) (json []byte, number float64)) (group *valueGroup, err error) {
	got, plain := 0, 0
	probe := measurements{codes: m.codes, when: m.when}
	for i := range 2 {
		json, number := nth(i)
		probe.fn = func(n *Numbers) bool {
			got++
			if len(n.Values) == 1 && n.Values[0] == number && n.Ignored == 0 {
				plain++
				group = &valueGroup{code: slices.Clone(n.Code), unit: n.Unit}
			}
			return true
		}
		if _, err := probe.parsed(json); err != nil {
			return nil, err
		}
	}
	if got != 2 || plain != 2 {
		return nil, nil
	}
	return group, nil
}

func (m *measurements) column(cols *series.Columns, from, to int, group *valueGroup) bool {
	n := Numbers{Code: group.code, Unit: group.unit, From: math.MaxInt64, To: math.MinInt64}
	m.floats = m.floats[:0]
	for i := from; i < to; i++ {
		m.floats = append(m.floats, cols.Values[0][i].Float())
	}
	last := cols.Start[to-1]
	for i := from; i < to; i++ {
		if len(cols.End) == 0 && i > from && cols.Start[i] < last-1e6 {
			continue // instants are in order, except within their precision
		}
		s := cols.At(i)
		lo, hi := s.Interval()
		n.From, n.To = min(n.From, lo), max(n.To, hi)
	}
	n.Values = m.floats
	return m.fn(&n)
}

// counted is like column for a whole block, whose header has the counts. It adds up
// the counts of blocks; drain passes them on when their range gets too wide.
func (m *measurements) counted(h *series.Header, group *valueGroup) (more bool, err error) {
	for more = true; more; more = m.drain(group) {
		added, err := group.tally.Add(h.Values[0].Counts, h.Count)
		if err != nil {
			return false, err
		}
		if !added {
			continue
		}
		from, _ := (&series.Sample{Start: h.MinStart, End: series.NoEnd}).Interval()
		if group.blocks == 0 {
			group.from, group.to = from, h.MaxEnd
		}
		group.from, group.to = min(group.from, from), max(group.to, h.MaxEnd)
		group.blocks++
		return true, nil
	}
	return false, nil
}

// drain passes the pending numbers of a group to fn.
func (m *measurements) drain(group *valueGroup) (more bool) {
	if group.blocks == 0 && len(group.floats) == 0 {
		return true
	}
	m.counts = m.counts[:0]
	group.tally.Drain(func(v float64, often uint64) { m.counts = append(m.counts, run{v, often}) })
	more = m.fn(&Numbers{Code: group.code, Unit: group.unit, From: group.from, To: group.to, Values: group.floats,
		counts: m.counts})
	group.blocks, group.floats = 0, group.floats[:0]
	return more
}

func (m *measurements) flush() {
	for _, group := range m.groups {
		if group != nil && !m.drain(group) {
			return
		}
	}
	for _, group := range m.documents {
		if !m.drain(group) {
			return
		}
	}
}

// valueGroup is the code and unit that the Observations of a template share, with
// the numbers that have not been passed to fn.
type valueGroup struct {
	code     []element.Coding
	unit     Unit
	tally    series.Tally // numbers of whole blocks
	blocks   int          // blocks in tally
	floats   []float64    // numbers of documents
	from, to int64        // interval of the pending numbers
}

// measurements extracts the numbers of Observations.
type measurements struct {
	codes     []element.Coding
	fn        func(*Numbers) bool
	when      *search.Selection
	parser    fastjson.Parser
	numbers   Numbers
	one       [1]float64
	floats    []float64
	counts    []run
	groups    map[*series.Template]*valueGroup
	templates search.TemplateCache[templateGroup]
	// documents holds the groups of documents.
	documents []*valueGroup
}

func (m *measurements) observation(v *fastjson.Value, json []byte) (bool, error) {
	vals, err := search.Extractor{}.ExtractFor(m.when, json)
	if err != nil {
		return false, fhir.Wrap("interaction.Stats", err)
	}
	m.numbers.From, m.numbers.To = math.MinInt64, math.MinInt64
	for _, d := range vals.ByParam["date"] {
		m.numbers.From, m.numbers.To = d.Lo, d.Hi
	}
	doubtful := len(v.GetArray("modifierExtension")) > 0
	components := v.GetArray("component")
	if m.requested(v.Get("code")) {
		// A panel stands for its components.
		if v.Get("valueQuantity") != nil || len(components) == 0 {
			return m.emit(v, doubtful), nil
		}
		for _, c := range components {
			if !m.emit(c, doubtful) {
				return false, nil
			}
		}
		return true, nil
	}
	for _, c := range components {
		if m.requested(c.Get("code")) && !m.emit(c, doubtful) {
			return false, nil
		}
	}
	return true, nil
}

func (m *measurements) requested(code *fastjson.Value) bool {
	for _, have := range codingsOf(code, nil) {
		if slices.ContainsFunc(m.codes, func(want element.Coding) bool { return sameCode(want, have) }) {
			return true
		}
	}
	return false
}

func codingsOf(code *fastjson.Value, into []element.Coding) []element.Coding {
	if code == nil {
		return into
	}
	for _, c := range code.GetArray("coding") {
		into = append(into, element.Coding{System: string(c.GetStringBytes("system")),
			Code: string(c.GetStringBytes("code")), Display: string(c.GetStringBytes("display"))})
	}
	return into
}

// emit passes the number of an Observation or component to fn.
func (m *measurements) emit(v *fastjson.Value, doubtful bool) bool {
	n := &m.numbers
	n.Code = codingsOf(v.Get("code"), n.Code[:0])
	if len(n.Code) == 0 {
		return true // a component without a coded name
	}
	n.Unit, n.Values, n.Ignored = Unit{}, nil, 1
	q := v.Get("valueQuantity")
	if q != nil && !doubtful && string(q.GetStringBytes("system")) == element.UCUM &&
		len(q.GetStringBytes("comparator")) == 0 && len(q.GetStringBytes("code")) > 0 {
		if number := q.Get("value"); number != nil {
			if x, err := number.Float64(); err == nil && !math.IsInf(x, 0) {
				n.Unit = Unit{string(q.GetStringBytes("unit")), string(q.GetStringBytes("code"))}
				m.one[0] = x
				n.Values, n.Ignored = m.one[:], 0
			}
		}
	}
	return m.fn(n)
}
