package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Create stores a new resource under an id of the server's. ifNoneExist, when
// set, is the criteria of a conditional create: one match is the answer
// (Matched), several are PreconditionFailed. Criteria look through the
// caller's own filter.
func (s *Service) Create(ctx context.Context, rq *Request, typ string, body []byte, ifNoneExist string) (Written, error) {
	const op = "interaction.Create"
	w, err := s.create(ctx, rq, op, typ, body, ifNoneExist)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "create", fhir.Ref{Type: typ}, err)
	}
	return w, nil
}

func (s *Service) create(ctx context.Context, rq *Request, op, typ string, body []byte, ifNoneExist string) (Written, error) {
	if err := writable(rq, op, access.Create, typ); err != nil {
		return Written{}, err
	}
	res, err := s.admitNew(op, typ, body)
	if err != nil {
		return Written{}, err
	}
	if ifNoneExist != "" {
		defer s.locks.lockCriteria(typ + "?" + ifNoneExist)()
		match, err := s.matchOne(ctx, rq, op, typ, ifNoneExist)
		if err == nil {
			err = rq.Principal.Grant.Live(ctx) // lock and search may have taken long
		}
		if err != nil {
			return Written{}, err
		}
		if match != nil {
			w := Written{Resource: *match, Matched: true}
			ev := rq.event("create", typ)
			ev.Query = rq.Line
			ev.Extra = [][2]string{{"If-None-Exist", "matched"}}
			return w, s.Audit.Record(ctx, ev)
		}
	}
	d, err := s.draftPut(ctx, rq, op, res, nil)
	if err != nil {
		return Written{}, err
	}
	defer s.locks.lockPatients(d.patients(), nil)()
	if err := s.mustExist(ctx, op, []*draft{d}, nil); err != nil {
		return Written{}, err
	}
	out, err := s.commit(ctx, &store.Batch{Writes: []store.Write{d.write}}, d.event(rq))
	if err != nil {
		return Written{}, err
	}
	return written(d, out.Outcomes[0]), nil
}

// admitNew passes body through the door under a fresh id.
func (s *Service) admitNew(op, typ string, body []byte) (fhir.Resource, error) {
	id, err := s.newID()
	if err != nil {
		return fhir.Resource{}, err
	}
	res, err := s.Door.Create(typ, body, id)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	return res, nil
}

// writable answers whether the type can be written at all, and by this token.
func writable(rq *Request, op string, may access.Interaction, typ string) error {
	if err := known(op, typ); err != nil {
		return err
	}
	if typ == "AuditEvent" {
		return fhir.Errorf(fhir.NotAllowed, op, "AuditEvents are written by the server alone")
	}
	return rq.may(op, may, typ)
}

// matchOne finds what a conditional create would duplicate.
func (s *Service) matchOne(ctx context.Context, rq *Request, op, typ, criteria string) (*fhir.Resource, error) {
	if err := rq.may(op, access.Search, typ); err != nil {
		return nil, err
	}
	q, err := s.parse(typ, criteria, false)
	if err != nil {
		return nil, err
	}
	if len(q.Clauses) == 0 {
		return nil, fhir.Errorf(fhir.PreconditionFailed, op, "If-None-Exist without a search parameter selects everything")
	}
	var match *fhir.Resource
	n := 0
	err = s.Store.Find(ctx, store.Find{Query: q, Filter: rq.filter(access.Search), Limit: 2}, func(f *store.Found) bool {
		if n++; n == 1 {
			r := f.Resource
			r.JSON = append([]byte(nil), r.JSON...)
			match = &r
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if n > 1 {
		return nil, fhir.Errorf(fhir.PreconditionFailed, op, "If-None-Exist matches more than one %s", typ)
	}
	return match, nil
}
