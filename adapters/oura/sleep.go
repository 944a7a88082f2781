package oura

import (
	"time"

	"pulsegate/mapping/sample"
)

// sleepParts are the metrics that are split from a night, so that each can be
// searched by its own code.
var sleepParts = []struct {
	metric, field, unit string
	low, high           float64
}{
	{"sleep.average_hrv", "average_hrv", "ms", 0, 1000},
	{"sleep.average_heart_rate", "average_heart_rate", "bpm", 1, 300},
	{"sleep.lowest_heart_rate", "lowest_heart_rate", "bpm", 1, 300},
	{"sleep.average_breath", "average_breath", "breaths/min", 0.1, 120},
}

func readSleep(x *document) (*rejection, error) {
	kind := x.n.Get("type").String()
	bad := x.over("bedtime_start", "bedtime_end")
	if kind == "rest" && (bad != nil || x.id == "") {
		x.d.drop(sample.DropLowQuality, "sleep") // a false positive of Oura's
		return nil, nil
	}
	if bad != nil {
		return bad, nil
	}
	if x.id == "" {
		return missing("id is required"), nil
	}
	x.s.Device = ring(x.n.Get("ring_id").String())
	switch x.n.Get("sleep_analysis_reason").String() {
	case "bedtime_edit":
		x.s.Method = "bedtime_edit"
	}
	if kind == "deleted" || kind == "rest" { // a nap that the wearer rejects becomes a rest
		return nil, x.retract()
	}
	if err := x.night(); err != nil {
		return nil, err
	}
	for _, p := range sleepParts {
		if err := x.emitField(p.metric, p.unit, p.low, p.high, nil, p.field); err != nil {
			return nil, err
		}
	}
	if err := x.emitSeries("sleep.heart_rate", "bpm", "heart_rate"); err != nil {
		return nil, err
	}
	return nil, x.emitSeries("sleep.hrv", "ms", "hrv")
}

// retract takes back the night and all that an earlier state of it was split
// into.
func (x *document) retract() error {
	x.s.Status = sample.Retracted
	metrics := []string{"sleep"}
	for _, p := range sleepParts {
		metrics = append(metrics, p.metric)
	}
	for _, m := range append(metrics, "sleep.heart_rate", "sleep.hrv") {
		if err := x.emit(m, sample.Value{}); err != nil {
			return err
		}
	}
	return nil
}

func (x *document) night() error {
	total, _, err := x.value("s", 0, 8*86400, "total_sleep_duration")
	if err != nil {
		return err
	}
	parts := x.numbers("sleep", "s", "deep_sleep_duration", "light_sleep_duration", "rem_sleep_duration",
		"awake_time", "latency", "time_in_bed")
	parts = append(parts, x.numbers("sleep", "%", "efficiency")...)
	parts = append(parts, x.numbers("sleep", "count", "restless_periods")...)
	parts = append(parts, codes(x.n, "type")...)
	for _, h := range []struct {
		field  string
		period time.Duration
	}{
		{"app_sleep_phase_5_min", 5 * time.Minute}, {"sleep_phase_30_sec", 30 * time.Second},
		{"sleep_phase_5_min", 5 * time.Minute},
	} {
		if v, ok := digits(x.n.Get(h.field), '1', '4', h.period); ok {
			parts = append(parts, sample.Component{Name: "hypnogram", Value: v})
			break
		}
	}
	if v, ok := digits(x.n.Get("movement_30_sec"), '1', '4', 30*time.Second); ok {
		parts = append(parts, sample.Component{Name: "movement_30_sec", Value: v})
	}
	if total.Kind == sample.None && len(parts) == 0 {
		return x.d.reject(sample.ReasonMissing, "sleep", "the night holds no value", x.n)
	}
	return x.emit("sleep", total, parts...)
}
