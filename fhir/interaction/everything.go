package interaction

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// careDates lists, for types of events, the search parameter with the time of the care.
// $everything restricts only these types by start and end: a Condition or an
// AllergyIntolerance of earlier may still be one, and a Device or a Coverage has no time of
// care.
var careDates = map[string]string{ // read only
	"Observation": "date", "Encounter": "date", "Procedure": "date", "Immunization": "date", "DiagnosticReport": "date",
	"ClinicalImpression": "date", "RiskAssessment": "date", "Appointment": "date", "CarePlan": "date",
	"CareTeam":      "date",
	"EpisodeOfCare": "date", "Flag": "date", "MedicationAdministration": "effective-time",
	"MedicationStatement": "effective", "MedicationDispense": "whenhandedover", "ImagingStudy": "started",
	"Media": "created", "Specimen": "collected", "ServiceRequest": "occurrence", "Communication": "sent",
	"QuestionnaireResponse": "authored",
}

// Everything implements Patient/[id]/$everything
// (https://hl7.org/fhir/R4/patient-operation-everything.html). It returns a searchset with
// the resources of the patient's compartment that the caller may see, samples included,
// type by type, and as includes the resources to which they refer. With an empty patient it
// is Patient/$everything, which is offered to the token of a patient in context. Its
// parameters are start, end, _since, _type and _count.
//
// All pages show the state of the first page, under the current scopes and consents. A type
// that the scopes do not cover is left out. So are AuditEvents unless _type names them,
// because each page adds one, and Groups, which name other patients. Resources of other
// patients are not included. What several pages refer to is included on each of them. With
// _type, only resources of these types are included.
func (s *Service) Everything(ctx context.Context, rq *Request, patient string, ps []Parameter) (*Page, error) {
	e, err := s.everything(ctx, rq, patient, ps)
	if err != nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: "Patient"}, err)
	}
	line := recorded{typ: "Patient", line: rq.Line, single: e.patient, base: s.Base}
	for i := range ps {
		line.pairs = append(line.pairs, [2]string{ps[i].Name, ps[i].text()})
	}
	evs := line.events(rq, map[string]bool{e.patient: e.res.page.count > 0})
	evs = append(evs, disclosureEvents(rq, "read", e.others)...)
	if e.audits {
		ev := rq.event("search-type", "AuditEvent")
		ev.Patient, ev.Query = e.patient, rq.Line
		evs = append(evs, ev)
	}
	if err := s.disclose(ctx, rq, evs...); err != nil {
		return nil, err
	}
	return e.res.page, nil
}

// everything is one call of $everything.
type everything struct {
	service    *Service
	rq         *Request
	limits     Limits
	patient    string
	types      []string // of the compartment, in order of the answer
	only       []string // _type, or nil
	start, end string
	since      string
	count      int
	page       string // sealed parameter of a page link
	at         store.Seq
	after      search.Position // of the first type
	res        *results
	last       string // position of the last entry
	audits     bool   // the page has AuditEvents
	// others holds the resources that name other patients, too. Their events do not have
	// the query, which names this patient.
	others []disclosed
	seen   map[fhir.Ref]bool // matches, and the resources to which they refer
	refs   []fhir.Ref        // resources of this server to which the matches refer
}

