// Package oauth contains code shared by the endpoints of the authorization
// server: parsing of forms and the error responses of RFC 6749 5.2.
package oauth

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
)

const maxBody = 16 << 10

// Error is an error response.
type Error struct {
	Status            int
	Code, Description string
	Cause             error  // for the log only
	Retry             int    // Retry-After in seconds; 0 for none
	Challenge         string // WWW-Authenticate; "" for none
	Nonce             string // DPoP-Nonce; "" for none
}

func (e *Error) Error() string { return e.Code + ": " + e.Description }

func (e *Error) Unwrap() error { return e.Cause }

// Bad returns an error response with status 400.
func Bad(code, description string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Description: description}
}

// TooMany returns the response to a request over the rate limit.
func TooMany(wait time.Duration) *Error {
	return &Error{Status: http.StatusTooManyRequests, Code: "temporarily_unavailable",
		Description: "too many requests", Retry: limit.RetryAfter(wait)}
}

// Unavailable returns the response for an internal failure.
func Unavailable(cause error) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Description: "try again",
		Cause: cause}
}

// Client returns the response for a failed client authentication.
func Client(err error) *Error {
	if fhir.KindOf(err) == fhir.Unauthorized {
		return &Error{Status: http.StatusUnauthorized, Code: "invalid_client", Description: Text(err),
			Cause: errors.Unwrap(err)}
	}
	if fhir.KindOf(err) == fhir.Invalid {
		return Bad("invalid_request", Text(err))
	}
	return Unavailable(err)
}

// Text returns the part of an error that the caller may see.
func Text(err error) string {
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		return e.Issues[0].Diagnostics
	}
	return "refused"
}

// Headers sets the headers of JSON responses that may contain a secret.
func Headers(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "application/json")
}

// CORS allows requests from browser apps at any origin. Callers authenticate
// with the content of the request, never with credentials of the browser. CORS
// responds to preflight requests and reports whether it did.
func CORS(w http.ResponseWriter, r *http.Request, methods string) bool {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "DPoP-Nonce, Retry-After, WWW-Authenticate, X-Request-Id")
	if r.Method != http.MethodOptions {
		return false
	}
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", "Accept, Authorization, Content-Type, DPoP, X-Request-Id")
	h.Set("Access-Control-Max-Age", "3600")
	h.Del("Content-Type")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// Write responds with JSON.
func Write(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the client has disconnected
	}
}

// Refuse responds with an error.
func Refuse(w http.ResponseWriter, f *Error) {
	h := w.Header()
	if f.Retry > 0 {
		h.Set("Retry-After", strconv.Itoa(f.Retry))
	}
	if f.Challenge != "" {
		h.Set("WWW-Authenticate", f.Challenge)
	}
	if f.Nonce != "" {
		h.Set("DPoP-Nonce", f.Nonce)
	}
	if f.Status == http.StatusMethodNotAllowed && h.Get("Allow") == "" {
		h.Set("Allow", http.MethodPost)
	}
	Write(w, f.Status, struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}{f.Code, f.Description})
}

// Form parses a POSTed form. Each parameter may occur at most once (RFC 6749
// 3.2), and the URL must have no query.
func Form(r *http.Request, w http.ResponseWriter, endpoint string) (url.Values, *Error) {
	if r.Method != http.MethodPost {
		f := Bad("invalid_request", "the "+endpoint+" endpoint accepts only POST")
		f.Status = http.StatusMethodNotAllowed
		return nil, f
	}
	mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mt != "application/x-www-form-urlencoded" {
		return nil, Bad("invalid_request", "Content-Type must be application/x-www-form-urlencoded")
	}
	if r.URL.RawQuery != "" {
		return nil, Bad("invalid_request", "send parameters in the body, not in the URL")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, Bad("invalid_request", "the body is larger than 16 KiB or incomplete")
	}
	v, err := url.ParseQuery(string(b))
	if err != nil {
		return nil, Bad("invalid_request", "the body is not a form")
	}
	return v, once(v)
}

// once refuses repeated parameters.
func once(v url.Values) *Error {
	for _, vs := range v {
		if len(vs) > 1 {
			return Bad("invalid_request", "a parameter occurs more than once")
		}
	}
	return nil
}

// Remote returns the address of the peer without the port.
func Remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return strings.Clone(r.RemoteAddr)
}

// Caller returns the caller of a request to an endpoint. Its principal is set
// only after authentication.
func Caller(w http.ResponseWriter, r *http.Request) audit.Caller {
	return audit.Caller{RemoteIP: Remote(r), RequestID: w.Header().Get("X-Request-Id")}
}
