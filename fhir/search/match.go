package search

import (
	"cmp"
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
	// :not also matches resources without a value.
	return matchAny(c, have) != (c.Modifier == ModNot)
}

func matchAny(c *Clause, have []Value) bool {
	for i := range have {
		if have[i].Unvalued {
			continue
		}
		for j := range c.Values {
			if matchValue(c.Param, c.Modifier, &c.Values[j], &have[i]) {
				return true
			}
		}
	}
	return false
}

// matchValue matches one value of a resource against one value of a clause.
func matchValue(p *Param, m Modifier, want, have *Value) bool {
	switch p.Type {
	case TypeToken:
		if m == ModText {
			return have.Text != "" && strings.HasPrefix(have.Text, want.Text)
		}
		return matchToken(want, have)
	case TypeDate:
		return matchDate(want, have)
	case TypeReference:
		return matchReference(m, want, have)
	case TypeString:
		switch m {
		case ModExact:
			return have.Code == want.Code
		case ModContains:
			return strings.Contains(have.Text, want.Text)
		}
		return startsWith(have.Text, want.Text, p.matchesWords())
	case TypeQuantity:
		return matchUnit(want, have) && matchNumber(want, have)
	case TypeNumber:
		return matchNumber(want, have)
	case TypeURI:
		return have.Code == want.Code
	}
	return p.Type.Composite() && matchPair(p.Type, want, have)
}

// matchesWords reports whether a string parameter matches the beginning of any
// word, not only of the text. R4 defines these parameters as "a portion of" a
// name.
func (p *Param) matchesWords() bool {
	switch p.Code {
	case "family", "given", "name":
		return true
	}
	return false
}

// startsWith reports whether a folded text or, if words is set, one of its words
// begins with want. It ignores how words are separated: a hyphen, a space and
// nothing are the same.
func startsWith(have, want string, words bool) bool {
	if strings.HasPrefix(have, want) || unspacedPrefix(have, want) {
		return true
	}
	for words {
		i := strings.IndexByte(have, ' ')
		if i < 0 {
			return false
		}
		if have = have[i+1:]; strings.HasPrefix(have, want) || unspacedPrefix(have, want) {
			return true
		}
	}
	return false
}

// unspacedPrefix is like strings.HasPrefix but ignores spaces.
func unspacedPrefix(have, want string) bool {
	i := 0
	for j := 0; j < len(want); j++ {
		if want[j] == ' ' {
			continue
		}
		for i < len(have) && have[i] == ' ' {
			i++
		}
		if i == len(have) || have[i] != want[j] {
			return false
		}
		i++
	}
	return true
}

// matchToken compares exactly. A clause has one value per upper or lower case that
// counts (see caseVariants), so that a granular scope means the same as a search.
func matchToken(want, have *Value) bool {
	if want.HasSystem && want.System != have.System {
		return false
	}
	if want.Code == "" { // "system|": any code of the system
		return want.HasSystem && (have.Code != "" || have.System != "")
	}
	return want.Code == have.Code
}

// matchReference matches references. Only :identifier matches logical references.
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

// matchDate implements R4 search.html#prefix (3.1.1.4.7) for half-open intervals.
func matchDate(want, have *Value) bool {
	if want.subMillisecond() || have.subMillisecond() {
		wantLo, wantHi := want.preciseInterval()
		haveLo, haveHi := have.preciseInterval()
		return matchInterval(want.Prefix, haveLo.compare(wantLo), haveHi.compare(wantHi), haveLo.compare(wantHi),
			haveHi.compare(wantLo))
	}
	return matchInterval(want.Prefix, cmp.Compare(have.Lo, want.Lo), cmp.Compare(have.Hi, want.Hi),
		cmp.Compare(have.Lo, want.Hi), cmp.Compare(have.Hi, want.Lo))
}

// matchInterval matches the interval of a resource against the one of a clause,
// given the comparisons of their bounds: start with start, end with end, start
// with end, and end with start.
func matchInterval(p Prefix, start, end, startEnd, endStart int) bool {
	within := start >= 0 && end <= 0
	switch p {
	case EQ:
		return within
	case NE:
		return !within
	case GT:
		return end > 0
	case LT:
		return start < 0
	case GE:
		return within || end > 0
	case LE:
		return within || start < 0
	case SA:
		return startEnd >= 0
	case EB:
		return endStart <= 0
	case AP: // overlap; the parser has widened the interval
		return startEnd < 0 && endStart > 0
	}
	return false
}

// matchUnit matches the unit of a quantity. "system|code" must be equal; "||unit"
// matches the code or the human-readable unit.
func matchUnit(want, have *Value) bool {
	if want.HasSystem {
		return want.System == have.System && (want.Code == "" || want.Code == have.Code)
	}
	return want.Code == "" || want.Code == have.Code || want.Code == have.Text
}

// matchNumber matches numbers. Equality uses the written precision of the clause;
// the other comparisons treat both numbers as exact (R4 3.1.1.4.6).
func matchNumber(want, have *Value) bool {
	if have.Comparator != Exact {
		return matchOpen(want, have)
	}
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

// matchOpen matches a quantity with a comparator, which is a range with one open
// end. It applies R4's rules for ranges (search.html#prefix), which depend on
// whether the range above, below or at the clause's value intersects it.
func matchOpen(want, have *Value) bool {
	below := have.Comparator == Less || have.Comparator == LessOrEqual
	closed := have.Comparator == LessOrEqual || have.Comparator == GreaterOrEqual
	contains := func(n float64) bool { // whether n is in the range
		switch {
		case n == have.Num:
			return closed
		case below:
			return n < have.Num
		}
		return n > have.Num
	}
	switch want.Prefix {
	case NE: // an open range is never within the clause's range
		return true
	case GT:
		return !below || have.Num > want.Num
	case LT:
		return below || have.Num < want.Num
	case GE:
		return !below || have.Num > want.Num || contains(want.Num)
	case LE:
		return below || have.Num < want.Num || contains(want.Num)
	case SA:
		return !below && (have.Num > want.Num || have.Num == want.Num && !closed)
	case EB:
		return below && (have.Num < want.Num || have.Num == want.Num && !closed)
	case AP:
		tenth := math.Abs(want.Num) / 10
		return contains(want.Num) || contains(want.Num-tenth) || contains(want.Num+tenth)
	}
	return false // EQ: an open range is not within the clause's range
}
