package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/issuer"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

const maxCached = 16384

// Engine authenticates requests. Its fields are set once; it is safe for
// concurrent use. Keys, Clients, Scopes, Issuer, Audience and Clock are
// needed; without Grants no token of a person is accepted, and none can be
// revoked before its time.
type Engine struct {
	Keys     *keys.Ring
	Clients  *client.Registry
	Consents access.Consents
	Scopes   scope.Parser
	Issuer   string
	Audience string // the FHIR base URL
	Clock    func() time.Time
	Grants   *authz.Store
	// RoleRules is what roles allow. Nil: nothing, so that no person's token
	// reaches any data.
	RoleRules func(roles []string) []access.Rule
	// Roles returns the roles that a person has now; ok is false when the
	// account has ended or is not what it was at the sign-in. Nil: the roles of
	// the sign-in.
	Roles func(ctx context.Context, s authz.Subject) (roles []string, ok bool, err error)
	// ConsentsOf are the consents that hold for a person of this server under
	// an authorization, with emergency access on top. Nil: Consents.
	ConsentsOf func(subjectID, authorization string) access.Consents
	// Nonces are demanded in proofs of possession; nil: none are.
	Nonces *dpop.Nonces
	// Outside verifies tokens of other issuers; nil: none are taken.
	Outside *issuer.Verifier
	// Latest is the latest commit. While it stays the same, a grant that was
	// found good is good until its token expires. Nil: it is asked each time.
	Latest func() store.Seq

	mu    sync.Mutex
	known *simplelru.LRU[[32]byte, *known] // by SHA-256 of the token; guarded by mu
}

// known is a token whose signature and fixed claims have been checked. What
// can change is asked at each use.
type known struct {
	claims    compact.Claims
	set       scope.Set
	token     issuer.Token // of an outside issuer
	outside   bool
	notBefore time.Time
	expires   time.Time

	mu        sync.Mutex
	record    authz.Record      // as principal was compiled from
	roles     []string          // as principal was compiled from
	principal *access.Principal // nil: not compiled yet
}

func invalid() error {
	return fhir.Errorf(fhir.Unauthorized, "policy.Authenticate", "invalid_token")
}

// expired tells the client why a token that this server or one of its issuers
// signed is no longer good (RFC 6750, section 3.1), so that it asks for a new
// one instead of looking for another fault.
func expired(k *known) error {
	scheme := "Bearer"
	if k.claims.Confirm.JKT != "" {
		scheme = "DPoP"
	}
	return &fhir.Error{Kind: fhir.Unauthorized, Op: "policy.Authenticate",
		Issues: []fhir.Issue{{Code: "expired",
			Diagnostics: "the access token has expired; get a new one from the token endpoint"}},
		Err: access.Challenge(scheme + ` error="invalid_token", error_description="The access token has expired"`)}
}

// Authenticate returns the caller. The Principal is shared between requests
// with the same token: it must not be changed. A failure is Unauthorized and
// says nothing about the token.
func (e *Engine) Authenticate(r *http.Request) (*access.Principal, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return nil, fhir.Errorf(fhir.Unauthorized, "policy.Authenticate", "a bearer token is needed")
	}
	if len(values) > 1 {
		return nil, invalid()
	}
	scheme, tok, ok := strings.Cut(values[0], " ")
	proven := strings.EqualFold(scheme, "DPoP")
	if !ok || !proven && !strings.EqualFold(scheme, "Bearer") || len(tok) > compact.MaxToken {
		return nil, invalid()
	}
	k, p, err := e.inspect(r.Context(), tok)
	if err != nil {
		return nil, err
	}
	return p, e.possession(r, k, tok, proven)
}

