package search

import (
	"math"
	"strconv"
	"strings"
)

// number is a decimal with the range [lo, hi) that its written precision covers:
// half a unit of the last digit on either side.
type number struct{ num, lo, hi float64 }

// parseNumber parses a FHIR decimal. In R4's example, 1e2 covers 95 to 105, so a
// number with an exponent and without a fraction has one more digit of precision.
func parseNumber(s string) (number, bool) {
	if s == "" || len(s) > 64 {
		return number{}, false
	}
	digit := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digit = true
		case c == '.', c == 'e', c == 'E', c == '-', c == '+':
		default:
			return number{}, false
		}
	}
	if !digit {
		return number{}, false
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(v, 0) {
		return number{}, false
	}
	half := 0.5
	mantissa, exp := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		if exp, err = strconv.Atoi(s[i+1:]); err != nil {
			return number{}, false
		}
		if !strings.Contains(mantissa, ".") {
			exp--
		}
	}
	if i := strings.IndexByte(mantissa, '.'); i >= 0 {
		exp -= len(mantissa) - i - 1
	}
	if exp != 0 {
		half *= math.Pow10(exp)
	}
	// The range must not be empty even if s has more digits than a float64.
	return number{v, v - half, max(v+half, math.Nextafter(v, math.Inf(1)))}, true
}
