package mapping

import "strings"

// plainUnit returns a unit without the molar mass that HealthKit writes into
// amounts of substance: "mmol<180.15588000005408>/L" is "mmol/L". The mass
// matters for conversions to grams only, and its digits differ by release.
func plainUnit(unit string) string {
	head, rest, ok := strings.Cut(unit, "mol<")
	if !ok || len(head) > 2 { // a prefix: m, k, µ
		return unit
	}
	mass, tail, ok := strings.Cut(rest, ">")
	if !ok {
		return unit
	}
	if _, ok := parseDecimal(mass); !ok {
		return unit
	}
	return head + "mol" + tail
}

// accepts returns the conversion from the sent unit to the rule's.
func (r *rule) accepts(unit string) (conversion, bool) {
	c, ok := r.units[unit]
	if !ok {
		c, ok = r.units[plainUnit(unit)]
	}
	return c, ok
}

func (w *When) unit(unit string) bool {
	if len(w.Units) == 0 {
		return true
	}
	plain := plainUnit(unit)
	for _, u := range w.Units {
		if u == unit || u == plain {
			return true
		}
	}
	return false
}
