package register_test

import (
	"strings"
	"testing"

	"pulsegate/smart/oauth/register"
)

// usCore is the list of scopes that apps written for US Core servers register
// with: most of its types are not stored here.
const usCore = "openid fhirUser launch/patient offline_access patient/AllergyIntolerance.rs patient/CarePlan.rs patient/CareTeam.rs " +
	"patient/Condition.rs patient/Coverage.rs patient/Device.rs patient/DiagnosticReport.rs patient/DocumentReference.rs patient/Encounter.rs " +
	"patient/Goal.rs patient/Immunization.rs patient/Location.rs patient/MedicationRequest.rs patient/Observation.rs patient/Patient.rs " +
	"patient/Procedure.rs patient/Provenance.rs"

// TestRegistrationNarrows holds that a registration gets what the server
// offers and the initial access token allows, and is told what it did not get.
func TestRegistrationNarrows(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct{ asked, want, leftOut string }{
		"types that are not stored": {usCore,
			"openid fhirUser launch/patient offline_access patient/Device.rs patient/Observation.rs patient/Patient.rs patient/Provenance.rs",
			"patient/AllergyIntolerance.rs patient/CarePlan.rs patient/CareTeam.rs patient/Condition.rs patient/Coverage.rs patient/DiagnosticReport.rs " +
				"patient/DocumentReference.rs patient/Encounter.rs patient/Goal.rs patient/Immunization.rs patient/Location.rs patient/MedicationRequest.rs patient/Procedure.rs"},
		"more than the token allows": {"launch/patient patient/Observation.cruds",
			"launch/patient patient/Observation.rs", "patient/Observation.cruds"},
		"all that is asked": {"launch/patient patient/Observation.rs",
			"launch/patient patient/Observation.rs", ""},
	} {
		s, out, _ := w.send("POST", register.Path, w.token(1), with(m{"scope": c.asked}))
		left, _ := out["scope_not_registered"].(string)
		if s != 201 || out["scope"] != c.want || left != c.leftOut {
			t.Errorf("%s: %d %v", name, s, out)
			continue
		}
		// Read again, the registration is the same (RFC 7592, section 2.1).
		own := strings.TrimPrefix(out["registration_client_uri"].(string), w.Server.URL)
		s, got, _ := w.send("GET", own, out["registration_access_token"].(string), nil)
		if s != 200 || got["scope"] != c.want {
			t.Errorf("%s, read again: %d %v", name, s, got)
		}
	}
}
