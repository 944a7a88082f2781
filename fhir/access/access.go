// Package access defines the types of access decisions. It imports no other
// package of this module. smart/policy builds a Grant from a token's scopes, the
// caller's role and the consents; the store, interactions, exports and
// notifications apply its Filter.
//
// There are two decisions:
//
//   - Grant.May decides whether a token covers an interaction on a type at all. If
//     not, the response is 403.
//   - Filter.Allow decides whether it may see or write a particular resource. If
//     not, the response is as if the resource did not exist: 404, and absence from
//     searches, counts and exports.
//
// # Patients
//
// A resource belongs to the patients in whose compartments it is. The table is generated
// from R4's CompartmentDefinition, with these differences: an Observation is in the
// compartment of its subject only; a Group is in none, so that its members do not see each
// other; and Device, Task, GuidanceResponse and Contract are in that of the patient whom
// their search parameter patient names.
//
// A rule for one patient covers the resources that name that patient, also among others.
// Health data (NeedsConsent) is disclosed only if the consents of all its patients permit
// it. If it names no patient, no consent can be asked: only the client that wrote it and
// the operator see it. That holds for an Observation without a subject, and for the types
// that never name a patient but may contain data of one, such as Binary and Bundle. A
// Binary with a securityContext is also hidden from callers who may not see the resource
// that it names (R4 binary.html#security).
package access

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// Interaction is a set of SMART v2 permissions.
type Interaction uint8

const (
	Create Interaction = 1 << iota
	Read
	Update
	Delete
	Search
)

// Token is a coded value. System or Code may be empty.
type Token struct{ System, Code string }

// Facts holds the properties of a resource on which a decision depends. The store
// keeps all fields except Tokens with each document, so that a filter need not
// parse it.
type Facts struct {
	Type, ID string
	// Patient is the id of the Patient whose compartment contains it, or "". If there are
	// several, it is the first; see Patients.
	Patient string
	Vendor  string // code of the vendor of ingested data, or ""
	Author  string // id of the client that created it over REST, or ""
	// Categories are the codes of Observation.category without their systems.
	Categories []string
	// Tokens returns the token values of a search parameter, for granular scopes.
	// It must not be nil when Allow or Patients is called.
	Tokens func(param string) []Token
}

// Rule is one compiled scope.
type Rule struct {
	Type   string      // resource type, or "*" for all
	May    Interaction // permitted interactions
	Params []Param     // restrictions of a granular scope, all of which must match
	// Patient, if not empty, limits the rule to the compartment of one Patient. It
	// excludes resources that are in no compartment.
	Patient string
	// ID, if not empty, limits the rule to one resource of Type.
	ID string
	// Vendor, if not empty, limits the rule to ingested data of one vendor. No
	// scope has this limit, so a rule with it comes from a push key.
	Vendor string
}

// limited reports whether the rule covers only a part of the resources of a type.
func (r *Rule) limited() bool {
	return len(r.Params) > 0 || r.Patient != "" || r.ID != "" || r.Vendor != ""
}

// Param is one restriction of a granular scope. The resource must have one of the
// tokens Any for the search parameter Name. An empty System in Any matches all
// systems, and the System "\x00" matches only tokens without a system ("|code").
type Param struct {
	Name string
	Any  []Token
}

// Consents decides which data of a patient a recipient may see. fhir/consent
// implements it. Decisions must reflect the latest acknowledged commit.
type Consents interface {
	// Permits reports whether an active consent of f.Patient permits recipient to
	// see the resource described by f. If the consents cannot be evaluated, it
	// returns false.
	Permits(recipient string, f *Facts) bool
}

// Grant describes what one request may do.
type Grant struct {
	Recipient string   // client id that consents name
	Rules     []Rule   // alternatives
	Consents  Consents // may be nil only if AllPatients is set
	// AllPatients disables the consent check. It is set for operator commands over
	// the admin socket and never for a token.
	AllPatients bool
	// Context returns the facts of the current version of a resource, or nil if there is
	// none. It finds the resource that the securityContext of a Binary names. If it is
	// nil, such a Binary is hidden.
	Context func(typ, id string) *Facts
	// RecordsConsent permits the client to write Consents within its rules. It
	// comes from the client's registration and never from a scope, because clients
	// choose the scopes that they request, and a Consent gives them access to data.
	RecordsConsent bool
	// PhoneMade says that all Observations that the client creates were made on a phone
	// from samples of HealthKit, and are to be repaired. It comes from the client's
	// registration.
	PhoneMade bool
	// Person is set if the grant belongs to a person and is valid only as long as
	// the person's token. It cannot start anything that continues without the
	// person, such as an export job or a subscription.
	Person bool
	// Recheck returns an error if the grant is no longer valid: the client is
	// disabled, the token is expired or revoked, the person or authorization has
	// ended, or the rules have changed. It is cheap as long as nothing has been
	// committed. If it is nil, the grant remains valid.
	Recheck func(ctx context.Context) error
}

