package find

import (
	"slices"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// evaluator decides which documents and samples match a query.
type evaluator struct {
	query   *search.Query
	sel     *search.Selection // selects the parameters of the query
	matcher *search.Matcher   // of documents; made when first needed
	series  map[*tier.Series]*evaluation
	last    *evaluation
}

// matches reports whether a document meets every clause of the query.
func (e *evaluator) matches(m *snapshot.Match) bool {
	if m.Values != nil {
		return search.Match(e.query, m.Values)
	}
	if e.matcher == nil {
		e.matcher = search.NewMatcher(e.query, e.sel)
	}
	return e.matcher.Match(m.Document.JSON)
}

// evaluation is a query evaluated on the template of a series. rest holds the
// clauses that each sample decides.
type evaluation struct {
	series *tier.Series
	never  bool
	rest   []*search.Clause
	// whole is set if a clause of rest needs the sample's Observation.
	needsJSON bool
	values    search.Values // of the current sample, for rest
}

func (e *evaluator) evaluate(ser *tier.Series) *evaluation {
	if e.last != nil && e.last.series == ser {
		return e.last
	}
	j := e.series[ser]
	if j == nil {
		j = e.newEvaluation(ser)
		if e.series == nil {
			e.series = map[*tier.Series]*evaluation{}
		}
		e.series[ser] = j
	}
	e.last = j
	return j
}

func (e *evaluator) newEvaluation(ser *tier.Series) *evaluation {
	j := &evaluation{series: ser, values: search.Values{ByParam: map[string][]search.Value{}}}
	for i := range e.query.Clauses {
		c := &e.query.Clauses[i]
		if c.Any != nil && fixed(c, ser) {
			j.never = j.never || !search.MatchClause(c, ser.Values)
			continue
		}
		if !plain(c) {
			j.rest, j.needsJSON = append(j.rest, c), true
			continue
		}
		p := c.Param.Code
		if !ser.Varies[p] {
			j.never = j.never || !search.MatchClause(c, ser.Values)
			continue
		}
		j.rest = append(j.rest, c)
		switch p {
		case "date", "_lastUpdated", "_id":
			j.values.ByParam[p] = make([]search.Value, 1)
		case "value-quantity", "combo-value-quantity":
			if v := ser.Values.ByParam[p]; ser.Template.Values == 1 && len(v) == 1 {
				j.values.ByParam[p] = slices.Clone(v)
				continue
			}
			j.needsJSON = true
		case "identifier":
			// The values differ from sample to sample, but not their systems.
			j.needsJSON = true
			j.never = j.never || !hasSystem(c, ser.Values.ByParam[p])
		default:
			j.needsJSON = true
		}
	}
	return j
}

// fixed reports whether all samples of a series have the same values under the parameters
// of a clause.
func fixed(c *search.Clause, ser *tier.Series) bool {
	if c.Any == nil {
		return c.Param != nil && len(c.Joins) == 0 && !rows.Runtime(c.Param) && !ser.Varies[c.Param.Code]
	}
	for _, list := range c.Any {
		for i := range list {
			if !fixed(&list[i], ser) {
				return false
			}
		}
	}
	return true
}

// hasSystem reports whether a token with the system of one of have can match c.
func hasSystem(c *search.Clause, have []search.Value) bool {
	if c.Modifier != search.NoModifier {
		return true
	}
	return slices.ContainsFunc(c.Values, func(want search.Value) bool {
		return !want.HasSystem || slices.ContainsFunc(have,
			func(v search.Value) bool { return v.System == want.System })
	})
}

// excludes reports whether no sample of a series can match.
func (e *evaluator) excludes(ser *tier.Series) bool { return e.evaluate(ser).never }

// matchesSample reports whether a sample matches the query. It builds the id only
// for clauses that need it.
func (e *evaluator) matchesSample(ser *tier.Series, s *series.Sample) bool {
	j := e.evaluate(ser)
	if j.never {
		return false
	}
	if len(j.rest) == 0 {
		return true
	}
	if j.needsJSON {
		v, err := search.Extractor{}.ExtractFor(e.sel, ser.Template.Append(nil, s))
		return err == nil && search.Match(e.query, v)
	}
	for _, c := range j.rest {
		v := &j.values.ByParam[c.Param.Code][0]
		switch c.Param.Code {
		case "date":
			v.Lo, v.Hi = s.Interval()
		case "_lastUpdated":
			v.Lo, v.Hi = s.Commit.Updated, s.Commit.Updated+1
		case "_id":
			k := ser.Template.Key(s)
			v.Code = k.ID()
		default:
			v.Num = s.Values[0].Float()
		}
		if !search.MatchClause(c, &j.values) {
			return false
		}
	}
	return true
}
