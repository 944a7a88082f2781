package fitbit

import (
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// stageNames maps the levels of legacy nights to the stages of the API.
var stageNames = map[string]string{
	"deep": "DEEP", "light": "LIGHT", "rem": "REM", "wake": "AWAKE", "awake": "AWAKE", "asleep": "ASLEEP",
	"restless": "RESTLESS",
}

// night reads an entry of the sleep log. Short awakenings overlap the stages and
// count in the summary only.
func (d *decoder) night(n *jsonitem.Node) error {
	p := d.legacyPoint("sleep", n)
	if bad := p.nightTimes(); bad != nil {
		return p.finish(bad)
	}
	for _, level := range []string{"deep", "light", "rem", "wake", "awake", "restless"} {
		if m, ok := number(n, "levels", "summary", level, "minutes"); ok {
			p.add(strings.ToLower(stageNames[level]), sample.Value{Kind: sample.Number, Num: m, Unit: "min"})
		}
	}
	p.number("awake", "min", "minutesAwake")
	p.number("minutesInSleepPeriod", "min", "timeInBed")
	p.number("minutesToFallAsleep", "min", "minutesToFallAsleep")
	p.number("minutesAfterWakeUp", "min", "minutesAfterWakeup")
	if c := enum(n.Get("type")); c != "" {
		p.add("type", sample.Value{Kind: sample.Code, Text: strings.ToUpper(c)})
	}
	for _, name := range []string{"mainSleep", "isMainSleep"} {
		if m := n.Get(name); m.IsBool() && !m.IsTrue() {
			p.add("nap", sample.Value{Kind: sample.Boolean, Bool: true})
		}
	}
	if series := p.nightStages(); series != nil {
		p.add("stages", sample.Value{Kind: sample.Series, Series: series})
	}
	bad, dropped := p.measured(n.Get("minutesAsleep"), "min")
	if dropped {
		return nil
	}
	return p.finish(bad)
}

// nightTimes sets the start and the end. The duration is physical time and the end
// is a clock time; the end counts.
func (p *point) nightTimes() *rejection {
	if bad := p.startAt(p.item.Get("startTime").String(), inLocal); bad != nil {
		return bad
	}
	end, zone, bad := p.dec.instant(p.item.Get("endTime").String(), inLocal)
	if bad != nil {
		return bad
	}
	if p.sample.End = end; !end.After(p.sample.Start) || end.Sub(p.sample.Start) > 48*time.Hour {
		return &rejection{sample.ReasonBadTime, "the night has no duration of up to two days"}
	}
	// The less certain of the two describes both.
	if (zone == sample.ZoneFloating) != (p.sample.Zone == sample.ZoneFloating) {
		return &rejection{sample.ReasonUnknownZone, "the offset is known for one end of the night only"}
	}
	if zone == sample.ZoneInstant {
		p.sample.Zone, p.sample.IANA = zone, ""
	}
	return nil
}

// nightStages returns the hypnogram, computed on the clock times as written.
func (p *point) nightStages() *sample.SeriesData {
	list := p.item.Get("levels", "data")
	start, _, _, ok1 := reading(p.item.Get("startTime").String())
	end, _, _, ok2 := reading(p.item.Get("endTime").String())
	if list == nil || !ok1 || !ok2 || len(list.List()) > maxStages {
		return nil
	}
	stages := make([]stage, 0, len(list.List()))
	for i := range list.List() {
		from, _, _, ok := reading(list.List()[i].Get("dateTime").String())
		secs, state := list.List()[i].Get("seconds").Decimal()
		length, err := strconv.Atoi(secs)
		if !ok || state != jsonitem.Given || err != nil || length <= 0 || length > 2*secondsPerDay {
			return nil
		}
		stages = append(stages, stage{stageNames[list.List()[i].Get("level").String()], from,
			from.Add(time.Duration(length) * time.Second)})
	}
	return hypnogram(start, end, stages)
}

// exerciseNames maps the names of common activities to the types of the API. Other
// names may have been written by the wearer and are not read.
var exerciseNames = map[string]string{
	"Walk": "WALKING", "Run": "RUNNING", "Bike": "BIKING", "Outdoor Bike": "OUTDOOR_BIKE", "Swim": "SWIMMING",
	"Hike": "HIKING", "Yoga": "YOGA", "Elliptical": "ELLIPTICAL", "Treadmill": "TREADMILL", "Spinning": "SPINNING",
	"Weights": "WEIGHTS", "Workout": "WORKOUT", "Sport": "SPORT", "Aerobic Workout": "AEROBIC_WORKOUT",
	"Pilates": "PILATES", "Golf": "GOLF", "Tennis": "TENNIS", "Dancing": "DANCING", "Rowing": "ROWING",
	"Interval Workout": "INTERVAL_WORKOUT", "Circuit Training": "CIRCUIT_TRAINING", "Kickboxing": "KICKBOXING",
	"Martial Arts": "MARTIAL_ARTS", "Stairclimber": "STAIRCLIMBER", "Skiing": "SKIING", "Tennis Match": "TENNIS",
}

// zoneTimes maps the names of legacy heart rate zones to components.
var zoneTimes = map[string]string{
	"Out of Range": "outOfRange", "Fat Burn": "fatBurn", "Cardio": "cardio", "Peak": "peak",
}

// workout reads an entry of the exercise log. Times are of basis b unless they
// state an offset. The distance has no unit in some payloads and is left out.
func (d *decoder) workout(n *jsonitem.Node, b basis) error {
	p := d.legacyPoint("exercise", n)
	code := exerciseNames[n.Get("activityName").String()]
	if id, ok := number(n, "activityTypeId"); ok && code == "" {
		code = "ACTIVITY_" + id
	}
	if code == "" {
		return p.finish(missing("activityTypeId is required"))
	}
	p.sample.Value = sample.Value{Kind: sample.Code, Text: code}
	if bad := p.startAt(n.Get("startTime").String(), b); bad != nil {
		return p.finish(bad)
	}
	if ms, ok := number(n, "duration"); ok && jsonitem.Float(ms) > 0 && jsonitem.Float(ms) < 10*secondsPerDay*1000 {
		p.sample.End = p.sample.Start.Add(time.Duration(jsonitem.Float(ms) * float64(time.Millisecond)))
	}
	if ms, ok := number(n, "activeDuration"); ok {
		p.add("activeDuration", sample.Value{Kind: sample.Number, Num: decimal(jsonitem.Float(ms) / 1000), Unit: "s"})
	}
	p.number("caloriesKcal", "kcal", "calories")
	p.number("steps", "count", "steps")
	p.number("averageHeartRateBeatsPerMinute", "bpm", "averageHeartRate")
	p.number("activeZoneMinutes", "min", "activeZoneMinutes", "totalMinutes")
	if list := n.Get("heartRateZones"); list != nil {
		for i := range list.List() {
			if name := zoneTimes[list.List()[i].Get("name").String()]; name != "" {
				p.numberOf(name+"Minutes", "min", list.List()[i].Get("minutes"))
			}
		}
	}
	p.sample.UserEntered = n.Get("logType").String() == "manual"
	return p.emit()
}
