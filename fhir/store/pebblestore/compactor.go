package pebblestore

import (
	"cmp"
	"context"
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/yield"
)

const (
	// tailsPerTier: so many tails of like size (within a factor of 16) are
	// merged into one, so a sample is rewritten at most a few times before it
	// comes into the base.
	tailsPerTier = 16
	// mergeLoose: a series with so many samples in tails has them merged into
	// the base, if that rewrites at most mergeFactor times as many.
	mergeLoose  = 1024
	mergeFactor = 16
)

// compactor merges tails in the background. It reads a snapshot, writes
// through the committer, and holds nobody up.
type compactor struct {
	d *DB
	// turn is held from the reading of a series until the change of its rows
	// is visible: two compactions of what both have read would keep samples
	// twice.
	turn   sync.Mutex
	mu     sync.Mutex
	queued map[series.SeriesID]*seriesInfo
	order  []series.SeriesID
	busy   int // series that are being compacted: 0 or 1
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{}

	series, samples atomic.Uint64 // compacted, and written again, since the start
}

func newCompactor(d *DB) *compactor {
	return &compactor{d: d, queued: map[series.SeriesID]*seriesInfo{}, wake: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{})}
}

// consider notes a series that has grown; it is the committer's to call.
func (c *compactor) consider(in *seriesInfo, st *seriesState) {
	if st.loose < mergeLoose && (st.tails == 0 || st.tails%tailsPerTier != 0) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queued[in.id] != nil {
		return
	}
	c.queued[in.id] = in
	c.order = append(c.order, in.id)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *compactor) take() *seriesInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = min(1, len(c.order)); c.busy == 0 {
		return nil
	}
	in := c.queued[c.order[0]]
	delete(c.queued, in.id)
	c.order = c.order[1:]
	return in
}

// waiting is the number of series that are in line or being compacted.
func (c *compactor) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.order) + c.busy
}

func (c *compactor) run() {
	defer close(c.done)
	for {
		select {
		case <-c.stop:
			return
		case <-c.wake:
		}
		for in := c.take(); in != nil; in = c.take() {
			select {
			case <-c.stop:
				return
			default:
			}
			if err := c.compact(in, false); err != nil && fhir.KindOf(err) != fhir.Unavailable {
				c.d.opts.Logger.Error("compaction", "error", faultOf(err))
			}
		}
	}
}

// compaction is a change of a series' rows that changes nothing to see.
type compaction struct {
	in    *seriesInfo
	moves uint64   // of the series when it was read
	drop  [][]byte // H keys; their B rows go too
	put   []placed
	tails int64 // change of the tally
	loose int64
	read  uint64 // samples
	void  bool   // the series has changed meanwhile
}

type placed struct {
	level byte
	major uint64
	minor uint32
	head  series.Header
	body  []byte
}

// tail is a tail that a compaction read.
type tail struct {
	key  []byte
	head series.Header
}

// from is where the range of a base block begins: at its key, which its first
// samples may have left since.
func (t *tail) from() int64 { return unsortable(binary.BigEndian.Uint64(t.key[1+8+1:])) }

// tierOf parts tails by size.
func tierOf(n int) int { return (bits.Len(uint(n)) + 3) / 4 }

// compact brings the tails of a series into order: into the base when that is
// worth it, or else those of like size into one. all takes every tail into
// the base whatever it costs.
func (c *compactor) compact(in *seriesInfo, all bool) error {
	const op = "pebblestore.compact"
	c.turn.Lock()
	defer c.turn.Unlock()
	v, err := c.d.enter(op)
	if err != nil {
		return err
	}
	x, err := c.plan(v, in, all)
	c.d.leave(v)
	if err != nil || x == nil {
		return err
	}
	r := &request{compact: x, answer: make(chan struct{})}
	if v, err = c.d.enter(op); err != nil { // holds Close back
		return err
	}
	c.d.in <- r
	<-r.answer
	c.d.leave(v)
	if r.err == nil && !x.void {
		c.series.Add(1)
		c.samples.Add(x.read)
		c.d.meters.compacted(context.Background(), x)
	}
	return r.err
}

func (c *compactor) plan(v *view, in *seriesInfo, all bool) (*compaction, error) {
	raw, err := get(v.snap, tallyKey(in.id))
	if err != nil || raw == nil {
		return nil, err
	}
	st, err := decodeSeriesState(raw)
	if err != nil {
		return nil, err
	}
	tails, err := c.blocks(v.snap, in, levelTail)
	if err != nil || len(tails) == 0 {
		return nil, err
	}
	x := &compaction{in: in, moves: st.moves}
	if st.loose >= mergeLoose || all {
		done, err := c.intoBase(v.snap, x, tails, all)
		if err != nil || done {
			return x, err
		}
	}
	tiers := map[int][]tail{}
	for _, t := range tails {
		if t.head.Count < blockSamples {
			tiers[tierOf(t.head.Count)] = append(tiers[tierOf(t.head.Count)], t)
		}
	}
	var picked []tail
	for _, ts := range tiers {
		if len(ts) >= tailsPerTier {
			picked = append(picked, ts...)
		}
	}
	if len(picked) == 0 {
		return nil, nil
	}
	cols, err := c.read(v.snap, x, picked)
	if err != nil {
		return nil, err
	}
	err = c.split(x, cols, func(h *series.Header, i int, _ uint32) placed {
		x.tails++
		x.loose += int64(h.Count)
		return placed{level: levelTail, major: 1<<63 | st.merges, minor: uint32(i)}
	})
	return x, err
}

