package appconsent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// RefusalStore is as much of a store.Store as Refusals need.
type RefusalStore interface {
	Store
	Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error
	Commit(ctx context.Context, b *store.Batch) (store.Result, error)
}

// Opener is the consent.Engine.
type Opener interface {
	Opens(ctx context.Context, patient, client string) ([]fhir.Ref, error)
}

// Refusals keeps what patients refuse apps that others use: a Consent that
// denies the client, in force from its commit on, with its AuditEvent in the
// same. All fields are needed.
//
//	Consent/stop-<SHA-256 of patient and client, 32 hex digits>
type Refusals struct {
	Store    RefusalStore
	Audit    audit.Trail
	Consents Opener
	Clock    func() time.Time
}

// Refusal is one that is in force.
type Refusal struct {
	Client string
	Since  time.Time // zero: not known
}

func refusalRef(patient, client string) fhir.Ref {
	sum := sha256.Sum256([]byte(patient + "\n" + client))
	return fhir.Ref{Type: "Consent", ID: consent.StopPrefix + hex.EncodeToString(sum[:16])}
}

// Refused lists what a patient refuses, in the order of their ids.
func (g *Refusals) Refused(ctx context.Context, patient string) (out []Refusal, err error) {
	const op = "appconsent.Refused"
	q, err := search.Parse("Consent", [][2]string{{"patient", patient}, {"status", "active"}}, search.ParseOptions{})
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	err = g.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if !strings.HasPrefix(f.Resource.ID, consent.StopPrefix) {
				return true
			}
			d, err := consent.Describe(f.Resource)
			if err != nil || f.Resource.ID != refusalRef(patient, d.Recipient).ID ||
				!consent.Refuses(f.Resource, patient, d.Recipient) {
				return true // another Consent, that only looks alike
			}
			r := Refusal{Client: strings.Clone(d.Recipient)}
			if r.Since, err = time.Parse(time.RFC3339, d.Date); err != nil {
				r.Since = time.Time{} // somebody has written over it
			}
			out = append(out, r)
			return true
		})
	return out, fhir.Wrap(op, err)
}

// Opened is the Consents of the patient that open something to the client,
// whoever uses it.
func (g *Refusals) Opened(ctx context.Context, patient, client string) ([]consent.Summary, error) {
	const op = "appconsent.Opened"
	refs, err := g.Consents.Opens(ctx, patient, client)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var out []consent.Summary
	for _, ref := range refs {
		r, _, err := g.Store.Read(ctx, ref, 0)
		if k := fhir.KindOf(err); err == nil && r.Deleted || err != nil && (k == fhir.NotFound || k == fhir.Gone) {
			continue // has gone meanwhile
		}
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		d, err := consent.Describe(r)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		out = append(out, d)
	}
	return out, nil
}

// Refuse puts a refusal into force; by is who asks and from where. To refuse
// twice is no error.
func (g *Refusals) Refuse(ctx context.Context, by audit.Caller, patient, client, app string) error {
	const op = "appconsent.Refuse"
	r, err := consent.Refuse(consent.Refusal{ID: refusalRef(patient, client).ID, Patient: patient, Client: client,
		App: app, Now: g.Clock()})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	have, _, err := g.Store.Read(ctx, r.Ref(), 0)
	w, interaction := store.Write{Resource: r, Expect: store.Absent}, "create"
	switch k := fhir.KindOf(err); {
	case err == nil && !have.Deleted && consent.Refuses(have, patient, client):
		return nil
	case err == nil && !have.Deleted:
		// not the patient's; whoever wrote it
		w.Expect, w.IfVersion, interaction = store.Version, have.Version, "update"
	case err == nil || k == fhir.Gone:
		w.Expect = store.Any // refused before, and allowed again
	case k != fhir.NotFound:
		return fhir.Wrap(op, err)
	}
	return fhir.Wrap(op, g.commit(ctx, by, patient, interaction, w))
}

// Allow ends a refusal: the consents that there are decide again. To end what
// is none is no error.
func (g *Refusals) Allow(ctx context.Context, by audit.Caller, patient, client string) error {
	const op = "appconsent.Allow"
	ref := refusalRef(patient, client)
	have, _, err := g.Store.Read(ctx, ref, 0)
	switch k := fhir.KindOf(err); {
	case err == nil && have.Deleted, err != nil && (k == fhir.NotFound || k == fhir.Gone):
		return nil
	case err != nil:
		return fhir.Wrap(op, err)
	}
	return fhir.Wrap(op, g.commit(ctx, by, patient, "delete",
		store.Write{Op: store.Remove, Resource: fhir.Resource{Type: ref.Type, ID: ref.ID},
			Expect: store.Version, IfVersion: have.Version}))
}

func (g *Refusals) commit(ctx context.Context, by audit.Caller, patient, interaction string, w store.Write) error {
	_, err := audit.Commit(ctx, g.Store, g.Audit, &store.Batch{Writes: []store.Write{w}},
		audit.Event{Type: audit.Rest, Interaction: interaction, Caller: by, Patient: patient,
			Data: []audit.DataRef{{Ref: w.Resource.Ref(), Version: w.IfVersion}}})
	return err
}
