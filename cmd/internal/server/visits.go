package server

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/pages"
	"pulsegate/smart/people/role"
)

// maySelect: a practitioner puts any patient into context that is there, a
// patient herself; what is seen of that patient is decided by consent, at each
// request. An encounter may be any that is not another patient's.
func (m *Main) maySelect(ctx context.Context, s authorize.Subject, patient, encounter string) error {
	const op = "server.maySelect"
	names, ok, err := m.signs.Roles(ctx, s)
	if err != nil {
		return err
	}
	roles, perr := role.Parse(names)
	own := patient != "" && s.FHIRUser == fhir.Ref{Type: "Patient", ID: patient} && roles.Has(role.Patient)
	if !ok || perr != nil || !own && !roles.May(role.ChoosePatient) {
		return fhir.Errorf(fhir.Forbidden, op, "the role does not choose patients")
	}
	if patient != "" {
		there, err := m.known(ctx, fhir.Ref{Type: "Patient", ID: patient})
		if err != nil {
			return err
		}
		if !there {
			return fhir.Errorf(fhir.NotFound, op, "no such patient")
		}
	}
	if encounter == "" || patient == "" {
		return nil
	}
	// Encounters are the EHR's and not stored here; what is known of them is
	// whose data names them.
	mine, err := m.names(ctx, patient, encounter)
	if err != nil || mine {
		return err
	}
	others, err := m.names(ctx, "", encounter)
	if err == nil && others {
		err = fhir.Errorf(fhir.Forbidden, op, "the encounter is another patient's")
	}
	return err
}

// names reports whether an Observation, of a patient or of anybody, is from an
// encounter.
func (m *Main) names(ctx context.Context, patient, encounter string) (bool, error) {
	params := [][2]string{{"encounter", "Encounter/" + encounter}}
	if patient != "" {
		params = append(params, [2]string{"patient", patient})
	}
	q, err := search.Parse("Observation", params, search.ParseOptions{Base: m.fhirBase()})
	if err != nil {
		return false, err
	}
	found := false
	err = m.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search), Limit: 1},
		func(*store.Found) bool {
			found = true
			return false
		})
	return found, err
}

const maxVisits = 12

// Visits implements pages.Patients: the encounters of the newest hundred
// Observations that have one, as far as the person may see those.
func (p patients) Visits(ctx context.Context, by audit.Caller, patient string) ([]pages.Visit, error) {
	// The page's own grant knows no consents; measurements are under them.
	who := *by.Principal
	who.Grant = &access.Grant{Rules: by.Principal.Grant.Rules, Consents: p.m.glass.For(p.m.consents, who.Subject),
		Person: true}
	by.Principal = &who
	q := url.Values{"patient": {patient}, "encounter:missing": {"false"}, "_sort": {"-date"},
		"_count": {"100"}}.Encode()
	page, err := p.m.service.Search(ctx, asked(by, "GET Observation?"+q), "Observation", q)
	if err != nil {
		return nil, err
	}
	var bundle struct {
		Entry []struct {
			Resource struct {
				ResourceType string `json:"resourceType"`
				Encounter    struct {
					Reference string `json:"reference"`
					Display   string `json:"display"`
				} `json:"encounter"`
				Effective string `json:"effectiveDateTime"`
				Period    struct {
					Start string `json:"start"`
				} `json:"effectivePeriod"`
			} `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(page.Bytes(), &bundle); err != nil {
		return nil, fhir.Wrap("server.Visits", err)
	}
	var out []pages.Visit
	for _, e := range bundle.Entry {
		r := e.Resource
		ref, ok := fhir.ParseRef(r.Encounter.Reference)
		if r.ResourceType != "Observation" || !ok || ref.Type != "Encounter" || len(out) == maxVisits ||
			slices.ContainsFunc(out, func(v pages.Visit) bool { return v.ID == ref.ID }) {
			continue
		}
		v := pages.Visit{ID: ref.ID, Name: r.Encounter.Display}
		if r.Effective == "" {
			r.Effective = r.Period.Start
		}
		if t, err := time.Parse(time.RFC3339, r.Effective); err == nil {
			v.Last = t
		}
		out = append(out, v)
	}
	return out, nil
}
