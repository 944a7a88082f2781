package pebblestore

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// meters holds the metrics of a store.
type meters struct {
	commits metric.Int64Counter
	group   metric.Int64Histogram
	latency metric.Float64Histogram
	merges  metric.Int64Counter
	merged  metric.Int64Counter
	damage  metric.Int64Counter
	reg     metric.Registration
}

func newMeters(d *DB) (*meters, error) {
	m := otel.Meter("pulsegate/fhir/store/pebblestore")
	out := &meters{}
	var err error
	if out.commits, err = m.Int64Counter("pulsegate.store.commits", metric.WithUnit("{batch}"),
		metric.WithDescription("Batches by outcome: committed or the code of an OperationOutcome")); err != nil {
		return nil, err
	}
	if out.group, err = m.Int64Histogram("pulsegate.store.group.size", metric.WithUnit("{batch}"),
		metric.WithDescription("Batches that shared one fsync"),
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256)); err != nil {
		return nil, err
	}
	if out.latency, err = m.Float64Histogram("pulsegate.store.commit.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from the call of Commit to its result"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5)); err != nil {
		return nil, err
	}
	if out.merges, err = m.Int64Counter("pulsegate.store.series.compactions", metric.WithUnit("{series}"),
		metric.WithDescription("Series whose tails were merged")); err != nil {
		return nil, err
	}
	if out.merged, err = m.Int64Counter("pulsegate.store.series.rewritten", metric.WithUnit("{sample}"),
		metric.WithDescription("Samples that compactions rewrote")); err != nil {
		return nil, err
	}
	if out.damage, err = damageCounter(m); err != nil {
		return nil, err
	}
	waiting, err := m.Int64ObservableGauge("pulsegate.store.series.waiting", metric.WithUnit("{series}"),
		metric.WithDescription("Series that are queued or being compacted"))
	if err != nil {
		return nil, err
	}
	disk, err := m.Int64ObservableGauge("pulsegate.store.disk", metric.WithUnit("By"),
		metric.WithDescription("Bytes on disk"))
	if err != nil {
		return nil, err
	}
	free, err := m.Int64ObservableGauge("pulsegate.store.disk.free", metric.WithUnit("By"),
		metric.WithDescription("Free bytes of the file system that holds the store"))
	if err != nil {
		return nil, err
	}
	kept, err := m.Int64ObservableGauge("pulsegate.store.disk.reserve", metric.WithUnit("By"),
		metric.WithDescription("Free bytes below which writes are refused"))
	if err != nil {
		return nil, err
	}
	at, err := m.Int64ObservableGauge("pulsegate.store.commit.latest", metric.WithUnit("{commit}"),
		metric.WithDescription("Sequence number of the latest durable commit"))
	if err != nil {
		return nil, err
	}
	resources, err := m.Int64ObservableGauge("pulsegate.store.resources", metric.WithUnit("{resource}"),
		metric.WithDescription("Current resources, estimated"))
	if err != nil {
		return nil, err
	}
	out.reg, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		// Stats are empty if the store has stopped or is closed.
		if s := d.Stats(); s.Seq > 0 {
			o.ObserveInt64(disk, int64(s.DiskBytes))
			o.ObserveInt64(at, int64(s.Seq))
			o.ObserveInt64(resources, int64(s.Resources))
			o.ObserveInt64(waiting, int64(d.compactor.waiting()))
			if x := d.Space(); x.Known {
				o.ObserveInt64(free, int64(x.Free))
				o.ObserveInt64(kept, int64(x.Reserve))
			}
		}
		return nil
	}, disk, at, resources, waiting, free, kept)
	return out, err
}

// done records one answered Commit.
func (m *meters) done(ctx context.Context, since time.Time, err error) {
	outcome := "committed"
	if err != nil {
		outcome = fhir.KindOf(err).IssueCode()
	}
	ctx = context.WithoutCancel(ctx)
	m.commits.Add(ctx, 1, metric.WithAttributes(attribute.String("pulsegate.outcome", outcome)))
	m.latency.Record(ctx, time.Since(since).Seconds())
}

func (m *meters) compacted(ctx context.Context, x *tier.Compaction) {
	m.merges.Add(ctx, 1)
	m.merged.Add(ctx, int64(x.Read))
}
