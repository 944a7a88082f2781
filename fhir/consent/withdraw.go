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

// Withdrawal describes a withdrawal by a patient: of everything, or of the data of
// one vendor.
type Withdrawal struct {
	Patient string   // id
	Vendor  string   // "" all
	Vendors []string // all that there are; a Consent for all vendors goes on for the others
	// VendorName is Vendor as the patient knows it, for the text; if it is
	// empty, the text has Vendor itself.
	VendorName string
	Now        time.Time
	NewID      func() string // for the Consents that are made
}

// WithdrawalPlan holds the changes that a Taking makes to a patient's Consents. Once
// all of them are stored, no Consent permits any of the withdrawn data, and all
// that was denied is still denied.
type WithdrawalPlan struct {
	Ended    []fhir.Resource // inactive now
	Narrowed []fhir.Resource // active, and no longer about the vendor
	// Denials are new: what Consents that ended denied beside what they
	// permitted.
	Denials []fhir.Resource
	// Record is new, and inactive: it says what was taken back, and when.
	Record fhir.Resource
}

// Plan makes the Withdrawal from the patient's Consents; those that it leaves
// alone may be among them or not. ok is false when none permits anything of
// what is taken back.
func (t Withdrawal) Plan(have []fhir.Resource) (w WithdrawalPlan, ok bool, err error) {
	const op = "consent.Plan"
	for i := range have {
		c, is := compile(have[i].ID, t.Patient, have[i].JSON)
		if is != active || !t.touches(&c.root) {
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

// touches reports whether a Consent has to change. When everything is taken
// back it is every one with a permit, also one whose time is still to come or
// over.
func (t Withdrawal) touches(r *rule) bool {
	if t.Vendor == "" {
		return r.permits()
	}
	return r.reaches(t.Vendor, t.Now.UnixMilli())
}

// reaches reports whether r may permit something of a vendor ("" anything), to
// anybody, now or later.
func (r *rule) reaches(vendor string, now int64) bool {
	if r.doubt || r.to <= now || vendor != "" && len(r.vendors) > 0 && !slices.Contains(r.vendors, vendor) {
		return false
	}
	return r.permit || slices.ContainsFunc(r.nested, func(n rule) bool { return n.reaches(vendor, now) })
}

// change ends or narrows one Consent.
func (t Withdrawal) change(w *WithdrawalPlan, r fhir.Resource, c *compiled) error {
	var d document
	if err := json.Unmarshal(r.JSON, &d); err != nil {
		return err
	}
	goesOn := false
	if len(d.Provision) > 0 {
		left, ok, err := t.narrow(d.Provision, d.PolicyRule.Has(actCodeSystem, "OPTIN"), 0)
		if err != nil {
			return err
		}
		if ok {
			n, err := rewrite(r, t.says(&c.root), map[string]json.RawMessage{"provision": left})
			if err != nil {
				return err
			}
			// Compile the narrowed Consent to check that it denies the vendor.
			if x, is := compile(r.ID, t.Patient, n.JSON); is == active && !t.touches(&x.root) {
				goesOn = true
				n.Version = r.Version
				w.Narrowed = append(w.Narrowed, n)
			}
		}
	}
	if !goesOn {
		n, err := Withdraw(r)
		if c.root.forApps() {
			n, err = EndApp(r)
		}
		if err != nil {
			return err
		}
		n.Version = r.Version
		w.Ended = append(w.Ended, n)
	}
	if !c.root.permit && goesOn {
		return nil // it denies as before
	}
	within := everything()
	if goesOn {
		within.vendors = []string{t.Vendor} // for the others it denies as before
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

func (t Withdrawal) says(root *rule) string {
	if !root.permit {
		return "You have taken back what this consent had allowed about data from " +
			vendorName(Terms{Vendor: t.Vendor, VendorName: t.VendorName}) + ". What it denies stays denied."
	}
	return "You have taken back this consent for data from " +
		vendorName(Terms{Vendor: t.Vendor, VendorName: t.VendorName}) + ". For other data it goes on."
}

// narrow removes what is taken back from a provision. ok is false when nothing
// of it is left; base is what an absent type means.
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
	if t.Vendor != "" && provision(raw, &base, depth).doubt {
		return raw, true, nil // permits nothing, and what it denies is about every vendor
	}
	if permit {
		if ok, err = t.narrowCodes(m); !ok || err != nil {
			return nil, false, err
		}
	}
	if v, has := m["provision"]; has {
		var list, left []json.RawMessage
		if err := json.Unmarshal(v, &list); err != nil {
			return nil, false, err
		}
		for _, n := range list {
			x, ok, err := t.narrow(n, false, depth+1)
			if err != nil {
				return nil, false, err
			}
			if ok {
				left = append(left, x)
			}
		}
		delete(m, "provision")
		if len(left) > 0 {
			if m["provision"], err = marshal(left); err != nil {
				return nil, false, err
			}
		}
	}
	out, err = marshal(m)
	return out, err == nil, err
}

// narrowCodes takes the vendor out of those that a permit names; a permit that
// names none names the others from now on.
func (t Withdrawal) narrowCodes(m map[string]json.RawMessage) (ok bool, err error) {
	var list []map[string]json.RawMessage
	if v, has := m["code"]; has {
		if err := json.Unmarshal(v, &list); err != nil {
			return false, err
		}
	}
	named, others := false, 0
	left := []any{}
	for _, concept := range list {
		var codings []map[string]json.RawMessage
		if err := json.Unmarshal(concept["coding"], &codings); err != nil {
			return false, err
		}
		codings = slices.DeleteFunc(codings, func(c map[string]json.RawMessage) bool {
			var x element.Coding
			if json.Unmarshal(c["system"], &x.System) != nil || json.Unmarshal(c["code"], &x.Code) != nil ||
				x.System != VendorSystem {
				return false
			}
			named = true
			if x.Code != t.Vendor {
				others++
			}
			return x.Code == t.Vendor
		})
		if len(codings) == 0 {
			continue
		}
		if concept["coding"], err = marshal(codings); err != nil {
			return false, err
		}
		left = append(left, concept)
	}
	if !named {
		for _, v := range t.Vendors {
			if v != t.Vendor {
				left, others = append(left, element.NewConcept(VendorSystem, v)), others+1
			}
		}
	}
	if others == 0 {
		return false, nil
	}
	m["code"], err = marshal(left)
	return err == nil, err
}

func everything() rule {
	r := denyAll()
	r.doubt = false
	return r
}

// denials lists what r denies, as rules that stand by themselves: each with
// the conditions of the provisions around it, which are within.
func denials(r *rule, within rule) (out []rule) {
	own, ok := both(within, *r)
	if !ok {
		return nil
	}
	if !r.permit {
		// It denies what lies in it. What it excepted was taken back.
		if len(r.recipients) > 0 && !slices.Contains(r.recipients, AnyRecipient) {
			own.actions = meetActions(own.actions, given) // collection is to nobody in particular
		}
		if own.actions != nil && len(own.actions) == 0 {
			return nil
		}
		out = []rule{own}
		if len(r.categories) == 0 && len(own.categories) > 0 {
			// A permit for categories reaches what has none by its type; a
			// denial of categories does not.
			if own, ok := both(own, rule{from: own.from, to: own.to, types: []string{"Device", "Provenance"},
				actions: given}); ok {
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

// given are the actions by which data is given out; they are not told apart.
var given = []string{actionAccess, actionDisclose} // read only

// meetActions lists the actions of both; nil means all, an empty list none.
func meetActions(a, b []string) []string {
	out := []string{}
	x, y := rule{actions: a}, rule{actions: b}
	if x.acts(true) && y.acts(true) {
		out = append(out, actionCollect)
	}
	if x.acts(false) && y.acts(false) {
		out = append(out, given...)
	}
	if len(out) == 3 {
		return nil
	}
	return out
}

// meetRecipients lists who is meant by both; an empty list means everybody, if
// both are empty, else nobody. A token has a client and an authorization: one
// list may name it by the one and the other by the other.
func meetRecipients(a, b []string) (out []string) {
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

// both is the rule of a provision b inside a: it applies where both do. A
// resource with several categories may fit a by one and b by another; then it
// is denied by b's.
func both(a, b rule) (rule, bool) {
	c := rule{from: max(a.from, b.from), to: min(a.to, b.to)}
	ok := c.from < c.to
	meet := func(x, y []string) []string {
		if len(x) == 0 || len(y) == 0 {
			return append(slices.Clone(x), y...)
		}
		z := slices.DeleteFunc(slices.Clone(x), func(s string) bool { return !slices.Contains(y, s) })
		ok = ok && len(z) > 0
		return z
	}
	all := func(r []string) []string {
		if slices.Contains(r, AnyRecipient) {
			return nil
		}
		return r
	}
	c.recipients = meetRecipients(all(a.recipients), all(b.recipients))
	ok = ok && (len(c.recipients) > 0 || len(all(a.recipients)) == 0 && len(all(b.recipients)) == 0)
	c.vendors, c.types = meet(a.vendors, b.vendors), meet(a.types, b.types)
	if c.actions = meetActions(a.actions, b.actions); !ok || c.actions != nil && len(c.actions) == 0 {
		return c, false
	}
	if c.categories = meet(a.categories, b.categories); !ok {
		c.categories, ok = slices.Clone(b.categories), true
	}
	return c, ok
}

// denial builds the Consents for a rule that denies.
func (t Withdrawal) denial(x rule) ([]fhir.Resource, error) {
	if x.to <= t.Now.UnixMilli() {
		return nil, nil
	}
	var out []fhir.Resource
	add := func(p provisionJSON) error {
		c := agreed(t.NewID(), t.Patient,
			div("You had denied this within a consent that you have taken back. It stays denied."), t.Now)
		c.PolicyRule = element.NewConcept(actCodeSystem, "OPTOUT")
		p.Type = "deny"
		c.Provision = p
		b, err := marshal(c)
		out = append(out, fhir.Resource{Type: "Consent", ID: c.ID, JSON: b})
		return err
	}
	p := provisionJSON{Period: x.period()}
	for _, v := range x.vendors {
		p.Code = append(p.Code, element.NewConcept(VendorSystem, v))
	}
	for _, k := range x.categories {
		system := categoryOwn
		if slices.Contains(hl7Categories, k) {
			system = element.ObservationCategory
		}
		p.Code = append(p.Code, element.NewConcept(system, k))
	}
	for _, k := range x.types {
		p.Class = append(p.Class, element.Coding{System: typeSystem, Code: k})
	}
	if x.acts(true) {
		// Who receives data does not matter to its collection.
		q := p
		q.Action = []element.CodeableConcept{element.NewConcept(actionSystem, actionCollect)}
		if err := add(q); err != nil {
			return nil, err
		}
	}
	if x.acts(false) {
		p.Action = []element.CodeableConcept{element.NewConcept(actionSystem, actionAccess), element.NewConcept(actionSystem, actionDisclose)}
		for _, who := range x.recipients {
			id := element.Identifier{System: ClientSystem, Value: who}
			if a, ok := strings.CutPrefix(who, authorizedBy); ok {
				id = element.Identifier{System: AuthorizationSystem, Value: a}
			}
			p.Actor = append(p.Actor, actor{element.NewConcept(element.ParticipationType, recipientRole), element.Reference{Identifier: &id}})
		}
		if err := add(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// period writes when a rule applies, to the second that lies within it.
func (r *rule) period() *element.Period {
	var from, until time.Time
	if r.from != everything().from {
		from = time.UnixMilli(r.from)
	}
	if r.to != everything().to {
		until = time.UnixMilli(r.to).Add(-time.Second) // the end is included
	}
	return between(from, until)
}

// AnyPermit reports whether some Consent of the patient may permit something of
// a vendor ("" anything) to anybody, now or later, or its collection. It is
// asked after a withdrawal, of what is stored.
func (e *Engine) AnyPermit(ctx context.Context, patient, vendor string) (bool, error) {
	b, err := e.book(ctx, patient)
	if err != nil {
		return false, err
	}
	now := e.opts.Clock().UnixMilli()
	for _, c := range b.rules {
		if c.root.reaches(vendor, now) {
			return true, nil
		}
	}
	for _, list := range b.apps {
		for _, c := range list {
			if c.root.reaches(vendor, now) {
				return true, nil
			}
		}
	}
	return false, nil
}
