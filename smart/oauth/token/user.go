package token

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/scope"
)

// idLife is how long an id_token may be taken for a sign-in.
const idLife = 10 * time.Minute

func badGrant(rule string) *oauth.Error { return oauth.Bad("invalid_grant", rule) }

// verifier reports whether v has the form of RFC 7636 4.1.
func verifier(v string) bool {
	if len(v) < 43 || len(v) > 128 {
		return false
	}
	return strings.IndexFunc(v, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("-._~", r))
	}) < 0
}

// redeem is the authorization_code grant.
func (e *Endpoint) redeem(ctx context.Context, rq *request) ([]byte, *oauth.Error) {
	code, pkce := rq.form.Get("code"), rq.form.Get("code_verifier")
	switch {
	case code == "":
		return nil, oauth.Bad("invalid_request", "code is missing")
	case pkce == "":
		return nil, oauth.Bad("invalid_request", "code_verifier is missing")
	}
	i, err := e.grants.Code(ctx, code)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return nil, badGrant("the code is not known")
	}
	if err != nil {
		return nil, oauth.Unavailable(err)
	}
	if i.Authorization.ClientID != rq.proof.Client.ID {
		return nil, badGrant("the code is not known") // whose it is, is nobody's business
	}
	if i.Used {
		return nil, e.reused(ctx, rq, i.Authorization.ID, "the code was used before; what it gave has ended")
	}
	sum := sha256.Sum256([]byte(pkce))
	switch {
	case !rq.now.Before(i.Expires):
		return nil, badGrant("the code has expired")
	case rq.form.Get("redirect_uri") != i.RedirectURI:
		return nil, badGrant("redirect_uri is not that of the authorization request")
	case !verifier(pkce) || subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])),
		[]byte(i.Challenge)) != 1:
		return nil, badGrant("code_verifier does not fit code_challenge")
	case i.JKT != "" && !dpop.Equal(i.JKT, rq.confirm.JKT):
		return nil, badGrant("the code is bound to another DPoP key")
	}
	rec := authz.Record{Authorization: i.Authorization}
	rec.Created, rec.Used = rq.now, rq.now
	rec.Expires = rq.now.Add(authz.Session)
	if rec.Offline {
		rec.Expires = rq.now.Add(authz.Absolute)
	}
	a, c, err := e.person(rq, &rec.Authorization, rec.Scope, i.Nonce)
	if err != nil {
		return nil, failure(err)
	}
	if s, err := e.opts.Scopes.Parse(rec.Scope); err != nil {
		return nil, failure(fhir.Wrap("token.redeem", err))
	} else if (s.Has(scope.Offline) || s.Has(scope.Online)) && rq.proof.Client.May(client.Refresh) {
		if a.Refresh, err = rec.First(rq.now, e.opts.Rand); err != nil {
			return nil, failure(err)
		}
		if rq.proof.Method == client.None {
			rec.JKT = rq.confirm.JKT
		}
	} else {
		// Without a refresh token the access token is all there is.
		rec.Expires = rq.now.Add(e.opts.UserLife)
	}
	writes, err := i.Redeem(rec)
	if err != nil {
		return nil, failure(err)
	}
	b, err := e.batch(c, rq.order())
	if err != nil {
		return nil, failure(err)
	}
	b.State = append(b.State, writes...)
	held, fail := e.hold(ctx, &rec.Authorization)
	if fail != nil {
		return nil, fail
	}
	b.State = append(b.State, held...)
	if e.opts.Begun != nil {
		if err := e.opts.Begun(ctx, b, i.Code); err != nil {
			return nil, failure(err)
		}
	}
	if _, err := e.opts.Store.Commit(ctx, b); err != nil {
		if fhir.KindOf(err) == fhir.Conflict && len(held) > 0 {
			// Another write to the account, such as a sign-in elsewhere, is no
			// reason to refuse: ask again.
			if now, fail := e.hold(ctx, &rec.Authorization); fail != nil || !bytes.Equal(now[0].Value, held[0].Value) {
				if fail != nil {
					return nil, fail
				}
				return e.redeem(ctx, rq)
			}
		}
		if again, gerr := e.grants.Code(ctx, code); gerr == nil && again.Used && fhir.KindOf(err) == fhir.Conflict {
			return nil, e.reused(ctx, rq, again.Authorization.ID,
				"the code was used at the same time; what it gave has ended")
		}
		return nil, failure(e.conflict(ctx, rq.order(), err))
	}
	return encode(a)
}

