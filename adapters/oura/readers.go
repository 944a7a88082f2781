package oura

import (
	"math"
	"strconv"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// readers are the types, by their route names and the webhook's spelling of
// vO2_max. It is never written to.
var readers = map[string]func(*document) (*rejection, error){
	"sleep": readSleep, "heartrate": heartrate, "interbeat_interval": interbeat,
	"daily_activity": dailyActivity, "daily_readiness": dailyReadiness, "daily_sleep": dailySleep,
	"daily_spo2": dailySpO2, "daily_stress": dailyStress, "daily_resilience": dailyResilience,
	"daily_cardiovascular_age": cardiovascularAge, "vO2_max": vo2Max, "vo2_max": vo2Max,
	"workout": workout, "session": session, "enhanced_tag": enhancedTag, "tag": tag,
	"rest_mode_period": restMode, "sleep_time": sleepTime, "personal_info": personalInfo,
	"ring_battery_level": ringBattery, "ring_configuration": ringConfiguration,
}

const anyHigh = 1e12

func heartrate(x *document) (*rejection, error) {
	if bad := x.at("timestamp"); bad != nil {
		return bad, nil
	}
	x.s.KeyValue = true // of one second there may be several
	return nil, x.emitField("heartrate", "bpm", 1, 300, codes(x.n, "source"), "bpm")
}

func interbeat(x *document) (*rejection, error) {
	if bad := x.at("timestamp"); bad != nil {
		return bad, nil
	}
	x.s.KeyValue = true // of one second there may be several
	return nil, x.emitField("interbeat_interval", "ms", 1, 10000, x.numbers("interbeat_interval", "", "validity"),
		"ibi")
}

func dailyActivity(x *document) (*rejection, error) {
	if bad := x.onDay(true); bad != nil {
		return bad, nil
	}
	for _, f := range []struct {
		field, unit string
		parts       []sample.Component
	}{
		{"steps", "count", x.numbers("daily_activity.steps", "s", "non_wear_time")}, {"total_calories", "kcal", nil},
		{"active_calories", "kcal", nil}, {"equivalent_walking_distance", "m", nil},
		{"score", "score", x.contributors("daily_activity.score")},
	} {
		if err := x.emitField("daily_activity."+f.field, f.unit, 0, anyHigh, f.parts, f.field); err != nil {
			return nil, err
		}
	}
	times := x.numbers("daily_activity.time", "s", "high_activity_time", "medium_activity_time",
		"low_activity_time", "sedentary_time", "resting_time", "non_wear_time")
	times = append(times, x.numbers("daily_activity.time", "count", "inactivity_alerts")...)
	times = append(times, x.numbers("daily_activity.time", "MET.min", "average_met_minutes",
		"high_activity_met_minutes", "medium_activity_met_minutes",
		"low_activity_met_minutes", "sedentary_met_minutes")...)
	if len(times) > 0 {
		if err := x.emit("daily_activity.time", sample.Value{}, times...); err != nil {
			return nil, err
		}
	}
	if err := x.emitSeries("daily_activity.met", "MET", "met"); err != nil {
		return nil, err
	}
	v, ok := digits(x.n.Get("class_5_min"), '0', '5', 5*time.Minute)
	start, zone, okTime := instant(x.n.Get("timestamp"))
	if !ok || !okTime {
		return nil, nil
	}
	x.s.Day, x.s.Start, x.s.Zone = sample.Date{}, start, zone
	x.s.End = start.Add(time.Duration(len(v.Series.Data)+1) / 2 * v.Series.Period)
	return nil, x.emit("daily_activity.class_5_min", v)
}

func dailyReadiness(x *document) (*rejection, error) {
	if bad := x.onDay(false); bad != nil {
		return bad, nil
	}
	if err := x.emitField("daily_readiness.score", "score", 0, 100, x.contributors("daily_readiness.score"),
		"score"); err != nil {
		return nil, err
	}
	for _, f := range []string{"temperature_deviation", "temperature_trend_deviation"} {
		if err := x.emitField("daily_readiness."+f, "K", -20, 20, nil, f); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func dailySleep(x *document) (*rejection, error) {
	if bad := x.onDay(false); bad != nil {
		return bad, nil
	}
	return nil, x.emitField("daily_sleep.score", "score", 0, 100, x.contributors("daily_sleep.score"), "score")
}

func dailySpO2(x *document) (*rejection, error) {
	if bad := x.onDay(false); bad != nil {
		return bad, nil
	}
	if s, state := x.n.Get("spo2_percentage", "average").Decimal(); state == jsonitem.Given && jsonitem.Float(s) == 0 {
		x.d.drop(sample.DropPlaceholder, "daily_spo2.spo2_percentage")
	} else if err := x.emitField("daily_spo2.spo2_percentage", "%", 1, 100, nil, "spo2_percentage",
		"average"); err != nil {
		return nil, err
	}
	return nil, x.emitField("daily_spo2.breathing_disturbance_index", "score", 0, 100, nil,
		"breathing_disturbance_index")
}

// panel emits a code (if there is one) with parts, a rejection if neither.
func (x *document) panel(metric, field string, parts []sample.Component) (*rejection, error) {
	v, _ := code(x.n.Get(field))
	if v.Kind == sample.None && len(parts) == 0 {
		return missing("the document holds no value"), nil
	}
	return nil, x.emit(metric, v, parts...)
}

func dailyStress(x *document) (*rejection, error) {
	if bad := x.onDay(true); bad != nil {
		return bad, nil
	}
	return x.panel("daily_stress", "day_summary", x.numbers("daily_stress", "s", "stress_high", "recovery_high"))
}

func dailyResilience(x *document) (*rejection, error) {
	if bad := x.onDay(false); bad != nil {
		return bad, nil
	}
	return x.panel("daily_resilience", "level", x.contributors("daily_resilience"))
}

func cardiovascularAge(x *document) (*rejection, error) {
	if bad := x.onDay(false); bad != nil {
		return bad, nil
	}
	v, ok, err := x.value("a", 1, 150, "vascular_age")
	parts := x.numbers("daily_cardiovascular_age", "m/s", "pulse_wave_velocity")
	if err != nil || !ok && len(parts) == 0 {
		return nil, err // both may be null: nothing is measured yet
	}
	return nil, x.emit("daily_cardiovascular_age", v, parts...)
}

func vo2Max(x *document) (*rejection, error) {
	if bad := x.onDay(false); bad != nil {
		return bad, nil
	}
	x.s.Method = "estimated"
	return nil, x.emitField("vO2_max", "mL/kg/min", 1, 120, nil, "vo2_max")
}

func workout(x *document) (*rejection, error) {
	if bad := x.over("start_datetime", "end_datetime"); bad != nil {
		return bad, nil
	}
	v, ok := code(x.n.Get("activity"))
	if !ok {
		return missing("activity is required"), nil
	}
	x.s.UserEntered = x.n.Get("source").String() == "manual"
	parts := x.numbers("workout", "kcal", "calories")
	parts = append(parts, x.numbers("workout", "m", "distance")...)
	if !x.s.End.IsZero() {
		secs := strconv.FormatFloat(x.s.End.Sub(x.s.Start).Seconds(), 'f', -1, 64)
		parts = append(parts, sample.Component{Name: "duration",
			Value: sample.Value{Kind: sample.Number, Num: secs, Unit: "s"}})
	}
	return nil, x.emit("workout", v, append(parts, codes(x.n, "intensity", "source")...)...)
}

func session(x *document) (*rejection, error) {
	if bad := x.over("start_datetime", "end_datetime"); bad != nil {
		return bad, nil
	}
	if bad, err := x.panel("session", "type", codes(x.n, "mood")); bad != nil || err != nil {
		return bad, err
	}
	if err := x.emitSeries("session.heart_rate", "bpm", "heart_rate"); err != nil {
		return nil, err
	}
	return nil, x.emitSeries("session.heart_rate_variability", "ms", "heart_rate_variability")
}

func enhancedTag(x *document) (*rejection, error) {
	bad := x.over("start_time", "end_time")
	if x.n.Get("end_time") == nil {
		bad = x.at("start_time")
	}
	if bad != nil {
		return bad, nil
	}
	x.s.UserEntered, x.s.Device = true, sample.Device{}
	v, ok := code(x.n.Get("tag_type_code"))
	if !ok {
		x.d.drop(sample.DropIgnored, "enhanced_tag") // only a person's own words
		return nil, nil
	}
	return nil, x.emit("enhanced_tag", v)
}

func tag(x *document) (*rejection, error) {
	if bad := x.at("timestamp"); bad != nil {
		return bad, nil
	}
	x.s.UserEntered, x.s.Device = true, sample.Device{}
	var parts []sample.Component
	if tags := x.n.Get("tags"); tags != nil {
		for i := range tags.Items {
			if v, ok := code(&tags.Items[i]); ok && len(parts) < 64 {
				name := "tag"
				if len(parts) > 0 {
					name += "_" + strconv.Itoa(len(parts)+1)
				}
				parts = append(parts, sample.Component{Name: name, Value: v})
			}
		}
	}
	if len(parts) == 0 {
		x.d.drop(sample.DropIgnored, "tag")
		return nil, nil
	}
	return nil, x.emit("tag", sample.Value{}, parts...)
}

func restMode(x *document) (*rejection, error) {
	episodes := 0
	if e := x.n.Get("episodes"); e != nil {
		episodes = len(e.Items)
	}
	var bad *rejection
	switch {
	case x.n.Get("start_time") == nil:
		day, ok := x.n.Get("start_day").Day()
		if !ok {
			return badTime("start_day is not a calendar day"), nil
		}
		x.s = sample.Sample{Day: day}
	case x.n.Get("end_time") == nil:
		bad = x.at("start_time")
	default:
		bad = x.at("start_time")
		if end, _, ok := x.n.Get("end_time").Time(); bad == nil && ok && end.After(x.s.Start) {
			x.s.End = end // weeks are possible
		}
	}
	if bad != nil {
		return bad, nil
	}
	x.s.UserEntered, x.s.Device = true, sample.Device{}
	if x.n.Get("end_day") == nil && x.n.Get("end_time") == nil {
		x.s.Status = sample.Preliminary
	}
	return nil, x.emit("rest_mode_period", sample.Value{}, sample.Component{Name: "episodes",
		Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(episodes), Unit: "count"}})
}

func sleepTime(x *document) (*rejection, error) {
	if bad := x.onDay(false); bad != nil {
		return bad, nil
	}
	var parts []sample.Component
	for _, f := range []string{"start_offset", "end_offset", "day_tz"} { // may be before midnight
		v, ok, err := x.value("s", -2*86400, 2*86400, "optimal_bedtime", f)
		if err != nil {
			return nil, err
		}
		if ok {
			parts = append(parts, sample.Component{Name: f, Value: v})
		}
	}
	return x.panel("sleep_time", "", append(parts, codes(x.n, "recommendation", "status")...))
}

// personalInfo has weight and height without a time: the day of receipt is
// the day they were true. Age, sex and e-mail are not measurements.
func personalInfo(x *document) (*rejection, error) {
	if x.d.received.IsZero() {
		return missing("without a time of receipt these values have no time"), nil
	}
	x.s = sample.Sample{Day: jsonitem.DateOf(x.d.received.In(x.d.zone)), UserEntered: true}
	if err := x.emitField("personal_info.weight", "kg", 1, 1000, nil, "weight"); err != nil {
		return nil, err
	}
	return nil, x.emitField("personal_info.height", "m", 0.2, 3, nil, "height")
}

func ringBattery(x *document) (*rejection, error) {
	if bad := x.at("timestamp"); bad != nil {
		return bad, nil
	}
	v, ok, err := x.value("%", 0, 100, "level")
	if err != nil || !ok {
		return nil, err
	}
	x.s.Device.Battery = v.Num
	var parts []sample.Component
	for _, f := range []string{"charging", "in_charger"} {
		if b := x.n.Get(f); b.IsBool() {
			parts = append(parts, sample.Component{Name: f,
				Value: sample.Value{Kind: sample.Boolean, Bool: b.IsTrue()}})
		}
	}
	return nil, x.emit("ring_battery_level", v, parts...)
}

// ringConfiguration is about the device only. Its id is what other documents
// call ring_id.
func ringConfiguration(x *document) (*rejection, error) {
	if x.id == "" {
		return missing("id is required"), nil
	}
	t, zone, ok := x.n.Get("set_up_at").Time() // 1970 is no time for it: unknown
	if !ok {
		if x.d.received.IsZero() {
			return missing("neither set_up_at nor a time of receipt"), nil
		}
		t, zone = x.d.received.UTC(), sample.ZoneInstant
	}
	dev := ring(x.id)
	dev.Hardware = x.n.Get("hardware_type").String()
	dev.Model = dev.Hardware
	dev.Firmware = x.n.Get("firmware_version").String()
	for _, f := range []string{"color", "design"} {
		if v := x.n.Get(f).String(); v != "" {
			dev.Facts = append(dev.Facts, sample.Fact{Name: f, Value: v})
		}
	}
	if s, state := x.n.Get("size").Decimal(); state == jsonitem.Given && math.Abs(jsonitem.Float(s)) < 100 {
		dev.Facts = append(dev.Facts, sample.Fact{Name: "size", Value: s})
	}
	if ok {
		dev.Facts = append(dev.Facts, sample.Fact{Name: "set_up_at", Value: t.Format(time.RFC3339)})
	}
	x.s = sample.Sample{Start: t, Zone: zone, Device: dev}
	return nil, x.emit("ring_configuration", sample.Value{})
}
