package apple

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

const (
	typeSystolic  = "HKQuantityTypeIdentifierBloodPressureSystolic"
	typeDiastolic = "HKQuantityTypeIdentifierBloodPressureDiastolic"
)

// record is the element being read; it is used again for the next one.
type record struct {
	s        sample.Sample
	device   *sample.Device
	unit     string
	reason   string // why it is rejected, "" if it is not
	detail   string
	where    string
	raw      []byte
	syncID   string
	version  int64 // of syncID; the greater is the later
	external string
}

func (r *record) reject(reason, detail string) {
	if r.reason == "" {
		r.reason, r.detail = reason, detail
	}
}

// begin clears r and reads what Record, Workout and others have in common.
func (d *xmlDecoder) begin(r *record) {
	d.last = nil
	comps := r.s.Components[:0]
	*r = record{raw: r.raw[:0]}
	r.s.Components = comps
	r.s.Channel = channelXML
	r.s.Zone = sample.ZoneInstant
	r.s.KeyValue = true
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "sourceName":
			r.s.Source.Name = d.names.get(d.sc.value(a))
		case "sourceVersion":
			r.s.Source.Version = d.names.get(d.sc.value(a))
		case "device":
			r.device = d.devices.get(a.raw, func() []byte { return d.sc.value(a) })
			r.s.Device = *r.device
		case "startDate":
			d.date(r, a, r.s.Start.IsZero())
		case "endDate":
			d.date(r, a, false)
		}
	}
	if r.s.Start.IsZero() {
		r.reject(sample.ReasonMissing, "startDate is missing")
	}
	if !r.s.End.IsZero() && r.s.End.Before(r.s.Start) {
		r.reject(sample.ReasonBadTime, "endDate is before startDate")
	}
	if r.s.End.Equal(r.s.Start) {
		r.s.End = time.Time{}
	}
}

// date reads a start or an end. In version 12 the end is written as a second
// startDate.
func (d *xmlDecoder) date(r *record, a *attr, start bool) {
	t, ok := d.clock.parse(d.sc.value(a))
	switch {
	case !ok:
		r.reject(sample.ReasonBadTime, "a date is unreadable")
		t = time.Unix(0, 0)
	case !d.clock.plausible(t):
		r.reject(sample.ReasonBadTime, "a date is before 1900 or in the future")
	}
	if start {
		r.s.Start = t
	} else {
		r.s.End = t
	}
}

// keepRaw copies the tag while it is in the buffer, if it will be rejected.
func (d *xmlDecoder) keepRaw(r *record) {
	if r.reason != "" {
		r.where = d.where()
		r.raw = append(r.raw[:0], d.sc.tag()...)
	}
}

func (d *xmlDecoder) record() error {
	r := &d.rec
	d.begin(r)
	var value *attr
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "type":
			r.s.Metric = d.names.get(d.sc.value(a))
		case "unit":
			r.unit = d.names.get(d.sc.value(a))
		case "value":
			value = a
		}
	}
	if r.s.Metric == "" {
		r.reject(sample.ReasonMissing, "type is missing")
	}
	d.recordValue(r, value)
	if r.reason == "" {
		d.learn(r)
	}
	d.keepRaw(r)
	if err := d.recordChildren(r); err != nil {
		return err
	}
	return d.emit(r)
}

func (d *xmlDecoder) recordValue(r *record, a *attr) {
	isNumber := r.unit != "" || strings.HasPrefix(r.s.Metric, "HKQuantityTypeIdentifier")
	switch {
	case a == nil && isNumber:
		r.reject(sample.ReasonMissing, "value is missing")
	case a == nil:
	case isNumber:
		num, ok := decimal(d.sc.value(a))
		if !ok {
			r.reject(sample.ReasonBadValue, "value is not a decimal")
			return
		}
		r.s.Value = number(d.values.get(num), r.unit)
	default:
		if v := bytes.TrimSpace(d.sc.value(a)); len(v) > 0 {
			r.s.Value = code(d.names.get(v))
		}
	}
}

// recordChildren is children without a closure: it runs for every Record.
func (d *xmlDecoder) recordChildren(r *record) error {
	for depth := d.sc.depth; ; {
		ok, err := d.child(r)
		if err != nil {
			return err
		}
		kind := tokenEnd
		if !ok {
			kind, err = d.next()
		}
		switch {
		case err != nil:
			return err
		case kind == tokenEnd && d.sc.depth < depth:
			return nil
		case kind != tokenStart:
		case string(d.sc.name) == "MetadataEntry":
			d.metadata(r)
		case string(d.sc.name) == "HeartRateVariabilityMetadataList":
			d.sink.Drop(sample.DropIgnored, "HeartRateVariabilityMetadataList", 1)
			if err := d.skip(); err != nil {
				return err
			}
		}
	}
}

// metaKey is a metadata key without Apple's prefix, which comes and goes.
func metaKey(b []byte) []byte {
	if rest, ok := bytes.CutPrefix(b, []byte("HKMetadataKey")); ok {
		return rest
	}
	rest, _ := bytes.CutPrefix(b, []byte("HK"))
	return rest
}

// metadata reads one MetadataEntry of r. Keys of third parties are not ours.
func (d *xmlDecoder) metadata(r *record) {
	k, v := d.attr("key"), d.attr("value")
	if k == nil || v == nil {
		return
	}
	d.entry(r, d.sc.value(k), d.sc.value(v))
}