// hold checks that the person who approved is who they were, and returns the
// write that keeps this so until the commit.
func (e *Endpoint) hold(ctx context.Context, a *authz.Authorization) ([]store.StateWrite, *oauth.Error) {
	over := badGrant("the person's session or account has ended")
	if e.opts.Alive != nil {
		_, ok, err := e.opts.Alive(ctx, a.Subject, a.Offline)
		if err != nil {
			return nil, oauth.Unavailable(err)
		}
		if !ok {
			return nil, over
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
		return nil, over
	}
	return []store.StateWrite{w}, nil
}

// reused ends the authorization whose code or refresh token came twice.
func (e *Endpoint) reused(ctx context.Context, rq *request, id, rule string) *oauth.Error {
	if err := e.End(ctx, id); err != nil && fhir.KindOf(err) != fhir.NotFound {
		return oauth.Unavailable(err)
	}
	e.count(ctx, "reuse")
	e.opts.Logger.WarnContext(ctx, "authorization revoked: a code or refresh token came twice", "client",
		rq.proof.Client.ID,
		"authorization", id, "request_id", rq.ev.RequestID)
	return badGrant(rule)
}

// person makes the access token and the id_token for an authorization.
func (e *Endpoint) person(rq *request, au *authz.Authorization, granted, nonce string) (Answer, claims, error) {
	set, err := e.opts.Scopes.Parse(granted)
	if err != nil {
		return Answer{}, claims{}, fhir.Wrap("token.person", err)
	}
	c := claims{Sub: au.Subject.ID, ClientID: au.ClientID, Scope: granted, Authz: au.ID, Patient: au.Context.Patient,
		Encounter: au.Context.Encounter, ACR: au.Subject.ACR}
	if !au.Subject.AuthTime.IsZero() {
		c.AuthTime = au.Subject.AuthTime.Unix()
	}
	if !au.Subject.FHIRUser.IsZero() && set.Has(scope.FHIRUser) {
		c.FHIRUser = e.opts.Audience + "/" + au.Subject.FHIRUser.String()
	}
	life := min(e.opts.UserLife, au.Expires.Sub(rq.now))
	tok, err := e.sign(&c, life, rq.confirm)
	if err != nil {
		return Answer{}, claims{}, err
	}
	if au.V1 {
		granted = set.V1()
	}
	x := au.Context
	a := Answer{Access: tok.Access, Type: rq.kind(), Expires: int64(tok.Life / time.Second), Scope: granted,
		Patient:   x.Patient,
		Encounter: x.Encounter, FHIRContext: x.FHIRContext, Intent: x.Intent, Banner: x.Banner, StyleURL: x.StyleURL}
	if set.Has(scope.OpenID) {
		if a.IDToken, err = e.opts.Keys.SignID(e.identity(c, au, set, nonce)); err != nil {
			return Answer{}, claims{}, err
		}
	}
	return a, c, nil
}

// identity is the claims of an id_token (OpenID Connect Core 2; SMART App
// Launch 2.2, "Scopes for requesting identity data").
func (e *Endpoint) identity(c claims, au *authz.Authorization, set scope.Set, nonce string) map[string]any {
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
	if len(au.Subject.AMR) > 0 {
		id["amr"] = au.Subject.AMR
	}
	if c.FHIRUser != "" {
		id["fhirUser"] = c.FHIRUser
	}
	if set.Has(scope.Profile) {
		if au.Subject.Name != "" {
			id["name"] = au.Subject.Name
		}
		if !au.Subject.FHIRUser.IsZero() { // what clients of SMART 1.0 read
			id["profile"] = e.opts.Audience + "/" + au.Subject.FHIRUser.String()
		}
	}
	return id
}

// sender is what has to be the same in a retry.
func (rq *request) sender() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{rq.proof.Client.ID, string(rq.proof.Method), rq.confirm.JKT,
		rq.confirm.X5T, rq.form.Get("scope")}, "\n")))
	return hex.EncodeToString(sum[:])
}

