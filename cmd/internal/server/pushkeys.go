package server

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/pushkey"
	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clientaddr"
	"pulsegate/smart/pages"
)

// newPushKeys returns the push keys of the store.
func newPushKeys(env environment, db database, rec *audit.Recorder) (*pushkey.Keys, error) {
	return pushkey.New(pushkey.Options{Store: db, Audit: rec, Clock: env.now, Rand: rand.Reader,
		Secure: env.secure, Logger: env.log, Shared: env.limits()})
}

// secure reports whether a secret may be sent in the headers of r: over TLS to this
// server or to a trusted proxy, or within one machine to a demo.
func (e environment) secure(r *http.Request) bool {
	if clientaddr.Encrypted(r) {
		return true
	}
	u, err := url.Parse(e.base)
	if err != nil || !e.config.Demo || u.Scheme != "http" || !loopback(u.Hostname()) {
		return false
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// loopback reports whether a host is this machine itself.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// adapter returns the adapter of a vendor, or nil.
func (s *services) adapter(vendor string) adapters.Adapter {
	for _, a := range s.adapters {
		if a.Vendor() == vendor {
			return a
		}
	}
	return nil
}

// CreatePushKey creates a push key.
func (ops operations) CreatePushKey(ctx context.Context, op admin.Operator,
	in admin.NewPushKey) (admin.CreatedPushKey, error) {
	in.Vendor = vendors.Code(in.Vendor)
	if err := ops.knownVendor(in.Vendor); err != nil {
		return admin.CreatedPushKey{}, err
	}
	if err := ops.havePatient(ctx, in.Patient); err != nil {
		return admin.CreatedPushKey{}, err
	}
	if in.Seconds < 0 || in.Seconds > 10*366*24*3600 {
		return admin.CreatedPushKey{}, fhir.Errorf(fhir.Invalid, "server.CreatePushKey",
			"--life: must be at most ten years")
	}
	k, text, err := ops.pushKeys.Create(ctx, pushkey.NewKey{Patient: in.Patient, Vendor: in.Vendor, Name: in.Name,
		Operator: true, Life: time.Duration(in.Seconds) * time.Second},
		commandEvent(ops.request(op), "push-key create", in.Patient))
	if err != nil {
		return admin.CreatedPushKey{}, err
	}
	_, consented, err := ops.consents.Collects(ctx, k.Patient, k.Vendor)
	return admin.CreatedPushKey{PushKey: k, Key: text, Consented: consented,
		Settings: pushkey.SettingsFor(ops.base, ops.adapter(k.Vendor), text)}, err
}

// ListPushKeys lists the push keys of a patient, or of all patients, and of a vendor, or
// of all vendors.
func (ops operations) ListPushKeys(ctx context.Context, op admin.Operator,
	patient, vendor string) (admin.PushKeys, error) {
	keys, err := ops.pushKeys.List(ctx, patient)
	if err != nil {
		return admin.PushKeys{}, err
	}
	vendor = vendors.Code(vendor)
	out := admin.PushKeys{Keys: []pushkey.Key{}}
	var disclosed []string
	if patient != "" {
		disclosed = append(disclosed, patient)
	}
	for _, k := range keys {
		if vendor == "" || k.Vendor == vendor {
			out.Keys, disclosed = append(out.Keys, k), append(disclosed, k.Patient)
		}
	}
	return out, ops.recordAll(ctx, ops.request(op), "push-key list", disclosed)
}

// RevokePushKeys revokes one push key, or all of a patient and perhaps a vendor, from
// the next request onward.
func (ops operations) RevokePushKeys(ctx context.Context, op admin.Operator,
	in admin.RevokePushKeys) (admin.RevokedPushKeys, error) {
	const name = "push-key revoke"
	out := admin.RevokedPushKeys{Revoked: []string{}}
	ids := []string{in.ID}
	in.Vendor = vendors.Code(in.Vendor)
	switch {
	case (in.ID == "") == (in.Patient == ""), in.ID != "" && in.Vendor != "":
		return out, fhir.Errorf(fhir.Invalid, name, "give the id of a key, or --patient and perhaps --vendor")
	case in.ID == "":
		keys, err := ops.pushKeys.List(ctx, in.Patient)
		if err != nil {
			return out, err
		}
		ids = nil
		for _, k := range keys {
			if in.Vendor == "" || k.Vendor == in.Vendor {
				ids = append(ids, k.ID)
			}
		}
		if len(ids) == 0 {
			return out, fhir.Errorf(fhir.NotFound, name, "the patient has no such push key")
		}
	}
	for _, id := range ids {
		k, err := ops.pushKeys.Revoke(ctx, "", id, commandEvent(ops.request(op), name, ""))
		if err != nil {
			return out, err
		}
		out.Revoked = append(out.Revoked, k.ID)
	}
	return out, nil
}

// pagePushKeys implements pages.PushKeys.
type pagePushKeys struct{ *services }

var _ pages.PushKeys = pagePushKeys{}

// Vendors implements pages.PushKeys.
func (p pagePushKeys) Vendors(ctx context.Context, patient string) ([]pages.PushVendor, error) {
	var out []pages.PushVendor
	for _, a := range p.adapters {
		_, consented, err := p.consents.Collects(ctx, patient, a.Vendor())
		if err != nil {
			return nil, err
		}
		v := pages.PushVendor{Code: a.Vendor(), Name: a.Name(), Consented: consented}
		for _, f := range a.Formats() {
			if f.App != "" {
				v.Apps = append(v.Apps, f.App)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// List implements pages.PushKeys.
func (p pagePushKeys) List(ctx context.Context, patient string) ([]pages.PushKey, error) {
	keys, err := p.pushKeys.List(ctx, patient)
	if err != nil {
		return nil, err
	}
	var out []pages.PushKey
	for _, k := range keys {
		out = append(out, p.shown(k))
	}
	return out, nil
}

func (p pagePushKeys) shown(k pushkey.Key) pages.PushKey {
	return pages.PushKey{ID: k.ID, Vendor: vendors.Name(k.Vendor), Name: k.Name, Created: k.Created,
		Operator: k.Operator, Expires: k.Expires, Expired: k.Expired(p.now()), Used: k.Use.At,
		Automation: k.Use.Automation}
}

// Create implements pages.PushKeys.
func (p pagePushKeys) Create(ctx context.Context, patient, vendor, name string, life time.Duration,
	ev audit.Event) (pages.NewPushKey, error) {
	a := p.adapter(vendor)
	if a == nil {
		return pages.NewPushKey{}, fhir.Errorf(fhir.Invalid, "server.pagePushKeys", "vendor: Choose one of the list.")
	}
	k, text, err := p.pushKeys.Create(ctx, pushkey.NewKey{Patient: patient, Vendor: vendor, Name: name, Life: life}, ev)
	if err != nil {
		return pages.NewPushKey{}, err
	}
	out := pages.NewPushKey{PushKey: p.shown(k), Key: text}
	for _, s := range pushkey.SettingsFor(p.base, a, text) {
		out.Settings = append(out.Settings, pages.PushSettings(s))
	}
	_, out.Consented, err = p.consents.Collects(ctx, patient, vendor)
	return out, err
}

// Revoke implements pages.PushKeys.
func (p pagePushKeys) Revoke(ctx context.Context, patient, id string, ev audit.Event) error {
	_, err := p.pushKeys.Revoke(ctx, patient, id, ev)
	return err
}
