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

// RefusalStore reads, finds and writes resources. A store.Store implements it.
type RefusalStore interface {
	Store
	Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error
	Commit(ctx context.Context, b *store.Batch) (store.Result, error)
}

// Opener finds the Consents that permit data to a client. consent.Engine
// implements it.
type Opener interface {
	Permitting(ctx context.Context, patient, client string) ([]fhir.Ref, error)
}

// Refusals records that a patient stops an app that others use: a Consent that
// denies access to the client, in one commit with its AuditEvent. All fields
// are required.
//
//	Consent/stop-<SHA-256 of patient and client, 32 hex digits>
type Refusals struct {
	Store    RefusalStore
	Audit    audit.Trail
	Consents Opener
	Clock    func() time.Time
}

// Refusal is an active refusal.
type Refusal struct {
	Client string
	Since  time.Time // zero if unknown
}

func refusalRef(patient, client string) fhir.Ref {
	sum := sha256.Sum256([]byte(patient + "\n" + client))
	return fhir.Ref{Type: "Consent", ID: consent.StopPrefix + hex.EncodeToString(sum[:16])}
}

// Refused lists the active refusals of a patient, ordered by id.
func (refusals *Refusals) Refused(ctx context.Context, patient string) (out []Refusal, err error) {
	const op = "appconsent.Refused"
	q, err := search.Parse("Consent", [][2]string{{"patient", patient}, {"status", "active"}}, search.ParseOptions{})
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	err = refusals.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if !strings.HasPrefix(f.Resource.ID, consent.StopPrefix) {
				return true
			}
			d, err := consent.Describe(f.Resource)
			if err != nil || f.Resource.ID != refusalRef(patient, d.Recipient).ID ||
				!consent.Refuses(f.Resource, patient, d.Recipient) {
				return true // not a refusal, although its id looks like one
			}
			r := Refusal{Client: strings.Clone(d.Recipient)}
			if r.Since, err = time.Parse(time.RFC3339, d.Date); err != nil {
				r.Since = time.Time{} // another client has overwritten it
			}
			out = append(out, r)
			return true
		})
	return out, fhir.Wrap(op, err)
}

// Opened returns the Consents of the patient that permit data to the client,
// for any of its users.
func (refusals *Refusals) Opened(ctx context.Context, patient, client string) ([]consent.Summary, error) {
	const op = "appconsent.Opened"
	refs, err := refusals.Consents.Permitting(ctx, patient, client)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var out []consent.Summary
	for _, ref := range refs {
		r, _, err := refusals.Store.Read(ctx, ref, 0)
		if k := fhir.KindOf(err); err == nil && r.Deleted || err != nil && (k == fhir.NotFound || k == fhir.Gone) {
			continue // deleted in the meantime
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

// Refuse creates a refusal. by describes the caller. Repeating it is not an
// error.
func (refusals *Refusals) Refuse(ctx context.Context, by audit.Caller, patient, client, app string) error {
	const op = "appconsent.Refuse"
	r, err := consent.Refuse(consent.Refusal{ID: refusalRef(patient, client).ID, Patient: patient, Client: client,
		App: app, Now: refusals.Clock()})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	have, _, err := refusals.Store.Read(ctx, r.Ref(), 0)
	w, interaction := store.Write{Resource: r, Expect: store.Absent}, "create"
	switch k := fhir.KindOf(err); {
	case err == nil && !have.Deleted && consent.Refuses(have, patient, client):
		return nil
	case err == nil && !have.Deleted:
		// another client has overwritten the refusal; restore it
		w.Expect, w.IfVersion, interaction = store.Version, have.Version, "update"
	case err == nil || k == fhir.Gone:
		w.Expect = store.Any // it was refused before and then allowed again
	case k != fhir.NotFound:
		return fhir.Wrap(op, err)
	}
	return fhir.Wrap(op, refusals.commit(ctx, by, patient, interaction, w))
}

// Allow ends a refusal, so that the other consents of the patient apply again.
// It is not an error if there is none.
func (refusals *Refusals) Allow(ctx context.Context, by audit.Caller, patient, client string) error {
	const op = "appconsent.Allow"
	ref := refusalRef(patient, client)
	have, _, err := refusals.Store.Read(ctx, ref, 0)
	switch k := fhir.KindOf(err); {
	case err == nil && have.Deleted, err != nil && (k == fhir.NotFound || k == fhir.Gone):
		return nil
	case err != nil:
		return fhir.Wrap(op, err)
	}
	return fhir.Wrap(op, refusals.commit(ctx, by, patient, "delete",
		store.Write{Op: store.Remove, Resource: fhir.Resource{Type: ref.Type, ID: ref.ID},
			Expect: store.Version, IfVersion: have.Version}))
}

func (refusals *Refusals) commit(ctx context.Context, by audit.Caller, patient, interaction string,
	w store.Write) error {
	_, err := audit.Commit(ctx, refusals.Store, refusals.Audit, &store.Batch{Writes: []store.Write{w}},
		audit.Event{Type: audit.Rest, Interaction: interaction, Caller: by, Patient: patient,
			Data: []audit.DataRef{{Ref: w.Resource.Ref(), Version: w.IfVersion}}})
	return err
}
