package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/patch"
	"pulsegate/fhir/store"
)

// Patch is the body of a PATCH: a JSON Patch or, if FHIRPath is set, a FHIRPath Patch.
type Patch struct {
	Body     []byte
	FHIRPath bool
}

// apply returns the patched form of a resource.
func (s *Service) apply(ctx context.Context, p Patch, body []byte) ([]byte, error) {
	if p.FHIRPath {
		if s.Terminology == nil {
			return patch.FHIRPath(ctx, body, p.Body, s.Clock(), nil)
		}
		return patch.FHIRPath(ctx, body, p.Body, s.Clock(), s.Terminology)
	}
	return patch.JSON(body, p.Body)
}

// Patch stores a new version of ref, which is the current one changed by a patch. The
// result must be a valid update: the patch can change what an update can, and what is said
// of the version in meta is the store's. A patch never creates: if ref is absent or hidden,
// the error is NotFound, and Gone if it is deleted.
//
// The permission is that of an update (SMART App Launch 2.0, scopes: u covers patches). The
// answer has the resource only if the caller may read it.
func (s *Service) Patch(ctx context.Context, rq *Request, ref fhir.Ref, p Patch, pre Preconditions) (Written, error) {
	const op = "interaction.Patch"
	w, err := s.patch(ctx, rq, op, ref, p, pre)
	if err != nil {
		return Written{}, s.refuse(ctx, rq, "patch", ref, err)
	}
	return w, nil
}

func (s *Service) patch(ctx context.Context, rq *Request, op string, ref fhir.Ref, p Patch,
	pre Preconditions) (w Written, err error) {
	if err := writable(rq, op, access.Update, ref.Type); err != nil {
		return Written{}, err
	}
	err = s.retry(ctx, func() error {
		b := &store.Batch{Seen: s.Store.LastSeq()}
		w, err = s.patchOnce(ctx, rq, op, ref, p, pre, b, &disclosures{})
		return err
	})
	return w, err
}

func (s *Service) patchOnce(ctx context.Context, rq *Request, op string, ref fhir.Ref, p Patch, pre Preconditions,
	b *store.Batch, disc *disclosures) (Written, error) {
	old, err := s.patchable(ctx, rq, op, ref, pre, 0)
	if err != nil {
		return Written{}, err
	}
	d, err := s.draftPatch(ctx, rq, op, old, p, pre, nil)
	if err != nil {
		return Written{}, err
	}
	return s.write(ctx, rq, op, b, d, disc)
}

// patchable reads the version to be patched and checks that the caller may update it. If
// found is not 0, it is the version that criteria have found.
func (s *Service) patchable(ctx context.Context, rq *Request, op string, ref fhir.Ref, pre Preconditions,
	found uint64) (*stored, error) {
	if !fhir.ValidID(ref.ID) {
		return nil, errHidden(op)
	}
	old, err := s.current(ctx, ref)
	if err != nil {
		return nil, err
	}
	if found != 0 && (!old.live() || old.res.Version != found) {
		return nil, changed(op)
	}
	if old == nil {
		return nil, errHidden(op)
	}
	seen, err := visible(rq, op, access.Update, old)
	if err != nil {
		return nil, err
	}
	if !seen {
		return nil, concealing(errHidden(op), disclosedOf(old))
	}
	if err := pre.check(op, old); err != nil {
		return nil, err
	}
	if old.res.Deleted {
		return nil, disclosing(fhir.Errorf(fhir.Gone, op, "the resource was deleted"), disclosedOf(old))
	}
	return old, nil
}

// draftPatch prepares the new version of old. Errors depend on the content of old and
// therefore disclose it. The links of a transaction (l) are those of the patch.
func (s *Service) draftPatch(ctx context.Context, rq *Request, op string, old *stored, p Patch, pre Preconditions,
	l *links) (*draft, error) {
	var err error
	if p.Body, err = s.linked(p.Body, l); err != nil {
		return nil, err
	}
	ref := old.res.Ref()
	body, err := s.apply(ctx, p, old.res.JSON)
	if err == nil && s.phoneMade(rq, ref.Type, body) {
		err = errPhoneMade(op, "with PATCH", "use POST")
	}
	if err != nil {
		return nil, disclosing(err, disclosedOf(old))
	}
	res, err := s.admit(op, ref, body, nil)
	if err != nil {
		return nil, disclosing(err, disclosedOf(old))
	}
	d, err := s.draftUpdate(ctx, rq, op, res, old, pre)
	if err != nil {
		return nil, err
	}
	d.interaction = "patch"
	read := rq.filter(access.Read)
	d.silent = d.silent || !read.Allow(old.facts) ||
		!read.Allow(factsOf(&d.write.Resource, d.write.Values, d.write.Vendor, d.write.Author))
	return d, nil
}
