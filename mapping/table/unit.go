package table

import (
	"strings"

	"pulsegate/mapping/decimal"
)

// Conversions holds the conversions to one unit, by accepted spelling.
type Conversions map[string]decimal.Conversion

// From returns the conversion from a unit as the vendor writes it.
func (c Conversions) From(unit string) (decimal.Conversion, bool) {
	conv, ok := c[unit]
	if !ok {
		conv, ok = c[withoutMolarMass(unit)]
	}
	return conv, ok
}

// Matches reports whether a sample with the given unit and channel meets the
// condition. daily is set for a daily value.
func (w *When) Matches(unit, channel string, daily bool) bool {
	if w.Day != nil && *w.Day != daily || w.Channel != "" && w.Channel != channel {
		return false
	}
	if len(w.Units) == 0 {
		return true
	}
	plain := withoutMolarMass(unit)
	for _, u := range w.Units {
		if u == unit || u == plain {
			return true
		}
	}
	return false
}

// withoutMolarMass returns a unit without the molar mass that HealthKit writes
// into amounts of substance: "mmol<180.15588000005408>/L" becomes "mmol/L". The
// mass matters only for conversions to grams, and its digits differ between
// releases.
func withoutMolarMass(unit string) string {
	head, rest, ok := strings.Cut(unit, "mol<")
	if !ok || len(head) > 2 { // at most an SI prefix: m, k, µ
		return unit
	}
	mass, tail, ok := strings.Cut(rest, ">")
	if !ok {
		return unit
	}
	if _, ok := decimal.Parse(mass); !ok {
		return unit
	}
	return head + "mol" + tail
}
