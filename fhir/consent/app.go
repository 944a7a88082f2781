package consent

import (
	"math"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// scopeExtension is the URL of the extension with the granted SMART scopes in the
// provision of a Consent for an app.
const scopeExtension = fhir.Canonical + "/StructureDefinition/smart-scope"

// Allowance describes the consent of a patient to show data to an app under one
// authorization.
type Allowance struct {
	ID, Patient   string // ids of the Consent and of the patient
	Authorization string // id
	Client, App   string // client id and name of the app
	Scope         string // granted scopes
	Types         []string
	ScopeTexts    []string // descriptions of the scopes for the narrative
	// Locations is set if a scope names the category location. Without it, the app does
	// not see where the patient was.
	Locations   bool
	From, Until time.Time
}

// ForApp builds the Consent for a in canonical form. It does not permit
// collection.
func ForApp(a Allowance) (fhir.Resource, error) {
	const op = "consent.ForApp"
	if !fhir.ValidID(a.ID) || !fhir.ValidID(a.Patient) || !fhir.ValidID(a.Authorization) || !fhir.ValidID(a.Client) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op,
			"Consent.id, patient, authorization and client must be FHIR ids")
	}
	if len(a.Types) == 0 || slices.ContainsFunc(a.Types, func(t string) bool { return !fhir.KnownType(t) }) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op,
			"types must name at least one resource type of this server")
	}
	// Both ends of a FHIR period are included, and they are whole seconds.
	from, until := a.From.UTC().Truncate(time.Second), a.Until.UTC().Truncate(time.Second).Add(-time.Second)
	if until.Before(from) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op, "Consent.provision.period ends before it starts")
	}
	text := div("You allowed the app "+a.App+", registered as "+a.Client+", to do this until "+
		until.Format("2 January 2006, 15:04 UTC")+
		" at the latest. You can take it back at any time, under the apps with access. Nothing is collected under this consent, and what another consent denies stays denied.", a.ScopeTexts...)
	c := newConsent(a.ID, a.Patient, text, a.From)
	c.Performer = []element.Reference{{Reference: "Patient/" + a.Patient}}
	c.Provision = provisionJSON{Type: "permit", Period: between(from, until),
		Actor: []actor{{element.NewConcept(element.ParticipationType, recipientRole),
			element.Reference{Identifier: &element.Identifier{System: AuthorizationSystem, Value: a.Authorization},
				Display: a.App + " (" + a.Client + ")"}}},
		// For readers of the Consent. Access checks use the scopes of the token.
		Extension: []element.Extension{{URL: scopeExtension, ValueString: a.Scope}},
		Action:    []element.CodeableConcept{element.NewConcept(actionSystem, actionDisclose)}}
	for _, t := range a.Types {
		c.Provision.Class = append(c.Provision.Class, element.Coding{System: typeSystem, Code: t})
	}
	if a.Locations {
		c.Provision.Provision = []provisionJSON{{Type: "permit",
			Code: []element.CodeableConcept{element.NewConcept(categoryOwn, CategoryLocation)}}}
	}
	b, err := marshal(c)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	return fhir.Resource{Type: "Consent", ID: a.ID, JSON: b}, nil
}

// EndApp returns the Consent for an app with the status inactive.
func EndApp(r fhir.Resource) (fhir.Resource, error) {
	return end(r, "The access of this app has ended. Nothing more is shown under this consent.")
}

// Refusal describes the decision of a patient to stop an app. It does not affect
// collection.
type Refusal struct {
	ID, Patient string // ids of the Consent and of the patient
	Client, App string // client id and name of the app
	Now         time.Time
}

// Refuse builds the Consent for r in canonical form. It denies disclosure to all
// users of the app, and so overrides every permit.
func Refuse(r Refusal) (fhir.Resource, error) {
	const op = "consent.Refuse"
	if !fhir.ValidID(r.ID) || !fhir.ValidID(r.Patient) || !fhir.ValidID(r.Client) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, op, "Consent.id, patient and client must be FHIR ids")
	}
	c := newConsent(r.ID, r.Patient, div("You do not want that the app "+r.App+", registered as "+r.Client+
		", is shown any of your measurements or devices, whoever uses it. You can allow it again at any time, under the apps with access."), r.Now)
	c.Performer = []element.Reference{{Reference: "Patient/" + r.Patient}}
	c.PolicyRule = element.NewConcept(actCodeSystem, "OPTOUT")
	c.Provision = provisionJSON{Type: "deny",
		Action: []element.CodeableConcept{element.NewConcept(actionSystem, actionDisclose)},
		Actor: []actor{{element.NewConcept(element.ParticipationType, recipientRole),
			element.Reference{Identifier: &element.Identifier{System: ClientSystem, Value: r.Client},
				Display: r.App + " (" + r.Client + ")"}}}}
	b, err := marshal(c)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	return fhir.Resource{Type: "Consent", ID: r.ID, JSON: b}, nil
}

// Refuses reports whether r is an active Consent like those that Refuse builds
// for the patient and the client.
func Refuses(r fhir.Resource, patient, client string) bool {
	c, eff := compile(r.ID, patient, r.JSON)
	return eff == active && !c.root.permit && !c.root.uncertain && c.root.from == math.MinInt64 &&
		c.root.to == math.MaxInt64 &&
		slices.Equal(c.root.recipients, []string{client}) && c.root.appliesTo(false) && c.root.nested == nil &&
		c.root.vendors == nil && c.root.categories == nil && c.root.types == nil
}
