package interaction

import (
	"context"
	"errors"
	"maps"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// event is the common part of every event of rq. Looks at the trail itself
// are of their own kind.
func (rq *Request) event(interaction, typ string) audit.Event {
	ev := audit.Event{Kind: audit.Rest, Interaction: interaction, Principal: rq.Principal, RemoteIP: rq.RemoteIP, RequestID: rq.RequestID}
	if typ == "AuditEvent" && (interaction == "read" || interaction == "vread" || interaction == "search-type" || interaction == "history-instance") {
		ev.Kind = audit.AuditRead
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

// errHidden marks a NotFound that the filter caused: the caller sees a plain
// 404, the trail a denial.
type errHidden struct {
	cause   error
	patient string
}

func (e *errHidden) Error() string { return e.cause.Error() }
func (e *errHidden) Unwrap() error { return e.cause }

// refuse records a request that failed and returns the error for the caller.
// When the trail cannot be written that becomes the answer.
func (s *Service) refuse(ctx context.Context, rq *Request, interaction string, ref fhir.Ref, cause error) error {
	ev := rq.event(interaction, ref.Type)
	ev.Outcome, ev.Reason = outcomeOf(cause)
	var h *errHidden
	if errors.As(cause, &h) {
		ev.Outcome, ev.Reason, ev.Patient = audit.Serious, "hidden by scope or consent", h.patient
		cause = h.cause
	}
	if ref.ID != "" {
		ev.Data = []audit.DataRef{{Ref: ref}}
	} else {
		ev.Query = rq.Line
	}
	// A caller who hung up has still asked.
	if err := s.Audit.Record(context.WithoutCancel(ctx), ev); err != nil {
		return errors.Join(err, cause)
	}
	return cause
}

// Refused records a request that failed before it reached an interaction:
// no token, an unknown path, a body that could not be read. It returns the
// error for the caller.
func (s *Service) Refused(ctx context.Context, rq *Request, interaction string, ref fhir.Ref, cause error) error {
	return s.refuse(ctx, rq, interaction, ref, cause)
}

// disclose makes the events of an answer durable, if the caller may still have
// it: the work may have taken long.
func (s *Service) disclose(ctx context.Context, rq *Request, evs ...audit.Event) error {
	if err := rq.Principal.Grant.Live(ctx); err != nil {
		return s.refuse(ctx, rq, evs[0].Interaction, fhir.Ref{}, err)
	}
	return s.Audit.Record(ctx, evs...)
}

// commit adds the events to b and makes all of it durable.
func (s *Service) commit(ctx context.Context, b *store.Batch, evs ...audit.Event) (store.Result, error) {
	for _, ev := range evs {
		w, l, err := s.Audit.Prepare(ev)
		if err != nil {
			return store.Result{}, err
		}
		b.Writes = append(b.Writes, w)
		b.Leaves = append(b.Leaves, l)
	}
	return s.Store.Commit(ctx, b)
}

// patientEvents are one event per patient, or a plain one.
func patientEvents(rq *Request, typ string, patients map[string]bool) []audit.Event {
	ev := rq.event("search-type", typ)
	ev.Query = rq.Line
	if len(patients) == 0 {
		return []audit.Event{ev}
	}
	evs := make([]audit.Event, 0, len(patients))
	for _, p := range slices.Sorted(maps.Keys(patients)) {
		ev.Patient = p
		evs = append(evs, ev)
	}
	return evs
}
