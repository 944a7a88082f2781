package interaction

import (
	"context"
	"errors"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// event returns the common part of the events of rq. Reading AuditEvents has its
// own event type.
func (rq *Request) event(interaction, typ string) audit.Event {
	ev := audit.Event{Type: audit.Rest, Interaction: interaction, Caller: rq.Caller}
	if typ == "AuditEvent" && (interaction == "read" || interaction == "vread" || interaction == "search-type" ||
		interaction == "history-instance" || interaction == "history-type") {
		ev.Type = audit.AuditRead
	}
	return ev
}

func outcomeOf(err error) (outcome, reason string) {
	switch fhir.KindOf(err) {
	case fhir.Unauthorized:
		return audit.Serious, "no valid access token"
	case fhir.Forbidden:
		return audit.Serious, "not covered by scope or consent"
	case fhir.NotFound:
		return audit.Minor, "absent or hidden"
	case fhir.Gone:
		return audit.Minor, "deleted"
	case fhir.Invalid, fhir.Unprocessable, fhir.Unsupported, fhir.TooLarge:
		return audit.Minor, "request breaks a rule"
	case fhir.NotAllowed:
		return audit.Minor, "interaction not offered"
	case fhir.Conflict, fhir.PreconditionFailed:
		return audit.Minor, "precondition or conflict"
	case fhir.TooMany, fhir.TooCostly:
		return audit.Minor, "over a limit"
	}
	return audit.Major, "server failure"
}

// refuse records a failed request and returns the error for the caller. If the
// audit trail cannot be written, that is the error.
func (s *Service) refuse(ctx context.Context, rq *Request, interaction string, ref fhir.Ref, cause error) error {
	evs, cause := refusal(rq, interaction, ref, cause)
	rq.wait(maxOutcome)
	// Record the request even if the caller has disconnected.
	if err := s.Audit.Record(context.WithoutCancel(ctx), evs...); err != nil {
		return errors.Join(err, cause)
	}
	return cause
}

// refusal returns the events of a failed request and the error for the caller. Resources
// that the error discloses are in separate events, one per patient, because the event of
// the request may contain its query, which may name other patients.
func refusal(rq *Request, interaction string, ref fhir.Ref, cause error) ([]audit.Event, error) {
	ev := rq.event(interaction, ref.Type)
	ev.Outcome, ev.Reason = outcomeOf(cause)
	var evs []audit.Event
	var t *errDisclosing
	if errors.As(cause, &t) {
		cause = t.cause
		if t.hidden {
			ev.Outcome, ev.Reason = audit.Serious, "hidden by scope or consent"
		}
		evs = append(evs, disclosureEvents(rq, interaction, t.seen)...)
		for i := range evs {
			evs[i].Outcome, evs[i].Reason = ev.Outcome, ev.Reason
		}
		evs = append(evs, (&disclosures{queries: t.queries}).events(rq, nil)...)
	}
	named := slices.ContainsFunc(evs, func(e audit.Event) bool {
		return slices.ContainsFunc(e.Data, func(d audit.DataRef) bool { return d.Ref == ref })
	})
	switch {
	case ref.ID == "":
		ev.Query = rq.Line
		evs = append(evs, ev)
	case !named:
		ev.Data = []audit.DataRef{{Ref: ref}}
		evs = append(evs, ev)
	}
	return evs, cause
}

// Refused records a request that failed before it reached an interaction, for
// example because of a missing token, an unknown path or an unreadable body. It
// returns the error for the caller.
func (s *Service) Refused(ctx context.Context, rq *Request, interaction string, ref fhir.Ref, cause error) error {
	return s.refuse(ctx, rq, interaction, ref, cause)
}

// disclose checks that the caller's grant is still valid, since the work may have
// taken long, and makes the events of an answer durable.
func (s *Service) disclose(ctx context.Context, rq *Request, evs ...audit.Event) error {
	if err := rq.Principal.Grant.Live(ctx); err != nil {
		return s.refuse(ctx, rq, evs[0].Interaction, fhir.Ref{}, err)
	}
	rq.wait(maxOutcome)
	return s.Audit.Record(ctx, evs...)
}

// commit adds the events to b and commits it.
func (s *Service) commit(ctx context.Context, rq *Request, b *store.Batch, evs ...audit.Event) (store.Result, error) {
	size := 0
	for i := range b.Writes {
		size += len(b.Writes[i].Resource.JSON)
	}
	for _, ev := range evs {
		access.Disclose(ctx, ev.Patient)
	}
	if err := audit.Append(s.Audit, b, evs...); err != nil {
		return store.Result{}, err
	}
	rq.wait(size)
	res, err := s.Store.Commit(ctx, b)
	if err == nil {
		access.Committed(ctx, uint64(res.Seq))
	}
	return res, err
}
