package validate

import (
	"pulsegate/fhir/element"
)

// observationRules checks the invariants of Observation. An Observation with the
// category vital-signs must have a result even if it does not claim the profile
// vitalsigns (vs-2, vs-3).
func observationRules(v Node, r reporter) {
	value := v.hasChoice("value")
	if value && v.exists("dataAbsentReason") {
		r.broken("dataAbsentReason", "is allowed only without a value (obs-6)")
	}
	components := v.exists("component")
	for c := v.items("component"); c.Exists(); c = c.next() {
		if c.exists("dataAbsentReason") && c.hasChoice("value") {
			reporter{c}.broken("dataAbsentReason", "is allowed only without a value (obs-6)")
		}
		if value && sameCoding(v.get("code"), c.get("code")) {
			r.broken("value", "is not allowed with a component of the same code (obs-7)")
		}
	}
	if !vitalCategory(v) {
		return
	}
	if !value && !v.exists("dataAbsentReason") && !components && !v.exists("hasMember") {
		r.broken("", "a vital sign needs a value, dataAbsentReason, component or hasMember (vs-2)")
	}
	for c := v.items("component"); c.Exists(); c = c.next() {
		if !c.exists("dataAbsentReason") && !c.hasChoice("value") {
			reporter{c}.broken("", "a component of a vital sign needs a value or a dataAbsentReason (vs-3)")
		}
	}
}

func vitalCategory(v Node) bool {
	for c := v.items("category"); c.Exists(); c = c.next() {
		for k := c.items("coding"); k.Exists(); k = k.next() {
			if k.is("code", "vital-signs") &&
				k.is("system", element.ObservationCategory) {
				return true
			}
		}
	}
	return false
}

func sameCoding(a, b Node) bool {
	for x := a.items("coding"); x.Exists(); x = x.next() {
		code := x.text("code")
		for y := b.items("coding"); y.Exists(); y = y.next() {
			if len(code) > 0 && y.is("code", string(code)) && y.is("system", string(x.text("system"))) {
				return true
			}
		}
	}
	return false
}
