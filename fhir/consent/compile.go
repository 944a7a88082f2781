package consent

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Systems of the codes that a Consent of this server uses.
const (
	VendorSystem = fhir.Canonical + "/CodeSystem/vendor"
	ClientSystem = fhir.Canonical + "/identifier/client"
	categoryOwn  = fhir.Canonical + "/CodeSystem/observation-category"
	// AuthorizationSystem is of the ids of what people allowed apps.
	AuthorizationSystem = fhir.Canonical + "/identifier/authorization"
	// authorizedBy stands before such an id in a list of recipients. No client
	// id holds a slash.
	authorizedBy  = "authorization/"
	actionSystem  = element.Terminology + "consentaction"
	typeSystem    = element.HL7 + "resource-types"
	actCodeSystem = element.Terminology + "v3-ActCode"
	recipientRole = "IRCP"
	privacyScope  = "patient-privacy"
	AnyRecipient  = "any"
	// Sleep is a refinement of activity: HL7's code system has only that.
	categorySleep    = "sleep"
	categoryActivity = "activity"
	maxDepth         = 4
	statusActive     = "active"
	statusWithdrawn  = "inactive"
	statusRejected   = "rejected"
)

type actor struct {
	Role      element.CodeableConcept `json:"role"`
	Reference element.Reference       `json:"reference"`
}

// document is as much of a Consent as decides whether it counts.
type document struct {
	ID         string                  `json:"id"`
	Status     string                  `json:"status"`
	Scope      element.CodeableConcept `json:"scope"`
	Patient    element.Reference       `json:"patient"`
	DateTime   string                  `json:"dateTime"`
	PolicyRule element.CodeableConcept `json:"policyRule"`
	Meta       struct {
		LastUpdated time.Time `json:"lastUpdated"`
	} `json:"meta"`
	ModifierExtension json.RawMessage `json:"modifierExtension"`
	ImplicitRules     string          `json:"implicitRules"`
	Provision         json.RawMessage `json:"provision"`
}

// rule is one compiled provision.
type rule struct {
	permit     bool
	doubt      bool // holds something that is not understood
	from, to   int64
	recipients []string // nil: none named
	vendors    []string // nil: all
	categories []string // nil: all
	types      []string // nil: all
	actions    []string // nil: all
	nested     []rule
}

// compiled is one Consent.
type compiled struct {
	ref  fhir.Ref
	root rule
	// agreed is the time at which a person authorized the app. recorded is the
	// time at which this version was stored, which is the end of a withdrawn
	// Consent. Both are in Unix milliseconds.
	agreed, recorded int64
	// author is the client that recorded the Consent; "" for the patient's
	// pages and the operator.
	author string
}

// standing of a Consent.
type standing uint8

const (
	ignored   standing = iota // does not count
	active                    //
	withdrawn                 // did once
)

// permits reports whether r or a provision in it is a permit.
func (r *rule) permits() bool {
	return r.permit || slices.ContainsFunc(r.nested, func(n rule) bool { return n.permits() })
}

// denies reports whether r or a provision in it is a denial.
func (r *rule) denies() bool {
	return !r.permit || slices.ContainsFunc(r.nested, func(n rule) bool { return n.denies() })
}

// forApps reports whether a provision is about nothing but what people allowed
// apps.
func (r *rule) forApps() bool {
	for _, x := range r.recipients {
		if !strings.HasPrefix(x, authorizedBy) {
			return false
		}
	}
	return len(r.recipients) > 0
}

// compile reads one stored Consent.
func compile(id, patient string, body []byte) (c compiled, is standing) {
	c.ref = fhir.Ref{Type: "Consent", ID: id}
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		// Not readable here although it was stored: nothing is permitted
		// under it, and what it withdrew or denied is unknown, so all is
		// denied.
		c.root = denyAll()
		return c, active
	}
	if d.Patient.Reference != "Patient/"+patient &&
		!strings.HasPrefix(d.Patient.Reference, "Patient/"+patient+"/_history/") {
		return c, ignored
	}
	switch {
	case d.Status == statusWithdrawn || d.Status == statusRejected:
		is = withdrawn
	case d.Status == statusActive && d.Scope.Has(element.ConsentScope, privacyScope):
		is = active
	default:
		return c, ignored
	}
	base := d.PolicyRule.Has(actCodeSystem, "OPTIN")
	c.root = rule{permit: base, from: math.MinInt64, to: math.MaxInt64}
	if len(d.Provision) > 0 {
		c.root = provision(d.Provision, &base, 0)
	}
	if len(d.ModifierExtension) > 0 || d.ImplicitRules != "" {
		c.root.distrust()
	}
	if c.recorded = math.MaxInt64 - 1; !d.Meta.LastUpdated.IsZero() {
		c.recorded = d.Meta.LastUpdated.UnixMilli()
	}
	if c.agreed = math.MaxInt64; c.root.forApps() { // else nothing overtakes it
		c.agreed = math.MinInt64 // any withdrawal is later, when nobody knows
		if t, err := time.Parse(time.RFC3339, d.DateTime); err == nil {
			c.agreed = t.UnixMilli()
		}
	}
	return c, is
}

