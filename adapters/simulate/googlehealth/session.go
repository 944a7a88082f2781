package googlehealth

import (
	"math"
	"time"

	"pulsegate/adapters/simulate"
)

// segment is a stage of a night.
type segment struct {
	kind       string
	start, end time.Time
}

// stages draws the stages of the night. They follow each other without gaps.
func (c *content) stages() (out []segment) {
	rnd := c.key().Named("stages").Rand()
	at := c.model.bed
	add := func(kind string, minutes int) {
		end := minTime(at.Add(time.Duration(minutes)*time.Minute), c.model.up)
		if end.After(at) {
			out = append(out, segment{kind, at, end})
			at = end
		}
	}
	add("AWAKE", 4+rnd.IntN(15))
	for cycle := 0; at.Before(c.model.up); cycle++ {
		add("LIGHT", 25+rnd.IntN(20))
		add("DEEP", max(5, 30-6*cycle+rnd.IntN(8)))
		add("LIGHT", 10+rnd.IntN(15))
		add("REM", 8+5*cycle+rnd.IntN(8))
		if rnd.IntN(2) == 0 {
			add("AWAKE", 2+rnd.IntN(4))
		}
	}
	return out
}

// offsetOf formats the offset of t.
func offsetOf(t time.Time) string {
	_, o := t.Zone()
	return seconds(time.Duration(o) * time.Second)
}

// spanOf returns the members of a period.
func spanOf(start, end time.Time) object {
	return object{"startTime": stamp(start), "startUtcOffset": offsetOf(start), "endTime": stamp(end),
		"endUtcOffset": offsetOf(end)}
}

// sleepBody returns the members of a night.
func sleepBody(kind string, segments []segment, metadata object, created, updated time.Time, summary bool) object {
	var stages, totals []any
	minutes, counts := map[string]int{}, map[string]int{}
	for _, s := range segments {
		stage := spanOf(s.start, s.end)
		stage["type"], stage["createTime"], stage["updateTime"] = s.kind, stamp(created), stamp(updated)
		stages = append(stages, stage)
		minutes[s.kind] += int(s.end.Sub(s.start) / time.Minute)
		counts[s.kind]++
	}
	body := object{"type": kind, "stages": stages, "metadata": metadata, "createTime": stamp(created),
		"updateTime": stamp(updated)}
	if !summary {
		return body
	}
	asleep := 0
	for _, name := range []string{"AWAKE", "LIGHT", "DEEP", "REM", "ASLEEP", "RESTLESS"} {
		if counts[name] == 0 {
			continue
		}
		totals = append(totals, object{"type": name, "minutes": i64(minutes[name]), "count": i64(counts[name])})
		if name != "AWAKE" && name != "RESTLESS" {
			asleep += minutes[name]
		}
	}
	latency := 0
	if segments[0].kind == "AWAKE" {
		latency = int(segments[0].end.Sub(segments[0].start) / time.Minute)
	}
	period := segments[len(segments)-1].end.Sub(segments[0].start)
	body["summary"] = object{"minutesInSleepPeriod": i64(int(period / time.Minute)), "minutesAsleep": i64(asleep),
		"minutesAwake": i64(minutes["AWAKE"]), "minutesToFallAsleep": i64(latency), "minutesAfterWakeUp": "0",
		"stagesSummary": totals}
	return body
}

// sleep draws the night and sometimes a nap. A night arrives unprocessed, is processed
// minutes later under the same name, and is sometimes edited or deleted by the wearer.
func (c *content) sleep() {
	k := c.key()
	arrived, processed := c.processing()
	created := micro(arrived, k.Named("created"))
	whole := []segment{{"ASLEEP", c.model.bed, c.model.up}}
	unprocessed := object{"mainSleep": true} // proto3 omits false; live answers state it
	if c.model.day%2 == 0 {
		unprocessed["processed"] = false
	}
	p := c.identify(c.add(c.model.bed, c.model.up, c.wearer.derived,
		sleepBody("CLASSIC", whole, unprocessed, created, created, false)), 0)
	segments, kind, status := c.stages(), "STAGES", "SUCCEEDED"
	if k.Named("rejected").Chance(0.08) {
		segments, kind, status = whole, "CLASSIC", "REJECTED_COVERAGE"
	}
	updated := micro(processed, k.Named("updated"))
	final := sleepBody(kind, segments, object{"processed": true, "mainSleep": true, "stagesStatus": status}, created,
		updated, true)
	if kind == "STAGES" && len(segments) > 4 {
		middle := segments[len(segments)/2].start
		short := spanOf(middle.Add(time.Minute), middle.Add(2*time.Minute))
		short["type"] = "AWAKE"
		final["shortAwakenings"] = []any{short}
	}
	last := p.restate(processed, final)
	if k.Named("edit").Chance(0.15) {
		at := processed.Add(time.Duration(k.Named("edit at").Between(90, 400)) * time.Minute)
		trimmed := append([]segment(nil), segments...)
		cut := minTime(trimmed[0].start.Add(time.Duration(k.Named("cut").Between(2, 4))*time.Minute),
			trimmed[0].end.Add(-time.Minute))
		trimmed[0].start = cut
		last = last.restate(at, sleepBody(kind, trimmed, object{"processed": true, "mainSleep": true,
			"stagesStatus": status, "manuallyEdited": true}, created, micro(at, k.Named("edited")), true))
		last.start = cut
	}
	if k.Named("delete").Chance(0.03) {
		last.gone = last.at.Add(time.Duration(k.Named("delete at").Between(60, 600)) * time.Minute)
	}
	if k.Named("nap").Chance(0.1) {
		start := c.model.day.At(c.wearer.Zone, 14, k.Named("nap start").Between(0, 40))
		end := start.Add(time.Duration(k.Named("nap length").Between(20, 60)) * time.Minute)
		at := micro(c.wearer.arrival(end), k.Named("nap"))
		c.identify(c.add(start, end, c.wearer.derived, sleepBody("CLASSIC", []segment{{"ASLEEP", start, end}},
			object{"processed": true, "nap": true, "stagesStatus": "REJECTED_NAP"}, at, at, true)), 1)
	}
}

