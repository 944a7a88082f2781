package explain

import (
	"math/big"
	"strconv"
	"strings"

	"pulsegate/mapping"
)

// equation returns a conversion in words: "180 [lb_av] × 0.45359237 = 81.6466266 kg".
func equation(n *mapping.NumberFact) string {
	var b strings.Builder
	b.WriteString(n.Sent)
	if n.SentUnit != "" {
		b.WriteString(" " + n.SentUnit)
	}
	b.WriteString(factor(n.Times))
	b.WriteString(offset(n.Plus))
	b.WriteString(" = " + n.Written)
	if n.Unit != "" {
		b.WriteString(" " + n.Unit)
	} else if n.UCUM == "" && n.SentUnit != "" {
		b.WriteString(" " + n.SentUnit)
	}
	if n.Rounded {
		b.WriteString(" (rounded)")
	}
	return b.String()
}

func factor(text string) string {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return ""
	}
	number, exact := decimal(r)
	switch {
	case exact && len(number) <= 12:
		return " × " + number
	case r.Num().IsInt64() && r.Num().Int64() == 1:
		return " ÷ " + r.Denom().String()
	}
	return " × " + r.Num().String() + " ÷ " + r.Denom().String()
}

func offset(text string) string {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return ""
	}
	sign := " + "
	if r.Sign() < 0 {
		sign = " − "
		r.Neg(r)
	}
	if number, exact := decimal(r); exact {
		return sign + number
	}
	return sign + r.RatString()
}

// decimal returns r as a decimal, and whether it is exact.
func decimal(r *big.Rat) (string, bool) {
	n, exact := r.FloatPrec()
	return r.FloatString(n), exact
}

// series describes the points of a series.
func series(data string, seconds float64, unit string) string {
	n := 0
	if data != "" {
		n = strings.Count(data, " ") + 1
	}
	every := strconv.FormatFloat(seconds, 'f', -1, 64)
	return strings.TrimSpace(strconv.Itoa(n) + " points every " + every + " s " + unit)
}
