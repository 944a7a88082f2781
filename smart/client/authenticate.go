package client

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pulsegate/fhir"
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Proof is the result of a client authentication.
type Proof struct {
	Client Client
	Method Method
	// Assertion is set for PrivateKeyJWT. The caller still has to use up its
	// jti.
	Assertion *Assertion
}

// ClaimedBy returns the client id that a request claims, unverified, or "" if
// it claims none.
func ClaimedBy(r *http.Request, form url.Values) string {
	if a := form.Get("client_assertion"); a != "" {
		return claimedID(a)
	}
	id := form.Get("client_id")
	if user, _, ok := basic(r); ok {
		id = user
	}
	if !fhir.ValidID(id) {
		return ""
	}
	return id
}

// Anonymous reports whether a request does not identify its client at all.
func Anonymous(r *http.Request, form url.Values) bool {
	return len(r.Header.Values("Authorization")) == 0 && !form.Has("client_id") && !form.Has("client_secret") &&
		!form.Has("client_assertion") && !form.Has("client_assertion_type")
}

func basic(r *http.Request) (id, secret string, ok bool) {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return "", "", true
	}
	user, pass, _ := strings.Cut(string(b), ":")
	// Both are form-encoded (RFC 6749 2.3.1).
	user, err1 := url.QueryUnescape(user)
	pass, err2 := url.QueryUnescape(pass)
	if err1 != nil || err2 != nil {
		return "", "", true
	}
	return user, pass, true
}

// Authenticate identifies the client of a request, which must use exactly one
// of the supported methods. The error has kind Unauthorized (invalid_client)
// or, for a malformed request, Invalid (invalid_request). If the registry
// cannot be read, the error has neither kind.
func (a *Assertions) Authenticate(ctx context.Context, r *http.Request, form url.Values, now time.Time) (Proof, error) {
	const op = "client.Authenticate"
	user, pass, isBasic := basic(r)
	assertion, post := form.Get("client_assertion"), form.Has("client_secret")
	methods := 0
	for _, used := range []bool{isBasic, post, assertion != "" || form.Has("client_assertion_type")} {
		if used {
			methods++
		}
	}
	switch {
	case methods > 1:
		return Proof{}, fhir.Errorf(fhir.Invalid, op, "the request uses more than one method of client authentication")
	case len(r.Header.Values("Authorization")) > 1 || r.Header.Get("Authorization") != "" && !isBasic:
		return Proof{}, fhir.Errorf(fhir.Invalid, op, "Authorization must occur once and use Basic")
	case methods == 0 && form.Get("client_id") == "":
		return Proof{}, fhir.Errorf(fhir.Unauthorized, op, "client authentication is missing")
	}
	if form.Has("client_assertion_type") && form.Get("client_assertion_type") != assertionType {
		return Proof{}, fhir.Errorf(fhir.Invalid, op, "client_assertion_type must be "+assertionType)
	}
	if assertion != "" || form.Has("client_assertion_type") {
		return a.byAssertion(ctx, form, now)
	}
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if isBasic {
		if id != "" && id != user {
			return Proof{}, fhir.Errorf(fhir.Invalid, op, "client_id differs from the one in Authorization")
		}
		id, secret = user, pass
	}
	c, err := a.Clients.Get(ctx, id)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return Proof{}, err
	}
	if methods == 0 {
		if err != nil || c.Disabled || c.Method != None {
			return Proof{}, errClient(err)
		}
		return Proof{Client: c, Method: None}, nil
	}
	if !c.knows(secret, now) || err != nil || c.Disabled || !c.Symmetric() {
		return Proof{}, errClient(err)
	}
	return Proof{Client: c, Method: SecretBasic}, nil
}

func (a *Assertions) byAssertion(ctx context.Context, form url.Values, now time.Time) (Proof, error) {
	assertion := form.Get("client_assertion")
	switch {
	case form.Get("client_assertion_type") == "":
		return Proof{}, fhir.Errorf(fhir.Invalid, "client.Authenticate", "client_assertion_type must be "+assertionType)
	case assertion == "":
		return Proof{}, fhir.Errorf(fhir.Invalid, "client.Authenticate", "client_assertion is missing")
	}
	v, err := a.verify(ctx, assertion, now)
	if err != nil {
		return Proof{}, err
	}
	if v.Client.Auth() != PrivateKeyJWT {
		return Proof{}, errClient(nil)
	}
	if id := form.Get("client_id"); id != "" && id != v.Client.ID {
		return Proof{}, fhir.Errorf(fhir.Invalid, "client.Authenticate",
			"client_id differs from the one in the assertion")
	}
	return Proof{Client: v.Client, Method: PrivateKeyJWT, Assertion: &v}, nil
}

// knows reports whether secret is a current secret of the client. It takes
// constant time, even if the client has no secret.
func (c *Client) knows(secret string, now time.Time) bool {
	got := Hash(secret)
	var absent [sha256.Size]byte
	have, old := absent[:], absent[:]
	if len(c.SecretHash) == sha256.Size {
		have = c.SecretHash
	}
	if len(c.SecretOld) == sha256.Size && now.Before(c.SecretOldEnds) {
		old = c.SecretOld
	}
	a, b := subtle.ConstantTimeCompare(got, have), subtle.ConstantTimeCompare(got, old)
	return a|b == 1 && secret != ""
}
