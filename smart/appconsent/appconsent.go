// Package appconsent records the consent that a patient gives by approving an
// app, as a Consent, so that the app gets exactly the data that the consent
// screen showed. It also records the denials by which patients stop apps that
// others use, and the withdrawal of consents (Withdrawals).
//
// It owns: when an approval is a consent, the content of that Consent, and its
// end, each with its AuditEvent in the commit that it belongs to; and refusals
// of apps (Refusals). It does not own: the meaning of a Consent (fhir/consent),
// the approval (smart/oauth/authorize), the authorization and its end
// (smart/authz, smart/oauth/token), or the scopes of a token (smart/policy).
//
// A Consent is created when a patient has approved scopes for their own data
// that need a consent. It is part of the commit that redeems the code and so
// begins the authorization, and states what was approved and when. If the code
// is never redeemed, none is created. The approval of a practitioner is
// not a consent, because it covers only data that the practitioner may see
// anyway. A Consent applies to the tokens of its authorization, lasts as long
// as the authorization could at most, and ends with it.
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

// Store reads resources. A store.Store implements it.
type Store interface {
	Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error)
}

// Approvals creates and ends the Consents. All fields except Logger are
// required.
type Approvals struct {
	Store  Store
	Audit  audit.Trail
	Scopes scope.Parser
	Issuer string // the server's base URL
	// UserLife is the lifetime of an access token for a person.
	UserLife time.Duration
	// Says describes a scope string in plain words for the patient.
	Says   func(granted string) []string
	Logger *slog.Logger
}

// Ref returns the reference of an authorization's Consent.
func Ref(authorization string) fhir.Ref {
	return fhir.Ref{Type: "Consent", ID: consent.AppPrefix + authorization}
}

// Begun implements token.Options.Begun. The Consent is dated at the approval,
// so that a withdrawal after the approval takes precedence.
func (approvals *Approvals) Begun(_ context.Context, b *store.Batch, approved authz.Code) error {
	const op = "appconsent.Begun"
	a := approved.Authorization
	granted, err := approvals.Scopes.Parse(a.Scope)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	types := Opened(granted, a)
	if len(types) == 0 {
		return nil
	}
	r, err := consent.ForApp(consent.Allowance{ID: Ref(a.ID).ID, Patient: a.Subject.FHIRUser.ID,
		Authorization: a.ID, Client: a.ClientID, App: approved.App,
		Scope: a.Scope, Types: types, ScopeTexts: approvals.Says(a.Scope), Locations: opensLocations(granted),
		From:  a.Created,
		Until: a.Created.Add(approvals.lasts(granted))})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if err := approvals.record(b, a, approved.App, "create", audit.DataRef{Ref: r.Ref(), Version: 1}); err != nil {
		return err
	}
	b.Writes = append(b.Writes, store.Write{Resource: r, Expect: store.Absent})
	return nil
}

// lasts returns the maximum time from the approval until the last token of the
// authorization expires.
func (approvals *Approvals) lasts(granted scope.Set) time.Duration {
	switch {
	case granted.Has(scope.Offline):
		return authz.CodeLife + authz.AbsoluteLife
	case granted.Has(scope.Online):
		return authz.CodeLife + authz.SessionLife
	}
	return authz.CodeLife + approvals.UserLife
}

// Opened returns the resource types for which the authorization depends on the
// patient's consent: types of the patient's own compartment that need one.
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

// opensLocations reports whether a granted scope names the category location. A scope
// without categories does not include it.
func opensLocations(granted scope.Set) bool {
	return slices.ContainsFunc(granted, func(s scope.Scope) bool {
		return s.Level != scope.System && slices.ContainsFunc(s.Params, func(p access.Param) bool {
			return p.Name == "category" && slices.ContainsFunc(p.Any,
				func(t access.Token) bool { return t.Code == consent.CategoryLocation })
		})
	})
}

// Ended implements token.Options.Ended.
func (approvals *Approvals) Ended(ctx context.Context, b *store.Batch, a authz.Authorization) error {
	const op = "appconsent.Ended"
	r, _, err := approvals.Store.Read(ctx, Ref(a.ID), 0)
	switch {
	case err != nil && fhir.KindOf(err) == fhir.NotFound || err == nil && r.Deleted:
		return nil
	case err != nil:
		return fhir.Wrap(op, err)
	}
	ended, err := end(r)
	if err != nil {
		// A Consent that cannot be read permits nothing, and no token depends
		// on it any more.
		if approvals.Logger != nil {
			approvals.Logger.ErrorContext(ctx, "the consent of an app cannot be ended", "authorization", a.ID,
				"error", err)
		}
		return nil
	}
	if ended == nil {
		return nil
	}
	if err := approvals.record(b, a, "", "update", audit.DataRef{Ref: r.Ref(), Version: r.Version + 1}); err != nil {
		return err
	}
	b.Writes = append(b.Writes, store.Write{Resource: *ended, Expect: store.Version, IfVersion: r.Version})
	return nil
}

// end returns the Consent with its end, or nil if it has ended before.
func end(r fhir.Resource) (*fhir.Resource, error) {
	d, err := consent.Describe(r)
	if err != nil || d.Status != "active" {
		return nil, err
	}
	ended, err := consent.EndApp(r)
	return &ended, err
}

func (approvals *Approvals) record(b *store.Batch, a authz.Authorization, app, interaction string,
	data audit.DataRef) error {
	return audit.Append(approvals.Audit, b, audit.Event{Type: audit.Rest, Interaction: interaction,
		Patient: a.Subject.FHIRUser.ID, Data: []audit.DataRef{data},
		Caller: audit.Caller{Principal: &access.Principal{ClientID: a.ClientID, ClientName: app,
			Subject: a.Subject.ID, Issuer: approvals.Issuer, Authorization: a.ID}}})
}
