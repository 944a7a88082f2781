package role_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/people/role"
)

// want is the permission matrix of the hospital's policy, written a second time
// and by role. The table must equal it in every cell.
var want = map[role.Role]map[string]string{
	role.Patient: {"AuditEvent": "rs", "CodeSystem": "rs", "ConceptMap": "rs", "Consent": "rs", "Device": "rs", "Observation": "rs", "Organization": "r",
		"Patient":      "rs",
		"Practitioner": "r", "Provenance": "rs"},
	role.Practitioner: {"CodeSystem": "rs", "ConceptMap": "rs", "Consent": "rs", "Device": "rs", "Group": "rs", "Observation": "rs", "Organization": "rs",
		"Patient":      "rs",
		"Practitioner": "rs", "Provenance": "rs"},
	role.Administrator: {"CodeSystem": "rs", "ConceptMap": "rs", "Consent": "rs", "Device": "rus", "Group": "cruds", "Organization": "crus", "Patient": "crus",
		"Practitioner": "crus", "Subscription": "rs"},
	role.Auditor: {"AuditEvent": "rs", "CodeSystem": "rs", "ConceptMap": "rs", "Consent": "rs", "Organization": "rs", "Patient": "r", "Practitioner": "rs",
		"Provenance":   "rs",
		"Subscription": "rs"},
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