// exercise draws the workout of the day, which the wearer sometimes corrects or deletes.
func (c *content) exercise() {
	if !c.model.training {
		return
	}
	k := c.key()
	start, end := c.model.workStart, c.model.workEnd
	created := micro(c.wearer.arrival(end), k.Named("created"))
	source := object{"recordingMethod": "ACTIVELY_MEASURED", "platform": "FITBIT", "device": c.wearer.tracker["device"]}
	p := c.identify(c.add(start, end, source, c.exerciseBody(c.model.workout, created, created)), 0)
	if c.model.workoutFinal != c.model.workout {
		at := p.at.Add(time.Duration(k.Named("correct at").Between(60, 900)) * time.Minute)
		p = p.restate(at, c.exerciseBody(c.model.workoutFinal, created, micro(at, k.Named("corrected"))))
	}
	if k.Named("delete").Chance(0.06) {
		p.gone = p.at.Add(time.Duration(k.Named("delete at").Between(60, 600)) * time.Minute)
	}
}

func (c *content) exerciseBody(kind string, created, updated time.Time) object {
	start, end := c.model.workStart, c.model.workEnd
	minutes := int(end.Sub(start) / time.Minute)
	steps, beats, n := 0, 0, 0
	for i := range c.model.windows {
		if win := &c.model.windows[i]; win.training {
			steps, beats, n = steps+win.steps, beats+win.bpm, n+1
		}
	}
	meters := minutes * 150
	event := func(at time.Time, kind string) object {
		return object{"eventTime": stamp(at), "eventUtcOffset": offsetOf(at), "exerciseEventType": kind}
	}
	metadata := object{} // proto3 omits false
	if kind == "RUNNING" || kind == "BIKING" {
		metadata["hasGps"] = true
	}
	return object{
		"exerciseType": kind, "displayName": map[string]string{"RUNNING": "Run", "BIKING": "Bike", "WALKING": "Walk",
			"SWIMMING_POOL": "Swim", "HIKING": "Hike"}[kind],
		"activeDuration": seconds(end.Sub(start) - time.Minute),
		"metricsSummary": object{
			"caloriesKcal": minutes * 9, "distanceMillimeters": meters * 1000, "steps": i64(steps),
			"averageHeartRateBeatsPerMinute": i64(beats / max(n, 1)), "activeZoneMinutes": i64(minutes),
			"averagePaceSecondsPerMeter": math.Round(float64(minutes*60)/float64(meters)*1e7) / 1e7,
			"heartRateZoneDurations": object{"lightTime": "300s",
				"moderateTime": seconds(end.Sub(start) - 5*time.Minute)},
		},
		"exerciseMetadata": metadata,
		"exerciseEvents":   []any{event(start, "START"), event(end, "STOP")},
		"createTime":       stamp(created), "updateTime": stamp(updated),
	}
}

