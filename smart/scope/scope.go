package scope

import (
	"net/url"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
)

// Limits of a scope string.
const (
	MaxLength = 4096
	MaxScopes = 96
	maxParams = 8
	maxValues = 16
)

const (
	readV1  = access.Read | access.Search
	writeV1 = access.Create | access.Update | access.Delete
	allV1   = readV1 | writeV1
)

// Level says whose data a resource scope is about. A scope without a level is
// one for launch context or identity, and has a Name.
type Level string

// The levels of SMART App Launch 2.2, "Scopes for requesting FHIR resources".
const (
	Patient Level = "patient" // the patient in context
	User    Level = "user"    // whatever the person who signed in may see
	System  Level = "system"  // no person: a backend
)

// Names of scopes without a level.
const (
	OpenID          = "openid"
	FHIRUser        = "fhirUser"
	Profile         = "profile"
	Launch          = "launch"
	LaunchPatient   = "launch/patient"
	LaunchEncounter = "launch/encounter"
	Offline         = "offline_access"
	Online          = "online_access"
)

// Names lists every scope without a level that is offered.
func Names() []string {
	return []string{OpenID, FHIRUser, Profile, Launch, LaunchPatient, LaunchEncounter, Offline, Online}
}

// Scope is one scope: a resource scope (Level, Type, May, perhaps Params), or
// one without a level (Name).
type Scope struct {
	Name   string // of a scope without a level; else ""
	Level  Level
	Type   string // resource type, or "*"
	May    access.Interaction
	V1     bool // written in the v1 form
	Params []access.Param
}

// Set is a parsed scope string.
type Set []Scope

// Parser knows which search parameters a granular scope may use.
type Parser struct {
	// TokenParam reports whether code is a token search parameter of typ.
	TokenParam func(typ, code string) bool
}

// Registered is the TokenParam of this server's own search registry.
func Registered(typ, code string) bool {
	p, ok := search.Lookup(typ, code)
	return ok && p.Type == search.TypeToken
}

func bad(pos int, rule string) error {
	return fhir.Errorf(fhir.Invalid, "scope.Parse", "scope %d: %s", pos, rule)
}

// Parse reads a space-separated scope string. An error is of kind Invalid and
// names the position of the scope, from 1, and the rule; for a token request
// it means invalid_scope.
func (p Parser) Parse(s string) (Set, error) {
	if len(s) > MaxLength {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Parse", "scope is longer than %d bytes", MaxLength)
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })
	if len(words) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Parse", "scope is empty")
	}
	if len(words) > MaxScopes {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Parse", "more than %d scopes", MaxScopes)
	}
	set := make(Set, 0, len(words))
	for i, w := range words {
		one, err := p.one(i+1, w)
		if err != nil {
			return nil, err
		}
		set = append(set, one)
	}
	return set, nil
}

// Offered reads an app's scope string and leaves out what this server does
// not offer, as RFC 6749 3.3 allows: an app asks for what it can use, and
// learns from the answer what it got. A string over the limits, or with a
// character that no scope may have, is still an error.
func (p Parser) Offered(s string) (Set, error) {
	if len(s) > MaxLength {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Offered", "scope is longer than %d bytes", MaxLength)
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })
	if len(words) > MaxScopes {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Offered", "more than %d scopes", MaxScopes)
	}
	var set Set
	for i, w := range words {
		if !legal(w) {
			return nil, bad(i+1, "a character that RFC 6749 does not allow")
		}
		if one, err := p.one(i+1, w); err == nil {
			set = append(set, one)
		}
	}
	return set, nil
}