// Inspect checks a token as Authenticate does, but for who presents it, and
// returns the claims that an introspection tells.
func (e *Engine) Inspect(ctx context.Context, tok string) (*access.Principal, Claims, error) {
	k, p, err := e.inspect(ctx, tok)
	if err != nil {
		return nil, Claims{}, err
	}
	c := Claims{Patient: p.Patient, Encounter: k.claims.Encounter, FHIRUser: k.claims.FHIRUser,
		JKT: k.claims.Confirm.JKT, X5T: k.claims.Confirm.X5T}
	if k.claims.Iat != nil {
		c.Issued = time.Unix(int64(*k.claims.Iat), 0).UTC()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c.Launch = k.record.Context
	return p, c, nil
}

// Claims are what a token says beside its Principal.
type Claims struct {
	Patient, Encounter, FHIRUser string
	JKT, X5T                     string
	Issued                       time.Time
	// Launch is, of a person's token, what the launch said and the token does
	// not carry. It is shared: it must not be changed.
	Launch authz.Context
}

func (e *Engine) inspect(ctx context.Context, tok string) (*known, *access.Principal, error) {
	hash := sha256.Sum256([]byte(tok))
	now := e.Clock()
	k := e.lookup(hash)
	fresh := k == nil
	if fresh {
		var err error
		if k, err = e.check(ctx, tok); err != nil {
			return nil, nil, err
		}
	}
	if !now.Before(k.expires) {
		return nil, nil, expired(k)
	}
	if now.Before(k.notBefore) {
		return nil, nil, invalid()
	}
	p, err := e.current(ctx, k, now)
	if err != nil {
		return nil, nil, err
	}
	if fresh {
		e.remember(hash, k)
	}
	return k, p, nil
}

// possession checks that the caller has the key that the token is bound to.
func (e *Engine) possession(r *http.Request, k *known, tok string, proven bool) error {
	cnf := k.claims.Confirm
	if cnf.X5T != "" && !dpop.Equal(cnf.X5T, dpop.Thumbprint(r)) {
		return invalid()
	}
	if (cnf.JKT != "") != proven {
		return invalid() // RFC 9449 7.1: a bound token is no bearer token
	}
	if !proven {
		return nil
	}
	refuse := func(err error) error {
		code := "invalid_dpop_proof"
		if errors.Is(err, dpop.ErrNonce) {
			code = "use_dpop_nonce" // RFC 9449 9
		}
		return &fhir.Error{Kind: fhir.Unauthorized, Op: "policy.Authenticate",
			Issues: []fhir.Issue{{Code: "login", Diagnostics: code}},
			Err: errors.Join(err, access.Challenge(`DPoP error="`+code+`", algs="`+
				strings.Join(dpop.Algs(), " ")+`"`))}
	}
	proof, err := dpop.Verify(r, e.Issuer+r.URL.EscapedPath(), tok, e.Clock(), e.Nonces)
	if err != nil {
		return refuse(err)
	}
	if proof == nil || !dpop.Equal(proof.JKT, cnf.JKT) {
		return refuse(nil)
	}
	if _, err := e.Grants.State.Commit(r.Context(), &store.Batch{State: []store.StateWrite{proof.Use()}}); err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return refuse(err)
		}
		return fhir.Wrap("policy.Authenticate", err)
	}
	return nil
}

func (e *Engine) lookup(hash [32]byte) *known {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		return nil
	}
	k, _ := e.known.Get(hash)
	return k
}

// remember caches the result of check for a token.
func (e *Engine) remember(hash [32]byte, k *known) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		e.known, _ = simplelru.NewLRU[[32]byte, *known](maxCached, nil) // fails only for a size below one
	}
	e.known.Add(hash, k)
}

// check is what never changes about a token.
func (e *Engine) check(ctx context.Context, tok string) (*known, error) {
	if e.Outside != nil {
		t, ok, err := e.Outside.Verify(ctx, tok)
		if err != nil {
			return nil, err
		}
		if ok {
			return e.checkOutside(t)
		}
	}
	c, err := e.Keys.Verify(tok, token.Type)
	if err != nil {
		return nil, invalid()
	}
	longest := token.MaxLife
	if c.Authz != "" {
		longest = token.MaxUserLife
	}
	if c.Iss != e.Issuer || len(c.Aud) != 1 || c.Aud[0] != e.Audience || c.Sub == "" || c.ClientID == "" ||
		c.Jti == "" || c.Exp == nil || c.Iat == nil || *c.Exp-*c.Iat > longest.Seconds() {
		return nil, invalid()
	}
	// The server's own clock may have gone back since (smart/oauth/token).
	k := &known{claims: c, notBefore: time.Unix(int64(*c.Iat), 0).Add(-client.Skew),
		expires: time.Unix(int64(*c.Exp), 0).UTC()}
	if c.Nbf != nil && int64(*c.Nbf) > k.notBefore.Unix() {
		k.notBefore = time.Unix(int64(*c.Nbf), 0)
	}
	if k.set, err = e.Scopes.Parse(c.Scope); err != nil {
		return nil, invalid()
	}
	personal := len(k.set.At(scope.Patient))+len(k.set.At(scope.User)) > 0
	if c.Authz == "" && personal || (c.Authz != "" || !c.Confirm.IsZero()) && e.Grants == nil {
		return nil, invalid()
	}
	return k, nil
}