// spot draws measurements that a wearer takes now and then. It reports false for other
// types.
func (c *content) spot(first bool) bool {
	k := c.key()
	morning := c.model.up.Add(20 * time.Minute)
	switch c.typ {
	case "weight", "body-fat":
		if !c.model.key.Named("scale").Chance(0.4) || c.typ == "body-fat" && !c.wearer.hasScale {
			break
		}
		usual := c.wearer.Key.Named("weight").Between(54000, 95000)
		source, body := c.wearer.manual, object{"weightGrams": usual + k.Between(-600, 600)}
		if c.wearer.Index%3 == 1 {
			source = object{"recordingMethod": "UNKNOWN", "platform": "HEALTH_CONNECT", "device": object{},
				"application": object{"packageName": "com.example.scale"}}
		}
		if c.typ == "body-fat" {
			body = object{"percentage": around(k, 24, 2)}
		}
		if c.wearer.hasScale {
			source = c.wearer.scale
		}
		p := c.identify(c.add(morning, morning, source, body), 0)
		if k.Named("delete").Chance(0.08) {
			p.gone = p.at.Add(time.Duration(k.Named("delete at").Between(30, 900)) * time.Minute)
		}
	case "height":
		if first {
			c.identify(c.add(morning, morning, c.wearer.manual,
				object{"heightMillimeters": i64(c.wearer.Key.Named("height").Between(1520, 1940))}), 0)
		}
	case "core-body-temperature":
		if c.wearer.Index%4 == 2 && k.Named("measured").Chance(0.2) {
			place := []string{"EAR", "MOUTH", "WRIST"}[k.Named("place").Between(0, 2)]
			c.identify(c.add(morning, morning, c.wearer.manual,
				object{"temperatureCelsius": around(k, 36.7, 0.5), "measurementLocation": place}), 0)
		}
	case "vo2-max", "run-vo2-max":
		if !c.model.training || c.model.workout != "RUNNING" {
			break
		}
		body := object{"runVo2Max": around(k, 43, 2)}
		if c.typ == "vo2-max" {
			body = object{"vo2Max": around(k, 43, 2), "measurementMethod": "FITBIT_RUN"}
		}
		c.add(c.model.workEnd, c.model.workEnd, c.wearer.derived, body)
	case "electrocardiogram":
		if c.wearer.hasECG && k.Named("taken").Chance(0.15) {
			c.ecg()
		}
	case "irregular-rhythm-notification":
		if c.wearer.hasECG && k.Named("alert").Chance(0.05) {
			c.irregularRhythm()
		}
	default:
		return false
	}
	return true
}

// medicalDevice returns the medicalDeviceInfo of the wearer's tracker.
func (c *content) medicalDevice(more object) object {
	more["deviceModel"] = c.wearer.device
	return more
}

// ecg adds an electrocardiogram of 30 s at 250 Hz. Its interval has the same start and
// end, and old ones lack the offsets.
func (c *content) ecg() {
	k := c.key()
	at := c.model.day.At(c.wearer.Zone, 10, k.Named("at").Between(0, 59))
	rate := k.Named("rate").Between(56, 88)
	class := []string{"NORMAL_SINUS_RHYTHM", "NORMAL_SINUS_RHYTHM", "NORMAL_SINUS_RHYTHM", "INCONCLUSIVE",
		"ATRIAL_FIBRILLATION", "UNREADABLE"}[k.Named("class").Between(0, 5)]
	wave := make([]int, 7500)
	beat := 250 * 60 / rate
	for i := range wave {
		phase := float64(i%beat) / float64(beat)
		wave[i] = int(150*math.Sin(2*math.Pi*phase)) + int(9000*math.Exp(-math.Pow((phase-0.3)/0.012, 2))) +
			int(k.With(i)%41) - 20
	}
	p := c.identify(c.add(at, at, object{}, object{
		"beatsPerMinuteAvg": i64(rate), "resultClassification": class, "samplingFrequencyHertz": 250,
		"millivoltsScalingFactor": 10922, "leadNumber": 1, "waveformSamples": wave,
		"medicalDeviceInfo": c.medicalDevice(object{"firmwareVersion": "1.0.0", "featureVersion": "2.3.5-2.18"}),
	}), 0)
	if k.Named("old").Chance(0.2) {
		p.body["interval"] = object{"startTime": stamp(at), "endTime": stamp(at)}
	}
}

// irregularRhythm adds a notification with the windows that led to it.
func (c *content) irregularRhythm() {
	k := c.key()
	start := c.model.day.At(c.wearer.Zone, 2, k.Named("at").Between(0, 59))
	var windows []any
	for n := range 5 {
		from := start.Add(time.Duration(n*12) * time.Minute)
		alert := spanOf(from, from.Add(5*time.Minute))
		alert["positive"] = true
		var beats []any
		at := from
		for i := range 20 {
			at = at.Add(time.Duration(k.With(n, i).Between(520, 1240)) * time.Millisecond)
			beats = append(beats, object{"physicalTime": stamp(at), "utcOffset": offsetOf(at),
				"beatsPerMinute": k.With(n, i, 1).Between(52, 118)})
		}
		alert["heartBeats"] = beats
		windows = append(windows, alert)
	}
	c.identify(c.add(start, start.Add(time.Hour), object{}, object{"alertWindows": windows,
		"medicalDeviceInfo": c.medicalDevice(object{"algorithmVersion": "1.2", "serviceVersion": "3.4"})}), 0)
}

// dayOf returns the calendar day to which a point belongs when a day is deleted: the day
// of its start, and of its end for a night.
func dayOf(t *dataType, p *point) simulate.Day {
	if t.name == "sleep" {
		return simulate.DayOf(p.end)
	}
	return simulate.DayOf(p.start)
}
