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

// maxCached bounds the number of tokens in the cache.
const maxCached = 16384

// Engine authenticates requests. Its exported fields must not change after the
// first use. It is safe for concurrent use. Keys, Clients, Scopes, Issuer,
// Audience and Clock are required. Without Authorizations, tokens of persons
// are refused and no token can be revoked before it expires.
type Engine struct {
	Keys           *keys.Ring
	Clients        *client.Registry
	Consents       access.Consents
	Scopes         scope.Parser
	Issuer         string
	Audience       string // the FHIR base URL
	Clock          func() time.Time
	Authorizations *authz.Store
	// RoleRules returns the rules of a set of roles. If it is nil, roles allow
	// nothing, so that no person's token can access data.
	RoleRules func(roles []string) []access.Rule
	// Roles returns the current roles of a person. If the account has ended or
	// has changed since the sign-in, ok is false. If Roles is nil, the roles of
	// the sign-in apply.
	Roles func(ctx context.Context, s authz.Subject) (roles []string, ok bool, err error)
	// ConsentsOf returns the consents that apply to a person of this server
	// under an authorization, including emergency access. If it is nil,
	// Consents applies.
	ConsentsOf func(subjectID, authorization string) access.Consents
	// Nonces checks the nonces of DPoP proofs. If it is nil, proofs need no
	// nonce.
	Nonces *dpop.Nonces
	// ExternalIssuers verifies tokens of other issuers. If it is nil, such
	// tokens are refused.
	ExternalIssuers *issuer.Verifier
	// Latest returns the sequence number of the latest commit. While it stays
	// the same, a grant that passed its recheck is not checked again until its
	// token expires. If Latest is nil, every recheck reads the store.
	Latest func() store.Seq
	// Context becomes access.Grant.Context of every grant.
	Context func(typ, id string) *access.Facts

	mu    sync.Mutex                               // guards cache
	cache *simplelru.LRU[[32]byte, *verifiedToken] // by SHA-256 of the token
}

// verifiedToken is a token with a verified signature and verified claims.
// Everything that can change after the token was issued is checked for each
// request.
type verifiedToken struct {
	claims    compact.Claims
	set       scope.Set
	issued    issuer.Token // from an external issuer
	external  bool
	notBefore time.Time
	expires   time.Time

	// mu guards the fields below.
	mu        sync.Mutex
	record    authz.Record      // version that principal was compiled from
	roles     []string          // roles that principal was compiled from
	principal *access.Principal // nil until it is compiled
}

func invalid() error {
	return fhir.Errorf(fhir.Unauthorized, "policy.Authenticate", "invalid_token")
}

// expired returns the error for an expired token. Because the token is genuine,
// the error may name the reason, so that the client requests a new token (RFC
// 6750 3.1).
func expired(tok *verifiedToken) error {
	scheme := "Bearer"
	if tok.claims.Confirm.JKT != "" {
		scheme = "DPoP"
	}
	return &fhir.Error{Kind: fhir.Unauthorized, Op: "policy.Authenticate",
		Issues: []fhir.Issue{{Code: "expired",
			Diagnostics: "the access token has expired; get a new one from the token endpoint"}},
		Err: access.Challenge(scheme + ` error="invalid_token", error_description="The access token has expired"`)}
}

// Authenticate returns the caller's principal. Requests with the same token
// share the principal, so it must not be modified. If authentication fails, the
// error is Unauthorized. Except for an expired token, it does not disclose the
// reason.
func (e *Engine) Authenticate(r *http.Request) (*access.Principal, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return nil, fhir.Errorf(fhir.Unauthorized, "policy.Authenticate",
			"an access token is required in the Authorization header")
	}
	if len(values) > 1 {
		return nil, invalid()
	}
	scheme, raw, ok := strings.Cut(values[0], " ")
	isDPoP := strings.EqualFold(scheme, "DPoP")
	if !ok || !isDPoP && !strings.EqualFold(scheme, "Bearer") || len(raw) > compact.MaxToken {
		return nil, invalid()
	}
	tok, p, err := e.inspect(r.Context(), raw)
	if err != nil {
		return nil, err
	}
	return p, e.possession(r, tok, raw, isDPoP)
}

