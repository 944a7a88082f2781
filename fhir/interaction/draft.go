package interaction

import (
	"bytes"
	"context"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// retries of a write that lost the race for the next version.
const retries = 16

// stored is what is there: nil when there never was anything.
type stored struct {
	res   fhir.Resource
	facts *access.Facts
}

func (o *stored) live() bool { return o != nil && !o.res.Deleted }

// current reads what a write will replace.
func (s *Service) current(ctx context.Context, ref fhir.Ref) (*stored, error) {
	r, facts, err := s.Store.Read(ctx, ref, 0)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			return nil, nil
		}
		return nil, err
	}
	return &stored{r, facts}, nil
}

// draft is a write that is allowed and valid by itself; what remains are the
// rules between resources.
type draft struct {
	interaction string
	write       store.Write
	patient     string
	refers      []place // of subject and patient
	version     uint64  // that the commit will give
}

// place is a reference and where it stands.
type place struct {
	ref  fhir.Ref
	path string
}

func (d *draft) event(rq *Request) audit.Event {
	ev := rq.event(d.interaction, d.write.Resource.Type)
	ev.Patient = d.patient
	ev.Data = []audit.DataRef{{Ref: d.write.Resource.Ref(), Version: d.version}}
	return ev
}

// patients are the ids of the patients the draft refers to.
func (d *draft) patients() []string {
	var out []string
	for _, p := range d.refers {
		if p.ref.Type == "Patient" {
			out = append(out, p.ref.ID)
		}
	}
	return out
}

// subjectParams are the search parameters whose references must exist.
var subjectParams = []string{"subject", "patient"}

// draftPut prepares a create (old is nil or deleted) or an update of res.
func (s *Service) draftPut(ctx context.Context, rq *Request, op string, res fhir.Resource, old *stored) (*draft, error) {
	may, interaction := access.Create, "create"
	var prev *fhir.Resource
	if old.live() {
		may, interaction = access.Update, "update"
		prev = &old.res
	}
	if bytes.Contains(res.JSON, []byte(s.Base+"/")) {
		var err error
		if res.JSON, err = rewriteReferences(res.JSON, nil, s.Base); err != nil {
			return nil, err
		}
	}
	if check := s.Checks[res.Type]; check != nil {
		next, err := check(ctx, rq.Principal, &res, prev)
		if err != nil {
			return nil, err
		}
		res = *next
	}
	values, err := search.Extract(res.Type, res.JSON)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	d := &draft{interaction: interaction, patient: values.Patient, version: 1}
	d.write = store.Write{Op: store.Put, Resource: res, Values: values, Author: rq.author(), Expect: store.Absent}
	if old != nil {
		d.version = old.res.Version + 1
		d.write.Expect, d.write.IfVersion = store.Version, old.res.Version
	}
	if old.live() {
		// Who recorded it and from which vendor decides on consent; an
		// update must not take data out of that.
		d.write.Vendor, d.write.Author = old.facts.Vendor, old.facts.Author
	}
	if !rq.filter(may).Allow(factsOf(&res, values, d.write.Vendor, d.write.Author)) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "scope or consent does not allow to %s this %s", interaction, res.Type)
	}
	for _, code := range subjectParams {
		for _, v := range values.ByParam[code] {
			p := place{fhir.Ref{Type: v.RefType, ID: v.RefID}, res.Type + "." + code}
			if fhir.KnownType(p.ref.Type) && !slices.ContainsFunc(d.refers, func(q place) bool { return q.ref == p.ref }) {
				d.refers = append(d.refers, p)
			}
		}
	}
	return d, nil
}

// visible answers the second question for what a write would replace or
// remove: hidden is as absent, visible but not to be written is 403.
func visible(rq *Request, op string, may access.Interaction, old *stored) error {
	if rq.filter(may).Allow(old.facts) {
		return nil
	}
	if rq.filter(access.Read).Allow(old.facts) {
		return fhir.Errorf(fhir.Forbidden, op, "the granted scopes do not allow to write this %s", old.res.Type)
	}
	return &errHidden{cause: hidden(op), patient: old.facts.Patient}
}

// draftDelete prepares the removal of what old holds.
func (s *Service) draftDelete(ctx context.Context, rq *Request, op string, old *stored) (*draft, error) {
	if check := s.Checks[old.res.Type]; check != nil {
		if _, err := check(ctx, rq.Principal, nil, &old.res); err != nil {
			return nil, err
		}
	}
	return &draft{
		interaction: "delete",
		patient:     old.facts.Patient,
		version:     old.res.Version + 1,
		write: store.Write{
			Op: store.Remove, Resource: fhir.Resource{Type: old.res.Type, ID: old.res.ID},
			Vendor: old.facts.Vendor, Author: old.facts.Author,
			Expect: store.Version, IfVersion: old.res.Version,
		},
	}, nil
}

// mustExist checks the references of ds. The caller holds the locks of the
// patients. here are resources of the same commit: true written, false
// removed.
func (s *Service) mustExist(ctx context.Context, op string, ds []*draft, here map[fhir.Ref]bool) error {
	var ask []fhir.Ref
	var at []place
	for _, d := range ds {
		for _, p := range d.refers {
			written, ok := here[p.ref]
			switch {
			case ok && written:
			case ok:
				return dangling(op, p)
			case !slices.Contains(ask, p.ref):
				ask, at = append(ask, p.ref), append(at, p)
			}
		}
	}
	if len(ask) == 0 {
		return nil
	}
	heads, err := s.Store.Heads(ctx, ask)
	if err != nil {
		return err
	}
	for i, h := range heads {
		if h.Version == 0 || h.Deleted {
			return dangling(op, at[i])
		}
	}
	return nil
}

func dangling(op string, p place) error {
	return &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: []fhir.Issue{{
		Severity: "error", Code: "not-found", Expression: []string{p.path},
		Diagnostics: p.path + " refers to a " + p.ref.Type + " that is not on this server",
	}}}
}

// unreferenced refuses the removal of a Patient to whom anything but the
// audit trail still refers. The caller holds the patient's lock. gone are
// removed in the same commit.
func (s *Service) unreferenced(ctx context.Context, op, patient string, gone map[fhir.Ref]bool) error {
	found := false
	see := func(f *store.Found) bool {
		written, ok := gone[f.Resource.Ref()]
		found = !ok || written
		return !found
	}
	var types []string
	for _, t := range fhir.Types {
		if t != "AuditEvent" && t != "Patient" && t != "Group" {
			types = append(types, t)
		}
	}
	all := access.All().Filter(access.Read)
	if err := s.Store.Scan(ctx, store.ScanRange{Types: types, Patient: patient, At: s.Store.T(), Filter: all}, see); err != nil {
		return err
	}
	if !found {
		q, err := s.parse("Group", "member=Patient/"+patient, false)
		if err != nil {
			return err
		}
		if err := s.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)}, see); err != nil {
			return err
		}
	}
	if found {
		return fhir.Errorf(fhir.Conflict, op, "other resources still refer to this Patient")
	}
	return nil
}

// written makes the answer of a draft from its outcome.
func written(d *draft, o store.Outcome) Written {
	r := d.write.Resource
	r.Version, r.LastUpdated, r.JSON = o.Version, o.LastUpdated, o.JSON
	r.Deleted = d.write.Op == store.Remove
	return Written{Resource: r, Created: d.interaction == "create"}
}
