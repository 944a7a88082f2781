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
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/authz"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/pages"
	"pulsegate/smart/people/role"
)

// contextSelection decides which patient and encounter a person may put into
// the launch context of an app.
type contextSelection struct {
	store *pebblestore.DB
	base  string // FHIR base URL
	roles func(ctx context.Context, s authz.Subject) (roles []string, ok bool, err error)
}

// check implements authorize.Options.MaySelect. A practitioner may select any
// existing patient, and a patient only herself; consent decides at each request
// what the app sees of that patient. Any encounter may be selected that does
// not belong to another patient.
func (c contextSelection) check(ctx context.Context, s authorize.Subject, patient, encounter string) error {
	const op = "server.maySelect"
	names, ok, err := c.roles(ctx, s)
	if err != nil {
		return err
	}
	roles, perr := role.Parse(names)
	own := patient != "" && s.FHIRUser == fhir.Ref{Type: "Patient", ID: patient} && roles.Has(role.Patient)
	if !ok || perr != nil || !own && !roles.May(role.ChoosePatient) {
		return fhir.Errorf(fhir.Forbidden, op, "the role does not choose patients")
	}
	if patient != "" {
		found, err := exists(ctx, c.store, fhir.Ref{Type: "Patient", ID: patient})
		if err != nil {
			return err
		}
		if !found {
			return fhir.Errorf(fhir.NotFound, op, "no such patient")
		}
	}
	if encounter == "" || patient == "" {
		return nil
	}
	// Encounters belong to the EHR and are not stored here. An encounter is
	// attributed to every patient with an Observation that names it.
	found, err := c.observed(ctx, patient, encounter)
	if err != nil || found {
		return err
	}
	found, err = c.observed(ctx, "", encounter)
	if err == nil && found {
		err = fhir.Errorf(fhir.Forbidden, op, "the encounter is another patient's")
	}
	return err
}

// observed reports whether an Observation of the patient names the encounter.
// If patient is empty, the Observations of all patients count.
func (c contextSelection) observed(ctx context.Context, patient, encounter string) (bool, error) {
	params := [][2]string{{"encounter", "Encounter/" + encounter}}
	if patient != "" {
		params = append(params, [2]string{"patient", patient})
	}
	q, err := search.Parse("Observation", params, search.ParseOptions{Base: c.base})
	if err != nil {
		return false, err
	}
	found := false
	err = c.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search), Limit: 1},
		func(*store.Found) bool {
			found = true
			return false
		})
	return found, err
}

const maxVisits = 12 // on the page of a patient

// Visits implements pages.Patients. It returns the encounters that the newest 100
// Observations with an encounter name, as far as the person may see these.
func (p patients) Visits(ctx context.Context, by audit.Caller, patient string) ([]pages.Visit, error) {
	// The grant of a page has no consents, but Observations need them.
	principal := *by.Principal
	principal.Grant = &access.Grant{Rules: by.Principal.Grant.Rules,
		Consents: p.people.glass.For(p.people.consents, principal.Subject),
		Person:   true}
	by.Principal = &principal
	q := url.Values{"patient": {patient}, "encounter:missing": {"false"}, "_sort": {"-date"},
		"_count": {"100"}}.Encode()
	page, err := p.fhir.Search(ctx, pageRequest(by, "GET Observation?"+q), "Observation", q)
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
