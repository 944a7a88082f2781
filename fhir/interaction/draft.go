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
	// reconciled is set if the write may take the tag patient-supplied away.
	reconciled bool
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
	return &stored{res: r, facts: facts}, nil
}

// draft is a write that is permitted and valid by itself. The rules between
// resources have not been checked yet.
type draft struct {
	interaction string
	write       store.Write
	patients    []string     // of the new version, and those who only had the one before
	subjects    []subjectRef // of subject and patient, and the patients of the compartments
	version     uint64       // that the commit will give
	done        bool         // there is nothing to write
	entry       string       // place of the entry in a transaction
	silent      bool         // the answer leaves out the resource, which the caller may not read
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
	ev.Data = []audit.DataRef{{Ref: d.write.Resource.Ref(), Version: d.version}}
	return perPatient(ev, d.patients)
}

// referredPatients returns the ids of the patients that the draft refers to.
func (d *draft) referredPatients() []string {
	var out []string
	for _, p := range d.subjects {
		if p.ref.Type == "Patient" {
			out = append(out, p.ref.ID)
		}
	}
	return out
}

// touches returns the guards of the criteria that may match the written resource
// (criteria.guards).
func (d *draft) touches() []string {
	if d.write.Op != store.Put || d.done {
		return nil
	}
	typ := d.write.Resource.Type
	out := []string{typeGuard(typ, "")}
	for _, p := range d.patients {
		out = append(out, typeGuard(typ, p))
	}
	for _, v := range d.write.Values.ByParam["identifier"] {
		if v.Code != "" {
			out = append(out, criteriaGuard(identifierKey(typ, v.Code)))
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
	if err := keepOwn(rq, op, res.Type, res.JSON, old); err != nil {
		return nil, err
	}
	if check := s.Checks[res.Type]; check != nil {
		next, err := check(ctx, rq.Principal, &res, prev)
		if err != nil {
			return nil, err
		}
		res = *next
	}
	kept, err := s.supply(rq, op, &res, old)
	if err == nil {
		err = s.mustConform(rq, op, &res)
	}
	if err != nil {
		return nil, err
	}
	values, err := search.Extract(res.Type, res.JSON)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	facts := factsOf(&res, values, "", rq.author())
	d := &draft{interaction: interaction, patients: facts.Patients(), version: 1}
	d.silent = kept && !rq.filter(access.Read).Allow(old.facts)
	d.write = store.Write{Op: store.Put, Resource: res, Values: values, Author: rq.author(), Expect: store.Absent}
	if old != nil {
		d.version = old.res.Version + 1
		d.write.Expect, d.write.IfVersion = store.Version, old.res.Version
		if old.facts.Patient != values.Patient && old.facts.Vendor != "" {
			return nil, disclosing(errMoved(op, res.Type), disclosedOf(old))
		}
		for _, p := range old.facts.Patients() {
			if !slices.Contains(d.patients, p) {
				d.patients = append(d.patients, p)
			}
		}
	}
	if old.live() {
		// Consent depends on the author and the vendor, so an update must keep them.
		d.write.Vendor, d.write.Author = old.facts.Vendor, old.facts.Author
	}
	for _, code := range subjectParams {
		for _, v := range values.ByParam[code] {
			d.refer(fhir.Ref{Type: v.RefType, ID: v.RefID}, res.Type+"."+code)
		}
	}
	if res.Type != "Patient" {
		for _, p := range facts.Patients() {
			d.refer(fhir.Ref{Type: "Patient", ID: p}, res.Type)
		}
	}
	return d, d.permit(rq, op, may, old)
}

// refer adds a reference to the subjects.
func (d *draft) refer(ref fhir.Ref, path string) {
	if fhir.KnownType(ref.Type) && !slices.ContainsFunc(d.subjects, func(p subjectRef) bool { return p.ref == ref }) {
		d.subjects = append(d.subjects, subjectRef{ref: ref, path: path})
	}
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
	denied := false
	if filter.Covers(facts) {
		for i := range d.subjects {
			p := d.subjects[i].ref
			if p.Type != "Patient" || !slices.Contains(facts.Patients(), p.ID) || filter.Consented(facts, p.ID) {
				continue
			}
			if old.live() && slices.Contains(old.facts.Patients(), p.ID) {
				denied = false
				break
			}
			d.subjects[i].denied, denied = true, true
		}
	}
	if denied {
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
		return concealing(errDangling(op, p), disclosed{ref: p.ref, patients: []string{p.ref.ID}})
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
			disclosed{ref: fhir.Ref{Type: "Patient", ID: patient}, patients: []string{patient}})
	}
	return nil
}

// written returns the result of a committed draft.
func written(d *draft, o store.Outcome) Written {
	r := d.write.Resource
	r.Version, r.LastUpdated, r.JSON = o.Version, o.LastUpdated, o.JSON
	r.Deleted = d.write.Op == store.Remove
	if d.silent {
		r.JSON = nil
	}
	return Written{Resource: r, Created: d.interaction == "create"}
}
