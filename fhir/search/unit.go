package search

import (
	"math"
	"math/big"
	"strconv"
	"sync"
	"sync/atomic"

	"pulsegate/fhir/element"
	"pulsegate/fhir/ucum"
)

// A quantity matches a clause in another unit if both units are of UCUM and measure
// the same: 1 g matches 1000 mg (R4 search.html#quantity: "the search processor may
// choose to perform a search based on canonical units"). The conversion happens when a
// value is matched, and only if the units differ, because nearly all searches use the
// unit of the data; extracting a value costs nothing more, and no Value holds a
// converted number. It is exact, so that equal decimals are equal after it.

// unitCache caches the parsed units by their symbols. Units come from clients, so it
// is bounded; beyond that, units are parsed each time.
var unitCache struct {
	units sync.Map // string to *ucum.Unit, nil if it is no unit
	count atomic.Int64
}

const maxCachedUnits = 4096

func unitOf(symbol string) *ucum.Unit {
	if u, ok := unitCache.units.Load(symbol); ok {
		cached, _ := u.(*ucum.Unit)
		return cached
	}
	var unit *ucum.Unit
	if u, err := ucum.Parse(symbol); err == nil {
		unit = &u
	}
	if unitCache.count.Add(1) <= maxCachedUnits {
		unitCache.units.Store(symbol, unit)
	}
	return unit
}

// exact returns the decimal that f was read from.
func exact(f float64) *big.Rat {
	r, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	if !ok {
		return new(big.Rat)
	}
	return r
}

// convert returns a number in the unit from as a number in the unit to.
func convert(f float64, from, to *ucum.Unit) float64 {
	if math.IsInf(f, 0) {
		return f
	}
	out, _ := to.From(from.Canonical(exact(f))).Float64()
	return out
}

// CanonicalQuantity returns a quantity in the base units of UCUM, or not ok if its
// unit is not one of UCUM. The result is the float64 nearest to the exact number.
func CanonicalQuantity(system, unit string, num float64) (canonical float64, base string, ok bool) {
	if system != element.UCUM {
		return 0, "", false
	}
	u := unitOf(unit)
	if u == nil {
		return 0, "", false
	}
	if math.IsInf(num, 0) {
		return num, u.Base, true
	}
	f, _ := u.Canonical(exact(num)).Float64()
	return f, u.Base, true
}

// Commensurable reports whether quantities in two units of UCUM can be compared.
func Commensurable(a, b string) bool {
	x, y := unitOf(a), unitOf(b)
	return x != nil && y != nil && x.Base == y.Base
}

// matchConverted matches a quantity of a resource in one unit of UCUM against a clause
// in another.
func matchConverted(want, have *Value, wantUnit, haveUnit string) bool {
	to, from := unitOf(wantUnit), unitOf(haveUnit)
	if to == nil || from == nil || to.Base != from.Base {
		return false
	}
	in := *have
	in.Num = convert(have.Num, from, to)
	if have.Comparator == Between {
		in.NumLo, in.NumHi = convert(have.NumLo, from, to), convert(have.NumHi, from, to)
	}
	return matchNumber(want, &in)
}
