package ingest

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"pulsegate/fhir"
	"pulsegate/fhir/budget"
	"pulsegate/mapping"
)

// Run takes one payload in. What was committed before an error stays, and the
// summary counts it.
//
// Every run leaves an AuditEvent: with each commit, and one for its failure.
func (p *Pipeline) Run(ctx context.Context, q Request) (_ Summary, err error) {
	began := p.Clock()
	var r *delivery
	ctx, span := startSpan(ctx)
	defer func() { endSpan(span, r, err) }()
	if err = budget.Of(ctx).Grow(deliveryMemory); err != nil {
		return Summary{}, err
	}
	if r, err = p.begin(ctx, q); err != nil {
		return Summary{}, err
	}
	if err = r.payload(ctx); err != nil {
		err = r.recordFailure(ctx, err, "")
	}
	r.summary.Seconds = p.Clock().Sub(began).Seconds()
	if r.summary.ByMetric == nil {
		r.summary.ByMetric = map[string]Counts{}
	}
	return r.summary, err
}

// begin checks patient, vendor and consent; a refusal is in the audit trail.
func (p *Pipeline) begin(ctx context.Context, q Request) (*delivery, error) {
	r, err := p.prepare(ctx, q)
	if err != nil {
		return nil, p.recordRefusal(ctx, &q, err, "")
	}
	return r, nil
}

func (p *Pipeline) prepare(ctx context.Context, q Request) (*delivery, error) {
	a := p.adapter(q.Vendor)
	if a == nil {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "vendor is one of %s", p.vendors())
	}
	if !fhir.ValidID(q.Patient) {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "patient is no id")
	}
	pat, _, err := p.Store.Read(ctx, fhir.Ref{Type: "Patient", ID: q.Patient}, 0)
	if err != nil {
		return nil, fhir.Wrap("ingest.Run", err)
	}
	if pat.Deleted {
		return nil, fhir.Errorf(fhir.NotFound, "ingest.Run", "the patient is deleted")
	}
	r := &delivery{pipeline: p, request: q, adapter: a, limits: p.Limits.orDefault(), byID: map[string]int{},
		devices: map[string]*mapping.DeviceFacts{}, learned: map[string]bool{},
		categories: map[categoryPair]bool{}, rawItems: map[string]int{}, log: p.Logger}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if err := r.checkConsent(ctx); err != nil {
		return nil, err
	}
	if r.meters, err = newMeters(); err != nil {
		return nil, err
	}
	if p.Zone != nil {
		if r.zone, err = p.Zone(ctx, q.Patient); err != nil {
			return nil, fhir.Wrap("ingest.Run", err)
		}
	}
	return r, nil
}

// startSpan begins the span of one run. Vendor and format are set once they are
// known to be ours: what a caller may invent does not get in.
func startSpan(ctx context.Context) (context.Context, trace.Span) {
	return otel.Tracer(scopeName).Start(ctx, "ingest")
}

// endSpan ends it with the run's figures; of an error only its kind.
func endSpan(span trace.Span, r *delivery, err error) {
	if r != nil {
		span.SetAttributes(attribute.String("pulsegate.vendor", r.request.Vendor),
			attribute.String("pulsegate.ingest.format", r.format), attribute.Int("pulsegate.ingest.read", r.summary.Read),
			attribute.Int("pulsegate.ingest.created", r.summary.Created),
			attribute.Int("pulsegate.ingest.updated", r.summary.Updated),
			attribute.Int("pulsegate.ingest.quarantined", r.summary.Quarantined),
			attribute.Int("pulsegate.ingest.batches", r.commits))
	}
	if err != nil {
		span.SetStatus(codes.Error, fhir.KindOf(err).IssueCode())
	}
	span.End()
}
