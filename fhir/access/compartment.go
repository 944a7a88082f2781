package access

import (
	"slices"
	"strings"
)

// compartment tells how resources of a type get into the compartment of a Patient.
type compartment struct {
	Param  string // code of the search parameter that names the patients
	Single bool   // a resource names at most one
	Codes  string // all parameters that are equivalent to Param, if there are several
}

// PatientParam returns the code of the search parameter that puts a resource of type t
// into the compartment of a Patient: "_id" for Patient itself, "" if there is none. If
// single is true, a resource is in at most one compartment.
func PatientParam(t string) (code string, single bool) {
	c := compartments[t]
	return c.Param, c.Single
}

// PatientCodes returns the codes of the parameters that select the same patient as the
// one that PatientParam returns, for a type of which a resource is in at most one
// compartment.
func PatientCodes(t string) []string {
	c := compartments[t]
	if c.Codes == "" {
		return []string{c.Param}
	}
	return strings.Fields(c.Codes)
}

// several reports whether a resource of type t may name several patients on which a
// decision depends. The server writes one AuditEvent per patient.
func several(t string) bool {
	if t == "Observation" { // the most frequent type, without the lookup
		return false
	}
	c, ok := compartments[t]
	return ok && !c.Single && t != "AuditEvent"
}

// Patients returns the ids of the Patients whose compartments contain the resource,
// Patient first.
func (f *Facts) Patients() []string {
	var out []string
	if f.Patient != "" {
		out = append(out, f.Patient)
	}
	if !several(f.Type) {
		return out
	}
	for _, token := range f.Tokens(compartments[f.Type].Param) {
		if id, ok := strings.CutPrefix(token.Code, "Patient/"); ok && token.System == "" && id != unknown &&
			!slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// names reports whether patient is among the patients of the resource.
func (f *Facts) names(patient string) bool {
	return several(f.Type) && slices.Contains(f.Patients(), patient)
}

// withoutPatient lists the types that are in no compartment but may contain data of
// patients. Read only.
var withoutPatient = []string{"Binary", "BiologicallyDerivedProduct", "Bundle", "DeviceMetric", "EnrollmentResponse",
	"Linkage", "MessageHeader", "PaymentNotice", "PaymentReconciliation"}

// NeedsConsent reports whether resources of type t are health data of a patient, which
// may be disclosed only under a consent: the types in the compartment of a Patient, and
// those that may contain data of one. Scopes alone govern demographics, groups, Consents
// and the audit trail, and the types that describe care rather than a patient.
func NeedsConsent(t string) bool {
	switch t {
	case "Observation": // the most frequent type, without the lookup
		return true
	case "Patient", "Person", "RelatedPerson", "Consent", "AuditEvent":
		return false
	}
	return compartments[t].Param != "" || slices.Contains(withoutPatient, t)
}

// unknown is in place of the id of a patient that cannot be found out. It is not a valid id.
const unknown = "?"

// Several reports whether a resource of type t may be in the compartments of several
// Patients. Facts.Tokens of a deletion of such a type must be those of the version
// before, or Undecided.
func Several(t string) bool { return several(t) }

// Undecided returns Facts.Tokens for a version of type t whose patients cannot be found
// out. Only the operator sees such a version.
func Undecided(t string) func(param string) []Token {
	return func(param string) []Token {
		if several(t) && param == compartments[t].Param {
			return []Token{{Code: "Patient/" + unknown}}
		}
		return nil
	}
}

// undecided reports whether a patient of the resource cannot be found out.
func (f *Facts) undecided() bool {
	return several(f.Type) && slices.Contains(f.Tokens(compartments[f.Type].Param), Token{Code: "Patient/" + unknown})
}
