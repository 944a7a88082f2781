package pebblestore

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/sharedlog"
)

// Bounds of the delay of a group. A shorter one costs more than it saves.
const (
	minGather = 50 * time.Microsecond
	maxGather = 20 * time.Millisecond
)

// flight is a group on its way to the log. An Append that fails may have stored the
// entry, or may do so later. So the same entry is appended at the same place until it is
// durable there, or until another entry is (Log.Read): that one then keeps this one
// out for good. A flight built on one that is kept out can never become valid.
type flight struct {
	stage    *stage
	requests []*request
	entry    *sharedlog.Entry
	sum      sharedlog.Hash
	began    time.Time
	ticket   uint64 // the last one drawn before the first Append
	cancel   context.CancelFunc

	durable  bool // in the log
	applied  bool
	gone     bool // kept out, or given up
	taken    bool // another entry was seen at its place, which may not be durable
	troubled bool // the last Append failed without an outcome
}

// sent is the result of one Append.
type sent struct {
	flight *flight
	err    error
}

// launch sends a group on its way.
func (r *replica) launch(s *stage, reqs []*request) {
	at := r.db.position.Position
	if n := len(r.flights); n > 0 {
		f := r.flights[n-1]
		at = sharedlog.Position{Index: f.entry.Index, Valid: f.sum}
	}
	f := &flight{stage: s, requests: reqs}
	schema := s.schema
	if err := mark(s.batch, schema); err != nil {
		r.db.fail(err)
		r.backlog = append(r.backlog, work{requests: reqs}) // die answers them
		return
	}
	packed, err := r.codec.pack(s.batch.Repr())
	if err != nil {
		r.tooLarge(f)
		return
	}
	f.entry = &sharedlog.Entry{Index: at.Index + 1, Parent: at.Valid, Epoch: r.conf.Identity.Epoch,
		Schema: schema, Node: r.conf.Node, First: uint64(s.from.head.Seq) + 1,
		Count: uint64(s.meta.Seq - s.from.head.Seq), Touched: s.touchedGuards(), Rows: packed}
	if _, err := rand.Read(f.entry.Nonce[:]); err != nil {
		r.db.fail(err)
		r.backlog = append(r.backlog, work{requests: reqs}) // die answers them
		return
	}
	f.sum = f.entry.Sum()
	f.began, f.ticket = time.Now(), r.lastTicket()
	r.gatherFor(r.latency / time.Duration(r.conf.flights)) // the groups begin at equal distances
	r.flights = append(r.flights, f)
	if r.conf.broken.applyEarly {
		if err := r.apply(f); err != nil {
			r.db.stopped(err)
			return
		}
	}
	if r.conf.broken.answerEarly {
		r.answer(f.requests)
		f.requests = nil
	}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(r.ctx)
	r.calls.Add(1)
	go r.send(ctx, f)
}

