package relay

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// meters counts commits by the process that committed them.
type meters struct{ commits metric.Int64Counter }

func newMeters() (meters, error) {
	c, err := otel.Meter("pulsegate/fhir/cluster/relay").Int64Counter("pulsegate.relay.commits",
		metric.WithUnit("{batch}"), metric.WithDescription("Batches by the process that committed them: "+
			"the sequencer, this process (here), or this process after the sequencer did not answer (repeated)"))
	return meters{c}, err
}

// The values of the attribute by.
var (
	bySequencer = metric.WithAttributeSet(attribute.NewSet(attribute.String("by", "sequencer")))
	byThis      = metric.WithAttributeSet(attribute.NewSet(attribute.String("by", "here")))
	byRepeating = metric.WithAttributeSet(attribute.NewSet(attribute.String("by", "repeated")))
)

// count counts a batch.
func (m meters) count(ctx context.Context, by metric.MeasurementOption) { m.commits.Add(ctx, 1, by) }
