package policy

import (
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/scope"
)

// Facts are the facts from which the rules of a person's token are compiled.
type Facts struct {
	Scopes   scope.Set
	Patient  string        // ID of the patient in context, or ""
	FHIRUser fhir.Ref      // the person's own resource; zero if there is none
	Roles    []access.Rule // rules of the person's roles
}

// patientRole is the role of people who see only their own data. Compile
// restricts its rules to the person's own compartment, which only a Patient or
// RelatedPerson has. For all others the role is ignored.
const patientRole = "patient"

// EffectiveRoles returns the roles that apply to a person.
func EffectiveRoles(roles []string, user fhir.Ref) []string {
	if user.Type == "Patient" || user.Type == "RelatedPerson" {
		return roles
	}
	return slices.DeleteFunc(slices.Clone(roles), func(r string) bool { return r == patientRole })
}

// Compile returns the rules of a person's token.
//
//   - patient/ scopes grant access to the compartment of the patient in context,
//     as far as the roles allow. Without a patient they grant nothing.
//   - user/ scopes grant what the roles allow. They are restricted to the own
//     compartment if the person is a Patient, and to that of the patient in
//     context if the person is a RelatedPerson.
//   - fhirUser grants read access to the person's own resource.
//
// system/ scopes are ignored because a person is not a backend.
func Compile(facts Facts) []access.Rule {
	var out []access.Rule
	add := func(s scope.Scope, patient string) {
		for _, r := range facts.Roles {
			if c, ok := intersect(s.Rule(), r); ok && (c.Patient == "" || patient == "" || c.Patient == patient) {
				if patient != "" {
					c.Patient = patient
				}
				if !slices.ContainsFunc(out, func(have access.Rule) bool { return equal(have, c) }) {
					out = append(out, c)
				}
			}
		}
	}
	if facts.Patient != "" {
		for _, s := range facts.Scopes.At(scope.Patient) {
			add(s, facts.Patient)
		}
	}
	switch facts.FHIRUser.Type {
	case "Patient":
		for _, s := range facts.Scopes.At(scope.User) {
			add(s, facts.FHIRUser.ID)
		}
	case "RelatedPerson":
		if facts.Patient != "" {
			for _, s := range facts.Scopes.At(scope.User) {
				add(s, facts.Patient)
			}
		}
	default:
		for _, s := range facts.Scopes.At(scope.User) {
			add(s, "")
		}
	}
	if facts.Scopes.Has(scope.FHIRUser) && !facts.FHIRUser.IsZero() {
		out = append(out, access.Rule{Type: facts.FHIRUser.Type, ID: facts.FHIRUser.ID, May: access.Read})
	}
	return out
}

// intersect returns the rule that allows what both rules allow. If they have
// nothing in common, ok is false.
func intersect(a, b access.Rule) (c access.Rule, ok bool) {
	c = access.Rule{Type: a.Type, May: a.May & b.May, Patient: a.Patient, ID: a.ID, Vendor: a.Vendor}
	switch {
	case a.Type == "*":
		c.Type = b.Type
	case b.Type != "*" && a.Type != b.Type:
		return c, false
	}
	if b.Patient != "" {
		if c.Patient != "" && c.Patient != b.Patient {
			return c, false
		}
		c.Patient = b.Patient
	}
	if b.ID != "" {
		if c.ID != "" && c.ID != b.ID {
			return c, false
		}
		c.ID = b.ID
	}
	if b.Vendor != "" {
		if c.Vendor != "" && c.Vendor != b.Vendor {
			return c, false
		}
		c.Vendor = b.Vendor
	}
	c.Params = append(slices.Clip(slices.Clone(a.Params)), b.Params...)
	return c, c.May != 0
}

func equal(a, b access.Rule) bool {
	return a.Type == b.Type && a.May == b.May && a.Patient == b.Patient && a.ID == b.ID && a.Vendor == b.Vendor &&
		slices.EqualFunc(a.Params, b.Params,
			func(x, y access.Param) bool { return x.Name == y.Name && slices.Equal(x.Any, y.Any) })
}
