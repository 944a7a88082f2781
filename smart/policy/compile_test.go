package policy_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/policy"
	"pulsegate/smart/scope"
)

// The functions below decide what a token allows from the text of its scopes.
// They share no code with Compile.

type resource struct {
	typ, id, patient string
	tokens           map[string][]access.Token
}

// letters maps an interaction to its letter in a SMART v2 scope. It is read only.
var letters = map[access.Interaction]string{access.Create: "c", access.Read: "r", access.Update: "u",
	access.Delete: "d", access.Search: "s"}

// covers reports whether a scope without its level, such as
// "Observation.rs?category=a,x|b", allows an interaction with a resource.
func covers(s, interaction string, r resource) bool {
	head, query, granular := strings.Cut(s, "?")
	typ, perm, _ := strings.Cut(head, ".")
	if typ != "*" && typ != r.typ {
		return false
	}
	perm = strings.NewReplacer("read", "rs", "write", "cud", "*", "cruds").Replace(perm)
	if !strings.Contains(perm, interaction) {
		return false
	}
	if !granular {
		return true
	}
	for _, pair := range strings.Split(query, "&") {
		name, values, _ := strings.Cut(pair, "=")
		matches := false
		for _, v := range strings.Split(values, ",") {
			system, code, hasSystem := strings.Cut(v, "|")
			if !hasSystem {
				system, code = "", v
			}
			for _, t := range r.tokens[name] {
				if (code == "" || t.Code == code) && (!hasSystem || t.System == system) {
					matches = true
				}
			}
		}
		if !matches {
			return false
		}
	}
	return true
}

// roleScope is a scope that a role allows, written without a level.
type roleScope struct{ role, scope string }

var roleScopes = []roleScope{ // read only
	{"practitioner", "*.rs"}, {"practitioner", "Observation.c"}, {"patient", "Observation.rs"},
	{"patient", "Patient.rs"},
	{"reader", "Observation.rs?category=a"}, {"keeper", "Device.cruds"},
}

func rulesOf(roles []string) (out []access.Rule) {
	for _, l := range roleScopes {
		if slices.Contains(roles, l.role) {
			set, err := parser.Parse("system/" + l.scope)
			if err != nil {
				panic(err)
			}
			out = append(out, set[0].Rule())
		}
	}
	return out
}

// may states the rule in full: a person's token allows an interaction with a
// resource if a scope covers it, a role allows it, and the resource belongs to
// the right patient. In addition, the scope fhirUser allows reading the
// person's own resource.
func may(scopes []string, interaction string, r resource, patient string, user fhir.Ref, roles []string) bool {
	own := user.Type == "Patient" || user.Type == "RelatedPerson"
	allowed := slices.ContainsFunc(roleScopes, func(l roleScope) bool {
		return slices.Contains(roles, l.role) && (l.role != "patient" || own) && covers(l.scope, interaction, r)
	})
	for _, s := range scopes {
		level, rest, ok := strings.Cut(s, "/")
		switch {
		case s == "fhirUser":
			if interaction == "r" && user.Type != "" && r.typ == user.Type && r.id == user.ID {
				return true
			}
			continue
		case !ok || level == "system" || !allowed || !covers(rest, interaction, r):
			continue
		}
		restricted, owner := true, ""
		switch {
		case level == "patient" || user.Type == "RelatedPerson":
			owner = patient
		case user.Type == "Patient":
			owner = user.ID
		default:
			restricted = false
		}
		if !restricted || owner != "" && r.patient == owner {
			return true
		}
	}
	return false
}

// parser is read only.
var parser = scope.Parser{TokenParam: func(_, code string) bool { return code == "category" || code == "status" }}

type consents map[string]bool

func (c consents) Permits(recipient string, f *access.Facts) bool { return c[recipient+"/"+f.Patient] }

