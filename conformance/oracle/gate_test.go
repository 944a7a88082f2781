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

// gate orders the background work of a server. The follower of the change log sees
// commits only when they are released, one at a time. The senders of notifications
// request the grant of their client before each notification, and wait there for the
// turn of that client.
type gate struct {
	mu        sync.Mutex // guards the fields below
	moved     *sync.Cond
	pending   []store.Seq // commits that are not published yet
	changed   []store.Seq // published commits with changes
	released  store.Seq   // the last commit that the follower may see
	reads     int         // number of reads of the change log by the follower
	following bool        // the follower works on the released commit
	turn      string      // client with the turn
	preparing bool        // exports may become complete
	notify    func(store.Commit)
}

func newGate() *gate {
	g := &gate{}
	g.moved = sync.NewCond(&g.mu)
	return g
}

// watch registers for the commits of a store. In a reopened store, the follower continues
// at its cursor.
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
			g.pending = append(g.pending, c.Seq)
			g.mu.Unlock()
		}
	})
}

// publish publishes the pending commits, once their time has passed.
func (g *gate) publish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed, g.pending = append(g.changed, g.pending...), nil
}

// waitTurn waits until the grant of a client may be compiled.
func (g *gate) waitTurn(ctx context.Context, client string) {
	g.until(ctx, func() bool { return g.following || g.turn == client })
}

// until waits until ok returns true or ctx ends.
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

// followed is the store for the subscription engine.
type followed struct {
	store.Store
	gate *gate
}

func (f followed) Watch(fn func(store.Commit)) func() {
	f.gate.mu.Lock()
	defer f.gate.mu.Unlock()
	f.gate.notify = fn
	return func() {}
}

func (f followed) Changes(ctx context.Context, from store.Seq, fn func(*store.Change) bool) error {
	f.gate.mu.Lock()
	f.gate.reads++
	to := f.gate.released
	f.gate.mu.Unlock()
	f.gate.moved.Broadcast()
	return f.Store.Changes(ctx, from, func(c *store.Change) bool { return c.Seq <= to && fn(c) })
}

func (f followed) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	for i := range b.State {
		if b.State[i].Key == "subscription/cursor" { // the follower is done, and sending begins
			f.gate.mu.Lock()
			f.gate.following = false
			f.gate.mu.Unlock()
		}
	}
	return f.Store.Commit(ctx, b)
}

// next returns the first commit that is not released.
func (g *gate) next() (store.Seq, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.changed, func(seq store.Seq) bool { return seq > g.released })
	if i < 0 {
		return 0, false
	}
	return g.changed[i], true
}

// follow releases the commits up to seq and waits until the follower has processed them,
// which it has when it reads the change log for the second time.
func (g *gate) follow(seq store.Seq) {
	g.mu.Lock()
	g.released, g.following = seq, true
	want := g.reads + 2
	for g.reads < want {
		notify := g.notify
		g.mu.Unlock()
		notify(store.Commit{Seq: seq, Changes: []store.Change{{}}})
		time.Sleep(20 * time.Microsecond)
		g.mu.Lock()
	}
	g.following = false
	g.mu.Unlock()
}

// set changes the state of the gate and wakes all that wait.
func (g *gate) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	g.moved.Broadcast()
}

// setTurn gives the turn to a client.
func (g *gate) setTurn(client string) { g.set(func() { g.turn = client }) }

// prepared is the store for the exporter. An export becomes complete only after the
// request that started it.
type prepared struct {
	store.Store
	gate *gate
}

func (p prepared) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	for i := range b.State {
		if bytes.Contains(b.State[i].Value, []byte(`"state":"complete"`)) {
			p.gate.until(ctx, func() bool { return p.gate.preparing })
		}
	}
	return p.Store.Commit(ctx, b)
}

// workTimeout bounds the time of background work.
const workTimeout = 2 * time.Minute

// wait waits until ok returns true.
func (w *world) wait(what string, ok func() bool) {
	for end := time.Now().Add(workTimeout); !ok(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			w.t.Fatalf("timeout: %s (tier: %v)", what, w.tier)
		}
	}
}

var (
	eventsIn = regexp.MustCompile(`"events":(\d+)`)
	statusIn = regexp.MustCompile(`"status":"(\w+)"`)
)

// subscribed is a Subscription of a client.
type subscribed struct{ id, client string }

// statusOf returns the stored status of a Subscription, or "".
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

// requested reports whether a Subscription waits for its handshake.
func (w *world) requested(s subscribed) bool { return w.statusOf(s.id) == "requested" }

// settle runs the background work, which prepares exports, follows changes and sends
// notifications, until none is left.
func (w *world) settle(subs []subscribed) {
	w.advance(time.Second, 300*time.Millisecond) // longer than senders keep their positions in memory
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
		if seq, ok := w.gate.next(); ok {
			w.release(seq, subs)
			continue
		}
		if !slices.ContainsFunc(subs, w.requested) {
			return
		}
		w.wait("a handshake", func() bool { _, ok := w.gate.next(); return ok })
	}
}

// release releases one commit and lets its notifications be sent client by client.
func (w *world) release(seq store.Seq, subs []subscribed) {
	w.mu.Lock()
	before := w.ticks
	w.mu.Unlock()
	w.gate.follow(seq)
	if slices.ContainsFunc(subs, w.requested) {
		w.mu.Lock()
		if w.ticks == before { // the handshake is later than the change
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
		w.gate.setTurn(s.client)
		w.wait(fmt.Sprintf("event %s of %s sent", m[1], s.id),
			func() bool { return w.state("subscription/"+s.id+"/sent") == m[1] })
		w.gate.setTurn("")
	}
}