// distrust takes away the conditions of a provision that is not understood
// whole: it may then apply to anything. A deny denies, a permit permits
// nothing but still leads to its denials.
func (r *rule) distrust() {
	*r = rule{permit: r.permit, doubt: true, from: math.MinInt64, to: math.MaxInt64, nested: r.nested}
}

func denyAll() rule { return rule{from: math.MinInt64, to: math.MaxInt64, doubt: true} }

// provision compiles one provision; base is what an absent type means, nil
// where it must be given.
func provision(raw []byte, base *bool, depth int) rule {
	r := denyAll()
	r.doubt = false
	var m map[string]json.RawMessage
	if depth > maxDepth || json.Unmarshal(raw, &m) != nil {
		return denyAll()
	}
	if base != nil {
		r.permit = *base
	}
	for name, v := range m {
		ok := true
		switch name {
		case "id", "extension":
		case "type":
			var s string
			ok = json.Unmarshal(v, &s) == nil && (s == "permit" || s == "deny")
			r.permit = s == "permit"
		case "period":
			ok = r.readPeriod(v)
		case "actor":
			ok = r.readActors(v)
		case "code":
			ok = r.readCodes(v)
		case "class":
			r.types, ok = codes(v, typeSystem, fhir.KnownType)
		case "action":
			r.actions, ok = actions(v)
		case "provision":
			var list []json.RawMessage
			ok = json.Unmarshal(v, &list) == nil
			for _, n := range list {
				r.nested = append(r.nested, provision(n, nil, depth+1))
			}
		default:
			ok = false
		}
		r.doubt = r.doubt || !ok
	}
	if r.doubt {
		r.distrust()
	}
	return r
}

func (r *rule) readPeriod(v []byte) bool {
	var p element.Period
	if json.Unmarshal(v, &p) != nil {
		return false
	}
	if p.Start != "" {
		lo, _, ok := instants(p.Start)
		if !ok {
			return false
		}
		r.from = lo
	}
	if p.End != "" {
		_, hi, ok := instants(p.End)
		if !ok {
			return false
		}
		r.to = hi
	}
	return true
}

// instants is the half-open range of Unix milliseconds that a dateTime covers.
func instants(s string) (lo, hi int64, ok bool) {
	for _, l := range []struct {
		layout    string
		y, mo, d  int
		remaining time.Duration
	}{
		{"2006", 1, 0, 0, 0}, {"2006-01", 0, 1, 0, 0}, {"2006-01-02", 0, 0, 1, 0}, {time.RFC3339, 0, 0, 0, time.Second},
	} {
		if t, err := time.Parse(l.layout, s); err == nil {
			return t.UnixMilli(), t.AddDate(l.y, l.mo, l.d).Add(l.remaining).UnixMilli(), true
		}
	}
	return 0, 0, false
}

func (r *rule) readActors(v []byte) bool {
	var list []actor
	if json.Unmarshal(v, &list) != nil || len(list) == 0 {
		return false
	}
	ok := true
	for _, a := range list {
		id := a.Reference.Identifier
		switch {
		case !a.Role.Has(element.ParticipationType, recipientRole) || id == nil || id.Value == "" ||
			strings.Contains(id.Value, "/"):
			ok = false
		case id.System == ClientSystem:
			r.recipients = append(r.recipients, id.Value)
		case id.System == AuthorizationSystem:
			r.recipients = append(r.recipients, authorizedBy+id.Value)
		default:
			ok = false
		}
	}
	return ok
}

// codes reads codings of one system.
func codes(v []byte, system string, known func(string) bool) (out []string, ok bool) {
	var list []element.Coding
	ok = json.Unmarshal(v, &list) == nil && len(list) > 0
	for _, c := range list {
		ok = ok && c.System == system && known(c.Code)
		out = append(out, c.Code)
	}
	return out, ok
}

func actions(v []byte) (out []string, ok bool) {
	var list []element.CodeableConcept
	ok = json.Unmarshal(v, &list) == nil && len(list) > 0
	for _, c := range list {
		ok = ok && len(c.Coding) == 1 && c.Coding[0].System == actionSystem &&
			slices.Contains([]string{actionCollect, actionAccess, actionDisclose}, c.Coding[0].Code)
		if ok {
			out = append(out, c.Coding[0].Code)
		}
	}
	return out, ok
}

