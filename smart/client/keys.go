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

// key is a usable public key.
type key struct {
	kid    string
	algs   []string // algorithms that it may verify
	public any
}

// Algs maps "RSA", or the name of a curve, to the algorithms of such keys.
type Algs map[string][]string

// assertionAlgs lists the algorithms of SMART App Launch 2.2 for client
// assertions.
var assertionAlgs = Algs{"RSA": {"RS384"}, "P-384": {"ES384"}} // must not be modified

// parseSet parses a JWK Set of a client.
func parseSet(b []byte) ([]key, error) { return parseSetFor(b, assertionAlgs) }

// parseSetFor parses a JWK Set for the given algorithms. It refuses the whole
// set if it contains a private, symmetric or weak key, so that the publisher
// notices the problem. Keys for other algorithms are ignored.
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
			return refuse(i, "it is a private or symmetric key; publish public keys only")
		}
		if facts.Use != "" && facts.Use != "sig" || len(facts.Ops) > 0 && !slices.Contains(facts.Ops, "verify") {
			continue
		}
		parsed := key{kid: facts.Kid}
		switch facts.Kty {
		case "RSA":
			p := new(rsa.PublicKey)
			if rawKey(r, p) != nil {
				return refuse(i, "not an RSA key")
			}
			if n := p.N.BitLen(); n < 2048 || n > 8192 || p.E < 3 || p.E&1 == 0 {
				return refuse(i, "RSA keys must have 2048 to 8192 bits and an odd exponent of at least 3")
			}
			parsed.algs, parsed.public = want["RSA"], p
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
			parsed.algs, parsed.public = want[p.Curve.Params().Name], p
		default:
			continue
		}
		if facts.Alg != "" {
			if !slices.Contains(parsed.algs, facts.Alg) {
				continue
			}
			parsed.algs = []string{facts.Alg}
		}
		if parsed.kid == "" {
			return refuse(i, "has no kid")
		}
		out = append(out, parsed)
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

// Keys finds the keys of clients. The zero value with HTTP and Clock set is
// ready to use. It is safe for concurrent use.
type Keys struct {
	HTTP  *http.Client // from fhir/egress
	Clock func() time.Time
	// Algs lists the algorithms of accepted keys. If it is nil, they are those
	// of client assertions.
	Algs Algs

	flights singleflight.Group
	mu      sync.Mutex
	sets    *simplelru.LRU[string, cachedSet] // by URL; guarded by mu
}

type cachedSet struct {
	keys           []key
	fetched, until time.Time
}

// find returns the key of c for alg and kid, or nil unless exactly one key
// matches.
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

// Find returns the key at url for alg and kid, or nil unless exactly one key
// matches.
func (k *Keys) Find(ctx context.Context, url, alg, kid string) (any, error) {
	now := k.Clock()
	have, ok := k.lookup(url)
	// If the clock was set back, the entry is not used.
	fresh := ok && now.Before(have.until) && !now.Before(have.fetched)
	if fresh {
		p, found := pick(have.keys, alg, kid)
		if found || now.Sub(have.fetched) < refetchAfter {
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

// pick returns the key for alg and kid, and whether the set contains the kid at
// all.
func pick(set []key, alg, kid string) (public any, found bool) {
	for _, k := range set {
		if k.kid != kid {
			continue
		}
		if found {
			return nil, true // the kid is ambiguous
		}
		found = true
		if slices.Contains(k.algs, alg) {
			public = k.public
		}
	}
	return public, found
}

// load fetches a set. Concurrent callers share one fetch.
func (k *Keys) load(ctx context.Context, url string) ([]key, error) {
	ch := k.flights.DoChan(url, func() (any, error) {
		// Detached from the first caller's cancellation, because others wait
		// for the same result.
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
	now := k.Clock() // before the request, because the age counts from here
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
		return failed(fhir.Errorf(fhir.Unavailable, op, "jwks_url responded with status %d", res.StatusCode))
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

// lifetime returns how long a response may be used, as in a private cache that
// never serves stale responses (RFC 9111 4.2), up to maxAge. Without a header
// that states it, the result is 0.
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