func (s *Service) everything(ctx context.Context, rq *Request, patient string, ps []Parameter) (*everything, error) {
	const op = "interaction.Everything"
	e := &everything{service: s, rq: rq, patient: patient, limits: rq.limits(s)}
	if err := e.authorize(); err != nil {
		return nil, err
	}
	if err := e.read(ps); err != nil {
		return nil, err
	}
	applied := e.applied(ps)
	bound := joined("everything", rq.caller(), e.patient, applied)
	point, err := s.openPage(ctx, op, bound, e.page)
	if err != nil {
		return nil, err
	}
	e.res = &results{page: &Page{}, resumed: point.at > 0}
	e.seen = map[fhir.Ref]bool{}
	if e.at = point.at; e.at == 0 {
		e.at = s.Store.LastSeq()
	} else {
		typ, after, _ := strings.Cut(point.after, " ")
		i := slices.Index(e.types, typ)
		if i < 0 {
			return nil, fhir.Errorf(fhir.Gone, op, "the scopes have changed since the first page; repeat the request")
		}
		e.types, e.after = e.types[i:], after
	}
	if err := e.exists(ctx); err != nil {
		return nil, err
	}
	for i, typ := range e.types {
		if err := e.gather(ctx, typ, i == 0); err != nil || e.res.more {
			if err != nil {
				return nil, err
			}
			break
		}
	}
	if err := e.include(ctx); err != nil {
		return nil, err
	}
	return e, e.open(ctx, bound, applied)
}

// authorize determines the patient, and whether the token covers any type of a compartment.
func (e *everything) authorize() error {
	const op = "interaction.Everything"
	if e.rq.Principal == nil {
		return fhir.Errorf(fhir.Unauthorized, op, "an access token is needed")
	}
	if e.patient == "" {
		if e.patient = e.rq.Principal.Patient; e.patient == "" {
			return fhir.Errorf(fhir.Invalid, op,
				"name the patient in the URL, Patient/[id]/$everything: the token has none")
		}
	}
	if !fhir.ValidID(e.patient) {
		return errHidden(op)
	}
	covered := func(typ string) bool { return e.rq.Principal.Grant.May(access.Search|access.Read, typ) }
	if !slices.ContainsFunc(compartmentTypes(), covered) {
		return fhir.Errorf(fhir.Forbidden, op, "the granted scopes do not cover any type of the patient's compartment")
	}
	return nil
}

// compartmentTypes returns the types of the answer: Patient, and then the others by name.
func compartmentTypes() []string {
	out := []string{"Patient"}
	for _, typ := range slices.Sorted(slices.Values(fhir.Types)) {
		if code, _ := search.PatientParam(typ); code != "" && typ != "Patient" && typ != "Group" {
			out = append(out, typ)
		}
	}
	return out
}

// filter returns the filter of a type.
func (e *everything) filter(typ string) access.Filter {
	if e.rq.Principal.Grant.May(access.Search, typ) {
		return e.rq.filter(access.Search)
	}
	return e.rq.filter(access.Read)
}

// read validates the inputs.
func (e *everything) read(ps []Parameter) error {
	const op = "interaction.Everything"
	e.count = e.limits.Count
	seen := map[string]bool{}
	for i := range ps {
		p := &ps[i]
		want, ok := "", utf8Value(p)
		switch p.Name {
		case "_format", "_pretty":
			continue
		case "start", "end":
			want = "a date, as the value of date in a search"
			text := search.Plus(p.Value)
			_, _, valid := search.DateInterval(text)
			if ok = ok && valid; p.Name == "start" {
				e.start = text
			} else {
				e.end = text
			}
		case "_since":
			want = "an instant"
			e.since = search.Plus(p.Value)
			_, err := time.Parse(time.RFC3339, e.since)
			ok = ok && err == nil
		case "_type":
			want = "a comma-separated list of resource types of this server"
			for _, typ := range strings.Split(p.Value, ",") {
				ok = ok && fhir.KnownType(typ) && len(e.only) < 200
				e.only = append(e.only, typ)
			}
		case "_count":
			want = "a whole number above 0"
			n, err := strconv.Atoi(p.Value)
			e.count, ok = min(n, e.limits.MaxCount), err == nil && n > 0
		case paramPage:
			want = "copied unchanged from a page link of the server"
			e.page = p.Value
		default:
			return fhir.Errorf(fhir.Invalid, op,
				"a parameter is not supported; $everything takes start, end, _since, _type and _count")
		}
		switch {
		case !ok:
			return fhir.Errorf(fhir.Invalid, op, "%s must be %s", p.Name, want)
		case seen[p.Name] && p.Name != "_type":
			return fhir.Errorf(fhir.Invalid, op, "%s is given more than once; give it once", p.Name)
		}
		seen[p.Name] = true
	}
	return e.narrow()
}

