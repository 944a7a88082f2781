package oura

import (
	"fmt"
	"strings"
	"time"

	"pulsegate/adapters/oura/ouragen"
	"pulsegate/adapters/simulate"
)

// draw returns a source of content that depends on the item and a revision.
func (it item) draw(rev int) ouragen.Draw {
	return ouragen.Draw{Rand: it.key().Named("content").With(rev).Rand()}
}

// midnight returns the beginning of the item's day.
func (it item) midnight() time.Time { return it.day.At(it.wearer.Zone, 0, 0) }

func (m *model) sleep(it item, v version) object {
	w := it.wearer
	from, to, _ := m.bounds(it)
	reason := "foreground_sleep_analysis"
	switch v.form {
	case edited:
		from, reason = from.Add(20*time.Minute), "bedtime_edit"
	case merged:
		from = from.Add(-100 * time.Minute)
	}
	epochs := int(to.Sub(from) / (5 * time.Minute))
	doc := it.draw(0).Sleep(from, epochs, m.ringID(w), func(time.Time, int) {})
	rates := doc["heart_rate"].(object)["items"].([]any)
	low, sum, n := 300, 0, 0
	for i := range rates {
		if rates[i] == nil {
			continue
		}
		bpm := nightRate(w, from.Add(time.Duration(i)*5*time.Minute))
		rates[i] = bpm
		low, sum, n = min(low, bpm), sum+bpm, n+1
	}
	doc["lowest_heart_rate"], doc["average_heart_rate"] = low, float64(sum*4/max(n, 1))/4
	doc["day"], doc["period"], doc["sleep_analysis_reason"] = simulate.DayOf(to).String(), it.slot, reason
	doc["sleep_algorithm_version"], doc["sleep_score_delta"], doc["readiness_score_delta"] = "v2", nil, nil
	doc["low_battery_alert"] = batteryAt(w, to).level < 20
	doc["movement_30_sec"] = it.digits("movement", 10*epochs, "11111112234")
	doc["sleep_phase_5_min"] = doc["app_sleep_phase_5_min"]
	if it.slot == night {
		doc["readiness"] = m.readiness(it, v)
	} else {
		doc["type"], doc["readiness"] = "late_nap", nil
		if epochs > 12 {
			doc["type"] = "sleep"
		}
	}
	switch v.form {
	case deleted:
		doc["type"] = "deleted"
	case rejected:
		doc["type"] = "rest"
	case restated:
		doc["average_hrv"] = doc["average_hrv"].(int) + 1
		doc["restless_periods"] = doc["restless_periods"].(int) + 3
	}
	return doc
}

// readiness returns the readiness that a night contains.
func (m *model) readiness(it item, v version) object {
	key := keyOf(it.wearer, "daily_readiness", it.day, 0).Named("content").With(v.rev)
	doc := ouragen.Draw{Rand: key.Rand()}.DailyReadiness(it.midnight())
	return object{"score": doc["score"], "contributors": doc["contributors"],
		"temperature_deviation":       doc["temperature_deviation"],
		"temperature_trend_deviation": doc["temperature_trend_deviation"]}
}

// digits draws n digits out of a set.
func (it item) digits(name string, n int, set string) string {
	rnd := it.key().Named(name).Rand()
	var b strings.Builder
	for range n {
		b.WriteByte(set[rnd.IntN(len(set))])
	}
	return b.String()
}

func (m *model) dailySleep(it item, v version) object {
	doc := it.draw(v.rev).DailySleep(it.midnight())
	doc["day"] = it.day.String()
	return doc
}

func (m *model) dailyReadiness(it item, v version) object {
	doc := it.draw(v.rev).DailyReadiness(it.midnight())
	c := doc["contributors"].(object)
	c["previous_night"], c["previous_day_activity"] = doc["score"], nil
	doc["day"] = it.day.String()
	return doc
}

// elapsed returns the share of the day of activity that was over at the sync.
func (it item) elapsed(v version) float64 {
	start, end := it.day.At(it.wearer.Zone, 4, 0), (it.day+1).At(it.wearer.Zone, 4, 0)
	return min(1, max(0, v.at.Sub(start).Seconds()/end.Sub(start).Seconds()))
}

