package oura

import (
	"slices"
	"strconv"
	"time"

	"pulsegate/adapters/oura/ouragen"
	"pulsegate/adapters/simulate"
)

type object = ouragen.Object

// item identifies a document: a wearer's document of a type, the day it counts for, and
// its number on this day.
type item struct {
	wearer *simulate.Wearer
	kind   *kind
	day    simulate.Day
	slot   int
}

// form distinguishes the contents that a document has over time.
type form int

const (
	asCreated form = iota
	grown          // a day that is still growing, or over
	restated       // the vendor computed the values again
	edited         // the wearer moved the bedtime
	deleted        // a night of the type "deleted"
	rejected       // a nap of the type "rest"
	merged         // a night that an evening nap has joined
	confirmed      // a workout that the wearer confirmed
	ended          // a period with its end
)

// version is one state of a document. The document is gone if event is "delete".
type version struct {
	at    time.Time // the sync that delivered it
	event string
	rev   int
	form  form
}

// model holds what the documents are a function of.
type model struct {
	first  simulate.Day // first day with data
	legacy bool
}

// key returns the key of the values of an item.
func (it item) key() simulate.Key { return keyOf(it.wearer, it.kind.name, it.day, it.slot) }

func keyOf(w *simulate.Wearer, typ string, day simulate.Day, slot int) simulate.Key {
	return w.Key.Named(typ).With(int(day), slot)
}

// id returns the id of an item.
func (it item) id() string { return idOf(it.wearer, it.kind.name, it.day, it.slot) }

// idOf returns the id of a document. Its last twelve digits hold day and slot, so that
// the item can be found again.
func idOf(w *simulate.Wearer, typ string, day simulate.Day, slot int) string {
	k := w.Key.Named("id " + typ)
	place := uint64(day)<<8 | uint64(slot)
	head := k.With(int(place)).UUID()[:24]
	tail := strconv.FormatUint((place^uint64(k))&(1<<48-1)|1<<48, 16)
	return head + tail[1:]
}

// itemOf finds the item with an id.
func (m *model) itemOf(w *simulate.Wearer, k *kind, id string) (item, bool) {
	if len(id) != 36 {
		return item{}, false
	}
	tail, err := strconv.ParseUint(id[24:], 16, 64)
	if err != nil {
		return item{}, false
	}
	place := (tail ^ uint64(w.Key.Named("id "+k.name))) & (1<<48 - 1)
	it := item{w, k, simulate.Day(place >> 8), int(place & 0xff)}
	return it, it.id() == id
}

// next returns the first n syncs at or after t.
func next(w *simulate.Wearer, t time.Time, n int) []time.Time {
	out := make([]time.Time, 0, n)
	t = t.Add(-1)
	for range n {
		if t = w.NextSync(t); t.IsZero() {
			break
		}
		out = append(out, t)
	}
	return out
}

// worn reports whether the ring was worn in the night before day.
func (m *model) worn(w *simulate.Wearer, day simulate.Day) bool {
	return day >= m.first && !w.Key.Named("not worn").With(int(day)).Chance(0.03)
}

// chain builds a history out of steps that follow the first sync at or after t.
func chain(w *simulate.Wearer, t time.Time, steps ...step) []version {
	var out []version
	last := 0
	for _, s := range steps {
		last = max(last, s.sync)
	}
	syncs := next(w, t, last+1)
	for i, s := range steps {
		if s.sync >= len(syncs) {
			break
		}
		out = append(out, version{syncs[s.sync], s.event, i, s.form})
	}
	return out
}

// step is a version that the sync-th sync after an instant delivers.
type step struct {
	sync  int
	event string
	form  form
}

// created is the step with which every history begins.
var created = step{0, "create", asCreated}

// course draws how a night develops after it was first delivered.
func (m *model) course(w *simulate.Wearer, day simulate.Day) form {
	switch x := w.Key.Named("course").With(int(day)).Float(); {
	case x < 0.06:
		return edited
	case x < 0.09:
		return deleted
	case x < 0.14:
		return merged
	case x < 0.20:
		return restated
	}
	return asCreated
}

