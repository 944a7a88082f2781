package find

import (
	"math"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// spanBuilder collects the spans of a clause.
type spanBuilder struct {
	typ, param string
	definition *search.Param
	spans      []span
	points     bool // all spans are those of one value each
	exact      bool
	broad      bool // the spans hold all values
	logical    bool // there are spans of logical references
	class      string
	mixed      bool // there are spans of several classes
}

// of notes the class of a value.
func (b *spanBuilder) of(class string) {
	b.mixed = b.mixed || b.class != "" && b.class != class
	b.class = class
}

func (b *spanBuilder) point(value string) { b.between(keys.IndexPrefix(b.typ, b.param, value)) }

func (b *spanBuilder) start(start string) { b.between(keys.IndexStart(b.typ, b.param, start)) }

func (b *spanBuilder) between(prefix []byte) {
	b.spans = append(b.spans, span{prefix, keys.PrefixEnd(prefix)})
}

// closed adds the values from lo to hi.
func (b *spanBuilder) closed(lo, hi string) {
	b.spans = append(b.spans, span{keys.IndexStart(b.typ, b.param, lo),
		keys.PrefixEnd(keys.IndexStart(b.typ, b.param, hi))})
}

// clause adds the spans of a clause. It reports false if its matches need not have rows.
func (b *spanBuilder) clause(c *search.Clause) bool {
	if c.Modifier == search.ModMissing {
		return b.missing(c)
	}
	if len(c.Values) == 0 {
		return false
	}
	b.points, b.exact = true, true
	for i := range c.Values {
		if !b.value(c.Modifier, &c.Values[i]) {
			return false
		}
	}
	if b.mixed {
		b.class = ""
	}
	return true
}

// missing adds the rows of all values, if every document with the parameter has some.
func (b *spanBuilder) missing(c *search.Clause) bool {
	if c.Missing || !rows.Sure(b.definition) {
		return false
	}
	switch b.broad, b.exact = true, true; b.definition.Type {
	case search.TypeString:
		b.start(string(rune(rows.ClassSort)))
	case search.TypeNumber, search.TypeQuantity:
		b.start(string(rune(rows.ClassNumber)))
	default:
		b.between(keys.IndexRows(b.typ, b.param))
	}
	return true
}

func (b *spanBuilder) value(m search.Modifier, v *search.Value) bool {
	switch b.definition.Type {
	case search.TypeToken, search.TypeReference, search.TypeURI:
		return b.code(m, v)
	case search.TypeString:
		b.points, b.exact = false, false
		return b.text(m, v)
	case search.TypeDate:
		b.points, b.exact = false, false
		return m == search.NoModifier && b.date(v)
	case search.TypeNumber, search.TypeQuantity:
		b.points, b.exact = false, false
		return m == search.NoModifier && b.number(v)
	}
	return false
}

func (b *spanBuilder) code(m search.Modifier, v *search.Value) bool {
	if v.Prefix != search.EQ {
		return false
	}
	switch m {
	case search.NoModifier:
		b.exact = b.exact && (b.definition.Type != search.TypeToken || !v.HasSystem) // rows have no system
	case search.ModType:
	default:
		b.exact = false
	}
	switch m {
	case search.NoModifier, search.ModType, search.ModOfType:
		if v.RefType != "" && b.definition.Type == search.TypeReference {
			b.point(v.RefType + "/" + v.RefID)
		} else if v.Code == "" {
			return false
		}
		if v.Code != "" {
			b.point(v.Code)
		}
		return true
	case search.ModIdentifier:
		b.logical = true
		b.point(string(rune(rows.ClassLogical)) + v.Code)
		return b.definition.Type == search.TypeReference && v.Code != ""
	case search.ModBelow:
		return b.below(v)
	case search.ModAbove:
		return b.above(v)
	}
	return false
}

// below adds the URLs that begin with a value.
func (b *spanBuilder) below(v *search.Value) bool {
	if b.definition.Type == search.TypeToken {
		return false
	}
	if v.RefType != "" {
		b.point(v.RefType + "/" + v.RefID)
	}
	b.points = false
	if len(v.Code) <= keys.MaxValue {
		b.start(v.Code)
	}
	b.between(keys.HashedRows(b.typ, b.param))
	return v.Code != ""
}

// above adds the URLs of which a value is part.
func (b *spanBuilder) above(v *search.Value) bool {
	if b.definition.Type != search.TypeURI || v.Code == "" {
		return false
	}
	b.point(v.Code)
	for i := range v.Code {
		if v.Code[i] == '/' && i > 0 {
			b.point(v.Code[:i])
			b.point(v.Code[:i+1])
		}
	}
	return true
}

func (b *spanBuilder) text(m search.Modifier, v *search.Value) bool {
	if v.Prefix != search.EQ {
		return false
	}
	text := v.Text
	switch m {
	case search.NoModifier:
		s, _ := rows.Unspaced(text)
		b.start(string(rune(rows.ClassText)) + s)
		if b.definition.MatchesWords() {
			b.start(string(rune(rows.ClassWord)) + s)
			b.point(string(rune(rows.ClassLong)))
		}
		return true
	case search.ModExact:
		text = search.Fold(v.Code)
		fallthrough
	case search.ModEqual:
		s, cut := rows.Unspaced(text)
		if s = string(rune(rows.ClassText)) + s; cut {
			b.start(s)
		} else {
			b.point(s)
		}
		return true
	}
	return false
}

// date adds the starts of the dates of each bucket that can satisfy a value.
func (b *spanBuilder) date(v *search.Value) bool {
	b.of("date")
	for i := range rows.DateClasses() {
		slack, bounded := rows.DateSlack(i)
		lo, hi := startOf(v, slack)
		if !bounded {
			lo = math.MinInt64
		}
		class := string(rune(rows.FirstDate + i))
		b.closed(class+rows.Instant(lo), class+rows.Instant(hi))
	}
	return true
}

// number adds the numbers that can satisfy a value, and all ranges. The bounds are wider
// than those of the value by more than the rounding errors of unit conversions.
func (b *spanBuilder) number(v *search.Value) bool {
	lo, hi := numbers(v)
	b.point(string(rune(rows.ClassOpen)))
	if b.definition.Type == search.TypeQuantity && v.HasSystem && v.Code != "" {
		from, unit, ok := search.CanonicalQuantity(v.System, v.Code, lo)
		if to, _, _ := search.CanonicalQuantity(v.System, v.Code, hi); ok {
			class := rows.Canonical(unit)
			b.of(class)
			b.closed(class+rows.Number(from-margin(from)), class+rows.Number(to+margin(to)))
			return true
		}
	}
	class := string(rune(rows.ClassNumber))
	b.of(class)
	b.closed(class+rows.Number(lo-margin(lo)), class+rows.Number(hi+margin(hi)))
	return true
}

// margin returns more than the rounding errors of a number.
func margin(x float64) float64 { return math.Abs(x) * 1e-9 }

// numbers bounds the numbers that can satisfy a value.
func numbers(v *search.Value) (from, to float64) {
	from, to = math.Inf(-1), math.Inf(1)
	lo, hi := min(v.NumLo, v.Num), max(v.NumHi, v.Num)
	switch v.Prefix {
	case search.EQ:
		from, to = lo, hi
	case search.GT, search.GE, search.SA:
		from = lo
	case search.LT, search.LE, search.EB:
		to = hi
	case search.AP:
		from, to = lo-math.Abs(v.Num)/5, hi+math.Abs(v.Num)/5
	}
	return from, to
}
