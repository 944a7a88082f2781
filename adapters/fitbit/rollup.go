package fitbit

import (
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// rollupSpec is how a roll-up value is read: a main number, a duration, or
// only parts.
type rollupSpec struct {
	value    string
	unit     string
	zero     bool
	signed   bool
	duration bool
	parts    []part
	list     [3]string // list, name, amount: a component for each entry
	span     [2]string // low and high of the component "range"
}

// rollups are the types that roll up. It is never written to.
var rollups = map[string]rollupSpec{
	"steps":                {value: "countSum", unit: "count", zero: true},
	"floors":               {value: "countSum", unit: "count", zero: true},
	"swim-lengths-data":    {value: "strokeCountSum", unit: "count", zero: true},
	"distance":             {value: "millimetersSum", unit: "mm", zero: true},
	"altitude":             {value: "gainMillimetersSum", unit: "mm", zero: true, signed: true},
	"active-energy-burned": {value: "kcalSum", unit: "kcal", zero: true},
	"total-calories":       {value: "kcalSum", unit: "kcal", zero: true},
	"heart-rate": {value: "beatsPerMinuteAvg", unit: "bpm", parts: []part{
		numberPart("beatsPerMinuteMin", "bpm"), numberPart("beatsPerMinuteMax", "bpm")}},
	"weight":        {value: "weightGramsAvg", unit: "g"},
	"body-fat":      {value: "bodyFatPercentageAvg", unit: "%"},
	"blood-glucose": {value: "bloodGlucoseMilligramsPerDeciliterAvg", unit: "mg/dL"},
	"core-body-temperature": {value: "temperatureCelsiusAvg", unit: "Cel", parts: []part{
		numberPart("temperatureCelsiusMin", "Cel"), numberPart("temperatureCelsiusMax", "Cel")}},
	"run-vo2-max": {value: "rateAvg", unit: "mL/kg/min", parts: []part{
		numberPart("rateMin", "mL/kg/min"), numberPart("rateMax", "mL/kg/min")}},
	"sedentary-period": {value: "durationSum", unit: "s", duration: true},
	"hydration-log":    {value: "amountConsumed", unit: "mL"},
	"active-zone-minutes": {zero: true, parts: []part{numberPart("sumInFatBurnHeartZone", "min"),
		numberPart("sumInCardioHeartZone", "min"), numberPart("sumInPeakHeartZone", "min")}},
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
	metric, body := d.typed(n, "civilStartTime", "civilEndTime")
	if metric == "" && body == n {
		return d.rd.Fail(noType)
	}
	spec, ok := rollups[metric]
	if !ok {
		return d.reject(sample.ReasonUnmapped, metric, "no such roll-up is read here", n)
	}
	p := &point{d: d, item: n, body: body, metric: metric}
	p.s.Channel, p.s.Device = "v4-rollup", service()
	bad := p.window()
	if bad == nil {
		bad = p.rolled(spec)
	}
	if bad != nil {
		return d.reject(bad.reason, p.s.Metric, bad.rule, n)
	}
	return p.emit()
}

// window takes the civil day of a daily roll-up or the instants of another.
func (p *point) window() *rejection {
	if p.item.Get("civilStartTime") != nil {
		p.s.Metric = p.metric + "/day"
		start, ok := civil(p.item.Get("civilStartTime", "date"))
		if !ok {
			return &rejection{sample.ReasonBadTime, "civilStartTime is no calendar day"}
		}
		if end, ok := civil(p.item.Get("civilEndTime", "date")); ok {
			next := time.Date(start.Year, start.Month, start.Day+1, 0, 0, 0, 0, time.UTC)
			if end != start && end != jsonitem.DateOf(next) {
				return &rejection{sample.ReasonBadTime, "the window is longer than a day"}
			}
		}
		p.s.Day = start
		if p.d.unfinished(start) {
			p.s.Status = sample.Preliminary
		}
		return nil
	}
	p.s.Metric = p.metric + "/rollup"
	var ok bool
	if p.s.Start, p.s.End, p.s.Zone, ok = period(p.item); !ok {
		return &rejection{sample.ReasonBadTime, "startTime and endTime are no window of at most 32 days"}
	}
	if !p.d.received.IsZero() && p.s.End.After(p.d.received) {
		p.s.Status = sample.Preliminary
	}
	return nil
}

func (p *point) rolled(spec rollupSpec) *rejection {
	switch {
	case spec.list[0] != "":
		p.levels(spec.list[0], spec.list[1], spec.list[2], spec.unit)
	case spec.span[0] != "":
		low, ok1 := number(p.body, spec.span[0])
		high, ok2 := number(p.body, spec.span[1])
		if ok1 && ok2 {
			p.add("range", sample.Value{Kind: sample.Interval, Num: low, High: high, Unit: spec.unit})
		}
	case spec.value == "":
		for _, c := range spec.parts {
			if p.body.Get(c.name) == nil {
				p.add(c.name, sample.Value{Kind: sample.Number, Num: "0", Unit: c.unit})
			}
			p.num(c.name, c.unit, c.name)
		}
	default:
		return p.rolledValue(spec)
	}
	if len(p.s.Components) == 0 {
		return none("the roll-up holds no value")
	}
	return nil
}

func (p *point) rolledValue(spec rollupSpec) *rejection {
	n := p.body.Get(spec.value)
	if spec.value == "amountConsumed" {
		n = n.Get("millilitersSum")
	}
	if spec.duration {
		v, ok := seconds(n)
		if !ok {
			return &rejection{sample.ReasonBadValue, spec.value + " is no duration"}
		}
		p.s.Value = sample.Value{Kind: sample.Number, Num: v, Unit: spec.unit}
		return nil
	}
	p.spec.value, p.spec.unit, p.spec.zero, p.spec.signed = spec.value, spec.unit, spec.zero, spec.signed
	if spec.value == "amountConsumed" {
		v, ok := number(n)
		if !ok {
			return none("amountConsumed.millilitersSum is required")
		}
		p.s.Value = sample.Value{Kind: sample.Number, Num: v, Unit: spec.unit}
		return nil
	}
	if bad, _ := p.value(); bad != nil {
		return bad
	}
	p.spec.parts = spec.parts
	p.parts()
	return nil
}
