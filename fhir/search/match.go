package search

import (
	"cmp"
	"math"
	"strings"

	"pulsegate/fhir/element"
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
	if len(c.Joins) > 0 {
		return false // they are to be evaluated first, see Clause.Joins
	}
	if c.Any != nil {
		return matchLists(c.Any, v) != c.Not
	}
	have := v.ByParam[c.Param.Code]
	if c.Modifier == ModMissing {
		return ((len(have) == 0) == c.Missing) != c.Not
	}
	// :not also matches resources without a value.
	return matchAny(c, have) != ((c.Modifier == ModNot) != c.Not)
}

// matchLists reports whether v satisfies every clause of one of the lists.
func matchLists(lists [][]Clause, v *Values) bool {
next:
	for _, list := range lists {
		for i := range list {
			if !MatchClause(&list[i], v) {
				continue next
			}
		}
		return true
	}
	return false
}

// reads reports whether the clause depends on a parameter.
func (c *Clause) reads(code string) bool {
	if c.Any == nil {
		return c.Param.Code == code
	}
	found := false
	c.params(func(p *Param) { found = found || p.Code == code })
	return found
}

// params calls fn for each parameter on which the clause depends.
func (c *Clause) params(fn func(*Param)) {
	if c.Any == nil {
		fn(c.Param)
		return
	}
	for _, list := range c.Any {
		for i := range list {
			list[i].params(fn)
		}
	}
}

