package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// Read returns the current version. The error is NotFound if the resource is absent
// or hidden, and Gone if it is deleted.
func (s *Service) Read(ctx context.Context, rq *Request, ref fhir.Ref) (fhir.Resource, error) {
	return s.readAt(ctx, rq, ref, 0)
}

func (s *Service) readAt(ctx context.Context, rq *Request, ref fhir.Ref, at store.Seq) (fhir.Resource, error) {
	const op = "interaction.Read"
	return s.readOne(ctx, rq, "read", op, ref, func() (fhir.Resource, *access.Facts, error) {
		return s.Store.Read(ctx, ref, at)
	})
}

// VRead returns one version.
func (s *Service) VRead(ctx context.Context, rq *Request, ref fhir.Ref, version uint64) (fhir.Resource, error) {
	const op = "interaction.VRead"
	return s.readOne(ctx, rq, "vread", op, ref, func() (fhir.Resource, *access.Facts, error) {
		if version == 0 {
			return fhir.Resource{}, nil, errHidden(op)
		}
		return s.Store.ReadVersion(ctx, ref, version)
	})
}

func (s *Service) readOne(ctx context.Context, rq *Request, interaction, op string, ref fhir.Ref,
	get func() (fhir.Resource, *access.Facts, error)) (fhir.Resource, error) {
	r, facts, err := s.lookUp(rq, op, ref, get)
	if err != nil {
		return fhir.Resource{}, s.refuse(ctx, rq, interaction, ref, err)
	}
	patients := facts.Patients()
	if ref.Type == "Binary" {
		within, err := s.contextFacts(ctx, rq, op, &r, facts)
		if err != nil {
			return fhir.Resource{}, s.refuse(ctx, rq, interaction, ref, err)
		}
		if within != nil {
			patients = within.Patients()
		}
	}
	ev := rq.event(interaction, ref.Type)
	ev.Data = []audit.DataRef{{Ref: ref, Version: r.Version}}
	rq.wait(len(r.JSON))
	if err := s.Audit.Record(ctx, perPatient(ev, patients)...); err != nil {
		return fhir.Resource{}, err
	}
	return r, nil
}

func (s *Service) lookUp(rq *Request, op string, ref fhir.Ref,
	get func() (fhir.Resource, *access.Facts, error)) (fhir.Resource, *access.Facts, error) {
	if err := rq.may(op, access.Read, ref.Type); err != nil {
		return fhir.Resource{}, nil, err
	}
	if err := supported(op, ref.Type); err != nil {
		return fhir.Resource{}, nil, err
	}
	if !fhir.ValidID(ref.ID) {
		return fhir.Resource{}, nil, errHidden(op)
	}
	r, facts, err := get()
	if fhir.KindOf(err) == fhir.NotFound && err != nil {
		return fhir.Resource{}, nil, errHidden(op) // absent and hidden must have the same text
	}
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	if !rq.filter(access.Read).Allow(facts) {
		return fhir.Resource{}, nil, concealing(errHidden(op), disclosed{ref: ref, patients: facts.Patients()})
	}
	if r.Deleted {
		return fhir.Resource{}, nil, disclosing(fhir.Errorf(fhir.Gone, op, "the resource was deleted"),
			disclosed{ref, r.Version, facts.Patients()})
	}
	return r, facts, nil
}
