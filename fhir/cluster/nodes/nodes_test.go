package nodes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
)

// state is small state in memory. Writes have no preconditions.
type state struct {
	store.State
	mu     sync.Mutex
	values map[string][]byte
	writes int
}

func (s *state) Commit(_ context.Context, b *store.Batch) (store.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	for _, w := range b.State {
		if s.values[w.Key] = w.Value; w.Value == nil {
			delete(s.values, w.Key)
		}
	}
	return store.Result{}, nil
}

func (s *state) List(_ context.Context, prefix string, fn func(string, []byte) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.values {
		if strings.HasPrefix(k, prefix) && !fn(k, v) {
			return nil
		}
	}
	return nil
}

// redis keeps beats in memory, without expiry.
type redis struct {
	mu     sync.Mutex
	values map[string][]byte
	down   bool
}

func (r *redis) Beat(_ context.Context, instance string, value []byte, life time.Duration) (map[string][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, errors.New("down")
	}
	if life > 0 {
		r.values[instance] = value
	} else {
		delete(r.values, instance)
	}
	return maps.Clone(r.values), nil
}

// world has processes with one small state and one Redis.
type world struct {
	clock *clocktest.Clock
	state *state
	redis *redis
}

func newWorld() *world {
	return &world{clocktest.At(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)), &state{values: map[string][]byte{}},
		&redis{values: map[string][]byte{}}}
}

func (w *world) registry(name string, beats Beats) *Registry {
	return New(Options{Self: func() Node { return Node{Name: name, Instance: "i-" + name} }, Beats: beats, State: w.state,
		Clock: w.clock.Now})
}

// names returns the names of the live processes that r lists.
func names(t *testing.T, r *Registry) string {
	t.Helper()
	list, err := r.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return strings.Join(out, " ")
}

func beat(t *testing.T, rs ...*Registry) {
	t.Helper()
	for _, r := range rs {
		if err := r.Beat(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNodes(t *testing.T) {
	for name, shared := range map[string]bool{"with Redis": true, "without Redis": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			var beats Beats
			if shared {
				beats = w.redis
			}
			a, b, c := w.registry("a", beats), w.registry("b", beats), w.registry("c", beats)
			if a.Live() != 1 || names(t, a) != "a" {
				t.Errorf("alone: %d, %s", a.Live(), names(t, a))
			}
			beat(t, a, b, c, a)
			if got := names(t, a); got != "a b c" || a.Live() != 3 {
				t.Errorf("live: %s, %d", got, a.Live())
			}
			// c is killed. In Redis, its value expires.
			for range 2 {
				w.clock.Add(5 * time.Second)
				beat(t, a, b)
			}
			if got := names(t, a); got != "a b c" {
				t.Errorf("after two intervals: %s", got)
			}
			delete(w.redis.values, "i-c")
			for range 3 {
				w.clock.Add(5 * time.Second)
				beat(t, b, a)
			}
			if got := names(t, a); got != "a b" || a.Live() != 2 {
				t.Errorf("after five intervals: %s, %d", got, a.Live())
			}
			// b ends.
			b.leave(t.Context())
			for range life {
				w.clock.Add(5 * time.Second)
				beat(t, a)
			}
			if got := names(t, a); got != "a" || a.Live() != 1 {
				t.Errorf("after b has ended: %s, %d", got, a.Live())
			}
			if shared != (w.state.writes == 0) {
				t.Errorf("%d writes of small state", w.state.writes)
			}
		})
	}
}

// TestRedisFails lets Redis fail and return. The processes are known all the time.
func TestRedisFails(t *testing.T) {
	w := newWorld()
	a, b := w.registry("a", w.redis), w.registry("b", w.redis)
	step := func(what string) {
		t.Helper()
		for range 10 {
			w.clock.Add(5 * time.Second)
			beat(t, a, b)
			if names(t, a) != "a b" || names(t, b) != "a b" || a.Live() != 2 || b.Live() != 2 {
				t.Fatalf("%s: %s, %d; %s, %d", what, names(t, a), a.Live(), names(t, b), b.Live())
			}
		}
	}
	beat(t, a, b)
	step("with Redis")
	w.redis.down = true
	step("while Redis is down")
	if w.state.writes != 20 {
		t.Errorf("%d writes of small state, want 20", w.state.writes)
	}
	w.redis.down = false
	step("with Redis again")
	w.redis.values = map[string][]byte{}
	step("after Redis was emptied")
	// One process cannot reach Redis.
	b.opts.Beats = &redis{down: true}
	beat(t, b, a)
	step("while one process cannot reach Redis")
	b.opts.Beats = w.redis
	step("when both reach Redis again")
	writes := w.state.writes
	step("later")
	if w.state.writes != writes {
		t.Errorf("%d rows written while both reach Redis", w.state.writes-writes)
	}
}

func TestNonsense(t *testing.T) {
	w := newWorld()
	a := w.registry("a", w.redis)
	for i, v := range []string{"", "{", `"x"`, `{"instance":"other"}`, strings.Repeat("x", maxValue+1), "null"} {
		w.redis.values[fmt.Sprint("r", i)] = []byte(v)
		w.state.values[fmt.Sprint("node/s", i)] = []byte(v)
	}
	w.state.values["node/"] = []byte("{}")
	beat(t, a)
	if got := names(t, a); got != "a" {
		t.Errorf("live: %s", got)
	}
	for i := range 3 * maxNodes {
		id := fmt.Sprint("many", i)
		w.redis.values[id] = fmt.Appendf(nil, `{"instance":%q}`, id)
	}
	if list, err := a.Nodes(t.Context()); err != nil || len(list) > maxNodes {
		t.Errorf("%d processes, %v", len(list), err)
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.registry("a", nil), w.registry("b", nil)
		a.opts.Clock, b.opts.Clock = time.Now, time.Now
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{}, 2)
		for _, r := range []*Registry{a, b} {
			go func() { r.Run(ctx); ended <- struct{}{} }()
		}
		time.Sleep(time.Minute) // of the bubble's clock
		synctest.Wait()
		if a.Live() != 2 || b.Live() != 2 {
			t.Errorf("live: %d, %d", a.Live(), b.Live())
		}
		cancel()
		<-ended
		<-ended
		if len(w.state.values) != 0 {
			t.Errorf("rows left: %v", w.state.values)
		}
	})
}

// TestBeating checks what a program without a store learns: the processes that Redis has
// heard of, without nonsense, and itself not among them.
func TestBeating(t *testing.T) {
	w := newWorld()
	beat(t, w.registry("b", w.redis), w.registry("a", w.redis))
	w.redis.values["odd"] = []byte("{")
	before := len(w.redis.values)
	list, err := Beating(t.Context(), w.redis)
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Name != "b" || len(w.redis.values) != before {
		t.Errorf("%+v, %v", list, err)
	}
	w.redis.down = true
	if _, err := Beating(t.Context(), w.redis); err == nil {
		t.Error("no error without Redis")
	}
}
