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

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

const (
	maxStatsCodes  = 50
	maxSources     = 1000
	maxStatsPeriod = 200 * 365 * 24 // hours
	ucum           = "http://unitsofmeasure.org"
)

// readStats checks the inputs of $stats. A URL may give coding as
// system|code and period as start/end, for a URL holds no structures.
func (s *Service) readStats(ps []Parameter) (*statsAsked, error) {
	const op = "interaction.Stats"
	a := &statsAsked{limit: maxSources}
	r := &statsReader{s: s, a: a}
	for i := range ps {
		if err := r.parameter(&ps[i]); err != nil {
			return nil, err
		}
	}
	for _, c := range r.codes {
		a.codes = append(a.codes, Coding{System: r.system, Code: c})
	}
	for _, n := range []string{"subject", "statistic"} {
		if !slices.Contains(r.seen, n) {
			return nil, &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Code: "required", Diagnostics: "$stats needs the parameter " + n}}}
		}
	}
	switch {
	case len(a.codes) == 0:
		return nil, &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Code: "required", Diagnostics: "$stats needs code, or coding"}}}
	case len(a.codes) > maxStatsCodes:
		return nil, fhir.Errorf(fhir.Invalid, op, "at most %d codes", maxStatsCodes)
	}
	if r.hours > 0 { // a duration goes before a period
		a.to = s.Clock()
		a.from = a.to.Add(-time.Duration(r.hours * float64(time.Hour)))
		a.to = a.to.Add(time.Millisecond) // now itself counts
	}
	if !a.include {
		a.limit = 0
	}
	return a, nil
}

type statsReader struct {
	s      *Service
	a      *statsAsked
	seen   []string
	codes  []string
	system string
	hours  float64
	nth    int // of statistic
}

func (r *statsReader) parameter(p *Parameter) error {
	const op = "interaction.Stats"
	single := true
	ok := utf8.ValidString(p.Value)
	want := ""
	switch p.Name {
	case "subject":
		want = "a reference to a Patient of this server, Patient/[id]"
		ref, valid := fhir.ParseRef(strings.TrimPrefix(p.Value, r.s.Base+"/"))
		r.a.patient, ok = ref.ID, valid && ref.Type == "Patient"
	case "code":
		want, single = "a code", false
		r.codes, ok = append(r.codes, p.Value), ok && p.Value != "" && len(p.Value) <= 256
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
		r.a.include, ok = p.Value == "true", p.Value == "true" || p.Value == "false"
	case "limit":
		want = "a whole number above 0"
		n, err := strconv.Atoi(p.Value)
		r.a.limit, ok = min(n, maxSources), err == nil && n > 0
	case "_format", "_pretty":
		return nil
	default:
		return fhir.Errorf(fhir.Invalid, op, "a parameter that $stats does not have; it has subject, code, system, coding, duration, period, statistic, include and limit")
	}
	if !ok {
		return fhir.Errorf(fhir.Invalid, op, "%s must be %s", p.Name, want)
	}
	if single && slices.Contains(r.seen, p.Name) {
		return fhir.Errorf(fhir.Invalid, op, "%s may be given once", p.Name)
	}
	r.seen = append(r.seen, p.Name)
	return nil
}

func (r *statsReader) coding(p *Parameter) bool {
	c := p.Coding
	if c == nil {
		system, code, ok := strings.Cut(p.Value, "|")
		if !ok {
			system, code = "", p.Value
		}
		c = &Coding{System: system, Code: code}
	}
	r.a.codes = append(r.a.codes, Coding{System: c.System, Code: c.Code})
	return c.Code != "" && len(c.Code) <= 256 && len(c.System) <= 512 && utf8.ValidString(c.Code) && utf8.ValidString(c.System)
}

