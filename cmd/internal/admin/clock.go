package admin

import (
	"context"
	"net/http"
	"time"
)

// Clock is the answer of `clock show` and `clock reset`.
type Clock struct {
	Clock time.Time `json:"clock"`
	// Mark is the latest time of an authenticated token request. While it
	// leads the clock, client assertions from before it are refused.
	Mark        time.Time `json:"mark"`
	LeadSeconds int64     `json:"leadSeconds"`
}

// Clocks are the operations on the clock of the token endpoint.
type Clocks interface {
	ShowClock(ctx context.Context, op Operator) (Clock, error)
	ResetClock(ctx context.Context, op Operator) (Clock, error)
}

func clocks(m *mux, s *Server, o Clocks) {
	get(m, s, "clock", func(ctx context.Context, op Operator, _ *http.Request) (Clock, error) {
		return o.ShowClock(ctx, op)
	})
	post(m, s, "clock/reset", func(ctx context.Context, op Operator, _ struct{}) (Clock, error) {
		return o.ResetClock(ctx, op)
	})
}
