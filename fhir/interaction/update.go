package interaction

import (
	"context"
	"errors"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Update stores a new version of ref, or creates it under the id that the caller
// chose. Callers cannot choose ids of the form that the server assigns: ids of
// measurements are derived from their content, so creating under them would
// disclose what was measured.
func (s *Service) Update(ctx context.Context, rq *Request, ref fhir.Ref, body []byte,
	pre Preconditions) (Written, error) {
	const op = "interaction.Update"
	w, err := s.update(ctx, rq, op, ref, body, pre)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "update", ref, err)
	}
	return w, nil
}

func (s *Service) update(ctx context.Context, rq *Request, op string, ref fhir.Ref, body []byte,
	pre Preconditions) (Written, error) {
	if err := writable(rq, op, access.Update, ref.Type); err != nil {
		return Written{}, err
	}
	res, err := s.admit(op, ref, body, nil)
	if err == nil {
		err = s.refusePut(rq, op, ref.Type, body)
	}
	if err != nil {
		return Written{}, err
	}
	var w Written
	err = s.retry(ctx, func() error {
		w, err = s.updateOnce(ctx, rq, op, res, pre)
		return err
	})
	return w, err
}

// errRaced marks a commit that lost a race for a version, or whose guards were touched.
type errRaced struct{ cause error }

func (e *errRaced) Error() string { return e.cause.Error() }
func (e *errRaced) Unwrap() error { return e.cause }

func raced(err error) error {
	if k := fhir.KindOf(err); err != nil && (k == fhir.Conflict || k == fhir.PreconditionFailed) {
		return &errRaced{err}
	}
	return err
}

// retry repeats f while it loses races. Every write states the version on which it
// is based, because its audit event must name the new version, and the guards of what
// else it has read.
func (s *Service) retry(ctx context.Context, f func() error) error {
	var r *errRaced
	for attempt := 0; ; attempt++ {
		err := f()
		if !errors.As(err, &r) {
			return err
		}
		if attempt == retries || ctx.Err() != nil {
			return &fhir.Error{Kind: fhir.Conflict, Op: "interaction.retry", Err: r.cause, Issues: []fhir.Issue{{
				Severity: "error", Code: "conflict",
				Diagnostics: "other requests keep changing the same resources; try again"}}}
		}
	}
}

func (s *Service) updateOnce(ctx context.Context, rq *Request, op string, res fhir.Resource,
	pre Preconditions) (Written, error) {
	b := &store.Batch{Seen: s.Store.LastSeq()}
	old, err := s.current(ctx, res.Ref())
	if err != nil {
		return Written{}, err
	}
	d, err := s.draftUpdate(ctx, rq, op, res, old, pre)
	if err != nil {
		return Written{}, err
	}
	return s.write(ctx, rq, op, b, d, &disclosures{})
}

// draftUpdate checks the current version against the caller's grant and the
// preconditions. It treats a hidden version as absent in every step and refuses
// the write only at the end.
func (s *Service) draftUpdate(ctx context.Context, rq *Request, op string, res fhir.Resource, old *stored,
	pre Preconditions) (*draft, error) {
	concealed := old
	if seen, err := visible(rq, op, access.Update, old); err != nil {
		return nil, err
	} else if seen {
		concealed = nil
	} else {
		old = nil
	}
	err := pre.check(op, old)
	var d *draft
	if err == nil {
		d, err = s.draftPut(ctx, rq, op, res, old)
	}
	switch {
	case err != nil && concealed != nil:
		return nil, concealing(err, disclosedOf(concealed))
	case err != nil || old != nil:
		return d, err
	}
	switch given := generated(res.ID) && !rq.Principal.Grant.AllPatients; {
	case given:
		d.refusal = fhir.Errorf(fhir.NotFound, op,
			"the resource does not exist, and only the server assigns ids of this form; create it with POST, or choose another id")
		if concealed != nil {
			d.refusal = concealing(d.refusal, disclosedOf(concealed))
		}
	case concealed != nil:
		d.refusal = concealing(errHidden(op), disclosedOf(concealed))
	}
	return d, nil
}

// generated reports whether an id has the form that the server assigns: 26
// characters for created and ingested resources, 32 for samples of a series.
func generated(id string) bool {
	if len(id) != 26 && len(id) != 32 {
		return false
	}
	for i := 0; i < len(id); i++ {
		if c := id[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}
