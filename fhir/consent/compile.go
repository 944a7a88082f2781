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

// Systems of the codes and identifiers in Consents.
const (
	VendorSystem = fhir.Canonical + "/CodeSystem/vendor"
	ClientSystem = fhir.Canonical + "/identifier/client"
	categoryOwn  = fhir.Canonical + "/CodeSystem/observation-category"
	// AuthorizationSystem is the system for ids of authorizations.
	AuthorizationSystem = fhir.Canonical + "/identifier/authorization"
	// authorizedBy precedes the id of an authorization in a list of recipients. No
	// client id contains a slash.
	authorizedBy  = "authorization/"
	actionSystem  = element.Terminology + "consentaction"
	typeSystem    = element.HL7 + "resource-types"
	actCodeSystem = element.Terminology + "v3-ActCode"
	recipientRole = "IRCP"
	privacyScope  = "patient-privacy"
	AnyRecipient  = "any"
	// Sleep refines activity; HL7's code system has only the latter.
	categorySleep    = "sleep"
	categoryActivity = "activity"
	// CategoryLocation is the category of data that show where the patient was. Only a
	// permit that names it covers them.
	CategoryLocation = "location"
	maxDepth         = 4
	statusActive     = "active"
	statusWithdrawn  = "inactive"
	statusRejected   = "rejected"
)

// actor is Consent.provision.actor.
type actor struct {
	Role      element.CodeableConcept `json:"role"`
	Reference element.Reference       `json:"reference"`
}

// document holds the elements of a Consent that decide whether it counts.
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
	uncertain  bool     // has an element that is not understood
	from, to   int64    // period [from, to) in Unix milliseconds
	recipients []string // client ids and authorizations; nil if none are named
	vendors    []string // nil for all
	categories []string // nil for all
	types      []string // nil for all
	actions    []string // nil for all
	nested     []rule
}

// compiled is one compiled Consent.
type compiled struct {
	ref  fhir.Ref
	root rule
	// authorizedAt is the time at which a person authorized the app. recordedAt is
	// the time at which this version was stored, which for a withdrawn Consent is
	// the time of the withdrawal. Both are in Unix milliseconds.
	authorizedAt, recordedAt int64
	// author is the client that recorded the Consent. It is empty for Consents of
	// the patient's pages and the operator.
	author string
}

// effect tells whether a Consent counts.
type effect uint8

const (
	ignored effect = iota
	active
	withdrawn
)

// permits reports whether r or a provision in it is a permit.
func (r *rule) permits() bool {
	return r.permit || slices.ContainsFunc(r.nested, func(n rule) bool { return n.permits() })
}

// denies reports whether r or a provision in it is a denial.
func (r *rule) denies() bool {
	return !r.permit || slices.ContainsFunc(r.nested, func(n rule) bool { return n.denies() })
}

// onlyForApps reports whether all recipients of a provision are authorizations.
func (r *rule) onlyForApps() bool {
	for _, x := range r.recipients {
		if !strings.HasPrefix(x, authorizedBy) {
			return false
		}
	}
	return len(r.recipients) > 0
}

// compile compiles a stored Consent of a patient.
func compile(id, patient string, body []byte) (c compiled, eff effect) {
	c.ref = fhir.Ref{Type: "Consent", ID: id}
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		// A stored Consent that cannot be read permits nothing. It is not known
		// what it denies, so it denies everything.
		c.root = denyAll()
		return c, active
	}
	if d.Patient.Reference != "Patient/"+patient &&
		!strings.HasPrefix(d.Patient.Reference, "Patient/"+patient+"/_history/") {
		return c, ignored
	}
	switch {
	case d.Status == statusWithdrawn || d.Status == statusRejected:
		eff = withdrawn
	case d.Status == statusActive && d.Scope.Has(element.ConsentScope, privacyScope):
		eff = active
	default:
		return c, ignored
	}
	base := d.PolicyRule.Has(actCodeSystem, "OPTIN")
	c.root = rule{permit: base, from: math.MinInt64, to: math.MaxInt64}
	if len(d.Provision) > 0 {
		c.root = provision(d.Provision, &base, 0)
	}
	if len(d.ModifierExtension) > 0 || d.ImplicitRules != "" {
		c.root.markUncertain()
	}
	if c.recordedAt = math.MaxInt64 - 1; !d.Meta.LastUpdated.IsZero() {
		c.recordedAt = d.Meta.LastUpdated.UnixMilli()
	}
	if c.authorizedAt = math.MaxInt64; c.root.onlyForApps() { // other Consents are never superseded
		c.authorizedAt = math.MinInt64 // with an unreadable dateTime, any withdrawal is later
		if t, err := time.Parse(time.RFC3339, d.DateTime); err == nil {
			c.authorizedAt = t.UnixMilli()
		}
	}
	return c, eff
}

// markUncertain removes the conditions of a provision with elements that are not
// understood, because it may apply to anything. A deny then denies everything. A
// permit permits nothing, but its nested denials still apply.
func (r *rule) markUncertain() {
	*r = rule{permit: r.permit, uncertain: true, from: math.MinInt64, to: math.MaxInt64, nested: r.nested}
}

func denyAll() rule { return rule{from: math.MinInt64, to: math.MaxInt64, uncertain: true} }

