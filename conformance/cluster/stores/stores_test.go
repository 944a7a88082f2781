package stores

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/conformance/cluster/dump"
	"pulsegate/conformance/cluster/history"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog/memlog"
)

var (
	histories = flag.Int("histories", 3, "histories to record, each with a seed of its own")
	firstSeed = flag.Uint64("seed", 1, "seed of the first history")
)

const (
	nodes   = 3
	clients = 6
	steps   = 40 // of each client
)

// TestHistories records histories under faults, kills and cuts.
func TestHistories(t *testing.T) { testHistories(t, options{}) }

// TestHistoriesWithSnapshots records histories in which processes make snapshots, which
// truncates the log, and begin with them.
func TestHistoriesWithSnapshots(t *testing.T) { testHistories(t, options{joining: true}) }

func testHistories(t *testing.T, o options) {
	for i := range uint64(*histories) {
		seed := *firstSeed + i
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rates := memlog.Rough
				rates.Slow, rates.Latency = 0.3, 50*time.Millisecond
				random := memlog.Random(seed, rates)
				o.plan = func(c memlog.Call) memlog.Fault {
					// A snapshot is many calls, of which most must succeed.
					if c.Op >= memlog.OpPutFile && c.Number%8 != 0 {
						return memlog.Fault{}
					}
					return random(c)
				}
				w := newWorld(t, nodes, o)
				defer w.close()
				run := w.run(seed, steps)
				if err := run.recorder.Check(); err != nil {
					t.Error(err)
				}
				if err := w.settle(); err != nil {
					t.Fatal(err)
				}
				if err := run.verify(w); err != nil {
					t.Error(err)
				}
				done, unknown := run.recorder.Count(history.Done), run.recorder.Count(history.Unknown)
				first, _, err := w.servers.Client("setup").Bounds(t.Context())
				t.Logf("%d operations done, %d refused, %d unknown; %d calls of the log, %d kills, %d cuts, %d snapshots, "+
					"%d rejoins; the log begins at %d (%v)", done, run.recorder.Count(history.Refused), unknown, w.servers.Calls(),
					w.kills, w.cuts, w.snapshots, w.rejoins, first, err)
				if done < clients*steps/4 {
					t.Errorf("only %d operations were done: the history shows nothing", done)
				}
			})
		})
	}
}

// run is the work of the clients of one history.
type run struct {
	recorder history.Recorder
	clients  []*client
	next     atomic.Uint64
}

// client adds a client.
func (r *run) client(w *world, seed uint64) *client {
	n := len(r.clients)
	c := &client{world: w, number: n, random: rand.New(rand.NewPCG(seed, uint64(n))), recorder: &r.recorder,
		next: &r.next, outcomes: map[uint64]outcome{}, versions: map[string]uint64{}}
	r.clients = append(r.clients, c)
	return c
}

// run lets clients do a number of steps each, while processes are killed and cut off.
func (w *world) run(seed uint64, steps int) *run {
	out := &run{}
	var work sync.WaitGroup
	for range clients {
		c := out.client(w, seed)
		work.Go(func() {
			for range steps {
				c.step()
				time.Sleep(time.Duration(c.random.IntN(200)) * time.Millisecond)
			}
		})
	}
	ended := make(chan struct{})
	trouble := make(chan struct{})
	go func() {
		defer close(trouble)
		w.trouble(rand.New(rand.NewPCG(seed, 1<<32)), ended)
	}()
	work.Wait()
	close(ended)
	<-trouble
	return out
}

// trouble kills processes and cuts their connections until ended is closed.
func (w *world) trouble(r *rand.Rand, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-time.After(time.Duration(r.IntN(500)) * time.Millisecond):
		}
		p := w.processes[r.IntN(len(w.processes))]
		l := p.life.Load()
		length := time.Duration(r.IntN(6000)) * time.Millisecond
		if w.options.joining && r.IntN(2) == 0 {
			// A fault of the log may meet a snapshot. The next one takes its place.
			if _, err := l.member.Snapshot(l.ctx); err == nil {
				w.snapshots++
			}
			continue
		}
		switch r.IntN(4) {
		case 0:
			w.cuts++
			l.log.Cut()
			time.Sleep(length)
			l.log.Heal()
		case 1:
			w.cuts++
			l.log.Hang()
			time.Sleep(length)
			l.log.Heal()
		default:
			w.kills++
			if err := p.restart(r); err != nil {
				w.t.Error(err)
				return
			}
		}
	}
}