func (m *model) dailyActivity(it item, v version) object {
	start, end := it.day.At(it.wearer.Zone, 4, 0), (it.day+1).At(it.wearer.Zone, 4, 0)
	doc := it.draw(0).DailyActivity(start)
	share := it.elapsed(v)
	steps := it.wearer.Steps(it.day)
	if v.form == restated {
		steps += 37 // counted by the phone while the ring was charging
	}
	doc["steps"], doc["active_calories"], doc["total_calories"] = steps, steps/22, 1750+steps/22
	doc["equivalent_walking_distance"] = steps * 8 / 10
	for _, f := range []string{"steps", "active_calories", "total_calories", "equivalent_walking_distance",
		"high_activity_time", "medium_activity_time", "low_activity_time", "sedentary_time", "resting_time",
		"non_wear_time"} {
		doc[f] = int(float64(doc[f].(int)) * share)
	}
	for _, f := range []string{"high", "medium", "low"} {
		met := map[string]int{"high": 7, "medium": 4, "low": 2}[f]
		doc[f+"_activity_met_minutes"] = doc[f+"_activity_time"].(int) / 60 * met
	}
	doc["sedentary_met_minutes"] = doc["sedentary_time"].(int) / 60
	doc["average_met_minutes"] = float64(it.key().Named("met").Between(110, 175)) / 100
	doc["target_calories"], doc["target_meters"] = 450, 9000
	doc["meters_to_target"] = max(0, 9000-doc["equivalent_walking_distance"].(int))
	c := doc["contributors"].(object)
	c["meet_daily_targets"], c["recovery_time"], c["training_frequency"], c["training_volume"] = 78, 96, 71, 80
	if share < 1 {
		doc["score"] = nil // computed when the day is over
	}
	minutes := int(end.Sub(start).Minutes() * share)
	doc["class_5_min"] = it.digits("class", minutes/5, "111222222333345")
	rnd := it.key().Named("mets").Rand()
	mets := make([]any, minutes)
	for i := range mets {
		mets[i] = float64(9+rnd.IntN(25)) / 10
	}
	doc["met"] = object{"interval": 60.0, "items": mets, "timestamp": ouragen.Stamp(start)}
	doc["day"] = it.day.String()
	return doc
}

func (m *model) dailyStress(it item, v version) object {
	doc := it.draw(0).DailyStress()
	share := it.elapsed(v)
	for _, f := range []string{"stress_high", "recovery_high"} {
		doc[f] = int(float64(doc[f].(int))*share) / 900 * 900
	}
	if share < 1 {
		doc["day_summary"] = nil
	}
	if v.form == restated {
		doc["stress_high"] = doc["stress_high"].(int) + 900
	}
	doc["day"] = it.day.String()
	return doc
}

func (m *model) dailySpO2(it item, _ version) object {
	doc := it.draw(0).DailySpO2()
	doc["day"] = it.day.String()
	return doc
}

func (m *model) dailyResilience(it item, _ version) object {
	doc := it.draw(0).DailyResilience()
	doc["day"] = it.day.String()
	return doc
}

func (m *model) cardiovascularAge(it item, _ version) object {
	doc := it.draw(0).CardiovascularAge()
	doc["day"] = it.day.String()
	return doc
}

func (m *model) vo2Max(it item, _ version) object {
	doc := it.draw(0).VO2Max(it.midnight())
	doc["day"] = it.day.String()
	return doc
}

func (m *model) sleepTime(it item, _ version) object {
	_, offset := it.day.At(it.wearer.Zone, 18, 0).Zone()
	doc := object{"day": it.day.String(), "recommendation": "follow_optimal_bedtime", "status": "optimal_found",
		"optimal_bedtime": object{"day_tz": offset, "start_offset": -4500, "end_offset": -1800}}
	if it.key().Named("too few").Chance(0.1) {
		doc["recommendation"], doc["optimal_bedtime"], doc["status"] = nil, nil, "not_enough_nights"
	}
	return doc
}