func matchAny(c *Clause, have []Value) bool {
	if c.Param.Type == typeParts {
		return matchParts(c, have)
	}
	for i := range have {
		if have[i].Unvalued {
			continue
		}
		if c.lookup != nil {
			if c.lookup.has(&have[i]) {
				return true
			}
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

// matchValue matches one value of a resource against one value of a clause. The prefix
// ne of a type without prefixes comes from _filter.
func matchValue(p *Param, m Modifier, want, have *Value) bool {
	switch p.Type {
	case TypeToken:
		return matchCoded(m, want, have) != (want.Prefix == NE)
	case TypeDate:
		return matchDate(want, have)
	case TypeReference:
		return matchReference(m, want, have) != (want.Prefix == NE)
	case TypeString:
		return p.matchString(m, want, have) != (want.Prefix == NE)
	case TypeQuantity:
		return matchQuantity(want, have)
	case TypeNumber:
		return matchNumber(want, have)
	case TypeURI:
		return matchURI(m, want.Code, have.Code) != (want.Prefix == NE)
	}
	return p.Type.Composite() && matchPair(p.Type, want, have)
}

// matchCoded matches a token under a modifier.
func matchCoded(m Modifier, want, have *Value) bool {
	switch m {
	case ModText:
		return have.Text != "" && strings.HasPrefix(have.Text, want.Text)
	case ModOfType:
		return have.RefID == want.RefID && have.RefType == want.RefType && have.Code == want.Code
	}
	return matchToken(want, have)
}

// matchString matches a string under a modifier.
func (p *Param) matchString(m Modifier, want, have *Value) bool {
	switch m {
	case ModExact:
		return have.Code == want.Code
	case ModContains:
		return strings.Contains(have.Text, want.Text)
	case ModEqual:
		return have.Text == want.Text
	case ModEnds:
		return strings.HasSuffix(have.Text, want.Text)
	}
	return startsWith(have.Text, want.Text, p.matchesWords())
}

// matchURI matches a URI. The modifiers :below and :above compare whole segments of
// URLs, so that http://a.org/fhir is not above http://a.org/fhirbase; R4 says only that
// they apply to URLs and not to URNs.
func matchURI(m Modifier, want, have string) bool {
	switch m {
	case ModBelow:
		return below(have, want)
	case ModAbove:
		return below(want, have)
	case ModContains:
		return strings.Contains(strings.ToLower(have), strings.ToLower(want))
	case ModEnds:
		return strings.HasSuffix(strings.ToLower(have), strings.ToLower(want))
	case ModEqual: // starts with
		return strings.HasPrefix(strings.ToLower(have), strings.ToLower(want))
	}
	return have == want
}

// below reports whether the URL u is root or below it.
func below(u, root string) bool {
	rest, ok := strings.CutPrefix(u, root)
	return ok && (rest == "" || strings.HasSuffix(root, "/") || rest[0] == '/')
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
	if m == ModBelow {
		return belowCanonical(want.Code, have.Code)
	}
	return want.Code != "" && have.Code == want.Code
}

// belowCanonical reports whether a canonical reference is one to url in any version, or,
// if url has a version, in that version or one below it: 1 is above 1.2 (R4
// search.html#reference).
func belowCanonical(url, have string) bool {
	rest, ok := strings.CutPrefix(have, url)
	if !ok || url == "" {
		return false
	}
	if rest == "" {
		return true
	}
	if strings.Contains(url, "|") {
		return rest[0] == '.'
	}
	return rest[0] == '|'
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

// matchQuantity matches a quantity. "system|code" must be the same unit, or another one
// of UCUM that measures the same; "||unit" matches the code or the human-readable unit.
func matchQuantity(want, have *Value) bool {
	if !want.HasSystem {
		return (want.Code == "" || want.Code == have.Code || want.Code == have.Text) && matchNumber(want, have)
	}
	if want.System != have.System {
		return false
	}
	if want.Code == "" || want.Code == have.Code {
		return matchNumber(want, have)
	}
	return want.System == element.UCUM && matchConverted(want, have, want.Code, have.Code)
}

// matchNumber matches numbers. Equality uses the written precision of the clause;
// the other comparisons treat both numbers as exact (R4 3.1.1.4.6).
func matchNumber(want, have *Value) bool {
	if have.Comparator != Exact {
		return matchSpan(want, have.span())
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

// span is a range of numbers: a quantity with a comparator, which has one open end, a
// Range, or the bounds of SampledData.
type span struct {
	lo, hi             float64
	loClosed, hiClosed bool // the bound itself is in the range
}

func (v *Value) span() span {
	switch v.Comparator {
	case Less:
		return span{lo: math.Inf(-1), hi: v.Num}
	case LessOrEqual:
		return span{lo: math.Inf(-1), hi: v.Num, hiClosed: true}
	case GreaterOrEqual:
		return span{lo: v.Num, hi: math.Inf(1), loClosed: true}
	case Greater:
		return span{lo: v.Num, hi: math.Inf(1)}
	}
	return span{lo: v.NumLo, hi: v.NumHi, loClosed: true, hiClosed: true}
}

// intersects reports whether the closed range from lo to hi has a number of s.
func (s span) intersects(lo, hi float64) bool {
	return (s.lo < hi || s.lo == hi && s.loClosed) && (s.hi > lo || s.hi == lo && s.hiClosed)
}

// matchSpan matches a range. R4's rules for ranges (search.html#prefix) depend on
// whether the range above, below or at the clause's value intersects it, and equality on
// whether the clause's range contains it.
func matchSpan(want *Value, s span) bool {
	within := s.lo >= want.NumLo && (s.hi < want.NumHi || s.hi == want.NumHi && !s.hiClosed)
	at := s.intersects(want.Num, want.Num)
	switch want.Prefix {
	case EQ:
		return within
	case NE:
		return !within
	case GT:
		return s.hi > want.Num
	case LT:
		return s.lo < want.Num
	case GE:
		return s.hi > want.Num || at || within
	case LE:
		return s.lo < want.Num || at || within
	case SA:
		return s.lo > want.Num || s.lo == want.Num && !s.loClosed
	case EB:
		return s.hi < want.Num || s.hi == want.Num && !s.hiClosed
	case AP:
		tenth := math.Abs(want.Num) / 10
		return s.intersects(want.Num-tenth, want.Num+tenth)
	}
	return false
}
