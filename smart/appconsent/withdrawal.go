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

// Reacher is the consent.Engine.
type Reacher interface {
	Reaches(ctx context.Context, patient, vendor string) (bool, error)
}

// Withdrawals ends what patients had agreed to, of all vendors or of one. All
// fields are needed.
type Withdrawals struct {
	Store    RefusalStore
	Audit    audit.Trail
	Consents Reacher
	Clock    func() time.Time
	NewID    func() string
	Vendors  []string // that data comes from
	// VendorName returns a vendor's name as patients know it. If it is nil,
	// texts have the code.
	VendorName func(vendor string) string
}

// Withdrawn lists the Consents that a withdrawal changed or made, by their
// ids.
type Withdrawn struct {
	Ended, Narrowed, Denials []string
	Record                   string
}

// attempts to withdraw while others write the patient's Consents.
const attempts = 16

// Withdraw takes back everything that the patient has agreed to about a
// vendor's data ("" all data), what was allowed to apps included, in one
// commit with its AuditEvents; by is who asks and from where. When it returns
// without an error no Consent permits anything of it to anybody. What was
// denied stays denied. NotFound means that nothing was permitted.
func (g *Withdrawals) Withdraw(ctx context.Context, by audit.Caller, patient, vendor string) (Withdrawn, error) {
	const op = "appconsent.Withdraw"
	var out Withdrawn
	done := false
	for range attempts {
		one, ok, err := g.once(ctx, by, patient, vendor)
		if store.Lost(err) {
			continue // somebody else has written one of the Consents
		}
		if err != nil {
			return Withdrawn{}, fhir.Wrap(op, err)
		}
		if ok {
			done = true
			out.add(one)
		}
		switch open, err := g.Consents.Reaches(ctx, patient, vendor); {
		case err != nil:
			return Withdrawn{}, fhir.Wrap(op, err)
		case open && !ok:
			return Withdrawn{}, fhir.Errorf(fhir.Internal, op,
				"a Consent still permits this data, and it could not be found; nothing was withdrawn")
		case open:
			continue // recorded meanwhile
		case !done:
			return Withdrawn{}, fhir.Errorf(fhir.NotFound, op, "there is no active consent to withdraw")
		}
		return out, nil
	}
	return Withdrawn{}, fhir.Errorf(fhir.Conflict, op,
		"the patient's Consents are being changed by others, and the data may still be visible; withdraw again")
}

func (w *Withdrawn) add(x Withdrawn) {
	w.Ended, w.Narrowed = append(w.Ended, x.Ended...), append(w.Narrowed, x.Narrowed...)
	w.Denials, w.Record = append(w.Denials, x.Denials...), x.Record
}

// once reads the Consents and commits what has to change; ok is false when
// that is nothing.
func (g *Withdrawals) once(ctx context.Context, by audit.Caller, patient, vendor string) (Withdrawn, bool, error) {
	have, err := g.active(ctx, patient)
	if err != nil {
		return Withdrawn{}, false, err
	}
	t := consent.Taking{Patient: patient, Vendor: vendor, Vendors: g.Vendors, Now: g.Clock(), NewID: g.NewID}
	if g.VendorName != nil && vendor != "" {
		t.VendorName = g.VendorName(vendor)
	}
	plan, ok, err := t.Plan(have)
	if err != nil || !ok {
		return Withdrawn{}, false, err
	}
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
	for _, e := range []struct {
		interaction string
		data        []audit.DataRef
	}{{"update", updated}, {"create", created}} {
		events = append(events, audit.Event{Type: audit.Rest, Interaction: e.interaction, Caller: by, Patient: patient,
			Data: e.data})
	}
	_, err = audit.Commit(ctx, g.Store, g.Audit, b, events...)
	return out, err == nil, err
}

// active lists the patient's Consents that count.
func (g *Withdrawals) active(ctx context.Context, patient string) (out []fhir.Resource, err error) {
	q, err := search.Parse("Consent", [][2]string{{"patient", patient}, {"status", "active"}}, search.ParseOptions{})
	if err != nil {
		return nil, err
	}
	err = g.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			r := f.Resource
			r.JSON = append([]byte(nil), r.JSON...)
			out = append(out, r)
			return true
		})
	return out, err
}
