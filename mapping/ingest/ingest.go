package ingest

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"pulsegate/fhir"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/yield"
	"pulsegate/mapping"
)

// Run ingests one payload. Batches that were committed before an error are kept
// and counted in the summary.
//
// Every delivery leaves an AuditEvent with each commit, and one for its
// failure.
func (p *Pipeline) Run(ctx context.Context, req Request) (_ Summary, err error) {
	began := p.Clock()
	var d *delivery
	ctx, span := startSpan(ctx)
	defer func() { endSpan(span, d, err) }()
	if err = budget.Of(ctx).Grow(deliveryMemory); err != nil {
		return Summary{}, err
	}
	if d, err = p.begin(ctx, req); err != nil {
		return Summary{}, err
	}
	if w := req.Complete; w != nil {
		d.complete = &sweep{window: w, metrics: p.Mapper.TypesOf(d.request.Vendor, w.Types),
			at:     p.Store.LastSeq(),
			stated: &statements{}}
	}
	if err = d.payload(ctx); err != nil && !(errors.Is(err, errPartTaken) && !req.part.held) {
		err = d.recordFailure(ctx, err, "")
	}
	d.summary.Seconds = p.Clock().Sub(began).Seconds()
	if d.summary.ByMetric == nil {
		d.summary.ByMetric = map[string]Counts{}
	}
	return d.summary, err
}

// begin checks the vendor, the patient and the consent. A refusal is recorded
// in the audit trail.
func (p *Pipeline) begin(ctx context.Context, req Request) (*delivery, error) {
	d, err := p.prepare(ctx, req)
	if err != nil {
		return nil, p.recordRefusal(ctx, &req, err, "")
	}
	return d, nil
}

// prepare returns a delivery whose vendor, patient and consent have been
// checked.
func (p *Pipeline) prepare(ctx context.Context, req Request) (*delivery, error) {
	a := p.adapter(req.Vendor)
	if a == nil {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "vendor must be one of %s", p.vendors())
	}
	if !fhir.ValidID(req.Patient) {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "patient is not a valid id")
	}
	if err := req.Origin.check("ingest.Run"); err != nil {
		return nil, err
	}
	if w := req.Complete; w != nil {
		if err := w.check("ingest.Run"); err != nil {
			return nil, err
		}
	}
	req.Vendor = a.Vendor()
	erased, err := p.latestErasure(ctx, req.Patient, req.Vendor)
	if err != nil {
		return nil, err
	}
	pat, _, err := p.Store.Read(ctx, fhir.Ref{Type: "Patient", ID: req.Patient}, 0)
	if err != nil {
		return nil, fhir.Wrap("ingest.Run", err)
	}
	if pat.Deleted {
		return nil, fhir.Errorf(fhir.NotFound, "ingest.Run", "the patient is deleted")
	}
	d := &delivery{pipeline: p, request: req, adapter: a, erasure: erased,
		limits: p.Limits.orDefault(), byID: map[string]int{},
		pace:    yield.Counter{Every: yieldEvery},
		devices: map[string]*mapping.DeviceFacts{}, learned: map[string]bool{}, exemplars: map[string]bool{},
		categories: map[categoryPair]bool{}, rawItems: map[string]int{}, log: p.logger()}
	if err := d.checkConsent(ctx); err != nil {
		return nil, err
	}
	if d.meters, err = newMeters(); err != nil {
		return nil, err
	}
	if p.Zone != nil {
		if d.zone, err = p.Zone(ctx, req.Patient); err != nil {
			return nil, fhir.Wrap("ingest.Run", err)
		}
	}
	return d, nil
}

// startSpan starts the span of one delivery. The vendor and the format become
// attributes in endSpan, after they have been checked against the adapters, so
// that callers cannot add values of their choice to traces.
func startSpan(ctx context.Context) (context.Context, trace.Span) {
	return otel.Tracer(scopeName).Start(ctx, "ingest")
}

// endSpan ends the span with the figures of the delivery. It records only the
// kind of an error.
func endSpan(span trace.Span, d *delivery, err error) {
	if d != nil {
		span.SetAttributes(attribute.String("pulsegate.vendor", d.request.Vendor),
			attribute.String("pulsegate.ingest.format", d.format),
			attribute.Int("pulsegate.ingest.read", d.summary.Read),
			attribute.Int("pulsegate.ingest.created", d.summary.Created),
			attribute.Int("pulsegate.ingest.updated", d.summary.Updated),
			attribute.Int("pulsegate.ingest.quarantined", d.summary.Quarantined),
			attribute.Int("pulsegate.ingest.retracted", d.summary.Retracted),
			attribute.Int("pulsegate.ingest.batches", d.commits))
	}
	if err != nil {
		span.SetStatus(codes.Error, fhir.KindOf(err).IssueCode())
	}
	span.End()
}
