package ingest

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// group is what a batch has of one series.
type seriesGroup struct {
	template *series.Template
	metric   string
	device   mapping.DeviceKey
	vague    bool
	segments string // of what its samples are segments, "" mostly
	source   string
	coarse   bool
	// columns are as the samples came, their places in the payload in
	// Commits, until settle.
	columns *series.Columns
}

// use is what a batch has of one mapping.Stream.
type streamUse struct {
	stream *stream.Stream
	group  *seriesGroup
	latest int64 // start of the last of its samples, Unix microseconds
}

// place adds r.row, a sample of st, to the batch.
func (d *delivery) addSample(st *stream.Stream) error {
	b, u := d.batch, d.lastUse
	if u == nil || u.stream != st {
		u = d.useFor(st)
		d.lastUse = u
	}
	u.latest = max(u.latest, d.row.Start)
	b.seq++
	b.samples++
	d.row.Commit.T = b.seq
	if c := u.group.columns; c.Len() == cap(c.Start) {
		u.group.columns = d.spares.grown(c, u.stream.Template.Values)
	}
	u.group.columns.Append(&d.row, st.Template.Values)
	return d.flush()
}

func (d *delivery) useFor(st *stream.Stream) *streamUse {
	b := d.batch
	if u := b.byStream[st]; u != nil {
		return u
	}
	g := b.byTemplate[st.Template]
	if g == nil {
		g = &seriesGroup{template: st.Template, metric: st.Metric, device: st.Device, vague: st.Vague,
			segments: st.SegmentsOf, source: st.Described.Source.Name, coarse: st.Coarse, columns: &series.Columns{}}
		b.byTemplate[st.Template] = g
		b.groups = append(b.groups, g)
	}
	u := &streamUse{stream: st, group: g, latest: d.row.Start}
	b.byStream[st] = u
	b.uses = append(b.uses, u)
	if st.Device.ID != "" {
		b.device(st.Device)
	}
	return u
}

// spares are columns that are not in use, empty, with their memory: what
// columns grow out of and what a commit leaves serves the next ones that grow.
// What they keep is bounded by the samples that they have room for.
type spares struct {
	mu       sync.Mutex
	free     []*series.Columns
	capacity int // samples
	max      int
}

// leastRoom is for how many samples columns have room at first.
const minCapacity = 64

// grown has the samples of c, which is free again, and room for as many more.
func (s *spares) grown(c *series.Columns, values int) *series.Columns {
	n := max(2*c.Len(), minCapacity)
	d := s.get(n)
	if c.Len() == 0 {
		c.Values = make([][]series.Decimal, values)
	}
	d.Fill(c, n)
	s.put(c)
	return d
}

// get is a spare with room for n samples, the tightest there is, or new.
func (s *spares) get(n int) *series.Columns {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, c := range s.free {
		if cap(c.Start) >= n && (best < 0 || cap(c.Start) < cap(s.free[best].Start)) {
			best = i
		}
	}
	if best < 0 {
		return &series.Columns{}
	}
	c := s.free[best]
	s.free = slices.Delete(s.free, best, best+1)
	s.capacity -= cap(c.Start)
	return c
}

func (s *spares) put(c *series.Columns) {
	c.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(c.Start) > 0 && s.capacity+cap(c.Start) <= s.max {
		s.free = append(s.free, c)
		s.capacity += cap(c.Start)
	}
}

// recycle keeps the memory of a batch that is committed.
func (d *delivery) recycle(b *batch) {
	for _, g := range b.groups {
		d.spares.put(g.columns)
	}
}

// seal ends the gathering of b: what its samples say of their devices, and
// how many were read.
func (b *batch) seal() {
	for _, u := range b.uses {
		if u.stream.Device.ID != "" {
			b.device(u.stream.Device).Learn(u.stream.Described, time.UnixMicro(u.latest))
		}
	}
	for _, g := range b.groups {
		b.count(g.metric, Counts{Read: g.columns.Len()})
	}
}

// settle sorts the columns and leaves of what the payload states twice the
// last word, in whichever series or as a document it was.
func (b *batch) deduplicate() {
	same := map[series.Identity][]*seriesGroup{}
	for _, g := range b.groups {
		n := g.columns.Len()
		if twice := n - g.columns.Sort(g.template); twice > 0 {
			b.count(g.metric, Counts{Dropped: twice})
		}
		same[g.template.Identity] = append(same[g.template.Identity], g)
	}
	gone := map[*seriesGroup]map[int]bool{}
	drop := func(g *seriesGroup, i int) {
		if gone[g] == nil {
			gone[g] = map[int]bool{}
		}
		gone[g][i] = true
	}
	for _, gs := range same {
		for i := range gs {
			for j := range i {
				dropRepeated(gs[j], gs[i], drop)
			}
		}
	}
	b.obs = slices.DeleteFunc(b.obs, func(o observation) bool {
		k, ok := series.ParseID(o.ID)
		if o.Stream == "" || !ok {
			return false
		}
		for _, g := range same[k.Identity] {
			i := g.find(&k)
			switch {
			case i < 0:
			case g.columns.Commits[i].T > o.seq:
				b.count(o.Metric, Counts{Dropped: 1})
				return true
			default:
				drop(g, i)
			}
		}
		return false
	})
	for _, g := range b.groups {
		if n := len(gone[g]); n > 0 {
			b.count(g.metric, Counts{Dropped: n})
			g.columns = g.pick(func(i int) bool { return !gone[g][i] })
		}
		g.columns.Commits = g.columns.Commits[:0]
	}
}

