package token

import (
	"context"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/smart/client"
	"pulsegate/smart/scope"
)

// credentials implements the client_credentials grant type (SMART Backend
// Services).
func (e *Endpoint) credentials(ctx context.Context, rq *request) outcome {
	tok, err := e.issue(ctx, rq, rq.form.Get("scope"), MaxLife)
	if err != nil {
		return rq.failed(err)
	}
	body, fail := encode(Response{Access: tok.Access, Type: rq.tokenType(), Expires: int64(tok.Life / time.Second),
		Scope: tok.Scope})
	if fail != nil {
		return rq.refused(fail)
	}
	return rq.answered(body)
}

// Issue issues a token to a registered client without an assertion. It is for
// the admin socket and the server's own start only. The audit trail names the
// operator.
func (e *Endpoint) Issue(ctx context.Context, clientID, requested string, life time.Duration,
	operator string) (Token, error) {
	c, err := e.opts.Assertions.Clients.Get(ctx, clientID)
	if err != nil {
		return Token{}, err
	}
	if c.Disabled {
		return Token{}, fhir.Errorf(fhir.Forbidden, "token.Issue", "the client is disabled")
	}
	if life < time.Second {
		return Token{}, fhir.Errorf(fhir.Invalid, "token.Issue", "a token lives at least a second")
	}
	rq := &request{proof: client.Proof{Client: c}, now: e.Now(ctx), event: audit.Event{Type: audit.TokenIssue,
		Query: "operator issue", Caller: audit.Caller{Principal: &access.Principal{Operator: operator}}}}
	return e.issue(ctx, rq, requested, life)
}

// issue narrows the requested scope to the client's and commits the assertion's
// jti, the event and its leaf before it returns the token.
func (e *Endpoint) issue(ctx context.Context, rq *request, requested string, life time.Duration) (Token, error) {
	const op = "token.issue"
	c := &rq.proof.Client
	want, err := e.opts.Scopes.Parse(requested)
	if err != nil {
		return Token{}, scopeError{err}
	}
	if len(backendScopes(want)) != len(want) {
		return Token{}, scopeError{fhir.Errorf(fhir.Invalid, op, "without a person there are system/ scopes only")}
	}
	allowed, err := e.opts.Scopes.Parse(c.Scope)
	if err != nil {
		return Token{}, fhir.Wrap(op, err)
	}
	set := scope.Narrow(want, allowed)
	granted := set.String()
	if granted == "" || len(granted) > scope.MaxLength {
		return Token{}, scopeError{fhir.Errorf(fhir.Invalid, op, "the client is registered for none of the scopes")}
	}
	cl := claims{Sub: c.ID, ClientID: c.ID, Scope: granted}
	tok, err := e.sign(&cl, min(life, MaxLife), rq.confirm)
	if err != nil {
		return Token{}, err
	}
	b, err := e.batch(cl, rq)
	if err != nil {
		return Token{}, err
	}
	if _, err := e.opts.Store.Commit(ctx, b); err != nil {
		return Token{}, e.conflict(ctx, rq, err)
	}
	if want.AskedV1() {
		tok.Scope = set.V1()
	}
	return tok, nil
}

// backendScopes returns the scopes that a client may request without a person:
// system/ scopes, and launch, which lets an EHR create launches.
func backendScopes(s scope.Set) scope.Set {
	out := s.At(scope.System)
	if s.Has(scope.Launch) {
		out = append(out, scope.Scope{Name: scope.Launch})
	}
	return out
}
