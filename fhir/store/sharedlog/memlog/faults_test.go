package memlog_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

func entry(index uint64, nonce byte) *sharedlog.Entry {
	return &sharedlog.Entry{Index: index, Nonce: [16]byte{nonce}, Rows: []byte{nonce, 1, 2, 3}}
}

// script is a Plan with the fault of the next call.
type script struct{ next atomic.Pointer[memlog.Fault] }

func (s *script) plan(memlog.Call) memlog.Fault {
	if f := s.next.Swap(nil); f != nil {
		return *f
	}
	return memlog.Fault{}
}

// world is a cluster with a script and two clients.
func world() (s *script, cluster *memlog.Cluster, a, b *memlog.Client) {
	s = &script{}
	cluster = memlog.New(memlog.Options{Plan: s.plan})
	return s, cluster, cluster.Client("a"), cluster.Client("b")
}

// nonces returns the nonces of the entries that a reads.
func nonces(t *testing.T, a *memlog.Client) []byte {
	t.Helper()
	var out []byte
	err := a.Read(t.Context(), sharedlog.Position{}, func(e *sharedlog.Entry, _ sharedlog.Hash) bool {
		out = append(out, e.Nonce[0])
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func expect(t *testing.T, a *memlog.Client, want ...byte) {
	t.Helper()
	if got := nonces(t, a); !bytes.Equal(got, want) {
		t.Errorf("the log has %v, want %v", got, want)
	}
}

func check(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

func TestLostRequest(t *testing.T) {
	s, _, a, b := world()
	s.next.Store(&memlog.Fault{LoseRequest: true})
	check(t, a.Append(t.Context(), entry(1, 1)), memlog.ErrLost)
	expect(t, b)
}

func TestLostAnswer(t *testing.T) {
	s, _, a, b := world()
	s.next.Store(&memlog.Fault{LoseAnswer: true})
	check(t, a.Append(t.Context(), entry(1, 1)), memlog.ErrLost)
	expect(t, b, 1)
	check(t, a.Append(t.Context(), entry(1, 1)), nil)
	check(t, a.Append(t.Context(), entry(2, 2)), nil)
	s.next.Store(&memlog.Fault{LoseAnswer: true})
	count := 0
	check(t, b.Read(t.Context(), sharedlog.Position{}, func(*sharedlog.Entry, sharedlog.Hash) bool {
		count++
		return true
	}), memlog.ErrLost)
	if count != 1 {
		t.Errorf("a Read with a lost answer delivered %d of 2 entries, want the first half", count)
	}
}

func TestLate(t *testing.T) {
	s, cluster, a, b := world()
	s.next.Store(&memlog.Fault{Late: 2})
	check(t, a.Append(t.Context(), entry(1, 1)), memlog.ErrLost)
	expect(t, b)
	expect(t, b, 1)

	// A late request finds its place taken.
	s.next.Store(&memlog.Fault{Late: 2})
	check(t, a.Append(t.Context(), entry(2, 2)), memlog.ErrLost)
	check(t, b.Append(t.Context(), entry(2, 3)), nil)
	expect(t, b, 1, 3)
	expect(t, b, 1, 3)

	s.next.Store(&memlog.Fault{Late: memlog.Never})
	check(t, a.Append(t.Context(), entry(3, 4)), memlog.ErrLost)
	for range 50 {
		expect(t, b, 1, 3)
	}
	cluster.DeliverLate()
	expect(t, b, 1, 3, 4)
}

func TestNoMajority(t *testing.T) {
	for _, rollBack := range []bool{false, true} {
		s, _, a, b := world()
		s.next.Store(&memlog.Fault{NoMajority: 3, RollBack: rollBack})
		check(t, a.Append(t.Context(), entry(1, 1)), memlog.ErrNoMajority)
		check(t, b.Append(t.Context(), entry(1, 2)), sharedlog.ErrTaken)
		check(t, b.Append(t.Context(), entry(2, 3)), memlog.ErrNoMajority)
		expect(t, b)
		if rollBack {
			expect(t, b)
			check(t, b.Append(t.Context(), entry(1, 2)), nil)
			expect(t, b, 2)
		} else {
			expect(t, b, 1, 3)
			check(t, a.Append(t.Context(), entry(1, 1)), nil)
		}
	}
}

// TestWaitForMajority lets calls wait while the servers have no majority.
func TestWaitForMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, cluster, a, b := world()
		cluster.LoseMajority()
		answers := make(chan error)
		appendLater := func(nonce byte) {
			go func() { answers <- a.Append(t.Context(), entry(1, nonce)) }()
			synctest.Wait()
			if !cluster.Holds(1) {
				t.Fatal("the entry was not stored")
			}
			select {
			case err := <-answers:
				t.Fatalf("Append without a majority returned %v", err)
			default:
			}
		}
		appendLater(1)
		expect(t, b)
		cluster.RollBack()
		check(t, <-answers, memlog.ErrNoMajority)
		expect(t, b)
		cluster.LoseMajority()
		appendLater(2)
		cluster.RegainMajority()
		check(t, <-answers, nil)
		expect(t, b, 2)
	})
}

func TestConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, a, b := world()
		a.Cut()
		check(t, a.Append(t.Context(), entry(1, 1)), memlog.ErrLost)
		check(t, b.Append(t.Context(), entry(1, 2)), nil)
		a.Heal()
		expect(t, a, 2)

		a.Hang()
		answer := make(chan error)
		go func() { answer <- a.Append(t.Context(), entry(2, 3)) }()
		synctest.Wait()
		expect(t, b, 2)
		a.Heal()
		check(t, <-answer, nil)
		expect(t, b, 2, 3)

		a.Hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		check(t, a.Append(ctx, entry(3, 4)), context.DeadlineExceeded)
		expect(t, b, 2, 3)
	})
}

