package server

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/audit"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/pages"
)

// progress tells how current the data of links are.
type progress interface {
	// LastData returns the time of the latest data that a link has delivered, or the
	// zero time, and whether data are late.
	LastData(ctx context.Context, l link.Link) (last time.Time, late bool, err error)
}

// vendorClient returns a client for the cloud of a vendor. maxResponse bounds each
// answer in bytes. A demo may use simulated vendors on its own machine.
func (e environment) vendorClient(maxResponse int64) *http.Client {
	if e.config.Demo {
		e.egress.AllowPrivate = append(slices.Clone(e.egress.AllowPrivate), netip.MustParsePrefix("127.0.0.0/8"),
			netip.MustParsePrefix("::1/128"))
		e.egress.AllowHTTP = true
	}
	return e.client(30*time.Second, maxResponse)
}

// newLinks returns the links of the store and their vendors.
func newLinks(s *services) (*link.Links, error) {
	all, err := newVendors(s.environment)
	if err != nil {
		return nil, err
	}
	api := s.vendorClient(cloud.MaxAnswer)
	return link.New(link.Options{Shared: s.limits(), Clustered: s.clustered(), Store: s.store,
		Audit: s.audit.recorder, Vault: s.people.vault,
		Vendors: all,
		HTTP:    s.vendorClient(1 << 20),
		API: func(_ cloud.Vendor, token string) *cloud.Client {
			return &cloud.Client{HTTP: api, Token: token, Clock: s.now}
		},
		Callback: s.base + pages.ConnectCallback, Clock: s.now, Logger: s.log,
		Erase: func(ctx context.Context, patient, vendor string, by audit.Caller) error {
			_, err := s.pipeline.Erase(ctx, ingest.Erasure{Patient: patient, Vendor: vendor, Caller: by})
			return err
		}}), nil
}

// startSweep starts sweepLinks. It ends before the store is closed.
func (s *services) startSweep(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	s.sweep = make(chan struct{}, 1)
	done := make(chan struct{})
	s.closers.add(func() error {
		stop()
		<-done
		return nil
	})
	go func() {
		defer close(done)
		s.sweepLinks(ctx)
	}()
}

// unlink ends a link. What is not finished when unlink returns, such as deleting much
// data, is finished by sweepLinks.
func (s *services) unlink(ctx context.Context, by audit.Caller, id string, erase bool) error {
	if err := s.links.Unlink(ctx, by, id, erase); err != nil {
		return err
	}
	s.wakeSweep()
	return nil
}

// forget deletes the data of a vendor about a patient. What is not finished when forget
// returns is finished by sweepLinks.
func (s *services) forget(ctx context.Context, by audit.Caller, patient, vendor string) error {
	if err := s.links.Forget(ctx, by, patient, vendor); err != nil {
		return err
	}
	s.wakeSweep()
	return nil
}

func (s *services) wakeSweep() {
	select {
	case s.sweep <- struct{}{}:
	default: // sweepLinks is about to run
	}
}

// sweepLinks finishes unlinking after each call of unlink, until ctx ends. Package sync
// tries again later what fails here.
func (s *services) sweepLinks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sweep:
		}
		by := operations{s}.request(admin.Operator{Name: "server"}).Caller
		if _, err := s.links.Sweep(ctx, by); err != nil && ctx.Err() == nil {
			s.log.Error("unlinked accounts could not be read", "error", err)
		}
	}
}

// linkInfo describes a link for the operator. It names no account.
func (ops operations) linkInfo(ctx context.Context, l *link.Link) (admin.Link, error) {
	out := admin.Link{ID: l.ID, Patient: l.Patient, Vendor: l.Vendor, Status: string(l.Status), Reason: l.Reason,
		Since: l.Since, Created: l.Created, Connected: l.Connected, Scopes: l.Scopes, Missing: l.Missing,
		Issuer: l.Issuer}
	var err error
	if out.LastData, out.Late, err = ops.progress.LastData(ctx, *l); err != nil {
		return out, err
	}
	_, out.Consented, err = ops.consents.Collects(ctx, l.Patient, l.Vendor)
	return out, err
}

// ListLinks lists the links of a patient, or of all patients.
func (ops operations) ListLinks(ctx context.Context, op admin.Operator, patient string) (admin.Links, error) {
	out := admin.Links{Links: []admin.Link{}}
	all, err := ops.links.List(ctx, patient)
	if err != nil {
		return out, err
	}
	disclosed := []string{}
	if patient != "" {
		disclosed = append(disclosed, patient)
	}
	for i := range all {
		info, err := ops.linkInfo(ctx, &all[i])
		if err != nil {
			return out, err
		}
		out.Links, disclosed = append(out.Links, info), append(disclosed, info.Patient)
	}
	return out, ops.recordAll(ctx, ops.request(op), "link list", disclosed)
}

// ShowLink shows one link.
func (ops operations) ShowLink(ctx context.Context, op admin.Operator, id string) (admin.Link, error) {
	l, err := ops.links.Get(ctx, id)
	if err != nil {
		return admin.Link{}, err
	}
	out, err := ops.linkInfo(ctx, &l)
	if err != nil {
		return out, err
	}
	out.Flow = ops.flow(id)
	return out, ops.record(ctx, ops.request(op), "link show", l.Patient)
}

// Unlink removes a link. The AuditEvent is part of the same commit.
func (ops operations) Unlink(ctx context.Context, op admin.Operator, in admin.Unlink) (admin.ID, error) {
	err := ops.unlink(ctx, ops.request(op).Caller, in.ID, in.Erase)
	return admin.ID{ID: in.ID}, err
}
