package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"golang.org/x/sync/singleflight"

	"pulsegate/fhir"
)

const (
	maxSet       = 64 << 10
	maxKeys      = 64
	maxAge       = 5 * time.Minute
	refetchAfter = 10 * time.Second
	fetchTimeout = 3 * time.Second
	maxCached    = 1024
)

// key is one usable public key.
type key struct {
	kid    string
	algs   []string // those that it may verify
	public any
}

// Algs says which algorithms keys are used for: by "RSA", or by the name of
// the curve.
type Algs map[string][]string

// assertionAlgs are those of SMART App Launch 2.2 for client assertions.
var assertionAlgs = Algs{"RSA": {"RS384"}, "P-384": {"ES384"}} // read only

// parseSet reads a client's JWK Set.
func parseSet(b []byte) ([]key, error) { return parseSetFor(b, assertionAlgs) }

// parseSetFor reads a JWK Set. It refuses the whole set for a private,
// symmetric or weak key: whoever publishes one has a problem that must not
// stay hidden. Keys for other algorithms are left out.
func parseSetFor(b []byte, want Algs) ([]key, error) {
	refuse := func(i int, rule string) ([]key, error) {
		return nil, fhir.Errorf(fhir.Invalid, "client.jwks", "jwks.keys[%d]: %s", i, rule)
	}
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if len(b) > maxSet || json.Unmarshal(b, &raw) != nil || len(raw.Keys) > maxKeys {
		return nil, fhir.Errorf(fhir.Invalid, "client.jwks", "jwks: not a JWK Set of at most %d keys and %d bytes",
			maxKeys, maxSet)
	}
	var out []key
	for i, r := range raw.Keys {
		var facts struct {
			Kty, Kid, Alg, Use, K, D, P, Q string
			Ops                            []string `json:"key_ops"`
		}
		if json.Unmarshal(r, &facts) != nil {
			return refuse(i, "not a JWK")
		}
		if facts.D+facts.K+facts.P+facts.Q != "" || facts.Kty == "oct" {
			return refuse(i, "holds a private or symmetric key; register public keys only")
		}
		if facts.Use != "" && facts.Use != "sig" || len(facts.Ops) > 0 && !slices.Contains(facts.Ops, "verify") {
			continue
		}
		k := key{kid: facts.Kid}
		switch facts.Kty {
		case "RSA":
			p := new(rsa.PublicKey)
			if rawKey(r, p) != nil {
				return refuse(i, "not an RSA key")
			}
			if n := p.N.BitLen(); n < 2048 || n > 8192 || p.E < 3 || p.E&1 == 0 {
				return refuse(i, "RSA keys must have 2048 to 8192 bits and an odd exponent of at least 3")
			}
			k.algs, k.public = want["RSA"], p
		case "EC":
			p := new(ecdsa.PublicKey)
			if rawKey(r, p) != nil {
				return refuse(i, "not a point on its curve")
			}
			if len(want[p.Curve.Params().Name]) == 0 {
				continue
			}
			if _, err := p.ECDH(); err != nil {
				return refuse(i, "not a point on its curve")
			}
			k.algs, k.public = want[p.Curve.Params().Name], p
		default:
			continue
		}
		if facts.Alg != "" {
			if !slices.Contains(k.algs, facts.Alg) {
				continue
			}
			k.algs = []string{facts.Alg}
		}
		if k.kid == "" {
			return refuse(i, "has no kid")
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, "client.jwks", "jwks: no key for an algorithm that is accepted")
	}
	return out, nil
}

func rawKey(b []byte, into any) error {
	k, err := jwk.ParseKey(b)
	if err != nil {
		return err
	}
	return k.Raw(into)
}

// Keys finds a client's key. Its zero value is usable once HTTP and Clock are
// set.
type Keys struct {
	HTTP  *http.Client // of fhir/egress
	Clock func() time.Time
	// Algs are the algorithms that sets are read for; nil: those of client
	// assertions.
	Algs Algs

	flights singleflight.Group
	mu      sync.Mutex
	sets    *simplelru.LRU[string, cachedSet] // by URL; guarded by mu
}

type cachedSet struct {
	keys           []key
	fetched, until time.Time
}

// find returns the one key of c for alg and kid, nil when there is none or
// more than one.
func (k *Keys) find(ctx context.Context, c Client, alg, kid string) (any, error) {
	if kid == "" {
		return nil, nil
	}
	if c.JWKSURL == "" {
		set, err := parseSet(c.JWKS)
		if err != nil {
			return nil, err
		}
		p, _ := pick(set, alg, kid)
		return p, nil
	}
	return k.Find(ctx, c.JWKSURL, alg, kid)
}

