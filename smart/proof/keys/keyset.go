package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/fhir"
)

// keySet holds keys by purpose, newest first. It is immutable.
type keySet map[string][]signing

func newKeySet(all []signing) keySet {
	set := keySet{}
	for _, k := range all {
		set[k.purpose()] = append(set[k.purpose()], k)
	}
	for _, ks := range set {
		slices.SortFunc(ks, newest)
	}
	return set
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

func (f facts) retired(now int64) bool { return f.Retires != 0 && f.Retires <= now }

// all returns the keys of all purposes.
func (set keySet) all() (out []signing) {
	for _, purpose := range purposes() {
		out = append(out, set[purpose]...)
	}
	return out
}

// rotate returns the set with a new key that signs after lead, and without keys that
// have retired.
func (set keySet) rotate(alg string, now int64, overlap, lead time.Duration) (keySet, error) {
	private, err := generate(alg)
	if err != nil {
		return nil, fhir.Wrap("keys.rotate", err)
	}
	kid, err := thumbprint(private.Public())
	if err != nil {
		return nil, err
	}
	key := signing{facts: facts{Kid: kid, Alg: alg, Use: "sig", Created: now}, private: private}
	if alg == assertionAlg {
		key.For = forAssertion
	}
	old := set[alg]
	if len(old) > 0 && old[0].Created >= now {
		key.Created = old[0].Created + 1 // keeps the order within one second and if the clock is wrong
	}
	if lead > 0 {
		key.Begins = now + int64(lead/time.Second)
	}
	kept := []signing{key}
	for _, k := range old {
		if k.Retires == 0 {
			k.Retires = now + int64((lead+overlap)/time.Second)
		}
		if !k.retired(now) {
			kept = append(kept, k)
		}
	}
	next := keySet{}
	maps.Copy(next, set)
	next[alg] = kept
	return next, nil
}

// due returns the purpose of the oldest current key, and the time when that key has
// signed for MaxAge. Keys are stored with their creation, so a restart does not postpone
// the rotation.
func (set keySet) due() (purpose string, due time.Time) {
	for _, p := range purposes() {
		if len(set[p]) == 0 {
			continue // Open creates it
		}
		if at := time.Unix(set[p][0].Created, 0).Add(MaxAge); due.IsZero() || at.Before(due) {
			purpose, due = p, at
		}
	}
	return purpose, due
}

// encode returns the key as a JWK.
func (k signing) encode() ([]byte, error) {
	m, err := members(k.private, k.facts)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(m)
	return b, fhir.Wrap("keys.encode", err)
}

// decode returns the key of a JWK, or the rule that it breaks.
func decode(b []byte) (key signing, rule string, err error) {
	if err := json.Unmarshal(b, &key.facts); err != nil {
		return key, "not a JWK", nil
	}
	j, err := jwk.ParseKey(b)
	if err != nil {
		return key, "not a JWK", nil
	}
	var raw any
	if err := j.Raw(&raw); err != nil {
		return key, "not a private key", nil
	}
	switch p := raw.(type) {
	case *ecdsa.PrivateKey:
		if _, err := p.ECDH(); err != nil ||
			key.Alg != map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384"}[p.Curve] {
			return key, "the curve does not fit the algorithm", nil
		}
		key.private = p
	case *rsa.PrivateKey:
		if key.Alg != IDAlg || p.Validate() != nil || p.N.BitLen() < rsaBits {
			return key, "not an RSA key of at least 2048 bits for RS256", nil
		}
		key.private = p
	default:
		return key, "not a private key for signing", nil
	}
	kid, err := thumbprint(key.private.Public())
	if err == nil && kid != key.Kid {
		rule = "the key ID is not the key's thumbprint"
	}
	return key, rule, err
}
