package access_test

import (
	"testing"

	"pulsegate/fhir/access"
)

// TestSubscriptionVisibleToOwner checks that only the owner and the operator may see
// a Subscription, regardless of scopes.
func TestSubscriptionVisibleToOwner(t *testing.T) {
	rules := access.All().Rules
	own := &access.Facts{Type: "Subscription", ID: "s", Author: "ehr",
		Tokens: func(string) []access.Token { return nil }}
	for _, c := range []struct {
		who  string
		g    *access.Grant
		want bool
	}{
		{"the owner", &access.Grant{Recipient: "ehr", Rules: rules}, true},
		{"another client", &access.Grant{Recipient: "app", Rules: rules}, false},
		{"a client without an id", &access.Grant{Rules: rules}, false},
		{"the operator", access.All(), true},
	} {
		for _, i := range []access.Interaction{access.Read, access.Search, access.Update, access.Delete} {
			if got := c.g.Filter(i).Allow(own); got != c.want {
				t.Errorf("%s, %v: %v", c.who, i, got)
			}
		}
	}
}

// TestDeliveryRule checks that a grant with a DeliveryRule permits creating ingested
// Observations of one patient and vendor, and nothing else.
func TestDeliveryRule(t *testing.T) {
	g := &access.Grant{Recipient: "push-key:k", Rules: []access.Rule{access.DeliveryRule("ada", "apple")},
		Consents: permitsAll{}}
	if patient, vendor, ok := g.Delivers(); !ok || patient != "ada" || vendor != "apple" {
		t.Errorf("Delivers returned %q, %q, %v", patient, vendor, ok)
	}
	allowed := 0
	for _, typ := range []string{"Observation", "Device", "Patient", "Consent", "Provenance", "AuditEvent"} {
		for _, i := range []access.Interaction{access.Create, access.Read, access.Update, access.Delete,
			access.Search} {
			if g.MayAll(i, typ) {
				t.Errorf("%s, %v: permitted for all resources", typ, i)
			}
			for _, patient := range []string{"ada", "ben", ""} {
				for _, vendor := range []string{"apple", "oura", ""} {
					f := &access.Facts{Type: typ, Patient: patient, Vendor: vendor}
					want := typ == "Observation" && i == access.Create && patient == "ada" && vendor == "apple"
					if got := g.Filter(i).Allow(f); got != want {
						t.Errorf("%s of %q from %q, %v: %v", typ, patient, vendor, i, got)
					}
					if want {
						allowed++
					}
				}
			}
		}
	}
	if allowed != 1 {
		t.Errorf("%d combinations allowed, want 1", allowed)
	}
	for name, g := range map[string]*access.Grant{
		"none":      nil,
		"operator":  access.All(),
		"a scope":   {Rules: []access.Rule{{Type: "Observation", May: access.Create, Patient: "ada"}}},
		"more":      {Rules: []access.Rule{access.DeliveryRule("ada", "apple"), access.DeliveryRule("ben", "apple")}},
		"no vendor": {Rules: []access.Rule{access.DeliveryRule("ada", "")}},
	} {
		if _, _, ok := g.Delivers(); ok {
			t.Errorf("%s: Delivers", name)
		}
	}
}

type permitsAll struct{}

func (permitsAll) Permits(string, *access.Facts) bool { return true }

// TestEverything checks that a filter that permits everything of a type allows every
// resource of it, and that limits and consents take that away.
func TestEverything(t *testing.T) {
	all := access.Rule{Type: "Patient", May: access.Search}
	limited := func(change func(*access.Rule)) *access.Grant {
		r := all
		change(&r)
		return &access.Grant{AllPatients: true, Rules: []access.Rule{r}}
	}
	for name, c := range map[string]struct {
		grant *access.Grant
		want  bool
	}{
		"operator":    {access.All(), true},
		"one type":    {&access.Grant{AllPatients: true, Rules: []access.Rule{all}}, true},
		"no grant":    {nil, false},
		"consents":    {&access.Grant{Recipient: "app", Consents: permitsAll{}, Rules: []access.Rule{all}}, false},
		"other type":  {limited(func(r *access.Rule) { r.Type = "Device" }), false},
		"reads only":  {limited(func(r *access.Rule) { r.May = access.Read }), false},
		"a vendor":    {limited(func(r *access.Rule) { r.Vendor = "oura" }), false},
		"a patient":   {limited(func(r *access.Rule) { r.Patient = "ada" }), false},
		"an id":       {limited(func(r *access.Rule) { r.ID = "ada" }), false},
		"a parameter": {limited(func(r *access.Rule) { r.Params = []access.Param{{Name: "gender"}} }), false},
	} {
		f := c.grant.Filter(access.Search)
		if got := f.Everything("Patient"); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if !f.Everything("Patient") {
			continue
		}
		for _, facts := range []access.Facts{{Type: "Patient", ID: "ada", Patient: "ada"},
			{Type: "Patient", ID: "ben", Patient: "ben", Vendor: "oura", Author: "x"}} {
			if !f.Allow(&facts) {
				t.Errorf("%s: a resource is not allowed", name)
			}
		}
	}
}
