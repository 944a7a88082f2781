package interaction

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Numbers holds measured values of one code in one unit.
type Numbers struct {
	Code   []element.Coding // of the Observation, or of the component
	Unit   Unit
	Values []float64
	counts []run // further values in ascending order
	// Ignored counts the measurements without a number in a UCUM unit.
	Ignored uint64
	// From and To are the times of the first and last, in Unix milliseconds.
	From, To int64
	// Date is set if From is a date without a time, at midnight in UTC.
	Date bool
}

// Unit is a UCUM unit.
type Unit struct{ Text, Code string }

// statistics holds the supported codes of
// http://terminology.hl7.org/CodeSystem/observation-statistics with their displays
// and functions.
var statistics = map[string]struct { // read only
	display string
	of      func(*distribution) float64
	plain   bool // not in the unit of the values
}{
	"average":    {"Average", (*distribution).mean, false},
	"maximum":    {"Maximum", func(d *distribution) float64 { return d.quantile(1) }, false},
	"minimum":    {"Minimum", func(d *distribution) float64 { return d.quantile(0) }, false},
	"count":      {"Count", func(d *distribution) float64 { return float64(d.count) }, true},
	"median":     {"Median", func(d *distribution) float64 { return d.quantile(.5) }, false},
	"std-dev":    {"Standard Deviation", func(d *distribution) float64 { return math.Sqrt(d.variance()) }, false},
	"sum":        {"Sum", (*distribution).sum, false},
	"variance":   {"Variance", (*distribution).variance, true},
	"20-percent": {"20th Percentile", func(d *distribution) float64 { return d.quantile(.2) }, false},
	"80-percent": {"80th Percentile", func(d *distribution) float64 { return d.quantile(.8) }, false},
	"4-lower":    {"Lower Quartile", func(d *distribution) float64 { return d.quantile(.25) }, false},
	"4-upper":    {"Upper Quartile", func(d *distribution) float64 { return d.quantile(.75) }, false},
	"4-dev": {"Quartile Deviation",
		func(d *distribution) float64 { return (d.quantile(.75) - d.quantile(.25)) / 2 }, false},
	"5-1":      {"1st Quintile", func(d *distribution) float64 { return d.quantile(.2) }, false},
	"5-2":      {"2nd Quintile", func(d *distribution) float64 { return d.quantile(.4) }, false},
	"5-3":      {"3rd Quintile", func(d *distribution) float64 { return d.quantile(.6) }, false},
	"5-4":      {"4th Quintile", func(d *distribution) float64 { return d.quantile(.8) }, false},
	"skew":     {"Skew", (*distribution).skew, true},
	"kurtosis": {"Kurtosis", (*distribution).kurtosis, true},
	// The total count includes measurements without a number.
	"total-count": {"Total Count", nil, true},
}

const sysStatistics = element.Terminology + "observation-statistics"

// statsRequest is a validated request.
type statsRequest struct {
	patient    string
	codes      []element.Coding
	from, to   time.Time // the zero time means open
	statistics []string
	include    bool
	limit      int
	preferred  bool
	// narrow holds parameters of a search that restrict the measurements.
	narrow [][2]string
}

// Stats implements Observation/$stats
// (https://hl7.org/fhir/R4/observation-operation-stats.html). It returns a
// Parameters resource with one Observation ("statistics") per code and unit, which
// has one component per statistic. A statistic that is undefined for the values
// has a dataAbsentReason. Each component of a panel is a separate code. Variance,
// skew and kurtosis are those of a sample; percentiles are interpolated.
//
// Preferred values do not count, because the measurements that they are
// derived from do. The parameter preferred=true, which R4 does not define, restricts the
// measurements of each day to the preferred source, so that the steps of a phone and a
// watch are not added up. Other parameters are those of a search of Observations, chained
// ones included, and restrict the measurements.
func (s *Service) Stats(ctx context.Context, rq *Request, ps []Parameter) ([]byte, error) {
	body, recorded, err := s.stats(ctx, rq, ps)
	if err != nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: "Observation"}, err)
	}
	if err := s.disclose(ctx, rq, recorded.events(rq, recorded.patients)...); err != nil {
		return nil, err
	}
	return body, nil
}

