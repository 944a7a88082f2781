package interaction

import (
	"context"
	"errors"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Update stores a new version of ref, or creates it under the id the caller
// chose. ifMatch, when not 0, is the version that must be current
// (PreconditionFailed otherwise).
func (s *Service) Update(ctx context.Context, rq *Request, ref fhir.Ref, body []byte, ifMatch uint64) (Written, error) {
	const op = "interaction.Update"
	w, err := s.update(ctx, rq, op, ref, body, ifMatch)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "update", ref, err)
	}
	return w, nil
}

func (s *Service) update(ctx context.Context, rq *Request, op string, ref fhir.Ref, body []byte, ifMatch uint64) (Written, error) {
	if err := writable(rq, op, access.Update, ref.Type); err != nil {
		return Written{}, err
	}
	if !fhir.ValidID(ref.ID) {
		return Written{}, fhir.Errorf(fhir.Invalid, op, "the id in the URL is not a FHIR id")
	}
	res, err := s.Door.Resource(ref.Type, body, ref.ID)
	if err != nil {
		return Written{}, fhir.Wrap(op, err)
	}
	var w Written
	err = s.retry(ctx, func() error {
		w, err = s.updateOnce(ctx, rq, op, res, ifMatch)
		return err
	})
	return w, err
}

// errRaced marks a commit whose versions another commit took.
type errRaced struct{ cause error }

func (e *errRaced) Error() string { return e.cause.Error() }
func (e *errRaced) Unwrap() error { return e.cause }

func raced(err error) error {
	if k := fhir.KindOf(err); err != nil && (k == fhir.Conflict || k == fhir.PreconditionFailed) {
		return &errRaced{err}
	}
	return err
}

// retry does f again as long as it loses races: the audit event has to name
// the version, so every write states the one it builds upon.
func (s *Service) retry(ctx context.Context, f func() error) error {
	var r *errRaced
	for attempt := 0; ; attempt++ {
		err := f()
		if !errors.As(err, &r) {
			return err
		}
		if attempt == retries || ctx.Err() != nil {
			return &fhir.Error{Kind: fhir.Conflict, Op: "interaction.retry", Err: r.cause, Issues: []fhir.Issue{{
				Severity: "error", Code: "conflict", Diagnostics: "the resource is being changed by others; try again"}}}
		}
	}
}

func (s *Service) updateOnce(ctx context.Context, rq *Request, op string, res fhir.Resource, ifMatch uint64) (Written, error) {
	old, err := s.current(ctx, res.Ref())
	if err != nil {
		return Written{}, err
	}
	d, err := s.draftUpdate(ctx, rq, op, res, old, ifMatch)
	if err != nil {
		return Written{}, err
	}
	defer s.locks.lockPatients(d.patients(), nil)()
	if err := s.mustExist(ctx, op, []*draft{d}, nil); err != nil {
		return Written{}, err
	}
	out, err := s.commit(ctx, &store.Batch{Writes: []store.Write{d.write}}, d.event(rq))
	if err != nil {
		return Written{}, raced(err)
	}
	return written(d, out.Outcomes[0]), nil
}

// draftUpdate checks what is there against the caller and If-Match.
func (s *Service) draftUpdate(ctx context.Context, rq *Request, op string, res fhir.Resource, old *stored, ifMatch uint64) (*draft, error) {
	if old.live() {
		if err := visible(rq, op, access.Update, old); err != nil {
			return nil, err
		}
	}
	if ifMatch != 0 && (!old.live() || old.res.Version != ifMatch) {
		return nil, fhir.Errorf(fhir.PreconditionFailed, op, "If-Match does not name the current version")
	}
	return s.draftPut(ctx, rq, op, res, old)
}
