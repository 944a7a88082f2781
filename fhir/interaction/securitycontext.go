package interaction

import (
	"context"
	"encoding/json"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// contextFacts returns the facts of the resource that the securityContext of a Binary
// names, or nil if the Binary has none. A caller who may not read that resource may not
// read the Binary either (R4 binary.html#security). If it is in the compartment of a
// patient, that patient's consents must permit the Binary. The Binary is hidden as well if
// the context is not on this server, because its rules are not known here.
func (s *Service) contextFacts(ctx context.Context, rq *Request, op string, binary *fhir.Resource,
	of *access.Facts) (*access.Facts, error) {
	var b struct{ SecurityContext *struct{ Reference string } }
	if err := json.Unmarshal(binary.JSON, &b); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if b.SecurityContext == nil {
		return nil, nil
	}
	typ, id, _ := strings.Cut(strings.TrimPrefix(b.SecurityContext.Reference, s.Base+"/"), "/")
	id, _, _ = strings.Cut(id, "/_history/")
	ref := fhir.Ref{Type: typ, ID: id}
	if ref.Type == binary.Type || !fhir.IsR4Type(typ) {
		return nil, errHidden(op)
	}
	_, facts, err := s.lookUp(rq, op, ref, func() (fhir.Resource, *access.Facts, error) {
		return s.Store.Read(ctx, ref, 0)
	})
	if err != nil && fhir.KindOf(err) != fhir.Internal && fhir.KindOf(err) != fhir.Unavailable {
		return nil, errHidden(op)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range facts.Patients() {
		within := *of
		within.Patient = p
		if !rq.filter(access.Read).Allow(&within) {
			return nil, concealing(errHidden(op), disclosed{ref: binary.Ref(), patients: facts.Patients()})
		}
	}
	return facts, nil
}
