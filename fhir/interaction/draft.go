package interaction

import (
	"context"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// retries bounds the attempts of a write that loses races for the next version.
const retries = 16

// stored is a stored resource. It is nil if the resource never existed.
type stored struct {
	res   fhir.Resource
	facts *access.Facts
}

func (st *stored) live() bool { return st != nil && !st.res.Deleted }

// current reads the version that a write will replace.
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

// draft is a write that is permitted and valid by itself. The rules between
// resources have not been checked yet.
type draft struct {
	interaction string
	write       store.Write
	patient     string
	from        string       // the patient who had the resource before, if another one
	subjects    []subjectRef // of subject and patient
	version     uint64       // that the commit will give
	done        bool         // there is nothing to write
	entry       string       // place of the entry in a transaction
	// refusal is the error of an update whose target is hidden from the caller. It is
	// returned after all other checks, so that it discloses nothing.
	refusal error
}

// subjectRef is a reference to a subject, with its path.
type subjectRef struct {
	ref  fhir.Ref
	path string
	// denied is set if the patient's consent does not permit the write.
	denied bool
}

// events returns one event for each patient whose data the write changes.
func (d *draft) events(rq *Request) []audit.Event {
	ev := rq.event(d.interaction, d.write.Resource.Type)
	ev.Patient = d.patient
	ev.Data = []audit.DataRef{{Ref: d.write.Resource.Ref(), Version: d.version}}
	if d.from == "" {
		return []audit.Event{ev}
	}
	other := ev
	other.Patient = d.from
	return []audit.Event{ev, other}
}

// patients returns the ids of the patients that the draft refers to.
func (d *draft) patients() []string {
	var out []string
	for _, p := range d.subjects {
		if p.ref.Type == "Patient" {
			out = append(out, p.ref.ID)
		}
	}
	return out
}

// subjectParams lists the search parameters whose references must exist.
var subjectParams = []string{"subject", "patient"}

// draftPut prepares a create (old is nil or deleted) or an update of res.
func (s *Service) draftPut(ctx context.Context, rq *Request, op string, res fhir.Resource,
	old *stored) (*draft, error) {
	may, interaction := access.Create, "create"
	var prev *fhir.Resource
	if old.live() {
		may, interaction = access.Update, "update"
		prev = &old.res
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
		if old.facts.Patient != values.Patient {
			if old.facts.Vendor != "" {
				return nil, disclosing(errMoved(op, res.Type), disclosedOf(old))
			}
			d.from = old.facts.Patient
		}
	}
	if old.live() {
		// Consent depends on the author and the vendor, so an update must keep them.
		d.write.Vendor, d.write.Author = old.facts.Vendor, old.facts.Author
	}
	for _, code := range subjectParams {
		for _, v := range values.ByParam[code] {
			p := subjectRef{ref: fhir.Ref{Type: v.RefType, ID: v.RefID}, path: res.Type + "." + code}
			if fhir.KnownType(p.ref.Type) &&
				!slices.ContainsFunc(d.subjects, func(q subjectRef) bool { return q.ref == p.ref }) {
				d.subjects = append(d.subjects, p)
			}
		}
	}
	return d, d.permit(rq, op, may, old)
}

// permit checks that the caller may write the new resource. If only the patient's
// consent forbids it, the reference to that patient is treated like one to a
// Patient that does not exist, so that callers cannot tell these apart. This is
// not needed if the caller already sees the patient's data.
func (d *draft) permit(rq *Request, op string, may access.Interaction, old *stored) error {
	facts := factsOf(&d.write.Resource, d.write.Values, d.write.Vendor, d.write.Author)
	filter := rq.filter(may)
	if filter.Allow(facts) {
		return nil
	}
	i := slices.IndexFunc(d.subjects, func(p subjectRef) bool {
		return p.ref == fhir.Ref{Type: "Patient",
			ID: d.patient}
	})
	if i >= 0 && filter.Covers(facts) && !(old.live() && old.facts.Patient == d.patient) {
		d.subjects[i].denied = true
		return nil
	}
	return fhir.Errorf(fhir.Forbidden, op, "scope or consent does not allow to %s this %s", d.interaction,
		d.write.Resource.Type)
}

// errMoved returns the error for moving ingested data to another patient. Their
// ids, their Provenance and the consent for them belong to the first patient.
func errMoved(op, typ string) error {
	path := typ + ".subject"
	if typ == "Device" || typ == "Consent" {
		path = typ + ".patient"
	}
	return &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: []fhir.Issue{{
		Severity: "error", Code: "business-rule", Expression: []string{path},
		Diagnostics: path + ": the patient of ingested data cannot be changed; mark it entered-in-error instead",
	}}}
}

