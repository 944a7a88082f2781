package server

import (
	"context"
	"slices"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// GrantConsent stores a Consent.
func (ops operations) GrantConsent(ctx context.Context, op admin.Operator, in admin.NewConsent) (admin.ID, error) {
	in.Vendor = vendors.Code(in.Vendor)
	if err := ops.knownVendor(in.Vendor); err != nil {
		return admin.ID{}, err
	}
	if in.Recipient == "" {
		in.Recipient = "any"
	}
	if in.Recipient != "any" {
		if _, err := ops.clients.Get(ctx, in.Recipient); err != nil {
			return admin.ID{}, admin.Advise(err, "see the clients with `pulsegate client list`")
		}
	}
	if err := ops.havePatient(ctx, in.Patient); err != nil {
		return admin.ID{}, err
	}
	res, err := consent.Build(consent.Terms{ID: fhir.RandomID(), Patient: in.Patient, Vendor: in.Vendor,
		VendorName: vendors.Name(in.Vendor), Categories: in.Categories, Recipient: in.Recipient, Now: ops.now()})
	if err != nil {
		return admin.ID{}, err
	}
	id, err := ops.put(ctx, ops.request(op), "Consent", res.ID, res.JSON)
	return admin.ID{ID: id}, err
}

// WithdrawConsent withdraws the consent of a patient, for one vendor or for all.
// Once it has returned without an error, no Consent makes the data visible.
func (ops operations) WithdrawConsent(ctx context.Context, op admin.Operator,
	in admin.WithdrawConsent) (admin.Withdrawn, error) {
	in.Vendor = vendors.Code(in.Vendor)
	out := admin.Withdrawn{Withdrawn: []string{}}
	if err := ops.havePatient(ctx, in.Patient); err != nil {
		return out, err
	}
	if in.Vendor != "" {
		if err := ops.knownVendor(in.Vendor); err != nil {
			return out, err
		}
	}
	rq := ops.request(op)
	w, err := ops.withdrawals().Withdraw(ctx, rq.Caller, in.Patient, in.Vendor)
	if err != nil {
		return out, err
	}
	out.Withdrawn = append(append(out.Withdrawn, w.Ended...), w.Narrowed...)
	out.Narrowed, out.Denials, out.Record = w.Narrowed, w.Denials, w.Record
	return out, nil
}

// ListConsents lists the Consents of a patient, or of all patients.
func (ops operations) ListConsents(ctx context.Context, op admin.Operator, patient string) (admin.Consents, error) {
	out := admin.Consents{Consents: []admin.Consent{}}
	err := ops.eachConsent(ctx, patient, func(r fhir.Resource) bool {
		out.Consents = append(out.Consents, consentInfo(r))
		return true
	})
	if err != nil {
		return out, err
	}
	disclosed := []string{patient}
	for _, c := range out.Consents {
		disclosed = append(disclosed, c.Patient)
	}
	return out, ops.recordAll(ctx, ops.request(op), "consent list",
		slices.DeleteFunc(disclosed, func(id string) bool { return id == "" }))
}

func consentInfo(r fhir.Resource) admin.Consent {
	t, err := consent.Describe(r)
	if err != nil {
		return admin.Consent{ID: r.ID, Status: "unreadable"}
	}
	return admin.Consent{ID: r.ID, Patient: t.Patient, Status: t.Status, Vendor: t.Vendor,
		Categories: t.Categories, Recipient: t.Recipient, Date: t.Date}
}

// eachConsent calls fn for the current Consents of a patient, or of all
// patients if patient is empty.
func (ops operations) eachConsent(ctx context.Context, patient string, fn func(fhir.Resource) bool) error {
	params := [][2]string{}
	if patient != "" {
		params = append(params, [2]string{"patient", patient})
	}
	q, err := search.Parse("Consent", params, search.ParseOptions{Base: ops.fhirBase()})
	if err != nil {
		return err
	}
	return ops.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool { return fn(f.Resource) })
}
