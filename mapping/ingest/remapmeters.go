package ingest

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
)

// remapMeters holds the metrics of jobs that map samples again, by vendor.
type remapMeters struct {
	observations metric.Int64Counter
	seconds      metric.Float64Histogram
}

func newRemapMeters() (m remapMeters, err error) {
	meter := otel.Meter(scopeName)
	if m.observations, err = meter.Int64Counter("pulsegate.ingest.remap.observations",
		metric.WithUnit("{observation}"), metric.WithDescription(
			"Observations mapped again by vendor and outcome: unchanged, changed, replaced, rejected, skipped")); err != nil {
		return m, fhir.Wrap("ingest.remapMeters", err)
	}
	if m.seconds, err = meter.Float64Histogram("pulsegate.ingest.remap.batch.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5),
		metric.WithDescription("Time to commit a batch of Observations mapped again")); err != nil {
		return m, fhir.Wrap("ingest.remapMeters", err)
	}
	return m, nil
}

// count adds the figures of a batch.
func (m *remapMeters) count(ctx context.Context, vendor string, part *RemapReport) {
	outcomes := map[string]int{}
	for _, c := range part.ByMetric {
		outcomes["unchanged"] += c.Unchanged
		outcomes["changed"] += c.Changed
		outcomes["replaced"] += c.Replaced
		for _, n := range c.Rejected {
			outcomes["rejected"] += n
		}
		for _, n := range c.Skipped {
			outcomes["skipped"] += n
		}
	}
	for outcome, n := range outcomes {
		if n > 0 {
			m.observations.Add(ctx, int64(n), metric.WithAttributes(attribute.String("pulsegate.vendor", vendor),
				attribute.String("pulsegate.outcome", outcome)))
		}
	}
}

func (m *remapMeters) duration(ctx context.Context, vendor string, took time.Duration) {
	m.seconds.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("pulsegate.vendor", vendor)))
}
