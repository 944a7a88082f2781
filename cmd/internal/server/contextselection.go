package server

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/people/role"
)

// contextSelection decides which patient and encounter a person may put into
// the launch context of an app.
type contextSelection struct {
	store database
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
