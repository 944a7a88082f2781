package token

import (
	"context"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
)

// maxLead bounds how far the high-water mark may lead the clock. An assertion
// that was used before the clock went back has expired after that time, so a
// longer lead would only keep clients from tokens.
const maxLead = client.MaxLife + client.Skew

// Mark holds the clock and the high-water mark, with which assertions and codes
// are compared.
type Mark struct {
	Clock time.Time
	Mark  time.Time // the later of the clock and the latest authenticated request
}

// Now returns the time that never goes back: the later of the clock and the
// high-water mark. It does not move the mark, because unauthenticated requests
// call it. A mark that leads the clock by more than maxLead was set while a
// clock was wrong: it is lowered once, so that the clock passes it within that
// time. If the mark cannot be read, Now returns the latest time that it may have.
func (e *Endpoint) Now(ctx context.Context) time.Time {
	clock := e.opts.Clock().UTC()
	high, stored, err := e.readMark(ctx)
	if err != nil {
		e.opts.Logger.ErrorContext(ctx, "the mark cannot be read", "error", err)
		return clock.Add(maxLead)
	}
	lead := time.Duration(high-clock.Unix()) * time.Second
	switch {
	case lead <= 0:
		return clock
	case lead > maxLead:
		high = clock.Add(maxLead).Unix()
		e.lowerMark(ctx, stored, high, lead)
	case lead > client.Skew:
		e.opts.Logger.WarnContext(ctx, "the clock is behind the time of an earlier token", "seconds",
			int64(lead/time.Second))
	}
	return time.Unix(high, 0).UTC()
}

// readMark returns the mark, 0 if there is none, and its stored form.
func (e *Endpoint) readMark(ctx context.Context) (high int64, stored []byte, err error) {
	stored, err = e.opts.Store.Get(ctx, highWater)
	if err == nil && stored != nil {
		high, err = strconv.ParseInt(string(stored), 10, 64)
	}
	return high, stored, fhir.Wrap("token.readMark", err)
}

// lowerMark replaces a mark that leads the clock by lead. If another process or
// request has replaced it, lowerMark does nothing.
func (e *Endpoint) lowerMark(ctx context.Context, stored []byte, to int64, lead time.Duration) {
	w := markWrite(to)
	w.Expect, w.Old = store.StateEquals, stored
	err := e.setMark(context.WithoutCancel(ctx), w,
		audit.Event{Type: audit.Security, Interaction: "configuration"}, "clock-mark-lowered")
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return
	}
	e.opts.Logger.ErrorContext(ctx, "the clock went back; no assertion is accepted until it has passed the mark. If the clock is right now, `pulsegate clock reset` ends the wait",
		"went_back_seconds", int64(lead/time.Second), "wait_seconds", int64(maxLead/time.Second))
	if err != nil {
		e.opts.Logger.ErrorContext(ctx, "the lowered mark is not stored", "error", err)
	}
}

// setMark stores the mark together with its AuditEvent.
func (e *Endpoint) setMark(ctx context.Context, w store.StateWrite, ev audit.Event, change string) error {
	ev.Extra = append(ev.Extra, [2]string{"change", change})
	_, err := audit.Commit(ctx, e.opts.Store, e.opts.Audit, &store.Batch{State: []store.StateWrite{w}}, ev)
	return fhir.Wrap("token.setMark", err)
}

func markWrite(to int64) store.StateWrite {
	return store.StateWrite{Key: highWater, Value: strconv.AppendInt(nil, to, 10)}
}

// Mark returns the clock and the high-water mark.
func (e *Endpoint) Mark(ctx context.Context) (Mark, error) {
	t := e.opts.Clock().UTC()
	high, _, err := e.readMark(ctx)
	return Mark{Clock: t, Mark: time.Unix(max(high, t.Unix()), 0).UTC()}, err
}

// ResetMark sets the mark back to the clock, for an operator who knows that the
// clock is right. The event by names the operator and is committed with the
// mark. A jti that was used in the last day stays used.
func (e *Endpoint) ResetMark(ctx context.Context, by audit.Event) (Mark, error) {
	if err := e.setMark(ctx, markWrite(e.opts.Clock().Unix()), by, "clock-mark-reset"); err != nil {
		return Mark{}, err
	}
	return e.Mark(ctx)
}
