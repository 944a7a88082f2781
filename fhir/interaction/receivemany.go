package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
)

// PhoneMade is one of several phone-made Observations that are received together.
type PhoneMade struct {
	// Body is the Observation as it was sent.
	Body []byte
	// Ref is the Observation that Body becomes. It is zero if Err is set, and if the
	// sample was deleted on the phone.
	Ref fhir.Ref
	// Err is the reason why Body is not stored, or nil.
	Err error

	patient string
	changes bool // the scopes cover updating what is stored
	alone   bool // it is created like a single one
}

// IsPhoneMade reports whether body is a phone-made Observation, which RepairAll and
// ReceiveAll take.
func (s *Service) IsPhoneMade(rq *Request, body []byte) bool {
	return s.phoneMade(rq, "Observation", body)
}

// RepairAll validates and repairs Observations and sets their Ref or Err. It stores
// nothing but the events of those that are refused.
func (s *Service) RepairAll(ctx context.Context, rq *Request, list []*PhoneMade) error {
	var evs []audit.Event
	for _, one := range list {
		if err := ended(ctx); err != nil {
			return err
		}
		if err := s.repairOne(ctx, rq, one); err != nil {
			var refused []audit.Event
			refused, one.Err = refusal(rq, "create", fhir.Ref{Type: "Observation"}, err)
			evs = append(evs, refused...)
		}
	}
	if len(evs) == 0 {
		return nil
	}
	return s.Audit.Record(context.WithoutCancel(ctx), evs...)
}

func (s *Service) repairOne(ctx context.Context, rq *Request, one *PhoneMade) error {
	const op = "interaction.Create"
	if err := writable(rq, op, access.Create, "Observation"); err != nil {
		return err
	}
	id, err := s.newID()
	if err != nil {
		return err
	}
	sent, err := s.admitNew(op, "Observation", id, one.Body, nil)
	if err != nil {
		return err
	}
	subject, repaired, changes, err := s.repair(ctx, rq, op, &sent, one.Body)
	if err != nil {
		return err
	}
	one.patient, one.changes, one.alone = subject.ref.ID, changes, repaired.Deletion
	if !one.alone {
		one.Ref = fhir.Ref{Type: "Observation", ID: repaired.Resource.ID}
	}
	return nil
}

// phoneGroup collects Observations of one patient with different ids for one delivery.
type phoneGroup struct {
	list    []*PhoneMade
	ids     map[string]bool
	changes bool // of all
}

// fits reports whether one can be in the group. Of two statements about one sample, the
// later one amends the earlier one, so they need two deliveries.
func (g *phoneGroup) fits(one *PhoneMade) bool {
	return !one.alone && (len(g.list) == 0 || g.changes == one.changes && !g.ids[one.Ref.ID])
}

func (g *phoneGroup) add(one *PhoneMade) {
	g.list, g.changes, g.ids[one.Ref.ID] = append(g.list, one), one.changes, true
}

// take returns the Observations of the group and empties it.
func (g *phoneGroup) take() []*PhoneMade {
	list := g.list
	*g = phoneGroup{ids: map[string]bool{}}
	return list
}

// ReceiveAll stores the Observations of list that RepairAll has accepted, as few deliveries
// per patient. What is stored is what single creates in this order would store.
// It sets Err of those that are not stored. Each delivery has one event that names its
// Observations.
func (s *Service) ReceiveAll(ctx context.Context, rq *Request, list []*PhoneMade) error {
	groups, order := map[string]*phoneGroup{}, []*phoneGroup{}
	for _, one := range list {
		if one.Err != nil {
			continue
		}
		g := groups[one.patient]
		if g == nil {
			g = &phoneGroup{ids: map[string]bool{}}
			groups[one.patient], order = g, append(order, g)
		}
		if !g.fits(one) {
			if err := s.receiveGroup(ctx, rq, g.take()); err != nil {
				return err
			}
		}
		if !one.alone {
			g.add(one)
		} else if err := s.receiveAlone(ctx, rq, one); err != nil {
			return err
		}
	}
	for _, g := range order {
		if err := s.receiveGroup(ctx, rq, g.take()); err != nil {
			return err
		}
	}
	return nil
}

// receiveAlone creates an Observation like a single one.
func (s *Service) receiveAlone(ctx context.Context, rq *Request, one *PhoneMade) error {
	_, one.Err = s.Create(ctx, rq, "Observation", one.Body, "")
	return ended(ctx)
}

// ended returns an error if ctx has ended.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &fhir.Error{Kind: fhir.Unavailable, Op: "interaction.ReceiveAll", Err: err}
	}
	return nil
}

// receiveGroup stores Observations of one patient. Those that it cannot confirm are created
// one by one, so that each has the outcome and the events of a single create.
func (s *Service) receiveGroup(ctx context.Context, rq *Request, group []*PhoneMade) error {
	if len(group) == 0 {
		return nil
	}
	if err := rq.Principal.Grant.Live(ctx); err != nil {
		return err
	}
	ids, bodies := make([]string, len(group)), make([][]byte, len(group))
	for i, one := range group {
		ids[i], bodies[i] = one.Ref.ID, one.Body
	}
	patient := group[0].patient
	stored, err := s.Receiver.ReceiveAll(ctx, rq.Caller, patient, ids, bodies, group[0].changes)
	switch {
	case ctx.Err() != nil:
		return ended(ctx)
	case fhir.KindOf(err) == fhir.Unavailable:
		return err
	case err != nil:
		stored = make([]audit.DataRef, len(group))
	}
	ev := rq.event("create", "Observation")
	ev.Patient = patient

	var rest []*PhoneMade
	for i, one := range group {
		if stored[i].Ref.IsZero() {
			rest = append(rest, one)
			continue
		}
		ev.Data = append(ev.Data, stored[i])
	}

	if len(ev.Data) > 0 {
		if err := s.disclose(ctx, rq, ev); err != nil {
			return err
		}
	}
	for _, one := range rest {
		if err := s.receiveAlone(ctx, rq, one); err != nil {
			return err
		}
	}
	return nil
}
