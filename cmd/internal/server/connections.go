package server

import (
	"context"
	"slices"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/adapters/vendors"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/pages"
)

// connections implements pages.Connections.
type connections struct{ *services }

var _ pages.Connections = connections{}

// Vendors implements pages.Connections.
func (c connections) Vendors(ctx context.Context, patient string) ([]pages.DeviceVendor, error) {
	var out []pages.DeviceVendor
	for _, v := range c.links.Vendors {
		_, consented, err := c.consents.Collects(ctx, patient, v.Code())
		if err != nil {
			return nil, err
		}
		one := pages.DeviceVendor{Code: v.Code(), Name: vendors.Name(v.Code()), Past: c.config.VendorBackfill,
			Consented: consented}
		for _, s := range v.OAuth().Scopes {
			switch {
			case s.Words == "":
			case s.Optional:
				one.Optional = append(one.Optional, s.Words)
			default:
				one.Reads = append(one.Reads, s.Words)
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// List implements pages.Connections.
func (c connections) List(ctx context.Context, patient string) ([]pages.Connection, error) {
	all, err := c.links.List(ctx, patient)
	if err != nil {
		return nil, err
	}
	var out []pages.Connection
	for _, l := range all {
		one := pages.Connection{ID: l.ID, Vendor: l.Vendor, Name: vendors.Name(l.Vendor), Connected: l.Connected,
			Missing: c.missing(&l)}
		_, consented, err := c.consents.Collects(ctx, patient, l.Vendor)
		if err != nil {
			return nil, err
		}
		var late bool
		if one.LastData, late, err = c.progress.LastData(ctx, l); err != nil {
			return nil, err
		}
		one.State = connectionState(l.Status, consented, late)
		out = append(out, one)
	}
	return out, nil
}

// connectionState returns the state that a person should know first.
func connectionState(s link.Status, consented, late bool) pages.ConnectionState {
	switch {
	case s == link.Gone:
		return pages.Gone
	case !consented:
		return pages.Withdrawn
	case s == link.Reconnect:
		return pages.Reconnect
	case s == link.Membership:
		return pages.Membership
	case s == link.Permission:
		return pages.Permission
	case late:
		return pages.Late
	}
	return pages.Working
}

// missing returns the words of the scopes that a link lacks.
func (c connections) missing(l *link.Link) (out []string) {
	v := c.links.Vendor(l.Vendor)
	if v == nil {
		return l.Missing
	}
	for _, name := range l.Missing {
		i := slices.IndexFunc(v.OAuth().Scopes, func(s cloud.Scope) bool { return s.Name == name })
		if i >= 0 && v.OAuth().Scopes[i].Words != "" {
			name = v.OAuth().Scopes[i].Words
		}
		out = append(out, name)
	}
	return out
}

// Agree implements pages.Connections. If a consent covers the collection already, it
// records no other one.
func (c connections) Agree(ctx context.Context, by audit.Caller, patient, vendor string, shared bool) error {
	const op = "server.Agree"
	if _, ok, err := c.consents.Collects(ctx, patient, vendor); err != nil || ok {
		return err
	}
	r, err := consent.Build(consent.Terms{ID: fhir.RandomID(), Patient: patient, Vendor: vendor,
		VendorName: vendors.Name(vendor), CollectOnly: !shared, Now: c.now()})
	if err != nil {
		return err
	}
	_, err = audit.Commit(ctx, c.store, c.audit.recorder,
		&store.Batch{Writes: []store.Write{{Resource: r, Expect: store.Absent}}},
		audit.Event{Type: audit.Rest, Interaction: "create", Caller: by, Patient: patient,
			Data: []audit.DataRef{{Ref: r.Ref(), Version: 1}}})
	return fhir.Wrap(op, err)
}

// Begin implements pages.Connections.
func (c connections) Begin(ctx context.Context, patient, vendor, session string) (string, error) {
	return c.links.Begin(ctx, patient, vendor, session)
}

// Complete implements pages.Connections.
func (c connections) Complete(ctx context.Context, by audit.Caller, session string,
	a pages.VendorAnswer) (string, error) {
	l, err := c.links.Complete(ctx, by, session, link.Answer(a))
	return vendors.Name(l.Vendor), err
}

// Disconnect implements pages.Connections. The consent ends first, so that nothing is
// collected while the data are deleted.
func (c connections) Disconnect(ctx context.Context, by audit.Caller, patient, id string, erase bool) error {
	l, err := c.links.Get(ctx, id)
	if err != nil {
		return err
	}
	if l.Patient != patient {
		return fhir.Errorf(fhir.NotFound, "server.Disconnect", "there is no such connection")
	}
	if erase {
		_, err := c.withdrawals().Withdraw(ctx, by, patient, l.Vendor)
		if err != nil && fhir.KindOf(err) != fhir.NotFound { // there may be no consent
			return err
		}
	}
	return c.unlink(ctx, by, id, erase)
}

// withdrawals returns the service that withdraws consents.
func (s *services) withdrawals() *appconsent.Withdrawals {
	w := &appconsent.Withdrawals{Store: s.store, Audit: s.audit.recorder, Consents: s.consents, Clock: s.now,
		NewID: fhir.RandomID, VendorName: vendors.Name}
	for _, a := range s.adapters {
		w.Vendors = append(w.Vendors, a.Vendor())
	}
	return w
}
