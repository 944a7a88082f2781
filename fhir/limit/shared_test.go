package limit

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/clocktest"
)

var start = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// server keeps shared buckets in memory, with the clock of the test.
type server struct {
	clock     *clocktest.Clock
	processes int

	mu      sync.Mutex
	buckets map[string]*bucket
	calls   int
	down    bool
	names   []string
}

func newServer(processes int) *server {
	return &server{clock: clocktest.At(start), processes: processes, buckets: map[string]*bucket{}}
}

func (s *server) Processes() int { return s.processes }

func (s *server) Take(name []byte, rate, size, n float64, extra int) (int, time.Duration, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.down {
		return 0, 0, false, errors.New("down")
	}
	b := s.buckets[string(name)]
	if b == nil {
		b = &bucket{left: size, at: s.clock.Now()}
		s.buckets[string(name)] = b
		s.names = append(s.names, string(name))
	}
	b.refill(s.clock.Now(), rate, size)
	if b.left < 1 {
		return 0, time.Duration((1 - b.left) / rate * float64(time.Second)), false, nil
	}
	if n == 0 {
		return 0, 0, true, nil
	}
	b.left -= n
	more := int(min(float64(extra), max(0, b.left)))
	b.left -= float64(more)
	return more, 0, true, nil
}

// TestSharedBurst takes from a bucket in several processes at one instant.
func TestSharedBurst(t *testing.T) {
	for _, tc := range []struct {
		rate, size int
		shared     bool
		want       int
	}{
		{5, 20, true, 20},
		{1000, 2000, true, 2000},
		{5, 20, false, 60}, // the control: three processes, each with the whole limit
	} {
		s := newServer(3)
		var all []*Buckets
		for range s.processes {
			b := NewBuckets(tc.rate, tc.size)
			if tc.shared {
				b.Share(s, "test")
			}
			all = append(all, b)
		}
		n := 0
		for i := range 4 * tc.want {
			if _, ok := all[i%len(all)].Take(Named("key"), s.clock.Now(), 1); ok {
				n++
			}
		}
		if n != tc.want {
			t.Errorf("rate %d, size %d, shared %v: %d tokens, want %d", tc.rate, tc.size, tc.shared, n, tc.want)
		}
	}
}

// TestSharedLimit draws requests at several processes, and checks that together
// they never get more than one bucket holds and earns.
func TestSharedLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newServer(rapid.IntRange(1, 4).Draw(t, "processes"))
		rate := rapid.SampledFrom([]int{1, 5, 100, 2000}).Draw(t, "rate")
		size := rate * rapid.IntRange(1, 3).Draw(t, "seconds")
		var all []*Buckets
		for range s.processes {
			all = append(all, NewBuckets(rate, size).Share(s, "test"))
		}
		taken := 0
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			s.clock.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			b := all[rapid.IntRange(0, len(all)-1).Draw(t, "process")]
			for range rapid.IntRange(1, 60).Draw(t, "requests") {
				if wait, ok := b.Take(Named("key"), s.clock.Now(), 1); ok {
					taken++
				} else if wait < 0 {
					t.Fatalf("refused with a wait of %v", wait)
				}
			}
		}
		most := float64(size) + s.clock.Now().Sub(start).Seconds()*float64(rate)
		if float64(taken) > most+1e-3 {
			t.Fatalf("%d tokens, at most %.3f", taken, most)
		}
	})
}

// TestShareWithoutServer checks that each process applies its share of the limit
// while the shared buckets cannot be reached.
func TestShareWithoutServer(t *testing.T) {
	s := newServer(4)
	s.down = true
	total := 0
	for range s.processes {
		b := NewBuckets(40, 80).Share(s, "test")
		for range 100 {
			if _, ok := b.Take(Named("key"), s.clock.Now(), 1); ok {
				total++
			}
		}
	}
	if total != 80 {
		t.Errorf("%d tokens in all processes, want 80", total)
	}
	// Every process can still do something if its share is less than one.
	s.processes = 100
	b := NewBuckets(1, 10).Share(s, "test")
	if _, ok := b.Take(Named("key"), s.clock.Now(), 1); !ok {
		t.Error("a share of less than one token allows nothing")
	}
	if wait, ok := b.Take(Named("key"), s.clock.Now(), 1); ok || wait != 100*time.Second {
		t.Errorf("the next token: %v, %v; want after 100 s", wait, ok)
	}
}

