package pushkey

import (
	"context"
	"crypto/rand"
	"net/http"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// competing is a store at which another process acts before the next commit.
type competing struct {
	store.State
	before      func()
	unprotected bool // a broken driver that ignores preconditions
}

func (c *competing) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f := c.before; f != nil {
		c.before = nil
		f()
	}
	for i := range b.State {
		if c.unprotected {
			b.State[i].Expect = store.StateAny
		}
	}
	return c.State.Commit(ctx, b)
}

// TestKeysOfTwoProcesses checks that a patient has no more keys than allowed if two
// processes make the last one at the same time, and that preconditions are necessary.
func TestKeysOfTwoProcesses(t *testing.T) {
	for _, unprotected := range []bool{false, true} {
		w := newWorld(t)
		for range maxKeys - 1 {
			w.ada()
		}
		st := &competing{State: w.Options.Store, before: func() { w.ada() }, unprotected: unprotected}
		other, err := New(Options{Store: st, Audit: w.Options.Audit, Clock: w.clock.Now, Rand: rand.Reader,
			Secure: func(*http.Request) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = other.Create(t.Context(), NewKey{Patient: "ada", Vendor: "apple"}, byPatient)
		if refused := err != nil && fhir.KindOf(err) == fhir.Conflict; refused == unprotected {
			t.Errorf("without preconditions %v: %v", unprotected, err)
		}
	}
	w := newWorld(t)
	st := &competing{State: w.Options.Store, before: func() { w.ada() }}
	other, err := New(Options{Store: st, Audit: w.Options.Audit, Clock: w.clock.Now, Rand: rand.Reader,
		Secure: func(*http.Request) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Create(t.Context(), NewKey{Patient: "ada", Vendor: "apple"}, byPatient); err != nil {
		t.Errorf("two of the keys allowed: %v", err)
	}
}
