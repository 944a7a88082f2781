package cloud

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Problem classifies a failed request by what to do next.
type Problem uint8

const (
	// Unavailable: the vendor could not be reached, failed, or sent something that
	// is no answer. Try again later.
	Unavailable Problem = iota
	// Throttled: a limit on requests is reached. Wait for RetryAfter.
	Throttled
	// Unauthorized: the access token is not accepted. Refresh it once; if the new
	// one is not accepted either, the patient must link the account again.
	Unauthorized
	// Permission: the patient has not granted the scope.
	Permission
	// Membership: the wearer's membership has lapsed. Try again daily.
	Membership
	// NotFound: there is no such object. It may have been deleted.
	NotFound
	// Rejected: the vendor refuses the request as such. Repeating it is useless.
	Rejected
	// Unlinked: the account has no data of the vendor's devices. The patient must
	// choose another account.
	Unlinked
	// Gone: the vendor has ended this API for good.
	Gone
)

var problems = [...]string{"unavailable", "throttled", "unauthorized", "permission", "membership", "not-found",
	"rejected", "unlinked", "gone"}

func (p Problem) String() string { return problems[p] }

// Error is a failed request. It holds no bytes of the answer but the vendor's
// machine-readable reason.
type Error struct {
	Problem    Problem
	Status     int    // of the answer; 0 if there was none
	Reason     string // the vendor's code, such as RESOURCE_EXHAUSTED, or ""
	RetryAfter time.Duration
	// Sent reports, for a request without an answer, whether the vendor may have
	// received it.
	Sent bool
	Err  error // the cause if there was no answer
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Problem.String())
	if e.Status != 0 {
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	if e.Err != nil {
		b.WriteString(": " + cause(e.Err))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// cause describes a failed exchange without its URL, whose query may name a
// patient.
func cause(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Error()
	}
	if c, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return c.Error()
	}
	// Texts of other errors may quote the answer ("malformed HTTP response ...").
	return fmt.Sprintf("the exchange failed (%T)", err)
}

// Malformed returns the error for an answer that is not what the vendor documents.
// It is worth another try later, because proxies and outages produce such answers.
func Malformed() *Error { return &Error{Problem: Unavailable, Reason: "malformed-answer"} }

// ProblemOf returns the Problem of err. Errors of other types are Unavailable.
func ProblemOf(err error) Problem {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Problem
	}
	return Unavailable
}

// Reason returns a vendor's code if it is one: at most 64 letters, digits,
// underscores, hyphens and dots. Otherwise it returns "", because the text may
// hold anything.
func Reason(s string) string {
	if len(s) > 64 {
		return ""
	}
	for i := range len(s) {
		c := s[i]
		if c != '_' && c != '-' && c != '.' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return ""
		}
	}
	return s
}

// MaxAnswer bounds the size of one answer in bytes.
const MaxAnswer = 32 << 20

// Client sends requests of one account to a vendor's API. It is used by one
// goroutine at a time.
type Client struct {
	HTTP *http.Client
	// Base is the URL of the API, without a trailing slash. A Vendor sets it if it is
	// empty.
	Base  string
	Token string // access token
	// Account is the id that OAuth.Account returned for Token, or "". Only
	// Vendor.Account may rely on it.
	Account string
	// Classify makes an *Error of an answer that is not 2xx. If it is nil, the
	// status decides. body holds at most 64 KiB. A Vendor sets it if it is nil.
	Classify func(status int, h http.Header, body []byte) *Error
	// Spend is called before each request. It waits for the budgets, or returns an
	// *Error of problem Throttled. It may be nil.
	Spend func(ctx context.Context) error
	// Observe is called with the header of each answer. It may be nil.
	Observe func(h http.Header)
	Clock   func() time.Time
}

// For returns a copy of c for a vendor: Base and Classify are those given unless c
// has its own.
func (c *Client) For(base string, classify func(int, http.Header, []byte) *Error) *Client {
	out := *c
	if out.Base == "" {
		out.Base = base
	}
	if out.Classify == nil {
		out.Classify = classify
	}
	return &out
}

