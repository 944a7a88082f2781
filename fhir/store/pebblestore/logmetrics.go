package pebblestore

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// logMeters holds the metrics of the log of a shared store.
type logMeters struct {
	entries metric.Int64Counter
	appends metric.Float64Histogram
	reg     metric.Registration

	own, foreign, void, lost metric.MeasurementOption
}

func newLogMeters(r *replica) (*logMeters, error) {
	m := otel.Meter("pulsegate/fhir/store/pebblestore")
	outcome := func(s string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("pulsegate.outcome", s)))
	}
	out := &logMeters{own: outcome("own"), foreign: outcome("foreign"), void: outcome("void"), lost: outcome("lost")}
	var err error
	if out.entries, err = m.Int64Counter("pulsegate.store.log.entries", metric.WithUnit("{entry}"),
		metric.WithDescription("Entries of the log: own and foreign ones that were applied, "+
			"void ones, and own ones that lost their place and were built again")); err != nil {
		return nil, err
	}
	if out.appends, err = m.Float64Histogram("pulsegate.store.log.append.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from the first Append of an entry until it was applied"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5)); err != nil {
		return nil, err
	}
	index, err := m.Int64ObservableGauge("pulsegate.store.log.index", metric.WithUnit("{entry}"),
		metric.WithDescription("Place in the log up to which the store shows it"))
	if err != nil {
		return nil, err
	}
	age, err := m.Float64ObservableGauge("pulsegate.store.log.age", metric.WithUnit("s"),
		metric.WithDescription("Time since the head of the log was confirmed"))
	if err != nil {
		return nil, err
	}
	out.reg, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		if !r.db.failed.Load() {
			o.ObserveInt64(index, int64(r.index.Load()))
			o.ObserveFloat64(age, r.idle().Seconds())
		}
		return nil
	}, index, age)
	return out, err
}

// landed records an own entry that was applied.
func (m *logMeters) landed(after time.Duration) {
	m.entries.Add(context.Background(), 1, m.own)
	m.appends.Record(context.Background(), after.Seconds())
}
