package interaction

import (
	"context"
	"encoding/json"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// The conditional interactions find their target by search criteria (R4 http.html#cond-update
// and the sections after it). Only resources that the caller may find can match, the
// criteria and the matches are recorded, and the scopes must cover the search, too.
//
// What criteria found is a precondition of the commit: the version of the match, and guards
// that every write of a resource touches that may match, or that may decide a chained
// parameter, _has or _list (criteria.guards). So the outcome is that of a single moment, in
// any number of processes.

// conditionally finds the match of raw and calls do, again while the commit of do loses
// races. The batch has the guards of the criteria.
func (s *Service) conditionally(ctx context.Context, rq *Request, op, typ, raw string,
	do func(c *criteria, b *store.Batch, disc *disclosures) error) error {
	c, err := s.criteriaOf(rq, op, theCriteria, rq.Line, typ, raw)
	if err != nil {
		return err
	}
	release, err := s.locks.lockCriteria(ctx, c.locks())
	if err != nil {
		return err
	}
	defer release()
	return s.retry(ctx, func() error {
		b := &store.Batch{Seen: s.Store.LastSeq()}
		if err := s.find(ctx, rq, op, c); err != nil {
			return err
		}
		if err := rq.Principal.Grant.Live(ctx); err != nil {
			return err // the lock and the search may have taken long
		}
		b.Guards, b.Touches = c.guards(), c.touches()
		disc := &disclosures{}
		disc.add(c)
		return c.disclosing(do(c, b, disc))
	})
}

// theCriteria names the criteria of a URL in errors.
const theCriteria = "the URL"

// disclosing adds the criteria, and what they have found, to what err discloses.
func (c *criteria) disclosing(err error) error {
	if err == nil {
		return nil
	}
	out := &errDisclosing{cause: err}
	if t, ok := err.(*errDisclosing); ok {
		*out = *t
	}
	out.seen = append(append([]disclosed(nil), out.seen...), c.seen...)
	out.queries = append(append([]found(nil), out.queries...), c.found)
	return out
}

// ConditionalUpdate updates the only resource that criteria match, or creates one if there
// is none (R4 http.html#cond-update):
//
//	matches  id in the body              outcome
//	none     none                        create under an id of the server
//	none     not in use                  create under that id
//	none     in use                      Conflict: the resource does not match
//	one      none, or that of the match  update of the match
//	one      another one                 Invalid
//	several                              PreconditionFailed
//
// R4 leaves open what becomes of an id that is in use by a resource that does not match;
// the outcome is that of R5.
func (s *Service) ConditionalUpdate(ctx context.Context, rq *Request, typ, criteria string, body []byte,
	pre Preconditions) (Written, error) {
	const op = "interaction.ConditionalUpdate"
	w, err := s.conditionalUpdate(ctx, rq, op, typ, criteria, body, pre)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "update", fhir.Ref{Type: typ}, err)
	}
	return w, nil
}

func (s *Service) conditionalUpdate(ctx context.Context, rq *Request, op, typ, raw string, body []byte,
	pre Preconditions) (w Written, err error) {
	if err := writable(rq, op, access.Update, typ); err != nil {
		return Written{}, err
	}
	if err := s.refusePut(rq, op, typ, body); err != nil {
		return Written{}, err
	}
	fresh, err := s.newID()
	if err != nil {
		return Written{}, err
	}
	t := &conditionalPut{typ: typ, fresh: fresh, bodyID: idOf(body)}
	// The body is refused before anything is searched, as in an update.
	if _, err := s.admitNew(op, typ, fresh, body, nil); err != nil {
		return Written{}, err
	}
	err = s.conditionally(ctx, rq, op, typ, raw, func(c *criteria, b *store.Batch, disc *disclosures) error {
		d, err := s.draftConditional(ctx, rq, op, t, c, body, pre, nil)
		if err != nil {
			return err
		}
		w, err = s.write(ctx, rq, op, b, d, disc)
		return err
	})
	return w, err
}

// conditionalPut describes the resource of a conditional update.
type conditionalPut struct {
	typ    string
	fresh  string // the id that the server assigns
	bodyID string // the id in the body; "" if it has none
}

// ref returns the resource that the update writes, after the criteria were evaluated.
func (t *conditionalPut) ref(op string, match *fhir.Resource) (fhir.Ref, error) {
	switch {
	case match != nil && t.bodyID != "" && t.bodyID != match.ID:
		return fhir.Ref{}, &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Severity: "error",
			Code: "value", Expression: []string{t.typ + ".id"}, Diagnostics: t.typ +
				".id: the criteria match another resource; leave the id out, or name the match"}}}
	case match != nil:
		return match.Ref(), nil
	case t.bodyID != "":
		return fhir.Ref{Type: t.typ, ID: t.bodyID}, nil
	}
	return fhir.Ref{Type: t.typ, ID: t.fresh}, nil
}