// provision compiles one provision. base is the meaning of an absent type: whether
// it is a permit. It is nil if the type is required.
func provision(raw []byte, base *bool, depth int) rule {
	r := denyAll()
	r.uncertain = false
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
		r.uncertain = r.uncertain || !ok
	}
	if r.uncertain {
		r.markUncertain()
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

// instants returns the half-open range of Unix milliseconds that a dateTime
// covers.
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

// codes reads a list of codings. ok is false unless all are of one system and
// valid.
func codes(v []byte, system string, valid func(string) bool) (out []string, ok bool) {
	var list []element.Coding
	ok = json.Unmarshal(v, &list) == nil && len(list) > 0
	for _, c := range list {
		ok = ok && c.System == system && valid(c.Code)
		out = append(out, c.Code)
	}
	return out, ok
}

// actions reads a list of actions. ok is false unless all are understood.
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

// appliesTo reports whether the provision applies to collection or, if collect is
// false, to disclosure. The actions access and disclose are equivalent.
func (r *rule) appliesTo(collect bool) bool {
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

// request describes data for which a patient's consents are evaluated.
type request struct {
	now               int64  // Unix milliseconds
	collect           bool   // collection instead of disclosure; recipients do not matter
	recipient         string // client id
	authorization     string // "authorization/<id>" of the token, or ""
	typ               string // resource type; "" if unspecified
	vendor            string // "" for data that a client wrote
	withoutCategories bool   // the type has no categories, or the categories do not matter
	categories        []string
}

// answer is the result of evaluating a rule. Greater values take precedence.
type answer uint8

const (
	none answer = iota
	permit
	deny
)

// decide evaluates r for req. named reports whether an enclosing provision names
// the recipient.
func (r *rule) decide(req *request, named bool) answer {
	if req.now < r.from || req.now >= r.to || !r.appliesTo(req.collect) {
		return none
	}
	sure := !r.uncertain
	if len(r.recipients) > 0 {
		hit := r.names(req)
		switch {
		case req.collect && r.permit:
			hit = true // data must be collected for any recipient
		case req.collect:
			hit = slices.Contains(r.recipients, AnyRecipient)
		}
		if !hit {
			return none
		}
		named = true
	}
	return r.decideMatching(req, named, sure)
}

// names reports whether the provision names the recipient of req.
func (r *rule) names(req *request) bool {
	return slices.Contains(r.recipients, AnyRecipient) || req.recipient != "" &&
		slices.Contains(r.recipients, req.recipient) ||
		req.authorization != "" && slices.Contains(r.recipients, req.authorization)
}

// permitsAny reports whether r permits the recipient of req to see any data.
func (r *rule) permitsAny(req *request, named bool) bool {
	if req.now < r.from || req.now >= r.to || !r.appliesTo(false) || len(r.recipients) > 0 && !r.names(req) {
		return false
	}
	named = named || len(r.recipients) > 0
	return !r.uncertain && (r.permit && named ||
		slices.ContainsFunc(r.nested, func(n rule) bool { return n.permitsAny(req, named) }))
}

// decideMatching evaluates r for a request that matches its recipients, period
// and actions.
func (r *rule) decideMatching(req *request, named, sure bool) answer {
	fit, certain := r.covers(req)
	if !fit {
		return none
	}
	sure = sure && certain
	exception := none
	for i := range r.nested {
		exception = max(exception, r.nested[i].decide(req, named))
	}
	switch {
	case exception == deny:
		return deny
	case exception == permit && sure:
		return permit
	case !r.permit:
		return deny
	case sure && (named || req.collect) && r.namesLocation(req):
		return permit
	}
	return none
}

// namesLocation reports whether req is not about locations, or r names them.
func (r *rule) namesLocation(req *request) bool {
	return req.withoutCategories || !slices.Contains(req.categories, CategoryLocation) ||
		slices.Contains(r.categories, CategoryLocation)
}

// covers reports whether r matches the vendor, type and categories of req, and
// whether that is certain. A permit must have all of the categories, a deny at
// least one. Activity includes sleep. Locations are no part of anything else.
func (r *rule) covers(req *request) (fit, certain bool) {
	if len(r.vendors) > 0 {
		switch {
		case req.vendor == "" && !r.permit:
			return false, false
		case req.vendor != "" && !slices.Contains(r.vendors, req.vendor):
			return false, false
		}
	}
	if len(r.types) > 0 && !slices.Contains(r.types, req.typ) {
		// If the type is unspecified, a deny may apply to it.
		return req.typ == "" && !r.permit, false
	}
	if len(r.categories) == 0 {
		return true, true
	}
	if req.withoutCategories {
		// A permit for locations alone covers nothing else.
		return r.permit && slices.ContainsFunc(r.categories, func(c string) bool { return c != CategoryLocation }), true
	}
	if len(req.categories) == 0 {
		// The categories are unknown: a permit does not apply, a deny may.
		return !r.permit, false
	}
	refined := slices.Contains(req.categories, categorySleep) || slices.Contains(req.categories, CategoryLocation)
	needs, hits := 0, 0
	for _, c := range req.categories {
		if r.permit && refined && c == categoryActivity {
			continue // the other category is more specific
		}
		needs++
		if slices.Contains(r.categories, c) || c == categorySleep && slices.Contains(r.categories, categoryActivity) {
			hits++
		}
	}
	if r.permit {
		// A partial overlap is a match without certainty, because nested denials
		// may still apply.
		return hits > 0, hits == needs
	}
	return hits > 0, true
}
