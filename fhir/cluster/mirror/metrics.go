package mirror

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

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
		o.ObserveFloat64(gauge, m.lag.At(m.opts.Clock()).Seconds())
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
