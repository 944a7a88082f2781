package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/smart/internal/compact"
)

const (
	// accessAlg signs access tokens. They are verified at every request, and
	// P-256 is nine times as fast as P-384.
	accessAlg = "ES256"
	// IDAlg signs id_tokens, because all clients support it (OpenID Connect
	// Core 15.1).
	IDAlg = "RS256"
	// assertionAlg signs the assertions with which this server authenticates at
	// other servers (SMART Backend Services). These keys are not those of tokens: they
	// are published separately, so that a server that registers them accepts nothing
	// else that this server signs.
	assertionAlg = "ES384"
	// Lead is the time for which a key is published before it signs, so that
	// caches of the JWK Set contain it by then.
	Lead = 2 * time.Minute
	// assertionLead is Lead for the keys of assertions, which other servers cache for
	// longer than the header of the response permits.
	assertionLead = 24 * time.Hour

	rsaBits = 2048
	maxFile = 16 << 10
	// legacyOverlap is the time for which a key of an earlier release, with an
	// algorithm that is no longer used, still verifies.
	legacyOverlap = 15 * time.Minute
)

// Ring is the set of signing keys. It is safe for concurrent use.
type Ring struct {
	storage storage
	clock   func() time.Time
}

type signing struct {
	facts
	private crypto.Signer
}

// facts holds the members of a key file in addition to those of the key itself.
type facts struct {
	Kid     string `json:"kid"`
	Alg     string `json:"alg"`
	Use     string `json:"use"`
	Created int64  `json:"created"`
	Begins  int64  `json:"begins,omitempty"`  // time from which it signs
	Retires int64  `json:"retires,omitempty"` // 0 if it has not been replaced
	// For is "assertion" for a key of that purpose. A key with the algorithm of
	// assertions and without it signed access tokens in an earlier release.
	For string `json:"for,omitempty"`
}

const forAssertion = "assertion"

// purposes returns the purposes of keys. Each is named by its algorithm.
func purposes() []string { return []string{accessAlg, IDAlg, assertionAlg} }

func (f facts) purpose() string {
	if f.For == forAssertion {
		return assertionAlg
	}
	if f.Alg == IDAlg {
		return IDAlg
	}
	return accessAlg
}

// Open reads the keys in dir/keys, and creates the directory and the first keys
// if they are missing. It refuses key files that other users may read.
func Open(dir string, clock func() time.Time) (*Ring, error) {
	files, err := openFiles(filepath.Join(dir, "keys"), clock().Unix())
	if err != nil {
		return nil, err
	}
	r := &Ring{storage: files, clock: clock}
	return r, r.complete(context.Background())
}

// OpenShared returns the ring of a cluster, with its keys in the vault, and creates the
// first keys if they are missing. Every process has the same keys at any time.
func OpenShared(ctx context.Context, vault *sealed.Vault, clock func() time.Time) (*Ring, error) {
	r := &Ring{storage: newVaultStorage(vault), clock: clock}
	return r, r.complete(ctx)
}

// complete creates a key for each purpose without one.
func (r *Ring) complete(ctx context.Context) error {
	return r.storage.change(ctx, nil, func(set keySet) (next keySet, err error) {
		for _, purpose := range purposes() {
			ks := set[purpose]
			if len(ks) > 0 && ks[0].Retires == 0 && ks[0].Alg == purpose {
				continue
			}
			if set, err = set.rotate(purpose, r.clock().Unix(), legacyOverlap, 0); err != nil {
				return nil, err
			}
			next = set
		}
		return next, nil
	})
}

func thumbprint(public any) (string, error) {
	k, err := jwk.FromRaw(public)
	if err != nil {
		return "", fhir.Wrap("keys.thumbprint", err)
	}
	sum, err := k.Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), fhir.Wrap("keys.thumbprint", err)
}

// Rotate creates new signing keys that sign immediately. The previous keys
// verify for overlap, which should be at least the lifetime of a token.
func (r *Ring) Rotate(overlap time.Duration) error {
	return r.storage.change(context.Background(), nil, func(set keySet) (_ keySet, err error) {
		for _, purpose := range purposes() {
			if set, err = set.rotate(purpose, r.clock().Unix(), overlap, 0); err != nil {
				return nil, err
			}
		}
		return set, nil
	})
}

func generate(alg string) (crypto.Signer, error) {
	if alg == IDAlg {
		return rsa.GenerateKey(rand.Reader, rsaBits)
	}
	if alg == assertionAlg {
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// members returns the members of a key as a JWK, together with those of f.
func members(raw any, f any) (map[string]any, error) {
	j, err := jwk.FromRaw(raw)
	if err != nil {
		return nil, fhir.Wrap("keys.members", err)
	}
	out := map[string]any{}
	for _, v := range []any{j, f} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fhir.Wrap("keys.members", err)
		}
		dec := json.NewDecoder(strings.NewReader(string(b)))
		dec.UseNumber()
		if err := dec.Decode(&out); err != nil {
			return nil, fhir.Wrap("keys.members", err)
		}
	}
	return out, nil
}

