package r4

import (
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir/element"
)

// observationRules checks the invariants of Observation and, if an Observation
// declares one, R4's profiles of vital signs, because the server claims to
// support them. An Observation with the category vital-signs must have a result
// even without a profile (vs-2, vs-3).
func observationRules(v *fastjson.Value, r reporter) {
	value := choice(v, "value")
	if value && v.Exists("dataAbsentReason") {
		r.broken("dataAbsentReason", "is allowed only without a value (obs-6)")
	}
	components := v.GetArray("component")
	for i, c := range components {
		if c.Exists("dataAbsentReason") && choice(c, "value") {
			r.broken("component["+itoa(i)+"].dataAbsentReason", "is allowed only without a value (obs-6)")
		}
		if value && sameCoding(v.Get("code"), c.Get("code")) {
			r.broken("value", "is not allowed with a component of the same code (obs-7)")
		}
	}
	vital := vitalCategory(v)
	base, profiles := vitalProfiles(v)
	if !vital && !base {
		return
	}
	if !value && !v.Exists("dataAbsentReason") && len(components) == 0 && !v.Exists("hasMember") {
		r.broken("", "a vital sign needs a value, dataAbsentReason, component or hasMember (vs-2)")
	}
	for i, c := range components {
		if !c.Exists("dataAbsentReason") && !choice(c, "value") {
			r.broken("component["+itoa(i)+"]", "a component of a vital sign needs a value or a dataAbsentReason (vs-3)")
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
func vitalProfiles(v *fastjson.Value) (base bool, found []*vitalProfile) {
	for _, p := range v.GetArray("meta", "profile") {
		b := p.GetStringBytes()
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

func vitalCategory(v *fastjson.Value) bool {
	for _, c := range v.GetArray("category") {
		for _, k := range c.GetArray("coding") {
			if is(k, "code", "vital-signs") &&
				is(k, "system", element.ObservationCategory) {
				return true
			}
		}
	}
	return false
}

// vitalRules checks the profile vitalsigns.
func vitalRules(v *fastjson.Value, r reporter) {
	if !v.Exists("subject") {
		r.broken("subject", "is required (profile vitalsigns)")
	}
	at := v.GetStringBytes("effectiveDateTime")
	if !has(v, "effectiveDateTime") && !v.Exists("effectivePeriod") {
		r.broken("effective", "needs a dateTime or a Period (profile vitalsigns)")
	} else if len(at) > 0 && len(at) < 10 {
		r.broken("effective", "must be precise to the day (vs-1)")
	}
}

func (p *vitalProfile) check(v *fastjson.Value, value bool, r reporter) {
	profile := " (profile " + p.name + ")"
	if p.code != "" && !loincCoded(v.Get("code"), p.code) {
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
		if !v.Exists("hasMember") {
			r.broken("hasMember", "is required"+profile)
		}
	case "bp":
		p.pressure(v, r, "8480-6", "systolic")
		p.pressure(v, r, "8462-4", "diastolic")
	}
}

// pressure checks that v has one component with a code.
func (p *vitalProfile) pressure(v *fastjson.Value, r reporter, code, name string) {
	n := 0
	for i, c := range v.GetArray("component") {
		if !loincCoded(c.Get("code"), code) {
			continue
		}
		n++
		if choice(c, "value") {
			p.quantity(c, "component["+itoa(i)+"].", []string{"mm[Hg]"}, r)
		}
	}
	if n != 1 {
		r.broken("component", "needs one "+name+" component with the LOINC code "+code+" (profile "+p.name+")")
	}
}

// quantity checks that the value of v is a Quantity with one of the units.
func (p *vitalProfile) quantity(v *fastjson.Value, path string, units []string, r reporter) {
	q := v.Get("valueQuantity")
	if q == nil {
		r.broken(path+"value", "must be a Quantity (profile "+p.name+")")
		return
	}
	if !has(q, "value") || !has(q, "unit") || !is(q, "system", element.UCUM) || !oneOf(units, q.GetStringBytes("code")) {
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

func loincCoded(concept *fastjson.Value, code string) bool {
	if concept == nil {
		return false
	}
	for _, c := range concept.GetArray("coding") {
		if is(c, "code", code) && is(c, "system", element.LOINC) {
			return true
		}
	}
	return false
}

func sameCoding(a, b *fastjson.Value) bool {
	if a == nil || b == nil {
		return false
	}
	for _, x := range a.GetArray("coding") {
		code := x.GetStringBytes("code")
		for _, y := range b.GetArray("coding") {
			if len(code) > 0 && is(y, "code", string(code)) && is(y, "system", string(x.GetStringBytes("system"))) {
				return true
			}
		}
	}
	return false
}
