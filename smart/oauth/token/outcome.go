package token

import (
	"encoding/json"
	"errors"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/internal/oauth"
)

// Response is a successful response (RFC 6749 5.1; SMART App Launch 2.2,
// "Access token response").
type Response struct {
	Access      string          `json:"access_token"`
	Type        string          `json:"token_type"`
	Expires     int64           `json:"expires_in"` // seconds
	Scope       string          `json:"scope"`
	Refresh     string          `json:"refresh_token,omitempty"`
	IDToken     string          `json:"id_token,omitempty"`
	Patient     string          `json:"patient,omitempty"`
	Encounter   string          `json:"encounter,omitempty"`
	FHIRContext json.RawMessage `json:"fhirContext,omitempty"`
	Intent      string          `json:"intent,omitempty"`
	Banner      *bool           `json:"need_patient_banner,omitempty"`
	StyleURL    string          `json:"smart_style_url,omitempty"`
}

// outcome is the result of a token request: either an encoded Response or an
// error. The event holds the facts of the request for the audit trail. The
// event of a success is durable already, in the commit that issued the token;
// that of an error has still to be recorded.
type outcome struct {
	response []byte
	event    audit.Event
	err      *oauth.Error
}

// answered returns the outcome of a request that succeeded.
func (rq *request) answered(response []byte) outcome {
	return outcome{response: response, event: rq.event}
}

// refused returns the outcome of a request that breaks a rule.
func (rq *request) refused(err *oauth.Error) outcome { return outcome{event: rq.event, err: err} }

// failed returns the outcome of a request that ended with err.
func (rq *request) failed(err error) outcome { return rq.refused(failure(err)) }

// scopeError marks an error in the scope that was requested.
type scopeError struct{ error }

func (e scopeError) Unwrap() error { return e.error }

// failure returns the error response for err.
func failure(err error) *oauth.Error {
	var s scopeError
	var f *oauth.Error
	switch {
	case errors.As(err, &s):
		return oauth.Bad("invalid_scope", oauth.Text(s.error))
	case errors.As(err, &f):
		return f
	}
	return oauth.Client(err)
}

func invalidGrant(rule string) *oauth.Error { return oauth.Bad("invalid_grant", rule) }

func encode(r Response) ([]byte, *oauth.Error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, oauth.Unavailable(fhir.Wrap("token.encode", err))
	}
	return b, nil
}