func (m *model) workout(it item, v version) object {
	start, length, _ := it.wearer.Workout(it.day)
	activity := []string{"running", "cycling", "walking", "strength_training"}[it.key().Named("activity").Between(0, 3)]
	doc := ouragen.Workout(activity, start, int(length.Minutes()))
	doc["day"], doc["source"] = it.day.String(), "autodetected"
	if v.form == confirmed {
		doc["source"], doc["intensity"] = "confirmed", "hard"
	}
	return doc
}

func (m *model) session(it item, _ version) object {
	from := it.day.At(it.wearer.Zone, 18, it.key().Named("from").Between(0, 45))
	rnd := it.key().Named("content").Rand()
	heart, variability := make([]any, 120), make([]any, 120)
	for i := range heart {
		heart[i], variability[i] = float64(580+rnd.IntN(90))/10, float64(30+rnd.IntN(40))
	}
	heart[7] = nil
	series := func(items []any) object {
		return object{"interval": 5.0, "items": items, "timestamp": ouragen.Stamp(from)}
	}
	return object{"day": it.day.String(), "start_datetime": ouragen.Stamp(from),
		"end_datetime": ouragen.Stamp(from.Add(10 * time.Minute)), "mood": "good",
		"type":       []string{"breathing", "meditation", "relaxation"}[rnd.IntN(3)],
		"heart_rate": series(heart), "heart_rate_variability": series(variability), "motion_count": nil}
}

func (m *model) enhancedTag(it item, v version) object {
	from := it.day.At(it.wearer.Zone, 18, it.key().Named("from").Between(0, 50))
	doc := object{"start_day": it.day.String(), "start_time": ouragen.Stamp(from), "end_day": nil, "end_time": nil,
		"comment": nil, "custom_name": nil,
		"tag_type_code": []string{"tag_generic_alcohol", "tag_generic_caffeine", "tag_generic_late_meal",
			"tag_generic_stress"}[it.key().Named("code").Between(0, 3)]}
	if v.form == ended {
		doc["end_day"], doc["end_time"] = it.day.String(), ouragen.Stamp(from.Add(10*time.Minute))
		doc["comment"] = "a little"
	}
	return doc
}

func (m *model) tag(it item, v version) object {
	from := it.day.At(it.wearer.Zone, 18, it.key().Named("from").Between(0, 50))
	tags := []string{"tag_generic_alcohol", "tag_generic_late_meal"}
	if v.form == ended {
		tags = tags[:1]
	}
	return object{"day": it.day.String(), "timestamp": ouragen.Stamp(from), "text": nil, "tags": tags}
}

func (m *model) restMode(it item, v version) object {
	from := it.day.At(it.wearer.Zone, 9, 0)
	doc := object{"start_day": it.day.String(), "start_time": ouragen.Stamp(from), "end_day": nil, "end_time": nil,
		"episodes": []any{object{"tags": []string{"tag_generic_fever"}, "timestamp": ouragen.Stamp(from)}}}
	if v.form == ended {
		end := it.day + simulate.Day(it.restLength())
		doc["end_day"], doc["end_time"] = end.String(), ouragen.Stamp(end.At(it.wearer.Zone, 9, 0))
	}
	return doc
}

// ringID returns the id of a wearer's ring_configuration.
func (m *model) ringID(w *simulate.Wearer) string {
	return idOf(w, "ring_configuration", 0, 0)
}

func (m *model) ringConfiguration(it item, v version) object {
	k := it.wearer.Key.Named("ring facts")
	doc := object{"color": []string{"silver", "stealth_black", "titanium"}[k.With(1).Between(0, 2)],
		"design":           "horizon",
		"firmware_version": fmt.Sprintf("3.%d.0", v.rev+1), "size": k.With(2).Between(6, 13),
		"hardware_type": []string{"gen3", "gen4", "or5"}[k.With(3).Between(0, 2)],
		"set_up_at":     utcStamp(m.first.At(it.wearer.Zone, 9, 0))}
	if m.legacy && doc["hardware_type"] == "or5" {
		doc["hardware_type"] = "gen4"
	}
	if it.wearer.Index%7 == 3 {
		doc["set_up_at"] = "1970-01-01T00:00:00+00:00" // recorded from the live service: unknown
	}
	return doc
}