// refresh is the refresh_token grant.
func (e *Endpoint) refresh(ctx context.Context, rq *request) ([]byte, *oauth.Error) {
	if rq.form.Get("refresh_token") == "" {
		return nil, oauth.Bad("invalid_request", "refresh_token is missing")
	}
	p, ok := authz.ParseRefresh(rq.form.Get("refresh_token"))
	unknown := badGrant("the refresh token is not known")
	if !ok {
		return nil, unknown
	}
	for {
		rec, err := e.grants.Get(ctx, p.ID)
		switch {
		case err != nil && fhir.KindOf(err) == fhir.NotFound:
			return nil, unknown
		case err != nil:
			return nil, oauth.Unavailable(err)
		case rec.ClientID != rq.proof.Client.ID || rec.JKT != "" && !dpop.Equal(rec.JKT, rq.confirm.JKT):
			return nil, unknown
		}
		switch rec.Standing(p, rq.now, rq.sender()) {
		case authz.Good:
			body, again, fail := e.rotate(ctx, rq, &rec, p)
			if again {
				continue // somebody was faster; what is the token now?
			}
			return body, fail
		case authz.Retry:
			return e.again(ctx, rq, &rec, p)
		case authz.Reused:
			return nil, e.reused(ctx, rq, rec.ID, "the refresh token was used before; the authorization has ended")
		case authz.Dead:
			return nil, badGrant("the authorization has ended")
		default:
			return nil, unknown
		}
	}
}

// rotate replaces a good refresh token; again is set when the authorization
// was changed meanwhile.
func (e *Endpoint) rotate(ctx context.Context, rq *request, rec *authz.Record,
	p authz.Presented) (body []byte, again bool, fail *oauth.Error) {
	if e.opts.Alive != nil {
		roles, ok, err := e.opts.Alive(ctx, rec.Subject, rec.Offline)
		if err != nil {
			return nil, false, oauth.Unavailable(err)
		}
		if !ok {
			return nil, false, badGrant("the person's session or account has ended")
		}
		rec.Subject.Roles = roles
	}
	granted := rec.Scope
	if asked := rq.form.Get("scope"); asked != "" {
		set, err := e.opts.Scopes.Parse(asked)
		have, herr := e.opts.Scopes.Parse(rec.Scope)
		if rec.V1 && err == nil && herr == nil {
			set = scope.Narrow(set, have) // the app was told the v1 words
		}
		if err != nil || herr != nil || !have.Covers(set) {
			return nil, false, oauth.Bad("invalid_scope", "scope goes beyond what was granted")
		}
		granted = set.String()
	}
	granted, fail = e.still(&rq.proof.Client, granted)
	if fail != nil {
		return nil, false, fail
	}
	a, c, err := e.person(rq, &rec.Authorization, granted, "")
	if err != nil {
		return nil, false, failure(err)
	}
	if a.Refresh, err = rec.Rotate(p, rq.now, rq.sender(), e.opts.Rand); err != nil {
		return nil, false, failure(err)
	}
	if body, fail = encode(a); fail != nil {
		return nil, false, fail
	}
	if err := rec.Seal(p, body); err != nil {
		return nil, false, failure(err)
	}
	w, err := rec.Update()
	if err != nil {
		return nil, false, failure(err)
	}
	b, err := e.batch(c, rq.order())
	if err != nil {
		return nil, false, failure(err)
	}
	b.State = append(b.State, w)
	if _, err := e.opts.Store.Commit(ctx, b); err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			now, gerr := e.grants.Get(ctx, rec.ID)
			if gerr == nil && !now.Same(rec) {
				return nil, true, nil
			}
		}
		return nil, false, failure(e.conflict(ctx, rq.order(), err))
	}
	return body, false, nil
}

// still cuts what was granted to what the client is registered for now.
func (e *Endpoint) still(c *client.Client, granted string) (string, *oauth.Error) {
	set, err := e.opts.Scopes.Parse(granted)
	if err != nil {
		return "", oauth.Unavailable(err)
	}
	allowed, err := e.opts.Scopes.Parse(c.Scope)
	if err != nil {
		return "", oauth.Unavailable(err)
	}
	if allowed.Covers(set) {
		return granted, nil
	}
	left := scope.Narrow(set, allowed)
	if len(left) == 0 {
		return "", badGrant("the client is registered for nothing of this any more")
	}
	return left.String(), nil
}

// again answers an identical retry with the same bytes. It issues nothing, but
// uses up what the request carries.
func (e *Endpoint) again(ctx context.Context, rq *request, rec *authz.Record,
	p authz.Presented) ([]byte, *oauth.Error) {
	body, err := rec.Open(p)
	if err != nil {
		return nil, oauth.Unavailable(err)
	}
	if rq.proof.Assertion == nil && rq.dpop == nil {
		return body, nil
	}
	b, err := e.batch(claims{Sub: rec.Subject.ID, ClientID: rec.ClientID, Scope: rec.Scope, Authz: rec.ID,
		Exp: rq.now.Unix()}, rq.order())
	if err != nil {
		return nil, failure(err)
	}
	if _, err := e.opts.Store.Commit(ctx, b); err != nil {
		return nil, failure(e.conflict(ctx, rq.order(), err))
	}
	return body, nil
}
