package validate

import (
	"bytes"

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
	var codes codingSet
	if value && components {
		codes = newCodingSet(v.get("code"))
	}
	for c := v.items("component"); c.Exists(); c = c.next() {
		if c.exists("dataAbsentReason") && c.hasChoice("value") {
			reporter{c}.broken("dataAbsentReason", "is allowed only without a value (obs-6)")
		}
		if value && codes.meets(c.get("code")) {
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

// codingSet holds the codings of a concept.
type codingSet struct {
	concept Node
	codes   map[string]bool // if there are many
}

// manyCodings is the number of codings above which they are looked up in a map.
const manyCodings = 8

func newCodingSet(concept Node) codingSet {
	s := codingSet{concept: concept}
	n := 0
	for c := concept.items("coding"); c.Exists(); c = c.next() {
		n++
	}
	if n > manyCodings {
		s.codes = make(map[string]bool, n)
		for c := concept.items("coding"); c.Exists(); c = c.next() {
			s.codes[codingKey(c)] = true
		}
	}
	return s
}

func codingKey(c Node) string { return string(c.text("system")) + " " + string(c.text("code")) }

// meets reports whether another concept has one of the codings.
func (s codingSet) meets(other Node) bool {
	for x := other.items("coding"); x.Exists(); x = x.next() {
		code := x.text("code")
		if len(code) == 0 {
			continue
		}
		if s.codes != nil {
			if s.codes[codingKey(x)] {
				return true
			}
			continue
		}
		for y := s.concept.items("coding"); y.Exists(); y = y.next() {
			if bytes.Equal(y.text("code"), code) && bytes.Equal(y.text("system"), x.text("system")) {
				return true
			}
		}
	}
	return false
}
