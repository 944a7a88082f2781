package token

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
)

const (
	prefix    = "jti/"
	highWater = prefix + "~high-water"
	// keepJTI is the time that a jti is kept after its assertion has expired,
	// because the clock may be set back.
	keepJTI = 24 * time.Hour
)

// batch returns the part that all grant types commit: the AuditEvent, and the
// writes that use up the assertion and the DPoP proof.
func (e *Endpoint) batch(c claims, rq *request) (*store.Batch, error) {
	ev := rq.event
	ev.Outcome, ev.Principal = audit.Success, principal(c, rq.proof.Client.Name, ev.Principal)
	b := &store.Batch{}
	if err := audit.Append(e.opts.Audit, b, ev); err != nil {
		return nil, fhir.Wrap("token.batch", err)
	}
	b.State = append(b.State, UseAssertion(&rq.proof)...)
	if rq.dpop != nil {
		b.State = append(b.State, rq.dpop.Use())
	}
	if len(b.State) > 0 || c.Authz != "" {
		b.State = append(b.State, markWrite(rq.now.Unix()))
	}
	return b, nil
}

// conflict returns the error for a commit that failed with err: if it lost to
// an earlier use of the assertion or the DPoP proof, it says so.
func (e *Endpoint) conflict(ctx context.Context, rq *request, err error) error {
	const op = "token.issue"
	if fhir.KindOf(err) != fhir.Conflict {
		return fhir.Wrap(op, err)
	}
	if a := rq.proof.Assertion; a != nil {
		used, gerr := e.opts.Store.Get(ctx, jtiKey(rq.proof.Client.ID, a.JTI))
		if gerr != nil {
			return fhir.Wrap(op, gerr)
		}
		if used != nil {
			return fhir.Errorf(fhir.Unauthorized, op, "client_assertion: jti was used before")
		}
	}
	if rq.dpop != nil {
		return oauth.Bad("invalid_dpop_proof", "DPoP: the proof was used before")
	}
	return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
}

// UseAssertion returns the write that uses up the client's assertion, or nil if
// the client authenticated without one. The other endpoints that accept
// assertions share it, so that a jti works at one endpoint only.
func UseAssertion(p *client.Proof) []store.StateWrite {
	a := p.Assertion
	if a == nil {
		return nil
	}
	return []store.StateWrite{{Key: jtiKey(p.Client.ID, a.JTI), Value: strconv.AppendInt(nil, a.Exp.Unix(), 10),
		Expect: store.StateAbsent, Expires: a.Exp.Add(client.Skew + keepJTI)}}
}

func jtiKey(clientID, jti string) string {
	sum := sha256.Sum256([]byte(jti))
	return prefix + clientID + "/" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// principal returns the principal of a new token. From claimed it keeps the
// operator.
func principal(c claims, clientName string, claimed *access.Principal) *access.Principal {
	p := &access.Principal{ClientID: c.ClientID, ClientName: clientName, Subject: c.Sub, Issuer: c.Iss,
		TokenID: c.JTI, Scope: c.Scope, Expires: time.Unix(c.Exp, 0).UTC()}
	if claimed != nil {
		p.Operator = claimed.Operator
	}
	return p
}
