package role

import (
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// Role is a role of a person.
type Role string

const (
	Patient       Role = "patient"
	Practitioner  Role = "practitioner"
	Administrator Role = "administrator"
	Auditor       Role = "auditor"
)

// all lists the roles in the order of the table's columns.
var all = [...]Role{Patient, Practitioner, Administrator, Auditor}

// All returns the roles in a fixed order.
func All() []Role { return slices.Clone(all[:]) }

// line grants permissions on some types to each role, in the letters of SMART v2
// (c create, r read, u update, d delete, s search).
type line struct {
	types                                         []string
	patient, practitioner, administrator, auditor string
	params                                        []access.Param // restrictions, as those of a granular scope
}

// table grants every permission of a role. Everything else is denied, among it all
// permissions on the types in no line: Basic, Binary, Bundle and the other types that may
// contain data of patients but name none, those of scheduling and messaging, and those of
// research, trials and medicinal products.
//
// Administrators run the server and see no health data. Auditors see who accessed which
// data under which consent. No person can write an AuditEvent.
//
// Practitioners write Observations, among them corrections of what patients supplied.
// Patients write Observations about themselves in the categories that they can measure,
// with the tag patient-supplied, which the server adds, and correct those with the tag (US
// Core 9, "Writing Vital Signs"). They cannot change what devices, laboratories or
// practitioners reported.
var table = [...]line{ // read only;                    patient practitioner administrator auditor
	{[]string{"AuditEvent"}, "rs", "", "", "rs", nil},
	{[]string{"Consent"}, "rs", "rs", "rs", "rs", nil},
	{[]string{"Device"}, "rs", "rs", "rsu", "", nil},
	{[]string{"Group"}, "", "rs", "cruds", "", nil},
	{[]string{"Observation"}, "rs", "crus", "", "", nil},
	{[]string{"Observation"}, "cu", "", "", "", supplied},
	{[]string{"Patient"}, "rs", "rs", "crus", "r", nil},
	{[]string{"Provenance"}, "rs", "rs", "", "rs", nil},
	{[]string{"RelatedPerson"}, "rs", "rs", "crus", "", nil},
	{[]string{"Subscription"}, "", "", "rs", "rs", nil},
	{clinical, "rs", "rs", "", "", nil},
	{financial, "rs", "", "", "", nil},
	{[]string{"Organization", "Practitioner"}, "r", "rs", "crus", "rs", nil},
	{directory, "r", "rs", "crus", "rs", nil},
	{[]string{"CodeSystem", "ConceptMap"}, "rs", "rs", "rs", "rs", nil},
	{definitions, "rs", "rs", "rs", "rs", nil},
}

// clinical lists the types of a patient's record: those of the Patient compartment that
// describe health and care. They are given out under the patient's consent.
var clinical = []string{ // read only
	"AdverseEvent", "AllergyIntolerance", "Appointment", "AppointmentResponse", "BodyStructure", "CarePlan",
	"CareTeam", "ClinicalImpression", "Communication", "CommunicationRequest", "Composition", "Condition",
	"Coverage", "DetectedIssue", "DeviceRequest", "DeviceUseStatement", "DiagnosticReport", "DocumentManifest",
	"DocumentReference", "Encounter", "EpisodeOfCare", "FamilyMemberHistory", "Flag", "Goal", "GuidanceResponse",
	"ImagingStudy", "Immunization", "ImmunizationEvaluation", "ImmunizationRecommendation", "List", "Media",
	"MedicationAdministration", "MedicationDispense", "MedicationRequest", "MedicationStatement",
	"MolecularSequence", "NutritionOrder", "Procedure", "QuestionnaireResponse", "RequestGroup", "RiskAssessment",
	"ServiceRequest", "Specimen", "SupplyDelivery", "SupplyRequest", "Task", "VisionPrescription",
}

// financial lists the types of the Patient compartment about costs. Care does not need them.
var financial = []string{ // read only
	"Account", "ChargeItem", "Claim", "ClaimResponse", "Contract", "CoverageEligibilityRequest",
	"CoverageEligibilityResponse", "EnrollmentRequest", "ExplanationOfBenefit", "Invoice",
}

// directory lists the types that describe who provides care, and where.
var directory = []string{ // read only
	"Endpoint", "HealthcareService", "Location", "OrganizationAffiliation", "PractitionerRole",
}

// definitions lists the types that define, such as codes, profiles, questions and drugs.
// They hold no data of patients.
var definitions = []string{ // read only
	"ActivityDefinition", "CapabilityStatement", "CompartmentDefinition", "DeviceDefinition", "ImplementationGuide",
	"Library", "Measure", "Medication", "MedicationKnowledge", "NamingSystem", "ObservationDefinition",
	"OperationDefinition", "PlanDefinition", "Questionnaire", "SearchParameter", "StructureDefinition", "StructureMap",
	"Substance", "TerminologyCapabilities", "ValueSet",
}

// supplied limits a patient's writes to Observations with the tag patient-supplied in the
// categories of what patients measure and report themselves.
var supplied = []access.Param{ // read only
	{Name: "_tag", Any: []access.Token{access.PatientSupplied}},
	{Name: "category", Any: []access.Token{{System: category, Code: "vital-signs"},
		{System: category, Code: "activity"}, {System: category, Code: "survey"}}},
}

const category = "http://terminology.hl7.org/CodeSystem/observation-category"

// Action is something a person does that is not a FHIR interaction.
type Action string

const (
	ManageUsers   Action = "manage-users"   // invite, disable, change roles
	ManageClients Action = "manage-clients" // register and disable clients
	Launch        Action = "launch"         // launch an app with a chosen patient
	ChoosePatient Action = "choose-patient" // choose the patient that an app may see
	BreakGlass    Action = "break-glass"    // see one patient's data without consent in an emergency
	Review        Action = "review"         // review emergency access
	Export        Action = "export"         // Bulk Data export
	Hold          Action = "hold"           // legal hold
	RevokeDevice  Action = "revoke-device"
)

// actions maps each action to the roles that may do it and to whether it needs
// a step-up.
var actions = map[Action]struct {
	roles  []Role
	stepUp bool
}{
	ManageUsers:   {[]Role{Administrator}, true},
	ManageClients: {[]Role{Administrator}, true},
	Launch:        {[]Role{Practitioner, Administrator}, false},
	ChoosePatient: {[]Role{Practitioner}, false},
	BreakGlass:    {[]Role{Practitioner}, true},
	Review:        {[]Role{Auditor}, false},
	Export:        {[]Role{Administrator}, true},
	Hold:          {[]Role{Administrator, Auditor}, true},
	RevokeDevice:  {[]Role{Administrator}, true},
}

func (r *line) of(x Role) string {
	switch x {
	case Patient:
		return r.patient
	case Practitioner:
		return r.practitioner
	case Administrator:
		return r.administrator
	case Auditor:
		return r.auditor
	}
	return ""
}

// valid reports whether r is a known role.
func (r Role) valid() bool { return slices.Contains(all[:], r) }

// staff reports whether r belongs to the hospital's staff, who need a second
// factor and have a short idle timeout.
func (r Role) staff() bool { return r.valid() && r != Patient }

// Roles is the set of roles of a person, sorted.
type Roles []Role

// Parse reads role names. The error has kind Invalid.
func Parse(names []string) (Roles, error) {
	var out Roles
	for _, n := range names {
		r := Role(strings.TrimSpace(n))
		if !r.valid() {
			return nil, fhir.Errorf(fhir.Invalid, "role.Parse",
				"role: it must be patient, practitioner, administrator or auditor")
		}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, "role.Parse", "role: at least one role is required")
	}
	// Separation of duties: auditors review what administrators do.
	if slices.Contains(out, Auditor) && slices.Contains(out, Administrator) {
		return nil, fhir.Errorf(fhir.Invalid, "role.Parse", "role: an auditor cannot be an administrator as well")
	}
	slices.Sort(out)
	return out, nil
}

