package googlehealth

import (
	"strconv"
	"time"

	"pulsegate/adapters/simulate"
)

// grid is the default length of the windows of bulk types.
const grid = 10 * time.Minute

// content draws the points of a type on a day.
type content struct {
	wearer *wearer
	model  *model
	typ    string
	out    []*point
}

// points returns all points that a type ever has on a day, in their first states and in
// the order of list. A night belongs to the day on which it ends.
func (s *Server) points(w *wearer, t *dataType, day simulate.Day) []*point {
	if day < s.first || !w.linked {
		return nil
	}
	c := &content{wearer: w, model: s.models.get(w, day, s.opts.Every), typ: t.name}
	switch {
	case t.kind == daily:
		c.daily(day == s.first)
	case t.name == "sleep":
		c.sleep()
	case t.name == "exercise":
		c.exercise()
	case c.nightly(), c.spot(day == s.first), c.logged():
	default:
		c.bulk()
	}
	sortPoints(c.out)
	return c.out
}

// key returns the key for the values of the type on the day.
func (c *content) key() simulate.Key { return c.model.key.Named(c.typ) }

// add adds a point that arrives with the next sync after its end.
func (c *content) add(start, end time.Time, source, body object) *point {
	p := &point{start: start, end: end, source: source, body: body, at: c.wearer.arrival(end)}
	c.out = append(c.out, p)
	return p
}

// identify gives a point an id.
func (c *content) identify(p *point, n int) *point {
	p.id = decimalID(c.key().Named("id").With(n))
	return p
}

// restate adds a later state of p with its own members.
func (p *point) restate(at time.Time, body object) *point {
	next := *p
	next.at, next.body, next.next = at, body, nil
	p.next = &next
	return p.next
}

// i64 formats an int64 as proto3 JSON does.
func i64(n int) string { return strconv.Itoa(n) }

// stamp formats an instant in UTC.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// micro adds microseconds, which the times of the service have.
func micro(t time.Time, k simulate.Key) time.Time {
	return t.Add(time.Duration(k.Between(1, 999_999)) * time.Microsecond)
}

// seconds formats a duration as protobuf JSON does.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s" }

// tenth rounds to one decimal place.
func tenth(f float64) float64 { return float64(int(f*10+0.5)) / 10 }

// around draws a number between mean - spread and mean + spread.
func around(k simulate.Key, mean, spread float64) float64 {
	return tenth(mean + spread*(2*k.Float()-1))
}

// count adds a count as a string. proto3 omits a zero; live answers state it, so both
// occur.
func count(member string, n, index int) object {
	if n == 0 && index%2 == 0 {
		return object{}
	}
	return object{member: i64(n)}
}

// bulk draws the types that have a point per window.
func (c *content) bulk() {
	if c.typ == "activity-level" || c.typ == "sedentary-period" {
		c.levels()
		return
	}
	for i := range c.model.windows {
		win := &c.model.windows[i]
		if c.typ == "blood-glucose" && c.wearer.hasCGM {
			c.glucose(win, i)
		}
		if c.typ == "steps" && win.phoneSteps > 0 {
			c.window(win, c.wearer.phone, object{"count": i64(win.phoneSteps)}).rank = 1
		}
		if win.worn {
			c.worn(win, i)
		}
	}
}

// window adds a point for a window.
func (c *content) window(win *window, source, body object) *point {
	p := &point{start: win.start, end: win.end, source: source, body: body, at: win.at}
	c.out = append(c.out, p)
	return p
}

