package fitbit

import (
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// rollupSpec describes how a roll-up is read: a main value with components, a
// duration, or components only.
type rollupSpec struct {
	value      string
	unit       string
	zero       bool
	signed     bool
	duration   bool
	nutrition  bool // the value is read by rolledNutrition
	components []componentSpec
	list       [3]string // names of a list and of its enum and amount: one component per entry
	span       [2]string // names of the bounds of the component "range"
}

// rollups lists the types that roll up. It is never modified.
var rollups = map[string]rollupSpec{
	"steps":                {value: "countSum", unit: "count", zero: true},
	"floors":               {value: "countSum", unit: "count", zero: true},
	"swim-lengths-data":    {value: "strokeCountSum", unit: "count", zero: true},
	"distance":             {value: "millimetersSum", unit: "mm", zero: true},
	"altitude":             {value: "gainMillimetersSum", unit: "mm", zero: true, signed: true},
	"active-energy-burned": {value: "kcalSum", unit: "kcal", zero: true},
	"total-calories":       {value: "kcalSum", unit: "kcal", zero: true},
	"heart-rate": {value: "beatsPerMinuteAvg", unit: "bpm", components: []componentSpec{
		numeric("beatsPerMinuteMin", "bpm"), numeric("beatsPerMinuteMax", "bpm")}},
	"weight":        {value: "weightGramsAvg", unit: "g"},
	"body-fat":      {value: "bodyFatPercentageAvg", unit: "%"},
	"blood-glucose": {value: "bloodGlucoseMilligramsPerDeciliterAvg", unit: "mg/dL"},
	"core-body-temperature": {value: "temperatureCelsiusAvg", unit: "Cel", components: []componentSpec{
		numeric("temperatureCelsiusMin", "Cel"), numeric("temperatureCelsiusMax", "Cel")}},
	"run-vo2-max": {value: "rateAvg", unit: "mL/kg/min", components: []componentSpec{
		numeric("rateMin", "mL/kg/min"), numeric("rateMax", "mL/kg/min")}},
	"sedentary-period": {value: "durationSum", unit: "s", duration: true},
	"hydration-log":    {value: "amountConsumed", unit: "mL"},
	"nutrition-log":    {nutrition: true},
	"active-zone-minutes": {zero: true, components: []componentSpec{numeric("sumInFatBurnHeartZone", "min"),
		numeric("sumInCardioHeartZone", "min"), numeric("sumInPeakHeartZone", "min")}},
	"active-minutes": {unit: "min",
		list: [3]string{"activeMinutesRollupByActivityLevel", "activityLevel", "activeMinutesSum"}},
	"activity-level": {unit: "s",
		list: [3]string{"activityLevelRollupsByActivityLevelType", "activityLevelType", "totalDuration"}},
	"time-in-heart-rate-zone":     {unit: "s", list: [3]string{"timeInHeartRateZones", "heartRateZone", "duration"}},
	"calories-in-heart-rate-zone": {unit: "kcal", list: [3]string{"caloriesInHeartRateZones", "heartRateZone", "kcal"}},
	"heart-rate-variability-personal-range": {unit: "ms", span: [2]string{
		"averageHeartRateVariabilityMillisecondsMin", "averageHeartRateVariabilityMillisecondsMax"}},
	"resting-heart-rate-personal-range": {unit: "bpm", span: [2]string{"beatsPerMinuteMin", "beatsPerMinuteMax"}},
}

// rollup reads an item of rollUp or dailyRollUp.
func (d *decoder) rollup(n *jsonitem.Node) error {
	metric, body := d.splitType(n, "civilStartTime", "civilEndTime")
	if metric == "" && body == n {
		return d.untyped(n)
	}
	spec, ok := rollups[metric]
	if !ok {
		return d.reject(sample.ReasonUnmapped, metric, "this roll-up is not supported", n)
	}
	p := &point{dec: d, item: n, body: body, metric: metric}
	p.sample.Channel, p.sample.Device = "v4-rollup", serviceDevice()
	bad := p.window()
	if bad == nil {
		bad = p.rolled(spec)
	}
	if bad != nil {
		return d.reject(bad.reason, p.sample.Metric, bad.rule, n)
	}
	return p.emit()
}

// window sets the civil day of a daily roll-up, or the period of another.
func (p *point) window() *rejection {
	if p.item.Get("civilStartTime") != nil {
		p.sample.Metric, p.sample.Revision = p.metric+"/day", revisionAPI
		start, ok := civil(p.item.Get("civilStartTime", "date"))
		if !ok {
			return &rejection{sample.ReasonBadTime, "civilStartTime is not a calendar day"}
		}
		if end, ok := civil(p.item.Get("civilEndTime", "date")); ok {
			next := time.Date(start.Year, start.Month, start.Day+1, 0, 0, 0, 0, time.UTC)
			if end != start && end != jsonitem.DateOf(next) {
				return &rejection{sample.ReasonBadTime, "the window is longer than a day"}
			}
		}
		p.sample.Day = start
		if p.dec.unfinished(start) {
			p.sample.Status = sample.Preliminary
		}
		return nil
	}
	p.sample.Metric = p.metric + "/rollup"
	var ok bool
	if p.sample.Start, p.sample.End, p.sample.Zone, ok = period(p.item); !ok {
		return &rejection{sample.ReasonBadTime, "startTime and endTime are not a window of at most 32 days"}
	}
	if !p.dec.received.IsZero() && p.sample.End.After(p.dec.received) {
		p.sample.Status = sample.Preliminary
	}
	return nil
}

// rolled sets value and components by the spec.
func (p *point) rolled(spec rollupSpec) *rejection {
	switch {
	case spec.nutrition:
		return p.rolledNutrition()
	case spec.list[0] != "":
		p.levels(spec.list[0], spec.list[1], spec.list[2], spec.unit)
	case spec.span[0] != "":
		low, ok1 := number(p.body, spec.span[0])
		high, ok2 := number(p.body, spec.span[1])
		if ok1 && ok2 {
			p.add("range", sample.Value{Kind: sample.Interval, Num: low, High: high, Unit: spec.unit})
		}
	case spec.value == "":
		for _, c := range spec.components {
			if p.body.Get(c.name) == nil {
				p.add(c.name, sample.Value{Kind: sample.Number, Num: "0", Unit: c.unit})
			}
			p.number(c.name, c.unit, c.name)
		}
	default:
		return p.rolledValue(spec)
	}
	if len(p.sample.Components) == 0 {
		return missing("the roll-up holds no value")
	}
	return nil
}

// rolledValue sets the main value and its components.
func (p *point) rolledValue(spec rollupSpec) *rejection {
	n := p.body.Get(spec.value)
	if spec.value == "amountConsumed" {
		n = n.Get("millilitersSum")
	}
	if spec.duration {
		v, ok := seconds(n)
		if !ok {
			return &rejection{sample.ReasonBadValue, spec.value + " is not a duration"}
		}
		p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: spec.unit}
		return nil
	}
	p.spec.value, p.spec.unit, p.spec.zero, p.spec.signed = spec.value, spec.unit, spec.zero, spec.signed
	if spec.value == "amountConsumed" {
		v, ok := number(n)
		if !ok {
			return missing("amountConsumed.millilitersSum is required")
		}
		p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: spec.unit}
		return nil
	}
	if bad, _ := p.value(); bad != nil {
		return bad
	}
	p.spec.components = spec.components
	p.specComponents()
	return nil
}
