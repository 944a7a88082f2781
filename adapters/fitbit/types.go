package fitbit

import (
	"strings"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// timing is the time that a type has.
type timing uint8

const (
	atInstant timing = iota
	overPeriod
	onDay
)

// componentSpec describes a component: a number with a unit, or a code.
type componentSpec struct {
	name, unit string
	code       bool
	path       []string // path in the body; [name] if nil
}

// typeSpec describes how a type of list and reconcile is read.
type typeSpec struct {
	timing  timing
	value   string // name of the member with the main value
	unit    string
	zero    bool // an absent value is zero (a count); otherwise it is missing
	signed  bool // the value may be negative
	merged  bool // points are named and are the same in list and reconcile
	openEnd bool // the interval may lack its end; read finds it in the content
	// floor is the least valid value. Smaller ones, and absent ones, are dropped as
	// measurements of low quality.
	floor      float64
	components []componentSpec
	method     []string                         // path of the method
	read       func(*point) (*rejection, error) // nil means readPlain
}

func numeric(name, unit string, path ...string) componentSpec {
	return componentSpec{name: name, unit: unit, path: path}
}
func coded(name string, path ...string) componentSpec {
	return componentSpec{name: name, code: true, path: path}
}

// aboveZero is a floor that drops only zeros: no living person has such a rate.
const aboveZero = 0.0001

// types lists the supported types of list and reconcile. It is never modified.
var types = map[string]typeSpec{
	"heart-rate": {value: "beatsPerMinute", unit: "bpm", floor: aboveZero, components: []componentSpec{
		coded("motionContext", "metadata", "motionContext"),
		coded("sensorLocation", "metadata", "sensorLocation")}},
	"heart-rate-variability": {read: variability},
	"daily-heart-rate-variability": {timing: onDay, value: "averageHeartRateVariabilityMilliseconds", unit: "ms",
		components: []componentSpec{
			numeric("deepSleepRootMeanSquareOfSuccessiveDifferencesMilliseconds", "ms"), numeric("entropy", ""),
			numeric("nonRemHeartRateBeatsPerMinute", "bpm")}},
	"daily-resting-heart-rate": {timing: onDay, value: "beatsPerMinute", unit: "bpm", floor: aboveZero,
		method: []string{"dailyRestingHeartRateMetadata", "calculationMethod"}},
	"daily-heart-rate-zones": {timing: onDay, read: heartRateZones},
	"oxygen-saturation":      {value: "percentage", unit: "%", floor: 50.0001},
	"daily-oxygen-saturation": {timing: onDay, value: "averagePercentage", unit: "%", floor: 50.0001,
		components: []componentSpec{
			numeric("lowerBoundPercentage", "%"), numeric("upperBoundPercentage", "%"),
			numeric("standardDeviationPercentage", "%")}},
	"daily-respiratory-rate":         {timing: onDay, value: "breathsPerMinute", unit: "breaths/min", floor: aboveZero},
	"respiratory-rate-sleep-summary": {read: respiratorySummary},
	"daily-sleep-temperature-derivations": {timing: onDay, value: "nightlyTemperatureCelsius", unit: "Cel",
		components: []componentSpec{
			numeric("baselineTemperatureCelsius", "Cel"), numeric("relativeNightlyStddev30dCelsius", "K")},
		read: nightTemperature},
	"core-body-temperature": {value: "temperatureCelsius", unit: "Cel",
		components: []componentSpec{coded("measurementLocation")}, read: bodyTemperature},
	"vo2-max":     {value: "vo2Max", unit: "mL/kg/min", floor: aboveZero, method: []string{"measurementMethod"}},
	"run-vo2-max": {value: "runVo2Max", unit: "mL/kg/min", floor: aboveZero},
	"daily-vo2-max": {timing: onDay, value: "vo2Max", unit: "mL/kg/min", floor: aboveZero, components: []componentSpec{
		coded("cardioFitnessLevel"), numeric("vo2MaxCovariance", "")}, read: dailyVO2},
	"steps":                {timing: overPeriod, value: "count", unit: "count", zero: true},
	"floors":               {timing: overPeriod, value: "count", unit: "count", zero: true},
	"distance":             {timing: overPeriod, value: "millimeters", unit: "mm", zero: true},
	"altitude":             {timing: overPeriod, value: "gainMillimeters", unit: "mm", zero: true, signed: true},
	"active-energy-burned": {timing: overPeriod, value: "kcal", unit: "kcal", zero: true},
	"basal-energy-burned":  {timing: overPeriod, value: "kcal", unit: "kcal", zero: true},
	"active-zone-minutes": {timing: overPeriod, value: "activeZoneMinutes", unit: "min", zero: true,
		read: zoneMinutes},
	"active-minutes":          {timing: overPeriod, read: activeMinutes},
	"activity-level":          {timing: overPeriod, value: "activityLevelType", read: readCoded},
	"time-in-heart-rate-zone": {timing: overPeriod, value: "heartRateZoneType", read: readCoded},
	"sedentary-period":        {timing: overPeriod, read: sedentary},
	"swim-lengths-data": {timing: overPeriod, value: "strokeCount", unit: "count", zero: true,
		components: []componentSpec{coded("swimStrokeType")}},
	"weight":   {value: "weightGrams", unit: "g", floor: aboveZero},
	"body-fat": {value: "percentage", unit: "%", floor: aboveZero},
	"height":   {value: "heightMillimeters", unit: "mm", floor: aboveZero},
	"blood-glucose": {value: "bloodGlucoseMilligramsPerDeciliter", unit: "mg/dL", floor: aboveZero,
		components: []componentSpec{
			coded("measurementSource"), coded("measurementTiming"), coded("mealType")}, read: glucose},
	"hydration-log":                 {timing: overPeriod, read: hydration},
	"exercise":                      {timing: overPeriod, merged: true, openEnd: true, read: exercise},
	"sleep":                         {timing: overPeriod, merged: true, openEnd: true, read: sleep},
	"symptoms":                      {read: symptoms},
	"moods":                         {read: moods},
	"menstrual-period":              {timing: overPeriod, openEnd: true, read: menstrualPeriod},
	"ovulation-test":                {value: "result", read: ovulationTest},
	"nutrition-log":                 {timing: overPeriod, read: nutrition},
	"skin-temperature-sensors":      {read: skinSensors},
	"electrocardiogram":             {timing: overPeriod, openEnd: true, read: electrocardiogram},
	"irregular-rhythm-notification": {timing: overPeriod, read: irregularRhythm},
}

// isType reports whether t is a supported type of any page.
func isType(t string) bool {
	if _, ok := types[t]; ok {
		return true
	}
	if _, ok := ignored[t]; ok {
		return true
	}
	_, ok := rollups[t]
	return ok
}

// value sets the main value by the spec. done is true if the item was dropped.
func (p *point) value() (bad *rejection, done bool) {
	s, state := p.body.Get(p.spec.value).Decimal()
	switch state {
	case jsonitem.Bad:
		return &rejection{sample.ReasonBadValue, p.spec.value + " is not a number"}, false
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
	p.sample.Value = sample.Value{Kind: sample.Number, Num: s, Unit: p.spec.unit}
	return nil, false
}

// specComponents adds the components and the method of the spec.
func (p *point) specComponents() {
	for _, c := range p.spec.components {
		path := c.path
		if len(path) == 0 {
			path = []string{c.name}
		}
		if c.code {
			p.code(c.name, path...)
		} else {
			p.number(c.name, c.unit, path...)
		}
	}
	if p.spec.method != nil {
		p.sample.Method = enum(p.body.Get(p.spec.method...))
	}
}

// readPlain reads a type that has a main value and components.
func readPlain(p *point) (*rejection, error) {
	if bad, done := p.value(); bad != nil || done {
		return bad, nil
	}
	p.specComponents()
	return nil, p.emit()
}

// readCoded reads a type with an enum as its value.
func readCoded(p *point) (*rejection, error) {
	c := enum(p.body.Get(p.spec.value))
	if c == "" {
		return &rejection{sample.ReasonMissing, p.spec.value + " is required"}, nil
	}
	p.sample.Value = sample.Value{Kind: sample.Code, Text: c}
	return nil, p.emit()
}
