package pebblestore

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// compactor merges tails in the background. It reads snapshots and writes through
// the committer, so that no writer waits.
type compactor struct {
	db *DB
	// turn is held from reading a series until the change of its rows is visible.
	// Otherwise two compactions of the same tails would duplicate samples.
	turn   sync.Mutex
	mu     sync.Mutex
	queued map[series.SeriesID]*tier.Series
	order  []series.SeriesID
	busy   int  // series being compacted, 0 or 1
	scan   bool // look at every series, because compactions were enabled
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{}

	// enabled is set if this process plans compactions.
	enabled atomic.Bool

	series, samples atomic.Uint64 // compactions, and samples they rewrote, since the store was opened
}

func newCompactor(d *DB) *compactor {
	return &compactor{db: d, queued: map[series.SeriesID]*tier.Series{}, wake: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{})}
}

// consider queues a series that has grown, if it is due.
func (c *compactor) consider(ser *tier.Series, st *rows.Tally) {
	if !tier.Due(st) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queued[ser.ID] != nil {
		return
	}
	c.queued[ser.ID] = ser
	c.order = append(c.order, ser.ID)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *compactor) take() *tier.Series {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = min(1, len(c.order)); c.busy == 0 {
		return nil
	}
	ser := c.queued[c.order[0]]
	delete(c.queued, ser.ID)
	c.order = c.order[1:]
	return ser
}

// waiting returns the number of series that are queued or being compacted.
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
		if err := c.scanAll(); err != nil && fhir.KindOf(err) != fhir.Unavailable {
			c.db.opts.Logger.Error("compaction", "error", fault.Describe(err))
		}
		for ser := c.take(); ser != nil; ser = c.take() {
			select {
			case <-c.stop:
				return
			default:
			}
			if !c.enabled.Load() {
				continue
			}
			if err := c.compact(ser, false); err != nil && fhir.KindOf(err) != fhir.Unavailable {
				c.db.opts.Logger.Error("compaction", "error", fault.Describe(err))
			}
		}
	}
}

// SetCompacting sets whether this process compacts series in the background. It is true
// in a store of one process, and false at first in a shared one: of the processes that
// share a store, one at a time should compact. If two do, no answer changes, but one of
// them works in vain.
func (d *DB) SetCompacting(on bool) {
	if d.compactor.enabled.Swap(on) || !on {
		return
	}
	d.compactor.mu.Lock()
	d.compactor.scan = true
	d.compactor.mu.Unlock()
	select {
	case d.compactor.wake <- struct{}{}:
	default:
	}
}

// scanAll queues the series that became due while another process was to compact them.
func (c *compactor) scanAll() error {
	c.mu.Lock()
	scan := c.scan
	c.scan = false
	c.mu.Unlock()
	if !scan {
		return nil
	}
	v, err := c.db.enter("pebblestore.compact")
	if err != nil {
		return err
	}
	defer c.db.leave(v)
	return c.db.eachSeries(v, func(ser *tier.Series) error {
		select {
		case <-c.stop:
			return errClosed("pebblestore.compact")
		default:
		}
		raw, err := rows.Get(v.Reader, keys.TallyKey(ser.ID))
		if err != nil || raw == nil {
			return err
		}
		st, err := rows.DecodeTally(raw)
		if err == nil {
			c.consider(ser, &st)
		}
		return err
	})
}

// compact merges the tails of a series: into the base if that is worth its cost, or
// otherwise tails of like size with each other. If all is set, every tail is merged
// into the base at any cost.
func (c *compactor) compact(ser *tier.Series, all bool) error {
	const op = "pebblestore.compact"
	c.turn.Lock()
	defer c.turn.Unlock()
	v, err := c.db.enter(op)
	if err != nil {
		return err
	}
	x, err := c.db.tier.Plan(v.Reader, ser, all)
	c.db.leave(v)
	if err != nil || x == nil {
		return err
	}
	r := &request{compact: x, done: make(chan struct{})}
	if v, err = c.db.enter(op); err != nil { // delays Close
		return err
	}
	c.db.in <- r
	<-r.done
	c.db.leave(v)
	if r.err == nil && !x.Void {
		c.series.Add(1)
		c.samples.Add(x.Read)
		c.db.meters.compacted(context.Background(), x)
	}
	return r.err
}

// putCompaction applies a compaction to the group, unless a sample has left the
// series, or another compaction has changed it, since it was planned.
func (s *stage) putCompaction(x *tier.Compaction) error {
	st, err := s.tally(x.Series.ID)
	if err != nil {
		return err
	}
	if x.Void = st == nil || st.Moves != x.Moves || st.Merges != x.Merges; x.Void {
		return nil
	}
	for _, k := range x.Drop {
		if err := s.batch.Delete(k, nil); err != nil {
			return err
		}
		if err := s.batch.Delete(append([]byte{keys.TableBlock}, k[1:]...), nil); err != nil {
			return err
		}
	}
	for i := range x.Put {
		p := &x.Put[i]
		if err := s.setBlock(x.Series.ID, p.Level, p.Major, p.Minor, &p.Header, p.Body); err != nil {
			return err
		}
	}
	st.Tails = uint64(int64(st.Tails) + x.Tails)
	st.TailSamples = uint64(int64(st.TailSamples) + x.TailSamples)
	st.Merges++
	return s.batch.Set(keys.TallyKey(x.Series.ID), st.Encode(), nil)
}

// compactAll merges the tails of every series into the base.
func (d *DB) compactAll(ctx context.Context, v *view) error {
	return d.eachSeries(v, func(ser *tier.Series) error {
		if ctx.Err() != nil {
			return fault.Canceled("pebblestore.Compact", ctx.Err())
		}
		return d.compactor.compact(ser, true)
	})
}

// eachSeries calls fn with every series.
func (d *DB) eachSeries(v *view, fn func(*tier.Series) error) (err error) {
	it, err := v.Reader.NewIter(&pebble.IterOptions{LowerBound: []byte{keys.TableSeries},
		UpperBound: []byte{keys.TableSeries + 1}})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		var id series.SeriesID
		if k := it.Key(); len(k) > 8 {
			copy(id[:], k[len(k)-8:])
		}
		ser, err := d.tier.SeriesOf(id, it.Value())
		if err != nil {
			return err
		}
		if err := fn(ser); err != nil {
			return err
		}
	}
	return it.Error()
}

// CompactionStats describes the work of the compactor since the store was opened.
type CompactionStats struct {
	Series    uint64 // compactions
	Rewritten uint64 // samples that they wrote again
	Waiting   int    // series that are queued or being compacted
}

// Compaction returns the work of the compactor.
func (d *DB) Compaction() CompactionStats {
	return CompactionStats{Series: d.compactor.series.Load(), Rewritten: d.compactor.samples.Load(),
		Waiting: d.compactor.waiting()}
}
