package pebblestore

import (
	"slices"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
)

// judged is what a query comes to on one series: the clauses that its template
// decides are decided, the rest is asked of each sample.
type judged struct {
	in    *seriesInfo
	never bool
	rest  []*search.Clause
	// whole: some clause needs the sample's Observation.
	whole bool
	vals  search.Values // of the sample under judgement, for rest
}

func (x *finder) judged(in *seriesInfo) *judged {
	if x.last != nil && x.last.in == in {
		return x.last
	}
	j := x.series[in]
	if j == nil {
		j = x.judge(in)
		if x.series == nil {
			x.series = map[*seriesInfo]*judged{}
		}
		x.series[in] = j
	}
	x.last = j
	return j
}

func (x *finder) judge(in *seriesInfo) *judged {
	j := &judged{in: in, vals: search.Values{ByParam: map[string][]search.Value{}}}
	for i := range x.q.Clauses {
		c := &x.q.Clauses[i]
		p := c.Param.Code
		if !in.dynamic[p] {
			j.never = j.never || !search.MatchClause(c, in.values)
			continue
		}
		j.rest = append(j.rest, c)
		switch p {
		case "date", "_lastUpdated", "_id":
			j.vals.ByParam[p] = make([]search.Value, 1)
		case "value-quantity", "combo-value-quantity":
			if v := in.values.ByParam[p]; in.t.Values == 1 && len(v) == 1 {
				j.vals.ByParam[p] = slices.Clone(v)
				continue
			}
			j.whole = true
		default:
			j.whole = true
		}
	}
	return j
}

// rules reports whether no sample of a series can match.
func (x *finder) rules(in *seriesInfo) bool { return x.judged(in).never }

// fits reports whether a sample matches the query; id is only called for
// clauses that ask for it.
func (x *finder) fits(in *seriesInfo, s *series.Sample) bool {
	j := x.judged(in)
	if j.never {
		return false
	}
	if len(j.rest) == 0 {
		return true
	}
	if j.whole {
		v, err := search.Extractor{}.ExtractFor(x.sel, in.t.Append(nil, s))
		return err == nil && search.Match(x.q, v)
	}
	for _, c := range j.rest {
		v := &j.vals.ByParam[c.Param.Code][0]
		switch c.Param.Code {
		case "date":
			v.Lo, v.Hi = s.Interval()
		case "_lastUpdated":
			v.Lo, v.Hi = s.Commit.Updated, s.Commit.Updated+1
		case "_id":
			k := in.t.Key(s)
			v.Code = k.ID()
		default:
			v.Num = s.Values[0].Float()
		}
		if !search.MatchClause(c, &j.vals) {
			return false
		}
	}
	return true
}