// send appends the entry of a flight until its outcome is known or ctx ends.
func (r *replica) send(ctx context.Context, f *flight) {
	defer r.calls.Done()
	for wait := r.conf.limits.retry; ; wait = min(2*wait, r.conf.limits.maxRetry) {
		attempt, cancel := context.WithTimeout(ctx, r.conf.limits.attempt)
		err := r.conf.Log.Append(attempt, f.entry)
		cancel()
		select {
		case r.sent <- sent{f, err}:
		case <-ctx.Done():
			return
		}
		if err == nil {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// onSent takes the result of an Append.
func (r *replica) onSent(s sent) {
	f := s.flight
	if f.gone || f.applied && !r.conf.broken.applyEarly || r.dead {
		return
	}
	f.taken = false
	switch {
	case s.err == nil:
		f.durable, f.troubled = true, false
		if err := r.land(); err != nil {
			r.db.stopped(err)
		}
	case errors.Is(s.err, sharedlog.ErrTaken):
		f.taken, f.troubled, r.wanted, r.pause = true, false, true, nil
	case errors.Is(s.err, sharedlog.ErrTooLarge):
		at := r.place(f)
		r.abandon(at + 1)
		r.flights = r.flights[:at]
		r.tooLarge(f)
	case errors.Is(s.err, sharedlog.ErrEpoch):
		r.db.stopped(mustRejoin(s.err))
	case r.conf.broken.forget:
		r.abandon(r.place(f))
	default: // a look shows whether the entry is in the log
		f.troubled, r.wanted = true, true
	}
}

func (r *replica) place(f *flight) int {
	for i, x := range r.flights {
		if x == f {
			return i
		}
	}
	return len(r.flights)
}

// land applies the flights that are durable and whose places before are filled, and
// answers their requests.
func (r *replica) land() error {
	for len(r.flights) > 0 && r.flights[0].durable {
		f := r.flights[0]
		if fn := r.landed.Load(); fn != nil {
			(*fn)(f.entry)
		}
		if f.cancel(); !f.applied {
			if err := r.apply(f); err != nil {
				return err
			}
		}
		if r.flights = r.flights[1:]; len(r.flights) == 0 {
			r.notBefore = time.Time{}
		} else { // it was built on f, which now is part of the store
			next := r.flights[0].stage
			next.from.below = nil
			next.days.Over(nil)
		}
		r.latency += (time.Since(f.began) - r.latency) / 8
		r.meters.landed(time.Since(f.began))
		if len(f.requests) > 1 {
			r.gatherFor(r.latency / 8) // their writers may come back at once
		}
		r.answer(f.requests)
		r.confirm(f.ticket, f.began)
		if r.conf.Ring != nil {
			r.conf.Ring(f.entry.Index)
		}
	}
	return nil
}

// gatherFor delays the next group, so that requests that arrive together share one.
// Otherwise the first of them would take a place in the log alone, and the others would
// wait for the next one.
func (r *replica) gatherFor(wait time.Duration) {
	if wait = min(wait, maxGather); wait < minGather {
		return
	}
	if at := time.Now().Add(wait); at.After(r.notBefore) {
		r.notBefore = at
	}
}

// apply applies the rows of a flight, shows them, and calls the watchers.
func (r *replica) apply(f *flight) error {
	d := r.db
	at := d.position
	next, valid := at.Next(f.entry, f.sum)
	if at.Position = next; !valid {
		return fault.Refusal("an entry of this process does not follow the entries before it")
	}
	b := f.stage.batch
	if err := b.Set(keys.Position, at.Encode(), nil); err != nil {
		return err
	}
	if err := d.schemas.applied(b, f.entry); err != nil {
		return err
	}
	if err := d.apply(b); err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	d.position = at
	r.index.Store(at.Index)
	d.settle(f.stage)
	f.applied = true
	var commits []store.Commit
	if d.watched() {
		commits = commitsOf(f.requests)
	}
	v := d.newView()
	d.reads.Drop(f.stage.changed, v.group)
	d.publish(v)
	d.notify(commits)
	return nil
}

// ground ends the attempts of the flights from the i-th on, and returns them.
func (r *replica) ground(i int) []*flight {
	down := r.flights[min(i, len(r.flights)):]
	r.flights = r.flights[:len(r.flights)-len(down)]
	for _, f := range down {
		f.gone = true
		f.cancel()
		if f.applied {
			continue
		}
		if err := f.stage.batch.Close(); err != nil {
			r.db.fail(err)
		}
	}
	return down
}

// abandon gives up the flights from the i-th on, of which it is known that they are not
// and will not become valid, and builds their requests anew.
func (r *replica) abandon(i int) {
	var again []work
	for _, f := range r.ground(i) {
		r.meters.entries.Add(context.Background(), 1, r.meters.lost)
		again = append(again, work{requests: f.requests})
	}
	r.backlog = append(again, r.backlog...)
	r.release()
}

// tooLarge tries the requests of a group alone that the log refuses for its size. A
// request that is alone fails.
func (r *replica) tooLarge(f *flight) {
	f.gone = true
	if f.cancel != nil {
		f.cancel()
	}
	if err := f.stage.batch.Close(); err != nil {
		r.db.fail(err)
	}
	if len(f.requests) == 1 {
		r.fail(f.requests, fhir.Errorf(fhir.TooLarge, "pebblestore.Commit",
			"the batch is larger than the log of the cluster can store"))
		return
	}
	var alone []work
	for _, q := range f.requests {
		alone = append(alone, work{requests: []*request{q}})
	}
	r.backlog = append(alone, r.backlog...)
	r.release()
}
