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
	o := &openWearables{phoneDecoder: newPhoneDecoder(ctx, in, formatOpenWearables, channelOpenWearables, sink),
		bp: newBloodPressure()}
	return jsonitem.Payload(formatOpenWearables, o.body())
}

// body reads the request: one object.
func (o *openWearables) body() error {
	var early header
	more, err := o.rd.Next()
	if err != nil {
		return err
	}
	if !more {
		return o.rd.Fail("the body is empty")
	}
	found := false
	err = o.rd.Object(func(name string) error {
		switch name {
		case "provider", "syncTimestamp":
			return o.header(name)
		case "data":
			found = true
			if o.provider == "" || o.revision == 0 {
				return early.keep(o.phoneDecoder, name)
			}
			return o.data()
		}
		return o.rd.Skip()
	})
	switch {
	case err != nil:
		return err
	case o.provider == "":
		return o.rd.Fail("no provider")
	case !found:
		return o.rd.Fail(`no object "data"`)
	}
	for _, n := range early.early {
		for _, name := range []string{"records", "sleep", "workouts"} {
			if err := o.nodes(name, n.Get(name), o.reader(name)); err != nil {
				return err
			}
		}
	}
	if err := o.bp.flush(o.sink.Sample); err != nil {
		return err
	}
	if more, err = o.rd.Next(); err == nil && more {
		err = o.rd.Fail("more than one JSON value")
	}
	return err
}

func (o *openWearables) header(name string) error {
	n, err := o.member(name)
	if err != nil {
		return err
	}
	if name == "provider" {
		if o.provider = n.String(); o.provider != "apple" {
			return o.rd.Fail(`the provider is not "apple": the payload is of another vendor`)
		}
		return nil
	}
	if t, _, ok := n.Time(); ok && o.clock.plausible(t) {
		o.revision = t.UnixMicro()
	}
	return nil
}

// data reads the lists of the request.
func (o *openWearables) data() error {
	return o.rd.Object(func(name string) error {
		if read := o.reader(name); read != nil {
			return o.list(name, read)
		}
		o.sink.Drop(sample.DropIgnored, "section", 1)
		return o.rd.Skip()
	})
}

func (o *openWearables) reader(name string) func(*jsonitem.Node) error {
	switch name {
	case "records":
		return o.record
	case "sleep":
		return o.sleep
	case "workouts":
		return o.workout
	}
	return nil
}

// start returns the record of an item with its id, times and origin.
func (o *openWearables) start(n *jsonitem.Node, metric string) (*record, error) {
	id, ok := uuid(n.Get("id").String())
	if !ok {
		return nil, missing("id is not a UUID")
	}
	r := o.begin(metric, id)
	r.sample.Revision = o.revision
	if err := o.span(r, n.Get("startDate"), n.Get("endDate")); err != nil {
		return nil, err
	}
	if zone := n.Get("zoneOffset").String(); zone != "" {
		if at, ok := o.offset(r, zone); !ok {
			return nil, badTime("zoneOffset is not an offset")
		} else if at {
			r.sample.Zone = sample.ZoneStated
		}
	}
	o.origin(r, n.Get("source"))
	return r, nil
}

// offset moves the times of r to an offset such as "+01:00".
func (o *openWearables) offset(r *record, zone string) (moved, ok bool) {
	n := &jsonitem.Node{Kind: '"', Text: "2000-01-01T00:00:00" + zone}
	t, _, ok := n.Time()
	if !ok {
		return false, false
	}
	_, seconds := t.Zone()
	loc := o.clock.zone(seconds)
	r.sample.Start = r.sample.Start.In(loc)
	if !r.sample.End.IsZero() {
		r.sample.End = r.sample.End.In(loc)
	}
	return true, true
}

// origin reads the source and the device. Versions of the SDK name them differently.
func (o *openWearables) origin(r *record, s *jsonitem.Node) {
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
func (o *openWearables) record(n *jsonitem.Node) error {
	metric, err := typeOf(n.Get("type"))
	if err != nil {
		return err
	}
	o.metric = metric
	if ignored[metric] != "" {
		o.sink.Drop(sample.DropIgnored, metric, 1)
		return nil
	}
	r, err := o.start(n, metric)
	if err != nil {
		return err
	}
	if strings.HasPrefix(metric, prefixCategory) {
		err = o.category(r, n.Get("value"))
	} else {
		var num string
		if num, err = o.number(n.Get("value"), "value"); err == nil && num == "" {
			err = missing("value is missing")
		}
		r.sample.Value = number(num, n.Get("unit").String())
	}
	if err != nil {
		return err
	}
	o.metadata(r, n.Get("metadata"))
	if o.sinkErr != nil || !isHalf(metric) {
		return cmp.Or(o.sinkErr, o.emit(r))
	}
	// The SDK takes blood pressures apart, so the UUID is not that of the pair.
	r.sample.VendorID, r.sample.SharedID, r.sample.KeyValue, r.sample.Revision = "", false, true, 0
	out, duplicate := o.bp.half(r)
	if duplicate {
		o.sink.Drop(sample.DropDuplicate, metric, 1)
	}
	if out == nil {
		return nil
	}
	return o.sink.Sample(out)
}

func (o *openWearables) emit(r *record) error {
	if o.sinkErr != nil {
		return o.sinkErr
	}
	return o.sink.Sample(&r.sample)
}

// sleepStages maps the stages of the SDK to the values of a sleep analysis.
var sleepStages = map[string]string{
	"inbed": "InBed", "sleeping": "AsleepUnspecified", "asleep": "AsleepUnspecified", "unspecified": "AsleepUnspecified",
	"asleepunspecified": "AsleepUnspecified", "awake": "Awake", "light": "AsleepCore", "core": "AsleepCore",
	"asleepcore": "AsleepCore", "deep": "AsleepDeep", "asleepdeep": "AsleepDeep", "rem": "AsleepREM",
	"asleeprem": "AsleepREM",
}

// sleep reads one segment of sleep.
func (o *openWearables) sleep(n *jsonitem.Node) error {
	r, err := o.start(n, typeSleep)
	if err != nil {
		return err
	}
	stage := sleepStages[squash(n.Get("stage").String())]
	if stage == "" {
		return badValue("the stage is unknown")
	}
	r.sample.Value = code("HKCategoryValueSleepAnalysis" + stage)
	o.metadata(r, n.Get("metadata"))
	return o.emit(r)
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
func (o *openWearables) workout(n *jsonitem.Node) error {
	r, err := o.start(n, typeWorkout)
	if err != nil {
		return err
	}
	if n.Get("type").String() == "" {
		return missing("the workout has no type")
	}
	r.sample.Value = code(activityNamed(n.Get("type").String()))
	if list := n.Get("values"); list != nil {
		for i := range list.Items {
			v := &list.Items[i]
			name, typ := workoutValues[v.Get("type").String()], v.Get("type").String()
			switch {
			case typ == "indoorWorkout" && (v.Get("value").IsBool() || v.Get("value") != nil):
				b, _ := metadataText(v.Get("value"))
				r.component("indoor", sample.Value{Kind: sample.Boolean, Bool: b == "1"})
			case name == "":
				o.sink.Drop(sample.DropIgnored, "workout-value", 1)
			default:
				o.part(r, name, v.Get("value"), v.Get("unit").String())
			}
		}
	}
	o.metadata(r, n.Get("metadata"))
	return o.emit(r)
}
