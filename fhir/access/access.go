// Package access is the vocabulary of "who may": plain types that everybody
// may import. smart/policy builds a Grant from a token's scopes and the
// consents; the store, the interactions, export and notifications apply its
// Filter. Nobody else decides.
//
// Two questions, two answers:
//   - may this token do this interaction on this type at all? Grant.May: no is
//     403.
//   - may it see (or write) this very resource? Filter.Allow: no looks as if
//     the resource were not there (404, absent from search, count and export).
package access

import (
	"context"
	"errors"
	"slices"
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

// Token is a coded value: system and code, either may be empty.
type Token struct{ System, Code string }

// Facts is what a decision needs to know of one resource. The store keeps
// the plain fields beside each document so that a filter costs no parsing.
type Facts struct {
	Type, ID string
	Patient  string // id of the Patient whose compartment holds it; "" none
	Vendor   string // the vendor's code for ingested data; "" otherwise
	Author   string // client id that created it over REST; "" for ingested data and the server's own
	// Categories are the codes (no system) of Observation.category;
	// "" none.
	Categories []string
	// Tokens returns the token values of a search parameter of this
	// resource, for granular scopes. Never nil when Allow is called.
	Tokens func(param string) []Token
}

// Rule is one compiled scope: a type ("*" any), what may be done with it, the
// granular restriction (all Params must match) and whose resources it is about.
type Rule struct {
	Type   string
	May    Interaction
	Params []Param
	// Patient limits the rule to the compartment of one Patient; "" no limit.
	// What lies in no compartment is outside such a rule.
	Patient string
	// ID limits the rule to one resource of Type; "" no limit.
	ID string
}

// Param is one restriction of a granular scope: the resource must have one of
// the wanted tokens for search parameter Name. An empty System in Any matches
// any system; SystemAbsent ("|code") is spelled System "\x00".
type Param struct {
	Name string
	Any  []Token
}

// Consents answers what a recipient may see of one patient's data. It is
// implemented by fhir/consent and must answer from the state after the
// latest acknowledged commit.
type Consents interface {
	// Permits reports whether an active consent of f.Patient lets recipient
	// see the resource described by f. It fails closed: false on any doubt.
	Permits(recipient string, f *Facts) bool
}

// Grant is what one token may do, from the moment of the request.
type Grant struct {
	Recipient string   // the client id a consent names
	Rules     []Rule   // ORed
	Consents  Consents // nil only with AllPatients
	// AllPatients lifts the consent check: for the server's own operator
	// commands over the admin socket, never for a token.
	AllPatients bool
	// RecordsConsent lets the client write Consents, as far as its rules cover
	// that. It comes from the client's registration, never from a scope: a
	// scope is asked for by the client, and a Consent opens data to it.
	RecordsConsent bool
	// Person: the grant is a person's, as long as that person's token lives.
	// What goes on without the person (a job, a subscription) cannot be
	// started with it.
	Person bool
	// Recheck reports whether the grant still holds: the client is enabled, the
	// token neither expired nor revoked, the person and what was allowed not
	// ended, and the rules as they were. It costs little while nothing has been
	// committed. Nil: the grant holds until its owner drops it.
	Recheck func(ctx context.Context) error
}

// errNoGrant denies to a caller without a Grant. Interactions refuse such a
// caller before they ask (401); nothing that comes this far knows the reason.
var errNoGrant = errors.New("access.Live: no grant")

// Live asks Still. Whatever takes time to answer asks it again as it goes:
// before a result that took long is disclosed, and between the parts of a long
// answer. Consents need no such question, for Filter asks them every time.
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

// owned removes from i what no scope allows on type t.
func (g *Grant) owned(i Interaction, t string) Interaction {
	if t == "Consent" && !g.RecordsConsent && !g.AllPatients {
		return i &^ writes
	}
	return i
}

// Scoped reports whether some rule covers interaction i on type t by itself,
// without what the client's registration must say beside it (May).
func (g *Grant) Scoped(i Interaction, t string) bool {
	return g != nil && slices.ContainsFunc(g.Rules,
		func(r Rule) bool { return (r.Type == "*" || r.Type == t) && r.May&i != 0 })
}

// May reports whether any rule covers interaction i on type t.
func (g *Grant) May(i Interaction, t string) bool {
	if g == nil {
		return false
	}
	i = g.owned(i, t)
	for _, r := range g.Rules {
		if (r.Type == "*" || r.Type == t) && r.May&i != 0 {
			return true
		}
	}
	return false
}

// MayAll reports whether a rule without any limit covers interaction i on type
// t: for what is about all resources of a type at once.
func (g *Grant) MayAll(i Interaction, t string) bool {
	if g == nil {
		return false
	}
	i = g.owned(i, t)
	for _, r := range g.Rules {
		if (r.Type == "*" || r.Type == t) && r.May&i != 0 && len(r.Params) == 0 && r.Patient == "" && r.ID == "" {
			return true
		}
	}
	return false
}

// MayUnattended is May for what goes on after the token has expired: export
// jobs and subscriptions.
func (g *Grant) MayUnattended(i Interaction, t string) bool { return g.May(i, t) && !g.Person }

// Filter returns the predicate for interaction i (usually Read or Search).
func (g *Grant) Filter(i Interaction) Filter { return Filter{g: g, i: i} }

// Filter decides on single resources. The zero Filter denies all.
type Filter struct {
	g *Grant
	i Interaction
}

// Allow reports whether the resource described by f may be seen.
func (x Filter) Allow(f *Facts) bool {
	if x.g == nil {
		return false
	}
	if x.i&writes != 0 {
		x.i = x.g.owned(x.i, f.Type)
	}
	if !x.scoped(f) {
		return false
	}
	if x.g.AllPatients {
		return true
	}
	// A Subscription is its owner's: channel.header may hold the secret of the
	// owner's endpoint.
	if f.Type == "Subscription" && f.Author != x.g.Recipient {
		return false
	}
	if !NeedsConsent(f.Type) {
		return true
	}
	return x.g.Consents != nil && x.g.Consents.Permits(x.g.Recipient, f)
}

// Covers reports whether the scopes allow what Allow decides on, whatever the
// consents say.
func (x Filter) Covers(f *Facts) bool {
	if x.g == nil {
		return false
	}
	if x.i&writes != 0 {
		x.i = x.g.owned(x.i, f.Type)
	}
	return x.scoped(f)
}

// Params are the search parameters that the filter looks at in resources of
// type t, beyond what Facts hold plainly.
func (x Filter) Params(t string) (out []string) {
	if x.g == nil {
		return nil
	}
	for i := range x.g.Rules {
		if r := &x.g.Rules[i]; r.Type == "*" || r.Type == t {
			for _, p := range r.Params {
				out = append(out, p.Name)
			}
			if r.ID != "" {
				out = append(out, "_id")
			}
		}
	}
	return out
}

func (x Filter) scoped(f *Facts) bool {
	for i := range x.g.Rules {
		r := &x.g.Rules[i]
		if (r.Type == "*" || r.Type == f.Type) && r.May&x.i != 0 && r.matches(f) {
			return true
		}
	}
	return false
}

func (r *Rule) matches(f *Facts) bool {
	if r.Patient != "" && r.Patient != f.Patient || r.ID != "" && r.ID != f.ID {
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
	for _, w := range p.Any {
		for _, h := range have {
			if w.Code != "" && w.Code != h.Code {
				continue
			}
			if w.System == "\x00" && h.System != "" {
				continue
			}
			if w.System != "" && w.System != "\x00" && w.System != h.System {
				continue
			}
			return true
		}
	}
	return false
}

// NeedsConsent reports whether resources of type t are a patient's health
// data, which leaves the server only under a consent. Demographics, groups,
// the consents themselves and the audit trail are governed by scope alone.
func NeedsConsent(t string) bool {
	switch t {
	case "Observation", "Device", "Provenance":
		return true
	}
	return false
}

// All is the grant of the operator at the admin socket.
func All() *Grant {
	return &Grant{AllPatients: true, Rules: []Rule{{Type: "*", May: Create | Read | Update | Delete | Search}}}
}

// Principal is an authenticated caller. It carries no token.
type Principal struct {
	ClientID   string // OAuth client_id; "" for the admin socket
	ClientName string
	Subject    string // sub of the token
	Issuer     string
	TokenID    string // jti
	Scope      string // granted scopes as written in the token
	Expires    time.Time
	Operator   string // "uid:0" at the admin socket; "" for tokens
	Grant      *Grant

	// Of a person's token; zero else.
	Authorization string // id of what the person allowed the app
	FHIRUser      string // "Practitioner/1"
	Patient       string // id of the patient in context
	Roles         []string
	ACR           string    // how strongly the person signed in
	AuthTime      time.Time // when
	DPoP          bool      // the token is bound to a key (RFC 9449)
}

// Challenge is the cause of an Unauthorized or Forbidden error that says what
// would help: the value of the WWW-Authenticate header.
type Challenge string

func (c Challenge) Error() string { return string(c) }