// Get reads base + path?query.
func (c *Client) Get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	return c.send(ctx, http.MethodGet, path, query, nil, "")
}

// Post sends a JSON body.
func (c *Client) Post(ctx context.Context, path string, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, &Error{Problem: Rejected, Err: err}
	}
	return c.send(ctx, http.MethodPost, path, nil, b, "application/json")
}

// PostForm sends a form, for vendors whose reads are POST requests.
func (c *Client) PostForm(ctx context.Context, path string, form url.Values) ([]byte, error) {
	return c.send(ctx, http.MethodPost, path, nil, []byte(form.Encode()), "application/x-www-form-urlencoded")
}

// send sends a request. contentType is that of body.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body []byte,
	contentType string) ([]byte, error) {
	if c.Spend != nil {
		if err := c.Spend(ctx); err != nil {
			return nil, err
		}
	}
	to := c.Base + path
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	rq, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Problem: Rejected, Err: err}
	}
	rq.Header.Set("Authorization", "Bearer "+c.Token)
	rq.Header.Set("Accept", "application/json")
	if body != nil {
		rq.Header.Set("Content-Type", contentType)
	}
	answer, h, err := Do(c.HTTP, rq, c.Clock(), c.Classify)
	if h != nil && c.Observe != nil {
		c.Observe(h)
	}
	return answer, err
}

// Do sends a request and returns the body of a 2xx answer, or an *Error. The
// header is nil if there was no answer. Redirects are not followed, because the
// request holds a token.
func Do(client *http.Client, rq *http.Request, now time.Time,
	classify func(int, http.Header, []byte) *Error) ([]byte, http.Header, error) {
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r, err := direct.Do(rq)
	if err != nil {
		op, ok := errors.AsType[*net.OpError](err)
		return nil, nil, &Error{Problem: Unavailable, Err: err, Sent: !ok || op.Op != "dial"}
	}
	defer r.Body.Close()
	if r.StatusCode < 200 || r.StatusCode > 299 {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 64<<10)) // a broken body has no reason
		if classify == nil {
			classify = func(int, http.Header, []byte) *Error { return nil }
		}
		e := classify(r.StatusCode, r.Header, body)
		if e == nil {
			e = &Error{Problem: ByStatus(r.StatusCode)}
		}
		e.Status = r.StatusCode
		if e.RetryAfter == 0 {
			e.RetryAfter = RetryAfter(r.Header, now)
		}
		return nil, r.Header, e
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxAnswer+1))
	if err != nil {
		return nil, r.Header, &Error{Problem: Unavailable, Status: r.StatusCode, Err: err, Sent: true}
	}
	if len(body) > MaxAnswer {
		return nil, r.Header, &Error{Problem: Rejected, Status: r.StatusCode, Reason: "answer-too-large"}
	}
	return body, r.Header, nil
}

// ByStatus returns the Problem that a status alone indicates.
func ByStatus(status int) Problem {
	switch status {
	case http.StatusUnauthorized:
		return Unauthorized
	case http.StatusForbidden:
		return Permission
	case http.StatusNotFound:
		return NotFound
	case http.StatusGone:
		return Gone
	case http.StatusTooManyRequests:
		return Throttled
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusConflict:
		return Unavailable
	}
	if status >= 400 && status < 500 {
		return Rejected
	}
	return Unavailable
}

// maxWait bounds the time that a vendor can make us wait.
const maxWait = 24 * time.Hour

// RetryAfter returns the time to wait that the header Retry-After states, as
// seconds or as a date, or 0.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	s := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseInt(s, 10, 32); err == nil && n >= 0 {
		return min(time.Duration(n)*time.Second, maxWait)
	}
	if t, err := http.ParseTime(s); err == nil && t.After(now) {
		return min(t.Sub(now), maxWait)
	}
	return 0
}