// Sign returns a compact JWS of the claims, signed with the current key for
// access tokens.
func (r *Ring) Sign(typ string, claims any) (string, error) { return r.sign(accessAlg, typ, claims) }

// SignID returns an id_token with the claims.
func (r *Ring) SignID(claims any) (string, error) { return r.sign(IDAlg, "JWT", claims) }

// SignAssertion returns a client assertion with the claims (RFC 7523).
func (r *Ring) SignAssertion(claims any) (string, error) { return r.sign(assertionAlg, "JWT", claims) }

func (r *Ring) sign(purpose, typ string, claims any) (string, error) {
	k, err := r.current(purpose)
	if err != nil {
		return "", err
	}
	s, err := compact.Sign(k.Alg, typ, k.Kid, claims, k.private)
	return s, fhir.Wrap("keys.Sign", err)
}

// current returns the newest key that has begun to sign, or the oldest if the
// clock was set back before all of them.
func (r *Ring) current(purpose string) (signing, error) {
	set, err := r.storage.keys(context.Background())
	if err != nil {
		return signing{}, err
	}
	ks, now := set[purpose], r.clock().Unix()
	for _, k := range ks {
		if k.Begins <= now {
			return k, nil
		}
	}
	if len(ks) == 0 {
		return signing{}, fhir.Errorf(fhir.Unavailable, "keys.Sign", "there is no key for %s; restart this server",
			purpose)
	}
	return ks[len(ks)-1], nil
}

// Verify returns the claims of a token with the given typ that was signed by
// this ring. It does not check the claims. The error is compact.ErrMalformed unless
// the keys of a cluster cannot be read.
func (r *Ring) Verify(token, typ string) (compact.Claims, error) {
	h, c, err := compact.Parse(token)
	if err != nil {
		return compact.Claims{}, err
	}
	// RFC 9068 lets typ carry the media type's full name.
	if !strings.EqualFold(strings.TrimPrefix(strings.ToLower(h.Typ), "application/"), typ) {
		return compact.Claims{}, compact.ErrMalformed
	}
	live, err := r.live(accessAlg)
	if err != nil {
		return compact.Claims{}, err
	}
	for _, k := range live {
		if k.Kid == h.Kid {
			if k.Alg == h.Alg && compact.Verify(token, k.Alg, k.private.Public()) {
				return c, nil
			}
			break
		}
	}
	return compact.Claims{}, compact.ErrMalformed
}

func (r *Ring) live(purpose string) ([]signing, error) {
	set, err := r.storage.keys(context.Background())
	now := r.clock().Unix()
	return slices.DeleteFunc(slices.Clone(set[purpose]), func(k signing) bool { return k.retired(now) }), err
}

// JWKS returns the public JWK Set of the keys that sign tokens.
func (r *Ring) JWKS() ([]byte, error) { return r.jwks(accessAlg, IDAlg) }

// AssertionJWKS returns the public JWK Set of the keys that sign assertions.
func (r *Ring) AssertionJWKS() ([]byte, error) { return r.jwks(assertionAlg) }

func (r *Ring) jwks(purposes ...string) ([]byte, error) {
	set := struct {
		Keys []map[string]any `json:"keys"`
	}{Keys: []map[string]any{}}
	var ks []signing
	for _, p := range purposes {
		live, err := r.live(p)
		if err != nil {
			return nil, err
		}
		ks = append(ks, live...)
	}
	for _, k := range ks {
		m, err := members(k.private.Public(), struct {
			Kid string `json:"kid"`
			Alg string `json:"alg"`
			Use string `json:"use"`
		}{k.Kid, k.Alg, k.Use})
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, m)
	}
	b, err := json.Marshal(set)
	return b, fhir.Wrap("keys.JWKS", err)
}

// AssertionPath is the path of the JWK Set that other servers register for this
// server as their client.
const AssertionPath = "/.well-known/client-jwks.json"

// ServeHTTP responds with the public JWK Set for the path.
func (r *Ring) ServeHTTP(w http.ResponseWriter, rq *http.Request) {
	set := r.JWKS
	if rq.URL.Path == AssertionPath {
		set = r.AssertionJWKS
	}
	b, err := set()
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	w.Header().Set("Access-Control-Allow-Origin", "*")
	if _, err := w.Write(b); err != nil {
		return // the client has disconnected
	}
}

// Mount registers the JWK Set of tokens at the path that discovery publishes, and
// that of assertions at AssertionPath.
func (r *Ring) Mount(m gin.IRouter) {
	m.GET("/.well-known/jwks.json", gin.WrapH(r))
	m.GET(AssertionPath, gin.WrapH(r))
}
