package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Delete deletes ref. Deleting it again changes nothing and is not an error. If the
// resource never existed or is hidden, the error is NotFound; callers must not be
// able to tell these apart. It is Conflict for a Patient to which other resources
// refer.
func (s *Service) Delete(ctx context.Context, rq *Request, ref fhir.Ref, pre Preconditions) (Written, error) {
	const op = "interaction.Delete"
	w := Written{Resource: fhir.Resource{Type: ref.Type, ID: ref.ID, Deleted: true}}
	err := s.retry(ctx, func() error {
		var err error
		b := &store.Batch{Seen: s.Store.LastSeq()}
		w.Resource.Version, err = s.deleteOnce(ctx, rq, op, ref, pre, b, 0, nil)
		return err
	})
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "delete", ref, err)
	}
	return w, nil
}

// deleteOnce deletes ref in b, which was prepared with b.Seen. If found is not 0, that is
// the version that criteria have found. disc has what else is disclosed; it may be nil.
func (s *Service) deleteOnce(ctx context.Context, rq *Request, op string, ref fhir.Ref, pre Preconditions,
	b *store.Batch, found uint64, disc *disclosures) (uint64, error) {
	d, err := s.draftDelete(ctx, rq, op, ref, pre)
	if err != nil {
		return 0, err
	}
	if found != 0 && (d.done || d.write.IfVersion != found) {
		return 0, changed(op)
	}
	evs := d.events(rq)
	if disc != nil {
		evs = append(evs, disc.events(rq, nil)...)
	}
	if d.done {
		rq.wait(0)
		return d.version, s.Audit.Record(ctx, evs...)
	}
	if ref.Type == "Patient" {
		release, err := s.locks.lockPatients(ctx, nil, []string{ref.ID})
		if err != nil {
			return 0, err
		}
		defer release()
		if err := s.unreferenced(ctx, op, ref.ID, nil); err != nil {
			return 0, err
		}
		b.Abandon(ref.ID)
	}
	b.Writes = append(b.Writes, d.write)
	out, err := s.commit(ctx, rq, b, evs...)
	if err != nil {
		return 0, raced(err)
	}
	return out.Outcomes[0].Version, nil
}

// deletable reads the resource to be deleted and checks that the caller may delete
// it.
func (s *Service) deletable(ctx context.Context, rq *Request, op string, ref fhir.Ref,
	pre Preconditions) (*stored, error) {
	if err := writable(rq, op, access.Delete, ref.Type); err != nil {
		return nil, err
	}
	if !fhir.ValidID(ref.ID) {
		return nil, errHidden(op)
	}
	old, err := s.current(ctx, ref)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, errHidden(op)
	}
	seen, err := visible(rq, op, access.Delete, old)
	if err != nil {
		return nil, err
	}
	if !seen {
		return nil, concealing(errHidden(op), disclosedOf(old))
	}
	return old, pre.check(op, old)
}

// draftDelete prepares the deletion of ref. If it is already deleted, the draft is
// done and only the event has to be written.
func (s *Service) draftDelete(ctx context.Context, rq *Request, op string, ref fhir.Ref,
	pre Preconditions) (*draft, error) {
	old, err := s.deletable(ctx, rq, op, ref, pre)
	if err != nil {
		return nil, err
	}
	d := &draft{interaction: "delete", patients: old.facts.Patients(), version: old.res.Version, done: old.res.Deleted}
	d.write.Resource = fhir.Resource{Type: ref.Type, ID: ref.ID, Version: old.res.Version, Deleted: old.res.Deleted}
	if d.done {
		return d, nil
	}
	if err := keepOwn(rq, op, ref.Type, nil, old); err != nil {
		return nil, err
	}
	if check := s.Checks[ref.Type]; check != nil {
		if _, err := check(ctx, rq.Principal, nil, &old.res); err != nil {
			return nil, disclosing(err, disclosedOf(old))
		}
	}
	d.version++
	d.write = store.Write{
		Op: store.Remove, Resource: fhir.Resource{Type: ref.Type, ID: ref.ID},
		Vendor: old.facts.Vendor, Author: old.facts.Author,
		Expect: store.Version, IfVersion: old.res.Version,
	}
	return d, nil
}
