package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Delete removes ref; doing so again changes nothing and is no error. What
// never existed is NotFound, and so is what the filter hides: the two must
// not differ. A Patient to whom others refer is a Conflict.
func (s *Service) Delete(ctx context.Context, rq *Request, ref fhir.Ref, ifMatch uint64) (Written, error) {
	const op = "interaction.Delete"
	w := Written{Resource: fhir.Resource{Type: ref.Type, ID: ref.ID, Deleted: true}}
	err := s.retry(ctx, func() error {
		var err error
		w.Resource.Version, err = s.deleteOnce(ctx, rq, op, ref, ifMatch)
		return err
	})
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "delete", ref, err)
	}
	return w, nil
}

func (s *Service) deleteOnce(ctx context.Context, rq *Request, op string, ref fhir.Ref, ifMatch uint64) (uint64, error) {
	old, err := s.deletable(ctx, rq, op, ref, ifMatch)
	if err != nil {
		return 0, err
	}
	if old.res.Deleted {
		d := draft{interaction: "delete", patient: old.facts.Patient, version: old.res.Version}
		d.write.Resource = old.res
		return old.res.Version, s.Audit.Record(ctx, d.event(rq))
	}
	d, err := s.draftDelete(ctx, rq, op, old)
	if err != nil {
		return 0, err
	}
	if ref.Type == "Patient" {
		defer s.locks.lockPatients(nil, []string{ref.ID})()
		if err := s.unreferenced(ctx, op, ref.ID, nil); err != nil {
			return 0, err
		}
	}
	out, err := s.commit(ctx, &store.Batch{Writes: []store.Write{d.write}}, d.event(rq))
	if err != nil {
		return 0, raced(err)
	}
	return out.Outcomes[0].Version, nil
}

// deletable reads what is to be removed and checks that the caller may.
func (s *Service) deletable(ctx context.Context, rq *Request, op string, ref fhir.Ref, ifMatch uint64) (*stored, error) {
	if err := writable(rq, op, access.Delete, ref.Type); err != nil {
		return nil, err
	}
	if !fhir.ValidID(ref.ID) {
		return nil, hidden(op)
	}
	old, err := s.current(ctx, ref)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, hidden(op)
	}
	if err := visible(rq, op, access.Delete, old); err != nil {
		return nil, err
	}
	if ifMatch != 0 && old.res.Version != ifMatch {
		return nil, fhir.Errorf(fhir.PreconditionFailed, op, "If-Match does not name the current version")
	}
	return old, nil
}
