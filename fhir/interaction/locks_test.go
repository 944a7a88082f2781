package interaction

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestKeyed tests that readers share a key, a writer has it alone, different keys are
// independent, waiting ends with the context, and no entries are left.
func TestKeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k keyed
		get := func(ctx context.Context, keys ...lockKey) chan func() {
			got := make(chan func(), 1)
			go func() {
				release, err := k.lock(ctx, keys)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					close(got)
					return
				}
				got <- release
			}()
			synctest.Wait()
			return got
		}
		held := func(c chan func()) bool { return len(c) == 1 }
		bg := context.Background()
		a, b := get(bg, lockKey{"x", true}, lockKey{"y", true}), get(bg, lockKey{"x", true})
		if !held(a) || !held(b) {
			t.Fatal("readers do not share")
		}
		ctx, cancel := context.WithCancel(bg)
		w, later, other := get(ctx, lockKey{"a", false}, lockKey{"x", false}), get(bg, lockKey{"a", false}),
			get(bg, lockKey{"z", false}, lockKey{"z", true})
		if held(w) || held(later) || !held(other) {
			t.Fatal("a writer beside readers, its first key given away, or a key that nobody has not given")
		}
		cancel()
		synctest.Wait()
		if _, ok := <-w; ok || !held(later) {
			t.Fatal("waiting did not end with the context, or what was held was not released")
		}
		again := get(bg, lockKey{"x", false})
		(<-a)()
		synctest.Wait()
		if held(again) {
			t.Fatal("a writer beside a reader")
		}
		(<-b)()
		synctest.Wait()
		if !held(again) {
			t.Fatal("the writer is forgotten")
		}
		for _, c := range []chan func(){again, later, other} {
			(<-c)()
		}
		if n := k.inUse(); n != 0 {
			t.Errorf("%d keys are left", n)
		}
	})
}

// TestKeyedNeverWaitsForItself tests that concurrent requests for any sets of keys, in
// any order, are all granted.
func TestKeyedNeverWaitsForItself(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var sets [][]lockKey
		for range rapid.IntRange(2, 8).Draw(r, "sets") {
			var keys []lockKey
			for range rapid.IntRange(1, 6).Draw(r, "keys") {
				keys = append(keys, lockKey{fmt.Sprint(rapid.IntRange(0, 4).Draw(r, "key")),
					rapid.Bool().Draw(r, "shared")})
			}
			sets = append(sets, keys)
		}
		synctest.Test(t, func(t *testing.T) { // a deadlock fails the bubble
			var k keyed
			done := make(chan error, len(sets))
			for _, keys := range sets {
				go func() {
					release, err := k.lock(context.Background(), keys)
					if err == nil {
						time.Sleep(time.Second) // of the bubble: all others run or wait
						release()
					}
					done <- err
				}()
			}
			for range sets {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if n := k.inUse(); n != 0 {
				t.Errorf("%d keys are left", n)
			}
		})
	})
}
