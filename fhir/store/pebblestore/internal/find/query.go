package find

import (
	"math"
	"slices"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// plain reports whether a clause is about the values of one parameter of R4, so that a
// path through the rows may rely on it. Other clauses are only evaluated.
func plain(c *search.Clause) bool {
	return c.Param != nil && !c.Not && c.Any == nil && len(c.Joins) == 0 && !rows.Runtime(c.Param)
}

// idsOf returns the ids that the query names, sorted, or nil if it names none.
func idsOf(q *search.Query) []string {
	for i := range q.Clauses {
		c := &q.Clauses[i]
		if !plain(c) || c.Param.Code != "_id" || c.Modifier != search.NoModifier || len(c.Values) == 0 {
			continue
		}
		ids := []string{}
		for j := range c.Values {
			ids = append(ids, c.Values[j].Code)
		}
		slices.Sort(ids)
		return slices.Compact(ids)
	}
	return nil
}

// codesOf returns the clusters of the query's code clause, or nil if it has no
// clause that names codes.
func codesOf(q *search.Query) [][8]byte {
	if q.Type != "Observation" {
		return nil
	}
next:
	for i := range q.Clauses {
		c := &q.Clauses[i]
		if !plain(c) || c.Param.Code != "code" || c.Modifier != search.NoModifier || len(c.Values) == 0 {
			continue
		}
		var out [][8]byte
		for j := range c.Values {
			if c.Values[j].Code == "" {
				continue next
			}
			if h := keys.CodeHash(c.Values[j].Code); !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
		return out
	}
	return nil
}

// indexClause returns the clause to look up in table X, the most selective type
// first, or nil if there is none.
func indexClause(q *search.Query) *search.Clause {
	var best *search.Clause
	rank := 0
	for i := range q.Clauses {
		c := &q.Clauses[i]
		if !plain(c) || !rows.IndexedBefore(c.Param) || len(c.Values) == 0 || c.Modifier != search.NoModifier &&
			c.Modifier != search.ModType {
			continue
		}
		r := 1
		switch {
		case c.Param.Code == "identifier":
			r = 4
		case c.Param.Type == search.TypeReference:
			r = 3
		case c.Param.Type == search.TypeURI:
			r = 2
		}
		for j := range c.Values {
			if rows.IndexValue(c.Param.Type, &c.Values[j]) == "" {
				r = 0
			}
		}
		if r > rank {
			best, rank = c, r
		}
	}
	return best
}

// dates bounds the start [lo, hi) of documents of a bucket that can satisfy the
// query's date clauses. A document ends at most the bucket's slack after its start;
// in the long bucket, nothing bounds the start from below.
func (f *finder) dates(bucket byte) (lo, hi int64) {
	if bucket == keys.BucketUndated || keys.DateParam(f.query.Type) == "" {
		return math.MinInt64, math.MaxInt64
	}
	slack, bounded := keys.Slack(bucket)
	if lo, hi = f.bounds(keys.DateParam(f.query.Type), slack); !bounded {
		lo = math.MinInt64
	}
	return lo, hi
}

// bounds bounds the start [lo, hi) of intervals no longer than slack that can
// satisfy the query's clauses on a date parameter.
func (f *finder) bounds(param string, slack int64) (lo, hi int64) {
	lo, hi = math.MinInt64, math.MaxInt64
	for i := range f.query.Clauses {
		c := &f.query.Clauses[i]
		if !plain(c) || c.Param.Code != param || c.Modifier != search.NoModifier || len(c.Values) == 0 {
			continue
		}
		cl, ch := int64(math.MaxInt64), int64(math.MinInt64)
		for j := range c.Values {
			l, h := startOf(&c.Values[j], slack)
			cl, ch = min(cl, l), max(ch, h)
		}
		lo, hi = max(lo, cl), min(hi, ch)
	}
	return lo, hi
}

// startOf bounds the start of a document that lasts at most slack and satisfies one
// value.
func startOf(v *search.Value, slack int64) (lo, hi int64) {
	lo, hi = math.MinInt64, math.MaxInt64
	switch v.Prefix {
	case search.EQ:
		return v.Lo, above(v.Hi)
	case search.GT:
		return before(v.Hi, slack), hi
	case search.GE:
		return min(v.Lo, before(v.Hi, slack)), hi
	case search.LT:
		return lo, above(v.Lo)
	case search.LE:
		return lo, above(v.Hi)
	case search.SA:
		return v.Hi, hi
	case search.EB:
		return lo, above(v.Lo)
	case search.AP:
		return before(v.Lo, slack), above(v.Hi)
	}
	return lo, hi
}

func before(ms, slack int64) int64 {
	if ms < math.MinInt64+slack {
		return math.MinInt64
	}
	return ms - slack
}

func above(ms int64) int64 {
	if ms == math.MaxInt64 {
		return ms
	}
	return ms + 1
}

// byUpdate reports whether a sort order is that of the U and V rows: lastUpdated,
// then id.
func byUpdate(sort []search.SortKey) bool {
	return len(sort) > 0 && sort[0].Param == "_lastUpdated" &&
		(len(sort) == 1 || len(sort) == 2 && sort[1] == search.SortKey{Param: "_id"})
}

// severalPatients returns the patient parameter of a type whose resources may name
// more than one patient.
func severalPatients(typ string) (*search.Param, bool) {
	if typ == "Group" {
		return search.Lookup(typ, "member")
	}
	if _, single := search.PatientParam(typ); single {
		return nil, false
	}
	return search.CompartmentParam(typ)
}

// onePatient returns the patient to which a search is limited, for a type whose
// resources may name several.
func (f *finder) onePatient() (id string, ok bool) {
	p, several := severalPatients(f.query.Type)
	if !several {
		return "", false
	}
	for i := range f.query.Clauses {
		c := &f.query.Clauses[i]
		if !plain(c) || c.Param.Code != p.Code || len(c.Values) != 1 || c.Modifier != search.NoModifier &&
			c.Modifier != search.ModType {
			continue
		}
		if v := &c.Values[0]; v.RefType == "Patient" && !v.HasSystem {
			return v.RefID, true
		}
	}
	return "", false
}
