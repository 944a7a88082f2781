package uscore

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"pulsegate/fhir/element"
)

// ActivityVersion is the version of the Physical Activity guide in meta.profile of the
// results of PhysicalActivity.
const ActivityVersion = "1.0.1"

const (
	activityGuide = element.HL7 + "us/physical-activity/"
	activityCodes = activityGuide + "CodeSystem/pa-temporary-codes"
	exercise      = "73985-4" // LOINC: Exercise activity
)

// timeMeasures lists the LOINC codes of measures of a day with their UCUM units.
var timeMeasures = map[string]string{ // read only
	"41950-7": "/d", "8873-2": "/min", "40443-4": "/min", "41979-6": "kcal/d",
}

// activityMeasures lists the LOINC codes of measures of a single activity that are
// numbers, with their UCUM units.
var activityMeasures = map[string]string{ // read only
	"55411-3": "min", "77592-4": "min", "77593-2": "min", "55425-3": "/min", "55426-1": "/min", "55424-6": "kcal",
}

// Entry is one create of a transaction.
type Entry struct {
	// FullURL is a urn:uuid that other entries refer to.
	FullURL     string
	IfNoneExist string
	JSON        []byte
}

// PhysicalActivity returns the Observation of src in the form of the Physical Activity
// guide. A total of a day is one entry. A workout is one entry per measure and then the
// group with references to them, so a Bundle with the entries must be a transaction. If
// the Observation is neither, or does not qualify for a reason that the package comment
// lists for vital signs, ok is false.
func PhysicalActivity(src *Source) (entries []Entry, ok bool, err error) {
	const op = "uscore.PhysicalActivity"
	o, err := src.read(op)
	if err != nil {
		return nil, false, err
	}
	id, ok := src.identifier(o)
	if !ok || !o.plain() || !o.supplied(src.Vendor) || !o.complete() {
		return nil, false, nil
	}
	a := &activity{src: src, op: op, observation: o, id: id}
	if unit, ok := measure(timeMeasures, &o.Code); ok {
		if !o.ofDays() || !o.ValueQuantity.in([]string{unit}) {
			return nil, false, nil
		}
		err = a.add("", "pa-observation-time-measure", o.Code, value{ValueQuantity: o.ValueQuantity.withUnit()}, nil)
		return a.entries, err == nil, err
	}
	if !o.Code.Has(element.LOINC, exercise) || o.EffectiveDateTime == "" && o.EffectivePeriod == nil {
		return nil, false, nil
	}
	if err := a.workout(); err != nil {
		return nil, false, err
	}
	return a.entries, len(a.entries) > 0, nil
}

// ofDays reports whether the time of o is one or more days without a time of day.
func (o *observation) ofDays() bool {
	const day = len("2006-01-02")
	if p := o.EffectivePeriod; p != nil {
		return len(p.Start) == day && len(p.End) == day
	}
	return len(o.EffectiveDateTime) == day
}

// measure returns the unit of a measure in the table.
func measure(table map[string]string, code *element.CodeableConcept) (unit string, ok bool) {
	for _, c := range code.Coding {
		if unit, ok = table[c.Code]; ok && c.System == element.LOINC {
			return unit, true
		}
	}
	return "", false
}

// activity collects the entries of one Observation.
type activity struct {
	src         *Source
	op          string
	observation *observation
	id          element.Identifier
	entries     []Entry
}

// workout adds the measures of a workout and their group.
func (a *activity) workout() error {
	const profile = "pa-observation-activity-measure"
	o := a.observation
	if o.ValueCodeableConcept != nil {
		if err := a.add("/"+exercise, profile, o.Code, value{ValueCodeableConcept: o.ValueCodeableConcept},
			nil); err != nil {
			return err
		}
	}
	var seen []string
	for i := range o.Component {
		c := &o.Component[i]
		unit, ok := measure(activityMeasures, &c.Code)
		if !ok || !c.ValueQuantity.in([]string{unit}) {
			continue
		}
		k := slices.IndexFunc(c.Code.Coding, func(c element.Coding) bool { return activityMeasures[c.Code] != "" })
		code := c.Code.Coding[k].Code
		if slices.Contains(seen, code) {
			continue
		}
		seen = append(seen, code)
		if err := a.add("/"+code, profile, c.Code, value{ValueQuantity: c.ValueQuantity.withUnit()}, nil); err != nil {
			return err
		}
	}
	if len(a.entries) == 0 {
		return nil
	}
	members := make([]element.Reference, len(a.entries))
	for i := range a.entries {
		members[i].Reference = a.entries[i].FullURL
	}
	panel := element.CodeableConcept{Coding: []element.Coding{{System: activityCodes, Code: "PAPanel",
		Display: "Physical Activity Panel"}}}
	return a.add("", "pa-observation-activity-group", panel, value{}, members)
}

// add adds an entry. Its identifier is that of the Observation with a suffix.
func (a *activity) add(suffix, profile string, code element.CodeableConcept, v value,
	members []element.Reference) error {
	id := element.Identifier{System: a.id.System, Value: a.id.Value + suffix}
	f := a.src.base(a.observation, id, activityGuide+"StructureDefinition/"+profile+"|"+ActivityVersion)
	f.Category = []element.CodeableConcept{
		{Coding: []element.Coding{{System: element.ObservationCategory, Code: "activity", Display: "Activity"}}},
		{Coding: []element.Coding{{System: activityCodes, Code: "PhysicalActivity", Display: "Physical Activity"}}},
	}
	f.Code, f.value, f.HasMember = code, v, members
	if err := a.src.contain(a.op, f, a.observation); err != nil {
		return err
	}
	body, err := marshal(a.op, f)
	if err != nil {
		return err
	}
	query := criteria(id)
	a.entries = append(a.entries, Entry{FullURL(query), query, body})
	return nil
}

// FullURL returns the urn:uuid of an entry, which is derived from its criteria (RFC 9562,
// version 8).
func FullURL(ifNoneExist string) string {
	sum := sha256.Sum256([]byte(ifNoneExist))
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// ActivityCodes returns the LOINC codes of the Observations for which PhysicalActivity may
// have a form.
func ActivityCodes() []string {
	return append(slices.Sorted(maps.Keys(timeMeasures)), exercise)
}
