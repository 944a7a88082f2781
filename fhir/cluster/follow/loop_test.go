package follow

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// trace runs a loop and returns the times of its steps in seconds. Each step returns the
// next of results. play sends to the loop's Wake.
func trace(t *testing.T, l Loop, results []any, play func(wake chan<- struct{})) (at []float64, failures int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{}, 1)
		l.Wake, l.Failed = wake, func(error) { failures++ }
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Run(ctx, func(context.Context) (next time.Duration, err error) {
				at = append(at, time.Since(began).Seconds())
				if len(results) > 0 {
					switch r := results[0].(type) {
					case error:
						err = r
					case time.Duration:
						next = r
					}
					results = results[1:]
				}
				return next, err
			})
		}()
		play(wake)
		<-done
	})
	return at, failures
}

func TestLoop(t *testing.T) {
	bad, ok := errors.New("failed"), time.Duration(0)
	once := func(wake chan<- struct{}) { Signal(wake) }
	burst := func(wake chan<- struct{}) {
		for range 5 {
			Signal(wake)
			time.Sleep(time.Second)
		}
	}
	backoff := Loop{MinBackoff: time.Second, MaxBackoff: 4 * time.Second}
	for name, c := range map[string]struct {
		loop     Loop
		results  []any
		play     func(chan<- struct{})
		want     []float64
		failures int
	}{
		"not woken":    {Loop{}, nil, func(chan<- struct{}) {}, nil, 0},
		"each wake":    {Loop{}, nil, burst, []float64{0, 1, 2, 3, 4}, 0},
		"delay":        {Loop{Delay: 10 * time.Second}, nil, burst, []float64{10, 20}, 0},
		"pause":        {Loop{Pause: 10 * time.Second}, nil, burst, []float64{0, 10}, 0},
		"next":         {Loop{Delay: 10 * time.Second}, []any{time.Minute, ok}, once, []float64{10, 70}, 0},
		"backoff":      {backoff, []any{bad, bad, bad, bad, ok}, once, []float64{0, 1, 3, 7, 11}, 4},
		"no wake then": {backoff, []any{bad, bad, bad}, burst, []float64{0, 1, 3, 7, 7}, 3},
		"again":        {backoff, []any{bad, time.Minute, bad, ok}, once, []float64{0, 1, 61, 62}, 2},
	} {
		at, failures := trace(t, c.loop, c.results, c.play)
		if !slices.Equal(at, c.want) || failures != c.failures {
			t.Errorf("%s: steps at %v with %d failures, want %v with %d", name, at, failures, c.want, c.failures)
		}
	}
}

// TestLoopEnds ends the context in each wait of a loop: Run returns, and neither calls
// step again nor reports its error.
func TestLoopEnds(t *testing.T) {
	for name, l := range map[string]Loop{"wake": {}, "delay": {Delay: 2 * time.Hour}, "pause": {Pause: 2 * time.Hour},
		"backoff": {MinBackoff: 2 * time.Hour}} {
		var results []any
		if name == "backoff" {
			results = []any{errors.New("failed")}
		}
		at, failures := trace(t, l, results, func(wake chan<- struct{}) { Signal(wake) })
		if len(at) > 1 || failures != len(results) {
			t.Errorf("%s: steps at %v, %d failures", name, at, failures)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		wake := make(chan struct{}, 1)
		Signal(wake)
		l := Loop{Wake: wake, Failed: func(err error) { t.Errorf("reported: %v", err) }}
		l.Run(ctx, func(ctx context.Context) (time.Duration, error) {
			cancel()
			return 0, ctx.Err()
		})
	})
}