func (s *Service) stats(ctx context.Context, rq *Request, ps []Parameter) ([]byte, *found, error) {
	const op = "interaction.Stats"
	if err := rq.may(op, access.Search, "Observation"); err != nil {
		return nil, nil, err
	}
	a, err := s.readStats(ps)
	if err != nil {
		return nil, nil, err
	}
	q, err := a.query(s)
	if err != nil {
		return nil, nil, err
	}
	at := s.Store.LastSeq()
	joined, err := s.joins(ctx, rq, q, at, false)
	if err != nil {
		return nil, nil, err
	}
	find := store.Find{Query: joined.query, Filter: rq.filter(access.Search), At: at}
	told := &found{s.recordedOf(rq, ps, a.patient), map[string]bool{a.patient: false}}
	told.auditRead = readsAudit(q.Clauses)
	sum := &summary{request: a}
	src := &sources{capacity: s.Limits.withDefaults().PageBytes, limit: a.limit}
	if len(joined.evidence) > 0 {
		src.each = func(f *store.Found) error {
			decided, err := joined.decided(f)
			for _, p := range decided {
				told.name(p)
			}
			return err
		}
	}
	if a.preferred {
		err = s.Preferred.Values(ctx, &PreferredQuery{Patient: a.patient, Codes: a.codes, From: a.from, To: a.to,
			Filter: find.Filter, At: find.At}, sum.add)
	} else {
		err = summarize(ctx, s.Store, find, a.codes, sum.add, src)
	}
	if err == nil {
		err = sum.err
	}
	if err != nil {
		return nil, nil, err
	}
	b := []byte(`{"resourceType":"Parameters","parameter":[`)
	for i, g := range sum.answered() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":"statistics","resource":`...)
		b = append(a.observation(b, g), '}')
	}
	for _, o := range src.kept {
		b = append(b, `,{"name":"source","resource":`...)
		b = append(append(b, o...), '}')
	}
	return append(b, "]}"...), told, nil
}

// query returns the search for the measurements.
func (a *statsRequest) query(s *Service) (*search.Query, error) {
	codes := make([]string, len(a.codes))
	for i, c := range a.codes {
		codes[i] = valueEscaper.Replace(c.Code)
		if c.System != "" {
			codes[i] = valueEscaper.Replace(c.System) + "|" + codes[i]
		}
	}
	pairs := [][2]string{{"patient", a.patient}, {"combo-code", strings.Join(codes, ",")},
		{"status:not", "entered-in-error"}}
	if !a.from.IsZero() {
		pairs = append(pairs, [2]string{"date", "ge" + a.from.UTC().Format(fhir.InstantLayout)})
	}
	if !a.to.IsZero() {
		pairs = append(pairs, [2]string{"date", "lt" + a.to.UTC().Format(fhir.InstantLayout)})
	}
	q, err := search.Parse("Observation", pairs, search.ParseOptions{Base: s.Base, Now: s.Clock, Registry: s.registry()})
	if err != nil || len(a.narrow) == 0 {
		return q, err
	}
	o := s.parseOptions(false)
	o.Joins = true
	narrow, err := search.Parse("Observation", a.narrow, o)
	if err != nil {
		return nil, err
	}
	q.Clauses = append(q.Clauses, narrow.Clauses...)
	return q, nil
}

