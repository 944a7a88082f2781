package search

import (
	"math"
	"strings"
)

// Match reports whether a resource with values v satisfies every clause of q.
func Match(q *Query, v *Values) bool {
	for i := range q.Clauses {
		if !MatchClause(&q.Clauses[i], v) {
			return false
		}
	}
	return true
}

// MatchClause reports whether v satisfies one clause.
func MatchClause(c *Clause, v *Values) bool {
	have := v.ByParam[c.Param.Code]
	if c.Modifier == ModMissing {
		return (len(have) == 0) == c.Missing
	}
	// :not takes what has no value as well.
	return matchAny(c, have) != (c.Modifier == ModNot)
}

func matchAny(c *Clause, have []Value) bool {
	for i := range have {
		for j := range c.Values {
			if matchValue(c.Param.Kind, c.Modifier, &c.Values[j], &have[i]) {
				return true
			}
		}
	}
	return false
}

// matchValue compares one wanted value with one the resource has.
func matchValue(k Kind, m Modifier, want, have *Value) bool {
	switch k {
	case KindToken:
		if m == ModText {
			return have.Text != "" && strings.HasPrefix(have.Text, want.Text)
		}
		return matchToken(want, have)
	case KindDate:
		return matchDate(want, have)
	case KindReference:
		return matchReference(m, want, have)
	case KindString:
		switch m {
		case ModExact:
			return have.Code == want.Code
		case ModContains:
			return strings.Contains(have.Text, want.Text)
		}
		return strings.HasPrefix(have.Text, want.Text)
	case KindQuantity:
		return matchUnit(want, have) && matchNumber(want, have)
	case KindNumber:
		return matchNumber(want, have)
	case KindURI:
		return have.Code == want.Code
	}
	return k.Composite() && matchPair(k, want, have)
}

// matchToken compares exactly, case included: the code systems of this domain
// (LOINC, UCUM, SNOMED CT, FHIR's own) are case-sensitive, and a granular
// scope must mean the same as a search.
func matchToken(want, have *Value) bool {
	if want.HasSystem && want.System != have.System {
		return false
	}
	if want.Code == "" { // "system|": any code of the system
		return want.HasSystem && (have.Code != "" || have.System != "")
	}
	return want.Code == have.Code
}

// matchReference: a logical reference is found by :identifier only.
func matchReference(m Modifier, want, have *Value) bool {
	if m == ModIdentifier {
		return have.HasSystem && matchToken(want, have)
	}
	if have.HasSystem {
		return false
	}
	if have.RefType != "" {
		return have.RefType == want.RefType && have.RefID == want.RefID
	}
	return want.Code != "" && have.Code == want.Code
}

// matchDate is R4 3.1.1.4.7 on half-open intervals.
func matchDate(want, have *Value) bool {
	within := want.Lo <= have.Lo && have.Hi <= want.Hi
	switch want.Prefix {
	case EQ:
		return within
	case NE:
		return !within
	case GT:
		return have.Hi > want.Hi
	case LT:
		return have.Lo < want.Lo
	case GE:
		return within || have.Hi > want.Hi
	case LE:
		return within || have.Lo < want.Lo
	case SA:
		return have.Lo >= want.Hi
	case EB:
		return have.Hi <= want.Lo
	case AP: // the parser has widened the interval
		return have.Lo < want.Hi && have.Hi > want.Lo
	}
	return false
}

// matchUnit: "system|code" must be exact; "||unit" is the code or the unit
// written for people.
func matchUnit(want, have *Value) bool {
	if want.HasSystem {
		return want.System == have.System && (want.Code == "" || want.Code == have.Code)
	}
	return want.Code == "" || want.Code == have.Code || want.Code == have.Text
}

// matchNumber: equality uses the written precision of the wanted value; the
// other comparisons take both as exact (R4 3.1.1.4.6).
func matchNumber(want, have *Value) bool {
	switch want.Prefix {
	case EQ:
		return want.NumLo <= have.Num && have.Num < want.NumHi
	case NE:
		return have.Num < want.NumLo || have.Num >= want.NumHi
	case GT, SA:
		return have.Num > want.Num
	case LT, EB:
		return have.Num < want.Num
	case GE:
		return have.Num >= want.Num
	case LE:
		return have.Num <= want.Num
	case AP:
		return math.Abs(have.Num-want.Num) <= math.Abs(want.Num)/10
	}
	return false
}
