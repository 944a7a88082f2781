package enforce

import (
	"slices"
	"strings"
)

// coded is a system and a code.
type coded struct{ system, code string }

// version is what the interpreter knows of one version of a resource.
type version struct {
	typ, id   string
	n         int
	deleted   bool
	patient   string
	vendor    string
	author    string
	cats      []string
	tokens    map[string][]coded
	refs      map[string][]string // by search parameter
	code      string
	at        int // clinical time, minutes
	value     int
	measured  bool
	reference string
}

// ground is one Consent: a permit or denial with at most one exception.
type ground struct {
	id, patient       string
	active, permit    bool
	ended             bool // its period is over
	recipient, vendor string
	cats              []string
	denyCat, denyWho  string // an exception inside; "" none
}

// token is what somebody holds.
type token struct {
	client  string
	person  bool
	scopes  []string
	patient string // in context
	user    string // "Practitioner/d1"
	roles   []string
}

// roleTable is what roles allow, as text of its own.
var roleTable = map[string]string{ // read only
	"patient":       "AuditEvent.rs Consent.rs Device.rs Observation.rs Organization.r Patient.rs Practitioner.r Provenance.rs",
	"practitioner":  "Consent.rs Device.rs Group.rs Observation.rs Organization.rs Patient.rs Practitioner.rs Provenance.rs",
	"administrator": "Consent.rs Device.rsu Group.cruds Organization.crus Patient.crus Practitioner.crus Subscription.rs",
	"auditor":       "AuditEvent.rs Consent.rs Organization.rs Patient.r Practitioner.rs Provenance.rs Subscription.rs",
}

func perms(p string) string {
	switch p {
	case "read":
		return "rs"
	case "write":
		return "cud"
	case "*":
		return "cruds"
	}
	return p
}

// names reports whether a scope without its level is about do on typ at all.
func names(s, do, typ string) bool {
	head, _, _ := strings.Cut(s, "?")
	t, p, _ := strings.Cut(head, ".")
	return (t == "*" || t == typ) && strings.Contains(perms(p), do)
}

// narrowed reports whether v meets the query of a granular scope.
func narrowed(s string, v *version) bool {
	_, query, granular := strings.Cut(s, "?")
	if !granular {
		return true
	}
	for _, pair := range strings.Split(query, "&") {
		name, values, _ := strings.Cut(pair, "=")
		hit := false
		for _, want := range strings.Split(values, ",") {
			system, code, both := strings.Cut(want, "|")
			if !both {
				system, code = "", want
			}
			for _, t := range v.tokens[name] {
				hit = hit || (code == "" || t.code == code) && (!both || t.system == system)
			}
		}
		if !hit {
			return false
		}
	}
	return true
}

// allowed is the ceiling of the roles.
func (k *token) allowed(do, typ string) bool {
	own := strings.HasPrefix(k.user, "Patient/")
	for _, r := range k.roles {
		if r == "patient" && !own {
			continue
		}
		for _, line := range strings.Fields(roleTable[r]) {
			if names(line, do, typ) {
				return true
			}
		}
	}
	return false
}

// each calls fn for the scopes that count for do on typ, with whose resources
// they are about ("" anybody's).
func (k *token) each(do, typ string, fn func(rest, whose string)) {
	for _, s := range k.scopes {
		level, rest, ok := strings.Cut(s, "/")
		if !ok || !names(rest, do, typ) {
			continue
		}
		switch {
		case !k.person && level == "system":
			fn(rest, "")
		case !k.person || level == "system" || !k.allowed(do, typ):
		case level == "patient":
			if k.patient != "" {
				fn(rest, k.patient)
			}
		case strings.HasPrefix(k.user, "Patient/"):
			fn(rest, strings.TrimPrefix(k.user, "Patient/"))
		default:
			fn(rest, "")
		}
	}
}

func (k *token) self(do, typ string) bool {
	return k.person && do == "r" && slices.Contains(k.scopes, "fhirUser") && strings.HasPrefix(k.user, typ+"/")
}

// may: is do on typ possible at all? If not, the answer is 403.
func (k *token) may(do, typ string) bool {
	out := k.self(do, typ)
	k.each(do, typ, func(string, string) { out = true })
	return out
}

// sees: may the token do it with this version?
func (k *token) sees(grounds []ground, do string, v *version) bool {
	out := k.self(do, v.typ) && k.user == v.typ+"/"+v.id
	k.each(do, v.typ, func(rest, whose string) {
		out = out || (whose == "" || whose == v.patient) && narrowed(rest, v)
	})
	switch v.typ {
	case "Observation", "Device", "Provenance":
		return out && agreed(grounds, k.client, v)
	case "Subscription": // its channel may hold a secret of who made it
		return out && v.author == k.client
	}
	return out
}

// agreed: do the patient's consents let the client see it?
func agreed(grounds []ground, client string, v *version) bool {
	wrote := v.vendor == "" && v.author != "" && v.author == client
	if v.patient == "" {
		return wrote
	}
	permit, taken := false, false
	for i := range grounds {
		g := &grounds[i]
		switch {
		case g.patient != v.patient:
		case !g.active:
			taken = true
		case g.ended:
		default:
			p, d := g.says(client, v)
			if d {
				return false
			}
			permit = permit || p
		}
	}
	return permit || wrote && !taken
}

// needed is which of the categories a permit has to name: what is sleep and
// activity is known by either.
func hits(cats []string, c string) bool {
	return slices.Contains(cats, c) || c == "sleep" && slices.Contains(cats, "activity")
}

func (g *ground) says(client string, v *version) (permit, deny bool) {
	coded := v.typ == "Observation"
	if g.recipient != "any" && g.recipient != client {
		return false, false
	}
	if g.vendor != "" && (v.vendor == "" && !g.permit || v.vendor != "" && v.vendor != g.vendor) {
		return false, false
	}
	if !g.permit {
		if len(g.cats) == 0 {
			return false, true
		}
		if !coded {
			return false, false
		}
		some := len(v.cats) == 0
		for _, c := range v.cats {
			some = some || hits(g.cats, c)
		}
		return false, some
	}
	all, some := true, false
	if len(g.cats) > 0 && coded {
		all = len(v.cats) > 0
		for _, c := range v.cats {
			if c == "activity" && slices.Contains(v.cats, "sleep") {
				continue
			}
			h := hits(g.cats, c)
			all, some = all && h, some || h
		}
		if !some {
			return false, false
		}
	}
	if g.denyCat != "" && (g.denyWho == "any" || g.denyWho == client) && coded {
		inside := len(v.cats) == 0
		for _, c := range v.cats {
			inside = inside || hits([]string{g.denyCat}, c)
		}
		if inside {
			return false, true
		}
	}
	return all, false
}