// Inspect validates a token as Authenticate does, except for proof of
// possession. It returns the claims that introspection discloses.
func (e *Engine) Inspect(ctx context.Context, raw string) (*access.Principal, Claims, error) {
	tok, p, err := e.inspect(ctx, raw)
	if err != nil {
		return nil, Claims{}, err
	}
	c := Claims{Patient: p.Patient, Encounter: tok.claims.Encounter, FHIRUser: tok.claims.FHIRUser,
		JKT: tok.claims.Confirm.JKT, X5T: tok.claims.Confirm.X5T}
	if tok.claims.Iat != nil {
		c.Issued = time.Unix(int64(*tok.claims.Iat), 0).UTC()
	}
	tok.mu.Lock()
	defer tok.mu.Unlock()
	c.Launch = tok.record.Context
	return p, c, nil
}

// Claims are the facts about a token that its Principal does not hold.
type Claims struct {
	Patient, Encounter, FHIRUser string
	JKT, X5T                     string
	Issued                       time.Time
	// Launch is the launch context of a person's token. It is shared and must
	// not be modified.
	Launch authz.Context
}

func (e *Engine) inspect(ctx context.Context, raw string) (*verifiedToken, *access.Principal, error) {
	hash := sha256.Sum256([]byte(raw))
	now := e.Clock()
	tok := e.cached(hash)
	fresh := tok == nil
	if fresh {
		var err error
		if tok, err = e.verify(ctx, raw); err != nil {
			return nil, nil, err
		}
	}
	if !now.Before(tok.expires) {
		return nil, nil, expired(tok)
	}
	if now.Before(tok.notBefore) {
		return nil, nil, invalid()
	}
	p, err := e.principal(ctx, tok, now)
	if err != nil {
		return nil, nil, err
	}
	if fresh {
		e.store(hash, tok)
	}
	return tok, p, nil
}

// possession checks that the caller holds the key or certificate that the token
// is bound to.
func (e *Engine) possession(r *http.Request, tok *verifiedToken, raw string, isDPoP bool) error {
	cnf := tok.claims.Confirm
	if cnf.X5T != "" && !dpop.Equal(cnf.X5T, dpop.Thumbprint(r)) {
		return invalid()
	}
	if (cnf.JKT != "") != isDPoP {
		return invalid() // a bound token is not a bearer token (RFC 9449 7.1)
	}
	if !isDPoP {
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
	proof, err := dpop.Verify(r, e.Issuer+r.URL.EscapedPath(), raw, e.Clock(), e.Nonces)
	if err != nil {
		return refuse(err)
	}
	if proof == nil || !dpop.Equal(proof.JKT, cnf.JKT) {
		return refuse(nil)
	}
	if _, err := e.Authorizations.State.Commit(r.Context(),
		&store.Batch{State: []store.StateWrite{proof.Use()}}); err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return refuse(err)
		}
		return fhir.Wrap("policy.Authenticate", err)
	}
	return nil
}

func (e *Engine) cached(hash [32]byte) *verifiedToken {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cache == nil {
		return nil
	}
	tok, _ := e.cache.Get(hash)
	return tok
}

// store adds a token to the cache.
func (e *Engine) store(hash [32]byte, tok *verifiedToken) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cache == nil {
		e.cache, _ = simplelru.NewLRU[[32]byte, *verifiedToken](maxCached, nil) // fails only for a size below one
	}
	e.cache.Add(hash, tok)
}

// verify validates the signature and the claims of a token.
func (e *Engine) verify(ctx context.Context, raw string) (*verifiedToken, error) {
	if e.ExternalIssuers != nil {
		t, ok, err := e.ExternalIssuers.Verify(ctx, raw)
		if err != nil {
			return nil, err
		}
		if ok {
			return e.fromExternal(t)
		}
	}
	claims, err := e.Keys.Verify(raw, token.Type)
	switch {
	case errors.Is(err, compact.ErrMalformed):
		return nil, invalid()
	case err != nil: // the keys cannot be read
		return nil, err
	}
	longest := token.MaxLife
	if claims.Authz != "" {
		longest = token.MaxUserLife
	}
	if claims.Iss != e.Issuer || len(claims.Aud) != 1 || claims.Aud[0] != e.Audience || claims.Sub == "" ||
		claims.ClientID == "" || claims.Jti == "" || claims.Exp == nil || claims.Iat == nil ||
		*claims.Exp-*claims.Iat > longest.Seconds() {
		return nil, invalid()
	}
	// The clock may have been set back since the token was issued
	// (smart/oauth/token).
	tok := &verifiedToken{claims: claims, notBefore: time.Unix(int64(*claims.Iat), 0).Add(-client.Skew),
		expires: time.Unix(int64(*claims.Exp), 0).UTC()}
	if claims.Nbf != nil && int64(*claims.Nbf) > tok.notBefore.Unix() {
		tok.notBefore = time.Unix(int64(*claims.Nbf), 0)
	}
	if tok.set, err = e.Scopes.Parse(claims.Scope); err != nil {
		return nil, invalid()
	}
	personal := len(tok.set.At(scope.Patient))+len(tok.set.At(scope.User)) > 0
	if claims.Authz == "" && personal ||
		(claims.Authz != "" || !claims.Confirm.IsZero()) && e.Authorizations == nil {
		return nil, invalid()
	}
	return tok, nil
}