// visible reports whether the caller may write the existing version. It returns
// false if the version is absent or hidden, and Forbidden if the caller may see
// but not write it.
func visible(rq *Request, op string, may access.Interaction, old *stored) (bool, error) {
	switch {
	case old == nil:
		return false, nil
	case rq.filter(may).Allow(old.facts):
		return true, nil
	case rq.filter(access.Read).Allow(old.facts):
		return false, disclosing(fhir.Errorf(fhir.Forbidden, op, "the granted scopes do not allow to write this %s",
			old.res.Type), disclosedOf(old))
	}
	return false, nil
}

// mustExist checks the subject references of ds in order, and then returns the
// first pending refusal. The caller holds the locks of the patients. inCommit has
// the resources of the same commit: true if written, false if deleted.
func (s *Service) mustExist(ctx context.Context, rq *Request, op string, ds []*draft,
	inCommit map[fhir.Ref]bool) error {
	var ask []fhir.Ref
	for _, d := range ds {
		for _, p := range d.subjects {
			if _, ok := inCommit[p.ref]; !ok && !slices.Contains(ask, p.ref) {
				ask = append(ask, p.ref)
			}
		}
	}
	var heads []store.Head
	if len(ask) > 0 {
		var err error
		if heads, err = s.Store.Heads(ctx, ask); err != nil {
			return err
		}
	}
	exists := func(ref fhir.Ref) bool {
		i := slices.Index(ask, ref)
		return i >= 0 && heads[i].Version > 0 && !heads[i].Deleted
	}
	for _, d := range ds {
		for _, p := range d.subjects {
			if inCommit[p.ref] && !p.denied {
				continue
			}
			if err := s.checkSubject(ctx, rq, op, p, exists(p.ref)); err != nil {
				return d.at(err)
			}
		}
	}
	for _, d := range ds {
		if d.refusal != nil {
			return d.at(d.refusal)
		}
	}
	return nil
}

// at prefixes err with the path of the entry in a transaction.
func (d *draft) at(err error) error {
	if d.entry == "" {
		return err
	}
	return at(d.entry, err)
}

// checkSubject checks one reference. For Patients, permit has checked the consent;
// other resources must be visible to the caller.
func (s *Service) checkSubject(ctx context.Context, rq *Request, op string, p subjectRef, exists bool) error {
	switch {
	case p.denied:
		return concealing(errDangling(op, p), disclosed{ref: p.ref, patient: p.ref.ID})
	case !exists:
		return errDangling(op, p)
	case p.ref.Type == "Patient":
		return nil
	}
	old, err := s.current(ctx, p.ref)
	if err != nil {
		return err
	}
	if old.live() {
		for _, i := range []access.Interaction{access.Read, access.Search, access.Update, access.Create} {
			if rq.filter(i).Allow(old.facts) {
				return nil
			}
		}
		return concealing(errDangling(op, p), disclosedOf(old))
	}
	return errDangling(op, p)
}

func errDangling(op string, p subjectRef) error {
	return &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: []fhir.Issue{{
		Severity: "error", Code: "not-found", Expression: []string{p.path},
		Diagnostics: p.path + " refers to a " + p.ref.Type +
			" that does not exist on this server, or about which scope or consent does not let you write",
	}}}
}

// unreferenced returns an error if resources other than AuditEvents refer to a
// Patient that is to be deleted. The caller holds the patient's lock. gone has the
// resources of the same commit (see mustExist).
func (s *Service) unreferenced(ctx context.Context, op, patient string, gone map[fhir.Ref]bool) error {
	found := false
	see := func(f *store.Found) bool {
		written, ok := gone[f.Resource.Ref()]
		found = !ok || written
		return !found
	}
	var types []string
	for _, t := range fhir.Types {
		if p, _ := access.PatientParam(t); p != "" && t != "AuditEvent" && t != "Patient" {
			types = append(types, t)
		}
	}
	all := access.All().Filter(access.Read)
	if err := s.Store.Scan(ctx, store.ScanRange{Types: types, Patient: patient, At: s.Store.LastSeq(), Filter: all},
		see); err != nil {
		return err
	}
	if !found {
		q, _, err := s.parse("Group", "member=Patient/"+patient, false)
		if err != nil {
			return err
		}
		if err := s.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)}, see); err != nil {
			return err
		}
	}
	if found {
		return disclosing(fhir.Errorf(fhir.Conflict, op,
			"other resources still refer to this Patient; delete them first"),
			disclosed{ref: fhir.Ref{Type: "Patient", ID: patient}, patient: patient})
	}
	return nil
}

// written returns the result of a committed draft.
func written(d *draft, o store.Outcome) Written {
	r := d.write.Resource
	r.Version, r.LastUpdated, r.JSON = o.Version, o.LastUpdated, o.JSON
	r.Deleted = d.write.Op == store.Remove
	return Written{Resource: r, Created: d.interaction == "create"}
}
