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

// The interpreter below reads scopes as text and shares no code with what it
// checks.

type resource struct {
	typ, id, patient string
	tokens           map[string][]access.Token
}

// letter is how a scope writes an interaction.
// read only
var letter = map[access.Interaction]string{access.Create: "c", access.Read: "r", access.Update: "u",
	access.Delete: "d", access.Search: "s"}

// covers reads one scope without its level: "Observation.rs?category=a,x|b".
func covers(s, do string, r resource) bool {
	head, query, granular := strings.Cut(s, "?")
	typ, perm, _ := strings.Cut(head, ".")
	if typ != "*" && typ != r.typ {
		return false
	}
	perm = strings.NewReplacer("read", "rs", "write", "cud", "*", "cruds").Replace(perm)
	if !strings.Contains(perm, do) {
		return false
	}
	if !granular {
		return true
	}
	for _, pair := range strings.Split(query, "&") {
		name, values, _ := strings.Cut(pair, "=")
		hit := false
		for _, v := range strings.Split(values, ",") {
			system, code, both := strings.Cut(v, "|")
			if !both {
				system, code = "", v
			}
			for _, t := range r.tokens[name] {
				if (code == "" || t.Code == code) && (!both || t.System == system) {
					hit = true
				}
			}
		}
		if !hit {
			return false
		}
	}
	return true
}

type roleLine struct{ role, scope string }

var lines = []roleLine{ // read only
	{"practitioner", "*.rs"}, {"practitioner", "Observation.c"}, {"patient", "Observation.rs"},
	{"patient", "Patient.rs"},
	{"reader", "Observation.rs?category=a"}, {"keeper", "Device.cruds"},
}

func rulesOf(roles []string) (out []access.Rule) {
	for _, l := range lines {
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

// may is the whole rule, in words: a person's token lets do on r when some
// scope covers it, some role allows it, and it is about the right patient; or
// when it reads who the person is.
func may(scopes []string, do string, r resource, patient string, user fhir.Ref, roles []string) bool {
	own := user.Type == "Patient" || user.Type == "RelatedPerson"
	allowed := slices.ContainsFunc(lines, func(l roleLine) bool {
		return slices.Contains(roles, l.role) && (l.role != "patient" || own) && covers(l.scope, do, r)
	})
	for _, s := range scopes {
		level, rest, ok := strings.Cut(s, "/")
		switch {
		case s == "fhirUser":
			if do == "r" && user.Type != "" && r.typ == user.Type && r.id == user.ID {
				return true
			}
			continue
		case !ok || level == "system" || !allowed || !covers(rest, do, r):
			continue
		}
		whose := "anybody"
		switch {
		case level == "patient" || user.Type == "RelatedPerson":
			whose = patient
		case user.Type == "Patient":
			whose = user.ID
		}
		if whose == "anybody" || whose != "" && r.patient == whose {
			return true
		}
	}
	return false
}

// read only
var parser = scope.Parser{TokenParam: func(_, code string) bool { return code == "category" || code == "status" }}

type consents map[string]bool

func (c consents) Permits(recipient string, f *access.Facts) bool { return c[recipient+"/"+f.Patient] }

func TestFilterIsWhatTheInterpreterSays(t *testing.T) {
	yes, no := 0, 0
	one := rapid.Custom(func(t *rapid.T) string {
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
		scopes := rapid.SliceOfN(one, 1, 5).Draw(t, "scopes")
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
		agreed := consents{"app/p1": rapid.Bool().Draw(t, "c1"), "app/p2": rapid.Bool().Draw(t, "c2"),
			"app/": rapid.Bool().Draw(t, "c0"), "other/p1": true}
		g := access.Grant{Recipient: "app", Consents: agreed, Person: true,
			Rules: policy.Compile(policy.Facts{Scopes: set, Patient: patient, FHIRUser: user,
				Roles: rulesOf(policy.EffectiveRoles(roles, user))})}
		any := map[string]bool{}
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
			for i, do := range letter {
				want := may(scopes, do, r, patient, user, roles)
				if r.typ == "Observation" || r.typ == "Device" || r.typ == "Provenance" {
					want = want && agreed["app/"+r.patient]
				}
				if got := g.Filter(i).Allow(f); got != want {
					t.Fatalf("%v by %v %v with patient %q: %s on %+v is %v, want %v", scopes, user, roles, patient,
						do, r, got, want)
				}
				if want {
					any[do+r.typ] = true
					yes++
				} else {
					no++
				}
				if any[do+r.typ] && !g.May(i, r.typ) {
					t.Fatalf("%v: something of %s may be done with %q, but not in general", scopes, r.typ, do)
				}
				if g.MayUnattended(i, r.typ) {
					t.Fatal("a person's grant outlives the person")
				}
			}
		}
	}
	rapid.Check(t, property)
	for round := 0; yes < 20; round++ { // few cases, or chance, may say little
		if round == 500 {
			t.Fatalf("%d allowed, %d not: the cases say little", yes, no)
		}
		rapid.Check(t, property)
	}
}
