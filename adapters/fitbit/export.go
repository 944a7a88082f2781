package fitbit

import (
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

func (d *decoder) exportBeat(n *jsonitem.Node) error {
	v := n.Get("value")
	return d.beat(n.Get("dateTime").String(), inUTC, v.Get("bpm"), v.Get("confidence"), n)
}

// exportResting reads a resting heart rate. Days without one have a null date.
func (d *decoder) exportResting(n *jsonitem.Node) error {
	v := n.Get("value")
	if v.Get("date") == nil {
		d.sink.Drop(sample.DropPlaceholder, "daily-resting-heart-rate", 1)
		return nil
	}
	return d.daily("daily-resting-heart-rate", "bpm", v.Get("date").String(), v.Get("value"), n)
}

func (d *decoder) exportZones(n *jsonitem.Node) error {
	z := func(name string) *jsonitem.Node { return n.Get("value", "valuesInZones", name) }
	return d.zones(n.Get("dateTime").String(), n,
		panel{"outOfRangeMinutes", "min", z("BELOW_DEFAULT_ZONE_1")},
		panel{"fatBurnMinutes", "min", z("IN_DEFAULT_ZONE_1")},
		panel{"cardioMinutes", "min", z("IN_DEFAULT_ZONE_2")}, panel{"peakMinutes", "min", z("IN_DEFAULT_ZONE_3")})
}

func (d *decoder) exportVO2(n *jsonitem.Node) error {
	v := n.Get("value", "filteredDemographicVO2Max")
	if v == nil {
		v = n.Get("value", "demographicVO2Max")
	}
	return d.vo2(n.Get("dateTime").String(), v, n)
}

// exportDailySpO2 reads a day of oxygen saturation. The time is midnight with a "Z"
// that stands for the local date.
func (d *decoder) exportDailySpO2(r *row) error {
	return d.dailyPanel("daily-oxygen-saturation", "%", r.text("timestamp"), r.node("average_value"), r.item(),
		panel{"lowerBoundPercentage", "%", r.node("lower_bound")},
		panel{"upperBoundPercentage", "%", r.node("upper_bound")})
}

func (d *decoder) exportSpO2(r *row) error {
	return d.saturation(r.text("timestamp"), inUTC, r.node("value"), r.item())
}

func (d *decoder) exportDailyHRV(r *row) error {
	return d.dailyPanel("daily-heart-rate-variability", "ms", r.text("timestamp"), r.node("rmssd"), r.item(),
		panel{"entropy", "", r.node("entropy")}, panel{"nonRemHeartRateBeatsPerMinute", "bpm", r.node("nremhr")})
}

func (d *decoder) exportHRV(r *row) error {
	return d.rmssd(r.text("timestamp"), r.node("rmssd"), r.node("coverage"), r.node("low_frequency"),
		r.node("high_frequency"), r.item())
}

func (d *decoder) exportBreathing(r *row) error {
	return d.daily("daily-respiratory-rate", "breaths/min", r.text("timestamp"), r.node("daily_respiratory_rate"),
		r.item())
}

// exportScore reads a sleep score. It belongs to the night of the sleep log with
// the same id.
func (d *decoder) exportScore(r *row) error {
	p := d.legacyPoint("sleep-score", r.item())
	if !p.onDate(r.text("timestamp")) {
		return p.refuse(sample.ReasonBadTime, badDay)
	}
	if id, ok := number(r.node("sleep_log_entry_id")); ok {
		p.sample.VendorID = id
	}
	bad, dropped := p.measured(r.node("overall_score"), "score")
	if dropped {
		return nil
	}
	for _, name := range []string{"composition_score", "revitalization_score", "duration_score"} {
		p.numberOf(name, "score", r.node(name))
	}
	p.numberOf("restlessness", "", r.node("restlessness"))
	return p.finish(bad)
}
