package apple

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"github.com/valyala/fastjson"

	"pulsegate/mapping/sample"
)

// haeWorkoutNumbers maps the {qty, units} members of a workout to components.
// Version 1 writes "intesity" for "intensity".
var haeWorkoutNumbers = map[string]string{
	"activeEnergyBurned": "activeEnergy", "activeEnergy": "activeEnergy", "distance": "distance",
	"intensity": "averageMETs", "intesity": "averageMETs", "temperature": "weatherTemperature",
	"humidity":    "weatherHumidity",
	"elevationUp": "elevationAscended", "elevationDown": "elevationDescended", "stepCount": "steps",
	"flightsClimbed": "flights", "totalSwimmingStrokeCount": "swimmingStrokes",
	"avgHeartRate": "heartRateAverage", "maxHeartRate": "heartRateMaximum", "minHeartRate": "heartRateMinimum",
}

// workout reads one workout member by member because its route and its series may
// be long.
func (h *haeDecoder) workout() error {
	if h.dec.PeekKind() != '{' {
		return h.item(typeWorkout, func(*fastjson.Value) error { return nil })
	}
	w := &haeWorkout{decoder: h, sample: &sample.Sample{Metric: typeWorkout, Channel: channelHAE},
		members: []byte{'{'}}
	if err := h.object(w.member); err != nil {
		return err
	}
	w.members = append(w.members, '}')
	return h.parsed(w.sample.Metric, w.members, w.end)
}

// haeWorkout is a workout being read.
type haeWorkout struct {
	decoder   *haeDecoder
	sample    *sample.Sample
	members   []byte // the scalar members, as one JSON object
	low, high extreme
	unit      string
	route     route
}

// member reads one member of the workout.
func (w *haeWorkout) member(name string) error {
	h := w.decoder
	switch {
	case name == "heartRateData" && h.dec.PeekKind() == '[':
		return h.array(func() error { return h.item(w.sample.Metric, w.heartRate) })
	case name == "route" && h.dec.PeekKind() == '[':
		h.sink.Drop(sample.DropIgnored, "workout-series", 1)
		return h.array(w.location)
	case name == "heartRateData" && h.dec.PeekKind() != 'n',
		scalarMember(name) && haeWorkoutNumbers[name] == "" && h.dec.PeekKind() == '[':
		if err := h.rejectPart(w.sample.Metric, name); err != nil {
			return err
		}
		return h.skip()
	case h.dec.PeekKind() == '[':
		h.sink.Drop(sample.DropIgnored, "workout-series", 1)
		return h.skip()
	}
	if !scalarMember(name) {
		return h.skip()
	}
	v, err := h.value()
	if err != nil {
		return err
	}
	if len(w.members) > 1 {
		w.members = append(w.members, ',')
	}
	w.members = append(append(append(w.members, '"'), name...), '"', ':')
	w.members = append(w.members, v...)
	return nil
}

// scalarMember reports whether a workout has the member, and not as a list.
func scalarMember(name string) bool {
	switch name {
	case "id", "name", "start", "end", "duration", "isIndoor", "elevation", "location", "heartRate":
		return true
	}
	return haeWorkoutNumbers[name] != ""
}

// location adds a location to the summary of the route. A location never goes to
// quarantine.
func (w *haeWorkout) location() error {
	raw, err := w.decoder.value()
	if err != nil {
		return err
	}
	v, err := w.decoder.parser.ParseBytes(raw)
	if err != nil || v.Type() != fastjson.TypeObject {
		return nil
	}
	get := func(names ...string) float64 {
		for _, name := range names {
			if x := v.Get(name); x != nil && x.Type() == fastjson.TypeNumber {
				return x.GetFloat64()
			}
		}
		return math.NaN()
	}
	w.route.location(get("latitude", "lat"), get("longitude", "lon"), get("altitude"),
		w.decoder.clock.routeTime(v.GetStringBytes("timestamp")))
	return nil
}

