package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/fhir"
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
	dir   string
	clock func() time.Time

	mu   sync.RWMutex
	keys map[string][]signing // by purpose, newest first
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
	r := &Ring{dir: filepath.Join(dir, "keys"), clock: clock, keys: map[string][]signing{}}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fhir.Wrap("keys.Open", err)
	}
	names, err := filepath.Glob(filepath.Join(r.dir, "*.jwk"))
	if err != nil {
		return nil, fhir.Wrap("keys.Open", err)
	}
	now := clock().Unix()
	for _, name := range names {
		k, err := read(name)
		if err != nil {
			return nil, err
		}
		if k.Retires != 0 && k.Retires <= now {
			if err := os.Remove(name); err != nil {
				return nil, fhir.Wrap("keys.Open", err)
			}
			continue
		}
		r.keys[k.purpose()] = append(r.keys[k.purpose()], k)
	}
	for _, purpose := range purposes() {
		ks := r.keys[purpose]
		slices.SortFunc(ks, newest)
		if len(ks) == 0 || ks[0].Retires != 0 || ks[0].Alg != purpose {
			if err := r.rotate(purpose, legacyOverlap, 0); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

func newest(a, b signing) int {
	if (a.Retires == 0) != (b.Retires == 0) {
		if a.Retires == 0 {
			return -1
		}
		return 1
	}
	return int(b.Created - a.Created)
}

func read(name string) (signing, error) {
	refuse := func(rule string) (signing, error) {
		return signing{}, fhir.Errorf(fhir.Internal, "keys.Open", "key file %s: %s", filepath.Base(name), rule)
	}
	info, err := os.Lstat(name)
	if err != nil {
		return signing{}, fhir.Wrap("keys.Open", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() > maxFile {
		return refuse("must be a regular file that only its owner may read (mode 0600)")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return signing{}, fhir.Wrap("keys.Open", err)
	}
	key := signing{}
	if err := json.Unmarshal(b, &key.facts); err != nil {
		return refuse("not a JWK")
	}
	j, err := jwk.ParseKey(b)
	if err != nil {
		return refuse("not a JWK")
	}
	var raw any
	if err := j.Raw(&raw); err != nil {
		return refuse("not a private key")
	}
	switch p := raw.(type) {
	case *ecdsa.PrivateKey:
		if _, err := p.ECDH(); err != nil ||
			key.Alg != map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384"}[p.Curve] {
			return refuse("the curve does not fit the algorithm")
		}
		key.private = p
	case *rsa.PrivateKey:
		if key.Alg != IDAlg || p.Validate() != nil || p.N.BitLen() < rsaBits {
			return refuse("not an RSA key of at least 2048 bits for RS256")
		}
		key.private = p
	default:
		return refuse("not a private key for signing")
	}
	kid, err := thumbprint(key.private.Public())
	if err != nil {
		return signing{}, err
	}
	if kid != key.Kid || filepath.Base(name) != kid+".jwk" {
		return refuse("the name is not the key's thumbprint")
	}
	return key, nil
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
	for _, purpose := range purposes() {
		if err := r.rotate(purpose, overlap, 0); err != nil {
			return err
		}
	}
	return nil
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

// rotate creates a key that signs after lead.
func (r *Ring) rotate(alg string, overlap, lead time.Duration) error {
	private, err := generate(alg)
	if err != nil {
		return fhir.Wrap("keys.Rotate", err)
	}
	kid, err := thumbprint(private.Public())
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now, old := r.clock().Unix(), r.keys[alg]
	next := signing{facts: facts{Kid: kid, Alg: alg, Use: "sig", Created: now}, private: private}
	if alg == assertionAlg {
		next.For = forAssertion
	}
	if len(old) > 0 && old[0].Created >= now {
		next.Created = old[0].Created + 1 // keeps the order within one second and if the clock is wrong
	}
	if lead > 0 {
		next.Begins = now + int64(lead/time.Second)
	}
	// The new key is written first. A crash in between leaves two keys that
	// verify.
	if err := r.write(next); err != nil {
		return err
	}
	kept := []signing{next}
	for _, k := range old {
		if k.Retires == 0 {
			k.Retires = now + int64((lead+overlap)/time.Second)
			if err := r.write(k); err != nil {
				return err
			}
		}
		if k.Retires > now {
			kept = append(kept, k)
		} else if err := os.Remove(filepath.Join(r.dir, k.Kid+".jwk")); err != nil {
			return fhir.Wrap("keys.Rotate", err)
		}
	}
	r.keys[alg] = kept
	return nil
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

// write replaces the key file atomically and durably.
func (r *Ring) write(key signing) error {
	f, err := members(key.private, key.facts)
	if err != nil {
		return err
	}
	b, err := json.Marshal(f)
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	tmp, err := os.CreateTemp(r.dir, "new-*") // mode 0600
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(r.dir, key.Kid+".jwk"))
	}
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	d2, err := os.Open(r.dir)
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	err = d2.Sync()
	if cerr := d2.Close(); err == nil {
		err = cerr
	}
	return fhir.Wrap("keys.write", err)
}

// Sign returns a compact JWS of the claims, signed with the current key for
// access tokens.
func (r *Ring) Sign(typ string, claims any) (string, error) { return r.sign(accessAlg, typ, claims) }

// SignID returns an id_token with the claims.
func (r *Ring) SignID(claims any) (string, error) { return r.sign(IDAlg, "JWT", claims) }

// SignAssertion returns a client assertion with the claims (RFC 7523).
func (r *Ring) SignAssertion(claims any) (string, error) { return r.sign(assertionAlg, "JWT", claims) }

func (r *Ring) sign(purpose, typ string, claims any) (string, error) {
	k := r.current(purpose)
	s, err := compact.Sign(k.Alg, typ, k.Kid, claims, k.private)
	return s, fhir.Wrap("keys.Sign", err)
}

// current returns the newest key that has begun to sign, or the oldest if the
// clock was set back before all of them.
func (r *Ring) current(purpose string) signing {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ks, now := r.keys[purpose], r.clock().Unix()
	for _, k := range ks {
		if k.Begins <= now {
			return k
		}
	}
	return ks[len(ks)-1]
}

// Verify returns the claims of a token with the given typ that was signed by
// this ring. It does not check the claims.
func (r *Ring) Verify(token, typ string) (compact.Claims, error) {
	h, c, err := compact.Parse(token)
	if err != nil {
		return compact.Claims{}, err
	}
	// RFC 9068 lets typ carry the media type's full name.
	if !strings.EqualFold(strings.TrimPrefix(strings.ToLower(h.Typ), "application/"), typ) {
		return compact.Claims{}, compact.ErrMalformed
	}
	for _, k := range r.live(accessAlg) {
		if k.Kid == h.Kid {
			if k.Alg == h.Alg && compact.Verify(token, k.Alg, k.private.Public()) {
				return c, nil
			}
			break
		}
	}
	return compact.Claims{}, compact.ErrMalformed
}

func (r *Ring) live(purpose string) []signing {
	r.mu.RLock()
	defer r.mu.RUnlock()
	now := r.clock().Unix()
	return slices.DeleteFunc(slices.Clone(r.keys[purpose]),
		func(k signing) bool { return k.Retires != 0 && k.Retires <= now })
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
		ks = append(ks, r.live(p)...)
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
