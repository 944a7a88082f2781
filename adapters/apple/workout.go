package apple

import (
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

// workoutStatistic maps the type of a WorkoutStatistics element to pairs of a
// component and the attribute that holds its value.
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

// statisticsOf returns the components that the statistics of a type provide.
func statisticsOf(typ string) [][2]string {
	if strings.HasPrefix(typ, "HKQuantityTypeIdentifierDistance") {
		return [][2]string{{"distance", "sum"}}
	}
	return workoutStatistic[typ]
}

// workout reads a Workout. WorkoutStatistics take precedence over the attributes
// that older exports have.
func (d *xmlDecoder) workout() error {
	r := &record{}
	d.begin(r)
	r.sample.Metric = typeWorkout
	legacy := map[string]string{} // copies, because the buffer moves on
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "workoutActivityType":
			r.sample.Value = code(d.names.get(d.sc.value(a)))
		case "duration", "durationUnit", "totalDistance", "totalDistanceUnit", "totalEnergyBurned",
			"totalEnergyBurnedUnit",
			"totalSwimmingStrokeCount", "totalSwimmingStrokeCountUnit", "totalFlightsClimbed",
			"totalFlightsClimbedUnit":
			legacy[string(a.name)] = string(d.sc.value(a))
		}
	}
	if r.sample.Value.Text == "" {
		r.sample.Value = sample.Value{}
		r.reject(sample.ReasonMissing, "workoutActivityType is missing")
	}
	d.keepRaw(r)
	d.legacyTotal(r, "duration", legacy["duration"], legacy["durationUnit"], "min")
	d.legacyEnd(r, legacy["duration"], legacy["durationUnit"])
	var routes route
	if err := d.children(func() error { return d.workoutChild(r, &routes) }); err != nil {
		return err
	}
	d.legacyTotal(r, "distance", legacy["totalDistance"], legacy["totalDistanceUnit"], "km")
	d.legacyTotal(r, "activeEnergy", legacy["totalEnergyBurned"], legacy["totalEnergyBurnedUnit"], "kcal")
	d.legacyTotal(r, "swimmingStrokes", legacy["totalSwimmingStrokeCount"],
		legacy["totalSwimmingStrokeCountUnit"], "count")
	d.legacyTotal(r, "flights", legacy["totalFlightsClimbed"], legacy["totalFlightsClimbedUnit"], "count")
	routes.parts(r)
	if err := d.emit(r); err != nil || r.reason != "" {
		return err
	}
	if s, ok := routes.locationOf(&r.sample); ok {
		return d.sink.Sample(&s)
	}
	return nil
}

// legacyEnd computes the end of a workout without an endDate from its duration.
func (d *xmlDecoder) legacyEnd(r *record, num, unit string) {
	if d.attr("endDate") != nil || !r.sample.End.IsZero() {
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
		r.sample.End = r.sample.Start.Add(time.Duration(f * float64(time.Second)))
	}
}

// legacyTotal adds a component from an attribute of older exports.
func (d *xmlDecoder) legacyTotal(r *record, name, num, unit, defaultUnit string) {
	if num == "" {
		return
	}
	n, ok := decimal([]byte(num))
	if !ok {
		d.rejectComponent(r.sample.Metric, name, "the total is not a decimal")
		return
	}
	if unit == "" {
		unit = defaultUnit
	}
	r.component(name, number(string(n), unit))
}

// workoutChild reads one child of a Workout.
func (d *xmlDecoder) workoutChild(r *record, routes *route) error {
	switch name := string(d.sc.name); name {
	case "MetadataEntry":
		d.metadata(r)
	case "WorkoutStatistics":
		d.statistics(r)
	case "Record": // recent exports nest the effort score
		return d.record()
	case "WorkoutRoute":
		d.sink.Drop(sample.DropIgnored, name, 1)
		return d.workoutRoute(routes)
	case "WorkoutEvent", "WorkoutActivity", "WorkoutZoneGroup":
		d.sink.Drop(sample.DropIgnored, name, 1)
	default:
		d.sink.Drop(sample.DropIgnored, "other", 1)
	}
	return d.skip()
}

// statistics adds the components of one WorkoutStatistics element.
func (d *xmlDecoder) statistics(r *record) {
	typeAttr, unitAttr := d.attr("type"), d.attr("unit")
	if typeAttr == nil {
		return
	}
	typ, unit := d.names.get(d.sc.value(typeAttr)), ""
	if unitAttr != nil {
		unit = d.names.get(d.sc.value(unitAttr))
	}
	wanted := statisticsOf(typ)
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
			d.rejectComponent(r.sample.Metric, w[0], "the statistic is not a decimal")
			continue
		}
		r.component(w[0], number(d.values.get(num), unit))
	}
}

// workoutRoute adds a route to the summary of a workout. Exports before iOS 13 hold
// the locations, later ones the name of a file in the archive.
func (d *xmlDecoder) workoutRoute(total *route) error {
	var r route
	err := d.children(func() error {
		switch string(d.sc.name) {
		case "Location":
			r.location(degrees(d.bytes("latitude")), degrees(d.bytes("longitude")), degrees(d.bytes("altitude")),
				d.clock.routeTime(d.bytes("date")))
		case "FileReference":
			if name := d.bytes("path"); d.routes != nil && len(name) > 0 {
				total.add(d.routes(string(name), d.clock))
			}
		}
		return d.skip()
	})
	total.add(r)
	return err
}

// bytes returns the value of an attribute, or nil.
func (d *xmlDecoder) bytes(name string) []byte {
	a := d.attr(name)
	if a == nil {
		return nil
	}
	return d.sc.value(a)
}