// narrow determines the types of the answer: those of the compartment, as _type restricts
// them, that the scopes cover. A request for types of which the scopes cover none is refused.
// Includes alone, as of _type=Organization, are no such request.
func (e *everything) narrow() error {
	types := slices.DeleteFunc(compartmentTypes(), func(typ string) bool {
		return e.only != nil && !slices.Contains(e.only, typ) || e.only == nil && typ == "AuditEvent"
	})
	for _, typ := range types {
		if e.rq.Principal.Grant.May(access.Search|access.Read, typ) {
			e.types = append(e.types, typ)
		}
	}
	if len(e.types) == 0 && len(types) > 0 {
		return fhir.Errorf(fhir.Forbidden, "interaction.Everything",
			"the granted scopes do not cover any type of the patient's compartment that the request asks for")
	}
	return nil
}

// applied returns the parameters for the links, without that of the page.
func (e *everything) applied(ps []Parameter) string {
	return FormatParameters(slices.DeleteFunc(slices.Clone(ps), func(p Parameter) bool { return p.Name == paramPage }))
}

// exists returns an error if the scopes cover Patients, and the patient is absent or hidden.
// A caller without such a scope does not learn whether there is the patient.
func (e *everything) exists(ctx context.Context) error {
	const op = "interaction.Everything"
	if !e.rq.Principal.Grant.May(access.Search|access.Read, "Patient") {
		return nil
	}
	ref := fhir.Ref{Type: "Patient", ID: e.patient}
	r, facts, err := e.service.Store.Read(ctx, ref, 0)
	switch {
	case err != nil && fhir.KindOf(err) != fhir.NotFound:
		return err
	case err != nil:
		return errHidden(op)
	case !e.rq.filter(access.Read).Allow(facts) && !e.rq.filter(access.Search).Allow(facts):
		return concealing(errHidden(op), disclosed{ref: ref, patients: []string{e.patient}})
	case r.Deleted:
		return disclosing(fhir.Errorf(fhir.Gone, op, "the resource was deleted"),
			disclosed{ref, r.Version, []string{e.patient}})
	}
	return nil
}

// gather adds the resources of one type to the page.
func (e *everything) gather(ctx context.Context, typ string, first bool) error {
	var pairs [][2]string
	if e.since != "" {
		pairs = append(pairs, [2]string{"_lastUpdated", "gt" + e.since})
	}
	if date := careDates[typ]; date != "" && e.start+e.end != "" {
		if p, ok := search.Lookup(typ, date); ok && p.Supported() {
			if e.start != "" {
				pairs = append(pairs, [2]string{date, "ge" + e.start})
			}
			if e.end != "" {
				pairs = append(pairs, [2]string{date, "le" + e.end})
			}
		}
	}
	q, err := search.Parse(typ, pairs, search.ParseOptions{Base: e.service.Base, Now: e.service.Clock})
	if err != nil {
		return fhir.Wrap("interaction.Everything", err)
	}
	if err := e.restrict(q); err != nil {
		return err
	}
	page := e.res.page
	find := store.Find{Query: q, Filter: e.filter(typ), At: e.at, Limit: e.count - page.count + 1, Owner: e.rq.caller(),
		Undeleted: e.res.resumed}
	if first {
		find.After = e.after
	}
	size := e.limits.PageBytes
	return e.service.Store.Find(ctx, find, func(f *store.Found) bool {
		if page.count == e.count || page.count > 0 && len(page.entries) > size {
			e.res.more = true
			return false
		}
		e.last = typ + " " + f.Pos
		e.audits = e.audits || typ == "AuditEvent"
		e.seen[f.Resource.Ref()] = true
		page.match(e.service.Base+"/"+f.Resource.Ref().String(), f.Resource.JSON, "match")
		e.references(f.Resource.JSON)
		for _, p := range f.Facts.Patients() {
			if p != e.patient {
				e.others = append(e.others, disclosed{f.Resource.Ref(), f.Resource.Version, []string{p}})
			}
		}
		return true
	})
}

