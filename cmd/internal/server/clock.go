package server

import (
	"context"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/audit"
	"pulsegate/smart/oauth/token"
)

// clockInfo converts a mark for the command line.
func clockInfo(m token.Mark) admin.Clock {
	return admin.Clock{Clock: m.Clock, Mark: m.Mark,
		LeadSeconds: int64(m.Mark.Sub(m.Clock.Truncate(time.Second)) / time.Second)}
}

// ShowClock returns the clock and the mark of the token endpoint.
func (ops operations) ShowClock(ctx context.Context, op admin.Operator) (admin.Clock, error) {
	m, err := ops.oauth.tokens.Mark(ctx)
	if err != nil {
		return admin.Clock{}, err
	}
	return clockInfo(m), ops.record(ctx, ops.request(op), "clock show", "")
}

// ResetClock sets the mark back to the clock.
func (ops operations) ResetClock(ctx context.Context, op admin.Operator) (admin.Clock, error) {
	rq := ops.request(op)
	m, err := ops.oauth.tokens.ResetMark(ctx, audit.Event{Type: audit.Operator, Interaction: "clock-reset",
		Caller: rq.Caller})
	return clockInfo(m), err
}
