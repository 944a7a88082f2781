package memlog_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// rule is a way in which a writer deals with an append.
type rule string

const (
	sound rule = "repeats an entry until it or another one is durable in its place"
	// The others break the contract of Log.
	unknownFailed rule = "takes an unknown outcome for a failure"
	unknownStored rule = "takes an unknown outcome for success"
	takenLost     rule = "takes ErrTaken for the end, although the other entry may be rolled back"
)

// writer appends numbered values. It is the smallest process of a cluster.
type writer struct {
	rule    rule
	log     *memlog.Client
	name    uint64
	at      sharedlog.Position
	value   uint64           // the value that is written
	pending *sharedlog.Entry // on its way, nil if value must be written anew
	nonce   uint64
	stored  []uint64 // values that were acknowledged
}

// step makes one call.
func (w *writer) step(t *rapid.T) {
	if w.pending == nil {
		w.follow(t)
		w.nonce++
		w.pending = &sharedlog.Entry{Index: w.at.Index + 1, Parent: w.at.Valid,
			Rows: binary.BigEndian.AppendUint64(nil, w.name<<32|w.value)}
		binary.BigEndian.PutUint64(w.pending.Nonce[:], w.name)
		binary.BigEndian.PutUint64(w.pending.Nonce[8:], w.nonce)
		return
	}
	err := w.log.Append(t.Context(), w.pending)
	switch {
	case err == nil, w.rule == unknownStored && !errors.Is(err, sharedlog.ErrTaken):
		w.acknowledge()
	case errors.Is(err, sharedlog.ErrTaken):
		if w.rule == takenLost {
			w.pending = nil
		} else {
			w.follow(t)
		}
	case w.rule == unknownFailed:
		w.pending = nil
	}
}

func (w *writer) acknowledge() {
	w.stored = append(w.stored, w.name<<32|w.value)
	w.value++
	w.pending = nil
}

// follow reads to the end of the log, and learns what became of the entry on its way.
func (w *writer) follow(t *rapid.T) {
	err := w.log.Read(t.Context(), w.at, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		next, valid := w.at.Next(e, sum)
		if !valid {
			t.Fatalf("the entry at %d is void", e.Index)
		}
		w.at = next
		if w.pending != nil && w.pending.Index == e.Index {
			if w.pending.Nonce == e.Nonce {
				w.acknowledge()
			}
			w.pending = nil
		}
		return true
	})
	if err != nil && !errors.Is(err, memlog.ErrLost) {
		t.Fatal(err)
	}
}

// run lets writers write under faults, in an order drawn by rapid, and compares the log
// with what was acknowledged.
func run(t *rapid.T, r rule) error {
	cluster := memlog.New(memlog.Options{Plan: memlog.Random(rapid.Uint64().Draw(t, "seed"), memlog.Rough)})
	var writers []*writer
	for i := range uint64(3) {
		writers = append(writers, &writer{rule: r, log: cluster.Client(fmt.Sprint(i)), name: i})
	}
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, 2), 50, 300).Draw(t, "order") {
		writers[i].step(t)
	}
	cluster.DeliverLate()
	cluster.RegainMajority()
	count := map[uint64]int{}
	for attempt := 0; ; attempt++ {
		clear(count)
		err := cluster.Client(fmt.Sprint("reader", attempt)).Read(t.Context(), sharedlog.Position{},
			func(e *sharedlog.Entry, _ sharedlog.Hash) bool {
				count[binary.BigEndian.Uint64(e.Rows)]++
				return true
			})
		if err == nil {
			break
		}
	}
	for value, n := range count {
		if n > 1 {
			return fmt.Errorf("value %x is stored %d times", value, n)
		}
	}
	for _, w := range writers {
		for _, value := range w.stored {
			if count[value] == 0 {
				return fmt.Errorf("value %x was acknowledged and is not stored", value)
			}
		}
	}
	return nil
}

func TestWriters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := run(t, sound); err != nil {
			t.Fatal(err)
		}
	})
}

// TestWritersControl requires that the faults expose each wrong rule.
func TestWritersControl(t *testing.T) {
	for _, r := range []rule{unknownFailed, unknownStored, takenLost} {
		t.Run(string(r), func(t *testing.T) {
			// The generator is seeded, so that the control does not depend on chance.
			runs := rapid.Custom(func(t *rapid.T) error { return run(t, r) })
			for seed := range 500 {
				if runs.Example(seed) != nil {
					return
				}
			}
			t.Error("no run exposes the rule")
		})
	}
}
