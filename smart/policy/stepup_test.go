package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/policy"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // read only

func person(acr string, ago time.Duration) *access.Principal {
	return &access.Principal{ClientID: "app", ACR: acr, AuthTime: noon.Add(-ago), Grant: &access.Grant{Person: true}}
}

func atNoon() policy.StepUp { return policy.StepUp{Clock: func() time.Time { return noon }} }

func TestStepUpDemand(t *testing.T) {
	for name, tc := range map[string]struct {
		p  *access.Principal
		ok bool
	}{
		"passkey now":                           {person("phr", 0), true},
		"passkey five minutes ago":              {person("phr", 5*time.Minute), true},
		"passkey five minutes and a second ago": {person("phr", 5*time.Minute+time.Second), false},
		"passkey in the future":                 {person("phr", -time.Hour), false},
		"password and code":                     {person("mfa", 0), false},
		"no acr":                                {person("", 0), false},
		"no auth_time": {&access.Principal{ACR: "phr", Grant: &access.Grant{Person: true}},
			false},
		"backend":  {&access.Principal{ClientID: "b", Grant: &access.Grant{}}, true},
		"operator": {&access.Principal{Operator: "uid:0", Grant: access.All()}, true},
	} {
		err := atNoon().Demand(tc.p)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			continue
		}
		var c access.Challenge
		if fhir.KindOf(err) != fhir.Unauthorized || !errors.As(err, &c) {
			t.Fatalf("%s: %v", name, err)
		}
		for _, part := range []string{`error="insufficient_user_authentication"`, `acr_values="phr"`, `max_age="300"`} {
			if !strings.Contains(string(c), part) {
				t.Errorf("%s: %s lacks %s", name, c, part)
			}
		}
	}
}

func TestStepUpDevice(t *testing.T) {
	device := func(rest string) *fhir.Resource {
		return &fhir.Resource{Type: "Device", ID: "d", JSON: []byte(`{"resourceType":"Device","id":"d"` + rest + `}`)}
	}
	active, inactive, noStatus := device(`,"status":"active"`), device(`,"status":"inactive"`), device(``)
	for _, tc := range []struct {
		name       string
		next, prev *fhir.Resource
		demands    bool
	}{
		{"create", active, nil, false}, {"status unchanged", device(`,"status":"active","lotNumber":"7"`),
			active, false},
		{"status active to inactive", inactive, active, true}, {"status inactive to active", active, inactive, true},
		{"status removed", noStatus, active, true}, {"delete", nil, active, true},
	} {
		if _, err := atNoon().Device(t.Context(), person("mfa", 0), tc.next, tc.prev); (err != nil) != tc.demands {
			t.Errorf("%s with a weak sign-in: %v", tc.name, err)
		}
		for principal, p := range map[string]*access.Principal{"fresh passkey": person("phr", time.Minute),
			"backend": {ClientID: "b", Grant: &access.Grant{}}} {
			if got, err := atNoon().Device(t.Context(), p, tc.next, tc.prev); err != nil || got != tc.next {
				t.Errorf("%s by a %s: %v", tc.name, principal, err)
			}
		}
	}
}
