package audit

import (
	"context"
	"sync"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// gatherer puts the events of requests that wait at the same time into one
// batch: each request still waits until its own events are durable, but the
// store sees a commit for many of them.
type gatherer struct {
	store store.Store

	mu      sync.Mutex
	queue   []*pending
	flights int
}

// pending are the events of one request, until they are durable or refused.
type pending struct {
	writes []store.Write
	leaves []store.Leaf
	err    error
	done   chan struct{}
}

const (
	// flights under way at once. A second one could be built while the first is
	// on its way to the disk, but each would be half as large: with few callers
	// an fsync and its switches of threads cost more than all else.
	maxFlights = 1
	// maxFlight is how many events one batch takes.
	maxFlight = 512
)

// commit makes p durable with what else waits.
func (g *gatherer) commit(ctx context.Context, p *pending) error {
	if err := ctx.Err(); err != nil {
		return &fhir.Error{Kind: fhir.Unavailable, Op: "audit.Record", Err: err}
	}
	g.mu.Lock()
	g.queue = append(g.queue, p)
	start := g.flights < maxFlights
	if start {
		g.flights++
	}
	g.mu.Unlock()
	if start {
		go g.fly(context.WithoutCancel(ctx))
	}
	// Once in a batch its fate is awaited, for the caller must know it.
	<-p.done
	return p.err
}

// fly commits until nobody waits.
func (g *gatherer) fly(ctx context.Context) {
	for {
		// Yield once, so that requests about to enqueue events can join this
		// batch.
		yield.Now()
		ps := g.take()
		if ps == nil {
			return
		}
		var b store.Batch
		for _, p := range ps {
			b.Writes = append(b.Writes, p.writes...)
			b.Leaves = append(b.Leaves, p.leaves...)
		}
		_, err := g.store.Commit(ctx, &b)
		for _, p := range ps {
			p.err = err
			close(p.done)
		}
	}
}

// take is what goes into the next batch; nil ends the flight.
func (g *gatherer) take() []*pending {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, events := 0, 0
	for n < len(g.queue) && events < maxFlight {
		events += len(g.queue[n].writes)
		n++
	}
	if n == 0 {
		g.queue = nil
		g.flights--
		return nil
	}
	ps := g.queue[:n:n]
	g.queue = g.queue[n:]
	return ps
}
