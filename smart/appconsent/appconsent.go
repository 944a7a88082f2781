// Package appconsent keeps the Consent that stands beside a patient's approval
// of an app, so that the app is given what the patient saw on the consent
// screen, and no more; the denial by which a patient stops an app that others
// use; and the withdrawal of what a patient had agreed to (Withdrawals).
//
// It owns: when an approval is a consent, what that Consent says, and its end,
// each in the commit of what it goes with and with an AuditEvent of its own;
// and refusals of apps (Refusals). It
// does not own: what a Consent means (fhir/consent), the approval
// (smart/oauth/authorize), the authorization and its end (smart/authz, smart/oauth/token),
// or which scopes a token has (smart/policy).
//
// A Consent is made when a patient has approved scopes for the own data that
// only a consent opens, in the commit that redeems the code and so begins the
// authorization; it says what was approved, and when. An approval whose code
// is never redeemed leaves none. A practitioner's approval is none: it is
// about what that person may see, and gives away nothing of the patient's. It
// counts for the tokens of that one authorization, lasts as long as the
// authorization could at most, and ends with it.
//
//	Consent/app-<authorization id>
package appconsent

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/scope"
)

// Store is as much of a store.Store as Agreements need.
type Store interface {
	Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error)
}

// Agreements makes and ends the Consents. All fields but Logger are needed.
type Agreements struct {
	Store  Store
	Audit  audit.Trail
	Scopes scope.Parser
	Issuer string // the server's base URL
	// UserLife is how long an access token for a person lives.
	UserLife time.Duration
	// Says is a scope string in plain words, for the patient.
	Says   func(granted string) []string
	Logger *slog.Logger
}

// Ref is the Consent of an authorization.
func Ref(authorization string) fhir.Ref {
	return fhir.Ref{Type: "Consent", ID: consent.AppPrefix + authorization}
}

// Begun is token.Options.Begun. Its Consent dates from the approval: what the
// patient withdrew after that is a later word.
func (g *Agreements) Begun(_ context.Context, b *store.Batch, approved authz.Code) error {
	const op = "appconsent.Begun"
	a := approved.Authorization
	granted, err := g.Scopes.Parse(a.Scope)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	types := Opened(granted, a)
	if len(types) == 0 {
		return nil
	}
	r, err := consent.ForApp(consent.Allowance{ID: Ref(a.ID).ID, Patient: a.Subject.FHIRUser.ID,
		Authorization: a.ID, Client: a.ClientID, App: approved.App,
		Scope: a.Scope, Types: types, Says: g.Says(a.Scope), From: a.Created, Until: a.Created.Add(g.lasts(granted))})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if err := g.record(b, a, approved.App, "create", audit.DataRef{Ref: r.Ref(), Version: 1}); err != nil {
		return err
	}
	b.Writes = append(b.Writes, store.Write{Resource: r, Expect: store.Absent})
	return nil
}

// lasts is the longest that an authorization can give tokens, and those live,
// from its approval.
func (g *Agreements) lasts(granted scope.Set) time.Duration {
	switch {
	case granted.Has(scope.Offline):
		return authz.CodeLife + authz.Absolute
	case granted.Has(scope.Online):
		return authz.CodeLife + authz.Session
	}
	return authz.CodeLife + g.UserLife
}

// Opened is the resource types that an authorization opens by the patient's
// word: those that need a consent, of the own compartment.
func Opened(granted scope.Set, a authz.Authorization) (out []string) {
	own := a.Subject.FHIRUser
	if own.Type != "Patient" {
		return nil
	}
	for _, t := range fhir.Types {
		if access.NeedsConsent(t) && slices.ContainsFunc(granted, func(s scope.Scope) bool {
			return (s.Level == scope.User || s.Level == scope.Patient && a.Context.Patient == own.ID) &&
				(s.Type == "*" || s.Type == t) && s.May&(access.Read|access.Search) != 0
		}) {
			out = append(out, t)
		}
	}
	return out
}

// Ended is token.Options.Ended.
func (g *Agreements) Ended(ctx context.Context, b *store.Batch, a authz.Authorization) error {
	const op = "appconsent.Ended"
	r, _, err := g.Store.Read(ctx, Ref(a.ID), 0)
	switch {
	case err != nil && fhir.KindOf(err) == fhir.NotFound || err == nil && r.Deleted:
		return nil
	case err != nil:
		return fhir.Wrap(op, err)
	}
	ended, err := end(r)
	if err != nil {
		// What cannot be read permits nothing, and no token is left to ask.
		if g.Logger != nil {
			g.Logger.ErrorContext(ctx, "the consent of an app cannot be ended", "authorization", a.ID, "error", err)
		}
		return nil
	}
	if ended == nil {
		return nil
	}
	if err := g.record(b, a, "", "update", audit.DataRef{Ref: r.Ref(), Version: r.Version + 1}); err != nil {
		return err
	}
	b.Writes = append(b.Writes, store.Write{Resource: *ended, Expect: store.Version, IfVersion: r.Version})
	return nil
}

// end is nil for a Consent that is over already.
func end(r fhir.Resource) (*fhir.Resource, error) {
	d, err := consent.Describe(r)
	if err != nil || d.Status != "active" {
		return nil, err
	}
	ended, err := consent.EndApp(r)
	return &ended, err
}

func (g *Agreements) record(b *store.Batch, a authz.Authorization, app, interaction string, data audit.DataRef) error {
	return audit.Append(g.Audit, b, audit.Event{Type: audit.Rest, Interaction: interaction,
		Patient: a.Subject.FHIRUser.ID, Data: []audit.DataRef{data},
		Caller: audit.Caller{Principal: &access.Principal{ClientID: a.ClientID, ClientName: app,
			Subject: a.Subject.ID, Issuer: g.Issuer, Authorization: a.ID}}})
}
