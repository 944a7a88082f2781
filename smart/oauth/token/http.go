package token

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/internal/limit"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/proof/dpop"
)

const maxAudited = 512 // bytes of a refused request's scope that are kept

// Path of the endpoint below the base URL.
const Path = "/oauth/token"

// Mount puts the endpoint at Path.
func (e *Endpoint) Mount(m gin.IRouter) { m.Any(Path, gin.WrapH(e)) }

// Answer is a successful answer (RFC 6749 5.1; SMART App Launch 2.2, "Access
// token response").
type Answer struct {
	Access      string          `json:"access_token"`
	Type        string          `json:"token_type"`
	Expires     int64           `json:"expires_in"`
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

// request is one token request whose client is known.
type request struct {
	form    url.Values
	now     time.Time
	proof   client.Proof
	dpop    *dpop.Proof
	confirm compact.Confirm
	ev      audit.Event
}

func (rq *request) order() order {
	return order{client: rq.proof.Client, now: rq.now, use: rq.proof.Assertion, proof: rq.dpop, confirm: rq.confirm,
		context: rq.ev}
}

// ServeHTTP is the token endpoint.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	if oauth.CORS(w, r, http.MethodPost) {
		return
	}
	ev := audit.Event{Type: audit.TokenIssue, RemoteIP: oauth.Remote(r), RequestID: w.Header().Get("X-Request-Id")}
	now := e.opts.Clock()
	var body []byte
	var fail *oauth.Error
	if wait, ok := e.limits.Admit(ev.RemoteIP, now); ok {
		body, fail = e.serve(r, w, &ev)
	} else {
		fail = oauth.TooMany(wait)
	}
	if fail != nil {
		if fail.Status < 500 && fail.Status != http.StatusTooManyRequests {
			e.limits.Failed(limit.Failing(ev.RemoteIP, claimed(&ev)), now)
		}
		e.refuse(w, r, ev, fail)
		return
	}
	e.count(r.Context(), "issued")
	if _, err := w.Write(body); err != nil {
		return // the caller has gone
	}
}

// claimed is the client that a request says it is from.
func claimed(ev *audit.Event) string {
	if ev.Principal == nil {
		return ""
	}
	return ev.Principal.ClientID
}

// refuse records and answers a failure. When it cannot be recorded the answer
// is that the server is unavailable. Beyond a rate refusals are counted and
// logged only: an outsider must not fill the trail.
func (e *Endpoint) refuse(w http.ResponseWriter, r *http.Request, ev audit.Event, f *oauth.Error) {
	ctx := r.Context()
	ev.Outcome, ev.Reason = audit.Serious, f.Error()
	if f.Status >= 500 {
		ev.Outcome = audit.Major
	}
	record := e.limits.Record(e.opts.Clock())
	outcome := f.Code
	if f.Status == http.StatusTooManyRequests {
		outcome = "throttled"
	}
	if !record {
		e.count(ctx, "unrecorded")
	} else if err := e.opts.Audit.Record(context.WithoutCancel(ctx), ev); err != nil {
		outcome, f = "temporarily_unavailable", oauth.Unavailable(err)
	}
	e.count(ctx, outcome)
	e.opts.Logger.InfoContext(ctx, "token refused", "error", f.Code, "rule", f.Description, "client", claimed(&ev),
		"request_id", ev.RequestID, "recorded", record, "cause", f.Cause)
	if f.Status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
		f.Challenge = `Basic realm="token"` // RFC 6749 5.2
	}
	oauth.Refuse(w, f)
}

// audited is the request as it goes into the trail: known parameters only, no
// secret, bounded.
func audited(v url.Values) string {
	out := url.Values{}
	for _, k := range []string{"grant_type", "client_assertion_type", "scope"} {
		if s := v.Get(k); s != "" {
			out.Set(k, s[:min(len(s), maxAudited)])
		}
	}
	return "POST /oauth/token?" + out.Encode()
}