// Find returns the one key at url for alg and kid, nil when there is none or
// more than one.
func (k *Keys) Find(ctx context.Context, url, alg, kid string) (any, error) {
	now := k.Clock()
	have, ok := k.lookup(url)
	// A clock that went back makes an entry useless, not immortal.
	fresh := ok && now.Before(have.until) && !now.Before(have.fetched)
	if fresh {
		p, known := pick(have.keys, alg, kid)
		if known || now.Sub(have.fetched) < refetchAfter {
			return p, nil
		}
	}
	set, err := k.load(ctx, url)
	if err != nil {
		return nil, err
	}
	p, _ := pick(set, alg, kid)
	return p, nil
}

// pick also says whether the kid is in the set at all.
func pick(set []key, alg, kid string) (public any, known bool) {
	for _, k := range set {
		if k.kid != kid {
			continue
		}
		if known {
			return nil, true // two keys of one name: neither
		}
		known = true
		if slices.Contains(k.algs, alg) {
			public = k.public
		}
	}
	return public, known
}

// load fetches the set; callers at the same time share one fetch.
func (k *Keys) load(ctx context.Context, url string) ([]key, error) {
	ch := k.flights.DoChan(url, func() (any, error) {
		// Not the first caller's context: others wait for the same answer.
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return k.fetch(fctx, url)
	})
	select {
	case <-ctx.Done():
		return nil, fhir.Wrap("client.jwks", ctx.Err())
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.([]key), nil
	}
}

func (k *Keys) fetch(ctx context.Context, url string) ([]key, error) {
	const op = "client.jwks"
	failed := func(err error) ([]key, error) {
		k.forget(url)
		return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return failed(err)
	}
	req.Header.Set("Accept", "application/json")
	hc := *k.HTTP
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	now := k.Clock() // before the request: age counts from here
	res, err := hc.Do(req)
	if err != nil {
		return failed(err)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxSet+1))
	if cerr := res.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return failed(err)
	}
	if res.StatusCode != http.StatusOK {
		return failed(fhir.Errorf(fhir.Unavailable, op, "jwks_url answered with status %d", res.StatusCode))
	}
	want := k.Algs
	if want == nil {
		want = assertionAlgs
	}
	set, err := parseSetFor(body, want)
	if err != nil {
		return failed(err)
	}
	life := lifetime(res.Header, now)
	if life <= 0 {
		k.forget(url)
		return set, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sets == nil {
		k.sets, _ = simplelru.NewLRU[string, cachedSet](maxCached, nil) // fails only for a size below one
	}
	k.sets.Add(url, cachedSet{keys: set, fetched: now, until: now.Add(life)})
	return set, nil
}

func (k *Keys) lookup(url string) (set cachedSet, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sets == nil {
		return cachedSet{}, false
	}
	return k.sets.Get(url)
}

func (k *Keys) forget(url string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sets != nil {
		k.sets.Remove(url)
	}
}

// lifetime is how long an answer may be used (RFC 9111 4.2, as a private
// cache that never serves stale), at most maxAge. No statement means 0.
func lifetime(h http.Header, now time.Time) time.Duration {
	stated := time.Duration(-1)
	for _, line := range h.Values("Cache-Control") {
		for _, d := range strings.Split(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "no-store", "no-cache":
				return 0
			case "max-age":
				n, err := strconv.ParseInt(strings.Trim(strings.TrimSpace(value), `"`), 10, 64)
				if err != nil || n < 0 {
					return 0
				}
				life := time.Duration(min(n, 1<<31)) * time.Second
				if stated < 0 || life < stated {
					stated = life
				}
			}
		}
	}
	if stated < 0 && h.Get("Expires") != "" {
		t, err := http.ParseTime(h.Get("Expires"))
		if err != nil {
			return 0
		}
		from := now
		if d, err := http.ParseTime(h.Get("Date")); err == nil {
			from = d
		}
		stated = t.Sub(from)
	}
	if age, err := strconv.ParseInt(strings.TrimSpace(h.Get("Age")), 10, 64); err == nil && age > 0 {
		stated -= time.Duration(min(age, 1<<31)) * time.Second
	}
	return max(0, min(stated, maxAge))
}
