package consent

import (
	"math"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// ScopeExtension holds, in the provision of a Consent to an app, the SMART
// scopes as granted.
const ScopeExtension = fhir.Canonical + "/StructureDefinition/smart-scope"

// Allowance is what a patient allows an app: to be shown data, under one
// authorization. Nothing is collected under it.
type Allowance struct {
	ID, Patient   string // of the Consent; of the patient
	Authorization string // id
	Client, App   string // id of the app and its name
	Scope         string // as granted
	Types         []string
	ScopeTexts    []string // the scopes in plain words
	From, Until   time.Time
}

// ForApp builds the Consent for a, in canonical form.
func ForApp(a Allowance) (fhir.Resource, error) {
	const op = "consent.ForApp"
	if !fhir.ValidID(a.ID) || !fhir.ValidID(a.Patient) || !fhir.ValidID(a.Authorization) || !fhir.ValidID(a.Client) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op,
			"Consent.id, patient, authorization and client must be FHIR ids")
	}
	if len(a.Types) == 0 || slices.ContainsFunc(a.Types, func(t string) bool { return !fhir.KnownType(t) }) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op, "types are resource types, one at least")
	}
	// Both ends of a period are included, and end at whole seconds.
	from, until := a.From.UTC().Truncate(time.Second), a.Until.UTC().Truncate(time.Second).Add(-time.Second)
	if until.Before(from) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op, "Consent.provision.period ends before it starts")
	}
	text := div("You allowed the app "+a.App+", registered as "+a.Client+", to do this until "+
		until.Format("2 January 2006, 15:04 UTC")+
		" at the latest. You can take it back at any time, under the apps with access. Nothing is collected under this consent, and what another consent denies stays denied.", a.ScopeTexts...)
	c := agreed(a.ID, a.Patient, text, a.From)
	c.Performer = []element.Reference{{Reference: "Patient/" + a.Patient}}
	c.Provision = provisionJSON{Type: "permit", Period: between(from, until),
		Actor: []actor{{element.NewConcept(element.ParticipationType, recipientRole),
			element.Reference{Identifier: &element.Identifier{System: AuthorizationSystem, Value: a.Authorization},
				Display: a.App + " (" + a.Client + ")"}}},
		// What is asked at each use is the token; this is for who reads it.
		Extension: []element.Extension{{URL: ScopeExtension, ValueString: a.Scope}},
		Action:    []element.CodeableConcept{element.NewConcept(actionSystem, actionDisclose)}}
	for _, t := range a.Types {
		c.Provision.Class = append(c.Provision.Class, element.Coding{System: typeSystem, Code: t})
	}
	b, err := marshal(c)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	return fhir.Resource{Type: "Consent", ID: a.ID, JSON: b}, nil
}

// EndApp returns the Consent of an app as ended.
func EndApp(r fhir.Resource) (fhir.Resource, error) {
	return end(r, "The access of this app has ended. Nothing more is shown under this consent.")
}

// Refusal is what a patient wants of an app, whoever uses it: to be shown
// nothing. It says nothing about what is collected.
type Refusal struct {
	ID, Patient string // of the Consent; of the patient
	Client, App string // id of the app and its name
	Now         time.Time
}

// Refuse builds the Consent for r, in canonical form: a denial, which beats
// whatever else the patient allowed the app.
func Refuse(r Refusal) (fhir.Resource, error) {
	const op = "consent.Refuse"
	if !fhir.ValidID(r.ID) || !fhir.ValidID(r.Patient) || !fhir.ValidID(r.Client) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op, "Consent.id, patient and client must be FHIR ids")
	}
	c := agreed(r.ID, r.Patient, div("You do not want that the app "+r.App+", registered as "+r.Client+
		", is shown any of your measurements or devices, whoever uses it. You can allow it again at any time, under the apps with access."), r.Now)
	c.Performer = []element.Reference{{Reference: "Patient/" + r.Patient}}
	c.PolicyRule = element.NewConcept(actCodeSystem, "OPTOUT")
	c.Provision = provisionJSON{Type: "deny", Action: []element.CodeableConcept{element.NewConcept(actionSystem, actionDisclose)},
		Actor: []actor{{element.NewConcept(element.ParticipationType, recipientRole),
			element.Reference{Identifier: &element.Identifier{System: ClientSystem, Value: r.Client}, Display: r.App + " (" + r.Client + ")"}}}}
	b, err := marshal(c)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	return fhir.Resource{Type: "Consent", ID: r.ID, JSON: b}, nil
}

// Refuses reports whether r is in force as what Refuse makes for the patient
// and the client.
func Refuses(r fhir.Resource, patient, client string) bool {
	c, is := compile(r.ID, patient, r.JSON)
	return is == active && !c.root.permit && !c.root.doubt && c.root.from == math.MinInt64 &&
		c.root.to == math.MaxInt64 &&
		slices.Equal(c.root.recipients, []string{client}) && c.root.acts(false) && c.root.nested == nil &&
		c.root.vendors == nil && c.root.categories == nil && c.root.types == nil
}
