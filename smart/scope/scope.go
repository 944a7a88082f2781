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
	maxScopes = 96
	maxParams = 8
	maxValues = 16
)

const (
	readV1  = access.Read | access.Search
	writeV1 = access.Create | access.Update | access.Delete
	allV1   = readV1 | writeV1
)

// Level is the part of a resource scope that selects the patients. A scope
// without a level is for launch context or identity, and has a Name.
type Level string

// The levels of SMART App Launch 2.2, "Scopes for requesting FHIR resources".
const (
	Patient Level = "patient" // the patient in context
	User    Level = "user"    // all data that the signed-in person may see
	System  Level = "system"  // a backend service, without a person
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

// Names lists the supported scopes without a level.
func Names() []string {
	return []string{OpenID, FHIRUser, Profile, Launch, LaunchPatient, LaunchEncounter, Offline, Online}
}

// Scope is either a resource scope, with Level, Type, May and possibly Params,
// or a scope without a level, with Name.
type Scope struct {
	Name   string // scope without a level, otherwise ""
	Level  Level
	Type   string // resource type, or "*"
	May    access.Interaction
	V1     bool // written in the syntax of SMART v1
	Params []access.Param
}

// Set is a parsed scope string.
type Set []Scope

// Parser parses scope strings. TokenParam decides which search parameters a
// granular scope may use.
type Parser struct {
	// TokenParam reports whether code is a token search parameter of typ. If it
	// is nil, granular scopes are refused.
	TokenParam func(typ, code string) bool
}

// Registered reports whether code is a token search parameter of typ in this
// server's search registry. It is the usual TokenParam.
func Registered(typ, code string) bool {
	p, ok := search.Lookup(typ, code)
	return ok && p.Type == search.TypeToken
}

func bad(pos int, rule string) error {
	return fhir.Errorf(fhir.Invalid, "scope.Parse", "scope %d: %s", pos, rule)
}

// Parse parses a space-separated scope string. The error has kind Invalid and
// names the position of the scope, from 1, and the rule. For a token request it
// means invalid_scope.
func (p Parser) Parse(s string) (Set, error) {
	if len(s) > MaxLength {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Parse", "scope is longer than %d bytes", MaxLength)
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })
	if len(words) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Parse", "scope is empty")
	}
	if len(words) > maxScopes {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Parse", "more than %d scopes", maxScopes)
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

// Offered parses the scope string of an app and leaves out unsupported scopes,
// as RFC 6749 3.3 allows: an app requests what it can use and learns from the
// response what it was granted. A string over the limits or with a character
// that scopes must not have is still an error.
func (p Parser) Offered(s string) (Set, error) {
	if len(s) > MaxLength {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Offered", "scope is longer than %d bytes", MaxLength)
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })
	if len(words) > maxScopes {
		return nil, fhir.Errorf(fhir.Invalid, "scope.Offered", "more than %d scopes", maxScopes)
	}
	var set Set
	for i, w := range words {
		if !legal(w) {
			return nil, bad(i+1, "it has a character that RFC 6749 does not allow")
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
		return Scope{}, bad(pos, "it has a character that RFC 6749 does not allow")
	}
	if slices.Contains(Names(), w) {
		return Scope{Name: w}, nil
	}
	level, rest, _ := strings.Cut(w, "/")
	switch Level(level) {
	case System, User, Patient:
	default:
		return Scope{}, bad(pos, "it is neither patient/, user/ or system/ with a resource type, nor a scope for launch or identity")
	}
	head, query, granular := strings.Cut(rest, "?")
	typ, perm, ok := strings.Cut(head, ".")
	if !ok {
		return Scope{}, bad(pos, "it has no permission after the resource type")
	}
	if typ != "*" && !fhir.KnownType(typ) {
		return Scope{}, bad(pos, "this server does not store its resource type")
	}
	out := Scope{Level: Level(level), Type: typ}
	if out.May, out.V1, ok = permission(perm); !ok {
		return Scope{}, bad(pos, "its permission must be read, write, * or letters of cruds in that order")
	}
	if !granular {
		return out, nil
	}
	if out.V1 {
		return Scope{}, bad(pos, "its search parameters need the v2 permissions (cruds)")
	}
	if typ == "*" {
		return Scope{}, bad(pos, "its search parameters need one resource type, not *")
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
		return nil, bad(pos, "it has more than 8 search parameters")
	}
	out := make([]access.Param, 0, len(pairs))
	for _, pair := range pairs {
		name, raw, ok := strings.Cut(pair, "=")
		if !ok || p.TokenParam == nil || !p.TokenParam(typ, name) {
			return nil, bad(pos, "only token search parameters of the type, without modifier, may follow the question mark")
		}
		value, err := url.PathUnescape(raw)
		if err != nil {
			return nil, bad(pos, "it has invalid percent-encoding")
		}
		tokens, ok := values(value)
		if !ok {
			return nil, bad(pos, "a search value must be [system]|code, system| or code")
		}
		if prm := (access.Param{Name: name, Any: tokens}); !hasParam(out, prm) {
			out = append(out, prm)
		}
	}
	slices.SortStableFunc(out, func(a, b access.Param) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// values parses the comma-separated values of a token parameter. A backslash
// escapes as in a FHIR search. Control characters are refused, because
// access.Param gives "\x00" a special meaning.
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
	for _, scope := range s {
		if scope.Level == l && scope.Name == "" {
			out = append(out, scope)
		}
	}
	return out
}

// Has reports whether the set contains a scope without a level.
func (s Set) Has(name string) bool {
	return slices.ContainsFunc(s, func(scope Scope) bool { return scope.Name == name })
}

// Rules compiles the system/ scopes for an access.Grant. Scopes of the other
// levels depend on a person; smart/policy compiles them.
func (s Set) Rules() []access.Rule {
	var out []access.Rule
	for _, scope := range s.At(System) {
		out = append(out, scope.Rule())
	}
	return out
}

// Rule returns the resource scope as a rule, without the restriction of its
// level.
func (a Scope) Rule() access.Rule { return access.Rule{Type: a.Type, May: a.May, Params: a.Params} }

// Narrow returns the scopes to grant to a client that requests some scopes and
// is allowed others: the intersection of every pair, which never exceeds
// either. The result is empty if they have nothing in common.
func Narrow(requested, allowed Set) Set {
	var out Set
	for _, a := range requested {
		for _, b := range allowed {
			c, ok := intersect(a, b)
			if !ok || slices.ContainsFunc(out, func(o Scope) bool { return o.covers(c) }) {
				continue
			}
			out = append(slices.DeleteFunc(out, func(o Scope) bool { return c.covers(o) }), c)
		}
	}
	return out
}

func intersect(a, b Scope) (Scope, bool) {
	if a.Name != b.Name || a.Level != b.Level {
		return Scope{}, false
	}
	if a.Name != "" {
		return a, true
	}
	out := Scope{Level: a.Level, Type: a.Type, May: a.May & b.May}
	switch {
	case a.Type == "*":
		out.Type = b.Type
	case b.Type != "*" && a.Type != b.Type:
		return Scope{}, false
	}
	if out.May == 0 {
		return Scope{}, false
	}
	out.Params = slices.Clone(a.Params)
	for _, p := range b.Params {
		if !hasParam(out.Params, p) {
			out.Params = append(out.Params, p)
		}
	}
	slices.SortStableFunc(out.Params, func(x, y access.Param) int { return strings.Compare(x.Name, y.Name) })
	// A client that requests the v1 syntax also reads it.
	out.V1 = a.V1 && len(out.Params) == 0 && (out.May == readV1 || out.May == writeV1 || out.May == allV1)
	return out, true
}

// covers reports whether a allows everything that b allows, as far as the
// syntax shows.
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

// Covers reports whether the set allows everything that b allows, as far as the
// syntax shows: each scope of b must be covered by a single scope of the set.
func (s Set) Covers(b Set) bool {
	for _, scope := range b {
		if !slices.ContainsFunc(s, func(a Scope) bool { return a.covers(scope) }) {
			return false
		}
	}
	return true
}

// String returns the scope in the syntax that Parse reads.
func (a Scope) String() string {
	var b strings.Builder
	a.write(&b)
	return b.String()
}

// String returns the set as it goes into a token. Parse reads it back.
func (s Set) String() string {
	var b strings.Builder
	for i, scope := range s {
		if i > 0 {
			b.WriteByte(' ')
		}
		scope.write(&b)
	}
	return b.String()
}

// AskedV1 reports whether the set has resource scopes and all of them use the
// v1 syntax. A client that requests such a set cannot read v2 permissions.
func (s Set) AskedV1() bool {
	v1 := false
	for _, scope := range s {
		if scope.Name == "" && !scope.V1 {
			return false
		}
		v1 = v1 || scope.V1
	}
	return v1
}

// V1 returns the set for a client that requested the v1 syntax. Permissions
// without an exact v1 word are reported as the smallest word that includes
// them: read for reads and searches, write for changes, otherwise *. The token
// itself states exactly what was granted. A scope with search parameters has no
// v1 syntax and is returned as it is.
func (s Set) V1() string {
	out := make([]string, 0, len(s))
	for _, scope := range s {
		if scope.Name == "" && len(scope.Params) == 0 {
			scope.V1 = true
			switch {
			case scope.May&^readV1 == 0:
				scope.May = readV1
			case scope.May&^writeV1 == 0:
				scope.May = writeV1
			default:
				scope.May = allV1
			}
		}
		if text := scope.String(); !slices.Contains(out, text) {
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

// escape writes s as a search value inside a scope: first with the escapes of
// FHIR, then with percent-encoding of characters that a scope token or a query
// cannot contain.
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
