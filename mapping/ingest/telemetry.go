package ingest

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
)

const scopeName = "pulsegate/mapping/ingest"

// meters holds the metrics of deliveries, by vendor and never by patient. The
// provider returns the same instruments to every delivery.
type meters struct {
	samples metric.Int64Counter
	leftOut metric.Int64Counter
	size    metric.Int64Histogram
	seconds metric.Float64Histogram
}

func newMeters() (m meters, err error) {
	meter := otel.Meter(scopeName)
	if m.samples, err = meter.Int64Counter("pulsegate.ingest.samples", metric.WithUnit("{sample}"),
		metric.WithDescription("Samples by vendor and outcome: read, created, updated, unchanged, quarantined, dropped, retracted")); err != nil {
		return m, fhir.Wrap("ingest.meters", err)
	}
	if m.leftOut, err = meter.Int64Counter("pulsegate.ingest.components.left_out", metric.WithUnit("{component}"),
		metric.WithDescription("Components that were left out of Observations, by vendor")); err != nil {
		return m, fhir.Wrap("ingest.meters", err)
	}
	if m.size, err = meter.Int64Histogram("pulsegate.ingest.batch.writes", metric.WithUnit("{resource}"),
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
		metric.WithDescription("Resources written by one commit, Provenance and AuditEvent included")); err != nil {
		return m, fhir.Wrap("ingest.meters", err)
	}
	if m.seconds, err = meter.Float64Histogram("pulsegate.ingest.batch.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		metric.WithDescription("From the question for consent to the acknowledged commit")); err != nil {
		return m, fhir.Wrap("ingest.meters", err)
	}
	return m, nil
}

// count adds the figures of one batch.
func (m *meters) count(ctx context.Context, vendor string, c Counts) {
	for _, o := range []struct {
		outcome string
		n       int
	}{{"read", c.Read}, {"created", c.Created}, {"updated", c.Updated}, {"unchanged", c.Unchanged},
		{"quarantined", c.Quarantined}, {"dropped", c.Dropped},
		{"retracted", c.Retracted}} {
		if o.n > 0 {
			m.samples.Add(ctx, int64(o.n),
				metric.WithAttributes(attribute.String("pulsegate.vendor", vendor),
					attribute.String("pulsegate.outcome", o.outcome)))
		}
	}
}

func (m *meters) countLeftOut(ctx context.Context, vendor string, n int) {
	if n > 0 {
		m.leftOut.Add(ctx, int64(n), metric.WithAttributes(attribute.String("pulsegate.vendor", vendor)))
	}
}
