package relay

import (
	"context"
	"maps"
	"slices"
	"sync"

	"pulsegate/fhir/store"
)

// watchers calls the watchers of a Store. The local store shows a commit before it
// calls its watchers, and the writer of a commit must be answered after that. The
// Store therefore calls them itself, and knows up to which commit it has.
type watchers struct {
	mu     sync.Mutex
	next   uint64
	fns    map[uint64]func(store.Commit)
	called store.Seq                             // watchers were called up to this commit
	waits  map[uint64]func(store.Seq) (end bool) // called when called changes
}

// start notes that commits up to at were shown before there were watchers.
func (w *watchers) start(at store.Seq) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.called = max(w.called, at)
}

// Watch implements store.Store.
func (s *Store) Watch(fn func(store.Commit)) (stop func()) {
	w := &s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.next
	w.next++
	w.fns[id] = fn
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.fns, id)
	}
}

// notify calls the watchers for a commit, in the order in which they were registered.
func (w *watchers) notify(c store.Commit) {
	w.mu.Lock()
	fns := make([]func(store.Commit), 0, len(w.fns))
	for _, id := range slices.Sorted(maps.Keys(w.fns)) {
		fns = append(fns, w.fns[id])
	}
	w.mu.Unlock()
	for _, fn := range fns {
		fn(c)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.called = max(w.called, c.Seq)
	for id, wait := range w.waits {
		if wait(w.called) {
			delete(w.waits, id)
		}
	}
}

// until returns a context that ends when the watchers were called up to a commit, or
// with ctx. The caller calls stop. until reports false if they were called already.
func (w *watchers) until(ctx context.Context, at store.Seq) (sub context.Context, stop func(), wait bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.called >= at {
		return ctx, func() {}, false
	}
	sub, cancel := context.WithCancel(ctx)
	id := w.next
	w.next++
	w.waits[id] = func(called store.Seq) bool {
		if called < at {
			return false
		}
		cancel()
		return true
	}
	return sub, func() {
		cancel()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waits, id)
	}, true
}

// reached reports whether the watchers were called up to a commit.
func (w *watchers) reached(at store.Seq) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.called >= at
}