// draftConditional prepares a conditional update. The match is that of c.
func (s *Service) draftConditional(ctx context.Context, rq *Request, op string, t *conditionalPut, c *criteria,
	body []byte, pre Preconditions, l *links) (*draft, error) {
	ref, err := t.ref(op, c.match)
	if err != nil {
		return nil, err
	}
	admit := func() (fhir.Resource, error) {
		res, err := s.admitNew(op, t.typ, ref.ID, body, l) // the body may have no id
		if err == nil && l != nil {
			err = s.linkDeferred(&res, *l)
		}
		return res, err
	}
	if !fhir.ValidID(ref.ID) {
		_, err := s.admit(op, ref, body, l)
		return nil, err
	}
	res, err := admit()
	if err != nil {
		return nil, err
	}
	if c.match == nil && t.bodyID == "" {
		if err := pre.check(op, nil); err != nil {
			return nil, err
		}
		return s.draftPut(ctx, rq, op, res, nil)
	}
	old, err := s.current(ctx, ref)
	if err != nil {
		return nil, err
	}
	if c.match != nil && (!old.live() || old.res.Version != c.match.Version) {
		return nil, changed(op)
	}
	if seen, _ := visible(rq, op, access.Update, old); c.match == nil && old.live() && seen {
		return nil, disclosing(fhir.Errorf(fhir.Conflict, op,
			"a resource with the id in the body exists and does not match the criteria"), disclosedOf(old))
	}
	return s.draftUpdate(ctx, rq, op, res, old, pre)
}

// changed returns the error for a match that was changed after it was found. The request
// searches again.
func changed(op string) error {
	return &errRaced{fhir.Errorf(fhir.Conflict, op, "the match was changed meanwhile")}
}

// idOf returns the id in a body, "" if there is none.
func idOf(body []byte) string {
	var r struct {
		ID *string `json:"id"`
	}
	if json.Unmarshal(body, &r) != nil || r.ID == nil {
		return ""
	}
	return *r.ID
}

// ConditionalPatch patches the only resource that criteria match. The error is NotFound if
// there is none, and PreconditionFailed if there are several (R4 http.html#patch).
func (s *Service) ConditionalPatch(ctx context.Context, rq *Request, typ, criteria string, p Patch,
	pre Preconditions) (Written, error) {
	const op = "interaction.ConditionalPatch"
	w, err := s.conditionalPatch(ctx, rq, op, typ, criteria, p, pre)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "patch", fhir.Ref{Type: typ}, err)
	}
	return w, nil
}

func (s *Service) conditionalPatch(ctx context.Context, rq *Request, op, typ, raw string, p Patch,
	pre Preconditions) (w Written, err error) {
	if err := writable(rq, op, access.Update, typ); err != nil {
		return Written{}, err
	}
	err = s.conditionally(ctx, rq, op, typ, raw, func(c *criteria, b *store.Batch, disc *disclosures) error {
		if c.match == nil {
			return errNoMatch(op, typ)
		}
		old, err := s.patchable(ctx, rq, op, c.match.Ref(), pre, c.match.Version)
		if err != nil {
			return err
		}
		d, err := s.draftPatch(ctx, rq, op, old, p, pre, nil)
		if err != nil {
			return err
		}
		w, err = s.write(ctx, rq, op, b, d, disc)
		return err
	})
	return w, err
}

func errNoMatch(op, typ string) error {
	return fhir.Errorf(fhir.NotFound, op, "the criteria match no %s", typ)
}

// ConditionalDelete deletes the only resource that criteria match. Several matches are
// PreconditionFailed (CapabilityStatement: conditionalDelete is single). If there is none,
// nothing is deleted, and that is no error, so that a client may repeat the request; R4
// leaves the choice between this and 404.
func (s *Service) ConditionalDelete(ctx context.Context, rq *Request, typ, criteria string,
	pre Preconditions) (Written, error) {
	const op = "interaction.ConditionalDelete"
	w, err := s.conditionalDelete(ctx, rq, op, typ, criteria, pre)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "delete", fhir.Ref{Type: typ}, err)
	}
	return w, nil
}

func (s *Service) conditionalDelete(ctx context.Context, rq *Request, op, typ, raw string,
	pre Preconditions) (w Written, err error) {
	if err := writable(rq, op, access.Delete, typ); err != nil {
		return Written{}, err
	}
	err = s.conditionally(ctx, rq, op, typ, raw, func(c *criteria, b *store.Batch, disc *disclosures) error {
		w.Resource = fhir.Resource{Type: typ, Deleted: true}
		if c.match == nil {
			if err := pre.check(op, nil); err != nil {
				return err
			}
			return s.recordNothing(ctx, rq, "delete", typ, disc)
		}
		w.Resource.ID = c.match.ID
		w.Resource.Version, err = s.deleteOnce(ctx, rq, op, c.match.Ref(), pre, b, c.match.Version, disc)
		return err
	})
	return w, err
}

// recordNothing records a conditional write that had nothing to write.
func (s *Service) recordNothing(ctx context.Context, rq *Request, interaction, typ string, disc *disclosures) error {
	ev := rq.event(interaction, typ)
	rq.wait(0)
	return s.Audit.Record(ctx, append([]audit.Event{ev}, disc.events(rq, nil)...)...)
}