// TestCutUnderWay cuts the connection after the servers have stored the entry.
func TestCutUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, a, b := world()
		s.next.Store(&memlog.Fault{Latency: 2 * time.Second})
		answer := make(chan error)
		go func() { answer <- a.Append(t.Context(), entry(1, 1)) }()
		time.Sleep(1500 * time.Millisecond)
		a.Cut()
		expect(t, b, 1)
		check(t, <-answer, memlog.ErrLost)
	})
}

func TestLatency(t *testing.T) {
	var slept []time.Duration
	sleep := func(_ context.Context, d time.Duration) error {
		slept = append(slept, d)
		return nil
	}
	cluster := memlog.New(memlog.Options{Latency: 10 * time.Millisecond, Sleep: sleep})
	check(t, cluster.Client("a").Append(t.Context(), entry(1, 1)), nil)
	if want := []time.Duration{5 * time.Millisecond, 5 * time.Millisecond}; !slices.Equal(slept, want) {
		t.Errorf("slept %v, want %v", slept, want)
	}
}

func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, a, b := world()
		held := make(chan struct{})
		s.next.Store(&memlog.Fault{Held: held})
		answer := make(chan error)
		go func() { answer <- a.Append(t.Context(), entry(1, 1)) }()
		synctest.Wait()
		expect(t, b)
		close(held)
		check(t, <-answer, nil)
		expect(t, b, 1)
	})
}

// TestRandom requires that faults depend on the seed only, and that all of them occur.
func TestRandom(t *testing.T) {
	rates := memlog.Rough
	rates.Slow, rates.Latency = 0.5, time.Second
	one, same, other := memlog.Random(1, rates), memlog.Random(1, rates), memlog.Random(2, rates)
	differ := 0
	var lostRequest, lostAnswer, late, noMajority, rollBack, slow bool
	for n := range uint64(1000) {
		call := memlog.Call{Client: "a", Number: n, Op: memlog.OpAppend}
		f := one(call)
		if f != same(call) {
			t.Fatalf("call %d has different faults under one seed", n)
		}
		if f != other(call) {
			differ++
		}
		lostRequest, lostAnswer = lostRequest || f.LoseRequest, lostAnswer || f.LoseAnswer
		late, noMajority = late || f.Late > 0, noMajority || f.NoMajority > 0
		rollBack, slow = rollBack || f.RollBack, slow || f.Latency > 0
	}
	if differ < 100 {
		t.Errorf("%d of 1000 calls have other faults under another seed", differ)
	}
	if !lostRequest || !lostAnswer || !late || !noMajority || !rollBack || !slow {
		t.Error("a kind of fault never occurs")
	}
}

// TestPutInterrupted loses requests in the middle of a Put. Nothing is listed, and the
// next Put goes on.
func TestPutInterrupted(t *testing.T) {
	var lost memlog.Op
	cluster := memlog.New(memlog.Options{Plan: func(c memlog.Call) memlog.Fault {
		return memlog.Fault{LoseRequest: c.Op == lost && c.Op != 0}
	}})
	snapshots := cluster.Client("a").Snapshots()
	content := []byte("content")
	m := &sharedlog.Manifest{Files: []sharedlog.File{{Name: "a", Sum: sha256.Sum256(content), Size: int64(len(content))}}}
	opened := 0
	open := func(sharedlog.File) (io.ReadCloser, error) {
		opened++
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	for _, op := range []memlog.Op{memlog.OpPutFile, memlog.OpPutManifest} {
		lost = op
		check(t, snapshots.Put(t.Context(), m, open), memlog.ErrLost)
		if list, err := snapshots.List(t.Context()); len(list) != 0 || err != nil {
			t.Errorf("%d snapshots and error %v after an interrupted Put", len(list), err)
		}
	}
	lost = 0
	check(t, snapshots.Put(t.Context(), m, open), nil)
	if list, err := snapshots.List(t.Context()); len(list) != 1 || err != nil || opened != 1 || cluster.Files() != 1 {
		t.Errorf("%d snapshots, error %v, %d files opened, %d stored", len(list), err, opened, cluster.Files())
	}
}

// TestLateAfterTruncation lets a request arrive at a place that was truncated.
func TestLateAfterTruncation(t *testing.T) {
	s, cluster, a, b := world()
	s.next.Store(&memlog.Fault{Late: memlog.Never})
	check(t, a.Append(t.Context(), entry(1, 9)), memlog.ErrLost)
	for i := range uint64(5) {
		check(t, b.Append(t.Context(), entry(i+1, byte(i))), nil)
	}
	check(t, b.Truncate(t.Context(), 4), nil)
	cluster.DeliverLate()
	if cluster.Holds(1) {
		t.Error("a truncated place was filled")
	}
	check(t, b.Read(t.Context(), sharedlog.Position{}, nil), sharedlog.ErrTruncated)
	if calls := cluster.Calls(); calls != 8 {
		t.Errorf("%d calls, want 8", calls)
	}
}
