package preferred

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// meters holds the instruments of an Engine.
type meters struct {
	values metric.Int64Counter
	lag    metric.Registration
}

func newMeters(e *Engine) (*meters, error) {
	meter := otel.Meter("pulsegate/mapping/preferred")
	values, err := meter.Int64Counter("pulsegate.preferred.values", metric.WithUnit("{value}"),
		metric.WithDescription("Preferred values written, including those that were retracted"))
	if err != nil {
		return nil, err
	}
	lag, err := meter.Float64ObservableGauge("pulsegate.preferred.lag", metric.WithUnit("s"),
		metric.WithDescription("Time since the first change that the preferred values do not reflect"))
	if err != nil {
		return nil, err
	}
	r, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveFloat64(lag, e.Lag().Seconds())
		return nil
	}, lag)
	return &meters{values, r}, err
}

func (m *meters) stop() { _ = m.lag.Unregister() } // never returns an error

// Lag returns the time since the first change that the preferred values do not reflect. It
// is 0 in a process that does not derive them.
func (e *Engine) Lag() time.Duration {
	f := e.role.Current()
	if f == nil {
		return 0
	}
	return f.lag.At(e.opts.Clock())
}
