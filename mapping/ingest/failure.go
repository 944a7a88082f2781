package ingest

import (
	"context"
	"errors"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// auditTimeout limits the time in which a failure is recorded after the caller
// has gone.
const auditTimeout = 10 * time.Second

// Reasons of failures in the audit trail.
const (
	reasonNoConsent     = "no active consent for this vendor"
	reasonWithdrawn     = "the consent was withdrawn during the import"
	reasonNoScope       = "the token does not allow creating Observations"
	reasonUnreadable    = "the payload cannot be read"
	reasonTooLarge      = "the payload is over a limit"
	reasonUnknown       = "no such patient or vendor"
	reasonInterrupted   = "the import was interrupted"
	reasonFailed        = "the import failed"
	reasonNoAccess      = "the credential is missing, unknown or not valid here"
	reasonEnded         = "the credential ended during the import"
	reasonBadRetraction = "the retraction cannot be read"
)

// recordRefusal records a delivery that was refused before it began, and
// returns err.
func (p *Pipeline) recordRefusal(ctx context.Context, req *Request, err error, reason string) error {
	d := &delivery{pipeline: p, request: *req}
	if reason == "" {
		switch fhir.KindOf(err) {
		case fhir.Invalid, fhir.NotFound, fhir.Gone:
			reason = reasonUnknown
		case fhir.Forbidden:
			reason = reasonNoConsent
		}
	}
	return d.recordFailure(ctx, err, reason)
}

// recordFailure records that the delivery ended with err, and returns err.
// Earlier commits have their own events.
func (d *delivery) recordFailure(ctx context.Context, err error, reason string) error {
	eventType, outcome := audit.Ingest, audit.Minor
	derived := reasonUnreadable
	switch fhir.KindOf(err) {
	case fhir.Forbidden:
		eventType, outcome, derived = audit.IngestRefuse, audit.Serious, reasonWithdrawn
	case fhir.Unauthorized:
		eventType, outcome, derived = audit.IngestRefuse, audit.Serious, reasonEnded
	case fhir.TooLarge:
		derived = reasonTooLarge
	case fhir.Unavailable:
		derived = reasonInterrupted
	case fhir.Internal, fhir.NoSpace, fhir.Conflict, fhir.PreconditionFailed:
		outcome, derived = audit.Major, reasonFailed
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		outcome, derived = audit.Minor, reasonInterrupted
	}
	if reason == "" {
		reason = derived
	}
	event := d.auditEvent(eventType, outcome)
	event.Reason = reason
	if d.adapter != nil {
		event.Extra = append(event.Extra, [2]string{"vendor", d.request.Vendor})
	}
	if d.format != "" {
		event.Extra = append(event.Extra, [2]string{"format", d.format})
	}
	if d.digest != "" {
		event.Extra = append(event.Extra, [2]string{"payload-sha256-64k", d.digest})
	}
	// The failure is recorded even if the caller has gone.
	auditCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if auditErr := d.pipeline.Audit.Record(auditCtx, event); auditErr != nil {
		return fhir.Wrap("ingest.audit", errors.Join(auditErr, err))
	}
	return err
}
