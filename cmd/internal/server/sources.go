package server

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/adapters/vendors"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/pages"
)

// sources implements pages.Sources.
type sources struct{ *services }

var _ pages.Sources = sources{}

// List implements pages.Sources.
func (s sources) List(ctx context.Context, patient string) ([]pages.Source, error) {
	links, err := s.links.List(ctx, patient)
	if err != nil {
		return nil, err
	}
	keys, err := s.pushKeys.List(ctx, patient)
	if err != nil {
		return nil, err
	}
	apps, err := s.apps(ctx, patient)
	if err != nil {
		return nil, err
	}
	var out []pages.Source
	for _, a := range s.adapters {
		one := pages.Source{Code: a.Vendor(), Name: a.Name(), HasRoutes: s.pipeline.Mapper.HasCategory(a.Vendor(),
			consent.CategoryLocation)}
		if err := s.consented(ctx, patient, &one); err != nil {
			return nil, err
		}
		if one.SeenBy, one.SeenByAll, err = s.seenBy(ctx, patient, one.Code, apps); err != nil {
			return nil, err
		}
		if one.HasRoutes {
			var all bool
			if one.LocatedTo, all, err = s.seenBy(ctx, patient, one.Code, apps, routeCategories...); err != nil {
				return nil, err
			} else if all {
				one.LocatedTo = []string{"Every clinic and app that is registered here"}
			}
		}
		for i := range links {
			if links[i].Vendor == one.Code && !slices.Contains(one.Ways, "your connected account") {
				one.Ways = append(one.Ways, "your connected account")
			}
		}
		for i := range keys {
			if keys[i].Vendor == one.Code && !keys[i].Expired(s.now()) &&
				!slices.Contains(one.Ways, "an app with a key") {
				one.Ways = append(one.Ways, "an app with a key")
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// routeCategories are the categories of the location of a workout.
var routeCategories = []string{"activity", consent.CategoryLocation} // read only

// consented sets what the consents of the patient cover, and since when.
func (s sources) consented(ctx context.Context, patient string, one *pages.Source) error {
	ref, ok, err := s.consents.Collects(ctx, patient, one.Code)
	if err != nil {
		return err
	}
	if one.Located, err = s.consents.CollectsCategory(ctx, patient, one.Code, routeCategories...); err != nil {
		return err
	}
	if one.Consented = ok; !ok {
		return nil
	}
	r, _, err := s.store.Read(ctx, ref, 0)
	if err != nil {
		return err
	}
	var c struct {
		DateTime string `json:"dateTime"`
	}
	if err := json.Unmarshal(r.JSON, &c); err != nil {
		return fhir.Wrap("server.consented", err)
	}
	if t, err := time.Parse(time.RFC3339, c.DateTime); err == nil {
		one.Since = t
	}
	return nil
}

// apps returns the client ids of the authorizations about a patient, by id of the authorization.
func (s sources) apps(ctx context.Context, patient string) (map[string]string, error) {
	all, err := s.oauth.tokens.About(ctx, patient)
	out := map[string]string{}
	for i := range all {
		out[all[i].ID] = all[i].ClientID
	}
	return out, err
}

// seenBy returns the names of the apps and clinics that may see data of a vendor, or
// whether all may. apps maps the ids of authorizations to clients.
func (s sources) seenBy(ctx context.Context, patient, vendor string, apps map[string]string,
	categories ...string) (names []string, all bool, err error) {
	clients, authorizations, err := s.consents.Recipients(ctx, patient, vendor, categories...)
	if err != nil {
		return nil, false, err
	}
	if slices.Contains(clients, consent.AnyRecipient) {
		return nil, true, nil
	}
	for _, id := range authorizations {
		if apps[id] != "" {
			clients = append(clients, apps[id])
		}
	}
	for _, id := range clients {
		name := id
		switch c, err := s.clients.Get(ctx, id); {
		case err == nil && !c.Disabled:
			name = c.Name
		case err == nil, fhir.KindOf(err) == fhir.NotFound:
			continue // it sees nothing
		default:
			return nil, false, err
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, false, nil
}

// Agree implements pages.Sources.
func (s sources) Agree(ctx context.Context, by audit.Caller, patient, vendor string, terms pages.SourceTerms) error {
	if err := connections(s).Agree(ctx, by, patient, vendor, terms.Shared); err != nil || !terms.Locations {
		return err
	}
	return s.Locate(ctx, by, patient, vendor, true)
}

// Locate implements pages.Sources. The consent to locations is a Consent of its own, so
// that it can end by itself.
func (s sources) Locate(ctx context.Context, by audit.Caller, patient, vendor string, allow bool) error {
	const op = "server.Locate"
	have, err := s.consents.CollectsCategory(ctx, patient, vendor, routeCategories...)
	if err != nil || have == allow {
		return err
	}
	if !allow {
		_, err := s.withdrawals().WithdrawLocations(ctx, by, patient)
		return err
	}
	if _, ok, err := s.consents.Collects(ctx, patient, vendor); err != nil {
		return err
	} else if !ok {
		return fhir.Errorf(fhir.Conflict, op, "Agree to collecting data from this source first.")
	}
	r, err := consent.Build(consent.Terms{ID: fhir.RandomID(), Patient: patient, Vendor: vendor,
		VendorName: vendors.Name(vendor), Categories: []string{consent.CategoryLocation}, CollectOnly: true,
		Now: s.now()})
	if err != nil {
		return err
	}
	_, err = audit.Commit(ctx, s.store, s.audit.recorder,
		&store.Batch{Writes: []store.Write{{Resource: r, Expect: store.Absent}}},
		audit.Event{Type: audit.Rest, Interaction: "create", Caller: by, Patient: patient,
			Data: []audit.DataRef{{Ref: r.Ref(), Version: 1}}})
	return fhir.Wrap(op, err)
}

// Withdraw implements pages.Sources. The consent ends first, so that nothing is
// collected while the data are deleted.
func (s sources) Withdraw(ctx context.Context, by audit.Caller, patient, vendor string, erase bool) error {
	_, err := s.withdrawals().Withdraw(ctx, by, patient, vendor)
	if err != nil && (!erase || fhir.KindOf(err) != fhir.NotFound) { // there may be none any more
		return err
	}
	if !erase {
		return nil
	}
	links, err := s.links.List(ctx, patient)
	if err != nil {
		return err
	}
	erased := false
	for i := range links {
		if links[i].Vendor == vendor {
			if err := s.unlink(ctx, by, links[i].ID, true); err != nil && fhir.KindOf(err) != fhir.NotFound {
				return err
			}
			erased = true
		}
	}
	if erased {
		return nil
	}
	return s.forget(ctx, by, patient, vendor)
}
