package oura

import (
	"time"

	"pulsegate/mapping/sample"
)

// sleepParts lists the metrics that are emitted apart from the night, so that
// each can be searched by its code.
var sleepParts = []struct {
	metric, field, unit string
	low, high           float64
}{
	{"sleep.average_hrv", "average_hrv", "ms", 0, 1000},
	{"sleep.average_heart_rate", "average_heart_rate", "bpm", 1, 300},
	{"sleep.lowest_heart_rate", "lowest_heart_rate", "bpm", 1, 300},
	{"sleep.average_breath", "average_breath", "breaths/min", 0.1, 120},
}

// readSleep reads a night or a nap.
func readSleep(doc *document) (*rejection, error) {
	typ := doc.node.Get("type").String()
	bad := doc.over("bedtime_start", "bedtime_end")
	if typ == "rest" && (bad != nil || doc.id == "") {
		doc.dec.drop(sample.DropLowQuality, "sleep") // Oura detected sleep by mistake
		return nil, nil
	}
	if bad != nil {
		return bad, nil
	}
	if doc.id == "" {
		return missing("id is required"), nil
	}
	doc.sample.Device = ring(doc.node.Get("ring_id").String())
	switch doc.node.Get("sleep_analysis_reason").String() {
	case "bedtime_edit":
		doc.sample.Method = "bedtime_edit"
	}
	if typ == "deleted" || typ == "rest" { // a nap becomes a rest if the wearer rejects it
		return nil, doc.retract()
	}
	if err := doc.night(); err != nil {
		return nil, err
	}
	for _, p := range sleepParts {
		if err := doc.emitField(p.metric, p.unit, p.low, p.high, nil, p.field); err != nil {
			return nil, err
		}
	}
	if err := doc.emitSeries("sleep.heart_rate", "bpm", "heart_rate"); err != nil {
		return nil, err
	}
	return nil, doc.emitSeries("sleep.hrv", "ms", "hrv")
}

// retract retracts the night and all samples that an earlier version of it may
// have given.
func (doc *document) retract() error {
	doc.sample.Status = sample.Retracted
	metrics := []string{"sleep"}
	for _, p := range sleepParts {
		metrics = append(metrics, p.metric)
	}
	for _, m := range append(metrics, "sleep.heart_rate", "sleep.hrv") {
		if err := doc.emit(m, sample.Value{}); err != nil {
			return err
		}
	}
	return nil
}

// night emits the night itself.
func (doc *document) night() error {
	total, _, err := doc.value("s", 0, 8*86400, "total_sleep_duration")
	if err != nil {
		return err
	}
	parts := doc.numbers("sleep", "s", "deep_sleep_duration", "light_sleep_duration", "rem_sleep_duration",
		"awake_time", "latency", "time_in_bed")
	parts = append(parts, doc.numbers("sleep", "%", "efficiency")...)
	parts = append(parts, doc.numbers("sleep", "count", "restless_periods")...)
	parts = append(parts, codes(doc.node, "type")...)
	for _, h := range []struct {
		field  string
		period time.Duration
	}{
		{"app_sleep_phase_5_min", 5 * time.Minute}, {"sleep_phase_30_sec", 30 * time.Second},
		{"sleep_phase_5_min", 5 * time.Minute},
	} {
		if v, ok := digits(doc.node.Get(h.field), '1', '4', h.period); ok {
			parts = append(parts, sample.Component{Name: "hypnogram", Value: v})
			break
		}
	}
	if v, ok := digits(doc.node.Get("movement_30_sec"), '1', '4', 30*time.Second); ok {
		parts = append(parts, sample.Component{Name: "movement_30_sec", Value: v})
	}
	if total.Kind == sample.None && len(parts) == 0 {
		return doc.dec.reject(sample.ReasonMissing, "sleep", "the night holds no value", doc.node)
	}
	return doc.emit("sleep", total, parts...)
}
