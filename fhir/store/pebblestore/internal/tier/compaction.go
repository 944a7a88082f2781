package tier

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/yield"
)

const (
	// tailsPerTier is the number of tails of like size (within a factor of 16) that
	// are merged into one. A sample is thus rewritten only a few times before it
	// reaches the base.
	tailsPerTier = 16
	// mergeLoose is the number of samples in tails from which they are merged into
	// the base, unless that rewrites more than mergeFactor times as many.
	mergeLoose  = 1024
	mergeFactor = 16
)

// Compaction is a planned change of the rows of a series. It changes no answer.
type Compaction struct {
	Series      *Series
	Moves       uint64 // Tally.Moves and Tally.Merges when the series was read
	Merges      uint64
	Drop        [][]byte // H keys; their B rows are deleted, too
	Put         []placed
	Tails       int64 // change of Tally.Tails
	TailSamples int64
	Read        uint64 // samples that were read
	Void        bool   // set if the series has changed meanwhile
}

// placed is a block that a compaction writes, and the parts of its key.
type placed struct {
	Level  byte
	Major  uint64
	Minor  uint32
	Header series.Header
	Body   []byte
}

// tail is a block that a compaction reads.
type tail struct {
	key  []byte
	head series.Header
}

// from returns the least start in the range of a base block. Its key names it, even
// if the first samples have left the block since.
func (t *tail) from() int64 { return keys.Unsortable(binary.BigEndian.Uint64(t.key[1+8+1:])) }

// tierOf returns the size tier of n samples.
func tierOf(n int) int { return (bits.Len(uint(n)) + 3) / 4 }

func (t *Tier) Plan(r pebble.Reader, ser *Series, all bool) (*Compaction, error) {
	raw, err := rows.Get(r, keys.TallyKey(ser.ID))
	if err != nil || raw == nil {
		return nil, err
	}
	st, err := rows.DecodeTally(raw)
	if err != nil {
		return nil, err
	}
	tails, err := t.blocks(r, ser, LevelTail)
	if err != nil || len(tails) == 0 {
		return nil, err
	}
	x := &Compaction{Series: ser, Moves: st.Moves, Merges: st.Merges}
	if st.TailSamples >= mergeLoose || all {
		done, err := t.intoBase(r, x, tails, all)
		if err != nil || done {
			return x, err
		}
	}
	tiers := map[int][]tail{}
	for _, b := range tails {
		if b.head.Count < BlockSamples {
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
		x.Tails++
		x.TailSamples += int64(h.Count)
		return placed{Level: LevelTail, Major: 1<<63 | st.Merges, Minor: uint32(i)}
	})
	return x, err
}

// blocks returns the headers of one level in the order of their keys.
func (t *Tier) blocks(r pebble.Reader, ser *Series, level byte) (out []tail, err error) {
	pre := keys.LevelPrefix(keys.TableHeader, ser.ID, level)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return nil, err
		}
		out = append(out, tail{slices.Clone(it.Key()), h})
	}
	return out, it.Error()
}

// read merges blocks, which x then drops.
func (t *Tier) read(r pebble.Reader, x *Compaction, from []tail) (*series.Columns, error) {
	var all, one series.Columns
	for i := range from {
		b := &from[i]
		if err := t.ReadBlock(r, b.key, &b.head, &one); err != nil {
			return nil, err
		}
		yield.Now() // the compactor runs in the background
		for j := range one.Len() {
			s := one.At(j)
			all.Append(&s, x.Series.Template.Values)
		}
		x.Drop = append(x.Drop, b.key)
		x.Read += uint64(b.head.Count)
		if b.key[1+8] == LevelTail {
			x.Tails--
			x.TailSamples -= int64(b.head.Count)
		}
	}
	all.Sort(x.Series.Template)
	return &all, nil
}

// split divides columns into blocks of equal size.
func (t *Tier) split(x *Compaction, cols *series.Columns,
	where func(h *series.Header, i int, check uint32) placed) error {
	n := cols.Len()
	blocks := (n + BlockSamples - 1) / BlockSamples
	for i := range blocks {
		part := cols.Slice(n*i/blocks, n*(i+1)/blocks)
		h := series.Summarize(&part)
		s := part.At(0)
		p := where(&h, i, x.Series.Template.Check(&s))
		p.Header = h
		var err error
		if p.Body, err = t.Encode(&part); err != nil {
			return err
		}
		x.Put = append(x.Put, p)
	}
	return nil
}

// intoBase merges the tails with the base blocks that they overlap, and with small
// neighbors. It returns false if that would rewrite too much.
func (t *Tier) intoBase(r pebble.Reader, x *Compaction, tails []tail, all bool) (done bool, err error) {
	base, err := t.blocks(r, x.Series, LevelBase)
	if err != nil {
		return false, err
	}
	loose, cost := 0, 0
	hit := make([]bool, len(base))
	for i := range tails {
		h := &tails[i].head
		loose += h.Count
		// A tail changes the blocks that it overlaps, and follows the block before
		// them.
		from, _ := slices.BinarySearchFunc(base, h.MinStart,
			func(b tail, s int64) int { return cmp.Compare(b.head.MaxStart, s) })
		for j := from; j < len(base) && base[j].from() <= h.MaxStart; j++ {
			hit[j] = true
		}
		if from > 0 && base[from-1].head.Count < BlockSamples/2 {
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
	// The tails may spread over the whole base: rewrite each run of changed blocks
	// between two unchanged ones, in one pass.
	cols, err := t.read(r, x, tails)
	if err != nil {
		return false, err
	}
	at := 0
	for j := 0; j <= len(base); j++ {
		if j < len(base) && hit[j] {
			continue
		}
		end := cols.Len() // samples of the tails before the unchanged block j
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
func (t *Tier) rewrite(r pebble.Reader, x *Compaction, run []tail, cols *series.Columns, from, to int) error {
	if len(run) == 0 && from == to {
		return nil
	}
	merged, err := t.read(r, x, run)
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		s := cols.At(i)
		merged.Append(&s, x.Series.Template.Values)
	}
	merged.Sort(x.Series.Template)
	return t.split(x, merged, func(h *series.Header, _ int, check uint32) placed {
		return placed{Level: LevelBase, Major: keys.Sortable(h.MinStart), Minor: check}
	})
}

// Due reports whether a series that has grown is worth a compaction.
func Due(s *rows.Tally) bool {
	return s.TailSamples >= mergeLoose || s.Tails > 0 && s.Tails%tailsPerTier == 0
}