// worn adds the point of a window in which the tracker was worn.
func (c *content) worn(win *window, i int) {
	zone := win.zone()
	switch c.typ {
	case "steps":
		if win.awake {
			c.window(win, c.wearer.tracker, count("count", win.steps, i))
		}
	case "distance":
		if win.awake {
			c.window(win, c.wearer.tracker, count("millimeters", win.steps*740, i))
		}
	case "floors":
		if win.steps > 0 {
			c.window(win, c.wearer.tracker, count("count", win.floors, i))
		}
	case "altitude":
		if win.floors > 0 {
			c.window(win, c.wearer.tracker, object{"gainMillimeters": i64(win.floors * 3048)})
		}
	case "active-energy-burned":
		if win.steps > 0 {
			c.window(win, c.wearer.derived, object{"kcal": win.active()})
		}
	case "total-calories":
		c.window(win, c.wearer.derived, object{"kcal": win.active() + 1.15*float64(win.minutes())})
	case "calories-in-heart-rate-zone":
		c.window(win, c.wearer.derived, object{"heartRateZone": zone,
			"kcal": win.active() + 1.15*float64(win.minutes())})
	case "time-in-heart-rate-zone":
		if win.awake {
			c.window(win, c.wearer.derived, object{"heartRateZoneType": zone})
		}
	case "active-zone-minutes":
		name := map[string]string{"MODERATE": "FAT_BURN", "VIGOROUS": "CARDIO", "PEAK": "PEAK"}[zone]
		if name != "" {
			weighted := win.minutes()
			if name != "FAT_BURN" {
				weighted *= 2
			}
			c.window(win, c.wearer.derived, object{"heartRateZone": name, "activeZoneMinutes": i64(weighted)})
		}
	case "active-minutes":
		if level := win.level(); level != "SEDENTARY" {
			name := map[string]string{"LIGHTLY_ACTIVE": "LIGHT", "MODERATELY_ACTIVE": "MODERATE",
				"VERY_ACTIVE": "VIGOROUS"}[level]
			c.window(win, c.wearer.derived, object{"activeMinutesByActivityLevel": []any{
				object{"activityLevel": name, "activeMinutes": i64(win.minutes())}}})
		}
	case "heart-rate":
		motion := "SEDENTARY"
		if win.steps > 0 {
			motion = "ACTIVE"
		}
		p := c.window(win, c.wearer.tracker, object{"beatsPerMinute": i64(win.bpm),
			"metadata": object{"motionContext": motion, "sensorLocation": "WRIST"}})
		p.end = p.start
	case "swim-lengths-data":
		if win.training && c.model.workout == "SWIMMING_POOL" {
			c.window(win, c.wearer.tracker, object{"strokeCount": i64(20 + win.bpm%9), "swimStrokeType": "FREESTYLE"})
		}
	}
}

// levels draws runs of windows with the same level of activity.
func (c *content) levels() {
	for i := 0; i < len(c.model.windows); {
		first, last := &c.model.windows[i], &c.model.windows[i]
		// A run ends where a sync ends, so that no point grows later.
		for i++; i < len(c.model.windows) && c.model.windows[i].worn == first.worn &&
			c.model.windows[i].at.Equal(first.at) &&
			c.model.windows[i].awake == first.awake && c.model.windows[i].level() == first.level(); i++ {
			last = &c.model.windows[i]
		}
		run := *first
		run.end = last.end
		switch {
		case !first.worn || !first.awake:
		case c.typ == "activity-level":
			c.window(&run, c.wearer.derived, object{"activityLevelType": first.level()})
		case first.level() == "SEDENTARY":
			c.window(&run, c.wearer.derived, object{})
		}
	}
}

// glucose adds a measurement of a continuous glucose monitor.
func (c *content) glucose(win *window, i int) {
	p := c.window(win, c.wearer.cgm, object{
		"bloodGlucoseMilligramsPerDeciliter": around(c.key().With(i), 118, 40),
		"specimen":                           "INTERSTITIAL_FLUID",
		"measurementSource":                  "CONTINUOUS_GLUCOSE_MONITORING"})
	p.end = p.start
	c.identify(p, i)
}

// nightly draws the types that are measured in the night. It reports false for other
// types.
func (c *content) nightly() bool {
	step := 5 * time.Minute
	switch c.typ {
	case "oxygen-saturation":
		step = grid
	case "heart-rate-variability":
	case "respiratory-rate-sleep-summary":
		_, processed := c.processing()
		rate := func(n int, mean float64) object {
			k := c.key().With(n)
			return object{"breathsPerMinute": around(k.With(1), mean, 1.5),
				"standardDeviation": around(k.With(2), 1.5, 0.5),
				"signalToNoise":     around(k.With(3), 8, 3)}
		}
		p := c.add(c.model.up, c.model.up, c.wearer.derived,
			object{"fullSleepStats": rate(0, 14.5), "deepSleepStats": rate(1, 13.9),
				"lightSleepStats": rate(2, 14.8), "remSleepStats": rate(3, 15.6)})
		p.at = processed
		return true
	default:
		return false
	}
	n := 0
	for at := c.model.bed.Add(step); at.Before(c.model.up); at = at.Add(step) {
		k := c.key().With(n)
		body := object{"percentage": around(k, 95.5, 2.5)}
		if k.With(1).Chance(1.0 / 40) {
			body["percentage"] = 50 // the value of a failed measurement
		}
		if c.typ == "heart-rate-variability" {
			body = object{
				"rootMeanSquareOfSuccessiveDifferencesMilliseconds": around(k, 42, 20),
				"standardDeviationMilliseconds":                     around(k.With(1), 55, 20),
				"metadata": object{"lowFrequencyPower": around(k.With(2), 900, 600),
					"highFrequencyPower": around(k.With(3), 700, 400)},
			}
		}
		c.add(at, at, c.wearer.tracker, body)
		n++
	}
	return true
}