// errNoGrant is the error of a nil Grant. Interactions reject callers without a
// grant earlier, with status 401.
var errNoGrant = errors.New("access.Live: no grant")

// Live returns an error if the grant is no longer valid (Recheck). Long requests
// must call it again before they disclose a result, and between the parts of a
// long response. Consents need no such check, because Filter evaluates them each
// time.
func (g *Grant) Live(ctx context.Context) error {
	if g == nil {
		return errNoGrant
	}
	if g.Recheck == nil {
		return nil
	}
	return g.Recheck(ctx)
}

const writes = Create | Update | Delete

// allowed removes from i the interactions on type t that require more than a
// scope.
func (g *Grant) allowed(i Interaction, t string) Interaction {
	if t == "Consent" && !g.RecordsConsent && !g.AllPatients {
		return i &^ writes
	}
	return i
}

// Scoped reports whether a rule covers interaction i on type t. Unlike May, it does
// not check RecordsConsent.
func (g *Grant) Scoped(i Interaction, t string) bool {
	return g != nil && slices.ContainsFunc(g.Rules,
		func(r Rule) bool { return (r.Type == "*" || r.Type == t) && r.May&i != 0 })
}

// May reports whether the grant covers interaction i on type t.
func (g *Grant) May(i Interaction, t string) bool {
	if g == nil {
		return false
	}
	i = g.allowed(i, t)
	for _, r := range g.Rules {
		if (r.Type == "*" || r.Type == t) && r.May&i != 0 {
			return true
		}
	}
	return false
}

// MayAll reports whether a rule without limits covers interaction i on type t. It is
// for requests that concern all resources of a type.
func (g *Grant) MayAll(i Interaction, t string) bool {
	if g == nil {
		return false
	}
	i = g.allowed(i, t)
	for k := range g.Rules {
		if r := &g.Rules[k]; (r.Type == "*" || r.Type == t) && r.May&i != 0 && !r.limited() {
			return true
		}
	}
	return false
}

// Delivers returns the patient and the vendor for which a grant may deliver data if
// that is all that it permits. Otherwise ok is false.
func (g *Grant) Delivers() (patient, vendor string, ok bool) {
	if g == nil || len(g.Rules) != 1 || g.AllPatients {
		return "", "", false
	}
	r := g.Rules[0]
	ok = r.Type == "Observation" && r.May == Create && len(r.Params) == 0 && r.ID == "" && r.Patient != "" &&
		r.Vendor != ""
	return r.Patient, r.Vendor, ok
}

// DeliveryRule returns the rule that permits delivering the data of one vendor for one
// patient, and nothing else.
func DeliveryRule(patient, vendor string) Rule {
	return Rule{Type: "Observation", May: Create, Patient: patient, Vendor: vendor}
}

// MayUnattended is like May, for export jobs and subscriptions, which continue after
// the token has expired. It is false for the grant of a person.
func (g *Grant) MayUnattended(i Interaction, t string) bool { return g.May(i, t) && !g.Person }

// Filter returns the filter for interaction i, usually Read or Search.
func (g *Grant) Filter(i Interaction) Filter { return Filter{grant: g, interaction: i} }

// Filter decides about single resources. The zero Filter denies all.
type Filter struct {
	grant       *Grant
	interaction Interaction
}

// Allow reports whether the grant and the consents permit the interaction with the
// resource that facts describes.
func (f Filter) Allow(facts *Facts) bool {
	if f.grant == nil {
		return false
	}
	if f.interaction&writes != 0 {
		f.interaction = f.grant.allowed(f.interaction, facts.Type)
	}
	if !f.scoped(facts) {
		return false
	}
	if f.grant.AllPatients {
		return true
	}
	// Only the owner may see a Subscription, because channel.header may contain a
	// secret of the owner's endpoint.
	if facts.Type == "Subscription" && facts.Author != f.grant.Recipient {
		return false
	}
	return (!NeedsConsent(facts.Type) || f.consented(facts)) && (facts.Type != "Binary" || f.inContext(facts))
}

// Everything reports whether the filter permits the interaction with every resource of type
// t, so that Allow need not be called.
func (f Filter) Everything(t string) bool {
	return f.grant != nil && f.grant.AllPatients && f.grant.MayAll(f.interaction, t)
}

// consented reports whether the consents of all patients of the resource permit the
// recipient to see it. A resource without a patient is permitted to its author.
func (f Filter) consented(facts *Facts) bool {
	if !several(facts.Type) && facts.Patient != "" {
		return f.grant.Consents != nil && f.grant.Consents.Permits(f.grant.Recipient, facts)
	}
	if facts.undecided() {
		return false
	}
	patients := facts.Patients()
	if len(patients) == 0 { // see the package comment
		// A Basic published by the server or its operator, such as a topic of
		// subscriptions, has no author and belongs to no patient.
		published := facts.Type == "Basic" && facts.Author == ""
		return facts.Vendor == "" && (published || facts.Author != "" && facts.Author == f.grant.Recipient)
	}
	for _, p := range patients {
		if !f.Consented(facts, p) {
			return false
		}
	}
	return true
}