// TestCompileMatchesModel compares compiled grants with the function may for
// random scopes, roles, consents and resources.
func TestCompileMatchesModel(t *testing.T) {
	allowed, denied := 0, 0
	scopeGen := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 5).Draw(t, "named") == 0 {
			return rapid.SampledFrom([]string{"openid", "fhirUser", "launch/patient", "offline_access"}).Draw(t, "name")
		}
		s := rapid.SampledFrom([]string{"patient/", "patient/", "user/", "user/", "system/"}).Draw(t, "level") +
			rapid.SampledFrom([]string{"*", "Observation", "Patient", "Device", "Practitioner"}).Draw(t, "type") + "."
		if rapid.IntRange(0, 3).Draw(t, "v1") == 0 {
			return s + rapid.SampledFrom([]string{"read", "write", "*"}).Draw(t, "perm")
		}
		s += rapid.SampledFrom([]string{"r", "s", "rs", "cu", "cruds"}).Draw(t, "perm")
		if !strings.Contains(s, "/*") {
			s += rapid.SampledFrom([]string{"", "", "?category=a", "?category=a,b", "?category=x|a",
				"?category=|a&status=f", "?category=x|"}).Draw(t, "q")
		}
		return s
	})
	property := func(t *rapid.T) {
		scopes := rapid.SliceOfN(scopeGen, 1, 5).Draw(t, "scopes")
		set, err := parser.Parse(strings.Join(scopes, " "))
		if err != nil {
			t.Fatal(err)
		}
		ids := rapid.SampledFrom([]string{"", "p1", "p2"})
		patient := ids.Draw(t, "patient")
		user := rapid.SampledFrom([]fhir.Ref{{}, {Type: "Practitioner", ID: "d1"}, {Type: "Patient", ID: "p1"},
			{Type: "Patient", ID: "p2"}, {Type: "RelatedPerson", ID: "r1"}}).Draw(t, "user")
		roles := rapid.SliceOfN(rapid.SampledFrom([]string{"practitioner", "patient", "reader", "keeper",
			"unknown"}), 0, 2).Draw(t, "roles")
		permitted := consents{"app/p1": rapid.Bool().Draw(t, "c1"), "app/p2": rapid.Bool().Draw(t, "c2"),
			"app/": rapid.Bool().Draw(t, "c0"), "other/p1": true}
		g := access.Grant{Recipient: "app", Consents: permitted, Person: true,
			Rules: policy.Compile(policy.Facts{Scopes: set, Patient: patient, FHIRUser: user,
				Roles: rulesOf(policy.EffectiveRoles(roles, user))})}
		seen := map[string]bool{}
		for range 4 {
			r := resource{typ: rapid.SampledFrom([]string{"Observation", "Patient", "Device", "Practitioner",
				"Organization"}).Draw(t, "type"), id: rapid.SampledFrom([]string{"x", "d1", "p1"}).Draw(t, "id"),
				patient: ids.Draw(t, "of"), tokens: map[string][]access.Token{
					"category": rapid.SliceOfN(rapid.SampledFrom([]access.Token{{Code: "a"},
						{System: "x", Code: "a"}, {Code: "b"}, {System: "y", Code: "b"}}), 0, 2).Draw(t, "category"),
					"status": {{Code: rapid.SampledFrom([]string{"f", "g"}).Draw(t, "status")}}}}
			if r.typ == "Patient" {
				r.id = r.patient
			}
			f := &access.Facts{Type: r.typ, ID: r.id, Patient: r.patient,
				Tokens: func(p string) []access.Token { return r.tokens[p] }}
			for i, letter := range letters {
				want := may(scopes, letter, r, patient, user, roles)
				if r.typ == "Observation" || r.typ == "Device" || r.typ == "Provenance" {
					// Without a patient, only the author may see the resource, and it has none.
					want = want && r.patient != "" && permitted["app/"+r.patient]
				}
				if got := g.Filter(i).Allow(f); got != want {
					t.Fatalf("%v by %v %v with patient %q: %s on %+v is %v, want %v", scopes, user, roles, patient,
						letter, r, got, want)
				}
				if want {
					seen[letter+r.typ] = true
					allowed++
				} else {
					denied++
				}
				if seen[letter+r.typ] && !g.May(i, r.typ) {
					t.Fatalf("%v: May(%q, %s) is false, but a resource is allowed", scopes, letter, r.typ)
				}
				if g.MayUnattended(i, r.typ) {
					t.Fatal("a person's grant allows unattended access")
				}
			}
		}
	}
	rapid.Check(t, property)
	for round := 0; allowed < 20; round++ { // with few cases, chance may allow almost nothing
		if round == 500 {
			t.Fatalf("only %d interactions allowed, %d denied", allowed, denied)
		}
		rapid.Check(t, property)
	}
}
