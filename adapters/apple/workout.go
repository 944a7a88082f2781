package apple

import (
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

// workoutStatistic names the component and the attribute of WorkoutStatistics
// that fills it.
var workoutStatistic = map[string][][2]string{
	"HKQuantityTypeIdentifierActiveEnergyBurned":  {{"activeEnergy", "sum"}},
	"HKQuantityTypeIdentifierBasalEnergyBurned":   {{"basalEnergy", "sum"}},
	"HKQuantityTypeIdentifierStepCount":           {{"steps", "sum"}},
	"HKQuantityTypeIdentifierFlightsClimbed":      {{"flights", "sum"}},
	"HKQuantityTypeIdentifierSwimmingStrokeCount": {{"swimmingStrokes", "sum"}},
	"HKQuantityTypeIdentifierHeartRate": {
		{"heartRateAverage", "average"}, {"heartRateMinimum", "minimum"}, {"heartRateMaximum", "maximum"},
	},
}

// workout reads a Workout: its statistics count before the older attributes.
func (d *xmlDecoder) workout() error {
	r := &record{}
	d.begin(r)
	r.s.Metric = "HKWorkoutTypeIdentifier"
	old := map[string]string{} // the buffer moves on: copy the attributes
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "workoutActivityType":
			r.s.Value = code(d.names.get(d.sc.value(a)))
		case "duration", "durationUnit", "totalDistance", "totalDistanceUnit", "totalEnergyBurned",
			"totalEnergyBurnedUnit",
			"totalSwimmingStrokeCount", "totalSwimmingStrokeCountUnit", "totalFlightsClimbed",
			"totalFlightsClimbedUnit":
			old[string(a.name)] = string(d.sc.value(a))
		}
	}
	if r.s.Value.Text == "" {
		r.s.Value = sample.Value{}
		r.reject(sample.ReasonMissing, "workoutActivityType is missing")
	}
	d.keepRaw(r)
	d.oldTotal(r, "duration", old["duration"], old["durationUnit"], "min")
	d.oldEnd(r, old["duration"], old["durationUnit"])
	if err := d.children(func() error { return d.workoutChild(r) }); err != nil {
		return err
	}
	d.oldTotal(r, "distance", old["totalDistance"], old["totalDistanceUnit"], "km")
	d.oldTotal(r, "activeEnergy", old["totalEnergyBurned"], old["totalEnergyBurnedUnit"], "kcal")
	d.oldTotal(r, "swimmingStrokes", old["totalSwimmingStrokeCount"], old["totalSwimmingStrokeCountUnit"], "count")
	d.oldTotal(r, "flights", old["totalFlightsClimbed"], old["totalFlightsClimbedUnit"], "count")
	return d.emit(r)
}

// oldEnd ends a workout that has no endDate after its duration.
func (d *xmlDecoder) oldEnd(r *record, num, unit string) {
	if d.attr("endDate") != nil || !r.s.End.IsZero() {
		return
	}
	f, err := strconv.ParseFloat(num, 64)
	switch unit {
	case "", "min":
		f *= 60
	case "hr", "h":
		f *= 3600
	case "s", "sec":
	default:
		return
	}
	if err == nil && f > 0 && f < 10*24*3600 {
		r.s.End = r.s.Start.Add(time.Duration(f * float64(time.Second)))
	}
}

func (d *xmlDecoder) oldTotal(r *record, name, num, unit, defaultUnit string) {
	if num == "" {
		return
	}
	n, ok := decimal([]byte(num))
	if !ok {
		d.leave(r.s.Metric, name, "the total is not a decimal")
		return
	}
	if unit == "" {
		unit = defaultUnit
	}
	d.component(r, name, number(string(n), unit))
}

func (d *xmlDecoder) workoutChild(r *record) error {
	switch name := string(d.sc.name); name {
	case "MetadataEntry":
		d.metadata(r)
	case "WorkoutStatistics":
		d.statistics(r)
	case "Record": // newest exports nest the effort score
		return d.record()
	case "WorkoutRoute", "WorkoutEvent", "WorkoutActivity", "WorkoutZoneGroup":
		d.sink.Drop(sample.DropIgnored, name, 1)
	default:
		d.sink.Drop(sample.DropIgnored, "other", 1)
	}
	return d.skip()
}

func (d *xmlDecoder) statistics(r *record) {
	t, u := d.attr("type"), d.attr("unit")
	if t == nil {
		return
	}
	typ, unit := d.names.get(d.sc.value(t)), ""
	if u != nil {
		unit = d.names.get(d.sc.value(u))
	}
	wanted := workoutStatistic[typ]
	if strings.HasPrefix(typ, "HKQuantityTypeIdentifierDistance") {
		wanted = [][2]string{{"distance", "sum"}}
	}
	if wanted == nil {
		d.sink.Drop(sample.DropIgnored, "WorkoutStatistics", 1)
	}
	for _, w := range wanted {
		a := d.attr(w[1])
		if a == nil {
			continue
		}
		num, ok := decimal(d.sc.value(a))
		if !ok {
			d.leave(r.s.Metric, w[0], "the statistic is not a decimal")
			continue
		}
		d.component(r, w[0], number(d.values.get(num), unit))
	}
}
