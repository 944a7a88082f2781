package phone

import (
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

// entry is a sample in HealthKit.
type entry struct {
	typ, uuid string
	start     time.Time
	created   time.Time // when it was written
	deleted   time.Time // when it was removed, or the zero time
	doc       object
}

// uuid returns the UUID of a sample, in upper case as HealthKit writes it.
func (p *Phone) uuid(name string, parts ...int) string {
	return strings.ToUpper(p.opts.Wearer.Key.Named("healthkit " + name).With(parts...).UUID())
}

// companionBody returns the batch of an anchored query at a sync: the samples written and
// deleted after from, up to to. A sample that has been deleted is not listed.
func (p *Phone) companionBody(from, to, sync time.Time, sequence int) []byte {
	samples, deletions := []any{}, []any{}
	for _, e := range p.entries(from.Add(-longest), to) {
		gone := !e.deleted.IsZero() && !e.deleted.After(to)
		switch {
		case gone && e.deleted.After(from):
			deletions = append(deletions, object{"uuid": e.uuid, "type": e.typ})
		case !gone && e.created.After(from):
			samples = append(samples, e.doc)
		}
	}
	k := p.opts.Wearer.Key.Named("installation")
	return canonical(object{"format": "pulsegate-companion", "version": 1,
		"created":      sync.In(p.opts.Wearer.Zone).Format(time.RFC3339),
		"installation": strings.ToUpper(k.UUID()), "sequence": sequence, "anchor": k.With(int(to.Unix())).Hex(24),
		"samples": samples, "deleted": deletions})
}

// longest bounds the time from writing a sample to deleting it.
const longest = 48 * time.Hour

// entries returns the samples written after from, up to to.
func (p *Phone) entries(from, to time.Time) (out []entry) {
	zone := p.opts.Wearer.Zone
	for day := max(p.first, simulate.DayOf(from.In(zone))-1); day <= simulate.DayOf(to.In(zone)); day++ {
		p.entriesOf(day, func(e entry) {
			if e.created.After(from) && !e.created.After(to) {
				out = append(out, e)
			}
		})
	}
	return out
}

// sample builds an entry that is written when it ends.
func (p *Phone) sample(typ string, from, to time.Time, id string, value object) entry {
	w := &p.opts.Wearer
	doc := object{"uuid": id, "type": typ, "start": from.In(w.Zone).Format(time.RFC3339),
		"timeZone": w.Zone.String(),
		"source":   object{"name": watch, "bundle": "com.apple.health." + w.Watch, "version": "26.1"},
		"device": object{"name": "Apple Watch", "manufacturer": "Apple Inc.", "model": "Watch", "hardware": "Watch7,5",
			"software": "26.1"}}
	if to.After(from) {
		doc["end"] = to.In(w.Zone).Format(time.RFC3339)
	}
	for name, v := range value {
		doc[name] = v
	}
	return entry{typ: typ, uuid: id, start: from, created: to, doc: doc}
}

// entriesOf calls yield with the samples of a day.
func (p *Phone) entriesOf(day simulate.Day, yield func(entry)) {
	w := &p.opts.Wearer
	begin, end := day.At(w.Zone, 0, 0), (day+1).At(w.Zone, 0, 0)
	_, up := w.Night(day)
	for t := begin.Add(sampling - 1).Truncate(sampling); t.Before(end); t = t.Add(sampling) {
		if bpm, ok := p.heartRate(t); ok {
			yield(p.sample("HKQuantityTypeIdentifierHeartRate", t, t, p.uuid("rate", int(t.Unix())),
				object{"value": bpm, "unit": "count/min"}))
		}
	}
	for t := begin; t.Before(end); t = t.Add(time.Hour) {
		if n := p.steps(day, t.Add(time.Hour)) - p.steps(day, t); n > 0 {
			yield(p.sample("HKQuantityTypeIdentifierStepCount", t, t.Add(time.Hour), p.uuid("steps", int(t.Unix())),
				object{"value": n, "unit": "count"}))
		}
	}
	yield(p.sample("HKQuantityTypeIdentifierRestingHeartRate", begin, up, p.uuid("resting", int(day)),
		object{"value": w.RestingHeartRate(day), "unit": "count/min"}))
	yield(p.sample("HKQuantityTypeIdentifierHeartRateVariabilitySDNN", up.Add(-time.Minute), up,
		p.uuid("sdnn", int(day)), object{"value": p.variability(day), "unit": "ms"}))
	p.nightEntries(day, up, yield)
	p.weight(day, up, yield)
	if start, length, ok := w.Workout(day); ok {
		yield(p.sample("HKWorkoutTypeIdentifier", start, start.Add(length), p.uuid("workout", int(day)),
			object{"workout": object{"activity": 37, "duration": length.Seconds(), "statistics": []any{
				object{"type": "HKQuantityTypeIdentifierActiveEnergyBurned", "unit": "kcal",
					"sum": length.Minutes() * 9},
				object{"type": "HKQuantityTypeIdentifierDistanceWalkingRunning", "unit": "m",
					"sum": length.Minutes() * 150},
			}}}))
	}
}

// nightEntries writes the stages of a night when the wearer gets up. The watch writes
// some nights again an hour later, with new UUIDs.
func (p *Phone) nightEntries(day simulate.Day, up time.Time, yield func(entry)) {
	write := func(again bool, at, gone time.Time) {
		for i, s := range p.stages(day, again) {
			id := p.uuid("stage", int(day), i)
			if again {
				id = p.uuid("stage again", int(day), i)
			}
			e := p.sample("HKCategoryTypeIdentifierSleepAnalysis", s.from, s.to, id, object{"value": s.value})
			e.created, e.deleted = at, gone
			yield(e)
		}
	}
	later := up.Add(time.Hour)
	if !p.opts.Wearer.Key.Named("night again").With(int(day)).Chance(0.1) {
		write(false, up, time.Time{})
		return
	}
	write(false, up, later)
	write(true, later, time.Time{})
}

// weight is entered on some mornings. The wearer removes a part of the values the next
// morning.
func (p *Phone) weight(day simulate.Day, up time.Time, yield func(entry)) {
	k := p.opts.Wearer.Key.Named("weight entry").With(int(day))
	if !k.Chance(0.3) {
		return
	}
	at := up.Add(20 * time.Minute)
	e := p.sample("HKQuantityTypeIdentifierBodyMass", at, at, p.uuid("weight", int(day)),
		object{"value": float64(k.Named("kg").Between(550, 950)) / 10, "unit": "kg",
			"metadata": object{"HKWasUserEntered": true}, "source": object{"name": handset}})
	delete(e.doc, "device")
	if k.Named("removed").Chance(0.2) {
		e.deleted = at.Add(24 * time.Hour)
	}
	yield(e)
}
