package oura

import (
	"math"
	"strconv"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// readers maps the types, named after the routes of the API, to their readers.
// It includes the webhooks' spelling of vO2_max and is never modified.
var readers = map[string]func(*document) (*rejection, error){
	"sleep": readSleep, "heartrate": heartrate, "interbeat_interval": interbeat,
	"daily_activity": dailyActivity, "daily_readiness": dailyReadiness, "daily_sleep": dailySleep,
	"daily_spo2": dailySpO2, "daily_stress": dailyStress, "daily_resilience": dailyResilience,
	"daily_cardiovascular_age": cardiovascularAge, "vO2_max": vo2Max, "vo2_max": vo2Max,
	"workout": workout, "session": session, "enhanced_tag": enhancedTag, "tag": tag,
	"rest_mode_period": restMode, "sleep_time": sleepTime, "personal_info": personalInfo,
	"ring_battery_level": ringBattery, "ring_configuration": ringConfiguration,
}

// anyHigh is the upper bound of values without a plausible maximum.
const anyHigh = 1e12

func heartrate(doc *document) (*rejection, error) {
	if bad := doc.at("timestamp"); bad != nil {
		return bad, nil
	}
	doc.sample.KeyValue = true // several may have the same second
	return nil, doc.emitField("heartrate", "bpm", 1, 300, codes(doc.node, "source"), "bpm")
}

func interbeat(doc *document) (*rejection, error) {
	if bad := doc.at("timestamp"); bad != nil {
		return bad, nil
	}
	doc.sample.KeyValue = true // several may have the same second
	return nil, doc.emitField("interbeat_interval", "ms", 1, 10000, doc.numbers("interbeat_interval", "", "validity"),
		"ibi")
}

func dailyActivity(doc *document) (*rejection, error) {
	if bad := doc.onDay(true); bad != nil {
		return bad, nil
	}
	for _, f := range []struct {
		field, unit string
		parts       []sample.Component
	}{
		{"steps", "count", doc.numbers("daily_activity.steps", "s", "non_wear_time")}, {"total_calories", "kcal", nil},
		{"active_calories", "kcal", nil}, {"equivalent_walking_distance", "m", nil},
		{"score", "score", doc.contributors("daily_activity.score")},
	} {
		if err := doc.emitField("daily_activity."+f.field, f.unit, 0, anyHigh, f.parts, f.field); err != nil {
			return nil, err
		}
	}
	times := doc.numbers("daily_activity.time", "s", "high_activity_time", "medium_activity_time",
		"low_activity_time", "sedentary_time", "resting_time", "non_wear_time")
	times = append(times, doc.numbers("daily_activity.time", "count", "inactivity_alerts")...)
	times = append(times, doc.numbers("daily_activity.time", "MET.min", "average_met_minutes",
		"high_activity_met_minutes", "medium_activity_met_minutes",
		"low_activity_met_minutes", "sedentary_met_minutes")...)
	if len(times) > 0 {
		if err := doc.emit("daily_activity.time", sample.Value{}, times...); err != nil {
			return nil, err
		}
	}
	if err := doc.emitSeries("daily_activity.met", "MET", "met"); err != nil {
		return nil, err
	}
	v, ok := digits(doc.node.Get("class_5_min"), '0', '5', 5*time.Minute)
	start, zone, okTime := instant(doc.node.Get("timestamp"))
	if !ok || !okTime {
		return nil, nil
	}
	doc.sample.Day, doc.sample.Start, doc.sample.Zone = sample.Date{}, start, zone
	doc.sample.End = start.Add(time.Duration(len(v.Series.Data)+1) / 2 * v.Series.Period)
	return nil, doc.emit("daily_activity.class_5_min", v)
}

func dailyReadiness(doc *document) (*rejection, error) {
	if bad := doc.onDay(false); bad != nil {
		return bad, nil
	}
	if err := doc.emitField("daily_readiness.score", "score", 0, 100, doc.contributors("daily_readiness.score"),
		"score"); err != nil {
		return nil, err
	}
	for _, f := range []string{"temperature_deviation", "temperature_trend_deviation"} {
		if err := doc.emitField("daily_readiness."+f, "K", -20, 20, nil, f); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func dailySleep(doc *document) (*rejection, error) {
	if bad := doc.onDay(false); bad != nil {
		return bad, nil
	}
	return nil, doc.emitField("daily_sleep.score", "score", 0, 100, doc.contributors("daily_sleep.score"), "score")
}

func dailySpO2(doc *document) (*rejection, error) {
	if bad := doc.onDay(false); bad != nil {
		return bad, nil
	}
	if s, state := doc.node.Get("spo2_percentage", "average").Decimal(); state == jsonitem.Given &&
		jsonitem.Float(s) == 0 {
		doc.dec.drop(sample.DropPlaceholder, "daily_spo2.spo2_percentage")
	} else if err := doc.emitField("daily_spo2.spo2_percentage", "%", 1, 100, nil, "spo2_percentage",
		"average"); err != nil {
		return nil, err
	}
	return nil, doc.emitField("daily_spo2.breathing_disturbance_index", "score", 0, 100, nil,
		"breathing_disturbance_index")
}

// panel emits a code, if there is one, with components. A document with neither
// is rejected.
func (doc *document) panel(metric, field string, parts []sample.Component) (*rejection, error) {
	v, _ := code(doc.node.Get(field))
	if v.Kind == sample.None && len(parts) == 0 {
		return missing("the document holds no value"), nil
	}
	return nil, doc.emit(metric, v, parts...)
}

func dailyStress(doc *document) (*rejection, error) {
	if bad := doc.onDay(true); bad != nil {
		return bad, nil
	}
	return doc.panel("daily_stress", "day_summary", doc.numbers("daily_stress", "s", "stress_high", "recovery_high"))
}

func dailyResilience(doc *document) (*rejection, error) {
	if bad := doc.onDay(false); bad != nil {
		return bad, nil
	}
	return doc.panel("daily_resilience", "level", doc.contributors("daily_resilience"))
}

func cardiovascularAge(doc *document) (*rejection, error) {
	if bad := doc.onDay(false); bad != nil {
		return bad, nil
	}
	v, ok, err := doc.value("a", 1, 150, "vascular_age")
	parts := doc.numbers("daily_cardiovascular_age", "m/s", "pulse_wave_velocity")
	if err != nil || !ok && len(parts) == 0 {
		return nil, err // both are null until something has been measured
	}
	return nil, doc.emit("daily_cardiovascular_age", v, parts...)
}

func vo2Max(doc *document) (*rejection, error) {
	if bad := doc.onDay(false); bad != nil {
		return bad, nil
	}
	doc.sample.Method = "estimated"
	return nil, doc.emitField("vO2_max", "mL/kg/min", 1, 120, nil, "vo2_max")
}

func workout(doc *document) (*rejection, error) {
	if bad := doc.over("start_datetime", "end_datetime"); bad != nil {
		return bad, nil
	}
	v, ok := code(doc.node.Get("activity"))
	if !ok {
		return missing("activity is required"), nil
	}
	doc.sample.UserEntered = doc.node.Get("source").String() == "manual"
	parts := doc.numbers("workout", "kcal", "calories")
	parts = append(parts, doc.numbers("workout", "m", "distance")...)
	if !doc.sample.End.IsZero() {
		secs := strconv.FormatFloat(doc.sample.End.Sub(doc.sample.Start).Seconds(), 'f', -1, 64)
		parts = append(parts, sample.Component{Name: "duration",
			Value: sample.Value{Kind: sample.Number, Num: secs, Unit: "s"}})
	}
	return nil, doc.emit("workout", v, append(parts, codes(doc.node, "intensity", "source")...)...)
}

func session(doc *document) (*rejection, error) {
	if bad := doc.over("start_datetime", "end_datetime"); bad != nil {
		return bad, nil
	}
	if bad, err := doc.panel("session", "type", codes(doc.node, "mood")); bad != nil || err != nil {
		return bad, err
	}
	if err := doc.emitSeries("session.heart_rate", "bpm", "heart_rate"); err != nil {
		return nil, err
	}
	return nil, doc.emitSeries("session.heart_rate_variability", "ms", "heart_rate_variability")
}

func enhancedTag(doc *document) (*rejection, error) {
	bad := doc.over("start_time", "end_time")
	if doc.node.Get("end_time") == nil {
		bad = doc.at("start_time")
	}
	if bad != nil {
		return bad, nil
	}
	doc.sample.UserEntered, doc.sample.Device = true, sample.Device{}
	v, ok := code(doc.node.Get("tag_type_code"))
	if !ok {
		doc.dec.drop(sample.DropIgnored, "enhanced_tag") // the tag is a text of the wearer
		return nil, nil
	}
	return nil, doc.emit("enhanced_tag", v)
}

func tag(doc *document) (*rejection, error) {
	if bad := doc.at("timestamp"); bad != nil {
		return bad, nil
	}
	doc.sample.UserEntered, doc.sample.Device = true, sample.Device{}
	var parts []sample.Component
	if tags := doc.node.Get("tags"); tags != nil {
		for i := range tags.List() {
			if v, ok := code(&tags.List()[i]); ok && len(parts) < 64 {
				name := "tag"
				if len(parts) > 0 {
					name += "_" + strconv.Itoa(len(parts)+1)
				}
				parts = append(parts, sample.Component{Name: name, Value: v})
			}
		}
	}
	if len(parts) == 0 {
		doc.dec.drop(sample.DropIgnored, "tag")
		return nil, nil
	}
	return nil, doc.emit("tag", sample.Value{}, parts...)
}

func restMode(doc *document) (*rejection, error) {
	episodes := 0
	if e := doc.node.Get("episodes"); e != nil {
		episodes = len(e.List())
	}
	var bad *rejection
	switch {
	case doc.node.Get("start_time") == nil:
		day, ok := doc.node.Get("start_day").Day()
		if !ok {
			return badTime("start_day is not a calendar day"), nil
		}
		doc.sample = sample.Sample{Day: day}
	case doc.node.Get("end_time") == nil:
		bad = doc.at("start_time")
	default:
		bad = doc.at("start_time")
		end, _, ok := doc.node.Get("end_time").Time()
		if !ok {
			doc.node.Get("end_time").Refuse()
		}
		if bad == nil && ok && end.After(doc.sample.Start) {
			doc.sample.End = end // may be weeks later
		}
	}
	if bad != nil {
		return bad, nil
	}
	doc.sample.UserEntered, doc.sample.Device = true, sample.Device{}
	if day := doc.node.Get("end_day"); day != nil {
		if _, ok := day.Day(); !ok {
			day.Refuse()
		}
	}
	if doc.node.Get("end_day") == nil && doc.node.Get("end_time") == nil {
		doc.sample.Status = sample.Preliminary
	}
	return nil, doc.emit("rest_mode_period", sample.Value{}, sample.Component{Name: "episodes",
		Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(episodes), Unit: "count"}})
}

func sleepTime(doc *document) (*rejection, error) {
	if bad := doc.onDay(false); bad != nil {
		return bad, nil
	}
	var parts []sample.Component
	for _, f := range []string{"start_offset", "end_offset", "day_tz"} { // negative before midnight
		v, ok, err := doc.value("s", -2*86400, 2*86400, "optimal_bedtime", f)
		if err != nil {
			return nil, err
		}
		if ok {
			parts = append(parts, sample.Component{Name: f, Value: v})
		}
	}
	return doc.panel("sleep_time", "", append(parts, codes(doc.node, "recommendation", "status")...))
}

// personalInfo emits weight and height, which have no time, on the day of
// receipt. Age, sex and e-mail are not measurements.
func personalInfo(doc *document) (*rejection, error) {
	if doc.dec.received.IsZero() {
		return missing("these values have no time, and the time of receipt is unknown"), nil
	}
	doc.sample = sample.Sample{Day: jsonitem.DateOf(doc.dec.received.In(doc.dec.zone)), UserEntered: true}
	if err := doc.emitField("personal_info.weight", "kg", 1, 1000, nil, "weight"); err != nil {
		return nil, err
	}
	return nil, doc.emitField("personal_info.height", "m", 0.2, 3, nil, "height")
}

func ringBattery(doc *document) (*rejection, error) {
	if bad := doc.at("timestamp"); bad != nil {
		return bad, nil
	}
	v, ok, err := doc.value("%", 0, 100, "level")
	if err != nil || !ok {
		return nil, err
	}
	doc.sample.Device.Battery = v.Num
	var parts []sample.Component
	for _, f := range []string{"charging", "in_charger"} {
		if b := doc.node.Get(f); b.IsBool() {
			parts = append(parts, sample.Component{Name: f,
				Value: sample.Value{Kind: sample.Boolean, Bool: b.IsTrue()}})
		}
	}
	return nil, doc.emit("ring_battery_level", v, parts...)
}

// ringConfiguration emits a sample that only describes the device. The id of
// the document is the ring_id of other documents.
func ringConfiguration(doc *document) (*rejection, error) {
	if doc.id == "" {
		return missing("id is required"), nil
	}
	// Time refuses 1970, which stands for an unknown time.
	t, zone, ok := doc.node.Get("set_up_at").Time()
	if !ok {
		if doc.dec.received.IsZero() {
			return missing("neither set_up_at nor a time of receipt"), nil
		}
		t, zone = doc.dec.received.UTC(), sample.ZoneInstant
	}
	dev := ring(doc.id)
	dev.Hardware = doc.node.Get("hardware_type").String()
	dev.Model = dev.Hardware
	dev.Firmware = doc.node.Get("firmware_version").String()
	for _, f := range []string{"color", "design"} {
		if v := doc.node.Get(f).String(); v != "" {
			dev.Facts = append(dev.Facts, sample.Fact{Name: f, Value: v})
		}
	}
	if s, state := doc.node.Get("size").Decimal(); state == jsonitem.Given && math.Abs(jsonitem.Float(s)) < 100 {
		dev.Facts = append(dev.Facts, sample.Fact{Name: "size", Value: s})
	}
	if ok {
		dev.Facts = append(dev.Facts, sample.Fact{Name: "set_up_at", Value: t.Format(time.RFC3339)})
	}
	doc.sample = sample.Sample{Start: t, Zone: zone, Device: dev}
	return nil, doc.emit("ring_configuration", sample.Value{})
}