// Consented reports whether the consents of one of the patients of a resource permit the
// recipient to see it.
func (f Filter) Consented(facts *Facts, patient string) bool {
	one := *facts
	one.Patient = patient
	return f.grant != nil && f.grant.Consents != nil && f.grant.Consents.Permits(f.grant.Recipient, &one)
}

// Covers reports whether the rules permit the interaction with the resource,
// regardless of consents.
func (f Filter) Covers(facts *Facts) bool {
	if f.grant == nil {
		return false
	}
	if f.interaction&writes != 0 {
		f.interaction = f.grant.allowed(f.interaction, facts.Type)
	}
	return f.scoped(facts)
}

// Params returns the names of the search parameters that the filter needs from
// resources of type t in addition to the fields of Facts.
func (f Filter) Params(t string) (out []string) {
	if f.grant == nil {
		return nil
	}
	for i := range f.grant.Rules {
		if r := &f.grant.Rules[i]; r.Type == "*" || r.Type == t {
			for _, p := range r.Params {
				out = append(out, p.Name)
			}
			if r.ID != "" {
				out = append(out, "_id")
			}
		}
	}
	if c := compartments[t]; several(t) {
		out = append(out, c.Param)
	}
	return out
}

// Patient returns the id of the Patient to whose compartment the rules limit the filter, if
// all rules that it uses name the same one.
func (f Filter) Patient() (id string, ok bool) {
	if f.grant == nil {
		return "", false
	}
	for i := range f.grant.Rules {
		r := &f.grant.Rules[i]
		if r.May&f.interaction == 0 {
			continue
		}
		if r.Patient == "" || id != "" && id != r.Patient {
			return "", false
		}
		id = r.Patient
	}
	return id, id != ""
}

func (f Filter) scoped(facts *Facts) bool {
	for i := range f.grant.Rules {
		r := &f.grant.Rules[i]
		if (r.Type == "*" || r.Type == facts.Type) && r.May&f.interaction != 0 && r.matches(facts) {
			return true
		}
	}
	return false
}

func (r *Rule) matches(f *Facts) bool {
	if r.Patient != "" && r.Patient != f.Patient && !f.names(r.Patient) || r.ID != "" && r.ID != f.ID ||
		r.Vendor != "" && r.Vendor != f.Vendor {
		return false
	}
	for _, p := range r.Params {
		if !p.matches(f.Tokens(p.Name)) {
			return false
		}
	}
	return true
}

func (p *Param) matches(have []Token) bool {
	for _, want := range p.Any {
		for _, token := range have {
			if want.Code != "" && want.Code != token.Code {
				continue
			}
			if want.System == "\x00" && token.System != "" {
				continue
			}
			if want.System != "" && want.System != "\x00" && want.System != token.System {
				continue
			}
			return true
		}
	}
	return false
}

// All returns the grant of the operator at the admin socket.
func All() *Grant {
	return &Grant{AllPatients: true, Rules: []Rule{{Type: "*", May: Create | Read | Update | Delete | Search}}}
}

// Principal is an authenticated caller. It does not contain the token.
type Principal struct {
	ClientID   string // OAuth client_id; "" for the admin socket
	ClientName string
	Subject    string // claim sub of the token
	Issuer     string
	TokenID    string // claim jti of the token
	Scope      string // claim scope of the token
	Expires    time.Time
	Operator   string // "uid:0" at the admin socket; "" for tokens
	Grant      *Grant

	// The following fields are set for tokens of a person.
	Authorization string // id of the authorization that the person gave the app
	FHIRUser      string // "Practitioner/1"
	Patient       string // id of the patient in context
	Roles         []string
	ACR           string    // authentication context class of the sign-in
	AuthTime      time.Time // time of the sign-in
	DPoP          bool      // whether the token is bound to a key (RFC 9449)
}

// PatientSide reports whether the caller is a patient or a patient's designee, such as a
// parent: a person whose own resource is a Patient or a RelatedPerson. Everything that such
// a caller writes is supplied by a patient.
func (p *Principal) PatientSide() bool {
	return p != nil && (strings.HasPrefix(p.FHIRUser, "Patient/") || strings.HasPrefix(p.FHIRUser, "RelatedPerson/"))
}

// PatientSupplied is the tag of the Observations that patients and their designees supply
// (US Core 9, "Writing Vital Signs", meta.tag). It is read only.
var PatientSupplied = Token{"http://hl7.org/fhir/us/core/CodeSystem/us-core-tags", "patient-supplied"}

// Challenge is the value of the WWW-Authenticate header, as the cause of an
// Unauthorized or Forbidden error.
type Challenge string

func (c Challenge) Error() string { return string(c) }
