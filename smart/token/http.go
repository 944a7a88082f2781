package token

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/smart/client"
)

const (
	maxBody       = 16 << 10
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	maxAudited    = 512 // bytes of a refused request's scope that are kept
)

// oauthError is an error answer by RFC 6749 5.2.
type oauthError struct {
	status            int
	code, description string
	cause             error // for the log
	retry             int   // seconds, for Retry-After; 0 none
}

func bad(code, description string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: code, description: description}
}

func tooMany(wait time.Duration) *oauthError {
	return &oauthError{status: http.StatusTooManyRequests, code: "temporarily_unavailable", description: "too many requests", retry: retryAfter(wait)}
}

// Mount puts the endpoint at /oauth/token.
func (e *Endpoint) Mount(m gin.IRouter) { m.Any("/oauth/token", gin.WrapH(e)) }

// ServeHTTP is the token endpoint.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "application/json")
	ev := audit.Event{Kind: audit.TokenIssue, RemoteIP: remote(r), RequestID: h.Get("X-Request-Id")}
	now := e.opts.Clock()
	var tok Token
	var fail *oauthError
	if wait, ok := e.limits.admit(ev.RemoteIP, now); ok {
		tok, fail = e.serve(r, w, &ev)
	} else {
		fail = tooMany(wait)
	}
	if fail != nil {
		if fail.status < 500 && fail.status != http.StatusTooManyRequests {
			// What is over the limit is refused from the next request on.
			e.limits.failures.take(failing(ev.RemoteIP, claimed(&ev)), now, 1)
		}
		e.refuse(w, r, ev, fail)
		return
	}
	e.count(r.Context(), "issued")
	write(w, http.StatusOK, struct {
		Access  string `json:"access_token"`
		Type    string `json:"token_type"`
		Expires int64  `json:"expires_in"`
		Scope   string `json:"scope"`
	}{tok.Access, "bearer", int64(tok.Life / time.Second), tok.Scope})
}

func write(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the caller has gone
	}
}

// claimed is the client that a request says it is from.
func claimed(ev *audit.Event) string {
	if ev.Principal == nil {
		return ""
	}
	return ev.Principal.ClientID
}

// refuse records and answers a failure. When it cannot be recorded the answer
// is that the server is unavailable. Beyond a rate refusals are counted and
// logged only: an outsider must not fill the trail.
func (e *Endpoint) refuse(w http.ResponseWriter, r *http.Request, ev audit.Event, f *oauthError) {
	ctx := r.Context()
	ev.Outcome, ev.Reason = audit.Serious, f.code+": "+f.description
	if f.status >= 500 {
		ev.Outcome = audit.Major
	}
	_, record := e.limits.denied.take(who{}, e.opts.Clock(), 1)
	outcome := f.code
	if f.status == http.StatusTooManyRequests {
		outcome = "throttled"
	}
	if !record {
		e.count(ctx, "unrecorded")
	} else if err := e.opts.Audit.Record(context.WithoutCancel(ctx), ev); err != nil {
		outcome = "temporarily_unavailable"
		f = &oauthError{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", description: "try again", cause: err}
	}
	e.count(ctx, outcome)
	e.opts.Logger.InfoContext(ctx, "token refused", "error", f.code, "rule", f.description, "client", claimed(&ev),
		"request", ev.RequestID, "recorded", record, "cause", f.cause)
	if f.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.retry))
	}
	if f.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	write(w, f.status, struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}{f.code, f.description})
}

// form reads the request's form: each parameter at most once (RFC 6749 3.2),
// none in the URL.
func form(r *http.Request, w http.ResponseWriter) (url.Values, *oauthError) {
	if r.Method != http.MethodPost {
		f := bad("invalid_request", "the token endpoint takes POST")
		f.status = http.StatusMethodNotAllowed
		return nil, f
	}
	mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mt != "application/x-www-form-urlencoded" {
		return nil, bad("invalid_request", "Content-Type must be application/x-www-form-urlencoded")
	}
	if r.URL.RawQuery != "" {
		return nil, bad("invalid_request", "parameters belong into the body")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, bad("invalid_request", "the body is larger than 16 KiB or broke off")
	}
	v, err := url.ParseQuery(string(b))
	if err != nil {
		return nil, bad("invalid_request", "the body is not a form")
	}
	for _, vs := range v {
		if len(vs) > 1 {
			return nil, bad("invalid_request", "a parameter is given twice")
		}
	}
	return v, nil
}

// audited is the request as it goes into the trail: known parameters only, no
// assertion, bounded.
func audited(v url.Values) string {
	out := url.Values{}
	for _, k := range []string{"grant_type", "client_assertion_type", "scope"} {
		if s := v.Get(k); s != "" {
			out.Set(k, s[:min(len(s), maxAudited)])
		}
	}
	return "POST /oauth/token?" + out.Encode()
}

func (e *Endpoint) serve(r *http.Request, w http.ResponseWriter, ev *audit.Event) (Token, *oauthError) {
	ctx := r.Context()
	v, fail := form(r, w)
	ev.Query = audited(v)
	if fail != nil {
		return Token{}, fail
	}
	switch g := v.Get("grant_type"); {
	case g == "":
		return Token{}, bad("invalid_request", "grant_type is missing")
	case g != "client_credentials":
		return Token{}, bad("unsupported_grant_type", "only client_credentials is offered")
	}
	assertion := v.Get("client_assertion")
	if id := client.Claimed(assertion); id != "" {
		ev.Principal = &access.Principal{ClientID: id} // claimed, not proven; the outcome says so
	}
	switch {
	case v.Get("client_assertion_type") != assertionType:
		return Token{}, bad("invalid_request", "client_assertion_type must be "+assertionType)
	case assertion == "":
		return Token{}, bad("invalid_request", "client_assertion is missing")
	}
	if wait, ok := e.limits.failures.take(failing(ev.RemoteIP, claimed(ev)), e.opts.Clock(), 0); !ok {
		return Token{}, tooMany(wait)
	}
	now := e.now(ctx)
	a, err := e.opts.Assertions.Verify(ctx, assertion, now)
	if err != nil {
		return Token{}, clientError(err)
	}
	if id := v.Get("client_id"); id != "" && id != a.Client.ID {
		return Token{}, bad("invalid_request", "client_id is not that of the assertion")
	}
	tok, err := e.issue(ctx, order{client: a.Client, scope: v.Get("scope"), life: MaxLife, now: now, use: &a, context: *ev})
	var s errScope
	switch {
	case errors.As(err, &s):
		return Token{}, bad("invalid_scope", text(s.error))
	case err != nil:
		return Token{}, clientError(err)
	}
	return tok, nil
}

// text is what the caller may see of an error.
func text(err error) string {
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		return e.Issues[0].Diagnostics
	}
	return "refused"
}

func clientError(err error) *oauthError {
	if fhir.KindOf(err) == fhir.Unauthorized {
		return &oauthError{status: http.StatusUnauthorized, code: "invalid_client", description: text(err), cause: errors.Unwrap(err)}
	}
	return &oauthError{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", description: "try again", cause: err}
}
