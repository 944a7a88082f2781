package pebblestore

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"runtime"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
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

func (t *tier) plan(r pebble.Reader, in *seriesInfo, all bool) (*compaction, error) {
	raw, err := get(r, tallyKey(in.id))
	if err != nil || raw == nil {
		return nil, err
	}
	st, err := decodeSeriesState(raw)
	if err != nil {
		return nil, err
	}
	tails, err := t.blocks(r, in, levelTail)
	if err != nil || len(tails) == 0 {
		return nil, err
	}
	x := &compaction{in: in, moves: st.moves}
	if st.loose >= mergeLoose || all {
		done, err := t.intoBase(r, x, tails, all)
		if err != nil || done {
			return x, err
		}
	}
	tiers := map[int][]tail{}
	for _, b := range tails {
		if b.head.Count < blockSamples {
			tiers[tierOf(b.head.Count)] = append(tiers[tierOf(b.head.Count)], b)
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
	cols, err := t.read(r, x, picked)
	if err != nil {
		return nil, err
	}
	err = t.split(x, cols, func(h *series.Header, i int, _ uint32) placed {
		x.tails++
		x.loose += int64(h.Count)
		return placed{level: levelTail, major: 1<<63 | st.merges, minor: uint32(i)}
	})
	return x, err
}

// blocks are the headers of one level, in order of their keys.
func (t *tier) blocks(r pebble.Reader, in *seriesInfo, level byte) (out []tail, err error) {
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
func (t *tier) read(r pebble.Reader, x *compaction, from []tail) (*series.Columns, error) {
	var all, one series.Columns
	for i := range from {
		b := &from[i]
		if err := t.block(r, b.key, &b.head, &one); err != nil {
			return nil, err
		}
		runtime.Gosched() // it is in the background
		for j := range one.Len() {
			s := one.At(j)
			all.Append(&s, x.in.t.Values)
		}
		x.drop = append(x.drop, b.key)
		x.read += uint64(b.head.Count)
		if b.key[1+8] == levelTail {
			x.tails--
			x.loose -= int64(b.head.Count)
		}
	}
	all.Sort(x.in.t)
	return &all, nil
}

// split cuts columns into blocks of like size.
func (t *tier) split(x *compaction, cols *series.Columns,
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
		if p.body, err = t.encode(&part); err != nil {
			return err
		}
		x.put = append(x.put, p)
	}
	return nil
}

// intoBase merges the tails with the base blocks that they overlap, and with
// small ones beside. It declines when that would rewrite too much.
func (t *tier) intoBase(r pebble.Reader, x *compaction, tails []tail, all bool) (done bool, err error) {
	base, err := t.blocks(r, x.in, levelBase)
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
	cols, err := t.read(r, x, tails)
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
		if err := t.rewrite(r, x, run, cols, at, max(at, end)); err != nil {
			return false, err
		}
		at = max(at, end)
	}
	return true, nil
}

// rewrite merges base blocks and the samples [from, to) of the tails.
func (t *tier) rewrite(r pebble.Reader, x *compaction, run []tail, cols *series.Columns, from, to int) error {
	if len(run) == 0 && from == to {
		return nil
	}
	merged, err := t.read(r, x, run)
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		s := cols.At(i)
		merged.Append(&s, x.in.t.Values)
	}
	merged.Sort(x.in.t)
	return t.split(x, merged, func(h *series.Header, _ int, check uint32) placed {
		return placed{level: levelBase, major: sortable(h.MinStart), minor: check}
	})
}

// due reports whether a series that has grown is worth a compaction.
func due(s *seriesState) bool {
	return s.loose >= mergeLoose || s.tails > 0 && s.tails%tailsPerTier == 0
}
