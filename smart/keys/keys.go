package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

// Alg is the algorithm of every key in a Ring.
const Alg = "ES384"

const maxFile = 16 << 10

// Ring is the set of keys. It is safe for concurrent use.
type Ring struct {
	dir   string
	clock func() time.Time

	mu   sync.RWMutex
	keys []signing // newest first; keys[0] signs
}

type signing struct {
	kid     string
	private *ecdsa.PrivateKey
	point   []byte // uncompressed: 4, X, Y
	created int64
	retires int64 // 0: not replaced
}

// file is a private key at rest: a JWK with two members of ours.
type file struct {
	Kty     string `json:"kty"`
	Crv     string `json:"crv"`
	X       string `json:"x"`
	Y       string `json:"y"`
	D       string `json:"d"`
	Kid     string `json:"kid"`
	Alg     string `json:"alg"`
	Use     string `json:"use"`
	Created int64  `json:"created"`
	Retires int64  `json:"retires,omitempty"`
}

// Open reads the keys below dir/keys, making the directory and a first key
// where there is none. It refuses a key file that others may read.
func Open(dir string, clock func() time.Time) (*Ring, error) {
	r := &Ring{dir: filepath.Join(dir, "keys"), clock: clock}
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
		if k.retires != 0 && k.retires <= now {
			if err := os.Remove(name); err != nil {
				return nil, fhir.Wrap("keys.Open", err)
			}
			continue
		}
		r.keys = append(r.keys, k)
	}
	r.sort()
	if len(r.keys) == 0 || r.keys[0].retires != 0 {
		return r, r.Rotate(0)
	}
	return r, nil
}

func (r *Ring) sort() {
	slices.SortFunc(r.keys, func(a, b signing) int {
		if (a.retires == 0) != (b.retires == 0) {
			if a.retires == 0 {
				return -1
			}
			return 1
		}
		return int(b.created - a.created)
	})
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
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return refuse("not a JWK")
	}
	d, err := base64.RawURLEncoding.DecodeString(f.D)
	if err != nil || f.Kty != "EC" || f.Crv != "P-384" || f.Alg != Alg {
		return refuse("not an EC key on P-384 for ES384")
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), d)
	if err != nil {
		return refuse("not an EC key on P-384 for ES384")
	}
	kid, point, err := describe(&private.PublicKey)
	if err != nil {
		return signing{}, err
	}
	if kid != f.Kid || filepath.Base(name) != kid+".jwk" {
		return refuse("the name is not the key's thumbprint")
	}
	return signing{kid: kid, private: private, point: point, created: f.Created, retires: f.Retires}, nil
}

// describe returns the thumbprint and the uncompressed point of p.
func describe(p *ecdsa.PublicKey) (kid string, point []byte, err error) {
	k, err := jwk.FromRaw(p)
	if err != nil {
		return "", nil, fhir.Wrap("keys.describe", err)
	}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", nil, fhir.Wrap("keys.describe", err)
	}
	point, err = p.Bytes()
	return base64.RawURLEncoding.EncodeToString(sum), point, fhir.Wrap("keys.describe", err)
}

// Rotate makes a new signing key. The keys before it verify for overlap more;
// it should be at least the life of an access token.
func (r *Ring) Rotate(overlap time.Duration) error {
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return fhir.Wrap("keys.Rotate", err)
	}
	kid, point, err := describe(&private.PublicKey)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock().Unix()
	next := signing{kid: kid, private: private, point: point, created: now}
	if len(r.keys) > 0 && r.keys[0].created >= now {
		next.created = r.keys[0].created + 1 // the order of the keys outlives a second and a bad clock
	}
	// The new key first: a crash in between leaves two that verify.
	if err := r.write(next); err != nil {
		return err
	}
	kept := []signing{next}
	for _, k := range r.keys {
		if k.retires == 0 {
			k.retires = now + int64(overlap/time.Second)
			if err := r.write(k); err != nil {
				return err
			}
		}
		if k.retires > now {
			kept = append(kept, k)
		} else if err := os.Remove(filepath.Join(r.dir, k.kid+".jwk")); err != nil {
			return fhir.Wrap("keys.Rotate", err)
		}
	}
	r.keys = kept
	return nil
}

// write replaces the key's file whole, durably.
func (r *Ring) write(k signing) error {
	d, err := k.private.Bytes()
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	f := public(k)
	f.D, f.Created, f.Retires = base64.RawURLEncoding.EncodeToString(d), k.created, k.retires
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
		err = os.Rename(tmp.Name(), filepath.Join(r.dir, k.kid+".jwk"))
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

func public(k signing) file {
	enc := base64.RawURLEncoding
	return file{Kty: "EC", Crv: "P-384", X: enc.EncodeToString(k.point[1:49]), Y: enc.EncodeToString(k.point[49:]), Kid: k.kid, Alg: Alg, Use: "sig"}
}

// Sign makes a compact JWS of the claims with the current key.
func (r *Ring) Sign(typ string, claims any) (string, error) {
	r.mu.RLock()
	k := r.keys[0]
	r.mu.RUnlock()
	s, err := compact.Sign(typ, k.kid, claims, k.private)
	return s, fhir.Wrap("keys.Sign", err)
}

// Verify returns the claims of a token that this ring signed, with the given
// typ. It checks no claim.
func (r *Ring) Verify(token, typ string) (compact.Claims, error) {
	h, c, err := compact.Parse(token)
	if err != nil {
		return compact.Claims{}, err
	}
	// RFC 9068 lets typ carry the media type's full name.
	if h.Alg != Alg || !strings.EqualFold(strings.TrimPrefix(strings.ToLower(h.Typ), "application/"), typ) {
		return compact.Claims{}, compact.ErrMalformed
	}
	for _, k := range r.live() {
		if k.kid == h.Kid {
			if compact.Verify(token, Alg, &k.private.PublicKey) {
				return c, nil
			}
			break
		}
	}
	return compact.Claims{}, compact.ErrMalformed
}

func (r *Ring) live() []signing {
	r.mu.RLock()
	defer r.mu.RUnlock()
	now := r.clock().Unix()
	return slices.DeleteFunc(slices.Clone(r.keys), func(k signing) bool { return k.retires != 0 && k.retires <= now })
}

// JWKS is the public JWK Set.
func (r *Ring) JWKS() ([]byte, error) {
	type pub struct {
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		X   string `json:"x"`
		Y   string `json:"y"`
		Kid string `json:"kid"`
		Alg string `json:"alg"`
		Use string `json:"use"`
	}
	set := struct {
		Keys []pub `json:"keys"`
	}{Keys: []pub{}}
	for _, k := range r.live() {
		f := public(k)
		set.Keys = append(set.Keys, pub{f.Kty, f.Crv, f.X, f.Y, f.Kid, f.Alg, f.Use})
	}
	b, err := json.Marshal(set)
	return b, fhir.Wrap("keys.JWKS", err)
}

// ServeHTTP answers with the public JWK Set.
func (r *Ring) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	b, err := r.JWKS()
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	w.Header().Set("Access-Control-Allow-Origin", "*")
	if _, err := w.Write(b); err != nil {
		return // the caller has gone
	}
}

// Mount puts the JWK Set where discovery says it is.
func (r *Ring) Mount(m gin.IRouter) { m.GET("/.well-known/jwks.json", gin.WrapH(r)) }
