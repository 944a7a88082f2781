package oura

import (
	"time"

	"pulsegate/adapters/oura/ouragen"
	"pulsegate/adapters/simulate"
)

// sampling is the interval of heart rates.
const sampling = 5 * time.Minute

// nightRate returns the heart rate of a sleeping wearer in the interval that contains t.
func nightRate(w *simulate.Wearer, t time.Time) int {
	slot := int(t.Unix() / int64(sampling.Seconds()))
	return w.RestingHeartRate(simulate.DayOf(t.In(w.Zone))) + w.Key.Named("asleep").With(slot).Between(-2, 9)
}

// hours holds the times of a wearer's day that decide the source of a heart rate.
type hours struct {
	day                 simulate.Day
	slept, up           time.Time // the night before
	bed                 time.Time // beginning of the next night
	trains, rests       time.Time // beginning and end of the workout
	wornBefore, wornNow bool
}

func (m *model) hoursOf(w *simulate.Wearer, day simulate.Day) hours {
	h := hours{day: day, wornBefore: m.worn(w, day), wornNow: m.worn(w, day+1)}
	h.slept, h.up = w.Night(day)
	h.bed, _ = w.Night(day + 1)
	if start, length, ok := w.Workout(day); ok {
		h.trains, h.rests = start, start.Add(length)
	}
	return h
}

// heartRate returns the row of the interval that begins at t. ok is false if nothing was
// measured.
func (h *hours) heartRate(w *simulate.Wearer, t time.Time) (bpm int, source string, ok bool) {
	k := w.Key.Named("rate").With(int(t.Unix()))
	if k.Chance(0.06) || batteryAt(w, t).charging {
		return 0, "", false
	}
	k = k.Named("bpm")
	switch {
	case !t.Before(h.slept) && t.Before(h.up):
		return nightRate(w, t), "sleep", h.wornBefore
	case !t.Before(h.bed):
		return nightRate(w, t), "sleep", h.wornNow
	case !t.Before(h.trains) && t.Before(h.rests):
		return k.Between(112, 164), "workout", true
	case k.Named("rest").Chance(0.12):
		return k.Between(56, 70), "rest", true
	}
	return k.Between(62, 98), "awake", true
}

// row is a row of a time series.
type row struct {
	at  time.Time
	doc object
}

// rowsOf calls yield with the rows of a time series from its first day on that were
// measured in the window and have been delivered at now, ascending.
func (m *model) rowsOf(w *simulate.Wearer, typ string, win simulate.Window, now time.Time, yield func(row) bool) {
	begin := m.first.At(w.Zone, 0, 0)
	if win.From.After(begin) {
		begin = win.From
	}
	begin = begin.Add(sampling - 1).Truncate(sampling)
	end := w.LastSync(now)
	if win.To.Before(end) {
		end = win.To
	}
	if typ == "ring_battery_level" {
		m.batteryRows(w, begin, end, yield)
		return
	}
	m.heartRates(w, begin, end, yield)
}

func (m *model) heartRates(w *simulate.Wearer, begin, end time.Time, yield func(row) bool) {
	h := m.hoursOf(w, simulate.DayOf(begin.In(w.Zone)))
	for t := begin; t.Before(end); t = t.Add(sampling) {
		if day := simulate.DayOf(t.In(w.Zone)); day != h.day {
			h = m.hoursOf(w, day)
		}
		bpm, source, ok := h.heartRate(w, t)
		if !ok {
			continue
		}
		if !yield(row{t, ouragen.HeartRate(t, bpm, source)}) {
			return
		}
		// The live service also has two rows of the same second.
		if w.Key.Named("live").With(int(t.Unix())).Chance(0.002) &&
			!yield(row{t, ouragen.HeartRate(t, bpm+1, "live")}) {
			return
		}
	}
}

// battery is the state of a ring's battery.
type battery struct {
	level    int // percent
	charging bool
}

// A ring is charged from lowest to 100 percent in chargeTime, every chargeEvery.
const (
	chargeEvery = 5 * 24 * time.Hour
	chargeTime  = 90 * time.Minute
	lowest      = 12
)

// batteryAt returns the state of the battery at t.
func batteryAt(w *simulate.Wearer, t time.Time) battery {
	offset := time.Duration(w.Key.Named("charge").Between(0, int(chargeEvery.Seconds()))) * time.Second
	phase := (time.Duration(t.Unix())*time.Second + offset) % chargeEvery
	if phase < chargeTime {
		return battery{lowest + int((100-lowest)*phase/chargeTime), true}
	}
	return battery{100 - int((100-lowest)*(phase-chargeTime)/(chargeEvery-chargeTime)), false}
}

func (m *model) batteryRows(w *simulate.Wearer, begin, end time.Time, yield func(row) bool) {
	for t := begin; t.Before(end); t = t.Add(sampling) {
		b := batteryAt(w, t)
		if !b.charging && t.Minute()%30 != 0 {
			continue
		}
		doc := object{"timestamp": utcStamp(t), "timestamp_unix": t.UnixMilli(), "level": b.level,
			"charging": b.charging, "in_charger": b.charging}
		if !yield(row{t, doc}) {
			return
		}
	}
}

// personalInfo returns the fields of personal_info that the scopes allow.
func (m *model) personalInfo(w *simulate.Wearer, now time.Time, has func(scope string) bool) object {
	doc := object{"id": w.Account(vendor)}
	k := w.Key.Named("person")
	if has("personal") {
		week := w.Key.Named("weight").With(int(now.Unix() / (7 * 86400)))
		doc["age"], doc["height"] = k.With(1).Between(19, 78), float64(k.With(2).Between(152, 198))/100
		doc["weight"] = float64(k.With(3).Between(520, 980)+week.Between(-8, 8)) / 10
		doc["biological_sex"] = []string{"female", "male"}[k.With(4).Between(0, 1)]
	}
	if has("email") {
		doc["email"] = "wearer." + k.Named("mail").Hex(8) + "@example.com"
	}
	return doc
}