// twins finds the samples that two series of one stream both have.
func dropRepeated(a, b *seriesGroup, drop func(*seriesGroup, int)) {
	x, y := a.columns, b.columns
	for i, j := 0, 0; i < x.Len() && j < y.Len(); {
		switch {
		case x.Start[i] < y.Start[j]:
			i++
		case x.Start[i] > y.Start[j]:
			j++
		default:
			for k := j; k < y.Len() && y.Start[k] == x.Start[i]; k++ {
				s, t := x.At(i), y.At(k)
				switch {
				case a.template.Check(&s) != b.template.Check(&t):
				case s.Commit.T < t.Commit.T:
					drop(a, i)
				default:
					drop(b, k)
				}
			}
			i++
		}
	}
}

// find is the place of a sample in sorted columns, -1 if it is not there.
func (g *seriesGroup) find(k *series.Key) int {
	c := g.columns
	for i := sort.Search(c.Len(), func(i int) bool { return c.Start[i] >= k.Start }); i < c.Len() &&
		c.Start[i] == k.Start; i++ {
		if s := c.At(i); g.template.Check(&s) == k.Check {
			return i
		}
	}
	return -1
}

// pick copies the samples that keep says.
func (g *seriesGroup) pick(keep func(i int) bool) *series.Columns {
	out := &series.Columns{}
	for i := range g.columns.Len() {
		if keep(i) {
			s := g.columns.At(i)
			out.Append(&s, g.template.Values)
		}
	}
	return out
}

// series puts the samples that the store does not have into a, counts those
// that it has, and returns those that it has otherwise, as documents.
func (d *delivery) addSeries(ctx context.Context, b *batch, a *commitAttempt) ([]observation, error) {
	var gs []*seriesGroup
	var ws []store.SeriesWrite
	for _, g := range b.groups {
		n := g.columns.Len()
		if n == 0 {
			continue
		}
		ok, err := d.covered(ctx, g.template.Categories)
		if err != nil {
			return nil, err
		}
		if !ok {
			a.count(g.metric, Counts{Dropped: n})
			continue
		}
		gs, ws = append(gs, g), append(ws, store.SeriesWrite{Template: g.template, Columns: g.columns})
	}
	if len(ws) == 0 {
		return nil, nil
	}
	at, found, err := d.pipeline.Store.Probe(ctx, ws)
	if err != nil {
		return nil, fhir.Wrap("ingest.series", err)
	}
	a.batch.Probed = at
	var others []observation
	for i, g := range gs {
		known, err := d.findDuplicates(ctx, b, g, found[i], a)
		if err != nil {
			return nil, err
		}
		others = append(others, known...)
	}
	for i, g := range gs {
		var n [inBatch + 1]int
		for _, p := range found[i] {
			n[p]++
		}
		a.count(g.metric, Counts{Created: n[store.Missing], Unchanged: n[store.Same] + n[duplicate], Dropped: n[inBatch]})
		if n[store.Missing] > 0 || n[store.Same] > 0 && !g.vague {
			b.wantDevice(g.device)
		}
		if n[store.Missing] > 0 {
			w := ws[i]
			if n[store.Missing] < g.columns.Len() {
				w.Columns = g.pick(func(j int) bool { return found[i][j] == store.Missing })
			}
			a.batch.Series = append(a.batch.Series, w)
			a.samples += n[store.Missing]
			if g.segments != "" {
				a.addSegments(g, w.Columns)
			}
			a.addStream(mapping.StreamID(g.template.Identity))
		}
		for j, p := range found[i] {
			if p == store.Other {
				others = append(others, g.document(j))
			}
		}
	}
	return others, nil
}

// document is sample i as Map would give it.
func (g *seriesGroup) document(i int) observation {
	s := g.columns.At(i)
	k := g.template.Key(&s)
	body := g.template.Append(nil, &s)
	return observation{Result: mapping.Result{ID: k.ID(), JSON: body, Hash: store.ContentHash(body),
		Categories: g.template.Categories,
		Metric:     g.metric, Start: time.UnixMicro(s.Start), Device: g.device, Vague: g.vague,
		Stream: mapping.StreamID(g.template.Identity), SegmentsOf: g.segments},
		source: g.source, coarse: g.coarse}
}
