package subscription

import (
	"context"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// feed sends the events of one Subscription through one socket. It begins after the last
// event that a socket has acknowledged, so that a client that comes back gets what it has
// missed, as far as it is stored. Its fields belong to the goroutine of run.
type feed struct {
	session *session
	bond    *bond
	owner   string
	id      string
	// live, if set, returns an error if the access token by which the Subscription was bound
	// is no longer valid.
	live func(context.Context) error

	position uint64 // number of the last event that the peer acknowledged
	saved    uint64
	lastSave time.Time
	lastSent time.Time
	resend   string // the last request of $resend
}

// state returns what the store says of the Subscription now. It fails with NotFound if the
// owner has it no more.
func (f *feed) state(ctx context.Context) (header, error) {
	e := f.session.engine
	h, err := e.headerOf(ctx, f.owner, f.id)
	if err == nil {
		h.total, err = e.total(ctx, f.id)
	}
	if err == nil && (h.spec == nil || h.spec.Channel != websocket || h.status == "off") {
		err = fhir.Errorf(fhir.NotFound, "subscription.feed", "the Subscription is off")
	}
	return h, err
}

// handshake sends a handshake.
func (f *feed) handshake(ctx context.Context) error {
	h, err := f.state(ctx)
	if fhir.KindOf(err) == fhir.NotFound {
		return nil // run will end
	}
	if err != nil || h.spec.Topic == nil {
		return err
	}
	return f.notify(ctx, &h, "handshake", nil)
}

// run sends events until the bond expires, the Subscription ends or the socket fails. The
// first two are no errors.
func (f *feed) run(ctx context.Context) error {
	e := f.session.engine
	wake, stop := e.hub.listen()
	defer stop()
	var err error
	if f.position, _, err = e.acknowledged(ctx, f.id); err != nil {
		return err
	}
	if f.resend, err = f.requested(ctx); err != nil {
		return err
	}
	f.saved, f.lastSent = f.position, e.opts.Clock()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		f.save(end)
	}()
	for ctx.Err() == nil {
		wait, err := f.step(ctx)
		if fhir.KindOf(err) == fhir.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		f.session.mu.Lock()
		left := f.bond.expires.Sub(e.opts.Clock())
		f.session.mu.Unlock()
		if left <= 0 {
			return nil
		}
		if wait != 0 && !f.sleep(ctx, wake, min(wait, left)) {
			return nil
		}
	}
	return nil
}

func (f *feed) sleep(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-wake:
	case <-f.bond.changed:
	}
	return true
}

// requested returns the last request of $resend.
func (f *feed) requested(ctx context.Context) (string, error) {
	v, err := f.session.engine.opts.Store.Get(ctx, resendKey(f.id))
	return string(v), err
}

// step sends what is due and returns the time until the next step, or 0 to continue
// immediately.
func (f *feed) step(ctx context.Context) (time.Duration, error) {
	e := f.session.engine
	h, err := f.state(ctx)
	if err != nil {
		return 0, err
	}
	if h.status != "active" {
		return idle, nil
	}
	if r, err := f.requested(ctx); err != nil {
		return 0, err
	} else if r != f.resend {
		f.resend = r
		if p := strings.Fields(r); len(p) == 3 {
			from, _ := strconv.ParseUint(p[1], 10, 64)
			to, _ := strconv.ParseUint(p[2], 10, 64)
			for next := from; next > 0 && next <= to; {
				if next, err = f.deliver(ctx, &h, next, to); err != nil {
					return 0, err
				}
			}
		}
	}
	if f.position < h.total {
		next, err := f.deliver(ctx, &h, f.position+1, h.total)
		if err != nil {
			return 0, err
		}
		f.position = next - 1
		if e.opts.Clock().Sub(f.lastSave) >= saveInterval {
			f.save(ctx)
		}
		return 0, nil
	}
	wait := idle
	if h.spec.Heartbeat > 0 {
		if wait = f.lastSent.Add(h.spec.Heartbeat).Sub(e.opts.Clock()); wait <= 0 {
			return 0, f.notify(ctx, &h, "heartbeat", nil)
		}
	}
	if f.saved < f.position {
		if wait = min(wait, f.lastSave.Add(saveInterval).Sub(e.opts.Clock())); wait <= 0 {
			f.save(ctx)
			return 0, nil
		}
	}
	return wait, nil
}

// deliver sends one notification of events from first to last and returns the number of
// the next event. Events that are not stored any more are skipped; the gap in the numbers
// tells the client.
func (f *feed) deliver(ctx context.Context, h *header, first, last uint64) (next uint64, err error) {
	e := f.session.engine
	if err := e.opts.Store.Sync(ctx); err != nil {
		return 0, err
	}
	evs, err := e.events(ctx, f.id, first, int(min(last-first+1, uint64(h.spec.MaxCount))))
	if err != nil {
		return 0, err
	}
	if len(evs) == 0 || evs[0].Number > last {
		return last + 1, nil
	}
	if f.live != nil {
		if err := f.live(ctx); err != nil {
			return 0, ErrSocketRefused
		}
	}
	// A client that was disabled is cut off.
	if _, err := e.opts.GrantFor(ctx, f.owner); err != nil {
		return 0, ErrSocketRefused
	}
	items, err := e.disclosed(ctx, f.owner, h.spec, evs)
	if err != nil {
		return 0, err
	}
	if err := f.notify(ctx, h, "event-notification", items); err != nil {
		return 0, err
	}
	for i := range items {
		e.latency.Record(ctx, e.opts.Clock().Sub(items[i].At).Seconds())
	}
	return items[len(items)-1].Number + 1, nil
}

// notify records and sends one notification, and waits until the peer has it.
func (f *feed) notify(ctx context.Context, h *header, typ string, items []item) error {
	e := f.session.engine
	evs := sendings(f.owner, f.id, h.spec, typ, items)
	for i := range evs {
		evs[i].RemoteIP, evs[i].Recipient = f.session.remote, f.session.remote
	}
	if err := e.opts.Audit.Record(ctx, evs...); err != nil {
		return err
	}
	text := []byte("ping " + f.id)
	if h.spec.Topic != nil {
		of := *h
		of.notificationType = typ
		n, err := e.newNotice(&of, items)
		if err != nil {
			return err
		}
		text = n.bundle(nil, e.opts.Base)
	}
	e.attempts.Add(ctx, 1)
	f.lastSent = e.opts.Clock()
	return f.session.send(ctx, text)
}

// save makes the position durable, unless a socket of another process is ahead.
func (f *feed) save(ctx context.Context) {
	e := f.session.engine
	f.lastSave = e.opts.Clock()
	if f.saved >= f.position {
		return
	}
	n, old, err := e.acknowledged(ctx, f.id)
	if err != nil {
		return // the events are sent again
	}
	f.saved = f.position
	if n >= f.position {
		return
	}
	w := store.StateWrite{Key: socketKey(f.id), Value: strconv.AppendUint(nil, f.position, 10),
		Expect: store.StateAbsent}
	if old != nil {
		w.Expect, w.Old = store.StateEquals, old
	}
	if _, err := e.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}}); err != nil {
		f.saved = n
		if !store.Lost(err) && ctx.Err() == nil {
			e.opts.Logger.ErrorContext(ctx, "the position of a socket cannot be written", "subscription", f.id,
				"error", err)
		}
	}
}
