package consent

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Withdrawal describes the withdrawal of a patient's consents for all data or for
// the data of one vendor.
type Withdrawal struct {
	Patient string // id
	Vendor  string // code; "" for all
	// Vendors lists the codes of all vendors. A Consent for all vendors is narrowed
	// to the others.
	Vendors []string
	// VendorName is the name of Vendor for the narrative. If it is empty, Vendor is
	// used.
	VendorName string
	Now        time.Time
	NewID      func() string // returns ids for new Consents
}

// WithdrawalPlan holds the Consents that a Withdrawal changes and adds. Once all of
// them are stored, no Consent permits any of the withdrawn data, and everything
// that was denied is still denied.
type WithdrawalPlan struct {
	Ended    []fhir.Resource // changed to inactive
	Narrowed []fhir.Resource // active, without the vendor
	Denials  []fhir.Resource // new Consents for the denials of those that ended
	Record   fhir.Resource   // new, inactive Consent that documents the withdrawal
}

// Plan plans the withdrawal for the patient's Consents. have need not contain
// Consents that are not affected. ok is false if no Consent permits any of the
// data.
func (t Withdrawal) Plan(have []fhir.Resource) (w WithdrawalPlan, ok bool, err error) {
	const op = "consent.Plan"
	for i := range have {
		c, eff := compile(have[i].ID, t.Patient, have[i].JSON)
		if eff != active || !t.affects(&c.root) {
			continue
		}
		if err := t.change(&w, have[i], &c); err != nil {
			return WithdrawalPlan{}, false, fhir.Wrap(op, err)
		}
	}
	if len(w.Ended)+len(w.Narrowed) == 0 {
		return WithdrawalPlan{}, false, nil
	}
	r, err := Build(Terms{ID: t.NewID(), Patient: t.Patient, Vendor: t.Vendor, Now: t.Now})
	if err == nil {
		w.Record, err = end(r, "You have taken back what you had agreed to about data from "+
			vendorName(Terms{Vendor: t.Vendor, VendorName: t.VendorName})+
			". Nothing of it is collected or shown any more.")
	}
	return w, err == nil, fhir.Wrap(op, err)
}

// affects reports whether a Consent must change. A withdrawal of everything
// affects all Consents with a permit, regardless of their periods.
func (t Withdrawal) affects(r *rule) bool {
	if t.Vendor == "" {
		return r.permits()
	}
	return r.mayPermit(t.Vendor, t.Now.UnixMilli())
}

// mayPermit reports whether r may permit data of a vendor, or any data if vendor is
// empty, for any recipient, now or later.
func (r *rule) mayPermit(vendor string, now int64) bool {
	if r.uncertain || r.to <= now || vendor != "" && len(r.vendors) > 0 && !slices.Contains(r.vendors, vendor) {
		return false
	}
	return r.permit || slices.ContainsFunc(r.nested, func(n rule) bool { return n.mayPermit(vendor, now) })
}

// change adds the changes of one Consent to the plan.
func (t Withdrawal) change(w *WithdrawalPlan, r fhir.Resource, c *compiled) error {
	var d document
	if err := json.Unmarshal(r.JSON, &d); err != nil {
		return err
	}
	continues := false
	if len(d.Provision) > 0 {
		left, ok, err := t.narrow(d.Provision, d.PolicyRule.Has(actCodeSystem, "OPTIN"), 0)
		if err != nil {
			return err
		}
		if ok {
			n, err := rewrite(r, t.narrowedText(&c.root), map[string]json.RawMessage{"provision": left})
			if err != nil {
				return err
			}
			// Compile the narrowed Consent to check that it denies the vendor.
			if x, eff := compile(r.ID, t.Patient, n.JSON); eff == active && !t.affects(&x.root) {
				continues = true
				n.Version = r.Version
				w.Narrowed = append(w.Narrowed, n)
			}
		}
	}
	if !continues {
		n, err := Withdraw(r)
		if c.root.onlyForApps() {
			n, err = EndApp(r)
		}
		if err != nil {
			return err
		}
		n.Version = r.Version
		w.Ended = append(w.Ended, n)
	}
	if !c.root.permit && continues {
		return nil // the narrowed Consent still denies
	}
	within := unrestricted()
	if continues {
		within.vendors = []string{t.Vendor} // the narrowed Consent still denies the others
	}
	for _, x := range denials(&c.root, within) {
		n, err := t.denial(x)
		if err != nil {
			return err
		}
		w.Denials = append(w.Denials, n...)
	}
	return nil
}

// narrowedText returns the narrative of a narrowed Consent.
func (t Withdrawal) narrowedText(root *rule) string {
	if !root.permit {
		return "You have taken back what this consent had allowed about data from " +
			vendorName(Terms{Vendor: t.Vendor, VendorName: t.VendorName}) + ". What it denies stays denied."
	}
	return "You have taken back this consent for data from " +
		vendorName(Terms{Vendor: t.Vendor, VendorName: t.VendorName}) + ". For other data it goes on."
}