// serve returns the answer's bytes.
func (e *Endpoint) serve(r *http.Request, w http.ResponseWriter, ev *audit.Event) ([]byte, *oauth.Error) {
	ctx := r.Context()
	v, fail := oauth.Form(r, w, "token")
	ev.Query = audited(v)
	if fail != nil {
		return nil, fail
	}
	handle, kind := e.credentials, client.GrantType(v.Get("grant_type"))
	switch kind {
	case "":
		return nil, oauth.Bad("invalid_request", "grant_type is missing")
	case client.Credentials:
	case client.Code:
		handle = e.redeem
	case client.Refresh:
		handle = e.refresh
	default:
		return nil, oauth.Bad("unsupported_grant_type",
			"authorization_code, refresh_token and client_credentials are offered")
	}
	if kind == client.Refresh && client.Anonymous(r, v) {
		if fail := e.whose(ctx, v); fail != nil {
			return nil, fail
		}
	}
	if id := client.ClaimedBy(r, v); id != "" {
		ev.Principal = &access.Principal{ClientID: id} // claimed, not proven; the outcome says so
	}
	if wait, ok := e.limits.MayFail(limit.Failing(ev.RemoteIP, claimed(ev)), e.opts.Clock()); !ok {
		return nil, oauth.TooMany(wait)
	}
	rq := &request{form: v, now: e.now(ctx)}
	var err error
	if rq.proof, err = e.opts.Assertions.Authenticate(ctx, r, v, rq.now); err != nil {
		return nil, oauth.Client(err)
	}
	if rq.proof.Method != client.None {
		e.advance(rq.now)
	}
	if !rq.proof.Client.May(kind) {
		return nil, oauth.Bad("unauthorized_client", "the client is not registered for this grant type")
	}
	if fail := e.bind(r, rq); fail != nil {
		return nil, fail
	}
	rq.ev = *ev
	return handle(ctx, rq)
}

// whose names the client of a refresh token that came with nothing else, as a
// public client may send it: RFC 6749 6 and SMART ask for no client_id there.
// A client that has to authenticate is not let in by that.
func (e *Endpoint) whose(ctx context.Context, v url.Values) *oauth.Error {
	p, ok := authz.ParseRefresh(v.Get("refresh_token"))
	if !ok {
		return nil
	}
	rec, err := e.grants.Get(ctx, p.ID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return oauth.Unavailable(err)
	}
	if err == nil && rec.Standing(p, e.now(ctx), "") != authz.Foreign {
		v.Set("client_id", rec.ClientID)
	}
	return nil
}

// bind finds the key that the tokens are to be bound to.
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
		return oauth.Bad("invalid_dpop_proof", "the client's tokens are bound to a key; a DPoP proof is needed")
	case c.CertBound:
		if rq.confirm.X5T = dpop.Thumbprint(r); rq.confirm.X5T == "" {
			return oauth.Bad("invalid_request", "the client's tokens are bound to its certificate; none was shown")
		}
	}
	return nil
}

// kind is the token_type.
func (rq *request) kind() string {
	if rq.dpop != nil {
		return "DPoP"
	}
	return "bearer"
}

// credentials is the client_credentials grant.
func (e *Endpoint) credentials(ctx context.Context, rq *request) ([]byte, *oauth.Error) {
	o := rq.order()
	o.scope, o.life = rq.form.Get("scope"), MaxLife
	tok, err := e.issue(ctx, o)
	if err != nil {
		return nil, failure(err)
	}
	return encode(Answer{Access: tok.Access, Type: rq.kind(), Expires: int64(tok.Life / time.Second), Scope: tok.Scope})
}

func encode(a Answer) ([]byte, *oauth.Error) {
	b, err := json.Marshal(a)
	if err != nil {
		return nil, oauth.Unavailable(fhir.Wrap("token.encode", err))
	}
	return b, nil
}

func failure(err error) *oauth.Error {
	var s errScope
	var f *oauth.Error
	switch {
	case errors.As(err, &s):
		return oauth.Bad("invalid_scope", oauth.Text(s.error))
	case errors.As(err, &f):
		return f
	}
	return oauth.Client(err)
}
