package token

import (
	"crypto/rand"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/authz"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/scope"
)

const (
	// MaxLife is the longest lifetime of a backend's access token.
	MaxLife = 5 * time.Minute
	// MaxUserLife is the longest lifetime that can be configured for a person's
	// access token.
	MaxUserLife = time.Hour
	// Type is the typ header of an access token (RFC 9068).
	Type = "at+jwt"

	// idLife is the lifetime of an id_token.
	idLife = 10 * time.Minute
)

// UserLife returns the lifetime of a person's access token for a configured
// value: that value if it is allowed, else 15 minutes.
func UserLife(configured time.Duration) time.Duration {
	if configured <= 0 || configured > MaxUserLife {
		return 15 * time.Minute
	}
	return configured
}

// Token is an issued access token.
type Token struct {
	Access  string
	Scope   string
	Expires time.Time
	Life    time.Duration
}

// claims of an access token.
type claims struct {
	Iss       string           `json:"iss"`
	Sub       string           `json:"sub"`
	Aud       string           `json:"aud"`
	ClientID  string           `json:"client_id"`
	Scope     string           `json:"scope"`
	JTI       string           `json:"jti"`
	Iat       int64            `json:"iat"`
	Exp       int64            `json:"exp"`
	Authz     string           `json:"authz,omitzero"`
	Patient   string           `json:"patient,omitzero"`
	Encounter string           `json:"encounter,omitzero"`
	FHIRUser  string           `json:"fhirUser,omitzero"`
	ACR       string           `json:"acr,omitzero"`
	AuthTime  int64            `json:"auth_time,omitzero"`
	Confirm   *compact.Confirm `json:"cnf,omitempty"`
}

// sign completes the claims and signs the token.
func (e *Endpoint) sign(c *claims, life time.Duration, confirm compact.Confirm) (Token, error) {
	c.Iss, c.Aud, c.JTI = e.opts.Issuer, e.opts.Audience, rand.Text()
	// The API that accepts the token knows the clock only, not the high-water
	// mark.
	now := e.opts.Clock()
	c.Iat, c.Exp = now.Unix(), now.Add(life).Unix()
	if !confirm.IsZero() {
		c.Confirm = &confirm
	}
	access, err := e.opts.Keys.Sign(Type, *c)
	return Token{Access: access, Scope: c.Scope, Expires: time.Unix(c.Exp, 0).UTC(),
		Life: time.Duration(c.Exp-c.Iat) * time.Second}, err
}

// issueUser makes the access token and, for the scope openid, the id_token of
// an authorization. The caller commits them and adds the refresh token.
func (e *Endpoint) issueUser(rq *request, a *authz.Authorization, granted, nonce string) (Response, claims, error) {
	set, err := e.opts.Scopes.Parse(granted)
	if err != nil {
		return Response{}, claims{}, fhir.Wrap("token.issueUser", err)
	}
	c := claims{Sub: a.Subject.ID, ClientID: a.ClientID, Scope: granted, Authz: a.ID, Patient: a.Context.Patient,
		Encounter: a.Context.Encounter, ACR: a.Subject.ACR}
	if !a.Subject.AuthTime.IsZero() {
		c.AuthTime = a.Subject.AuthTime.Unix()
	}
	if !a.Subject.FHIRUser.IsZero() && set.Has(scope.FHIRUser) {
		c.FHIRUser = e.opts.Audience + "/" + a.Subject.FHIRUser.String()
	}
	life := min(e.opts.UserLife, a.Expires.Sub(rq.now))
	tok, err := e.sign(&c, life, rq.confirm)
	if err != nil {
		return Response{}, claims{}, err
	}
	if a.V1 {
		granted = set.V1()
	}
	launch := a.Context
	res := Response{Access: tok.Access, Type: rq.tokenType(), Expires: int64(tok.Life / time.Second), Scope: granted,
		Patient: launch.Patient, Encounter: launch.Encounter, FHIRContext: launch.FHIRContext, Intent: launch.Intent,
		Banner: launch.Banner, StyleURL: launch.StyleURL}
	if set.Has(scope.OpenID) {
		if res.IDToken, err = e.opts.Keys.SignID(e.idClaims(c, a, set, nonce)); err != nil {
			return Response{}, claims{}, err
		}
	}
	return res, c, nil
}

// idClaims returns the claims of an id_token (OpenID Connect Core 2; SMART App
// Launch 2.2, "Scopes for requesting identity data").
func (e *Endpoint) idClaims(c claims, a *authz.Authorization, set scope.Set, nonce string) map[string]any {
	id := map[string]any{"iss": c.Iss, "sub": c.Sub, "aud": c.ClientID, "iat": c.Iat,
		"exp": c.Iat + int64(idLife/time.Second), "jti": rand.Text()}
	if c.AuthTime != 0 {
		id["auth_time"] = c.AuthTime
	}
	if nonce != "" {
		id["nonce"] = nonce
	}
	if c.ACR != "" {
		id["acr"] = c.ACR
	}
	if len(a.Subject.AMR) > 0 {
		id["amr"] = a.Subject.AMR
	}
	if c.FHIRUser != "" {
		id["fhirUser"] = c.FHIRUser
	}
	if set.Has(scope.Profile) {
		if a.Subject.Name != "" {
			id["name"] = a.Subject.Name
		}
		if !a.Subject.FHIRUser.IsZero() { // for SMART 1.0 clients
			id["profile"] = e.opts.Audience + "/" + a.Subject.FHIRUser.String()
		}
	}
	return id
}
