package oracle

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// gate makes the background work of a server happen in one order. The follower
// of the change log sees commits only when they are released, one at a time;
// and the senders of notifications, which ask for their client's grant before
// each, wait there until it is the turn of that client.
type gate struct {
	mu        sync.Mutex
	moved     *sync.Cond
	fresh     []store.Seq // commits that are not done with yet
	changed   []store.Seq // commits that the follower has to look at
	released  store.Seq
	looks     int // of the follower at the change log
	following bool
	turn      string // client
	preparing bool   // exports may become complete
	poke      func(store.Commit)
}

func newGate() *gate {
	g := &gate{}
	g.moved = sync.NewCond(&g.mu)
	return g
}

// watch learns of the commits of a store. A store that was opened again has
// the old ones; where its follower goes on is read from its cursor.
func (g *gate) watch(db store.Store) {
	g.released = 0
	if v, err := db.Get(context.Background(), "subscription/cursor"); err == nil && v != nil {
		if n, err := strconv.ParseUint(string(v), 10, 64); err == nil {
			g.released = store.Seq(n)
		}
	}
	db.Watch(func(c store.Commit) {
		if len(c.Changes) > 0 || c.Samples > 0 {
			g.mu.Lock()
			g.fresh = append(g.fresh, c.Seq)
			g.mu.Unlock()
		}
	})
}

// publish moves on once the time of a commit has passed.
func (g *gate) publish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed, g.fresh = append(g.changed, g.fresh...), nil
}

// pass is where the grant of a client is asked for.
func (g *gate) pass(ctx context.Context, client string) {
	g.until(ctx, func() bool { return g.following || g.turn == client })
}

func (g *gate) until(ctx context.Context, ok func() bool) {
	defer context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.moved.Broadcast()
	})()
	g.mu.Lock()
	defer g.mu.Unlock()
	for !ok() && ctx.Err() == nil {
		g.moved.Wait()
	}
}

// followed is the store as the subscription engine sees it.
type followed struct {
	store.Store
	g *gate
}

func (f followed) Watch(fn func(store.Commit)) func() {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	f.g.poke = fn
	return func() {}
}

func (f followed) Changes(ctx context.Context, from store.Seq, fn func(*store.Change) bool) error {
	f.g.mu.Lock()
	f.g.looks++
	to := f.g.released
	f.g.mu.Unlock()
	f.g.moved.Broadcast()
	return f.Store.Changes(ctx, from, func(c *store.Change) bool { return c.Seq <= to && fn(c) })
}

func (f followed) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	for i := range b.State {
		if b.State[i].Key == "subscription/cursor" { // the end of a step: what follows is sending
			f.g.mu.Lock()
			f.g.following = false
			f.g.mu.Unlock()
		}
	}
	return f.Store.Commit(ctx, b)
}

// next is the first commit that is not released.
func (g *gate) next() (store.Seq, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.changed, func(t store.Seq) bool { return t > g.released })
	if i < 0 {
		return 0, false
	}
	return g.changed[i], true
}

// follow has the follower work on what is released until it is done: once it
// looks for the second time.
func (g *gate) follow(t store.Seq) {
	g.mu.Lock()
	g.released, g.following = t, true
	want := g.looks + 2
	for g.looks < want {
		poke := g.poke
		g.mu.Unlock()
		poke(store.Commit{Seq: t, Changes: []store.Change{{}}})
		time.Sleep(20 * time.Microsecond)
		g.mu.Lock()
	}
	g.following = false
	g.mu.Unlock()
}

// set changes whose turn it is.
func (g *gate) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	g.moved.Broadcast()
}

func (g *gate) take(client string) { g.set(func() { g.turn = client }) }

// prepared is the store as the exporter sees it: what it does in the background
// ends after the request that began it.
type prepared struct {
	store.Store
	g *gate
}

func (p prepared) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	for i := range b.State {
		if bytes.Contains(b.State[i].Value, []byte(`"state":"complete"`)) {
			p.g.until(ctx, func() bool { return p.g.preparing })
		}
	}
	return p.Store.Commit(ctx, b)
}

// patience is how long background work may take.
const patience = 20 * time.Second

func (w *world) wait(what string, ok func() bool) {
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s (tier: %v)", what, w.tier)
		}
	}
}

var (
	eventsIn = regexp.MustCompile(`"events":(\d+)`)
	statusIn = regexp.MustCompile(`"status":"(\w+)"`)
)

// subscribed is what settle knows of a Subscription.
type subscribed struct{ id, client string }

// statusOf is the stored status of a Subscription, "" of none.
func (w *world) statusOf(id string) string {
	r, _, err := w.db.Read(context.Background(), fhir.Ref{Type: "Subscription", ID: id}, 0)
	if err != nil || r.Deleted {
		return ""
	}
	if m := statusIn.FindSubmatch(r.JSON); m != nil {
		return string(m[1])
	}
	return ""
}

func (w *world) requested(s subscribed) bool { return w.statusOf(s.id) == "requested" }

// settle lets exports be prepared, changes be followed and notifications be
// sent until nothing is left to do.
func (w *world) settle(subs []subscribed) {
	w.advance(time.Second, 300*time.Millisecond) // more than a sender keeps its place in memory
	w.gate.set(func() { w.gate.preparing = true })
	defer w.gate.set(func() { w.gate.preparing = false })
	w.wait("exports prepared", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for k, v := range w.states {
			if strings.HasPrefix(k, "bulk/") && strings.Contains(v, `"state":"running"`) {
				return false
			}
		}
		return true
	})
	for {
		if t, ok := w.gate.next(); ok {
			w.release(t, subs)
			continue
		}
		if !slices.ContainsFunc(subs, w.requested) {
			return
		}
		w.wait("a handshake", func() bool { _, ok := w.gate.next(); return ok })
	}
}

// release has one commit followed, and its notifications sent client by client.
func (w *world) release(t store.Seq, subs []subscribed) {
	w.mu.Lock()
	before := w.ticks
	w.mu.Unlock()
	w.gate.follow(t)
	if slices.ContainsFunc(subs, w.requested) {
		w.mu.Lock()
		if w.ticks == before { // the handshake is due later than the change
			w.now = w.now.Add(time.Second)
		}
		w.mu.Unlock()
	}
	for _, s := range subs {
		if w.statusOf(s.id) != "active" {
			continue
		}
		m := eventsIn.FindStringSubmatch(w.state("subscription/" + s.id + "/head"))
		if m == nil || m[1] == "0" {
			continue
		}
		w.gate.take(s.client)
		w.wait(fmt.Sprintf("event %s of %s sent", m[1], s.id),
			func() bool { return w.state("subscription/"+s.id+"/sent") == m[1] })
		w.gate.take("")
	}
}
