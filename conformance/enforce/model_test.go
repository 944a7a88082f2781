package enforce

import (
	"slices"
	"strings"
)

// coded is a code with its system.
type coded struct{ system, code string }

// version is one version of a resource as the model knows it.
type version struct {
	typ, id   string
	number    int
	deleted   bool
	patient   string
	vendor    string
	author    string
	cats      []string
	tokens    map[string][]coded
	refs      map[string][]string // by search parameter
	code      string
	at        int // clinical time in minutes after start
	value     int
	measured  bool
	reference string
	supplied  bool // has the tag patient-supplied
}

// provision is the provision of one Consent: a permit or denial with at most one
// exception.
type provision struct {
	id, patient       string
	active, permit    bool
	ended             bool // its period has ended
	recipient, vendor string
	cats              []string
	denyCat, denyWho  string // a denial within a permit; none if denyCat is empty
}

// token is an access token of a backend or a person.
type token struct {
	client  string
	person  bool
	scopes  []string
	patient string // in the launch context
	user    string // fhirUser, such as "Practitioner/d1"
	roles   []string
}

// roleTable lists the rights of the roles as scopes without a level, independently of
// smart/people/role. It has the types of this test.
var roleTable = map[string]string{ // read only
	"patient": "AuditEvent.rs CodeSystem.rs ConceptMap.rs Consent.rs Device.rs List.rs Observation.rs Organization.r Patient.rs Practitioner.r Provenance.rs " +
		"Observation.cu?_tag=" + sysTags + "|patient-supplied&category=" + sysCategory + "|vital-signs," + sysCategory + "|activity," +
		sysCategory + "|survey",
	"practitioner":  "CodeSystem.rs ConceptMap.rs Consent.rs Device.rs Group.rs List.rs Observation.crus Organization.rs Patient.rs Practitioner.rs Provenance.rs",
	"administrator": "CodeSystem.rs ConceptMap.rs Consent.rs Device.rsu Group.cruds Organization.crus Patient.crus Practitioner.crus Subscription.rs",
	"auditor":       "AuditEvent.rs CodeSystem.rs ConceptMap.rs Consent.rs Organization.rs Patient.r Practitioner.rs Provenance.rs Subscription.rs",
}

// perms returns the permissions of a scope as letters of SMART v2.
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

// applies reports whether a scope without its level covers the interaction do on typ.
func applies(s, do, typ string) bool {
	head, _, _ := strings.Cut(s, "?")
	t, p, _ := strings.Cut(head, ".")
	return (t == "*" || t == typ) && strings.Contains(perms(p), do)
}

// matchesQuery reports whether v matches the query of a granular scope.
func matchesQuery(s string, v *version) bool {
	_, query, granular := strings.Cut(s, "?")
	if !granular {
		return true
	}
	for _, pair := range strings.Split(query, "&") {
		name, values, _ := strings.Cut(pair, "=")
		matches := false
		for _, want := range strings.Split(values, ",") {
			system, code, hasSystem := strings.Cut(want, "|")
			if !hasSystem {
				system, code = "", want
			}
			for _, t := range v.tokens[name] {
				matches = matches || (code == "" || t.code == code) && (!hasSystem || t.system == system)
			}
		}
		if !matches {
			return false
		}
	}
	return true
}

// lines returns the lines of the roles that allow do on typ.
func (tok *token) lines(do, typ string) (out []string) {
	for _, r := range tok.roles {
		if r == "patient" && !tok.patientSide() {
			continue
		}
		for _, line := range strings.Fields(roleTable[r]) {
			if applies(line, do, typ) {
				out = append(out, line)
			}
		}
	}
	return out
}

// patientSide reports whether what the token writes is supplied by a patient.
func (tok *token) patientSide() bool { return tok.person && strings.HasPrefix(tok.user, "Patient/") }

// each calls fn for the scopes that apply to do on typ, for persons with each line of
// their roles that does. patient is the patient to whom the scope is limited, or empty.
func (tok *token) each(do, typ string, fn func(rest, line, patient string)) {
	for _, s := range tok.scopes {
		level, rest, ok := strings.Cut(s, "/")
		if !ok || !applies(rest, do, typ) {
			continue
		}
		if !tok.person {
			if level == "system" {
				fn(rest, "", "")
			}
			continue
		}
		for _, line := range tok.lines(do, typ) {
			switch {
			case level == "system":
			case level == "patient":
				if tok.patient != "" {
					fn(rest, line, tok.patient)
				}
			case tok.patientSide():
				fn(rest, line, strings.TrimPrefix(tok.user, "Patient/"))
			default:
				fn(rest, line, "")
			}
		}
	}
}

// self reports whether the token may read its own fhirUser.
func (tok *token) self(do, typ string) bool {
	return tok.person && do == "r" && slices.Contains(tok.scopes, "fhirUser") && strings.HasPrefix(tok.user, typ+"/")
}

// may reports whether do on typ is possible at all. If not, the answer is 403.
func (tok *token) may(do, typ string) bool {
	out := tok.self(do, typ)
	tok.each(do, typ, func(string, string, string) { out = true })
	return out
}

// sees reports whether the token may do do with the version v.
func (tok *token) sees(provisions []provision, do string, v *version) bool {
	out := tok.self(do, v.typ) && tok.user == v.typ+"/"+v.id
	out = out || tok.covered(do, v)
	switch v.typ {
	case "Observation", "Device", "Provenance", "List":
		return out && consented(provisions, tok.client, v)
	case "Subscription": // its channel may hold a secret of its author
		return out && v.author == tok.client
	}
	return out
}

// consented reports whether the consents of the patient allow the client to see v.
func consented(provisions []provision, client string, v *version) bool {
	written := v.vendor == "" && v.author != "" && v.author == client
	if v.patient == "" {
		return written
	}
	permit, withdrawn := false, false
	for i := range provisions {
		g := &provisions[i]
		switch {
		case g.patient != v.patient:
		case !g.active:
			withdrawn = true
		case g.ended:
		default:
			permits, denies := g.evaluate(client, v)
			if denies {
				return false
			}
			permit = permit || permits
		}
	}
	return permit || written && !withdrawn
}

// covers reports whether cats covers the category c. Sleep also counts as activity.
func covers(cats []string, c string) bool {
	return slices.Contains(cats, c) || c == "sleep" && slices.Contains(cats, "activity")
}

// evaluate reports whether the provision permits or denies v to the client.
func (g *provision) evaluate(client string, v *version) (permit, deny bool) {
	coded := v.typ != "Device" && v.typ != "Provenance"
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
			some = some || covers(g.cats, c)
		}
		return false, some
	}
	all, some := true, false
	if len(g.cats) == 1 && g.cats[0] == "location" && !coded {
		return false, false // it is about locations only
	}
	if len(g.cats) > 0 && coded {
		all = len(v.cats) > 0
		for _, c := range v.cats {
			if c == "activity" && (slices.Contains(v.cats, "sleep") || slices.Contains(v.cats, "location")) {
				continue
			}
			h := covers(g.cats, c)
			all, some = all && h, some || h
		}
		if !some {
			return false, false
		}
	}
	if g.denyCat != "" && (g.denyWho == "any" || g.denyWho == client) && coded {
		inside := len(v.cats) == 0
		for _, c := range v.cats {
			inside = inside || covers([]string{g.denyCat}, c)
		}
		if inside {
			return false, true
		}
	}
	if slices.Contains(v.cats, "location") && !slices.Contains(g.cats, "location") {
		return false, false // locations must be named
	}
	return all, false
}
