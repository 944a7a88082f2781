package stores

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/conformance/cluster/history"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// control is a short history of two clients, at one process each, that shows a fault of
// the clients or of the store.
type control struct {
	rules  rules
	around func(l *life) store.Store
	// script does the operations. deaf lets the first process lose the answers of the
	// log.
	script func(one, two *client, deaf *atomic.Bool)
}

var controls = map[string]control{
	"read without Sync": {rules: rules{noSync: true}, script: func(one, two *client, _ *atomic.Bool) {
		one.update("resource", "a")
		two.read("resource")
	}},
	"disclosure without Sync": {rules: rules{noSync: true, noGuards: true}, script: func(one, two *client, _ *atomic.Bool) {
		one.decide("consent", history.Permit)
		two.world.catchUp()
		one.decide("consent", "deny")
		two.disclose("consent")
		two.disclose("consent")
	}},
	"unknown taken for failed": {rules: rules{unknownFailed: true},
		script: func(one, two *client, deaf *atomic.Bool) {
			deaf.Store(true)
			one.update("resource", "a")
			deaf.Store(false)
			two.read("resource")
		}},
	"sent again under another ID": {rules: rules{otherID: true}, script: func(one, two *client, deaf *atomic.Bool) {
		deaf.Store(true)
		// The client turns to the second process when the first does not answer.
		one.between = func() { one.at = two.at }
		one.decide("consent", "deny")
		deaf.Store(false)
		two.decide("consent", "deny")
	}},
	"refusal as of a stale head": {around: func(l *life) store.Store { return hasty{l.db} },
		script: func(one, two *client, _ *atomic.Bool) {
			one.update("resource", "a")
			two.versions["resource"] = 1
			two.update("resource", "b")
		}},
	"conditional create without a guard": {rules: rules{noGuards: true}, script: func(one, two *client, _ *atomic.Bool) {
		two.between = func() { one.create("criteria") }
		two.create("criteria")
		one.create("criteria")
	}},
	"disclosure without a guard": {rules: rules{noGuards: true}, script: func(one, two *client, _ *atomic.Bool) {
		one.decide("consent", history.Permit)
		two.between = func() { one.decide("consent", "deny") }
		two.disclose("consent")
	}},
	"samples without a probe": {rules: rules{blind: true}, script: func(one, two *client, _ *atomic.Bool) {
		one.measure(1, 0, 3)
		two.between = func() { one.measure(1, 3, 3) }
		two.measure(1, 2, 3)
	}},
	"watchers miss a withdrawal": {around: func(l *life) store.Store { return forgetful{l.db} },
		script: func(one, two *client, _ *atomic.Bool) {
			two.decide("consent", history.Permit)
			one.decide("consent", "deny")
			two.disclose("consent")
		}},
}

// hasty is a store that refuses updates as of the state that its process shows.
type hasty struct{ store.Store }

func (h hasty) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	for _, w := range b.Writes {
		heads, err := h.Heads(ctx, []fhir.Ref{{Type: w.Resource.Type, ID: w.Resource.ID}})
		if err != nil {
			return store.Result{}, err
		}
		if w.Expect == store.Version && heads[0].Version != w.IfVersion {
			return store.Result{}, fhir.Errorf(fhir.PreconditionFailed, "hasty.Commit", "another version")
		}
	}
	return h.Store.Commit(ctx, b)
}

// forgetful is a store whose watchers learn of its first commit only.
type forgetful struct{ store.Store }

func (f forgetful) Watch(fn func(store.Commit)) func() {
	var called bool
	return f.Store.Watch(func(c store.Commit) {
		if !called {
			fn(c)
		}
		called = true
	})
}

// catchUp brings all processes up to date.
func (w *world) catchUp() {
	for _, p := range w.processes {
		if err := p.life.Load().store.Sync(w.t.Context()); err != nil {
			w.t.Error(err)
		}
	}
}

// replay runs the script of a control and returns what the checks find.
func (c control) replay(t *testing.T, broken bool) (found error) {
	synctest.Test(t, func(t *testing.T) {
		var deaf atomic.Bool
		o := options{poll: time.Hour, plan: func(call memlog.Call) (f memlog.Fault) {
			if deaf.Load() && call.Client == "node-1.1" {
				f.LoseAnswer, f.LoseRequest = call.Op == memlog.OpAppend, call.Op != memlog.OpAppend
			}
			return f
		}}
		if broken {
			o.around = c.around
		}
		w := newWorld(t, 2, o)
		defer w.close()
		r := &run{}
		one, two := r.client(w, 1), r.client(w, 1)
		one.at, two.at = w.processes[0], w.processes[1]
		if broken {
			one.rules, two.rules = c.rules, c.rules
		}
		c.script(one, two, &deaf)
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		found = errors.Join(r.recorder.Check(), r.verify(w))
		if len(one.outcomes)+len(two.outcomes) == 0 {
			t.Error("the script commits nothing")
		}
	})
	return found
}

// TestControls requires that the checks find what is wrong in each history, and find
// nothing if the same clients keep the contract.
func TestControls(t *testing.T) {
	for name, c := range controls {
		t.Run(name, func(t *testing.T) {
			if c.replay(t, true) == nil {
				t.Error("the checks find nothing wrong")
			}
			if err := c.replay(t, false); err != nil {
				t.Errorf("the checks find in a history that keeps the contract: %v", err)
			}
		})
	}
}
