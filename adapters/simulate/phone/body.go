package phone

import (
	"encoding/json"
	"math"
	"time"

	"pulsegate/adapters/simulate"
)

type object = map[string]any

// canonical returns a document with sorted members.
func canonical(doc any) []byte {
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err) // documents consist of strings, numbers and null
	}
	return b
}

// sampling is the interval of heart rates.
const sampling = 5 * time.Minute

// heartRate returns the heart rate at t. ok is false if the watch has not measured it.
func (p *Phone) heartRate(t time.Time) (bpm int, ok bool) {
	w := &p.opts.Wearer
	k := w.Key.Named("watch rate").With(int(t.Unix()))
	day := simulate.DayOf(t.In(w.Zone))
	bed, up := w.Night(day)
	next, _ := w.Night(day + 1)
	if k.Chance(0.05) {
		return 0, false
	}
	if !t.Before(bed) && t.Before(up) || !t.Before(next) {
		return w.RestingHeartRate(day) + k.Named("asleep").Between(-3, 8), true
	}
	if start, length, ok := w.Workout(day); ok && !t.Before(start) && t.Before(start.Add(length)) {
		return k.Named("workout").Between(110, 168), true
	}
	return k.Named("awake").Between(60, 99), true
}

// steps returns the number of steps of a day up to t: none before getting up, all at
// 23:00.
func (p *Phone) steps(day simulate.Day, t time.Time) int {
	_, up := p.opts.Wearer.Night(day)
	end := day.At(p.opts.Wearer.Zone, 23, 0)
	share := min(1, max(0, t.Sub(up).Seconds()/end.Sub(up).Seconds()))
	return int(float64(p.opts.Wearer.Steps(day)) * share)
}

// variability returns the day's heart rate variability in ms.
func (p *Phone) variability(day simulate.Day) float64 {
	return float64(p.opts.Wearer.Key.Named("sdnn").With(int(day)).Between(300, 650)) / 10
}

// stage is a segment of a night.
type stage struct {
	from, to time.Time
	value    int // HKCategoryValueSleepAnalysis
}

// Values of HKCategoryValueSleepAnalysis.
const (
	awake = 2
	core  = 3
	deep  = 4
	rem   = 5
)

// stages returns the segments of the night before a day. A night that the watch has
// written again ends ten minutes earlier.
func (p *Phone) stages(day simulate.Day, again bool) (out []stage) {
	from, up := p.opts.Wearer.Night(day)
	if again {
		up = up.Add(-10 * time.Minute)
	}
	k := p.opts.Wearer.Key.Named("stages").With(int(day))
	cycle := []struct{ value, low, high int }{{core, 25, 45}, {deep, 15, 35}, {core, 15, 30}, {rem, 10, 30},
		{awake, 1, 6}}
	for i := 0; from.Before(up); i++ {
		c := cycle[i%len(cycle)]
		to := from.Add(time.Duration(k.With(i).Between(c.low, c.high)) * time.Minute)
		if to.After(up) {
			to = up
		}
		out = append(out, stage{from, to, c.value})
		from = to
	}
	return out
}

// haeTime is the form of times of Health Auto Export.
const haeTime = "2006-01-02 15:04:05 -0700"

func (p *Phone) local(t time.Time) string { return t.In(p.opts.Wearer.Zone).Format(haeTime) }

// watch and handset are the names of the devices as sources.
const (
	watch   = "Simulated Watch"
	handset = "Simulated Phone"
)

// overlap is the time before the last acknowledged batch that Health Auto Export sends
// again.
const overlap = 30 * time.Minute

// automations returns the requests of Health Auto Export.
func (p *Phone) automations(from, to time.Time) []batch {
	w := &p.opts.Wearer
	days := object{}
	for day := simulate.DayOf(from.In(w.Zone)); day <= simulate.DayOf(to.In(w.Zone)); day++ {
		p.dayRows(day, to, func(metric, _ string, row object, _ time.Time) {
			list, _ := days[metric].([]any)
			days[metric] = append(list, row)
		})
	}
	minutes := []any{}
	p.minuteRows(from.Add(-overlap), to, func(row object, _ time.Time) { minutes = append(minutes, row) })
	var byDay []any
	for _, m := range dayMetrics {
		if rows, ok := days[m[0]].([]any); ok {
			byDay = append(byDay, object{"name": m[0], "units": m[1], "data": rows})
		}
	}
	workouts := []any{}
	for day := simulate.DayOf(from.In(w.Zone)) - 1; day <= simulate.DayOf(to.In(w.Zone)); day++ {
		if doc, end, ok := p.workout(day); ok && !end.After(to) && end.After(from.Add(-overlap)) {
			workouts = append(workouts, doc)
		}
	}
	out := []batch{
		p.automation("Heart rate", "Minutes", to, object{"metrics": []any{
			object{"name": "heart_rate", "units": "count/min", "data": minutes}}}),
		p.automation("Day values", "Days", to, object{"metrics": byDay}),
	}
	out[1].inOrder = true // the rows of a day grow
	if len(workouts) > 0 {
		out = append(out, p.automation("Workouts", "None", to, object{"workouts": workouts}))
	}
	return out
}