// blocks are the headers of one level, in order of their keys.
func (c *compactor) blocks(r pebble.Reader, in *seriesInfo, level byte) (out []tail, err error) {
	pre := levelPrefix(tabHead, in.id, level)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return nil, err
		}
		out = append(out, tail{slices.Clone(it.Key()), h})
	}
	return out, it.Error()
}

// read merges blocks and has x drop them.
func (c *compactor) read(r pebble.Reader, x *compaction, from []tail) (*series.Columns, error) {
	var all, one series.Columns
	for i := range from {
		t := &from[i]
		if err := c.d.block(r, t.key, &t.head, &one); err != nil {
			return nil, err
		}
		yield.Now()
		for j := range one.Len() {
			s := one.At(j)
			all.Append(&s, x.in.t.Values)
		}
		x.drop = append(x.drop, t.key)
		x.read += uint64(t.head.Count)
		if t.key[1+8] == levelTail {
			x.tails--
			x.loose -= int64(t.head.Count)
		}
	}
	all.Sort(x.in.t)
	return &all, nil
}

// split cuts columns into blocks of like size.
func (c *compactor) split(x *compaction, cols *series.Columns,
	where func(h *series.Header, i int, check uint32) placed) error {
	n := cols.Len()
	blocks := (n + blockSamples - 1) / blockSamples
	for i := range blocks {
		part := cols.Slice(n*i/blocks, n*(i+1)/blocks)
		h := series.Summarise(&part)
		s := part.At(0)
		p := where(&h, i, x.in.t.Check(&s))
		p.head = h
		var err error
		if p.body, err = c.d.codec.Encode(nil, &part); err != nil {
			return err
		}
		x.put = append(x.put, p)
	}
	return nil
}

// intoBase merges the tails with the base blocks that they overlap, and with
// small ones beside. It declines when that would rewrite too much.
func (c *compactor) intoBase(r pebble.Reader, x *compaction, tails []tail, all bool) (done bool, err error) {
	base, err := c.blocks(r, x.in, levelBase)
	if err != nil {
		return false, err
	}
	loose, cost := 0, 0
	hit := make([]bool, len(base))
	for i := range tails {
		h := &tails[i].head
		loose += h.Count
		// A tail lands in what it overlaps, and beside the block before it.
		from, _ := slices.BinarySearchFunc(base, h.MinStart,
			func(b tail, s int64) int { return cmp.Compare(b.head.MaxStart, s) })
		for j := from; j < len(base) && base[j].from() <= h.MaxStart; j++ {
			hit[j] = true
		}
		if from > 0 && base[from-1].head.Count < blockSamples/2 {
			hit[from-1] = true
		}
	}
	for j, yes := range hit {
		if yes {
			cost += base[j].head.Count
		}
	}
	if !all && cost > mergeFactor*loose {
		return false, nil
	}
	// The tails are spread over the whole: one pass over what is hit, in runs
	// between blocks that are not.
	cols, err := c.read(r, x, tails)
	if err != nil {
		return false, err
	}
	at := 0
	for j := 0; j <= len(base); j++ {
		if j < len(base) && hit[j] {
			continue
		}
		end := cols.Len() // samples of the tails before the untouched block j
		if j < len(base) {
			end = cols.Search(base[j].from())
		}
		var run []tail
		for k := j - 1; k >= 0 && hit[k]; k-- {
			run = append(run, base[k])
		}
		if err := c.rewrite(r, x, run, cols, at, max(at, end)); err != nil {
			return false, err
		}
		at = max(at, end)
	}
	return true, nil
}

// rewrite merges base blocks and the samples [from, to) of the tails.
func (c *compactor) rewrite(r pebble.Reader, x *compaction, run []tail, cols *series.Columns, from, to int) error {
	if len(run) == 0 && from == to {
		return nil
	}
	merged, err := c.read(r, x, run)
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		s := cols.At(i)
		merged.Append(&s, x.in.t.Values)
	}
	merged.Sort(x.in.t)
	return c.split(x, merged, func(h *series.Header, _ int, check uint32) placed {
		return placed{level: levelBase, major: sortable(h.MinStart), minor: check}
	})
}

// putCompaction applies a compaction to the group, unless a sample has left
// the series since it was read.
func (s *stage) putCompaction(x *compaction) error {
	st, err := s.tally(x.in.id)
	if err != nil {
		return err
	}
	if st == nil || st.moves != x.moves {
		x.void = true
		return nil
	}
	for _, k := range x.drop {
		if err := s.batch.Delete(k, nil); err != nil {
			return err
		}
		if err := s.batch.Delete(append([]byte{tabBlock}, k[1:]...), nil); err != nil {
			return err
		}
	}
	for i := range x.put {
		p := &x.put[i]
		if err := s.setBlock(x.in.id, p.level, p.major, p.minor, &p.head, p.body); err != nil {
			return err
		}
	}
	st.tails = uint64(int64(st.tails) + x.tails)
	st.loose = uint64(int64(st.loose) + x.loose)
	st.merges++
	return s.batch.Set(tallyKey(x.in.id), st.encode(), nil)
}

// compactAll brings the tails of every series into the base.
func (d *DB) compactAll(ctx context.Context, v *view) (err error) {
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: []byte{tabSeries}, UpperBound: []byte{tabSeries + 1}})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return canceled("pebblestore.Compact", ctx.Err())
		}
		var id series.SeriesID
		if k := it.Key(); len(k) > 8 {
			copy(id[:], k[len(k)-8:])
		}
		in, err := d.infoOf(id, it.Value())
		if err != nil {
			return err
		}
		if err := d.compactor.compact(in, true); err != nil {
			return err
		}
	}
	return it.Error()
}
