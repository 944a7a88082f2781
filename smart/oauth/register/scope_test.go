package register_test

import (
	"strings"
	"testing"

	"pulsegate/smart/oauth/register"
)

// usCore is the scope with which apps for US Core servers register.
const usCore = "openid fhirUser launch/patient offline_access patient/AllergyIntolerance.rs " +
	"patient/CarePlan.rs patient/CareTeam.rs patient/Condition.rs patient/Coverage.rs patient/Device.rs " +
	"patient/DiagnosticReport.rs patient/DocumentReference.rs patient/Encounter.rs patient/Goal.rs " +
	"patient/Immunization.rs patient/Location.rs patient/MedicationRequest.rs patient/Observation.rs " +
	"patient/Patient.rs patient/Procedure.rs patient/Provenance.rs"

// TestRegistrationNarrows checks that a registration gets the scopes that the
// server supports and the initial access token allows, and that the response
// lists the others.
func TestRegistrationNarrows(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct{ requested, want, notRegistered string }{
		"types that are not stored": {"launch/patient patient/Coffee.rs patient/Observation.rs patient/Parameters.rs",
			"launch/patient patient/Observation.rs", "patient/Coffee.rs patient/Parameters.rs"},
		"all types of US Core": {usCore, usCore, ""},
		"more than the token allows": {"launch/patient patient/Observation.cruds",
			"launch/patient patient/Observation.rs", "patient/Observation.cruds"},
		"exactly the allowed scopes": {"launch/patient patient/Observation.rs",
			"launch/patient patient/Observation.rs", ""},
	} {
		s, out, _ := w.send("POST", register.Path, w.token(1), with(m{"scope": tc.requested}))
		notRegistered, _ := out["scope_not_registered"].(string)
		if s != 201 || out["scope"] != tc.want || notRegistered != tc.notRegistered {
			t.Errorf("%s: %d %v", name, s, out)
			continue
		}
		// A read returns the same scope (RFC 7592 2.1).
		path := strings.TrimPrefix(out["registration_client_uri"].(string), w.Server.URL)
		s, got, _ := w.send("GET", path, out["registration_access_token"].(string), nil)
		if s != 200 || got["scope"] != tc.want {
			t.Errorf("%s, read: %d %v", name, s, got)
		}
	}
}