// Slots of sleep documents on a day.
const (
	night = iota
	nap
	eveningNap // joins the night that follows, which counts for the next day
)

// bounds returns the times of a sleep document as first measured. ok is false if there is
// none.
func (m *model) bounds(it item) (from, to time.Time, ok bool) {
	w := it.wearer
	switch it.slot {
	case night:
		from, to = w.Night(it.day)
		return from, to, m.worn(w, it.day)
	case nap:
		k := w.Key.Named("nap").With(int(it.day))
		from = it.day.At(w.Zone, 13, k.Named("from").Between(30, 150))
		return from, from.Add(time.Duration(k.Named("length").Between(4, 16)) * 5 * time.Minute),
			it.day >= m.first && k.Chance(0.2)
	case eveningNap:
		bed, _ := w.Night(it.day + 1)
		return bed.Add(-100 * time.Minute), bed.Add(-50 * time.Minute),
			it.day >= m.first && m.worn(w, it.day+1) && m.course(w, it.day+1) == merged
	}
	return from, to, false
}

func (m *model) sleepHistory(it item, _ time.Time) []version {
	_, to, ok := m.bounds(it)
	if !ok {
		return nil
	}
	w := it.wearer
	switch it.slot {
	case nap:
		switch x := it.key().Named("course").Float(); {
		case x < 0.10:
			return chain(w, to, created, step{1, "update", rejected})
		case x < 0.15:
			return chain(w, to, created, step{1, "delete", 0})
		}
		return chain(w, to, created)
	case eveningNap:
		out := chain(w, to, created)
		_, up := w.Night(it.day + 1)
		if joined := next(w, up, 2); len(joined) == 2 && len(out) == 1 {
			out = append(out, version{joined[1], "delete", 1, 0})
		}
		return out
	}
	if f := m.course(w, it.day); f != asCreated {
		return chain(w, to, created, step{1, "update", f})
	}
	return chain(w, to, created)
}

// nightly is the history of documents that are computed from a night.
func (m *model) nightly(it item, _ time.Time) []version {
	if !m.worn(it.wearer, it.day) {
		return nil
	}
	_, up := it.wearer.Night(it.day)
	steps := []step{created}
	switch m.course(it.wearer, it.day) {
	case deleted:
		return chain(it.wearer, up, created, step{1, "delete", 0})
	case edited, merged, restated:
		steps = append(steps, step{1, "update", restated})
	}
	if it.key().Named("again").Chance(0.05) {
		steps = append(steps, step{2, "update", restated})
	}
	return chain(it.wearer, up, steps...)
}

// once is the history of documents of a night that never change.
func (m *model) once(it item, _ time.Time) []version {
	if !m.worn(it.wearer, it.day) {
		return nil
	}
	_, up := it.wearer.Night(it.day)
	return chain(it.wearer, up, created)
}

// weekly is the history of documents that appear once a week.
func (m *model) weekly(it item, until time.Time) []version {
	if (int(it.day)+it.wearer.Index)%7 != 0 {
		return nil
	}
	return m.once(it, until)
}

// growing is the history of documents of a day that begins at 04:00: each sync updates
// them until the first sync after the day. Some are corrected after that.
func (m *model) growing(it item, _ time.Time) []version {
	if it.day < m.first {
		return nil
	}
	var out []version
	t, end := it.day.At(it.wearer.Zone, 4, 0), (it.day+1).At(it.wearer.Zone, 4, 0)
	for _, s := range next(it.wearer, t, 7) {
		event := "update"
		if len(out) == 0 {
			event = "create"
		}
		if len(out) > 0 && !out[len(out)-1].at.Before(end) {
			if it.key().Named("again").Chance(0.1) {
				out = append(out, version{s, event, len(out), restated})
			}
			break
		}
		out = append(out, version{s, event, len(out), grown})
	}
	return out
}

// evening is the history of documents that appear in the evening.
func (m *model) evening(it item, _ time.Time) []version {
	if it.day < m.first {
		return nil
	}
	return chain(it.wearer, it.day.At(it.wearer.Zone, 18, 0), created)
}