// restrict restricts a query to the compartment of the patient.
func (e *everything) restrict(q *search.Query) error {
	p, ok := search.CompartmentParam(q.Type)
	if !ok {
		return fhir.Errorf(fhir.Internal, "interaction.Everything", "the type has no compartment")
	}
	v := search.Value{RefType: "Patient", RefID: e.patient}
	if p.Code == "_id" {
		v = search.Value{Code: e.patient}
	}
	q.Clauses = append([]search.Clause{{Param: p, Values: []search.Value{v}}}, q.Clauses...)
	if _, single := search.PatientParam(q.Type); single {
		q.Patient = e.patient
	}
	return nil
}

// Members of a resource with references, as canonical JSON has them. Within a string, the
// quotation marks would be escaped.
var (
	memberReference = []byte(`"reference":"`)
	memberURL       = []byte(`"url":"`) // Attachment.url
)

// references collects the resources of this server to which a resource refers.
func (e *everything) references(json []byte) {
	for _, member := range [][]byte{memberReference, memberURL} {
		for rest := json; ; {
			i := bytes.Index(rest, member)
			if i < 0 {
				break
			}
			rest = rest[i+len(member):]
			end := bytes.IndexByte(rest, '"')
			if end < 0 {
				break
			}
			ref, ok := fhir.ParseRef(strings.TrimPrefix(string(rest[:end]), e.service.Base+"/"))
			if !ok || e.seen[ref] || !fhir.KnownType(ref.Type) || &member[0] == &memberURL[0] && ref.Type != "Binary" ||
				e.only != nil && !slices.Contains(e.only, ref.Type) {
				continue
			}
			e.seen[ref] = true
			e.refs = append(e.refs, ref)
		}
	}
}

// include adds the resources to which the matches refer, unless they belong to a patient:
// those of this patient are matches, on this page or another.
func (e *everything) include(ctx context.Context) error {
	n := 0
	for _, ref := range e.refs {
		r, facts, err := e.service.Store.Read(ctx, ref, e.at)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return err
		}
		if err != nil || r.Deleted || facts.Patient != "" ||
			!e.rq.filter(access.Search).Allow(facts) && !e.rq.filter(access.Read).Allow(facts) {
			continue
		}
		if e.res.resumed {
			now, err := e.service.Store.Heads(ctx, []fhir.Ref{ref})
			if err != nil {
				return err
			}
			if now[0].Deleted {
				continue
			}
		}
		if n++; n > e.limits.Includes || len(e.res.page.entries) > 2*e.limits.PageBytes {
			return fhir.Errorf(fhir.TooCostly, "interaction.Everything",
				"the resources of this page refer to more than %d others; request smaller pages with _count",
				e.limits.Includes)
		}
		e.res.page.match(e.service.Base+"/"+ref.String(), r.JSON, "include")
	}
	return nil
}

// open writes the head of the page.
func (e *everything) open(ctx context.Context, bound []byte, applied string) error {
	s := e.service
	url, sep := s.Base+"/Patient/"+e.patient+"/$everything", "?"
	if applied != "" {
		url, sep = url+"?"+applied, "&"
	}
	self := url
	if e.page != "" {
		self += sep + paramPage + "=" + e.page
	}
	links := []link{{"self", self}}
	if e.res.more && e.last != "" {
		p, err := s.sealer(ctx)
		if err != nil {
			return err
		}
		links = append(links, link{"next", url + sep + paramPage + "=" + p.seal(bound, pagePoint{e.at, e.last})})
	}
	id, err := s.newID()
	if err != nil {
		return err
	}
	e.res.page.open(id, "searchset", s.Clock(), -1, links)
	return nil
}