// processing returns when the night arrives and when the service has processed it.
func (c *content) processing() (arrived, processed time.Time) {
	arrived = c.wearer.arrival(c.model.up)
	return arrived, arrived.Add(time.Duration(c.model.key.Named("processing").Between(5*60, 25*60)) * time.Second)
}

// daily draws a daily value. Some are restated with the first sync of the next day.
func (c *content) daily(first bool) {
	start := c.model.day.At(c.wearer.Zone, 0, 0)
	end := (c.model.day + 1).At(c.wearer.Zone, 0, 0)
	arrived, processed := c.processing()
	source := object{"recordingMethod": "DERIVED", "platform": "FITBIT", "device": object{}}
	body := c.dailyValues(0, first)
	if body == nil {
		return
	}
	p := c.add(start, end, source, body)
	p.at = processed
	restated := c.wearer.NextSync(maxTime(end, processed)).Add(7 * time.Minute)
	switch c.typ {
	case "daily-resting-heart-rate":
		p.at = arrived
		p.restate(restated, c.dailyValues(1, first))
	case "daily-heart-rate-variability", "daily-oxygen-saturation", "daily-respiratory-rate",
		"daily-sleep-temperature-derivations":
		if c.key().Named("restate").Chance(0.3) {
			p.restate(restated, c.dailyValues(1, first))
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// dailyValues returns the members of a daily value in a revision, or nil if there is
// none on the day.
func (c *content) dailyValues(revision int, first bool) object {
	k := c.key().With(revision)
	rest := c.wearer.RestingHeartRate(c.model.day)
	switch c.typ {
	case "daily-resting-heart-rate":
		if revision == 0 {
			return object{"beatsPerMinute": i64(rest + k.Between(1, 3)),
				"dailyRestingHeartRateMetadata": object{"calculationMethod": "ONLY_WITH_AWAKE_DATA"}}
		}
		return object{"beatsPerMinute": i64(rest),
			"dailyRestingHeartRateMetadata": object{"calculationMethod": "WITH_SLEEP"}}
	case "daily-heart-rate-variability":
		return object{
			"averageHeartRateVariabilityMilliseconds":                    around(k, 44, 12),
			"deepSleepRootMeanSquareOfSuccessiveDifferencesMilliseconds": around(k.With(1), 48, 12),
			"entropy": around(k.With(2), 2.6, 0.4), "nonRemHeartRateBeatsPerMinute": i64(rest - 3)}
	case "daily-heart-rate-zones":
		var zones []any
		low := 30
		for i, name := range []string{"LIGHT", "MODERATE", "VIGOROUS", "PEAK"} {
			high := []int{109, 134, 159, 220}[i]
			zones = append(zones, object{"heartRateZoneType": name, "minBeatsPerMinute": i64(low),
				"maxBeatsPerMinute": i64(high)})
			low = high + 1
		}
		return object{"heartRateZones": zones}
	case "daily-oxygen-saturation":
		return object{"averagePercentage": around(k, 96, 1), "lowerBoundPercentage": around(k.With(1), 93.5, 0.5),
			"upperBoundPercentage":        around(k.With(2), 98.5, 0.5),
			"standardDeviationPercentage": around(k.With(3), 1.2, 0.4)}
	case "daily-respiratory-rate":
		return object{"breathsPerMinute": around(k, 14.6, 0.9)}
	case "daily-sleep-temperature-derivations":
		out := object{"nightlyTemperatureCelsius": around(k, 34, 0.6), "baselineTemperatureCelsius": 34.1,
			"relativeNightlyStddev30dCelsius": 0.3}
		if first || c.key().Named("nan").Chance(0.1) { // no baseline yet
			out["baselineTemperatureCelsius"], out["relativeNightlyStddev30dCelsius"] = "NaN", "NaN"
		}
		return out
	case "daily-vo2-max":
		if int(c.model.day)%7 == c.wearer.Index%7 {
			return object{"vo2Max": around(k, 43, 3), "cardioFitnessLevel": "GOOD", "estimated": true}
		}
	}
	return nil
}
