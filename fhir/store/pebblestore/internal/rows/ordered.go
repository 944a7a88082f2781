package rows

import (
	"math"
	"strings"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// OrderedSchema is the first row schema with ordered rows.
const OrderedSchema = 5

// Classes of ordered values. The class is the first byte of the value in an X key.
const (
	// ClassText is followed by a folded string without its spaces, and ClassWord by the
	// part of one that starts at a later word.
	ClassText = 's'
	ClassWord = 'w'
	// ClassLong is the value of a string with more words than have rows.
	ClassLong = 'v'
	// ClassSort is followed by a folded string with its spaces. A document has the rows of
	// its least and its greatest string only.
	ClassSort = 'o'
	// ClassNumber is followed by a number as written.
	ClassNumber = 'n'
	// ClassCanonical is followed by the hash of a canonical unit and a number in it.
	ClassCanonical = 'c'
	// ClassOpen is the value of a range and of a quantity with a comparator.
	ClassOpen = 'x'
	// ClassSeveral is the value of a document with several dates or numbers, of which one
	// may satisfy one clause of a search, and another the next.
	ClassSeveral = 'y'
	// ClassLogical is followed by the identifier of a logical reference. It lies below all
	// other values of a reference, which begin with a printable character.
	ClassLogical = '\x03'
)

// Dates are divided into buckets by length, like documents (keys.Slack), so that a
// search bounds the start at both ends. The class of a date is '0' and its bucket.
const (
	FirstDate = '0'
	dates     = 6
)

// dateSlacks holds the greatest length of each bucket but the last, which has none.
var dateSlacks = [dates - 1]int64{ // read only
	1000, 60 * 1000, keys.DayMS, 31 * keys.DayMS, 366 * keys.DayMS,
}

// DateClasses returns the number of buckets of dates.
func DateClasses() int { return dates }

// DateSlack returns the greatest length in milliseconds of a date in bucket i. It
// reports false if the bucket has no bound.
func DateSlack(i int) (ms int64, ok bool) {
	if i < len(dateSlacks) {
		return dateSlacks[i], true
	}
	return 0, false
}

const (
	maxText  = 64 // bytes of a string in an X key
	maxWords = 32 // words of a string with rows of their own
)

// Ordered reports whether the values of a search parameter have ordered rows.
func Ordered(p *search.Param) bool {
	switch p.Type {
	case search.TypeString, search.TypeDate, search.TypeNumber, search.TypeQuantity:
	default:
		return false
	}
	return indexedFew(p.ResourceType) == nil && p.Code != "_lastUpdated"
}

// Generic reports whether all parameters of a type have rows.
func Generic(typ string) bool { return indexedFew(typ) == nil }

// Unspaced returns a folded string without its spaces, cut to the length of a value in
// a key. It reports whether the string was cut.
func Unspaced(text string) (s string, cut bool) {
	return clipText(strings.ReplaceAll(text, " ", ""))
}

func clipText(s string) (string, bool) {
	if len(s) <= maxText {
		return s, false
	}
	return s[:maxText], true
}

// SortText returns the part of a folded string by which ordered rows are sorted.
func SortText(text string) string {
	s, _ := clipText(text)
	return s
}

// Number returns 8 bytes whose order is that of the numbers.
func Number(x float64) string {
	if x == 0 {
		x = 0 // -0 and 0 are equal
	}
	u := math.Float64bits(x)
	if u>>63 != 0 {
		u = ^u
	} else {
		u |= 1 << 63
	}
	return string(keys.AppendUint64(nil, u))
}

// Instant returns 8 bytes whose order is that of the times.
func Instant(ms int64) string { return string(keys.AppendUint64(nil, keys.Sortable(ms))) }

// Canonical returns the start of the values of quantities in a canonical unit.
func Canonical(unit string) string {
	h := keys.CodeHash(unit)
	return string(rune(ClassCanonical)) + string(h[:])
}

// EachOrdered calls fn with the values of the ordered rows of a parameter.
func EachOrdered(p *search.Param, vals []search.Value, fn func(value string)) {
	var seen distinct[string]
	add := func(s string) {
		if seen.add(s) {
			fn(s)
		}
	}
	several := -1
	for i := range vals {
		v := &vals[i]
		if v.Unvalued {
			continue
		}
		if several++; several == 1 && p.Type != search.TypeString {
			add(string(rune(ClassSeveral)))
		}
		switch p.Type {
		case search.TypeString:
			eachText(v.Text, p.MatchesWords(), add)
		case search.TypeDate:
			add(string(rune(FirstDate+dateBucket(v))) + Instant(v.Lo))
		case search.TypeNumber, search.TypeQuantity:
			add(string(rune(ClassNumber)) + Number(v.Num))
			if x, unit, ok := search.CanonicalQuantity(v.System, v.Code, v.Num); ok && p.Type == search.TypeQuantity {
				add(Canonical(unit) + Number(x))
			}
			if v.Comparator != search.Exact {
				add(string(rune(ClassOpen)))
			}
		}
	}
	if p.Type == search.TypeString {
		least, greatest, ok := extremes(vals)
		if ok {
			add(string(rune(ClassSort)) + SortText(least))
			add(string(rune(ClassSort)) + SortText(greatest))
		}
	}
}

func dateBucket(v *search.Value) int {
	if v.Lo == math.MinInt64 || v.Hi == math.MaxInt64 {
		return len(dateSlacks)
	}
	for i, slack := range dateSlacks {
		if uint64(v.Hi-v.Lo) <= uint64(slack) {
			return i
		}
	}
	return len(dateSlacks)
}

func eachText(text string, words bool, add func(string)) {
	whole, _ := Unspaced(text)
	add(string(rune(ClassText)) + whole)
	if !words {
		return
	}
	for range maxWords {
		i := strings.IndexByte(text, ' ')
		if i < 0 {
			return
		}
		text = text[i+1:]
		s, _ := Unspaced(text)
		add(string(rune(ClassWord)) + s)
	}
	if strings.Contains(text, " ") {
		add(string(rune(ClassLong)))
	}
}

func extremes(vals []search.Value) (least, greatest string, ok bool) {
	for i := range vals {
		if vals[i].Unvalued {
			continue
		}
		t := vals[i].Text
		if !ok || t < least {
			least = t
		}
		if !ok || t > greatest {
			greatest = t
		}
		ok = true
	}
	return least, greatest, ok
}

// eachValue calls fn with the values under which a parameter has X rows.
func eachValue(p *search.Param, vals []search.Value, ordered bool, fn func(value string)) {
	switch {
	case ordered && Indexed(p) || IndexedBefore(p):
		var seen distinct[string]
		for i := range vals {
			x := IndexValue(p.Type, &vals[i])
			if x == "" && ordered && p.Type == search.TypeReference && vals[i].HasSystem && Generic(p.ResourceType) {
				x = string(rune(ClassLogical)) + vals[i].Code
			}
			if x != "" && seen.add(x) {
				fn(x)
			}
		}
	case ordered && Ordered(p):
		EachOrdered(p, vals, fn)
	}
}

// EachRow calls fn with the prefix of every X row of a document under one parameter.
func EachRow(p *search.Param, vals []search.Value, fn func(prefix []byte)) {
	if len(vals) == 0 {
		return
	}
	param := ParamKey(p)
	eachValue(p, vals, true, func(x string) { fn(keys.IndexPrefix(p.ResourceType, param, x)) })
}

// SortValue returns the part of an X value by which rows of a class are sorted, for a
// sort key of a document.
func SortValue(p *search.Param, k search.Value) string {
	switch p.Type {
	case search.TypeString:
		return SortText(k.Code)
	case search.TypeDate:
		return Instant(k.Lo)
	case search.TypeNumber, search.TypeQuantity:
		return Number(k.Num)
	}
	return k.Code
}

// SortClasses returns the classes of values whose rows, merged, are in the order of
// _sort by a parameter. It returns nil if there are none.
func SortClasses(p *search.Param) []string {
	switch p.Type {
	case search.TypeString:
		return []string{string(rune(ClassSort))}
	case search.TypeNumber, search.TypeQuantity:
		return []string{string(rune(ClassNumber))}
	case search.TypeDate:
		var out []string
		for i := range dates {
			out = append(out, string(rune(FirstDate+i)))
		}
		return out
	case search.TypeToken, search.TypeURI, search.TypeReference:
		return []string{""}
	}
	return nil
}
