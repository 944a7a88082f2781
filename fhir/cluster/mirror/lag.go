package mirror

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// lag tells for how long changes have waited to be copied.
type lag struct {
	mu      sync.Mutex
	waiting time.Time // of the first change since the last step began
	copying time.Time // of the first change that the step in progress copies
}

// changed records a change of the store.
func (l *lag) changed(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting.IsZero() {
		l.waiting = at
	}
}

// begin records that the changes so far are being copied.
func (l *lag) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.copying.IsZero() { // else they could not be copied before
		l.copying = l.waiting
	}
	l.waiting = time.Time{}
}

// done records that the changes before begin are copied.
func (l *lag) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.copying = time.Time{}
}

// at returns the time for which the oldest change has waited.
func (l *lag) at(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.copying
	if oldest.IsZero() {
		oldest = l.waiting
	}
	if oldest.IsZero() {
		return 0
	}
	return max(0, now.Sub(oldest))
}

// measure offers the lag as a metric until the result is called.
func (m *Mirror) measure() (end func()) {
	meter := otel.Meter("pulsegate/fhir/cluster/mirror")
	gauge, err := meter.Float64ObservableGauge("pulsegate.mirror.lag", metric.WithUnit("s"),
		metric.WithDescription("Time for which the oldest change has waited that the mirror does not show. "+
			"Only the server that fills the mirror reports it."))
	if err != nil {
		m.opts.Logger.Warn("the lag of the mirror is not measured", "error", err)
		return func() {}
	}
	r, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveFloat64(gauge, m.lag.at(m.opts.Clock()).Seconds())
		return nil
	}, gauge)
	if err != nil {
		m.opts.Logger.Warn("the lag of the mirror is not measured", "error", err)
		return func() {}
	}
	return func() {
		if err := r.Unregister(); err != nil {
			m.opts.Logger.Warn("the lag of the mirror is still measured", "error", err)
		}
	}
}
