package role_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/people/role"
)

// want is the permission matrix of the hospital's policy, written a second time and by
// role. The table must equal it in every cell.
var want = map[role.Role]map[string]string{
	role.Patient: matrix("AuditEvent:rs Consent:rs Device:rs Observation:rscu Patient:rs Provenance:rs RelatedPerson:rs "+
		"Organization:r Practitioner:r", record, "rs", costs, "rs", places, "r", meanings, "rs"),
	role.Practitioner: matrix("Consent:rs Device:rs Group:rs Observation:crus Organization:rs Patient:rs "+
		"Practitioner:rs Provenance:rs RelatedPerson:rs", record, "rs", places, "rs", meanings, "rs"),
	role.Administrator: matrix("Consent:rs Device:rus Group:cruds Organization:crus Patient:crus Practitioner:crus "+
		"RelatedPerson:crus Subscription:rs", places, "crus", meanings, "rs"),
	role.Auditor: matrix("AuditEvent:rs Consent:rs Organization:rs Patient:r Practitioner:rs Provenance:rs "+
		"Subscription:rs", places, "rs", meanings, "rs"),
}

// Types that a role has the same permissions on.
const (
	record = "AdverseEvent AllergyIntolerance Appointment AppointmentResponse BodyStructure CarePlan CareTeam " +
		"ClinicalImpression Communication CommunicationRequest Composition Condition Coverage DetectedIssue " +
		"DeviceRequest DeviceUseStatement DiagnosticReport DocumentManifest DocumentReference Encounter EpisodeOfCare " +
		"FamilyMemberHistory Flag Goal GuidanceResponse ImagingStudy Immunization ImmunizationEvaluation " +
		"ImmunizationRecommendation List Media MedicationAdministration MedicationDispense MedicationRequest " +
		"MedicationStatement MolecularSequence NutritionOrder Procedure QuestionnaireResponse RequestGroup " +
		"RiskAssessment ServiceRequest Specimen SupplyDelivery SupplyRequest Task VisionPrescription"
	costs = "Account ChargeItem Claim ClaimResponse Contract CoverageEligibilityRequest CoverageEligibilityResponse " +
		"EnrollmentRequest ExplanationOfBenefit Invoice"
	places   = "Endpoint HealthcareService Location OrganizationAffiliation PractitionerRole"
	meanings = "ActivityDefinition CapabilityStatement CodeSystem CompartmentDefinition ConceptMap DeviceDefinition " +
		"ImplementationGuide Library Measure Medication MedicationKnowledge NamingSystem ObservationDefinition " +
		"OperationDefinition PlanDefinition Questionnaire SearchParameter StructureDefinition StructureMap Substance " +
		"TerminologyCapabilities ValueSet"
)

// matrix returns the permissions by type. groups holds types and permissions in turn.
func matrix(single string, groups ...string) map[string]string {
	out := map[string]string{}
	for _, s := range strings.Fields(single) {
		typ, letters, _ := strings.Cut(s, ":")
		out[typ] = letters
	}
	for i := 0; i < len(groups); i += 2 {
		for _, typ := range strings.Fields(groups[i]) {
			out[typ] = groups[i+1]
		}
	}
	return out
}

// TestHealthDataOfRoles checks the roles against the types that need a consent: staff who
// run or review the server see none of these, and patients see none that their compartment
// does not have.
func TestHealthDataOfRoles(t *testing.T) {
	for _, typ := range fhir.Types {
		if !access.NeedsConsent(typ) {
			continue
		}
		// Devices and the origin of data are part of the roles' work.
		may := func(r role.Role) bool {
			return (&access.Grant{Rules: role.Roles{r}.Rules()}).May(access.Read|access.Search, typ)
		}
		if may(role.Administrator) && typ != "Device" {
			t.Errorf("an administrator may read a %s", typ)
		}
		if may(role.Auditor) && typ != "Provenance" {
			t.Errorf("an auditor may read a %s", typ)
		}
		if param, _ := access.PatientParam(typ); param == "" && (may(role.Patient) || may(role.Practitioner)) {
			t.Errorf("a person may read a %s, which no compartment has", typ)
		}
	}
}