func (d *xmlDecoder) entry(r *record, key, val []byte) {
	switch string(metaKey(key)) {
	case "TimeZone":
		if loc := d.clock.iana(d.names.get(val)); loc != nil {
			r.s.IANA = d.names.get(val)
			r.s.Zone = sample.ZoneStated
			r.s.Start = inOffset(d.clock, r.s.Start, loc)
			if !r.s.End.IsZero() {
				r.s.End = inOffset(d.clock, r.s.End, loc)
			}
		}
	case "WasUserEntered":
		r.s.UserEntered = string(val) == "1"
	case "SyncIdentifier":
		r.syncID = string(val)
	case "SyncVersion":
		if n, err := strconv.ParseInt(string(val), 10, 64); err == nil && n > 0 {
			r.version = n
		}
	case "ExternalUUID":
		r.external = string(val)
	case "VO2MaxTestType":
		r.s.Method = vo2Method(val)
	case "HeartRateMotionContext":
		d.component(r, "motionContext", code(d.names.get(val)))
	case "BloodGlucoseMealTime":
		d.component(r, "mealTime", code(d.names.get(val)))
	case "InsulinDeliveryReason":
		d.component(r, "insulinReason", code(d.names.get(val)))
	case "HeartRateSensorLocation", "BodyTemperatureSensorLocation":
		d.component(r, "sensorLocation", code(d.names.get(val)))
	case "BarometricPressure":
		d.quantityComponent(r, "barometricPressure", val)
	case "HeartRateEventThreshold", "LowCardioFitnessEventThreshold", "AudioExposureLevel":
		d.quantityComponent(r, "threshold", val)
	case "AverageMETs":
		d.quantityComponent(r, "averageMETs", val)
	case "ElevationAscended":
		d.quantityComponent(r, "elevationAscended", val)
	case "ElevationDescended":
		d.quantityComponent(r, "elevationDescended", val)
	case "WeatherTemperature":
		d.quantityComponent(r, "weatherTemperature", val)
	case "WeatherHumidity":
		d.quantityComponent(r, "weatherHumidity", val)
	case "IndoorWorkout":
		d.component(r, "indoor", sample.Value{Kind: sample.Boolean, Bool: string(val) == "1"})
	}
}

func vo2Method(v []byte) string {
	switch string(v) {
	case "1":
		return "maxExercise"
	case "2":
		return "predictionSubMaxExercise"
	case "3":
		return "predictionNonExercise"
	case "4":
		return "predictionStepTest"
	}
	return ""
}

// component adds a part of the panel; of keys that repeat the first counts.
func (d *xmlDecoder) component(r *record, name string, v sample.Value) {
	if v.Kind == sample.Code && v.Text == "" {
		return
	}
	for i := range r.s.Components {
		if r.s.Components[i].Name == name {
			return
		}
	}
	r.s.Components = append(r.s.Components, sample.Component{Name: name, Value: v})
}

func (d *xmlDecoder) quantityComponent(r *record, name string, b []byte) {
	num, unit, ok := quantity(b)
	if !ok {
		d.leave(r.s.Metric, name, "the value is no decimal with a unit")
		return
	}
	n := d.values.get(num)
	if name == "weatherHumidity" {
		// The system stores percent times 100 since 2018: "9400 %" is 94 %.
		if f, err := strconv.ParseFloat(n, 64); err == nil && f > 100 {
			n = strconv.FormatFloat(f/100, 'f', -1, 64)
		}
	}
	d.component(r, name, number(n, d.names.get(unit)))
}

// vendorID scopes an id by its source: two apps may use the same one. An
// external UUID may stand for a whole session, so the start goes with it.
func (d *xmlDecoder) vendorID(r *record) string {
	if r.syncID == "" && r.external == "" {
		return ""
	}
	src, ok := d.ids.Get(r.s.Source.Name)
	if !ok {
		src = short(r.s.Source.Name)
		d.ids.Add(r.s.Source.Name, src)
	}
	if r.syncID != "" {
		return "sync/" + src + "/" + r.syncID
	}
	return "uuid/" + src + "/" + r.external + "/" + strconv.FormatInt(r.s.Start.Unix(), 10)
}

// revision orders what several exports state: by the date of the export.
func (d *xmlDecoder) revision() int64 {
	if d.exported.IsZero() {
		return 0
	}
	return d.exported.UnixMicro()
}

// leave reports a component that is left out, while the rest is taken. An
// error of the sink ends the decoding with the element.
func (d *xmlDecoder) leave(metric, component, rule string) {
	err := d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: metric, Component: component,
		Where: d.where(), Detail: rule})
	d.failed = cmp.Or(d.failed, err)
}

// emit hands out a finished record.
func (d *xmlDecoder) emit(r *record) error {
	if d.failed != nil {
		return d.failed
	}
	if r.reason != "" {
		return d.sink.Reject(&sample.Reject{Reason: r.reason, Metric: r.s.Metric, Where: r.where, Detail: r.detail,
			Raw: r.raw})
	}
	if r.s.VendorID = d.vendorID(r); r.s.VendorID != "" {
		r.s.KeyValue = false
		if r.s.Revision = r.version; r.version == 0 {
			r.s.Revision = d.revision()
		}
	}
	switch r.s.Metric {
	case typeSystolic, typeDiastolic:
		out, duplicate := d.bp.half(r)
		if duplicate {
			d.sink.Drop(sample.DropDuplicate, r.s.Metric, 1)
		}
		if out == nil {
			return nil
		}
		return d.sink.Sample(out)
	}
	return d.sink.Sample(&r.s)
}
