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
// call it. A mark that leads the clock by more than maxLead was set while the
// clock was wrong: it is lowered once, so that the clock passes it within that
// time.
func (e *Endpoint) Now(ctx context.Context) time.Time {
	clock := e.opts.Clock().UTC()
	e.mu.Lock()
	defer e.mu.Unlock()
	lead := time.Duration(e.high-clock.Unix()) * time.Second
	switch {
	case lead <= 0:
		return clock
	case lead > maxLead:
		e.high = clock.Add(maxLead).Unix()
		e.opts.Logger.ErrorContext(ctx, "the clock went back; no assertion is accepted until it has passed the mark. If the clock is right now, `pulsegate clock reset` ends the wait",
			"went_back_seconds", int64(lead/time.Second), "wait_seconds", int64(maxLead/time.Second))
		if err := e.setMark(context.WithoutCancel(ctx), e.high,
			audit.Event{Type: audit.Security, Interaction: "configuration"}, "clock-mark-lowered"); err != nil {
			e.opts.Logger.ErrorContext(ctx, "the lowered mark is not stored", "error", err)
		}
	case lead > client.Skew:
		e.opts.Logger.WarnContext(ctx, "the clock is behind the time of an earlier token", "seconds",
			int64(lead/time.Second))
	}
	return time.Unix(e.high, 0).UTC()
}

// advance moves the mark to the time of an authenticated request.
func (e *Endpoint) advance(t time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.high = max(e.high, t.Unix())
}

// setMark stores the mark together with its AuditEvent.
func (e *Endpoint) setMark(ctx context.Context, to int64, ev audit.Event, change string) error {
	ev.Extra = append(ev.Extra, [2]string{"change", change})
	_, err := audit.Commit(ctx, e.opts.Store, e.opts.Audit, &store.Batch{State: []store.StateWrite{markWrite(to)}}, ev)
	return fhir.Wrap("token.setMark", err)
}

func markWrite(to int64) store.StateWrite {
	return store.StateWrite{Key: highWater, Value: strconv.AppendInt(nil, to, 10)}
}

// Mark returns the clock and the high-water mark.
func (e *Endpoint) Mark() Mark {
	t := e.opts.Clock().UTC()
	e.mu.Lock()
	defer e.mu.Unlock()
	return Mark{Clock: t, Mark: time.Unix(max(e.high, t.Unix()), 0).UTC()}
}

// ResetMark sets the mark back to the clock, for an operator who knows that the
// clock is right. The event by names the operator and is committed with the
// mark. A jti that was used in the last day stays used.
func (e *Endpoint) ResetMark(ctx context.Context, by audit.Event) (Mark, error) {
	e.mu.Lock()
	t := e.opts.Clock().UTC()
	err := e.setMark(ctx, t.Unix(), by, "clock-mark-reset")
	if err == nil {
		e.high = t.Unix()
	}
	e.mu.Unlock()
	return e.Mark(), err
}
