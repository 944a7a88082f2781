package token

import (
	"bytes"
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/scope"
)

// redeem implements the authorization_code grant type (RFC 6749 4.1.3).
func (e *Endpoint) redeem(ctx context.Context, rq *request) outcome {
	code, fail := e.checkCode(ctx, rq)
	if fail != nil {
		return rq.refused(fail)
	}
	res, rec, c, fail := e.begin(rq, code)
	if fail != nil {
		return rq.refused(fail)
	}
	writes, err := code.Redeem(rec)
	if err != nil {
		return rq.failed(err)
	}
	b, err := e.batch(c, rq)
	if err != nil {
		return rq.failed(err)
	}
	b.State = append(b.State, writes...)
	hold, fail := e.hold(ctx, &rec.Authorization)
	if fail != nil {
		return rq.refused(fail)
	}
	b.State = append(b.State, hold...)
	if e.opts.Begun != nil {
		if err := e.opts.Begun(ctx, b, code.Code); err != nil {
			return rq.failed(err)
		}
	}
	if _, err := e.opts.Store.Commit(ctx, b); err != nil {
		return e.redeemConflict(ctx, rq, &rec.Authorization, hold, err)
	}
	body, fail := encode(res)
	if fail != nil {
		return rq.refused(fail)
	}
	return rq.answered(body)
}

// checkCode returns the code of the request if it is the client's, unused, not
// expired, and fits redirect_uri, code_verifier and DPoP key. A second use of a
// code ends its authorization (RFC 6749 4.1.2).
func (e *Endpoint) checkCode(ctx context.Context, rq *request) (authz.Issued, *oauth.Error) {
	code, verifier := rq.form.Get("code"), rq.form.Get("code_verifier")
	switch {
	case code == "":
		return authz.Issued{}, oauth.Bad("invalid_request", "code is missing")
	case verifier == "":
		return authz.Issued{}, oauth.Bad("invalid_request", "code_verifier is missing")
	}
	i, err := e.grants.Code(ctx, code)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return i, invalidGrant("the code is not known")
	}
	if err != nil {
		return i, oauth.Unavailable(err)
	}
	if i.Authorization.ClientID != rq.proof.Client.ID {
		return i, invalidGrant("the code is not known") // do not disclose that it is another client's
	}
	if i.Used {
		return i, e.reused(ctx, rq, i.Authorization.ID, "the code was used before; what it gave has ended")
	}
	switch {
	case !rq.now.Before(i.Expires):
		return i, invalidGrant("the code has expired")
	case rq.form.Get("redirect_uri") != i.RedirectURI:
		return i, invalidGrant("redirect_uri is not that of the authorization request")
	case !verifyPKCE(verifier, i.Challenge):
		return i, invalidGrant("code_verifier does not fit code_challenge")
	case i.JKT != "" && !dpop.Equal(i.JKT, rq.confirm.JKT):
		return i, invalidGrant("the code is bound to another DPoP key")
	}
	return i, nil
}

// begin returns the response to a code, and the record of the authorization
// that starts with it.
func (e *Endpoint) begin(rq *request, code authz.Issued) (Response, authz.Record, claims, *oauth.Error) {
	rec := authz.Record{Authorization: code.Authorization}
	rec.Created, rec.Used = rq.now, rq.now
	rec.Expires = rq.now.Add(authz.Session)
	if rec.Offline {
		rec.Expires = rq.now.Add(authz.Absolute)
	}
	res, c, err := e.issueUser(rq, &rec.Authorization, rec.Scope, code.Nonce)
	if err != nil {
		return res, rec, c, failure(err)
	}
	set, err := e.opts.Scopes.Parse(rec.Scope)
	if err != nil {
		return res, rec, c, failure(fhir.Wrap("token.redeem", err))
	}
	if !(set.Has(scope.Offline) || set.Has(scope.Online)) || !rq.proof.Client.May(client.Refresh) {
		// Without a refresh token the authorization ends with the access token.
		rec.Expires = rq.now.Add(e.opts.UserLife)
		return res, rec, c, nil
	}
	if res.Refresh, err = rec.First(rq.now, e.opts.Rand); err != nil {
		return res, rec, c, failure(err)
	}
	if rq.proof.Method == client.None {
		rec.JKT = rq.confirm.JKT
	}
	return res, rec, c, nil
}

// redeemConflict returns the outcome after a commit that redeems a code failed
// with err. Another write to the account, such as a sign-in elsewhere, is no
// reason to refuse: the code is redeemed again. A second use of the code ends
// the authorization.
func (e *Endpoint) redeemConflict(ctx context.Context, rq *request, a *authz.Authorization, hold []store.StateWrite,
	err error) outcome {
	if fhir.KindOf(err) != fhir.Conflict {
		return rq.failed(e.conflict(ctx, rq, err))
	}
	if len(hold) > 0 {
		current, fail := e.hold(ctx, a)
		if fail != nil {
			return rq.refused(fail)
		}
		if !bytes.Equal(current[0].Value, hold[0].Value) {
			return e.redeem(ctx, rq)
		}
	}
	if i, gerr := e.grants.Code(ctx, rq.form.Get("code")); gerr == nil && i.Used {
		return rq.refused(e.reused(ctx, rq, i.Authorization.ID,
			"the code was used at the same time; what it gave has ended"))
	}
	return rq.failed(e.conflict(ctx, rq, err))
}

// hold checks that the account and the session of the person who approved still
// stand. It returns the write that makes the commit fail if the account changes
// before it.
func (e *Endpoint) hold(ctx context.Context, a *authz.Authorization) ([]store.StateWrite, *oauth.Error) {
	ended := invalidGrant("the person's session or account has ended")
	if e.opts.Alive != nil {
		_, ok, err := e.opts.Alive(ctx, a.Subject, a.Offline)
		if err != nil {
			return nil, oauth.Unavailable(err)
		}
		if !ok {
			return nil, ended
		}
	}
	if e.opts.Hold == nil {
		return nil, nil
	}
	w, ok, err := e.opts.Hold(ctx, a.Subject)
	if err != nil {
		return nil, oauth.Unavailable(err)
	}
	if !ok {
		return nil, ended
	}
	return []store.StateWrite{w}, nil
}

// reused ends an authorization after its code or refresh token was presented twice
// (RFC 6749 4.1.2, RFC 9700 4.14.2), and returns the error with rule as its
// text.
func (e *Endpoint) reused(ctx context.Context, rq *request, id, rule string) *oauth.Error {
	if err := e.End(ctx, id); err != nil && fhir.KindOf(err) != fhir.NotFound {
		return oauth.Unavailable(err)
	}
	e.count(ctx, "reuse")
	e.opts.Logger.WarnContext(ctx, "authorization revoked: a code or refresh token was used twice", "client",
		rq.proof.Client.ID, "authorization", id, "request_id", rq.event.RequestID)
	return invalidGrant(rule)
}