func (m *model) workoutHistory(it item, _ time.Time) []version {
	start, length, ok := it.wearer.Workout(it.day)
	if !ok || it.day < m.first {
		return nil
	}
	switch x := it.key().Named("course").Float(); {
	case x < 0.30:
		return chain(it.wearer, start.Add(length), created, step{1, "update", confirmed})
	case x < 0.35:
		return chain(it.wearer, start.Add(length), created, step{1, "delete", 0})
	}
	return chain(it.wearer, start.Add(length), created)
}

func (m *model) sessionHistory(it item, _ time.Time) []version {
	if it.day < m.first || !it.key().Named("exists").Chance(0.15) {
		return nil
	}
	return chain(it.wearer, it.day.At(it.wearer.Zone, 19, 0), created)
}

func (m *model) tagHistory(it item, _ time.Time) []version {
	if it.day < m.first || !it.key().Named("exists").Chance(0.2) {
		return nil
	}
	switch x := it.key().Named("course").Float(); {
	case x < 0.1:
		return chain(it.wearer, it.day.At(it.wearer.Zone, 19, 0), created, step{1, "delete", 0})
	case x < 0.2:
		return chain(it.wearer, it.day.At(it.wearer.Zone, 19, 0), created, step{1, "update", ended})
	}
	return chain(it.wearer, it.day.At(it.wearer.Zone, 19, 0), created)
}

// restDays bounds the length of a period in rest mode, in days.
const restDays = 3

func (m *model) restHistory(it item, _ time.Time) []version {
	block := it.wearer.Key.Named("rest").With(int(it.day) / 20)
	if it.day < m.first || int(it.day)%20 != block.Between(0, 19) {
		return nil
	}
	out := chain(it.wearer, it.day.At(it.wearer.Zone, 10, 0), created)
	end := next(it.wearer, (it.day+simulate.Day(it.restLength())).At(it.wearer.Zone, 10, 0), 1)
	if len(out) == 1 && len(end) == 1 && end[0].After(out[0].at) {
		out = append(out, version{end[0], "update", 1, ended})
	}
	return out
}

func (it item) restLength() int { return it.key().Named("length").Between(1, restDays) }

// firmwareDays is the number of days from one update of the firmware to the next.
const firmwareDays = 20

func (m *model) ringHistory(it item, until time.Time) []version {
	out := chain(it.wearer, m.first.At(it.wearer.Zone, 0, 0), created)
	for i := 1; len(out) == i; i++ {
		t := (m.first + simulate.Day(i*firmwareDays)).At(it.wearer.Zone, 3, 0)
		if t.After(until) {
			break
		}
		if s := next(it.wearer, t, 1); len(s) == 1 {
			out = append(out, version{s[0], "update", i, restated})
		}
	}
	return out
}

// state returns the version of an item at now. ok is false if there is none.
func (m *model) state(it item, now time.Time) (v version, ok bool) {
	h := it.kind.history(m, it, now)
	for _, v := range slices.Backward(h) {
		if !v.at.After(now) {
			return v, v.event != "delete"
		}
	}
	return version{}, false
}

// items calls yield with the items of a kind that may exist on the days from a to b, in
// order, until it returns false.
func (m *model) items(w *simulate.Wearer, k *kind, a, b simulate.Day, yield func(item) bool) {
	if k.single {
		yield(item{wearer: w, kind: k})
		return
	}
	for day := max(a, m.first); day <= b; day++ {
		for slot := range max(k.slots, 1) {
			if !yield(item{w, k, day, slot}) {
				return
			}
		}
	}
}

// document returns the document of an item as delivered by v.
func (m *model) document(it item, v version) object {
	doc := it.kind.render(m, it, v)
	doc["id"] = it.id()
	if m.legacy && it.kind.name != "enhanced_tag" && it.kind.name != "tag" && it.kind.name != "daily_resilience" {
		doc["meta"] = object{"updated_at": utcStamp(v.at), "version": v.rev + 1}
	}
	return doc
}

// utcStamp formats a time in UTC with milliseconds, as Oura writes the times of rows.
func utcStamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
