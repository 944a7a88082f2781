package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Create stores a new resource under an id that the server assigns. If ifNoneExist
// is set, it is a conditional create: Create returns a single match (Matched) and
// fails with PreconditionFailed if there are several. Only resources that the
// caller may see can match. The criteria and the matches are recorded. A phone-made
// Observation goes to the Receiver.
func (s *Service) Create(ctx context.Context, rq *Request, typ string, body []byte,
	ifNoneExist string) (Written, error) {
	const op = "interaction.Create"
	w, err := s.create(ctx, rq, op, typ, body, ifNoneExist)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "create", fhir.Ref{Type: typ}, err)
	}
	return w, nil
}

func (s *Service) create(ctx context.Context, rq *Request, op, typ string, body []byte,
	ifNoneExist string) (Written, error) {
	if err := writable(rq, op, access.Create, typ); err != nil {
		return Written{}, err
	}
	id, err := s.newID()
	if err != nil {
		return Written{}, err
	}
	res, err := s.admitNew(op, typ, id, body, nil)
	if err != nil {
		return Written{}, err
	}
	var c *criteria
	if ifNoneExist != "" {
		if c, err = s.criteriaOf(rq, op, "If-None-Exist", rq.Line, typ, ifNoneExist); err != nil {
			return Written{}, err
		}
		release, err := s.locks.lockCriteria(ctx, c.locks())
		if err != nil {
			return Written{}, err
		}
		defer release()
	}
	var w Written
	err = s.retry(ctx, func() error {
		w, err = s.createOnce(ctx, rq, op, res, c, body)
		return err
	})
	return w, err
}

// createOnce creates res unless its criteria, which may be nil, find a match.
func (s *Service) createOnce(ctx context.Context, rq *Request, op string, res fhir.Resource, c *criteria,
	body []byte) (Written, error) {
	b := &store.Batch{Seen: s.Store.LastSeq()}
	disc := &disclosures{}
	if c != nil {
		if err := s.find(ctx, rq, op, c); err != nil {
			return Written{}, err
		}
		if err := rq.Principal.Grant.Live(ctx); err != nil {
			return Written{}, err // the lock and the search may have taken long
		}
		disc.add(c)
		if c.match != nil {
			rq.wait(len(c.match.JSON))
			return Written{Resource: *c.match, Matched: true}, s.Audit.Record(ctx, disc.events(rq, nil)...)
		}
		b.Guards, b.Touches = c.guards(), c.touches()
	}
	if s.phoneMade(rq, res.Type, body) {
		return s.receive(ctx, rq, op, &res, body, c, disc)
	}
	d, err := s.draftPut(ctx, rq, op, res, nil)
	if err != nil {
		return Written{}, err
	}
	return s.write(ctx, rq, op, b, d, disc)
}

// write checks the rules between resources and commits b with one draft, which was
// prepared with b.Seen or later.
func (s *Service) write(ctx context.Context, rq *Request, op string, b *store.Batch, d *draft,
	disc *disclosures) (Written, error) {
	release, err := s.locks.lockPatients(ctx, d.referredPatients(), nil)
	if err != nil {
		return Written{}, err
	}
	defer release()
	if err := s.mustExist(ctx, rq, op, []*draft{d}, nil); err != nil {
		return Written{}, err
	}
	evs := d.events(rq)
	if len(disc.queries) > 0 {
		evs = append(evs, disc.events(rq, nil)...)
	}
	b.Writes = append(b.Writes, d.write)
	b.Refer(d.referredPatients()...)
	b.Touches = append(b.Touches, d.touches()...)
	out, err := s.commit(ctx, rq, b, evs...)
	if err != nil {
		return Written{}, raced(err)
	}
	return written(d, out.Outcomes[0]), nil
}

// admitNew validates body under a new id. References to entries of the same
// transaction (l) or to this server are replaced first, so that the stored text is
// what has been validated.
func (s *Service) admitNew(op, typ, id string, body []byte, l *links) (fhir.Resource, error) {
	body, err := s.linked(body, l)
	if err != nil {
		return fhir.Resource{}, err
	}
	res, err := s.Validator.Create(typ, body, id)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	return res, nil
}

// admit is like admitNew, for an update.
func (s *Service) admit(op string, ref fhir.Ref, body []byte, l *links) (fhir.Resource, error) {
	if !fhir.ValidID(ref.ID) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op, "the id in the URL is not a FHIR id")
	}
	body, err := s.linked(body, l)
	if err != nil {
		return fhir.Resource{}, err
	}
	res, err := s.Validator.Resource(ref.Type, body, ref.ID)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	return res, nil
}

// writable returns an error unless the token covers the interaction and the server
// stores the type. It checks the token first, so that the error is Forbidden even
// for types that the server does not store.
func writable(rq *Request, op string, may access.Interaction, typ string) error {
	if fhir.WrittenByServer(typ) {
		return fhir.Errorf(fhir.NotAllowed, op, "only the server writes %ss", typ)
	}
	if err := rq.may(op, may, typ); err != nil {
		return err
	}
	return supported(op, typ)
}
