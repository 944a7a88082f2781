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
)

// group is what a batch has of one series.
type group struct {
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
type use struct {
	stream *mapping.Stream
	group  *group
	latest int64 // start of the last of its samples, Unix microseconds
}

// place adds r.row, a sample of st, to the batch.
func (r *run) place(st *mapping.Stream) error {
	b, u := r.cur, r.use
	if u == nil || u.stream != st {
		u = r.useOf(st)
		r.use = u
	}
	u.latest = max(u.latest, r.row.Start)
	b.seq++
	b.samples++
	r.row.Commit.Seq = b.seq
	if c := u.group.columns; c.Len() == cap(c.Start) {
		u.group.columns = r.spare.grown(c, u.stream.Template.Values)
	}
	u.group.columns.Append(&r.row, st.Template.Values)
	return r.flush()
}

func (r *run) useOf(st *mapping.Stream) *use {
	b := r.cur
	if u := b.uses[st]; u != nil {
		return u
	}
	g := b.byTemplate[st.Template]
	if g == nil {
		g = &group{template: st.Template, metric: st.Metric, device: st.Device, vague: st.Vague,
			segments: st.SegmentsOf, source: st.Known.Source.Name, coarse: st.Coarse, columns: &series.Columns{}}
		b.byTemplate[st.Template] = g
		b.groups = append(b.groups, g)
	}
	u := &use{stream: st, group: g, latest: r.row.Start}
	b.uses[st] = u
	b.placed = append(b.placed, u)
	if st.Device.ID != "" {
		b.device(st.Device)
	}
	return u
}

// spares are columns that are not in use, empty, with their memory: what
// columns grow out of and what a commit leaves serves the next ones that grow.
// What they keep is bounded by the samples that they have room for.
type spares struct {
	mu   sync.Mutex
	list []*series.Columns
	room int // samples
	most int
}

// leastRoom is for how many samples columns have room at first.
const leastRoom = 64

// grown has the samples of c, which is free again, and room for as many more.
func (s *spares) grown(c *series.Columns, values int) *series.Columns {
	n := max(2*c.Len(), leastRoom)
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
	for i, c := range s.list {
		if cap(c.Start) >= n && (best < 0 || cap(c.Start) < cap(s.list[best].Start)) {
			best = i
		}
	}
	if best < 0 {
		return &series.Columns{}
	}
	c := s.list[best]
	s.list = slices.Delete(s.list, best, best+1)
	s.room -= cap(c.Start)
	return c
}

func (s *spares) put(c *series.Columns) {
	c.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(c.Start) > 0 && s.room+cap(c.Start) <= s.most {
		s.list = append(s.list, c)
		s.room += cap(c.Start)
	}
}

// recycle keeps the memory of a batch that is committed.
func (r *run) recycle(b *batch) {
	for _, g := range b.groups {
		r.spare.put(g.columns)
	}
}

// seal ends the gathering of b: what its samples say of their devices, and
// how many were read.
func (b *batch) seal() {
	for _, u := range b.placed {
		if u.stream.Device.ID != "" {
			b.device(u.stream.Device).Learn(u.stream.Known, time.UnixMicro(u.latest))
		}
	}
	for _, g := range b.groups {
		b.count(g.metric, Counts{Read: g.columns.Len()})
	}
}

// settle sorts the columns and leaves of what the payload states twice the
// last word, in whichever series or as a document it was.
func (b *batch) settle() {
	same := map[series.Identity][]*group{}
	for _, g := range b.groups {
		n := g.columns.Len()
		if twice := n - g.columns.Sort(g.template); twice > 0 {
			b.count(g.metric, Counts{Dropped: twice})
		}
		same[g.template.Identity] = append(same[g.template.Identity], g)
	}
	gone := map[*group]map[int]bool{}
	drop := func(g *group, i int) {
		if gone[g] == nil {
			gone[g] = map[int]bool{}
		}
		gone[g][i] = true
	}
	for _, gs := range same {
		for i := range gs {
			for j := range i {
				twins(gs[j], gs[i], drop)
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
			case g.columns.Commits[i].Seq > o.seq:
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
func twins(a, b *group, drop func(*group, int)) {
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
				case s.Commit.Seq < t.Commit.Seq:
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
func (g *group) find(k *series.Key) int {
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
func (g *group) pick(keep func(i int) bool) *series.Columns {
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
func (r *run) series(ctx context.Context, b *batch, a *attempt) ([]observation, error) {
	var gs []*group
	var ws []store.SeriesWrite
	for _, g := range b.groups {
		n := g.columns.Len()
		if n == 0 {
			continue
		}
		ok, err := r.covered(ctx, g.template.Categories)
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
	at, found, err := r.p.Store.Probe(ctx, ws)
	if err != nil {
		return nil, fhir.Wrap("ingest.series", err)
	}
	a.sb.Probed = at
	var others []observation
	for i, g := range gs {
		known, err := r.twinsOf(ctx, b, g, found[i], a)
		if err != nil {
			return nil, err
		}
		others = append(others, known...)
	}
	for i, g := range gs {
		var n [stated + 1]int
		for _, p := range found[i] {
			n[p]++
		}
		a.count(g.metric, Counts{Created: n[store.Missing], Unchanged: n[store.Same] + n[twin], Dropped: n[stated]})
		if n[store.Missing] > 0 || n[store.Same] > 0 && !g.vague {
			b.want(g.device)
		}
		if n[store.Missing] > 0 {
			w := ws[i]
			if n[store.Missing] < g.columns.Len() {
				w.Columns = g.pick(func(j int) bool { return found[i][j] == store.Missing })
			}
			a.sb.Series = append(a.sb.Series, w)
			a.samples += n[store.Missing]
			if g.segments != "" {
				a.touchSamples(g, w.Columns)
			}
			a.stream(mapping.StreamID(g.template.Identity))
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
func (g *group) document(i int) observation {
	s := g.columns.At(i)
	k := g.template.Key(&s)
	body := g.template.Append(nil, &s)
	return observation{Result: mapping.Result{ID: k.ID(), JSON: body, Hash: store.ContentHash(body),
		Categories: g.template.Categories,
		Metric:     g.metric, Start: time.UnixMicro(s.Start), Device: g.device, Vague: g.vague,
		Stream: mapping.StreamID(g.template.Identity), SegmentsOf: g.segments},
		source: g.source, coarse: g.coarse}
}