const (
	actionCollect  = "collect"
	actionAccess   = "access"
	actionDisclose = "disclose"
)

// acts reports whether the provision is about what is asked: to collect, or to
// give out, which is to access or to disclose.
func (r *rule) acts(collect bool) bool {
	if len(r.actions) == 0 {
		return true
	}
	return slices.ContainsFunc(r.actions, func(a string) bool { return (a == actionCollect) == collect })
}

func (r *rule) readCodes(v []byte) bool {
	var list []element.CodeableConcept
	if json.Unmarshal(v, &list) != nil || len(list) == 0 {
		return false
	}
	ok := true
	for _, c := range list {
		ok = ok && len(c.Coding) > 0
		for _, x := range c.Coding {
			switch {
			case x.Code == "":
				ok = false
			case x.System == VendorSystem:
				r.vendors = append(r.vendors, x.Code)
			case x.System == element.ObservationCategory || x.System == categoryOwn:
				r.categories = append(r.categories, x.Code)
			default:
				ok = false
			}
		}
	}
	return ok
}

// ask is one question to a patient's consents.
type ask struct {
	now        int64
	collect    bool   // may it be taken in: recipients do not matter
	recipient  string // client id
	authorized string // "authorization/<id>": what a person allowed it; "" nothing
	typ        string // of the resource; "" any
	vendor     string // "" written by a client
	uncoded    bool   // the type has no categories, or none is asked about
	categories []string
}

type answer uint8

const (
	none answer = iota
	permit
	deny
)

// decide answers q under r; named says that a provision around r names the
// recipient.
func (r *rule) decide(q *ask, named bool) answer {
	if q.now < r.from || q.now >= r.to || !r.acts(q.collect) {
		return none
	}
	sure := !r.doubt
	if len(r.recipients) > 0 {
		hit := r.names(q)
		switch {
		case q.collect && r.permit:
			hit = true // whoever it is for, it has to be collected
		case q.collect:
			hit = slices.Contains(r.recipients, AnyRecipient)
		}
		if !hit {
			return none
		}
		named = true
	}
	return r.within(q, named, sure)
}

// names reports whether the provision names who asks.
func (r *rule) names(q *ask) bool {
	return slices.Contains(r.recipients, AnyRecipient) || q.recipient != "" &&
		slices.Contains(r.recipients, q.recipient) ||
		q.authorized != "" && slices.Contains(r.recipients, q.authorized)
}

// opens reports whether some permit in r is for who asks, of whatever data.
func (r *rule) opens(q *ask, named bool) bool {
	if q.now < r.from || q.now >= r.to || !r.acts(false) || len(r.recipients) > 0 && !r.names(q) {
		return false
	}
	named = named || len(r.recipients) > 0
	return !r.doubt && (r.permit && named ||
		slices.ContainsFunc(r.nested, func(n rule) bool { return n.opens(q, named) }))
}

// within goes on where recipient and period fit.
func (r *rule) within(q *ask, named, sure bool) answer {
	fit, certain := r.covers(q)
	if !fit {
		return none
	}
	sure = sure && certain
	exception := none
	for i := range r.nested {
		exception = max(exception, r.nested[i].decide(q, named))
	}
	switch {
	case exception == deny:
		return deny
	case exception == permit && sure:
		return permit
	case !r.permit:
		return deny
	case sure && (named || q.collect):
		return permit
	}
	return none
}

// covers compares vendor and categories. A permit needs all of the resource's
// categories, a deny is content with one. Who names activity means sleep too.
func (r *rule) covers(q *ask) (fit, certain bool) {
	if len(r.vendors) > 0 {
		switch {
		case q.vendor == "" && !r.permit:
			return false, false
		case q.vendor != "" && !slices.Contains(r.vendors, q.vendor):
			return false, false
		}
	}
	if len(r.types) > 0 && !slices.Contains(r.types, q.typ) {
		// Where the type is not said, a deny may be about it.
		return q.typ == "" && !r.permit, false
	}
	if len(r.categories) == 0 {
		return true, true
	}
	if q.uncoded {
		return r.permit, true
	}
	if len(q.categories) == 0 {
		// Nobody knows what it is: a permit does not reach it, a deny may.
		return !r.permit, false
	}
	sleep := slices.Contains(q.categories, categorySleep)
	needs, hits := 0, 0
	for _, c := range q.categories {
		if r.permit && sleep && c == categoryActivity {
			continue // sleep says it more finely
		}
		needs++
		if slices.Contains(r.categories, c) || c == categorySleep && slices.Contains(r.categories, categoryActivity) {
			hits++
		}
	}
	if r.permit {
		// With nested denials a partial overlap still matters to them, so it
		// fits without certainty.
		return hits > 0, hits == needs
	}
	return hits > 0, true
}
