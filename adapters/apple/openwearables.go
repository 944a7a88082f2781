package apple

import (
	"bytes"
	"cmp"
	"context"
	"strings"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

const channelOpenWearables = "open-wearables"

// looksLikeOpenWearables reports whether head begins a sync request of the Open
// Wearables SDK.
func looksLikeOpenWearables(head []byte) bool {
	return bytes.Contains(head, []byte(`"sdkVersion"`)) && bytes.Contains(head, []byte(`"syncTimestamp"`))
}

// openWearables decodes one sync request of the Open Wearables SDK.
type openWearables struct {
	*phoneDecoder
	provider string
	revision int64
	bp       *bloodPressure
}

func decodeOpenWearables(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	d := &openWearables{phoneDecoder: newPhoneDecoder(ctx, in, formatOpenWearables, channelOpenWearables, sink),
		bp: newBloodPressure()}
	return jsonitem.Payload(formatOpenWearables, d.body())
}

// body reads the request: one object.
func (d *openWearables) body() error {
	var early header
	more, err := d.rd.Next()
	if err != nil {
		return err
	}
	if !more {
		return d.rd.Fail("the body is empty")
	}
	found := false
	err = d.rd.Object(func(name string) error {
		switch name {
		case "provider", "syncTimestamp":
			return d.header(name)
		case "data":
			found = true
			if d.provider == "" || d.revision == 0 {
				return early.keep(d.phoneDecoder, name)
			}
			return d.data()
		}
		return d.rd.Skip()
	})
	switch {
	case err != nil:
		return err
	case d.provider == "":
		return d.rd.Fail("no provider")
	case !found:
		return d.rd.Fail(`no object "data"`)
	}
	for _, n := range early.early {
		if n.Kind != '{' && n.Kind != 'n' {
			return d.rd.Fail(`no object "data"`)
		}
		for _, name := range []string{"records", "sleep", "workouts"} {
			if err := d.nodes(name, n.Get(name), d.reader(name)); err != nil {
				return err
			}
		}
	}
	if err := d.bp.flush(d.sink.Sample); err != nil {
		return err
	}
	if more, err = d.rd.Next(); err == nil && more {
		err = d.rd.Fail("more than one JSON value")
	}
	return err
}

func (d *openWearables) header(name string) error {
	n, err := d.member(name)
	if err != nil {
		return err
	}
	if name == "provider" {
		if d.provider = n.String(); d.provider != "apple" {
			return d.rd.Fail(`the provider is not "apple": the payload is of another vendor`)
		}
		return nil
	}
	if t, _, ok := n.Time(); ok && d.clock.plausible(t) {
		d.revision = t.UnixMicro()
	} else if n.Kind != '"' && n.Kind != 'n' {
		return d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadTime, Where: name, Detail: name + " is not a text"})
	}
	return nil
}

// data reads the lists of the request.
func (d *openWearables) data() error {
	return d.rd.Object(func(name string) error {
		if read := d.reader(name); read != nil {
			return d.list(name, read)
		}
		d.sink.Drop(sample.DropIgnored, "section", 1)
		return d.rd.Skip()
	})
}

func (d *openWearables) reader(name string) func(*jsonitem.Node) error {
	switch name {
	case "records":
		return d.record
	case "sleep":
		return d.sleep
	case "workouts":
		return d.workout
	}
	return nil
}

// start returns the record of an item with its id, times and origin.
func (d *openWearables) start(n *jsonitem.Node, metric string) (*record, error) {
	id, ok := uuid(n.Get("id").String())
	if !ok {
		return nil, missing("id is not a UUID")
	}
	r := d.begin(metric, id)
	r.sample.Revision = d.revision
	if err := d.span(r, n.Get("startDate"), n.Get("endDate")); err != nil {
		return nil, err
	}
	if zone := n.Get("zoneOffset").String(); zone != "" {
		if at, ok := d.offset(r, zone); !ok {
			return nil, badTime("zoneOffset is not an offset")
		} else if at {
			r.sample.Zone = sample.ZoneStated
		}
	}
	d.origin(r, n.Get("source"))
	return r, nil
}

// offset moves the times of r to an offset such as "+01:00".
func (d *openWearables) offset(r *record, zone string) (moved, ok bool) {
	n := &jsonitem.Node{Kind: '"', Text: "2000-01-01T00:00:00" + zone}
	t, _, ok := n.Time()
	if !ok {
		return false, false
	}
	_, seconds := t.Zone()
	loc := d.clock.zone(seconds)
	r.sample.Start = r.sample.Start.In(loc)
	if !r.sample.End.IsZero() {
		r.sample.End = r.sample.End.In(loc)
	}
	return true, true
}

