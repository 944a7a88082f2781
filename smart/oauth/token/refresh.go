package token

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"pulsegate/fhir"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/scope"
)

// refresh implements the refresh_token grant type (RFC 6749 6).
func (e *Endpoint) refresh(ctx context.Context, rq *request) outcome {
	if rq.form.Get("refresh_token") == "" {
		return rq.refused(oauth.Bad("invalid_request", "refresh_token is missing"))
	}
	p, ok := authz.ParseRefresh(rq.form.Get("refresh_token"))
	unknown := invalidGrant("the refresh token is not known")
	if !ok {
		return rq.refused(unknown)
	}
	for {
		rec, err := e.grants.Get(ctx, p.ID)
		switch {
		case err != nil && fhir.KindOf(err) == fhir.NotFound:
			return rq.refused(unknown)
		case err != nil:
			return rq.refused(oauth.Unavailable(err))
		case rec.ClientID != rq.proof.Client.ID || rec.JKT != "" && !dpop.Equal(rec.JKT, rq.confirm.JKT):
			return rq.refused(unknown)
		}
		switch rec.Standing(p, rq.now, rq.fingerprint()) {
		case authz.Good:
			if out, changed := e.rotate(ctx, rq, &rec, p); !changed {
				return out
			}
			// Another request changed the authorization first: look again.
		case authz.Retry:
			return e.repeat(ctx, rq, &rec, p)
		case authz.Reused:
			return rq.refused(e.reused(ctx, rq, rec.ID,
				"the refresh token was used before; the authorization has ended"))
		case authz.Dead:
			return rq.refused(invalidGrant("the authorization has ended"))
		default:
			return rq.refused(unknown)
		}
	}
}

// fingerprint identifies the sender and the parameters of a refresh. A retry
// has the same fingerprint.
func (rq *request) fingerprint() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{rq.proof.Client.ID, string(rq.proof.Method), rq.confirm.JKT,
		rq.confirm.X5T, rq.form.Get("scope")}, "\n")))
	return hex.EncodeToString(sum[:])
}

// rotate replaces a good refresh token. If the authorization was changed by
// another request meanwhile, changed is true and there is no outcome.
func (e *Endpoint) rotate(ctx context.Context, rq *request, rec *authz.Record,
	p authz.Presented) (out outcome, changed bool) {
	if e.opts.Alive != nil {
		roles, ok, err := e.opts.Alive(ctx, rec.Subject, rec.Offline)
		if err != nil {
			return rq.refused(oauth.Unavailable(err)), false
		}
		if !ok {
			return rq.refused(invalidGrant("the person's session or account has ended")), false
		}
		rec.Subject.Roles = roles
	}
	granted, fail := e.refreshScope(rq, rec)
	if fail != nil {
		return rq.refused(fail), false
	}
	res, c, err := e.issueUser(rq, &rec.Authorization, granted, "")
	if err != nil {
		return rq.failed(err), false
	}
	if res.Refresh, err = rec.Rotate(p, rq.now, rq.fingerprint(), e.opts.Rand); err != nil {
		return rq.failed(err), false
	}
	body, fail := encode(res)
	if fail != nil {
		return rq.refused(fail), false
	}
	if err := rec.Seal(p, body); err != nil {
		return rq.failed(err), false
	}
	w, err := rec.Update()
	if err != nil {
		return rq.failed(err), false
	}
	b, err := e.batch(c, rq)
	if err != nil {
		return rq.failed(err), false
	}
	b.State = append(b.State, w)
	if _, err := e.opts.Store.Commit(ctx, b); err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			current, gerr := e.grants.Get(ctx, rec.ID)
			if gerr == nil && !current.Same(rec) {
				return outcome{}, true
			}
		}
		return rq.failed(e.conflict(ctx, rq, err)), false
	}
	return rq.answered(body), false
}

// refreshScope returns the scope of a refreshed token: the scope of the
// request, which must not exceed that of the authorization, narrowed to what
// the client is registered for now.
func (e *Endpoint) refreshScope(rq *request, rec *authz.Record) (string, *oauth.Error) {
	granted := rec.Scope
	if requested := rq.form.Get("scope"); requested != "" {
		set, err := e.opts.Scopes.Parse(requested)
		have, herr := e.opts.Scopes.Parse(rec.Scope)
		if rec.V1 && err == nil && herr == nil {
			set = scope.Narrow(set, have) // the app was given the v1 form of its scopes
		}
		if err != nil || herr != nil || !have.Covers(set) {
			return "", oauth.Bad("invalid_scope", "scope goes beyond what was granted")
		}
		granted = set.String()
	}
	return e.narrowToClient(&rq.proof.Client, granted)
}

// narrowToClient narrows a granted scope to what the client is registered for
// now.
func (e *Endpoint) narrowToClient(c *client.Client, granted string) (string, *oauth.Error) {
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
		return "", invalidGrant("the client is registered for nothing of this any more")
	}
	return left.String(), nil
}

// repeat answers an identical retry with the same bytes. It issues no token,
// but uses up the assertion and the DPoP proof of the retry.
func (e *Endpoint) repeat(ctx context.Context, rq *request, rec *authz.Record, p authz.Presented) outcome {
	body, err := rec.Open(p)
	if err != nil {
		return rq.refused(oauth.Unavailable(err))
	}
	if rq.proof.Assertion == nil && rq.dpop == nil {
		return rq.answered(body)
	}
	b, err := e.batch(claims{Sub: rec.Subject.ID, ClientID: rec.ClientID, Scope: rec.Scope, Authz: rec.ID,
		Exp: rq.now.Unix()}, rq)
	if err != nil {
		return rq.failed(err)
	}
	if _, err := e.opts.Store.Commit(ctx, b); err != nil {
		return rq.failed(e.conflict(ctx, rq, err))
	}
	return rq.answered(body)
}