// statistic names what is not offered by its place: an input is not repeated.
func (r *statsReader) statistic(p *Parameter) error {
	r.nth++
	names := strings.Split(p.Value, ",")
	if len(names) > 64 || r.nth > 64 {
		return fhir.Errorf(fhir.Invalid, "interaction.Stats", "statistic: at most 64 codes")
	}
	for k, name := range names {
		if _, ok := statistics[name]; ok {
			if !slices.Contains(r.a.statistics, name) {
				r.a.statistics = append(r.a.statistics, name)
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
			Diagnostics: what + " is not offered; offered are " + strings.Join(offered, ", ")}}}
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
		x = &Period{start, end}
	}
	ok := x.Start != "" || x.End != ""
	if x.Start != "" {
		lo, _, valid := search.Instants(x.Start)
		r.a.from, ok = time.UnixMilli(lo), ok && valid
	}
	if x.End != "" {
		_, hi, valid := search.Instants(x.End)
		r.a.to, ok = time.UnixMilli(hi), ok && valid
	}
	return ok && (r.a.from.IsZero() || r.a.to.IsZero() || r.a.from.Before(r.a.to))
}

// sources are the Observations behind the statistics.
type sources struct {
	limit, room int
	kept        [][]byte
}

func (s *sources) add(json []byte) {
	if len(s.kept) < s.limit && s.room >= len(json) {
		s.room -= len(json)
		s.kept = append(s.kept, slices.Clone(json))
	}
}

// summarize is Summarizer over store.Find.
func summarize(ctx context.Context, st store.Store, f store.Find, codes []Coding, fn func(*Numbers) bool, src *sources) error {
	when, err := selection("date")
	if err != nil {
		return err
	}
	m := &measured{codes: codes, fn: fn, when: when}
	var bad error
	err = st.Find(ctx, f, func(o *store.Found) bool {
		v, err := m.parser.ParseBytes(o.Resource.JSON)
		if err != nil {
			bad = &fhir.Error{Kind: fhir.Internal, Op: "interaction.Stats", Err: errStored}
			return false
		}
		src.add(o.Resource.JSON)
		more, err := m.observation(v, o.Resource.JSON)
		bad = err
		return more && err == nil
	})
	if bad != nil {
		return bad
	}
	return err
}

// measured takes the numbers out of Observations.
type measured struct {
	codes  []Coding
	fn     func(*Numbers) bool
	when   *search.Selection
	parser fastjson.Parser
	n      Numbers
	one    [1]float64
}

func (m *measured) observation(v *fastjson.Value, json []byte) (bool, error) {
	vals, err := search.Extractor{}.ExtractFor(m.when, json)
	if err != nil {
		return false, fhir.Wrap("interaction.Stats", err)
	}
	m.n.From, m.n.To = math.MinInt64, math.MinInt64
	for _, d := range vals.ByParam["date"] {
		m.n.From, m.n.To = d.Lo, d.Hi
	}
	doubtful := len(v.GetArray("modifierExtension")) > 0
	components := v.GetArray("component")
	if m.asked(v.Get("code")) {
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
		if m.asked(c.Get("code")) && !m.emit(c, doubtful) {
			return false, nil
		}
	}
	return true, nil
}

func (m *measured) asked(code *fastjson.Value) bool {
	for _, have := range codingsOf(code, nil) {
		if slices.ContainsFunc(m.codes, func(want Coding) bool { return same(want, have) }) {
			return true
		}
	}
	return false
}

func codingsOf(code *fastjson.Value, into []Coding) []Coding {
	if code == nil {
		return into
	}
	for _, c := range code.GetArray("coding") {
		into = append(into, Coding{string(c.GetStringBytes("system")), string(c.GetStringBytes("code")), string(c.GetStringBytes("display"))})
	}
	return into
}

// emit gives out the number of an Observation or a component.
func (m *measured) emit(v *fastjson.Value, doubtful bool) bool {
	n := &m.n
	n.Code = codingsOf(v.Get("code"), n.Code[:0])
	if len(n.Code) == 0 {
		return true // a component without a coded name
	}
	n.Unit, n.Values, n.Ignored = Unit{}, nil, 1
	q := v.Get("valueQuantity")
	if q != nil && !doubtful && string(q.GetStringBytes("system")) == ucum && len(q.GetStringBytes("comparator")) == 0 && len(q.GetStringBytes("code")) > 0 {
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
