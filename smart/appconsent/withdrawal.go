package appconsent

import (
	"context"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Reacher reports whether a Consent still permits data. consent.Engine
// implements it.
type Reacher interface {
	AnyPermit(ctx context.Context, patient, vendor string) (bool, error)
}

// Withdrawals withdraws the consents of patients, for all vendors or for one.
// All fields except VendorName are required.
type Withdrawals struct {
	Store    RefusalStore
	Audit    audit.Trail
	Consents Reacher
	Clock    func() time.Time
	NewID    func() string
	Vendors  []string // all vendors of data
	// VendorName returns the name of a vendor for patients. If it is nil, texts
	// contain the code.
	VendorName func(vendor string) string
}

// Withdrawn lists the ids of the Consents that a withdrawal changed or created.
type Withdrawn struct {
	Ended, Narrowed, Denials []string
	Record                   string
}

// attempts is the maximum number of commits that conflict with other writers of
// the patient's Consents.
const attempts = 16

// Withdraw ends all consent of a patient to a vendor's data, or to all data if
// vendor is "", including the consent given to apps, in one commit with its
// AuditEvents. by describes the caller. After it returns without an error, no
// Consent permits any of this data to anyone. Denials remain. It returns
// NotFound if nothing was permitted.
func (withdrawals *Withdrawals) Withdraw(ctx context.Context, by audit.Caller, patient,
	vendor string) (Withdrawn, error) {
	const op = "appconsent.Withdraw"
	var out Withdrawn
	done := false
	for range attempts {
		one, ok, err := withdrawals.once(ctx, by, patient, vendor)
		if store.Lost(err) {
			continue // another client has changed one of the Consents
		}
		if err != nil {
			return Withdrawn{}, fhir.Wrap(op, err)
		}
		if ok {
			done = true
			out.add(one)
		}
		switch open, err := withdrawals.Consents.AnyPermit(ctx, patient, vendor); {
		case err != nil:
			return Withdrawn{}, fhir.Wrap(op, err)
		case open && !ok:
			return Withdrawn{}, fhir.Errorf(fhir.Internal, op,
				"a Consent still permits this data, and it could not be found; nothing was withdrawn")
		case open:
			continue // another consent was recorded in the meantime
		case !done:
			return Withdrawn{}, fhir.Errorf(fhir.NotFound, op, "there is no active consent to withdraw")
		}
		return out, nil
	}
	return Withdrawn{}, fhir.Errorf(fhir.Conflict, op,
		"the patient's Consents are being changed by other clients, and the data may still be visible; withdraw again")
}

func (w *Withdrawn) add(other Withdrawn) {
	w.Ended, w.Narrowed = append(w.Ended, other.Ended...), append(w.Narrowed, other.Narrowed...)
	w.Denials, w.Record = append(w.Denials, other.Denials...), other.Record
}

// once reads the Consents and commits the necessary changes. ok is false if
// there are none.
func (withdrawals *Withdrawals) once(ctx context.Context, by audit.Caller, patient,
	vendor string) (Withdrawn, bool, error) {
	have, err := withdrawals.active(ctx, patient)
	if err != nil {
		return Withdrawn{}, false, err
	}
	withdrawal := withdrawals.of(patient)
	withdrawal.Vendor = vendor
	if withdrawals.VendorName != nil && vendor != "" {
		withdrawal.VendorName = withdrawals.VendorName(vendor)
	}
	plan, ok, err := withdrawal.Plan(have)
	if err != nil || !ok {
		return Withdrawn{}, false, err
	}
	return withdrawals.commit(ctx, by, patient, &plan)
}

// of returns a withdrawal of everything.
func (withdrawals *Withdrawals) of(patient string) consent.Withdrawal {
	return consent.Withdrawal{Patient: patient, Vendors: withdrawals.Vendors, Now: withdrawals.Clock(),
		NewID: withdrawals.NewID}
}

// WithdrawLocations ends all consent of a patient to collect or to show where they were.
// After it returns without an error, no Consent permits that. It returns NotFound if
// nothing was permitted.
func (withdrawals *Withdrawals) WithdrawLocations(ctx context.Context, by audit.Caller,
	patient string) (Withdrawn, error) {
	const op = "appconsent.WithdrawLocations"
	var out Withdrawn
	done := false
	for range attempts {
		have, err := withdrawals.active(ctx, patient)
		if err != nil {
			return Withdrawn{}, fhir.Wrap(op, err)
		}
		plan, ok, err := withdrawals.of(patient).PlanLocations(have)
		switch {
		case err != nil:
			return Withdrawn{}, fhir.Wrap(op, err)
		case !ok && !done:
			return Withdrawn{}, fhir.Errorf(fhir.NotFound, op, "there is no active consent to withdraw")
		case !ok:
			return out, nil
		}
		one, _, err := withdrawals.commit(ctx, by, patient, &plan)
		if store.Lost(err) {
			continue // another client has changed one of the Consents
		}
		if err != nil {
			return Withdrawn{}, fhir.Wrap(op, err)
		}
		done = true
		out.add(one)
	}
	return Withdrawn{}, fhir.Errorf(fhir.Conflict, op,
		"the patient's Consents are being changed by other clients, and the data may still be visible; withdraw again")
}

// commit commits a plan. ok is false if the commit failed.
func (withdrawals *Withdrawals) commit(ctx context.Context, by audit.Caller, patient string,
	plan *consent.WithdrawalPlan) (_ Withdrawn, ok bool, err error) {
	var out Withdrawn
	b := &store.Batch{}
	var updated, created []audit.DataRef
	update := func(ids *[]string, list []fhir.Resource) {
		for _, r := range list {
			*ids = append(*ids, r.ID)
			b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: r.Type, ID: r.ID, JSON: r.JSON},
				Expect: store.Version, IfVersion: r.Version})
			updated = append(updated, audit.DataRef{Ref: r.Ref(), Version: r.Version + 1})
		}
	}
	update(&out.Ended, plan.Ended)
	update(&out.Narrowed, plan.Narrowed)
	for _, r := range append(plan.Denials, plan.Record) {
		out.Denials = append(out.Denials, r.ID)
		b.Writes = append(b.Writes, store.Write{Resource: r, Expect: store.Absent})
		created = append(created, audit.DataRef{Ref: r.Ref(), Version: 1})
	}
	out.Denials, out.Record = out.Denials[:len(plan.Denials)], plan.Record.ID
	var events []audit.Event
	for _, change := range []struct {
		interaction string
		data        []audit.DataRef
	}{{"update", updated}, {"create", created}} {
		events = append(events, audit.Event{Type: audit.Rest, Interaction: change.interaction, Caller: by,
			Patient: patient, Data: change.data})
	}
	_, err = audit.Commit(ctx, withdrawals.Store, withdrawals.Audit, b, events...)
	return out, err == nil, err
}

// active lists the active Consents of the patient.
func (withdrawals *Withdrawals) active(ctx context.Context, patient string) (out []fhir.Resource, err error) {
	q, err := search.Parse("Consent", [][2]string{{"patient", patient}, {"status", "active"}}, search.ParseOptions{})
	if err != nil {
		return nil, err
	}
	err = withdrawals.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			r := f.Resource
			r.JSON = append([]byte(nil), r.JSON...)
			out = append(out, r)
			return true
		})
	return out, err
}
