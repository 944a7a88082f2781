package audit

import (
	"context"
	"sync"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// batcher commits the events of concurrent requests in one batch. Each request
// waits until its own events are durable, but many of them share a commit.
type batcher struct {
	store store.Store
	// limit bounds the concurrent commits. A second one on one disk could be built during
	// the fsync of the first, but the batches would be half as large, and with few callers
	// an fsync with its thread switches costs more than everything else. So it is 1 by
	// default.
	limit int

	mu      sync.Mutex // guards the following fields
	queue   []*pending
	running int // number of goroutines in run
}

// pending holds the events of one request. err is valid after done is closed.
type pending struct {
	writes []store.Write
	leaves []store.Leaf
	err    error
	done   chan struct{}
}

// maxBatch is the number of events after which a batch is full.
const maxBatch = 512

// commit makes p durable together with other waiting requests.
func (b *batcher) commit(ctx context.Context, p *pending) error {
	if err := ctx.Err(); err != nil {
		return &fhir.Error{Kind: fhir.Unavailable, Op: "audit.Record", Err: err}
	}
	b.mu.Lock()
	b.queue = append(b.queue, p)
	start := b.running < b.limit
	if start {
		b.running++
	}
	b.mu.Unlock()
	if start {
		go b.run(context.WithoutCancel(ctx))
	}
	// Do not return early when ctx ends: the caller must know whether the events
	// are durable.
	<-p.done
	return p.err
}

// run commits batches until the queue is empty.
func (b *batcher) run(ctx context.Context) {
	for {
		// Yield once, so that requests about to enqueue events can join this batch.
		yield.Now()
		ps := b.next()
		if ps == nil {
			return
		}
		var batch store.Batch
		for _, p := range ps {
			batch.Writes = append(batch.Writes, p.writes...)
			batch.Leaves = append(batch.Leaves, p.leaves...)
		}
		_, err := b.store.Commit(ctx, &batch)
		for _, p := range ps {
			p.err = err
			close(p.done)
		}
	}
}

// next removes the requests of the next batch from the queue. If the queue is
// empty, it returns nil and run must end.
func (b *batcher) next() []*pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, events := 0, 0
	for n < len(b.queue) && events < maxBatch {
		events += len(b.queue[n].writes)
		n++
	}
	if n == 0 {
		b.queue = nil
		b.running--
		return nil
	}
	ps := b.queue[:n:n]
	b.queue = b.queue[n:]
	return ps
}