// fromExternal returns the verified token for a token of an external issuer.
func (e *Engine) fromExternal(t issuer.Token) (*verifiedToken, error) {
	set, err := e.Scopes.Offered(t.Scope)
	if err != nil || e.Authorizations == nil && t.JKT != "" {
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
	tok := &verifiedToken{issued: t, external: true, set: set, notBefore: t.NotBefore, expires: t.Expires}
	tok.claims = compact.Claims{Iss: t.Issuer, Sub: t.Subject, ClientID: t.ClientID, Jti: t.ID, Patient: t.Patient,
		Confirm: compact.Confirm{JKT: t.JKT, X5T: t.X5T}}
	return tok, nil
}

// principal checks everything that may have changed since the token was issued
// and returns the principal that is compiled from it.
func (e *Engine) principal(ctx context.Context, tok *verifiedToken, now time.Time) (*access.Principal, error) {
	c, err := e.Clients.Get(ctx, tok.claims.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	if err != nil || c.Disabled {
		return nil, invalid()
	}
	if e.Authorizations != nil && tok.claims.Jti != "" {
		ended, err := e.Authorizations.TokenRevoked(ctx, tok.claims.Jti)
		if err != nil {
			return nil, err
		}
		if ended {
			return nil, invalid()
		}
	}
	tok.mu.Lock()
	defer tok.mu.Unlock()
	if tok.principal != nil && (tok.principal.Grant.RecordsConsent != c.RecordsConsent ||
		tok.principal.Grant.PhoneMade != c.PhoneMade) {
		tok.principal = nil
	}
	before := tok.principal
	p, err := e.compile(ctx, tok, c, now)
	if err == nil && p != before {
		p.Grant.Recheck = e.recheck(tok, p)
	}
	return p, err
}

// compile returns the principal of a token for the current state of its client,
// its person and its authorization. The caller holds tok.mu.
func (e *Engine) compile(ctx context.Context, tok *verifiedToken, c client.Client,
	now time.Time) (*access.Principal, error) {
	switch {
	case tok.external:
		return e.compileExternal(tok, c)
	case tok.claims.Authz != "":
		return e.compilePerson(ctx, tok, c, now)
	}
	if tok.principal == nil {
		tok.principal = &access.Principal{ClientID: c.ID, ClientName: c.Name, Subject: tok.claims.Sub,
			Issuer: tok.claims.Iss, TokenID: tok.claims.Jti,
			Scope: tok.claims.Scope, Expires: tok.expires,
			Grant: &access.Grant{Recipient: c.ID, Rules: tok.set.Rules(), Consents: e.Consents,
				Context:        e.Context,
				RecordsConsent: c.RecordsConsent, PhoneMade: c.PhoneMade}}
	}
	return tok.principal, nil
}

// recheck returns the function that checks whether p, which was compiled from
// tok, still has its rights.
func (e *Engine) recheck(tok *verifiedToken, p *access.Principal) func(context.Context) error {
	var checked atomic.Uint64 // latest commit at the last successful check
	return func(ctx context.Context) error {
		now := e.Clock()
		if !now.Before(tok.expires) {
			return invalid()
		}
		var latest store.Seq
		if e.Latest != nil { // read before the checks, which see this commit or a later one
			if latest = e.Latest(); latest != 0 && uint64(latest) == checked.Load() {
				return nil
			}
		}
		current, err := e.principal(ctx, tok, now)
		if err != nil {
			return err
		}
		if !sameRights(p, current) {
			return fhir.Errorf(fhir.Unavailable, "policy.Recheck",
				"the rights of the access token changed during the request; repeat the request")
		}
		checked.Store(uint64(latest))
		return nil
	}
}

// sameRights reports whether two principals of one token have the same rights.
// The principal of a token is compiled again after a refresh of its
// authorization.
func sameRights(p, other *access.Principal) bool {
	return p == other || p.ClientID == other.ClientID && p.Patient == other.Patient &&
		p.Authorization == other.Authorization &&
		p.Grant.Person == other.Grant.Person &&
		p.Grant.RecordsConsent == other.Grant.RecordsConsent && p.Grant.PhoneMade == other.Grant.PhoneMade &&
		reflect.DeepEqual(p.Grant.Rules, other.Grant.Rules)
}

// compilePerson compiles a person's token that this server issued. The caller
// holds tok.mu.
func (e *Engine) compilePerson(ctx context.Context, tok *verifiedToken, c client.Client,
	now time.Time) (*access.Principal, error) {
	rec, err := e.Authorizations.Reload(ctx, tok.claims.Authz, &tok.record)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	if err != nil || !rec.Live(now) || rec.ClientID != tok.claims.ClientID || rec.Subject.ID != tok.claims.Sub {
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
	if tok.principal != nil && slices.Equal(tok.roles, roles) && rec == &tok.record {
		return tok.principal, nil
	}
	facts := Facts{Scopes: tok.set, Patient: tok.claims.Patient, FHIRUser: rec.Subject.FHIRUser}
	p := &access.Principal{ClientID: c.ID, ClientName: c.Name, Subject: tok.claims.Sub, Issuer: tok.claims.Iss,
		TokenID: tok.claims.Jti,
		Scope:   tok.claims.Scope, Expires: tok.expires, Authorization: rec.ID, Patient: tok.claims.Patient,
		Roles: roles,
		ACR:   rec.Subject.ACR, AuthTime: rec.Subject.AuthTime, DPoP: tok.claims.Confirm.JKT != ""}
	e.setGrant(p, facts, c)
	if e.ConsentsOf != nil {
		p.Grant.Consents = e.ConsentsOf(p.Subject, rec.ID)
	}
	tok.record, tok.roles, tok.principal = *rec, slices.Clone(roles), p
	return p, nil
}

// setGrant compiles the grant of a person's principal.
func (e *Engine) setGrant(p *access.Principal, facts Facts, c client.Client) {
	if e.RoleRules != nil {
		facts.Roles = e.RoleRules(EffectiveRoles(p.Roles, facts.FHIRUser))
	}
	if !facts.FHIRUser.IsZero() {
		p.FHIRUser = facts.FHIRUser.String()
	}
	p.Grant = &access.Grant{Recipient: p.ClientID, Rules: Compile(facts), Consents: e.Consents, Person: true,
		Context:        e.Context,
		RecordsConsent: c.RecordsConsent, PhoneMade: c.PhoneMade}
}

// compileExternal compiles a token of an external issuer. Its scopes are
// narrowed to those that the client is registered for here. The caller holds
// tok.mu.
func (e *Engine) compileExternal(tok *verifiedToken, c client.Client) (*access.Principal, error) {
	allowed, err := e.Scopes.Parse(c.Scope)
	if err != nil {
		return nil, invalid()
	}
	set := scope.Narrow(tok.set, allowed)
	if tok.principal != nil && tok.principal.Scope == set.String() {
		return tok.principal, nil
	}
	t := tok.issued
	p := &access.Principal{ClientID: c.ID, ClientName: c.Name, Subject: t.Subject, Issuer: t.Issuer, TokenID: t.ID,
		Scope: set.String(), Expires: t.Expires}
	if t.Person {
		p.Patient, p.Roles, p.ACR, p.AuthTime, p.DPoP = t.Patient, t.Roles, t.ACR, t.AuthTime, t.JKT != ""
		e.setGrant(p, Facts{Scopes: set, Patient: t.Patient, FHIRUser: t.FHIRUser}, c)
	} else {
		p.Grant = &access.Grant{Recipient: c.ID, Rules: set.Rules(), Consents: e.Consents,
			Context:        e.Context,
			RecordsConsent: c.RecordsConsent, PhoneMade: c.PhoneMade}
	}
	tok.principal = p
	return p, nil
}
