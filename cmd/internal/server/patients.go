package server

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/appconsent"
)

// timezoneURL is the standard extension that holds a wearer's zone.
const timezoneURL = "http://hl7.org/fhir/StructureDefinition/timezone"

// operator implements admin.Operations on the same services that requests
// from outside use, with the operator's grant.
type operator struct{ m *Main }

var _ admin.Operations = operator{}

func principal(op admin.Operator) *access.Principal {
	return &access.Principal{Operator: op.Name, Grant: access.All()}
}

func (o operator) request(op admin.Operator) *interaction.Request {
	return &interaction.Request{Caller: audit.Caller{Principal: principal(op), RequestID: fhir.RandomID()}}
}

// AddPatient creates the Patient through the ordinary create or update
// interaction: it is validated and audited like any other.
func (o operator) AddPatient(ctx context.Context, op admin.Operator, in admin.NewPatient) (admin.ID, error) {
	if in.ID != "" && !fhir.ValidID(in.ID) {
		return admin.ID{}, fhir.Errorf(fhir.Invalid, "patient add", "--id: 1 to 64 letters, digits, - or .")
	}
	if in.TimeZone != "" {
		if _, err := time.LoadLocation(in.TimeZone); err != nil {
			return admin.ID{}, fhir.Errorf(fhir.Invalid, "patient add", "--timezone: not an IANA time zone")
		}
	}
	p := map[string]any{
		"resourceType": "Patient",
		"name":         []any{map[string]any{"family": in.Family, "given": []string{in.Given}}},
	}
	if in.ID != "" {
		p["id"] = in.ID
	}
	if in.BirthDate != "" {
		p["birthDate"] = in.BirthDate
	}
	if in.Gender != "" {
		p["gender"] = in.Gender
	}
	if in.TimeZone != "" {
		p["extension"] = []any{map[string]any{"url": timezoneURL, "valueCode": in.TimeZone}}
	}
	body, err := json.Marshal(p)
	if err != nil {
		return admin.ID{}, fhir.Wrap("patient add", err)
	}
	if in.ID != "" {
		if _, _, err := o.m.store.Read(ctx, fhir.Ref{Type: "Patient", ID: in.ID},
			0); fhir.KindOf(err) != fhir.NotFound {
			if err != nil {
				return admin.ID{}, err
			}
			return admin.ID{}, fhir.Errorf(fhir.Conflict, "patient add", "Patient/%s is there already", in.ID)
		}
	}
	id, err := o.put(ctx, o.request(op), "Patient", in.ID, body)
	return admin.ID{ID: id}, err
}

// GrantConsent stores a Consent in plain language and code.
func (o operator) GrantConsent(ctx context.Context, op admin.Operator, in admin.NewConsent) (admin.ID, error) {
	in.Vendor = vendors.Code(in.Vendor)
	if err := o.knownVendor(in.Vendor); err != nil {
		return admin.ID{}, err
	}
	if in.Recipient == "" {
		in.Recipient = "any"
	}
	if in.Recipient != "any" {
		if _, err := o.m.clients.Get(ctx, in.Recipient); err != nil {
			return admin.ID{}, admin.Advise(err, "see the clients with `pulsegate client list`")
		}
	}
	if err := o.havePatient(ctx, in.Patient); err != nil {
		return admin.ID{}, err
	}
	res, err := consent.Build(consent.Terms{ID: fhir.RandomID(), Patient: in.Patient, Vendor: in.Vendor,
		VendorName: vendors.Name(in.Vendor), Categories: in.Categories, Recipient: in.Recipient, Now: o.m.now()})
	if err != nil {
		return admin.ID{}, err
	}
	id, err := o.put(ctx, o.request(op), "Consent", res.ID, res.JSON)
	return admin.ID{ID: id}, err
}

// WithdrawConsent takes back what a patient has agreed to. When it returns
// without an error nothing of it is visible to anybody under a Consent.
func (o operator) WithdrawConsent(ctx context.Context, op admin.Operator,
	in admin.WithdrawConsent) (admin.Withdrawn, error) {
	in.Vendor = vendors.Code(in.Vendor)
	out := admin.Withdrawn{Withdrawn: []string{}}
	if err := o.havePatient(ctx, in.Patient); err != nil {
		return out, err
	}
	if in.Vendor != "" {
		if err := o.knownVendor(in.Vendor); err != nil {
			return out, err
		}
	}
	rq := o.request(op)
	g := &appconsent.Withdrawals{Store: o.m.store, Audit: o.m.recorder, Consents: o.m.consents, Clock: o.m.now,
		NewID: fhir.RandomID, VendorName: vendors.Name}
	for _, a := range o.m.adapters {
		g.Vendors = append(g.Vendors, a.Vendor())
	}
	w, err := g.Withdraw(ctx, rq.Caller, in.Patient, in.Vendor)
	if err != nil {
		return out, err
	}
	out.Withdrawn = append(append(out.Withdrawn, w.Ended...), w.Narrowed...)
	out.Narrowed, out.Denials, out.Record = w.Narrowed, w.Denials, w.Record
	return out, nil
}

// ListConsents lists the consents of one patient or of all.
func (o operator) ListConsents(ctx context.Context, op admin.Operator, patient string) (admin.Consents, error) {
	out := admin.Consents{Consents: []admin.Consent{}}
	err := o.consents(ctx, patient, func(r fhir.Resource) bool {
		out.Consents = append(out.Consents, consentInfo(r))
		return true
	})
	if err != nil {
		return out, err
	}
	told := []string{patient}
	for _, c := range out.Consents {
		told = append(told, c.Patient)
	}
	return out, o.recordAll(ctx, o.request(op), "consent list",
		slices.DeleteFunc(told, func(id string) bool { return id == "" }))
}

func consentInfo(r fhir.Resource) admin.Consent {
	t, err := consent.Describe(r)
	if err != nil {
		return admin.Consent{ID: r.ID, Status: "unreadable"}
	}
	return admin.Consent{ID: r.ID, Patient: t.Patient, Status: t.Status, Vendor: t.Vendor,
		Categories: t.Categories, Recipient: t.Recipient, Date: t.Date}
}

// consents calls fn for the current Consents.
func (o operator) consents(ctx context.Context, patient string, fn func(fhir.Resource) bool) error {
	params := [][2]string{}
	if patient != "" {
		params = append(params, [2]string{"patient", patient})
	}
	q, err := search.Parse("Consent", params, search.ParseOptions{Base: o.m.fhirBase()})
	if err != nil {
		return err
	}
	return o.m.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool { return fn(f.Resource) })
}

func (o operator) havePatient(ctx context.Context, id string) error {
	r, _, err := o.m.store.Read(ctx, fhir.Ref{Type: "Patient", ID: id}, 0)
	if fhir.KindOf(err) == fhir.NotFound && err != nil || err == nil && r.Deleted {
		return admin.Advise(fhir.Errorf(fhir.NotFound, "operator", "there is no such patient"),
			"see the patients with `pulsegate patient list`, or add one with `pulsegate patient add`")
	}
	return err
}

func (o operator) knownVendor(v string) error {
	for _, a := range o.m.adapters {
		if a.Vendor() == v {
			return nil
		}
	}
	return fhir.Errorf(fhir.Invalid, "operator", "--vendor: one of %s", vendors.Codes())
}
