package token

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
)

// Alive reports whether the account and the session behind an authorization
// still stand, so that it can be refreshed.
func (e *Endpoint) Alive(ctx context.Context, a *authz.Authorization) (bool, error) {
	if e.opts.Alive == nil {
		return true, nil
	}
	_, ok, err := e.opts.Alive(ctx, a.Subject, a.Offline)
	return ok, fhir.Wrap("token.Alive", err)
}

// Authorizations lists the authorizations that a person gave, newest first.
func (e *Endpoint) Authorizations(ctx context.Context, subjectID string) ([]authz.Authorization, error) {
	return e.grants.Authorizations(ctx, subjectID, e.Now(ctx))
}

// About lists the authorizations with a patient in context, given by anyone,
// newest first.
func (e *Endpoint) About(ctx context.Context, patient string) ([]authz.Authorization, error) {
	return e.grants.About(ctx, patient, e.Now(ctx))
}

// Revoke ends an authorization of a person in one commit with an AuditEvent of
// the caller. All its tokens fail from the next request on. If the
// authorization is not that person's, the error is NotFound.
func (e *Endpoint) Revoke(ctx context.Context, by audit.Caller, subjectID, authorizationID string) error {
	if subjectID == "" {
		return fhir.Errorf(fhir.NotFound, "token.Revoke", "no such authorization")
	}
	return e.revoke(ctx, subjectID, authorizationID, func(b *store.Batch, a authz.Authorization) error {
		return audit.Append(e.opts.Audit, b, endEvent(by, &a, "access-taken-back"))
	})
}

// EndAll adds to b the end of a person's authorizations, each with an
// AuditEvent of the caller. With a session's SID it ends only those that last
// as long as that session.
func (e *Endpoint) EndAll(ctx context.Context, b *store.Batch, subjectID, session string, by audit.Caller) error {
	// Include every authorization that any clock within the skew takes for live.
	recs, err := e.grants.Of(ctx, subjectID, e.opts.Clock().Add(-client.Skew))
	if err != nil {
		return err
	}
	for i := range recs {
		rec := &recs[i]
		if session != "" && (rec.Offline || rec.Subject.Session != session) {
			continue
		}
		state, err := rec.End()
		if err != nil {
			return err
		}
		b.State = append(b.State, state...)
		if e.opts.Ended != nil {
			if err := e.opts.Ended(ctx, b, rec.Authorization); err != nil {
				return err
			}
		}
		if err := audit.Append(e.opts.Audit, b, endEvent(by, &rec.Authorization, "access-ended")); err != nil {
			return err
		}
	}
	return nil
}

// endEvent returns the event of an authorization's end.
func endEvent(by audit.Caller, a *authz.Authorization, change string) audit.Event {
	return audit.Event{Type: audit.Decision, Interaction: "revoke", Caller: by, Patient: a.Context.Patient,
		Extra: [][2]string{{"change", change}, {"authorization", a.ID}, {"client", a.ClientID}}}
}

// End revokes an authorization because its client revokes a token, or because a
// code or refresh token was presented twice, once perhaps by an attacker.
func (e *Endpoint) End(ctx context.Context, authorizationID string) error {
	return e.revoke(ctx, "", authorizationID)
}

func (e *Endpoint) revoke(ctx context.Context, subjectID, id string,
	also ...func(*store.Batch, authz.Authorization) error) error {
	if e.opts.Ended != nil {
		also = append(also, func(b *store.Batch, a authz.Authorization) error { return e.opts.Ended(ctx, b, a) })
	}
	return e.grants.Revoke(ctx, subjectID, id, also...)
}
