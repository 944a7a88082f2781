package pebblestore

import (
	"errors"
	"time"

	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/sharedlog"
)

// maxAhead bounds the offered entries that are kept until those before them are applied.
const maxAhead = 64

// MaxOffer bounds the rows of an entry that Offer takes, in bytes.
const MaxOffer = 256 << 10

// offer is a call of Offer.
type offer struct {
	entry *sharedlog.Entry
	done  chan struct{}
}

// errDecode is the error of an entry that this program cannot apply. Nothing of it was
// applied.
type errDecode struct{ error }

// Unwrap returns the cause.
func (e errDecode) Unwrap() error { return e.error }

// Landed lets fn be called for each entry that this process has put into the log, in order,
// before this process shows it and answers its writers. The entry is durable, and builds on
// those before it. fn must be quick.
func (d *DB) Landed(fn func(*sharedlog.Entry)) {
	if d.replica != nil {
		d.replica.landed.Store(&fn)
	}
}

// Offer passes an entry of another process that is durable in the log, as that process
// says. It must come from a process of the cluster over an authenticated connection. If
// the entry is the next one and builds on the entries before it, the store applies and
// shows it, and calls the watchers, before Offer returns. Otherwise the store learns of
// the entry from the log. Offer does not replace a look at the log: Sync waits for one,
// and the next look verifies that the log has the entry.
func (d *DB) Offer(e *sharedlog.Entry) {
	r := d.replica
	if r == nil || len(e.Rows) > MaxOffer {
		return
	}
	o := &offer{e, make(chan struct{})}
	select {
	case r.offered <- o:
		<-o.done
	case <-d.done:
	}
}

func (r *replica) onOffered(o *offer) {
	defer close(o.done)
	e, at := o.entry, r.db.position.Index
	// An entry at the place of a group on its way is left to the log: to give a group up
	// takes more than what another process says.
	if r.dead || r.closed || len(r.flights) > 0 || e.Index <= at || e.Index-at > maxAhead ||
		e.Epoch != r.conf.Identity.Epoch || r.db.spaceSince(lookAtSpace).level() == over {
		return
	}
	r.ahead[e.Index] = logged{e, e.Sum()}
	r.wanted = r.wanted || e.Index > at+1 // for the entries between
	for r.applyOffer() {
	}
}

// applyOffer applies the offered entry at the next place, and reports whether there was
// one that follows the entries before it.
func (r *replica) applyOffer() bool {
	at := r.db.position.Position
	x, ok := r.ahead[at.Index+1]
	if !ok {
		return false
	}
	delete(r.ahead, x.entry.Index)
	if r.conf.broken.anyOffer {
		forged := *x.entry
		forged.Parent = at.Valid
		x.entry = &forged
	}
	if _, valid := at.Next(x.entry, x.sum); !valid {
		return false
	}
	var unknown errDecode
	switch err := r.applyAll([]logged{x}); {
	case err == nil:
		r.fed = time.Now()
		return true
	case errors.As(err, &unknown):
		r.wanted = true // the log decides
		r.db.opts.Logger.Warn("an entry that another process has offered was not applied", "error",
			fault.Describe(unknown.error))
	default:
		r.db.stopped(err)
	}
	return false
}

// forgetOffers drops the offered entries at places that were filled.
func (r *replica) forgetOffers() {
	for i := range r.ahead {
		if i <= r.db.position.Index {
			delete(r.ahead, i)
		}
	}
}
