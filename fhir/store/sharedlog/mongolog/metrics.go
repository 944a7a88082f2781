package mongolog

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir/store/sharedlog"
)

// meters holds the metrics of a log.
type meters struct {
	appends metric.Float64Histogram
	size    metric.Int64Histogram
	reads   metric.Float64Histogram
	entries metric.Int64Counter
	bytes   metric.Int64Counter
}

func newMeters() (*meters, error) {
	m := otel.Meter("pulsegate/fhir/store/sharedlog/mongolog")
	out := &meters{}
	var err error
	if out.appends, err = m.Float64Histogram("pulsegate.log.append.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of an Append, by outcome: stored, taken, refused or unknown"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5,
			10)); err != nil {
		return nil, err
	}
	if out.size, err = m.Int64Histogram("pulsegate.log.append.size", metric.WithUnit("By"),
		metric.WithDescription("Size of the rows of an entry"),
		metric.WithExplicitBucketBoundaries(256, 1<<10, 4<<10, 16<<10, 64<<10, 256<<10, 1<<20, 4<<20,
			16<<20)); err != nil {
		return nil, err
	}
	if out.reads, err = m.Float64Histogram("pulsegate.log.look.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of a query for the entries after a position"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5,
			10)); err != nil {
		return nil, err
	}
	if out.entries, err = m.Int64Counter("pulsegate.log.read.entries", metric.WithUnit("{entry}"),
		metric.WithDescription("Entries read")); err != nil {
		return nil, err
	}
	if out.bytes, err = m.Int64Counter("pulsegate.log.read.size", metric.WithUnit("By"),
		metric.WithDescription("Size of the rows of the entries read")); err != nil {
		return nil, err
	}
	return out, nil
}

// appended records an Append.
func (m *meters) appended(ctx context.Context, size int, took time.Duration, err error) {
	outcome := "unknown"
	switch {
	case err == nil:
		outcome = "stored"
	case errors.Is(err, sharedlog.ErrTaken):
		outcome = "taken"
	case errors.Is(err, sharedlog.ErrTooLarge):
		outcome = "refused"
	}
	m.appends.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("outcome", outcome)))
	m.size.Record(ctx, int64(size))
}

// read records an entry that was read.
func (m *meters) read(ctx context.Context, size int) {
	m.entries.Add(ctx, 1)
	m.bytes.Add(ctx, int64(size))
}