// legal reports whether w is a scope-token of RFC 6749 3.3.
func legal(w string) bool {
	for i := 0; i < len(w); i++ {
		if c := w[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (p Parser) one(pos int, w string) (Scope, error) {
	if !legal(w) {
		return Scope{}, bad(pos, "a character that RFC 6749 does not allow")
	}
	if slices.Contains(Names(), w) {
		return Scope{Name: w}, nil
	}
	level, rest, _ := strings.Cut(w, "/")
	switch Level(level) {
	case System, User, Patient:
	default:
		return Scope{}, bad(pos, "neither patient/, user/ or system/ with a resource type, nor a scope for launch or identity")
	}
	head, query, granular := strings.Cut(rest, "?")
	typ, perm, ok := strings.Cut(head, ".")
	if !ok {
		return Scope{}, bad(pos, "no permission after the resource type")
	}
	if typ != "*" && !fhir.KnownType(typ) {
		return Scope{}, bad(pos, "a resource type that this server does not store")
	}
	out := Scope{Level: Level(level), Type: typ}
	if out.May, out.V1, ok = permission(perm); !ok {
		return Scope{}, bad(pos, "the permission is neither read, write, * nor letters of cruds in that order")
	}
	if !granular {
		return out, nil
	}
	if out.V1 {
		return Scope{}, bad(pos, "search parameters need the v2 permissions (cruds)")
	}
	if typ == "*" {
		return Scope{}, bad(pos, "search parameters need one resource type, not *")
	}
	var err error
	out.Params, err = p.params(pos, typ, query)
	return out, err
}

func permission(s string) (may access.Interaction, v1, ok bool) {
	switch s {
	case "read":
		return readV1, true, true
	case "write":
		return writeV1, true, true
	case "*":
		return allV1, true, true
	}
	at := 0
	for i := 0; i < len(s); i++ {
		j := strings.IndexByte("cruds"[at:], s[i])
		if j < 0 {
			return 0, false, false
		}
		may |= 1 << (at + j)
		at += j + 1
	}
	return may, false, may != 0
}

func (p Parser) params(pos int, typ, query string) ([]access.Param, error) {
	pairs := strings.Split(query, "&")
	if len(pairs) > maxParams {
		return nil, bad(pos, "more than 8 search parameters")
	}
	out := make([]access.Param, 0, len(pairs))
	for _, pair := range pairs {
		name, raw, ok := strings.Cut(pair, "=")
		if !ok || p.TokenParam == nil || !p.TokenParam(typ, name) {
			return nil, bad(pos, "only token search parameters of the type, without modifier, may follow the question mark")
		}
		value, err := url.PathUnescape(raw)
		if err != nil {
			return nil, bad(pos, "percent-encoding")
		}
		tokens, ok := values(value)
		if !ok {
			return nil, bad(pos, "a search value is not [system]|code, system| or code")
		}
		if prm := (access.Param{Name: name, Any: tokens}); !hasParam(out, prm) {
			out = append(out, prm)
		}
	}
	slices.SortStableFunc(out, func(a, b access.Param) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// values reads the comma-or of a token parameter; backslash escapes as in a
// FHIR search. Control characters are refused: access.Param gives "\x00" a
// meaning of its own.
func values(s string) ([]access.Token, bool) {
	var out []access.Token
	var parts []string
	var cur strings.Builder
	flush := func() bool {
		parts = append(parts, cur.String())
		cur.Reset()
		var t access.Token
		switch {
		case len(parts) == 1:
			t.Code = parts[0]
		case len(parts) == 2:
			t.System, t.Code = parts[0], parts[1]
			if t.System == "" {
				t.System = "\x00"
			}
		default:
			return false
		}
		if t.Code == "" && (t.System == "" || t.System == "\x00") {
			return false
		}
		parts = parts[:0]
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
		return len(out) <= maxValues
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < 0x20 || c == 0x7f:
			return nil, false
		case c == '\\':
			i++
			if i == len(s) || !strings.ContainsRune(`\,|$`, rune(s[i])) {
				return nil, false
			}
			cur.WriteByte(s[i])
		case c == '|':
			parts = append(parts, cur.String())
			cur.Reset()
		case c == ',':
			if !flush() {
				return nil, false
			}
		default:
			cur.WriteByte(c)
		}
	}
	return out, flush()
}

func hasParam(in []access.Param, p access.Param) bool {
	return slices.ContainsFunc(in, func(q access.Param) bool { return q.Name == p.Name && slices.Equal(q.Any, p.Any) })
}

// At returns the resource scopes of one level.
func (s Set) At(l Level) Set {
	var out Set
	for _, x := range s {
		if x.Level == l && x.Name == "" {
			out = append(out, x)
		}
	}
	return out
}

// Has reports whether a scope without a level is in the set.
func (s Set) Has(name string) bool {
	return slices.ContainsFunc(s, func(x Scope) bool { return x.Name == name })
}

// Rules compiles the system/ scopes for an access.Grant. Those of the other
// levels mean nothing without a person; smart/policy compiles them.
func (s Set) Rules() []access.Rule {
	var out []access.Rule
	for _, x := range s.At(System) {
		out = append(out, x.Rule())
	}
	return out
}

// Rule is the resource scope as a rule, without what its level restricts.
func (a Scope) Rule() access.Rule { return access.Rule{Type: a.Type, May: a.May, Params: a.Params} }

// Narrow is what a client that asked for asked and may have allowed is
// granted: every pair's common part, never more than either. Empty means that
// they have nothing in common.
func Narrow(asked, allowed Set) Set {
	var out Set
	for _, a := range asked {
		for _, b := range allowed {
			c, ok := common(a, b)
			if !ok || slices.ContainsFunc(out, func(o Scope) bool { return o.covers(c) }) {
				continue
			}
			out = append(slices.DeleteFunc(out, func(o Scope) bool { return c.covers(o) }), c)
		}
	}
	return out
}

func common(a, b Scope) (Scope, bool) {
	if a.Name != b.Name || a.Level != b.Level {
		return Scope{}, false
	}
	if a.Name != "" {
		return a, true
	}
	c := Scope{Level: a.Level, Type: a.Type, May: a.May & b.May}
	switch {
	case a.Type == "*":
		c.Type = b.Type
	case b.Type != "*" && a.Type != b.Type:
		return Scope{}, false
	}
	if c.May == 0 {
		return Scope{}, false
	}
	c.Params = slices.Clone(a.Params)
	for _, p := range b.Params {
		if !hasParam(c.Params, p) {
			c.Params = append(c.Params, p)
		}
	}
	slices.SortStableFunc(c.Params, func(x, y access.Param) int { return strings.Compare(x.Name, y.Name) })
	// A client that asked in the v1 form reads v1.
	c.V1 = a.V1 && len(c.Params) == 0 && (c.May == readV1 || c.May == writeV1 || c.May == allV1)
	return c, true
}

// covers reports whether a allows all that b allows, as far as it can be seen
// from the written form.
func (a Scope) covers(b Scope) bool {
	if a.Name != b.Name || a.Level != b.Level {
		return false
	}
	if a.Type != "*" && a.Type != b.Type || b.May&^a.May != 0 {
		return false
	}
	for _, p := range a.Params {
		if !hasParam(b.Params, p) {
			return false
		}
	}
	return true
}

// Covers reports whether the set allows all that b allows, as far as it can
// be seen from the written form: one scope of it has to cover each of b.
func (s Set) Covers(b Set) bool {
	for _, x := range b {
		if !slices.ContainsFunc(s, func(a Scope) bool { return a.covers(x) }) {
			return false
		}
	}
	return true
}

// String writes one scope.
func (a Scope) String() string {
	var b strings.Builder
	a.write(&b)
	return b.String()
}

// String writes the set as it goes into a token; Parse reads it back.
func (s Set) String() string {
	var b strings.Builder
	for i, x := range s {
		if i > 0 {
			b.WriteByte(' ')
		}
		x.write(&b)
	}
	return b.String()
}

// AskedV1 reports whether a request names its resource scopes in the v1 form
// only: such a client cannot read v2 permissions.
func (s Set) AskedV1() bool {
	v1 := false
	for _, x := range s {
		if x.Name == "" && !x.V1 {
			return false
		}
		v1 = v1 || x.V1
	}
	return v1
}

// V1 writes the set for a client that asked in the v1 form. A permission that
// v1 has no word for is named by the word whose part it is: read for reads and
// searches, write for changes, else *. The token itself says exactly what was
// granted. A scope with search parameters has no v1 form and stays as it is.
func (s Set) V1() string {
	out := make([]string, 0, len(s))
	for _, x := range s {
		if x.Name == "" && len(x.Params) == 0 {
			x.V1 = true
			switch {
			case x.May&^readV1 == 0:
				x.May = readV1
			case x.May&^writeV1 == 0:
				x.May = writeV1
			default:
				x.May = allV1
			}
		}
		if text := x.String(); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, " ")
}

func (a Scope) write(b *strings.Builder) {
	if a.Name != "" {
		b.WriteString(a.Name)
		return
	}
	b.WriteString(string(a.Level) + "/" + a.Type + ".")
	switch {
	case a.V1 && a.May == readV1:
		b.WriteString("read")
	case a.V1 && a.May == writeV1:
		b.WriteString("write")
	case a.V1:
		b.WriteString("*")
	default:
		for i, c := range []byte("cruds") {
			if a.May&(1<<i) != 0 {
				b.WriteByte(c)
			}
		}
	}
	for i, p := range a.Params {
		b.WriteByte("&?"[b2i(i == 0)])
		b.WriteString(p.Name + "=")
		for j, t := range p.Any {
			if j > 0 {
				b.WriteByte(',')
			}
			if t.System != "" {
				if t.System != "\x00" {
					escape(b, t.System)
				}
				b.WriteByte('|')
			}
			escape(b, t.Code)
		}
	}
}

func b2i(v bool) int {
	if v {
		return 1
	}
	return 0
}

const hex = "0123456789ABCDEF"

// escape writes s for a search value inside a scope: FHIR's escapes first,
// then percent-encoding of what a scope token or a query cannot hold.
func escape(b *strings.Builder, s string) {
	pct := func(c byte) { b.Write([]byte{'%', hex[c>>4], hex[c&15]}) }
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' || c == ',' || c == '|' || c == '$':
			pct('\\')
			pct(c)
		case c <= 0x20 || c >= 0x7f || strings.IndexByte(`"%&=+#?`, c) >= 0:
			pct(c)
		default:
			b.WriteByte(c)
		}
	}
}
