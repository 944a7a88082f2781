package token

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/proof/dpop"
)

// maxAudited bounds each parameter that the trail keeps of a request, in bytes.
const maxAudited = 512

// request is a token request. The phases of Endpoint.serve fill it in.
type request struct {
	form      url.Values
	grantType client.GrantType
	// event holds the facts for the audit trail. Its principal is the client
	// that the request claims to come from, before and after authentication.
	event   audit.Event
	now     time.Time       // never goes back; see Endpoint.Now
	proof   client.Proof    // the authenticated client
	dpop    *dpop.Proof     // nil without a DPoP proof
	confirm compact.Confirm // key or certificate that the tokens are bound to
}

// parse reads the form and the grant type.
func (rq *request) parse(w http.ResponseWriter, r *http.Request) (fail *oauth.Error) {
	rq.form, fail = oauth.Form(r, w, "token")
	rq.event.Query = auditedQuery(rq.form)
	if fail != nil {
		return fail
	}
	switch rq.grantType = client.GrantType(rq.form.Get("grant_type")); rq.grantType {
	case client.Credentials, client.Code, client.Refresh:
		return nil
	case "":
		return oauth.Bad("invalid_request", "grant_type is missing")
	default:
		return oauth.Bad("unsupported_grant_type",
			"grant_type must be authorization_code, refresh_token or client_credentials")
	}
}

// auditedQuery returns the request line for the audit trail: the parameters
// that hold no secret, each cut to maxAudited bytes.
func auditedQuery(form url.Values) string {
	out := url.Values{}
	for _, k := range []string{"grant_type", "client_assertion_type", "scope"} {
		if s := form.Get(k); s != "" {
			out.Set(k, s[:min(len(s), maxAudited)])
		}
	}
	return "POST /oauth/token?" + out.Encode()
}

// claimedClient returns the ID of the client that a request claims to come
// from, or "" if it names none.
func claimedClient(ev *audit.Event) string {
	if ev.Principal == nil {
		return ""
	}
	return ev.Principal.ClientID
}

// authenticate authenticates the client and checks that it may use the grant
// type.
func (e *Endpoint) authenticate(r *http.Request, rq *request) *oauth.Error {
	ctx := r.Context()
	if rq.grantType == client.Refresh && client.Anonymous(r, rq.form) {
		if fail := e.clientOfRefreshToken(ctx, rq.form); fail != nil {
			return fail
		}
	}
	if id := client.ClaimedBy(r, rq.form); id != "" {
		rq.event.Principal = &access.Principal{ClientID: id}
	}
	failing := limit.Failing(rq.event.RemoteIP, claimedClient(&rq.event))
	if wait, ok := e.limits.MayFail(failing, e.opts.Clock()); !ok {
		return oauth.TooMany(wait)
	}
	rq.now = e.Now(ctx)
	var err error
	if rq.proof, err = e.opts.Assertions.Authenticate(ctx, r, rq.form, rq.now); err != nil {
		return oauth.Client(err)
	}
	if !rq.proof.Client.May(rq.grantType) {
		return oauth.Bad("unauthorized_client", "the client is not registered for this grant type")
	}
	return nil
}

// clientOfRefreshToken sets client_id to the client of the refresh token. A
// public client may send a refresh token without a client_id (RFC 6749 6; SMART
// App Launch 2.2, "Refresh access token"). A client that has credentials still
// has to authenticate.
func (e *Endpoint) clientOfRefreshToken(ctx context.Context, form url.Values) *oauth.Error {
	p, ok := authz.ParseRefresh(form.Get("refresh_token"))
	if !ok {
		return nil
	}
	rec, err := e.grants.Get(ctx, p.ID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return oauth.Unavailable(err)
	}
	if err == nil && rec.Status(p, e.Now(ctx), "") != authz.Unknown {
		form.Set("client_id", rec.ClientID)
	}
	return nil
}

// bind finds the key or certificate that the tokens are to be bound to
// (RFC 9449, RFC 8705).
func (e *Endpoint) bind(r *http.Request, rq *request) *oauth.Error {
	var err error
	if rq.dpop, err = dpop.Verify(r, e.opts.Issuer+Path, "", rq.now, e.opts.Nonces); errors.Is(err, dpop.ErrNonce) {
		return oauth.Bad("use_dpop_nonce", oauth.Text(err))
	} else if err != nil {
		return oauth.Bad("invalid_dpop_proof", oauth.Text(err))
	}
	c := &rq.proof.Client
	switch {
	case rq.dpop != nil:
		rq.confirm.JKT = rq.dpop.JKT
	case c.DPoPBound:
		return oauth.Bad("invalid_dpop_proof", "this client's tokens are bound to a key; send a DPoP proof")
	case c.CertBound:
		if rq.confirm.X5T = dpop.Thumbprint(r); rq.confirm.X5T == "" {
			return oauth.Bad("invalid_request",
				"this client's tokens are bound to its certificate; connect with the client certificate")
		}
	}
	return nil
}

// tokenType returns the token_type of the response.
func (rq *request) tokenType() string {
	if rq.dpop != nil {
		return "DPoP"
	}
	return "bearer"
}