func (e *Engine) checkOutside(t issuer.Token) (*known, error) {
	set, err := e.Scopes.Offered(t.Scope)
	if err != nil || e.Grants == nil && t.JKT != "" {
		return nil, invalid()
	}
	if t.Allowed != "" {
		allowed, err := e.Scopes.Parse(t.Allowed)
		if err != nil {
			return nil, invalid()
		}
		set = scope.Narrow(set, allowed)
	}
	if t.Person || t.Allowed == "" {
		set = slices.DeleteFunc(set, func(s scope.Scope) bool { return s.Level == scope.System })
	}
	if !t.Person {
		set = set.At(scope.System)
	}
	k := &known{token: t, outside: true, set: set, notBefore: t.NotBefore, expires: t.Expires}
	k.claims = compact.Claims{Iss: t.Issuer, Sub: t.Subject, ClientID: t.ClientID, Jti: t.ID, Patient: t.Patient,
		Confirm: compact.Confirm{JKT: t.JKT, X5T: t.X5T}}
	return k, nil
}

// current asks what may have changed since the token was made, and returns the
// principal compiled from it.
func (e *Engine) current(ctx context.Context, k *known, now time.Time) (*access.Principal, error) {
	c, err := e.Clients.Get(ctx, k.claims.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	if err != nil || c.Disabled {
		return nil, invalid()
	}
	if e.Grants != nil && k.claims.Jti != "" {
		ended, err := e.Grants.TokenRevoked(ctx, k.claims.Jti)
		if err != nil {
			return nil, err
		}
		if ended {
			return nil, invalid()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.principal != nil && k.principal.Grant.RecordsConsent != c.RecordsConsent {
		k.principal = nil
	}
	before := k.principal
	p, err := e.compile(ctx, k, c, now)
	if err == nil && p != before {
		p.Grant.Recheck = e.still(k, p)
	}
	return p, err
}

// compile returns the principal of a token as its client, its person and its
// authorization are now. k is locked.
func (e *Engine) compile(ctx context.Context, k *known, c client.Client, now time.Time) (*access.Principal, error) {
	switch {
	case k.outside:
		return e.compileOutside(k, c)
	case k.claims.Authz != "":
		return e.compilePerson(ctx, k, c, now)
	}
	if k.principal == nil {
		k.principal = &access.Principal{ClientID: c.ID, ClientName: c.Name, Subject: k.claims.Sub,
			Issuer: k.claims.Iss, TokenID: k.claims.Jti,
			Scope: k.claims.Scope, Expires: k.expires,
			Grant: &access.Grant{Recipient: c.ID, Rules: k.set.Rules(), Consents: e.Consents,
				RecordsConsent: c.RecordsConsent}}
	}
	return k.principal, nil
}

// still returns the Still of a principal that was compiled from k.
func (e *Engine) still(k *known, p *access.Principal) func(context.Context) error {
	var good atomic.Uint64 // commit as of which p was found good last
	return func(ctx context.Context) error {
		now := e.Clock()
		if !now.Before(k.expires) {
			return invalid()
		}
		var latest store.Seq
		if e.Latest != nil { // before the questions: their answers are at least that new
			if latest = e.Latest(); latest != 0 && uint64(latest) == good.Load() {
				return nil
			}
		}
		q, err := e.current(ctx, k, now)
		if err != nil {
			return err
		}
		if !sameRights(p, q) {
			return fhir.Errorf(fhir.Unavailable, "policy.Still",
				"what this token may do has changed while the request ran; repeat the request")
		}
		good.Store(uint64(latest))
		return nil
	}
}

// sameRights reports whether two principals of one token may do the same. A
// refreshed token compiles its principal anew.
func sameRights(p, q *access.Principal) bool {
	return p == q || p.ClientID == q.ClientID && p.Patient == q.Patient && p.Authorization == q.Authorization &&
		p.Grant.Person == q.Grant.Person &&
		p.Grant.RecordsConsent == q.Grant.RecordsConsent && reflect.DeepEqual(p.Grant.Rules, q.Grant.Rules)
}

// compilePerson is for this server's own token of a person. k is locked.
func (e *Engine) compilePerson(ctx context.Context, k *known, c client.Client,
	now time.Time) (*access.Principal, error) {
	rec, err := e.Grants.Changed(ctx, k.claims.Authz, &k.record)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	if err != nil || !rec.Live(now) || rec.ClientID != k.claims.ClientID || rec.Subject.ID != k.claims.Sub {
		return nil, invalid()
	}
	roles := rec.Subject.Roles
	if e.Roles != nil {
		var ok bool
		if roles, ok, err = e.Roles(ctx, rec.Subject); err != nil {
			return nil, err
		}
		if !ok {
			return nil, invalid()
		}
	}
	if k.principal != nil && slices.Equal(k.roles, roles) && rec == &k.record {
		return k.principal, nil
	}
	f := Facts{Scopes: k.set, Patient: k.claims.Patient, FHIRUser: rec.Subject.FHIRUser}
	p := &access.Principal{ClientID: c.ID, ClientName: c.Name, Subject: k.claims.Sub, Issuer: k.claims.Iss,
		TokenID: k.claims.Jti,
		Scope:   k.claims.Scope, Expires: k.expires, Authorization: rec.ID, Patient: k.claims.Patient, Roles: roles,
		ACR: rec.Subject.ACR, AuthTime: rec.Subject.AuthTime, DPoP: k.claims.Confirm.JKT != ""}
	e.finish(p, f, c)
	if e.ConsentsOf != nil {
		p.Grant.Consents = e.ConsentsOf(p.Subject, rec.ID)
	}
	k.record, k.roles, k.principal = *rec, slices.Clone(roles), p
	return p, nil
}

func (e *Engine) finish(p *access.Principal, f Facts, c client.Client) {
	if e.RoleRules != nil {
		f.Roles = e.RoleRules(Counting(p.Roles, f.FHIRUser))
	}
	if !f.FHIRUser.IsZero() {
		p.FHIRUser = f.FHIRUser.String()
	}
	p.Grant = &access.Grant{Recipient: p.ClientID, Rules: Compile(f), Consents: e.Consents, Person: true,
		RecordsConsent: c.RecordsConsent}
}

// compileOutside is for a token of an outside issuer: never more than its
// client is registered for here. k is locked.
func (e *Engine) compileOutside(k *known, c client.Client) (*access.Principal, error) {
	allowed, err := e.Scopes.Parse(c.Scope)
	if err != nil {
		return nil, invalid()
	}
	set := scope.Narrow(k.set, allowed)
	if k.principal != nil && k.principal.Scope == set.String() {
		return k.principal, nil
	}
	t := k.token
	p := &access.Principal{ClientID: c.ID, ClientName: c.Name, Subject: t.Subject, Issuer: t.Issuer, TokenID: t.ID,
		Scope: set.String(), Expires: t.Expires}
	if t.Person {
		p.Patient, p.Roles, p.ACR, p.AuthTime, p.DPoP = t.Patient, t.Roles, t.ACR, t.AuthTime, t.JKT != ""
		e.finish(p, Facts{Scopes: set, Patient: t.Patient, FHIRUser: t.FHIRUser}, c)
	} else {
		p.Grant = &access.Grant{Recipient: c.ID, Rules: set.Rules(), Consents: e.Consents,
			RecordsConsent: c.RecordsConsent}
	}
	k.principal = p
	return p, nil
}
