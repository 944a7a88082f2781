package policy

import (
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/scope"
)

// Facts are what the rules of a token for a person are compiled from.
type Facts struct {
	Scopes   scope.Set
	Patient  string        // in context; "" none
	FHIRUser fhir.Ref      // who the person is here; zero: nobody
	Roles    []access.Rule // what the roles of the person allow; none: nothing
}

// patientRole is the role of somebody who sees nothing but the own data. It counts
// for who is a Patient or RelatedPerson here, and for nobody else: what it
// allows is bounded by that.
const patientRole = "patient"

// EffectiveRoles is the roles that count for a person.
func EffectiveRoles(roles []string, user fhir.Ref) []string {
	if user.Type == "Patient" || user.Type == "RelatedPerson" {
		return roles
	}
	return slices.DeleteFunc(slices.Clone(roles), func(r string) bool { return r == patientRole })
}

// Compile returns the rules for a person's token.
//
//   - patient/ scopes: the compartment of the patient in context, as far as
//     the roles allow; nothing without a patient.
//   - user/ scopes: what the roles allow. A person who is a Patient sees the
//     own compartment and nothing beside it; a RelatedPerson that of the
//     patient in context.
//   - fhirUser: the person's own resource may be read.
//
// system/ scopes mean nothing here: a person is no backend.
func Compile(f Facts) []access.Rule {
	var out []access.Rule
	add := func(s scope.Scope, patient string) {
		for _, r := range f.Roles {
			if c, ok := both(s.Rule(), r); ok && (c.Patient == "" || patient == "" || c.Patient == patient) {
				if patient != "" {
					c.Patient = patient
				}
				if !slices.ContainsFunc(out, func(o access.Rule) bool { return same(o, c) }) {
					out = append(out, c)
				}
			}
		}
	}
	if f.Patient != "" {
		for _, s := range f.Scopes.At(scope.Patient) {
			add(s, f.Patient)
		}
	}
	switch f.FHIRUser.Type {
	case "Patient":
		for _, s := range f.Scopes.At(scope.User) {
			add(s, f.FHIRUser.ID)
		}
	case "RelatedPerson":
		if f.Patient != "" {
			for _, s := range f.Scopes.At(scope.User) {
				add(s, f.Patient)
			}
		}
	default:
		for _, s := range f.Scopes.At(scope.User) {
			add(s, "")
		}
	}
	if f.Scopes.Has(scope.FHIRUser) && !f.FHIRUser.IsZero() {
		out = append(out, access.Rule{Type: f.FHIRUser.Type, ID: f.FHIRUser.ID, May: access.Read})
	}
	return out
}

// both is what two rules allow together.
func both(a, b access.Rule) (access.Rule, bool) {
	c := access.Rule{Type: a.Type, May: a.May & b.May, Patient: a.Patient, ID: a.ID}
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
	c.Params = append(slices.Clip(slices.Clone(a.Params)), b.Params...)
	return c, c.May != 0
}

func same(a, b access.Rule) bool {
	return a.Type == b.Type && a.May == b.May && a.Patient == b.Patient && a.ID == b.ID &&
		slices.EqualFunc(a.Params, b.Params,
			func(x, y access.Param) bool { return x.Name == y.Name && slices.Equal(x.Any, y.Any) })
}
