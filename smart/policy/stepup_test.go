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

func someone(acr string, ago time.Duration) *access.Principal {
	return &access.Principal{ClientID: "app", ACR: acr, AuthTime: noon.Add(-ago), Grant: &access.Grant{Person: true}}
}

func stepUp() policy.StepUp { return policy.StepUp{Clock: func() time.Time { return noon }} }

func TestStepUpDemand(t *testing.T) {
	for name, x := range map[string]struct {
		p  *access.Principal
		ok bool
	}{
		"passkey just now":          {someone("phr", 0), true},
		"passkey five minutes ago":  {someone("phr", 5*time.Minute), true},
		"passkey a second too long": {someone("phr", 5*time.Minute+time.Second), false},
		"passkey in the future":     {someone("phr", -time.Hour), false},
		"password and code":         {someone("mfa", 0), false},
		"nothing said":              {someone("", 0), false},
		"no time said":              {&access.Principal{ACR: "phr", Grant: &access.Grant{Person: true}}, false},
		"backend":                   {&access.Principal{ClientID: "b", Grant: &access.Grant{}}, true},
		"operator":                  {&access.Principal{Operator: "uid:0", Grant: access.All()}, true},
	} {
		err := stepUp().Demand(x.p)
		if (err == nil) != x.ok {
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
	active, inactive, silent := device(`,"status":"active"`), device(`,"status":"inactive"`), device(``)
	for _, x := range []struct {
		name       string
		next, prev *fhir.Resource
		demands    bool
	}{
		{"create", active, nil, false}, {"no change of status", device(`,"status":"active","lotNumber":"7"`),
			active, false},
		{"out of use", inactive, active, true}, {"back again", active, inactive, true},
		{"status taken away", silent, active, true}, {"delete", nil, active, true},
	} {
		if _, err := stepUp().Device(t.Context(), someone("mfa", 0), x.next, x.prev); (err != nil) != x.demands {
			t.Errorf("%s with a weak sign-in: %v", x.name, err)
		}
		for who, p := range map[string]*access.Principal{"fresh passkey": someone("phr", time.Minute),
			"backend": {ClientID: "b", Grant: &access.Grant{}}} {
			if got, err := stepUp().Device(t.Context(), p, x.next, x.prev); err != nil || got != x.next {
				t.Errorf("%s by a %s: %v", x.name, who, err)
			}
		}
	}
}
