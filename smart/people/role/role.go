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

// row is one line of the table: the permissions of each role on a type, in the
// letters of SMART v2 (c create, r read, u update, d delete, s search).
type row struct {
	typ                                           string
	patient, practitioner, administrator, auditor string
}

// table grants every permission of a role. Everything else is denied.
//
// Administrators run the server and see no measurements. Auditors see who
// accessed which data under which consent. No person can write an AuditEvent or
// an Observation: these come from devices and from the server.
var table = [...]row{ //   patient practitioner administrator auditor
	{"AuditEvent", "rs", "", "", "rs"},
	{"CodeSystem", "rs", "rs", "rs", "rs"},
	{"ConceptMap", "rs", "rs", "rs", "rs"},
	{"Consent", "rs", "rs", "rs", "rs"},
	{"Device", "rs", "rs", "rsu", ""},
	{"Group", "", "rs", "cruds", ""},
	{"Observation", "rs", "rs", "", ""},
	{"Organization", "r", "rs", "crus", "rs"},
	{"Patient", "rs", "rs", "crus", "r"},
	{"Practitioner", "r", "rs", "crus", "rs"},
	{"Provenance", "rs", "rs", "", "rs"},
	{"Subscription", "", "", "rs", "rs"},
}

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

func (r row) of(x Role) string {
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
	for _, line := range table {
		var may access.Interaction
		for _, r := range rs {
			may |= letters(line.of(r))
		}
		if may != 0 {
			out = append(out, access.Rule{Type: line.typ, May: may})
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
