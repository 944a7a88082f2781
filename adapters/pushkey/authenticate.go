package pushkey

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/limit"
)

// HeaderAPIKey is the header for a key alone.
const HeaderAPIKey = "X-API-Key"

// Authenticator authenticates requests.
type Authenticator interface {
	Authenticate(*http.Request) (*access.Principal, error)
}

// Or returns an Authenticator for requests with a push key, which passes all other
// requests to next.
//
// If a request with a genuine key that is no longer valid is refused, the principal
// is returned without a grant, so that the refusal can name the key.
func (k *Keys) Or(next Authenticator) Authenticator { return authenticator{k, next} }

type authenticator struct {
	keys *Keys
	next Authenticator
}

func (a authenticator) Authenticate(r *http.Request) (*access.Principal, error) {
	text, ok, err := credential(r.Header)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return a.next.Authenticate(r)
	}
	return a.keys.authenticate(r, text)
}

// credential returns the push key of a request. If it has none, ok is false. A
// request with a second credential is refused, because it is not clear which one
// counts. An X-API-Key that is no push key is ignored beside an Authorization header,
// because some API gateways use that header for themselves.
func credential(h http.Header) (text string, ok bool, err error) {
	authorization := h.Values("Authorization")
	credentials := len(authorization)
	for _, v := range authorization {
		scheme, value, _ := strings.Cut(strings.TrimSpace(v), " ")
		if hasPrefix(scheme) {
			return "", true, fhir.Errorf(fhir.Unauthorized, "pushkey.Authenticate",
				"the value of Authorization is the word Bearer, a space and the push key")
		}
		if value = strings.TrimSpace(value); strings.EqualFold(scheme, "Bearer") && hasPrefix(value) {
			text, ok = value, true
		}
	}
	for _, v := range h.Values(HeaderAPIKey) {
		if v = strings.TrimSpace(v); hasPrefix(v) || len(authorization) == 0 {
			text, ok = v, true
			credentials++
		}
	}
	if ok && credentials > 1 {
		return "", true, fhir.Errorf(fhir.Unauthorized, "pushkey.Authenticate",
			"send the push key once, as Authorization: Bearer or as %s, and no other credential", HeaderAPIKey)
	}
	return text, ok, nil
}

func (k *Keys) authenticate(r *http.Request, text string) (*access.Principal, error) {
	if !k.Secure(r) {
		return nil, fhir.Errorf(fhir.Forbidden, "pushkey.Authenticate",
			"push keys are accepted over https only; revoke this key if it was sent over an open network")
	}
	ctx, now := r.Context(), k.Clock()
	id, s, bad := parse(text)
	rec, raw, err := k.get(ctx, id)
	if err != nil {
		return nil, err
	}
	claimed := ""
	if raw != nil {
		claimed = id
	}
	failing := limit.Failing(remote(r), claimed)
	if wait, ok := k.guesses.MayFail(failing, now); !ok {
		return nil, tooMany(wait, "too many requests with a wrong push key")
	}
	// A key that does not exist is compared too, with the zero hash, which no secret
	// has.
	hash := sha256.Sum256(s[:])
	genuine := subtle.ConstantTimeCompare(hash[:], rec.Hash[:]) == 1
	if bad != nil || !genuine {
		k.guesses.Failed(failing, now)
		if bad != nil {
			return nil, bad
		}
		return nil, unknown()
	}
	if err := rec.ended(now); err != nil {
		k.guesses.Failed(failing, now)
		return k.principal(&rec, false), err
	}
	if wait, ok := k.deliveries.Take(limit.Named(id), now, 1); !ok {
		return nil, tooMany(wait, "too many deliveries with this push key")
	}
	if err := k.touch(ctx, id, r.Header, now); err != nil {
		return nil, err
	}
	return k.principal(&rec, true), nil
}

// remote returns the client address of a request.
func remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// waiting is the cause of a TooMany error.
type waiting struct{ delay time.Duration }

func (w *waiting) Error() string { return "rate limit" }

// RetryAfter returns the time after which the request may be repeated.
func (w *waiting) RetryAfter() time.Duration { return w.delay }

func tooMany(wait time.Duration, text string) error {
	return &fhir.Error{Kind: fhir.TooMany, Op: "pushkey.Authenticate", Err: &waiting{wait},
		Issues: []fhir.Issue{{Code: "throttled", Diagnostics: text}}}
}
