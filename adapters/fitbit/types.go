package fitbit

import (
	"strings"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// when says which time a type has.
type when uint8

const (
	atInstant when = iota
	overPeriod
	onDay
)

// part is a component: a number with a unit, or a code without one.
type part struct {
	name, unit string
	code       bool
	path       []string // within the body, [name] if nil
}

// spec is how a type of list and reconcile is read.
type spec struct {
	when   when
	value  string // member of the main value
	unit   string
	zero   bool // absent means zero (a count), else missing
	signed bool // may be negative
	merged bool // named, and the same through list and reconcile
	// openEnd is set where an interval may lack its end: read sets it.
	openEnd bool
	floor   float64
	parts   []part
	method  []string // path of the method
	read    func(*point) (*rejection, error)
}

func numberPart(name, unit string, path ...string) part {
	return part{name: name, unit: unit, path: path}
}
func codePart(name string, path ...string) part { return part{name: name, code: true, path: path} }

// anyLow is a floor that drops zero only: no such rate is alive.
const anyLow = 0.0001

// types are the readable types. It is never written to.
var types = map[string]spec{
	"heart-rate": {value: "beatsPerMinute", unit: "bpm", floor: anyLow, parts: []part{
		codePart("motionContext", "metadata", "motionContext"),
		codePart("sensorLocation", "metadata", "sensorLocation")}},
	"heart-rate-variability": {read: variability},
	"daily-heart-rate-variability": {when: onDay, value: "averageHeartRateVariabilityMilliseconds", unit: "ms",
		parts: []part{
			numberPart("deepSleepRootMeanSquareOfSuccessiveDifferencesMilliseconds", "ms"), numberPart("entropy", ""),
			numberPart("nonRemHeartRateBeatsPerMinute", "bpm")}},
	"daily-resting-heart-rate": {when: onDay, value: "beatsPerMinute", unit: "bpm", floor: anyLow,
		method: []string{"dailyRestingHeartRateMetadata", "calculationMethod"}},
	"daily-heart-rate-zones": {when: onDay, read: heartRateZones},
	"oxygen-saturation":      {value: "percentage", unit: "%", floor: 50.0001},
	"daily-oxygen-saturation": {when: onDay, value: "averagePercentage", unit: "%", floor: 50.0001, parts: []part{
		numberPart("lowerBoundPercentage", "%"), numberPart("upperBoundPercentage", "%"),
		numberPart("standardDeviationPercentage", "%")}},
	"daily-respiratory-rate":         {when: onDay, value: "breathsPerMinute", unit: "breaths/min", floor: anyLow},
	"respiratory-rate-sleep-summary": {read: respiratorySummary},
	"daily-sleep-temperature-derivations": {when: onDay, value: "nightlyTemperatureCelsius", unit: "Cel", parts: []part{
		numberPart("baselineTemperatureCelsius", "Cel"), numberPart("relativeNightlyStddev30dCelsius", "K")},
		read: nightTemperature},
	"core-body-temperature": {value: "temperatureCelsius", unit: "Cel",
		parts: []part{codePart("measurementLocation")}, read: bodyTemperature},
	"vo2-max":     {value: "vo2Max", unit: "mL/kg/min", floor: anyLow, method: []string{"measurementMethod"}},
	"run-vo2-max": {value: "runVo2Max", unit: "mL/kg/min", floor: anyLow},
	"daily-vo2-max": {when: onDay, value: "vo2Max", unit: "mL/kg/min", floor: anyLow, parts: []part{
		codePart("cardioFitnessLevel"), numberPart("vo2MaxCovariance", "")}, read: dailyVO2},
	"steps":                {when: overPeriod, value: "count", unit: "count", zero: true},
	"floors":               {when: overPeriod, value: "count", unit: "count", zero: true},
	"distance":             {when: overPeriod, value: "millimeters", unit: "mm", zero: true},
	"altitude":             {when: overPeriod, value: "gainMillimeters", unit: "mm", zero: true, signed: true},
	"active-energy-burned": {when: overPeriod, value: "kcal", unit: "kcal", zero: true},
	"basal-energy-burned":  {when: overPeriod, value: "kcal", unit: "kcal", zero: true},
	"active-zone-minutes": {when: overPeriod, value: "activeZoneMinutes", unit: "min", zero: true,
		read: zoneMinutes},
	"active-minutes":          {when: overPeriod, read: activeMinutes},
	"activity-level":          {when: overPeriod, value: "activityLevelType", read: coded},
	"time-in-heart-rate-zone": {when: overPeriod, value: "heartRateZoneType", read: coded},
	"sedentary-period":        {when: overPeriod, read: sedentary},
	"swim-lengths-data": {when: overPeriod, value: "strokeCount", unit: "count", zero: true,
		parts: []part{codePart("swimStrokeType")}},
	"weight":   {value: "weightGrams", unit: "g", floor: anyLow},
	"body-fat": {value: "percentage", unit: "%", floor: anyLow},
	"height":   {value: "heightMillimeters", unit: "mm", floor: anyLow},
	"blood-glucose": {value: "bloodGlucoseMilligramsPerDeciliter", unit: "mg/dL", floor: anyLow, parts: []part{
		codePart("measurementSource"), codePart("measurementTiming"), codePart("mealType")}, read: glucose},
	"hydration-log":                 {when: overPeriod, read: hydration},
	"exercise":                      {when: overPeriod, merged: true, openEnd: true, read: exercise},
	"sleep":                         {when: overPeriod, merged: true, openEnd: true, read: sleep},
	"electrocardiogram":             {when: overPeriod, openEnd: true, read: electrocardiogram},
	"irregular-rhythm-notification": {when: overPeriod, read: irregularRhythm},
}

// known says whether t is a type that is read in any page.
func known(t string) bool {
	if _, ok := types[t]; ok {
		return true
	}
	_, ok := rollups[t]
	return ok
}

// value reads the main value by the spec. done says that the item is dealt
// with (dropped).
func (p *point) value() (bad *rejection, done bool) {
	s, state := p.body.Get(p.spec.value).Decimal()
	switch state {
	case jsonitem.Bad:
		return &rejection{sample.ReasonBadValue, p.spec.value + " is no number"}, false
	case jsonitem.NotFinite:
		return &rejection{sample.ReasonBadValue, p.spec.value + " is not finite"}, false
	case jsonitem.Absent:
		if !p.spec.zero && p.spec.floor == 0 {
			return &rejection{sample.ReasonMissing, p.spec.value + " is required"}, false
		}
		s = "0"
	}
	if strings.HasPrefix(s, "-") && !p.spec.signed {
		return &rejection{sample.ReasonBadValue, p.spec.value + " is negative"}, false
	}
	if p.spec.floor > 0 && jsonitem.Float(s) < p.spec.floor {
		p.drop()
		return nil, true
	}
	p.s.Value = sample.Value{Kind: sample.Number, Num: s, Unit: p.spec.unit}
	return nil, false
}

func (p *point) parts() {
	for _, c := range p.spec.parts {
		path := c.path
		if len(path) == 0 {
			path = []string{c.name}
		}
		if c.code {
			p.code(c.name, path...)
		} else {
			p.num(c.name, c.unit, path...)
		}
	}
	if p.spec.method != nil {
		p.s.Method = enum(p.body.Get(p.spec.method...))
	}
}

// plain is a main value with parts.
func plain(p *point) (*rejection, error) {
	if bad, done := p.value(); bad != nil || done {
		return bad, nil
	}
	p.parts()
	return nil, p.emit()
}

// coded is an enum over a period.
func coded(p *point) (*rejection, error) {
	c := enum(p.body.Get(p.spec.value))
	if c == "" {
		return &rejection{sample.ReasonMissing, p.spec.value + " is required"}, nil
	}
	p.s.Value = sample.Value{Kind: sample.Code, Text: c}
	return nil, p.emit()
}