func (p *Phone) automation(name, aggregation string, to time.Time, data object) batch {
	k := p.opts.Wearer.Key.Named("automation " + name)
	return batch{body: canonical(object{"data": data}), header: [][2]string{{"Content-Type", "application/json"},
		{"automation-name", name}, {"automation-id", k.UUID()}, {"automation-aggregation", aggregation},
		{"automation-period", "Since Last Sync"}, {"session-id", k.With(int(to.Unix())).UUID()}}}
}

// minuteRows calls yield with the rows of heart rates from a time up to another.
func (p *Phone) minuteRows(from, to time.Time, yield func(object, time.Time)) {
	if begin := p.first.At(p.opts.Wearer.Zone, 0, 0); from.Before(begin) {
		from = begin
	}
	for t := from.Add(sampling - 1).Truncate(sampling); t.Before(to); t = t.Add(sampling) {
		if bpm, ok := p.heartRate(t); ok {
			yield(object{"date": p.local(t), "Min": bpm, "Avg": bpm, "Max": bpm, "source": watch}, t)
		}
	}
}

// dayMetrics lists the metrics with one row per day, and their units.
var dayMetrics = [][2]string{{"step_count", "count"}, {"active_energy", "kcal"}, {"resting_heart_rate", "count/min"},
	{"heart_rate_variability", "ms"}, {"sleep_analysis", "hr"}}

// dayRows calls yield with the rows of a day as known at t.
func (p *Phone) dayRows(day simulate.Day, t time.Time, yield func(metric, unit string, row object, at time.Time)) {
	if day < p.first {
		return
	}
	w := &p.opts.Wearer
	begin := day.At(w.Zone, 0, 0)
	_, up := w.Night(day)
	steps := p.steps(day, t)
	row := func(metric, unit string, value any, source string) {
		yield(metric, unit, object{"date": p.local(begin), "qty": value, "source": source}, begin)
	}
	if steps > 0 {
		row("step_count", "count", steps, watch+"|"+handset)
		row("active_energy", "kcal", float64(steps)/20, watch)
	}
	if t.Before(up) {
		return
	}
	row("resting_heart_rate", "count/min", w.RestingHeartRate(day), watch)
	row("heart_rate_variability", "ms", p.variability(day), watch)
	yield("sleep_analysis", "hr", p.night(day), begin)
}

// night returns the row of the night before a day.
func (p *Phone) night(day simulate.Day) object {
	hours := map[int]float64{}
	bed, up := p.opts.Wearer.Night(day)
	for _, s := range p.stages(day, false) {
		hours[s.value] += s.to.Sub(s.from).Hours()
	}
	round := func(h float64) float64 { return math.Round(h*1e6) / 1e6 }
	return object{"date": day.String(), "sleepStart": p.local(bed), "sleepEnd": p.local(up),
		"totalSleep": round(hours[core] + hours[deep] + hours[rem]), "asleep": 0, "core": round(hours[core]),
		"deep": round(hours[deep]), "rem": round(hours[rem]), "awake": round(hours[awake]),
		"inBed": round(up.Sub(bed).Hours()), "inBedStart": p.local(bed), "inBedEnd": p.local(up), "source": watch}
}

func (p *Phone) workout(day simulate.Day) (doc object, end time.Time, ok bool) {
	start, length, ok := p.opts.Wearer.Workout(day)
	if !ok || day < p.first {
		return nil, end, false
	}
	end = start.Add(length)
	return object{"id": p.uuid("workout", int(day)), "name": "Outdoor Run", "start": p.local(start),
		"end":      p.local(end),
		"duration": length.Seconds(), "location": "Outdoor", "metadata": object{},
		"activeEnergyBurned": object{"qty": length.Minutes() * 9, "units": "kcal"},
		"distance":           object{"qty": length.Minutes() * 0.15, "units": "km"}}, end, true
}

// rows returns the latest rows up to an acknowledged sync.
func (p *Phone) rows(acked time.Time) (out []Record) {
	last := simulate.DayOf(acked.In(p.opts.Wearer.Zone))
	p.minuteRows(time.Time{}, acked, func(row object, at time.Time) {
		out = append(out, Record{"heart_rate", "", at, canonical(row)})
	})
	for day := p.first; day <= last; day++ {
		p.dayRows(day, acked, func(metric, _ string, row object, at time.Time) {
			out = append(out, Record{metric, "", at, canonical(row)})
		})
		if doc, end, ok := p.workout(day); ok && !end.After(acked) {
			out = append(out, Record{"workout", doc["id"].(string), end, canonical(doc)})
		}
	}
	return out
}