// TestPatientsWriteWhatTheySupply checks that a patient may write only Observations with
// the tag patient-supplied in certain categories, before and after a change.
func TestPatientsWriteWhatTheySupply(t *testing.T) {
	const system = "http://terminology.hl7.org/CodeSystem/observation-category"
	tag := access.Token{System: "http://hl7.org/fhir/us/core/CodeSystem/us-core-tags", Code: "patient-supplied"}
	for _, tt := range []struct {
		role     role.Role
		tags     []access.Token
		category access.Token
		write    bool
	}{
		{role.Patient, []access.Token{tag}, access.Token{System: system, Code: "vital-signs"}, true},
		{role.Patient, []access.Token{tag}, access.Token{System: system, Code: "activity"}, true},
		{role.Patient, []access.Token{tag}, access.Token{System: system, Code: "survey"}, true},
		{role.Patient, []access.Token{tag}, access.Token{System: system, Code: "laboratory"}, false},
		{role.Patient, []access.Token{tag}, access.Token{System: "urn:other", Code: "vital-signs"}, false},
		{role.Patient, []access.Token{{System: "urn:other", Code: "patient-supplied"}},
			access.Token{System: system, Code: "vital-signs"}, false},
		{role.Patient, nil, access.Token{System: system, Code: "vital-signs"}, false},
		{role.Practitioner, nil, access.Token{System: system, Code: "laboratory"}, true},
		{role.Administrator, []access.Token{tag}, access.Token{System: system, Code: "vital-signs"}, false},
		{role.Auditor, []access.Token{tag}, access.Token{System: system, Code: "vital-signs"}, false},
	} {
		g := &access.Grant{Rules: role.Roles{tt.role}.Rules()}
		facts := &access.Facts{Type: "Observation", Patient: "p1", Tokens: func(param string) []access.Token {
			switch param {
			case "_tag":
				return tt.tags
			case "category":
				return []access.Token{tt.category}
			}
			return nil
		}}
		for _, i := range []access.Interaction{access.Create, access.Update} {
			if got := g.Filter(i).Covers(facts); got != tt.write {
				t.Errorf("%s, interaction %b, %v %v: %v", tt.role, i, tt.tags, tt.category, got)
			}
		}
		if g.Filter(access.Delete).Covers(facts) {
			t.Errorf("%s may delete an Observation", tt.role)
		}
	}
}

var interactions = map[byte]access.Interaction{'c': access.Create, 'r': access.Read, 'u': access.Update,
	'd': access.Delete, 's': access.Search}

func TestMatrix(t *testing.T) {
	for _, r := range role.All() {
		g := &access.Grant{Rules: role.Roles{r}.Rules()}
		for _, typ := range fhir.Types {
			for letter, i := range interactions {
				expected := slices.Contains([]byte(want[r][typ]), letter)
				if got := g.May(i, typ); got != expected {
					t.Errorf("%s %c %s: %v, want %v", r, letter, typ, got, expected)
				}
			}
		}
		if g.May(access.Read, "*") || g.May(access.Read, "Basic") {
			t.Errorf("%s may read a type that is not in the table", r)
		}
	}
}

func TestActions(t *testing.T) {
	want := map[role.Action][]role.Role{
		role.ManageUsers: {role.Administrator}, role.ManageClients: {role.Administrator},
		role.Launch: {role.Practitioner, role.Administrator}, role.ChoosePatient: {role.Practitioner},
		role.BreakGlass: {role.Practitioner}, role.Review: {role.Auditor}, role.Export: {role.Administrator},
		role.Hold: {role.Administrator, role.Auditor}, role.RevokeDevice: {role.Administrator},
	}
	for a, who := range want {
		for _, r := range role.All() {
			if got := (role.Roles{r}).May(a); got != slices.Contains(who, r) {
				t.Errorf("%s %s: %v", r, a, got)
			}
		}
	}
	for _, a := range []role.Action{role.ManageUsers, role.Export, role.Hold, role.RevokeDevice, "unknown"} {
		if !role.StepUp(a) {
			t.Errorf("%s needs no step-up", a)
		}
	}
	if (role.Roles{role.Administrator}).May("unknown") {
		t.Error("an unknown action is allowed")
	}
}

// TestUnion checks that several roles together have exactly the union of their
// permissions.
func TestUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rs role.Roles
		for _, r := range role.All() {
			if rapid.Bool().Draw(t, string(r)) {
				rs = append(rs, r)
			}
		}
		typ := rapid.SampledFrom(fhir.Types).Draw(t, "type")
		for letter, i := range interactions {
			any := slices.ContainsFunc(rs,
				func(r role.Role) bool { return slices.Contains([]byte(want[r][typ]), letter) })
			if got := (&access.Grant{Rules: rs.Rules()}).May(i, typ); got != any {
				t.Fatalf("%v %c %s: %v, want %v", rs, letter, typ, got, any)
			}
		}
	})
}

func TestParse(t *testing.T) {
	for _, bad := range [][]string{nil, {""}, {"root"}, {"auditor", "administrator"}, {"Patient"}} {
		if _, err := role.Parse(bad); fhir.KindOf(err) != fhir.Invalid || err == nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
	rs, err := role.Parse([]string{"practitioner", "patient", "patient"})
	if err != nil || len(rs) != 2 || !rs.Staff() || rs.Idle() != role.Idle {
		t.Errorf("%v %v", rs, err)
	}
	if own := (role.Roles{role.Patient}); own.Staff() || own.Idle() != role.IdlePatient {
		t.Error("a patient counts as staff")
	}
}
