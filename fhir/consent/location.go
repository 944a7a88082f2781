package consent

import (
	"encoding/json"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// permitsLocation reports whether r or a provision in it may permit locations, now or
// later.
func (r *rule) permitsLocation(now int64) bool {
	if r.uncertain || r.to <= now {
		return false
	}
	return r.permit && slices.Contains(r.categories, CategoryLocation) ||
		slices.ContainsFunc(r.nested, func(n rule) bool { return n.permitsLocation(now) })
}

// PlanLocations plans the withdrawal of the permits for locations, of all vendors and for
// all recipients. Vendor and Vendors of t are not used. A Consent for locations alone
// ends, others are narrowed. ok is false if no Consent permits locations.
func (t Withdrawal) PlanLocations(have []fhir.Resource) (w WithdrawalPlan, ok bool, err error) {
	const op = "consent.PlanLocations"
	t.Vendor = ""
	for _, r := range have {
		c, eff := compile(r.ID, t.Patient, r.JSON)
		if eff != active || !c.root.permitsLocation(t.Now.UnixMilli()) {
			continue
		}
		n, narrowed, err := t.withoutLocations(r)
		if err != nil {
			return WithdrawalPlan{}, false, fhir.Wrap(op, err)
		}
		if narrowed {
			w.Narrowed = append(w.Narrowed, n)
			err = t.denyLocations(&w, &c.root)
		} else {
			err = t.change(&w, r, &c) // everything in it is about locations
		}
		if err != nil {
			return WithdrawalPlan{}, false, fhir.Wrap(op, err)
		}
	}
	if len(w.Ended)+len(w.Narrowed) == 0 {
		return WithdrawalPlan{}, false, nil
	}
	r, err := Build(Terms{ID: t.NewID(), Patient: t.Patient, Categories: []string{CategoryLocation}, Now: t.Now})
	if err == nil {
		w.Record, err = end(r, "You have taken back that this server keeps or shows where you went during workouts.")
	}
	return w, err == nil, fhir.Wrap(op, err)
}

// denyLocations adds the denials of locations in a Consent that no longer permits any, so
// that they outlast its permits.
func (t Withdrawal) denyLocations(w *WithdrawalPlan, root *rule) error {
	if !root.permit {
		return nil // it still denies
	}
	within := unrestricted()
	within.categories = []string{CategoryLocation}
	for _, x := range denials(root, within) {
		if slices.Equal(x.types, []string{"Device", "Provenance"}) {
			continue // they have no locations
		}
		n, err := t.denial(x)
		if err != nil {
			return err
		}
		w.Denials = append(w.Denials, n...)
	}
	return nil
}

// withoutLocations returns a Consent without its permits for locations. ok is false if
// the whole Consent is one.
func (t Withdrawal) withoutLocations(r fhir.Resource) (out fhir.Resource, ok bool, err error) {
	var d document
	if err := json.Unmarshal(r.JSON, &d); err != nil {
		return out, false, err
	}
	left, ok, err := dropLocations(d.Provision, d.PolicyRule.Has(actCodeSystem, "OPTIN"), 0)
	if err != nil || !ok {
		return out, false, err
	}
	out, err = rewrite(r, "You have taken back that this consent covers where you went during workouts. For other data "+
		"it goes on.", map[string]json.RawMessage{"provision": left})
	if err != nil {
		return out, false, err
	}
	out.Version = r.Version
	c, eff := compile(r.ID, t.Patient, out.JSON)
	return out, eff == active && !c.root.permitsLocation(t.Now.UnixMilli()), nil
}

// dropLocations removes the permits for locations from a provision. ok is false if it
// permits nothing else. base is the meaning of an absent type.
func dropLocations(raw json.RawMessage, base bool, depth int) (out json.RawMessage, ok bool, err error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, false, err
	}
	if provision(raw, &base, depth).uncertain {
		return raw, true, nil // it permits nothing, and denies everything
	}
	permit := base
	if v, has := m["type"]; has {
		permit = string(v) == `"permit"`
	}
	if v, has := m["code"]; has && permit {
		concepts, ok, err := withoutLocationCode(v)
		if err != nil || !ok {
			return nil, false, err
		}
		m["code"] = concepts
	}
	if v, has := m["provision"]; has {
		var list, remaining []json.RawMessage
		if err := json.Unmarshal(v, &list); err != nil {
			return nil, false, err
		}
		for _, n := range list {
			x, ok, err := dropLocations(n, false, depth+1)
			if err != nil {
				return nil, false, err
			}
			if ok {
				remaining = append(remaining, x)
			}
		}
		delete(m, "provision")
		if len(remaining) > 0 {
			if m["provision"], err = marshal(remaining); err != nil {
				return nil, false, err
			}
		}
	}
	out, err = marshal(m)
	return out, err == nil, err
}

// withoutLocationCode removes the category location from the codes of a permit. ok is
// false if it is their only category.
func withoutLocationCode(raw json.RawMessage) (out json.RawMessage, ok bool, err error) {
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, false, err
	}
	dropped, others := false, false
	remaining := []any{}
	for _, concept := range list {
		var codings []map[string]json.RawMessage
		if err := json.Unmarshal(concept["coding"], &codings); err != nil {
			return nil, false, err
		}
		codings = slices.DeleteFunc(codings, func(c map[string]json.RawMessage) bool {
			var have element.Coding
			if json.Unmarshal(c["system"], &have.System) != nil || json.Unmarshal(c["code"], &have.Code) != nil ||
				have.System == VendorSystem {
				return false
			}
			location := have.Code == CategoryLocation
			dropped, others = dropped || location, others || !location
			return location
		})
		if len(codings) == 0 {
			continue
		}
		if concept["coding"], err = marshal(codings); err != nil {
			return nil, false, err
		}
		remaining = append(remaining, concept)
	}
	if dropped && !others {
		return nil, false, nil
	}
	out, err = marshal(remaining)
	return out, err == nil, err
}