// heartRate keeps the extremes of the heart rate series. A mean of the series
// would not be the mean of the workout.
func (w *haeWorkout) heartRate(v *fastjson.Value) error {
	for _, key := range []string{"Min", "Max", "qty"} {
		n, err := num(v, key)
		if err != nil {
			return err
		}
		if key != "Max" {
			w.low.min(n)
		}
		if key != "Min" {
			w.high.max(n)
		}
	}
	if u := str(v, "units"); u != "" {
		w.unit = u
	}
	return nil
}

// end turns the members into a sample and emits it.
func (w *haeWorkout) end(v *fastjson.Value) error {
	s := w.sample
	s.VendorID = str(v, "id")
	name := str(v, "name")
	if name == "" {
		return &itemError{sample.ReasonMissing, "no name"}
	}
	s.Value = code(name)
	if err := w.decoder.span(s, v, "start", "end"); err != nil {
		return err
	}
	n, err := w.decoder.componentNumber(v, s.Metric, "duration", "duration")
	if err != nil {
		return err
	}
	w.add("duration", n, "s")
	if f, err := strconv.ParseFloat(n, 64); err == nil && s.End.IsZero() && f > 0 && f < 10*24*3600 {
		s.End = s.Start.Add(time.Duration(f * float64(time.Second)))
	}
	if err := w.totals(v); err != nil {
		return err
	}
	w.add("heartRateMinimum", w.low.text, w.unit)
	w.add("heartRateMaximum", w.high.text, w.unit)
	if b := v.Get("isIndoor"); b != nil && (b.Type() == fastjson.TypeTrue || b.Type() == fastjson.TypeFalse) {
		s.Components = append(s.Components,
			sample.Component{Name: "indoor", Value: sample.Value{Kind: sample.Boolean, Bool: b.GetBool()}})
	} else if l := v.GetStringBytes("location"); bytes.Equal(l, []byte("Indoor")) || bytes.Equal(l, []byte("Outdoor")) {
		s.Components = append(s.Components,
			sample.Component{Name: "indoor", Value: sample.Value{Kind: sample.Boolean, Bool: l[0] == 'I'}})
	}
	r := record{sample: *s}
	w.route.parts(&r)
	s.Components = r.sample.Components
	if err := w.decoder.sink.Sample(s); err != nil {
		return err
	}
	if location, ok := w.route.locationOf(s); ok {
		return w.decoder.sink.Sample(&location)
	}
	return nil
}

// totals reads the {qty, units} members, and the heart rate with its {min, avg,
// max} of {qty, units}.
func (w *haeWorkout) totals(v *fastjson.Value) (err error) {
	read := func(x *fastjson.Value, key, component, units string) {
		if x == nil || x.Type() != fastjson.TypeObject || err != nil {
			return
		}
		var n string
		if n, err = w.decoder.componentNumber(x, w.sample.Metric, key, component); err == nil {
			w.add(component, n, units)
		}
	}
	e := v.Get("elevation")
	read(e, "ascent", "elevationAscended", str(e, "units"))
	read(e, "descent", "elevationDescended", str(e, "units"))
	v.GetObject().Visit(func(key []byte, x *fastjson.Value) {
		if c := haeWorkoutNumbers[string(key)]; c != "" {
			read(x, "qty", c, str(x, "units"))
		}
	})
	for _, k := range [][2]string{{"avg", "heartRateAverage"}, {"min", "heartRateMinimum"},
		{"max", "heartRateMaximum"}} {
		x := v.Get("heartRate", k[0])
		read(x, "qty", k[1], str(x, "units"))
	}
	return err
}

func (w *haeWorkout) add(name, n, unit string) {
	if n == "" {
		return
	}
	for _, c := range w.sample.Components {
		if c.Name == name {
			return
		}
	}
	w.sample.Components = append(w.sample.Components, sample.Component{Name: name, Value: number(n, unit)})
}