// settle ends all faults and brings all stores up to date.
func (w *world) settle() error {
	w.calm.Store(true)
	w.servers.DeliverLate()
	w.servers.RegainMajority()
	for _, p := range w.processes {
		l := p.life.Load()
		if l == nil {
			return fmt.Errorf("%s is down", p.name)
		}
		l.log.Heal()
	}
	// Entries that a process still has on its way arrive while the others wait.
	time.Sleep(time.Minute)
	for _, p := range w.processes {
		err := p.life.Load().store.Sync(context.Background())
		if w.options.joining && errors.Is(err, pebblestore.ErrRejoin) {
			// The log was truncated while the process was cut off. It ends, and joins again.
			w.rejoins++
			if err = p.restart(rand.New(rand.NewPCG(0, 0))); err == nil {
				err = p.life.Load().store.Sync(context.Background())
			}
		}
		if err != nil {
			return fmt.Errorf("Sync of %s: %w", p.name, err)
		}
	}
	return nil
}

// verify compares the stores with each other, and with the outcomes of the batches.
func (r *run) verify(w *world) error {
	var first string
	for _, p := range w.processes {
		s := p.life.Load().db
		if err := errors.Join(r.once(s), r.tied(s), r.measured(s)); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := s.Check(context.Background(), func(problem string) {
			w.t.Errorf("%s: check: %s", p.name, problem)
		}); err != nil {
			return err
		}
		got, err := dump.Of(context.Background(), s)
		if err != nil {
			return err
		}
		if first == "" {
			first = got
		} else if got != first {
			return fmt.Errorf("the stores of %s and %s differ: %s", w.processes[0].name, p.name, dump.Difference(first, got))
		}
	}
	return nil
}

// once checks that each batch is in the store as often as its outcome says, and that
// the sequence numbers have no gaps.
func (r *run) once(s store.Store) error {
	ctx := context.Background()
	leaves := map[string]int{}
	for i := range s.Log().Size() {
		leaf, err := s.Log().Leaf(i)
		if err != nil {
			return err
		}
		leaves[string(leaf)]++
	}
	seqs := map[string]store.Seq{}
	last := store.Seq(0)
	var gap error
	err := s.Changes(ctx, 0, func(c *store.Change) bool {
		if c.Seq != last && c.Seq != last+1 {
			gap = fmt.Errorf("no change between T %d and %d", last, c.Seq)
		}
		last, seqs[c.Ref.ID] = c.Seq, c.Seq
		return true
	})
	if err := errors.Join(err, gap); err != nil {
		return err
	}
	if last != s.LastSeq() {
		return fmt.Errorf("the last change has T %d, the store %d", last, s.LastSeq())
	}
	for _, c := range r.clients {
		for number, o := range c.outcomes {
			id := fmt.Sprintf("b%d", number)
			n := leaves[id]
			delete(leaves, id)
			switch {
			case n > 1:
				return fmt.Errorf("batch %d is stored %d times", number, n)
			case o.status == history.Done && n == 0:
				return fmt.Errorf("batch %d was acknowledged and is lost", number)
			case o.status == history.Done && seqs[id] != o.seq:
				return fmt.Errorf("batch %d was acknowledged with T %d and has T %d", number, o.seq, seqs[id])
			case o.status == history.Refused && n > 0:
				return fmt.Errorf("batch %d was refused and is stored", number)
			case (n == 1) != (seqs[id] != 0):
				return fmt.Errorf("batch %d is stored in part", number)
			}
		}
	}
	if len(leaves) > 0 {
		return fmt.Errorf("%d leaves are of no batch", len(leaves))
	}
	return nil
}

// measured checks that each sample was written by the commit that was acknowledged, and
// by no other one.
func (r *run) measured(s store.Store) error {
	for _, c := range r.clients {
		for _, m := range c.samples {
			for i := range m.columns.Len() {
				x := m.columns.At(i)
				key := stream(m.patient).Key(&x)
				ref := fhir.Ref{Type: "Observation", ID: key.ID()}
				for at, there := range map[store.Seq]bool{m.seq - 1: false, m.seq: true} {
					if at == 0 {
						continue
					}
					o, _, err := s.Read(context.Background(), ref, at)
					if got := err == nil && o.Version == 1; got != there {
						return fmt.Errorf("a sample written with T %d is there at T %d: %t", m.seq, at, got)
					}
				}
			}
		}
	}
	return nil
}

// tied checks that each disclosure was committed while the consent permitted it: the
// audit log and the consents agree in the order of T.
func (r *run) tied(s store.Store) error {
	for _, c := range r.clients {
		for _, d := range c.disclosures {
			x, _, err := s.Read(context.Background(), fhir.Ref{Type: "Consent", ID: d.patient}, d.seq)
			if err != nil {
				return err
			}
			if got := consentValue(x); got != history.Permit {
				return fmt.Errorf("a disclosure with T %d, at which the consent of %s is %q", d.seq, d.patient, got)
			}
		}
	}
	return nil
}
