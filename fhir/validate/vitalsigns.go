package validate

import (
	"strconv"
	"strings"

	"pulsegate/fhir/element"
)

// observationRules checks the invariants of Observation and, if an Observation
// declares one, R4's profiles of vital signs, because the server claims to
// support them. An Observation with the category vital-signs must have a result
// even without a profile (vs-2, vs-3).
func observationRules(v Node, r reporter) {
	value := v.hasChoice("value")
	if value && v.exists("dataAbsentReason") {
		r.broken("dataAbsentReason", "is allowed only without a value (obs-6)")
	}
	components := v.exists("component")
	for i, c := range v.list("component") {
		if c.exists("dataAbsentReason") && c.hasChoice("value") {
			r.broken("component["+strconv.Itoa(i)+"].dataAbsentReason", "is allowed only without a value (obs-6)")
		}
		if value && sameCoding(v.get("code"), c.get("code")) {
			r.broken("value", "is not allowed with a component of the same code (obs-7)")
		}
	}
	vital := vitalCategory(v)
	base, profiles := vitalProfiles(v)
	if !vital && !base {
		return
	}
	if !value && !v.exists("dataAbsentReason") && !components && !v.exists("hasMember") {
		r.broken("", "a vital sign needs a value, dataAbsentReason, component or hasMember (vs-2)")
	}
	for i, c := range v.list("component") {
		if !c.exists("dataAbsentReason") && !c.hasChoice("value") {
			r.broken("component["+strconv.Itoa(i)+"]", "a component of a vital sign needs a value or a dataAbsentReason (vs-3)")
		}
	}
	if !base {
		return
	}
	if !vital {
		r.broken("category", "needs the category vital-signs (profile vitalsigns)")
	}
	vitalRules(v, r)
	for _, p := range profiles {
		p.check(v, value, r)
	}
}

// vitalProfile is one of R4's profiles derived from vitalsigns.
type vitalProfile struct {
	name, code string
	units      []string // UCUM codes of the value; nil if the profile has no value
}

var vitalSigns = []vitalProfile{ // read only
	{"resprate", "9279-1", []string{"/min"}},
	{"heartrate", "8867-4", []string{"/min"}},
	{"oxygensat", "2708-6", []string{"%"}},
	{"bodytemp", "8310-5", []string{"Cel", "[degF]"}},
	{"bodyheight", "8302-2", []string{"cm", "[in_i]"}},
	{"headcircum", "9843-4", []string{"cm", "[in_i]"}},
	{"bodyweight", "29463-7", []string{"g", "kg", "[lb_av]"}},
	{"bmi", "39156-5", []string{"kg/m2"}},
	{"bp", "85354-9", nil},
	{"vitalspanel", "", nil},
}

const vitalBase = element.StructureDefinition

// vitalProfiles returns the profiles of vital signs that v declares. It sets
// base if v declares one of them or the profile vitalsigns itself.
func vitalProfiles(v Node) (base bool, found []*vitalProfile) {
	for _, p := range v.get("meta").list("profile") {
		b := p.Text()
		if !hasPrefix(b, vitalBase) {
			continue
		}
		name, _, _ := strings.Cut(string(b[len(vitalBase):]), "|")
		base = base || name == "vitalsigns"
		for i := range vitalSigns {
			if vitalSigns[i].name == name {
				base, found = true, append(found, &vitalSigns[i])
			}
		}
	}
	return base, found
}

func vitalCategory(v Node) bool {
	for _, c := range v.list("category") {
		for _, k := range c.list("coding") {
			if k.is("code", "vital-signs") &&
				k.is("system", element.ObservationCategory) {
				return true
			}
		}
	}
	return false
}

// vitalRules checks the profile vitalsigns.
func vitalRules(v Node, r reporter) {
	if !v.exists("subject") {
		r.broken("subject", "is required (profile vitalsigns)")
	}
	at := v.text("effectiveDateTime")
	if !v.has("effectiveDateTime") && !v.exists("effectivePeriod") {
		r.broken("effective", "needs a dateTime or a Period (profile vitalsigns)")
	} else if len(at) > 0 && len(at) < 10 {
		r.broken("effective", "must be precise to the day (vs-1)")
	}
}

func (p *vitalProfile) check(v Node, value bool, r reporter) {
	profile := " (profile " + p.name + ")"
	if p.code != "" && !loincCoded(v.get("code"), p.code) {
		r.broken("code", "needs a coding with the LOINC code "+p.code+profile)
	}
	switch {
	case p.units != nil && value:
		p.quantity(v, "", p.units, r)
	case p.units == nil && value:
		r.broken("value", "is not allowed"+profile)
	}
	switch p.name {
	case "vitalspanel":
		if !v.exists("hasMember") {
			r.broken("hasMember", "is required"+profile)
		}
	case "bp":
		p.pressure(v, r, "8480-6", "systolic")
		p.pressure(v, r, "8462-4", "diastolic")
	}
}

// pressure checks that v has one component with a code.
func (p *vitalProfile) pressure(v Node, r reporter, code, name string) {
	n := 0
	for i, c := range v.list("component") {
		if !loincCoded(c.get("code"), code) {
			continue
		}
		n++
		if c.hasChoice("value") {
			p.quantity(c, "component["+strconv.Itoa(i)+"].", []string{"mm[Hg]"}, r)
		}
	}
	if n != 1 {
		r.broken("component", "needs one "+name+" component with the LOINC code "+code+" (profile "+p.name+")")
	}
}

// quantity checks that the value of v is a Quantity with one of the units.
func (p *vitalProfile) quantity(v Node, path string, units []string, r reporter) {
	q := v.get("valueQuantity")
	if !q.Exists() {
		r.broken(path+"value", "must be a Quantity (profile "+p.name+")")
		return
	}
	if !q.has("value") || !q.has("unit") || !q.is("system", element.UCUM) || !oneOf(units, q.text("code")) {
		r.broken(path+"valueQuantity", "needs a value, a unit, the system UCUM and the code "+
			strings.Join(units, " or ")+" (profile "+p.name+")")
	}
}

func oneOf(list []string, s []byte) bool {
	for _, x := range list {
		if x == string(s) {
			return true
		}
	}
	return false
}

func loincCoded(concept Node, code string) bool {
	for _, c := range concept.list("coding") {
		if c.is("code", code) && c.is("system", element.LOINC) {
			return true
		}
	}
	return false
}

func sameCoding(a, b Node) bool {
	for _, x := range a.list("coding") {
		code := x.text("code")
		for _, y := range b.list("coding") {
			if len(code) > 0 && y.is("code", string(code)) && y.is("system", string(x.text("system"))) {
				return true
			}
		}
	}
	return false
}