// valueEscaper escapes the separators in a search value (R4 search.html#escaping).
var valueEscaper = strings.NewReplacer(`\`, `\\`, "$", `\$`, ",", `\,`, "|", `\|`)

// summaryGroup holds the values of one code in one unit.
type summaryGroup struct {
	code     []element.Coding
	unit     Unit
	values   distribution
	ignored  uint64
	from, to int64
}

type summary struct {
	request  *statsRequest
	groups   []*summaryGroup
	distinct int
	err      error
}

const maxStatsGroups = 256

func (s *summary) add(n *Numbers) bool {
	g := s.group(n)
	if g == nil {
		s.err = fhir.Errorf(fhir.TooCostly, "interaction.Stats",
			"the measurements have more than %d codes and units; request fewer codes", maxStatsGroups)
		return false
	}
	if g.values.count+g.ignored == 0 || n.From < g.from {
		g.from = n.From
	}
	if g.values.count+g.ignored == 0 || n.To > g.to {
		g.to = n.To
	}
	g.ignored += n.Ignored
	before := len(g.values.runs)
	g.values.addRuns(n.counts)
	for rest := n.Values; len(rest) > 0 && s.distinct+len(g.values.runs)-before <= maxDistinct; {
		rest = rest[g.values.addPrefix(rest):]
	}
	if s.distinct += len(g.values.runs) - before; s.distinct > maxDistinct {
		s.err = fhir.Errorf(fhir.TooCostly, "interaction.Stats",
			"the measurements have too many different values; request a shorter period")
		return false
	}
	return true
}

// group returns the group of a code, by the requested coding or, for the component
// of a panel, by any of its codings.
func (s *summary) group(n *Numbers) *summaryGroup {
	code := n.Code
	for _, c := range s.request.codes {
		if i := slices.IndexFunc(code, func(have element.Coding) bool { return sameCode(c, have) }); i >= 0 {
			code = code[i : i+1]
			break
		}
	}
	for _, g := range s.groups {
		if g.unit.Code == n.Unit.Code && slices.ContainsFunc(code, func(c element.Coding) bool {
			return slices.ContainsFunc(g.code,
				func(h element.Coding) bool { return c.System == h.System && c.Code == h.Code })
		}) {
			g.name(code, n.Unit.Text)
			return g
		}
	}
	if len(s.groups) == maxStatsGroups {
		return nil
	}
	g := &summaryGroup{code: slices.Clone(code), unit: n.Unit}
	for i := range g.code { // the strings are in the caller's buffer
		c := &g.code[i]
		c.System, c.Code, c.Display = strings.Clone(c.System), strings.Clone(c.Code), strings.Clone(c.Display)
	}
	g.unit.Code, g.unit.Text = strings.Clone(g.unit.Code), strings.Clone(g.unit.Text)
	s.groups = append(s.groups, g)
	return g
}

// name keeps the least of the displays and unit texts, so that the answer does not
// depend on the order of the measurements.
func (g *summaryGroup) name(code []element.Coding, unit string) {
	if unit != "" && (g.unit.Text == "" || unit < g.unit.Text) {
		g.unit.Text = strings.Clone(unit)
	}
	for i := range g.code {
		for _, c := range code {
			h := &g.code[i]
			if c.System == h.System && c.Code == h.Code && c.Display != "" &&
				(h.Display == "" || c.Display < h.Display) {
				h.Display = strings.Clone(c.Display)
			}
		}
	}
}

func sameCode(want, have element.Coding) bool {
	return want.Code == have.Code && (want.System == "" || want.System == have.System)
}

// answered returns the groups of the answer. Codes without measurements have a
// group too. Measurements without a number count for the first unit of their code.
func (s *summary) answered() []*summaryGroup {
	var out []*summaryGroup
	slices.SortStableFunc(s.groups, func(a, b *summaryGroup) int {
		key := func(g *summaryGroup) string { return g.code[0].System + "|" + g.code[0].Code + "|" + g.unit.Code }
		return strings.Compare(key(a), key(b))
	})
	for _, g := range s.groups {
		if g.unit.Code != "" {
			g.values.merge()
			out = append(out, g)
		}
	}
	for _, g := range s.groups {
		if g.unit.Code != "" {
			continue
		}
		i := slices.IndexFunc(out, func(o *summaryGroup) bool {
			return slices.ContainsFunc(o.code,
				func(c element.Coding) bool {
					return slices.ContainsFunc(g.code, func(h element.Coding) bool { return sameCode(c, h) })
				})
		})
		if i < 0 {
			out = append(out, g)
			continue
		}
		out[i].ignored += g.ignored
		out[i].from, out[i].to = min(out[i].from, g.from), max(out[i].to, g.to)
	}
	if len(out) == 0 {
		for _, c := range s.request.codes {
			out = append(out, &summaryGroup{code: []element.Coding{c}})
		}
	}
	return out
}

// observation writes the Observation of a group.
func (a *statsRequest) observation(b []byte, g *summaryGroup) []byte {
	b = append(b, `{"resourceType":"Observation","status":"final","code":{"coding":[`...)
	for i, c := range g.code {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.Append(b, element.AppendString)
	}
	b = append(b, `]},"subject":{"reference":`...)
	b = element.AppendString(b, "Patient/"+a.patient)
	b = append(b, '}')
	b = a.period(b, g)
	b = append(b, `,"component":[`...)
	for i, name := range a.statistics {
		if i > 0 {
			b = append(b, ',')
		}
		st := statistics[name]
		b = append(b, `{"code":{"coding":[`...)
		b = element.Coding{System: sysStatistics, Code: name, Display: st.display}.Append(b, element.AppendString)
		b = append(b, `]},`...)
		v := 0.0
		if st.of == nil {
			v = float64(g.values.count + g.ignored)
		} else {
			v = st.of(&g.values)
		}
		b = appendQuantity(b, name, v, g.unit, st.plain)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

func appendQuantity(b []byte, name string, v float64, u Unit, plain bool) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, `"dataAbsentReason":{"coding":[{"system":"`+element.DataAbsentReason+
			`","code":"not-a-number","display":"Not a Number (NaN)"}]}`...)
	}
	b = append(b, `"valueQuantity":{"value":`...)
	b = strconv.AppendFloat(b, rounded(v), 'f', -1, 64)
	switch {
	case name == "variance": // its unit is the square, for which UCUM has many ways
	case plain:
		b = append(b, `,"unit":"1","system":"`+element.UCUM+`","code":"1"`...)
	case u.Code != "":
		if u.Text != "" {
			b = append(b, `,"unit":`...)
			b = element.AppendString(b, u.Text)
		}
		b = append(b, `,"system":"`+element.UCUM+`","code":`...)
		b = element.AppendString(b, u.Code)
	}
	return append(b, '}')
}

// rounded keeps twelve significant digits, the precision of the arithmetic.
func rounded(v float64) float64 {
	f, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 12, 64), 64)
	if err != nil {
		return v
	}
	return f
}

// period appends the requested period. Open ends are those of the measurements.
func (a *statsRequest) period(b []byte, g *summaryGroup) []byte {
	from, to := a.from, a.to
	if g.values.count+g.ignored > 0 {
		if from.IsZero() && g.from > math.MinInt64 {
			from = time.UnixMilli(g.from)
		}
		if to.IsZero() && g.to < math.MaxInt64 && g.to > math.MinInt64 {
			to = time.UnixMilli(g.to)
		}
	}
	if from.IsZero() && to.IsZero() {
		return b
	}
	b = append(b, `,"effectivePeriod":{`...)
	if !from.IsZero() {
		b = append(b, `"start":"`...)
		b = from.UTC().AppendFormat(b, fhir.InstantLayout)
		b = append(b, '"')
	}
	if !to.IsZero() {
		if !from.IsZero() {
			b = append(b, ',')
		}
		b = append(b, `"end":"`...)
		b = to.UTC().AppendFormat(b, fhir.InstantLayout)
		b = append(b, '"')
	}
	return append(b, '}')
}