// Has reports whether x is among the roles.
func (rs Roles) Has(x Role) bool { return slices.Contains(rs, x) }

// Staff reports whether any of the roles is a staff role.
func (rs Roles) Staff() bool { return slices.ContainsFunc(rs, Role.staff) }

// Strings returns the names.
func (rs Roles) Strings() []string {
	out := make([]string, len(rs))
	for i, r := range rs {
		out[i] = string(r)
	}
	return out
}

// May reports whether any of the roles allows the action.
func (rs Roles) May(a Action) bool {
	return slices.ContainsFunc(actions[a].roles, rs.Has)
}

// StepUp reports whether an action needs a recent phishing-resistant factor.
// Unknown actions need one.
func StepUp(a Action) bool {
	x, ok := actions[a]
	return !ok || x.stepUp
}

// Rules returns the permissions of the roles as rules of a Grant. Without a
// known role there is no rule, which denies everything.
func (rs Roles) Rules() []access.Rule {
	var out []access.Rule
	for i := range table {
		var may access.Interaction
		for _, r := range rs {
			may |= letters(table[i].of(r))
		}
		if may == 0 {
			continue
		}
		for _, typ := range table[i].types {
			out = append(out, access.Rule{Type: typ, May: may, Params: table[i].params})
		}
	}
	return out
}

// RulesOf returns the rules for role names from a token's record. Unknown names
// grant nothing.
func RulesOf(names []string) []access.Rule {
	rs := make(Roles, len(names))
	for i, n := range names {
		rs[i] = Role(n)
	}
	return rs.Rules()
}

func letters(s string) access.Interaction {
	var may access.Interaction
	for _, c := range s {
		switch c {
		case 'c':
			may |= access.Create
		case 'r':
			may |= access.Read
		case 'u':
			may |= access.Update
		case 'd':
			may |= access.Delete
		case 's':
			may |= access.Search
		}
	}
	return may
}

// Limits of a session. Idle and IdlePatient limit the time without activity,
// for staff and for patients; Absolute limits the whole session.
const (
	Idle        = 15 * time.Minute // staff
	IdlePatient = time.Hour        // patients, who see only their own data
	Absolute    = 12 * time.Hour
)

// Idle returns the idle timeout for these roles.
func (rs Roles) Idle() time.Duration {
	if !rs.Staff() && len(rs) > 0 {
		return IdlePatient
	}
	return Idle
}
