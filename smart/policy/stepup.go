package policy

import (
	"context"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/authn"
	"pulsegate/smart/session"
)

// StepUp guards what must not be done with a stolen token (RFC 9470): a person
// changes or removes a Device, and so ends what it may send, only with a token
// for which that person signed in just now, by a factor that cannot be
// phished. The challenge says with which acr_values and max_age an app asks
// for such a token. A backend has proven its key and is let by.
//
// What a person starts does not outlive the token: $export and Subscriptions
// are not open to a person at all (access.Grant.MayUnattended). Roles, clients
// and users are changed on the pages, which ask for the same (smart/signin).
type StepUp struct {
	Clock func() time.Time
}

// Check is an interaction.Check for Device.
func (u StepUp) Check(_ context.Context, p *access.Principal, next, old *fhir.Resource) (*fhir.Resource, error) {
	const op = "policy.StepUp"
	if old == nil || p == nil || p.Grant == nil || !p.Grant.Person {
		return next, nil
	}
	ago := u.Clock().Sub(p.AuthTime)
	if authn.Rank(p.ACR) >= authn.Rank(authn.PhishingResistant) && !p.AuthTime.IsZero() && ago <= session.StepUpLife {
		return next, nil
	}
	return nil, &fhir.Error{Kind: fhir.Unauthorized, Op: op,
		Err: access.Challenge(`Bearer error="insufficient_user_authentication", error_description="sign in again with a passkey", acr_values="` + authn.PhishingResistant +
			`", max_age="` + strconv.Itoa(int(session.StepUpLife/time.Second)) + `"`),
		Issues: []fhir.Issue{{Code: "login", Diagnostics: "to change a Device sign in again with a passkey: ask for a token with acr_values=" + authn.PhishingResistant +
			" and max_age=" + strconv.Itoa(int(session.StepUpLife/time.Second))}}}
}
