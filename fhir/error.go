package fhir

import (
	"errors"
	"fmt"
)

// Kind classifies errors. Programs switch on Kind only; fhir/rest maps each kind to
// one HTTP status.
type Kind uint8

const (
	Internal           Kind = iota // 500: failure of the server; details are logged, never returned
	Invalid                        // 400: syntax, unknown parameter, bad value
	Unauthorized                   // 401: missing or invalid token
	Forbidden                      // 403: the token does not cover the interaction
	NotFound                       // 404: does not exist, or hidden by the filter
	NotAllowed                     // 405: the type does not support the interaction
	Conflict                       // 409: concurrent change, or a constraint between resources
	Gone                           // 410: deleted, or an expired page link
	PreconditionFailed             // 412: If-Match or conditional criteria did not match
	TooLarge                       // 413: exceeds a limit
	Unsupported                    // 415: unsupported media type
	Unprocessable                  // 422: violates a rule of the resource
	TooMany                        // 429: rate limit or quota
	Unavailable                    // 503: temporary failure; retry
	NoSpace                        // 507: the disk is full
	TooCostly                      // 403 with issue "too-costly": the search would read too much
)

// Issue is one OperationOutcome.issue. Diagnostics must not contain input; it names
// the element and the rule.
type Issue struct {
	Severity    string   // fatal, error, warning or information; the default is error
	Code        string   // http://hl7.org/fhir/issue-type, e.g. "invalid", "structure", "not-supported"
	Diagnostics string   // text for people: element and rule
	Expression  []string // FHIRPath of the element, e.g. "Observation.value.ofType(Quantity).code"
	// Line and Column are the position in the request body, counted from 1 in
	// characters, or zero if it is unknown.
	Line, Column int
}

// Error is the error type that packages return.
type Error struct {
	Kind   Kind
	Op     string  // operation for the log, e.g. "search.Parse"
	Issues []Issue // visible to the caller; if empty, the outcome has only the code for Kind
	Err    error   // cause, for the log only
}

func (e *Error) Error() string {
	s := e.Op
	if len(e.Issues) > 0 {
		s += ": " + e.Issues[0].Diagnostics
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error with one issue. Its diagnostics are visible to the caller,
// its code depends on kind.
func Errorf(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Issues: []Issue{{Severity: "error", Code: kind.IssueCode(),
		Diagnostics: fmt.Sprintf(format, args...)}}}
}

// Wrap returns err as an Internal error of op. It returns nil for nil and does not
// change an err that is or wraps an Error.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Kind: Internal, Op: op, Err: err}
}

// KindOf returns the kind of err, which is Internal if err is not an Error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// IssueCode returns the OperationOutcome issue code for k.
func (k Kind) IssueCode() string {
	switch k {
	case Invalid:
		return "invalid"
	case Unauthorized:
		return "login"
	case Forbidden:
		return "forbidden"
	case NotFound:
		return "not-found"
	case NotAllowed, Unsupported:
		return "not-supported"
	case Conflict, PreconditionFailed:
		return "conflict"
	case Gone:
		return "deleted"
	case TooLarge:
		return "too-long"
	case Unprocessable:
		return "business-rule"
	case TooMany:
		return "throttled"
	case Unavailable:
		return "transient"
	case NoSpace:
		return "no-store"
	case TooCostly:
		return "too-costly"
	}
	return "exception"
}

// HTTPStatus returns the HTTP status code for k.
func (k Kind) HTTPStatus() int {
	switch k {
	case Invalid:
		return 400
	case Unauthorized:
		return 401
	case Forbidden, TooCostly:
		return 403
	case NotFound:
		return 404
	case NotAllowed:
		return 405
	case Conflict:
		return 409
	case Gone:
		return 410
	case PreconditionFailed:
		return 412
	case TooLarge:
		return 413
	case Unsupported:
		return 415
	case Unprocessable:
		return 422
	case TooMany:
		return 429
	case Unavailable:
		return 503
	case NoSpace:
		return 507
	}
	return 500
}