// narrow removes the withdrawn data from a provision. ok is false if nothing
// remains. base is the meaning of an absent type.
func (t Withdrawal) narrow(raw json.RawMessage, base bool, depth int) (out json.RawMessage, ok bool, err error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, false, err
	}
	permit := base
	if v, ok := m["type"]; ok {
		permit = string(v) == `"permit"`
	}
	if depth > maxDepth || permit && t.Vendor == "" {
		return nil, false, nil
	}
	if t.Vendor != "" && provision(raw, &base, depth).uncertain {
		return raw, true, nil // it permits nothing, and denies every vendor
	}
	if permit {
		if ok, err = t.narrowCodes(m); !ok || err != nil {
			return nil, false, err
		}
	}
	if v, has := m["provision"]; has {
		var list, remaining []json.RawMessage
		if err := json.Unmarshal(v, &list); err != nil {
			return nil, false, err
		}
		for _, n := range list {
			x, ok, err := t.narrow(n, false, depth+1)
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

// narrowCodes removes the vendor from the codes of a permit. A permit without
// vendors gets all other vendors. ok is false if no vendor remains.
func (t Withdrawal) narrowCodes(m map[string]json.RawMessage) (ok bool, err error) {
	var list []map[string]json.RawMessage
	if v, has := m["code"]; has {
		if err := json.Unmarshal(v, &list); err != nil {
			return false, err
		}
	}
	named, others := false, 0
	remaining := []any{}
	for _, concept := range list {
		var codings []map[string]json.RawMessage
		if err := json.Unmarshal(concept["coding"], &codings); err != nil {
			return false, err
		}
		codings = slices.DeleteFunc(codings, func(c map[string]json.RawMessage) bool {
			var have element.Coding
			if json.Unmarshal(c["system"], &have.System) != nil || json.Unmarshal(c["code"], &have.Code) != nil ||
				have.System != VendorSystem {
				return false
			}
			named = true
			if have.Code != t.Vendor {
				others++
			}
			return have.Code == t.Vendor
		})
		if len(codings) == 0 {
			continue
		}
		if concept["coding"], err = marshal(codings); err != nil {
			return false, err
		}
		remaining = append(remaining, concept)
	}
	if !named {
		for _, v := range t.Vendors {
			if v != t.Vendor {
				remaining, others = append(remaining, element.NewConcept(VendorSystem, v)), others+1
			}
		}
	}
	if others == 0 {
		return false, nil
	}
	m["code"], err = marshal(remaining)
	return err == nil, err
}

// unrestricted returns a denial without conditions.
func unrestricted() rule {
	r := denyAll()
	r.uncertain = false
	return r
}

// denials lists the denials in r as independent rules, each with the conditions of
// the enclosing provisions, which are in within.
func denials(r *rule, within rule) (out []rule) {
	own, ok := intersect(within, *r)
	if !ok {
		return nil
	}
	if !r.permit {
		// Its exceptions are permits, which are withdrawn.
		if len(r.recipients) > 0 && !slices.Contains(r.recipients, AnyRecipient) {
			own.actions = intersectActions(own.actions, disclosureActions) // collection has no recipient
		}
		if own.actions != nil && len(own.actions) == 0 {
			return nil
		}
		out = []rule{own}
		if len(r.categories) == 0 && len(own.categories) > 0 {
			// A permit for categories also covers the types without categories; a
			// denial of categories does not.
			if own, ok := intersect(own, rule{from: own.from, to: own.to, types: []string{"Device", "Provenance"},
				actions: disclosureActions}); ok {
				own.categories = nil
				out = append(out, own)
			}
		}
		return out
	}
	for i := range r.nested {
		out = append(out, denials(&r.nested[i], own)...)
	}
	return out
}

// disclosureActions are the equivalent actions that show data. Read only.
var disclosureActions = []string{actionAccess, actionDisclose}

// intersectActions returns the actions of both lists. A nil list means all
// actions, an empty one none.
func intersectActions(a, b []string) []string {
	out := []string{}
	ra, rb := rule{actions: a}, rule{actions: b}
	if ra.appliesTo(true) && rb.appliesTo(true) {
		out = append(out, actionCollect)
	}
	if ra.appliesTo(false) && rb.appliesTo(false) {
		out = append(out, disclosureActions...)
	}
	if len(out) == 3 {
		return nil
	}
	return out
}

// intersectRecipients returns the recipients of both lists. An empty result means
// every recipient if both lists are empty, otherwise none. A token has a client
// and an authorization, so one list may name its client and the other its
// authorization.
func intersectRecipients(a, b []string) (out []string) {
	if len(a) == 0 || len(b) == 0 {
		return append(slices.Clone(a), b...)
	}
	for _, l := range [][2][]string{{a, b}, {b, a}} {
		clients := slices.ContainsFunc(l[1], func(s string) bool { return !strings.HasPrefix(s, authorizedBy) })
		for _, s := range l[0] {
			if slices.Contains(l[1], s) || clients && strings.HasPrefix(s, authorizedBy) {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// intersect returns the rule for a provision b inside a, which applies if both do.
// It reports false if there is no such request. A resource with several categories
// may match a by one and b by another, and is then denied by the categories of b.
func intersect(a, b rule) (rule, bool) {
	c := rule{from: max(a.from, b.from), to: min(a.to, b.to)}
	ok := c.from < c.to
	common := func(x, y []string) []string {
		if len(x) == 0 || len(y) == 0 {
			return append(slices.Clone(x), y...)
		}
		out := slices.DeleteFunc(slices.Clone(x), func(s string) bool { return !slices.Contains(y, s) })
		ok = ok && len(out) > 0
		return out
	}
	named := func(r []string) []string {
		if slices.Contains(r, AnyRecipient) {
			return nil
		}
		return r
	}
	c.recipients = intersectRecipients(named(a.recipients), named(b.recipients))
	ok = ok && (len(c.recipients) > 0 || len(named(a.recipients)) == 0 && len(named(b.recipients)) == 0)
	c.vendors, c.types = common(a.vendors, b.vendors), common(a.types, b.types)
	if c.actions = intersectActions(a.actions, b.actions); !ok || c.actions != nil && len(c.actions) == 0 {
		return c, false
	}
	if c.categories = commonCategories(a.categories, b.categories); len(c.categories) == 0 {
		c.categories = slices.Clone(b.categories)
	}
	return c, ok
}

// commonCategories returns the categories of data that both lists cover. Sleep and
// location refine activity. If one of the lists is empty, it is the other one.
func commonCategories(a, b []string) (out []string) {
	if len(a) == 0 || len(b) == 0 {
		return append(slices.Clone(a), b...)
	}
	for _, x := range a {
		for _, y := range b {
			switch {
			case x == y || x == categoryActivity && (y == categorySleep || y == CategoryLocation):
				out = append(out, y)
			case y == categoryActivity && (x == categorySleep || x == CategoryLocation):
				out = append(out, x)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// denial builds the Consents for a denial.
func (t Withdrawal) denial(r rule) ([]fhir.Resource, error) {
	if r.to <= t.Now.UnixMilli() {
		return nil, nil
	}
	var out []fhir.Resource
	add := func(p provisionJSON) error {
		c := newConsent(t.NewID(), t.Patient,
			div("You had denied this within a consent that you have taken back. It stays denied."), t.Now)
		c.PolicyRule = element.NewConcept(actCodeSystem, "OPTOUT")
		p.Type = "deny"
		c.Provision = p
		b, err := marshal(c)
		out = append(out, fhir.Resource{Type: "Consent", ID: c.ID, JSON: b})
		return err
	}
	p := provisionJSON{Period: r.period()}
	for _, v := range r.vendors {
		p.Code = append(p.Code, element.NewConcept(VendorSystem, v))
	}
	for _, k := range r.categories {
		system := categoryOwn
		if slices.Contains(hl7Categories, k) {
			system = element.ObservationCategory
		}
		p.Code = append(p.Code, element.NewConcept(system, k))
	}
	for _, k := range r.types {
		p.Class = append(p.Class, element.Coding{System: typeSystem, Code: k})
	}
	if r.appliesTo(true) {
		// Recipients do not matter for collection.
		collection := p
		collection.Action = []element.CodeableConcept{element.NewConcept(actionSystem, actionCollect)}
		if err := add(collection); err != nil {
			return nil, err
		}
	}
	if r.appliesTo(false) {
		p.Action = []element.CodeableConcept{element.NewConcept(actionSystem, actionAccess),
			element.NewConcept(actionSystem, actionDisclose)}
		for _, who := range r.recipients {
			id := element.Identifier{System: ClientSystem, Value: who}
			if a, ok := strings.CutPrefix(who, authorizedBy); ok {
				id = element.Identifier{System: AuthorizationSystem, Value: a}
			}
			p.Actor = append(p.Actor, actor{element.NewConcept(element.ParticipationType, recipientRole),
				element.Reference{Identifier: &id}})
		}
		if err := add(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// period returns the period of a rule in whole seconds.
func (r *rule) period() *element.Period {
	var from, until time.Time
	if r.from != unrestricted().from {
		from = time.UnixMilli(r.from)
	}
	if r.to != unrestricted().to {
		until = time.UnixMilli(r.to).Add(-time.Second) // the end is included
	}
	return between(from, until)
}

// AnyPermit reports whether a Consent of the patient may permit the disclosure or
// collection of data of a vendor, or of any data if vendor is empty, now or later.
// It serves to check a withdrawal after it has been stored.
func (e *Engine) AnyPermit(ctx context.Context, patient, vendor string) (bool, error) {
	set, err := e.ruleSet(ctx, patient)
	if err != nil {
		return false, err
	}
	now := e.opts.Clock().UnixMilli()
	for _, c := range set.rules {
		if c.root.mayPermit(vendor, now) {
			return true, nil
		}
	}
	for _, list := range set.apps {
		for _, c := range list {
			if c.root.mayPermit(vendor, now) {
				return true, nil
			}
		}
	}
	return false, nil
}
