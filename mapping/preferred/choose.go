package preferred

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// derived is one preferred value.
type derived struct {
	day int64 // days since 1970; of a night, the day of waking
	nth int   // number of the night or nap on its day, from 1; otherwise 0
	source
	kind, how  string // kind of device, and how the value was found
	value      string // decimal
	start, end time.Time
	components []string // decimals, parallel to Concept.Components; "" is absent
	// ids and streams name the inputs: the Observations, or the streams of samples.
	ids, streams []string
	preliminary  bool
	closes       time.Time // when the day or night is over
}

// tally adds up the measurements of one source on one day.
type tally struct {
	source
	sum          float64
	samples      int
	hours        uint32       // hours of the day with samples
	stated, last *measurement // the statement, and the last sample
	streams      map[string]bool
	ids          map[string]bool
}

// collector collects the inputs of one concept.
type collector struct {
	policy  *Policy
	concept *Concept
	kindOf  func(source) string
	days    map[int64]map[source]*tally
	// nights holds the vendors' own nights, for a concept of the kind nightValue.
	nights map[string][]measurement
	// sessions holds the sleep sessions, for a concept of the kind night.
	sessions []measurement
	// seen holds the inputs that exist, also those entered in error: Observations by id,
	// and streams by stream and day.
	seen map[string]bool
}

func newCollector(p *Policy, c *Concept, kindOf func(source) string) *collector {
	return &collector{policy: p, concept: c, kindOf: kindOf, days: map[int64]map[source]*tally{},
		seen: map[string]bool{}}
}

// streamDay is the key of a stream on a day in seen.
func streamDay(stream string, day int64) string { return stream + "/" + strconv.FormatInt(day, 10) }

// leastNight is the least length of a period that states a value of a night, and leastDay
// of one that states the total of a day.
const (
	leastNight = 2 * time.Hour
	leastDay   = 20 * time.Hour
)

// add adds a measurement.
func (k *collector) add(m *measurement) {
	if m.id != "" {
		k.seen[m.id] = true
	}
	if m.inStream != "" {
		k.seen[streamDay(m.inStream, dayOf(m.start))] = true
	}
	valid := []string{"final", "amended", "corrected", "preliminary"}
	if !k.concept.accepts(m.unit) || !slices.Contains(valid, m.status) {
		return
	}
	if k.concept.Kind == night {
		if length := m.end.Sub(m.start); length > 0 && length <= maxSession {
			k.sessions = append(k.sessions, *m)
		}
		return
	}
	day, stated := k.place(m)
	if day == noDay {
		return
	}
	if k.days[day] == nil {
		k.days[day] = map[source]*tally{}
	}
	t := k.days[day][m.source]
	if t == nil {
		t = &tally{source: m.source, streams: map[string]bool{}, ids: map[string]bool{}}
		k.days[day][m.source] = t
	}
	if stated {
		if t.stated == nil || k.better(m, t.stated) {
			c := *m
			t.stated = &c
		}
		return
	}
	t.add(m)
}

// noDay is the day of a sample that is in no night.
const noDay = math.MinInt64

// place returns the day of a measurement and whether it states a value of that day.
func (k *collector) place(m *measurement) (day int64, stated bool) {
	switch k.concept.Kind {
	case dayTotal:
		return dayOf(m.start), m.isStated(k.concept, leastDay)
	case dayValue:
		return dayOf(m.end), m.isStated(k.concept, leastDay)
	case nightValue:
		if m.isStated(k.concept, leastNight) {
			return dayOf(m.end), true
		}
		for i := range k.nights[m.vendor] {
			if n := &k.nights[m.vendor][i]; !m.start.Before(n.start) && m.start.Before(n.end) {
				return dayOf(n.end), false
			}
		}
		return noDay, false
	}
	return dayOf(m.end), true
}

// better reports whether statement m of a source counts rather than other: of a night, the
// one about the longer time, and otherwise the later one.
func (k *collector) better(m, other *measurement) bool {
	longer := 0
	if k.concept.Kind == nightValue {
		longer = cmp.Compare(m.end.Sub(m.start), other.end.Sub(other.start))
	}
	return cmp.Or(longer, m.end.Compare(other.end), m.start.Compare(other.start), cmp.Compare(m.id, other.id),
		cmp.Compare(m.value, other.value)) > 0
}

func (t *tally) add(m *measurement) {
	t.sum += m.value
	t.samples++
	t.hours |= 1 << m.start.Hour()
	if t.last == nil || cmp.Or(m.end.Compare(t.last.end), cmp.Compare(m.value, t.last.value)) >= 0 {
		if t.last == nil {
			t.last = &measurement{}
		}
		*t.last = *m
	}
	if m.inStream != "" {
		t.streams[m.inStream] = true
	} else {
		t.ids[m.id] = true
	}
}

// choose returns the preferred value of a day, or nil.
func (k *collector) choose(day int64, zone *time.Location) *derived {
	var best *tally
	for _, t := range k.days[day] {
		if best == nil || k.compare(t, best) < 0 {
			best = t
		}
	}
	if best == nil {
		return nil
	}
	d := &derived{day: day, source: best.source, kind: k.kindOf(best.source)}
	m := best.stated
	switch {
	case m != nil:
		d.how, d.value = "a stated value of a source", decimalOf(m)
		d.ids = []string{m.id}
		d.preliminary = m.status == "preliminary"
	case k.concept.Kind == dayTotal:
		m, d.how, d.value = best.last, "the sum of the samples of a source", format(best.sum)
	case k.concept.Pick == "last":
		m, d.how, d.value = best.last, "the last value of a source", decimalOf(best.last)
	default:
		m, d.how, d.value = best.last, "the mean of the samples of a source", format(best.sum/float64(best.samples))
	}
	switch {
	case best.stated != nil:
	case k.concept.Pick == "last" && k.concept.Kind != dayTotal && m.inStream == "":
		d.ids = []string{m.id}
	default:
		d.ids, d.streams = sorted(best.ids), sorted(best.streams)
	}
	location := m.end.Location()
	if m.date {
		if location = zone; location == nil {
			location = time.UTC
		}
	}
	y, mo, dd := time.Unix(day*86400, 0).UTC().Date()
	d.closes = time.Date(y, mo, dd+1, 0, 0, 0, 0, location)
	return d
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// compare returns a negative number if a is preferred to b.
func (k *collector) compare(a, b *tally) int {
	unstated := func(t *tally) int {
		if t.stated == nil {
			return 1
		}
		return 0
	}
	complete := 0
	if a.stated == nil {
		complete = cmp.Or(cmp.Compare(bits.OnesCount32(b.hours), bits.OnesCount32(a.hours)),
			cmp.Compare(b.samples, a.samples))
	}
	return cmp.Or(cmp.Compare(k.concept.rank(k.kindOf(a.source)), k.concept.rank(k.kindOf(b.source))),
		cmp.Compare(unstated(a), unstated(b)), complete, a.source.compare(&b.source))
}

// decimalOf returns the value as the source wrote it.
func decimalOf(m *measurement) string {
	if m.text != "" {
		return m.text
	}
	return format(m.value)
}

// format writes a computed value with at most twelve significant digits, the precision of
// the arithmetic, without an exponent.
func format(v float64) string {
	f, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 12, 64), 64)
	if err != nil {
		f = v
	}
	s := strconv.FormatFloat(f, 'f', 9, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
