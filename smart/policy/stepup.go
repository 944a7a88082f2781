package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/client"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/session"
)

// StepUp holds what must not be done with a stolen token of a person to a
// phishing-resistant factor shown within the last five minutes, the same that
// the pages demand (RFC 9470). Backends sign in with a key at each token and
// are exempt, as is the operator.
type StepUp struct{ Clock func() time.Time }

// Demand is an Unauthorized error with the challenge that says what would
// help, or nil.
func (s StepUp) Demand(p *access.Principal) error {
	if p == nil || p.Grant == nil || !p.Grant.Person {
		return nil
	}
	age := s.Clock().Sub(p.AuthTime)
	if p.ACR == authn.PhishingResistant && !p.AuthTime.IsZero() && age <= session.StepUpLife && age >= -client.Skew {
		return nil
	}
	scheme := "Bearer"
	if p.DPoP { // RFC 9449 7.1: in the scheme that the token is for
		scheme = "DPoP"
	}
	const text = "a passkey has to be shown again, within the last five minutes"
	return &fhir.Error{Kind: fhir.Unauthorized, Op: "policy.StepUp",
		Issues: []fhir.Issue{{Code: "login", Diagnostics: "insufficient_user_authentication: " + text}},
		Err: access.Challenge(fmt.Sprintf(
			`%s error="insufficient_user_authentication", error_description="%s", acr_values="%s", max_age="%d"`,
			scheme, text, authn.PhishingResistant, int(session.StepUpLife/time.Second)))}
}

// Device is the check of writes of Devices: to take one out of use, to bring
// it back, and to remove it needs a step-up.
func (s StepUp) Device(_ context.Context, p *access.Principal, next, prev *fhir.Resource) (*fhir.Resource, error) {
	if prev == nil {
		return next, nil
	}
	if next == nil {
		return nil, s.Demand(p)
	}
	was, err := deviceStatus(prev)
	if err != nil {
		return nil, err
	}
	is, err := deviceStatus(next)
	if err != nil {
		return nil, err
	}
	if was == is {
		return next, nil
	}
	return next, s.Demand(p)
}

func deviceStatus(r *fhir.Resource) (string, error) {
	var d struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(r.JSON, &d); err != nil {
		return "", fhir.Errorf(fhir.Internal, "policy.StepUp", "a Device cannot be read")
	}
	return d.Status, nil
}
