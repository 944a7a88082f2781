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

// StepUp protects actions that a stolen token of a person must not suffice for.
// They require that the person used a phishing-resistant factor within the last
// five minutes, as the pages do (RFC 9470). Backends are exempt because they
// authenticate with a key for each token. The operator is exempt too.
type StepUp struct{ Clock func() time.Time }

// Demand returns nil if the principal is exempt or meets the requirement.
// Otherwise it returns an Unauthorized error with the challenge to step up.
func (s StepUp) Demand(p *access.Principal) error {
	if p == nil || p.Grant == nil || !p.Grant.Person {
		return nil
	}
	age := s.Clock().Sub(p.AuthTime)
	if p.ACR == authn.PhishingResistant && !p.AuthTime.IsZero() && age <= session.StepUpLife && age >= -client.Skew {
		return nil
	}
	scheme := "Bearer"
	if p.DPoP { // the challenge names the token's scheme (RFC 9449 7.1)
		scheme = "DPoP"
	}
	const text = "sign in again with a passkey; this action requires a sign-in within the last five minutes"
	return &fhir.Error{Kind: fhir.Unauthorized, Op: "policy.StepUp",
		Issues: []fhir.Issue{{Code: "login", Diagnostics: "insufficient_user_authentication: " + text}},
		Err: access.Challenge(fmt.Sprintf(
			`%s error="insufficient_user_authentication", error_description="%s", acr_values="%s", max_age="%d"`,
			scheme, text, authn.PhishingResistant, int(session.StepUpLife/time.Second)))}
}

// Device is an interaction.Check for Devices. It requires a step-up to change
// the status of a Device or to delete it.
func (s StepUp) Device(_ context.Context, p *access.Principal, next, prev *fhir.Resource) (*fhir.Resource, error) {
	if prev == nil {
		return next, nil
	}
	if next == nil {
		return nil, s.Demand(p)
	}
	before, err := deviceStatus(prev)
	if err != nil {
		return nil, err
	}
	after, err := deviceStatus(next)
	if err != nil {
		return nil, err
	}
	if before == after {
		return next, nil
	}
	return next, s.Demand(p)
}

func deviceStatus(r *fhir.Resource) (string, error) {
	var d struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(r.JSON, &d); err != nil {
		return "", fhir.Errorf(fhir.Internal, "policy.StepUp", "the stored Device is not valid JSON")
	}
	return d.Status, nil
}