// TestSharedCalls checks that a busy endpoint, and a party that is refused, do not
// ask for each request.
func TestSharedCalls(t *testing.T) {
	s := newServer(2)
	l := New(Limits{Global: 4000, Remote: 2000, Shared: s, Name: "token"})
	for range 1000 {
		if _, ok := l.Admit("192.0.2.1", s.clock.Now()); !ok {
			t.Fatal("refused within the limit")
		}
	}
	// 20 and 40 tokens ahead, and the one asked for.
	if want := 1000/21 + 1 + 1000/41 + 1; s.calls != want {
		t.Errorf("%d calls for 1000 requests, want %d", s.calls, want)
	}
	k := Failing("192.0.2.1", "app")
	for range burstFailures {
		l.Failed(k, s.clock.Now())
	}
	if _, ok := l.MayFail(k, s.clock.Now()); ok {
		t.Error("failures beyond the limit")
	}
	s.calls = 0
	for range 100 {
		if wait, ok := l.MayFail(k, s.clock.Now()); ok || wait != 200*time.Millisecond {
			t.Fatalf("%v, %v; want a wait of 200 ms", wait, ok)
		}
	}
	if s.calls != 0 {
		t.Errorf("%d calls while the refusal is known", s.calls)
	}
	s.clock.Add(200 * time.Millisecond)
	if _, ok := l.MayFail(k, s.clock.Now()); !ok || s.calls != 1 {
		t.Errorf("after the wait: %v with %d calls", ok, s.calls)
	}
}

// TestSharedWait checks that the wait of a refusal that lasts longer than what a
// process keeps is reported in full.
func TestSharedWait(t *testing.T) {
	s := newServer(2)
	b := NewBuckets(1, 60).Share(s, "test")
	if _, ok := b.Take(Named("patient"), s.clock.Now(), 600); !ok {
		t.Fatal("refused")
	}
	for i := range 5 {
		now := s.clock.Add(700 * time.Millisecond)
		want := 541*time.Second - time.Duration(i+1)*700*time.Millisecond
		if wait, ok := b.Take(Named("patient"), now, 600); ok || wait.Round(time.Millisecond) != want {
			t.Errorf("%v, %v; want %v", wait, ok, want)
		}
	}
	// A clock that is set back delays no one beyond what the shared bucket says.
	s.mu.Lock()
	clear(s.buckets)
	s.mu.Unlock()
	if _, ok := b.Take(Named("patient"), start.Add(-time.Hour), 1); !ok {
		t.Error("refused after the clock was set back")
	}
}

func TestSharedNames(t *testing.T) {
	s := newServer(1)
	for _, name := range []string{"token", "authorize"} {
		l := New(Limits{Shared: s, Name: name})
		l.Admit("192.0.2.1", s.clock.Now())
		l.Failed(Failing("192.0.2.1", "app"), s.clock.Now())
		l.Record(s.clock.Now())
	}
	seen := map[string]bool{}
	for _, n := range s.names {
		seen[n] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d buckets, want 8: %q", len(seen), s.names)
	}
}

// TestSharedMemory checks that what a process keeps of shared buckets is bounded.
func TestSharedMemory(t *testing.T) {
	s := newServer(1)
	b := NewBuckets(1000, 1000).Share(s, "test")
	for i := range 3 * maxBuckets {
		b.Take(Named(fmt.Sprint(i)), s.clock.Now(), 1)
	}
	if n := len(b.shared.byKey); n != maxBuckets {
		t.Errorf("%d states, want %d", n, maxBuckets)
	}
	now := s.clock.Add(2 * keep)
	b.Take(Named("later"), now, 1)
	if n := len(b.shared.byKey); n != 1 {
		t.Errorf("%d states after those before have lost their use, want 1", n)
	}
}

func TestSharedConcurrently(t *testing.T) {
	s := newServer(2)
	l := New(Limits{Global: 1000, Remote: 1000, Shared: s, Name: "token"})
	var mu sync.Mutex
	admitted := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if _, ok := l.Admit("192.0.2.1", s.clock.Now()); ok {
					mu.Lock()
					admitted++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if admitted != 2000 {
		t.Errorf("%d admitted, want 2000", admitted)
	}
}
