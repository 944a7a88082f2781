package preferred

import (
	"cmp"
	"slices"
	"time"

	"pulsegate/fhir/element"
	"pulsegate/mapping/sleep"
)

// maxSession is the longest sleep session that counts. Longer ones are errors of their
// source.
const maxSession = 24 * time.Hour

// cluster is one night or nap: the sessions of all sources that overlap or follow each
// other within sleep.Gap.
type cluster struct {
	start, end time.Time
	sessions   []measurement
}

// clustersOf joins sessions. It sorts and keeps them.
func clustersOf(sessions []measurement) (out []cluster) {
	slices.SortFunc(sessions, func(a, b measurement) int {
		return cmp.Or(a.start.Compare(b.start), a.end.Compare(b.end), cmp.Compare(a.id, b.id))
	})
	for i := range sessions {
		s := &sessions[i]
		if n := len(out); n > 0 && s.start.Sub(out[n-1].end) <= sleep.Gap {
			c := &out[n-1]
			if c.sessions = append(c.sessions, *s); s.end.After(c.end) {
				c.end = s.end
			}
			continue
		}
		out = append(out, cluster{s.start, s.end, []measurement{*s}})
	}
	return out
}

// sleepOf is the sleep of one source in a cluster.
type sleepOf struct {
	source
	sessions []*measurement // none of which overlap, by start
	minutes  float64
	stages   int
}

// sleepsOf returns the sleep of each source. Of sessions of one source that overlap, the
// longest counts: a session that has grown, or one that covers two.
func (c *cluster) sleepsOf(con *Concept) (out []*sleepOf) {
	list := make([]*measurement, len(c.sessions))
	for i := range c.sessions {
		list[i] = &c.sessions[i]
	}
	slices.SortStableFunc(list, func(a, b *measurement) int {
		return cmp.Or(cmp.Compare(b.end.Sub(b.start), a.end.Sub(a.start)), cmp.Compare(b.value, a.value))
	})
	for _, m := range list {
		i := slices.IndexFunc(out, func(s *sleepOf) bool { return s.source == m.source })
		if i < 0 {
			i, out = len(out), append(out, &sleepOf{source: m.source})
		}
		s := out[i]
		if slices.ContainsFunc(s.sessions, func(o *measurement) bool {
			return m.start.Before(o.end) && o.start.Before(m.end)
		}) {
			continue
		}
		s.sessions = append(s.sessions, m)
		s.minutes += m.value
		for j := range con.Components {
			if _, ok := con.Components[j].of(m); ok {
				s.stages++
			}
		}
	}
	for _, s := range out {
		slices.SortFunc(s.sessions, func(a, b *measurement) int {
			return cmp.Or(a.start.Compare(b.start), cmp.Compare(a.id, b.id))
		})
	}
	return out
}

// of returns the value of the component in a measurement.
func (c *Code) of(m *measurement) (float64, bool) {
	for i := range m.components {
		if part := &m.components[i]; part.unit == "min" && slices.ContainsFunc(c.inputs, func(in element.Coding) bool {
			return hasCode(part.codes, in)
		}) {
			return part.value, true
		}
	}
	return 0, false
}

// prefer returns the preferred night of a cluster.
func (k *collector) prefer(c *cluster) *derived {
	var best *sleepOf
	for _, s := range c.sleepsOf(k.concept) {
		if best == nil || k.compareSleep(s, best) < 0 {
			best = s
		}
	}
	first, last := best.sessions[0], best.sessions[len(best.sessions)-1]
	d := &derived{source: best.source, kind: k.kindOf(best.source), how: "the sleep of a source",
		value: format(best.minutes), start: first.start, end: last.end, day: dayOf(last.end),
		closes: last.end.Add(sleep.Gap), components: make([]string, len(k.concept.Components))}
	if len(best.sessions) == 1 {
		d.value = decimalOf(first)
	}
	for i := range k.concept.Components {
		sum, any := 0.0, false
		for _, m := range best.sessions {
			if v, ok := k.concept.Components[i].of(m); ok {
				sum, any = sum+v, true
			}
		}
		if any {
			d.components[i] = format(sum)
		}
	}
	for _, m := range best.sessions {
		d.preliminary = d.preliminary || m.status == "preliminary"
		d.ids = append(d.ids, m.id)
	}
	slices.Sort(d.ids)
	return d
}

func (k *collector) compareSleep(a, b *sleepOf) int {
	return cmp.Or(cmp.Compare(k.concept.rank(k.kindOf(a.source)), k.concept.rank(k.kindOf(b.source))),
		cmp.Compare(b.minutes, a.minutes), cmp.Compare(b.stages, a.stages), a.source.compare(&b.source))
}

// preferredNights returns the preferred nights and naps by day, in order of their start.
func (k *collector) preferredNights() map[int64][]*derived {
	out := map[int64][]*derived{}
	for _, c := range clustersOf(k.sessions) {
		d := k.prefer(&c)
		out[d.day] = append(out[d.day], d)
		d.nth = len(out[d.day])
	}
	return out
}