// origin reads the source and the device. Versions of the SDK name them differently.
func (d *openWearables) origin(r *record, s *jsonitem.Node) {
	first := func(names ...string) string {
		for _, name := range names {
			if v := s.Get(name).String(); v != "" {
				return v
			}
		}
		return ""
	}
	hardware := first("deviceHardwareVersion", "productType")
	model := first("deviceModel")
	if hardware == "" && strings.Contains(model, ",") { // a product type such as Watch7,5
		hardware = model
		model = strings.TrimRight(strings.TrimRight(model, "0123456789"), ",")
		model = strings.TrimRight(model, "0123456789")
	}
	r.sample.Source.Name = first("name", "deviceName", "bundleIdentifier", "appId")
	r.sample.Device = sample.Device{
		Name: first("deviceName"), Manufacturer: first("deviceManufacturer"), Model: model, Hardware: hardware,
		Software: first("deviceSoftwareVersion"), Kind: deviceType(model),
	}
}

// record reads one quantity or category.
func (d *openWearables) record(n *jsonitem.Node) error {
	metric, err := typeOf(n.Get("type"))
	if err != nil {
		return err
	}
	d.metric = metric
	if ignored[metric] != "" {
		d.sink.Drop(sample.DropIgnored, metric, 1)
		return nil
	}
	r, err := d.start(n, metric)
	if err != nil {
		return err
	}
	if strings.HasPrefix(metric, prefixCategory) {
		err = d.category(r, n.Get("value"))
	} else {
		var num string
		if num, err = d.number(n.Get("value"), "value"); err == nil && num == "" {
			err = missing("value is missing")
		}
		r.sample.Value = number(num, n.Get("unit").String())
	}
	if err != nil {
		return err
	}
	d.metadata(r, n.Get("metadata"))
	if d.sinkErr != nil || !isHalf(metric) {
		return cmp.Or(d.sinkErr, d.emit(r))
	}
	// The SDK takes blood pressures apart, so the UUID is not that of the pair.
	r.sample.VendorID, r.sample.SharedID, r.sample.KeyValue, r.sample.Revision = "", false, true, 0
	out, duplicate := d.bp.half(r)
	if duplicate {
		d.sink.Drop(sample.DropDuplicate, metric, 1)
	}
	if out == nil {
		return nil
	}
	return d.sink.Sample(out)
}

func (d *openWearables) emit(r *record) error {
	if d.sinkErr != nil {
		return d.sinkErr
	}
	return d.sink.Sample(&r.sample)
}

// sleepStages maps the stages of the SDK to the values of a sleep analysis.
var sleepStages = map[string]string{
	"inbed": "InBed", "sleeping": "AsleepUnspecified", "asleep": "AsleepUnspecified",
	"unspecified":       "AsleepUnspecified",
	"asleepunspecified": "AsleepUnspecified", "awake": "Awake", "light": "AsleepCore", "core": "AsleepCore",
	"asleepcore": "AsleepCore", "deep": "AsleepDeep", "asleepdeep": "AsleepDeep", "rem": "AsleepREM",
	"asleeprem": "AsleepREM",
}

// sleep reads one segment of sleep.
func (d *openWearables) sleep(n *jsonitem.Node) error {
	r, err := d.start(n, typeSleep)
	if err != nil {
		return err
	}
	stage := sleepStages[squash(n.Get("stage").String())]
	if stage == "" {
		return badValue("the stage is unknown")
	}
	r.sample.Value = code("HKCategoryValueSleepAnalysis" + stage)
	d.metadata(r, n.Get("metadata"))
	return d.emit(r)
}

// workoutValues maps the values of a workout to components.
var workoutValues = map[string]string{
	"duration": "duration", "activeEnergyBurned": "activeEnergy", "basalEnergyBurned": "basalEnergy",
	"distance": "distance", "stepCount": "steps", "steps": "steps", "minHeartRate": "heartRateMinimum",
	"averageHeartRate": "heartRateAverage", "maxHeartRate": "heartRateMaximum",
	"elevationAscended": "elevationAscended", "elevationDescended": "elevationDescended", "averageMETs": "averageMETs",
	"weatherTemperature": "weatherTemperature", "weatherHumidity": "weatherHumidity",
	"swimmingStrokeCount": "swimmingStrokes", "flightsClimbed": "flights",
}

// workout reads one workout with its list of values.
func (d *openWearables) workout(n *jsonitem.Node) error {
	r, err := d.start(n, typeWorkout)
	if err != nil {
		return err
	}
	if n.Get("type").String() == "" {
		return missing("the workout has no type")
	}
	r.sample.Value = code(activityNamed(n.Get("type").String()))
	if list := n.Get("values"); list != nil {
		for i := range list.List() {
			v := &list.List()[i]
			name, typ := workoutValues[v.Get("type").String()], v.Get("type").String()
			switch {
			case typ == "indoorWorkout" && (v.Get("value").IsBool() || v.Get("value") != nil):
				b, _ := metadataText(v.Get("value"))
				r.component("indoor", sample.Value{Kind: sample.Boolean, Bool: b == "1"})
			case name == "":
				d.sink.Drop(sample.DropIgnored, "workout-value", 1)
			default:
				d.part(r, name, v.Get("value"), v.Get("unit").String())
			}
		}
	}
	d.metadata(r, n.Get("metadata"))
	return d.emit(r)
}
