package server

import (
	"context"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/audit"
	"pulsegate/smart/oauth/token"
)

func clockOf(m token.Mark) admin.Clock {
	return admin.Clock{Clock: m.Clock, Mark: m.Mark,
		LeadSeconds: int64(m.Mark.Sub(m.Clock.Truncate(time.Second)) / time.Second)}
}

// ShowClock tells the clock and the mark of the token endpoint.
func (o operator) ShowClock(ctx context.Context, op admin.Operator) (admin.Clock, error) {
	return clockOf(o.m.tokens.Mark()), o.record(ctx, o.request(op), "clock show", "")
}

// ResetClock puts the mark back to the clock.
func (o operator) ResetClock(ctx context.Context, op admin.Operator) (admin.Clock, error) {
	rq := o.request(op)
	m, err := o.m.tokens.ResetMark(ctx, audit.Event{Type: audit.Operator, Interaction: "clock-reset",
		Caller: rq.Caller})
	return clockOf(m), err
}
