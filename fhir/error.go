package fhir

import (
	"errors"
	"fmt"
)

// Kind says what class of failure an error is. Programs switch on Kind only;
// fhir/rest maps each kind to one HTTP status.
type Kind uint8

const (
	Internal           Kind = iota // 500: ours; details go to the log, never to the caller
	Invalid                        // 400: syntax, unknown parameter, bad value
	Unauthorized                   // 401: no or bad token
	Forbidden                      // 403: the token does not cover the interaction
	NotFound                       // 404: absent, or hidden by the filter
	NotAllowed                     // 405: the type does not offer the interaction
	Conflict                       // 409: lost a race, or a rule between resources
	Gone                           // 410: deleted, or a page link that has expired
	PreconditionFailed             // 412: If-Match or conditional criteria did not hold
	TooLarge                       // 413: over a limit
	Unsupported                    // 415: media type
	Unprocessable                  // 422: understood, but breaks a rule of the resource
	TooMany                        // 429: rate limit
	Unavailable                    // 503: try again
	NoSpace                        // 507: the disk is full
	TooCostly                      // 403 issue "too-costly": the search would read too much
)

// Issue is one OperationOutcome.issue. Diagnostics never holds bytes of the
// input: it names the place and the rule.
type Issue struct {
	Severity    string   // fatal | error | warning | information; "" means error
	Code        string   // http://hl7.org/fhir/issue-type, e.g. "invalid", "structure", "not-supported"
	Diagnostics string   // place and rule, for a person
	Expression  []string // FHIRPath of the place, e.g. "Observation.value.ofType(Quantity).code"
	// Line and Column, in characters, are the position in the request's body,
	// from 1; zero when it is not known.
	Line, Column int
}

// Error is the only error type that crosses package borders.
type Error struct {
	Kind   Kind
	Op     string  // "pebblestore.Commit", "search.Parse": for the log
	Issues []Issue // what the caller may see; empty means a bare outcome for Kind
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

// Errorf builds an Error with one issue whose diagnostics the caller may see.
// The issue code follows from the kind.
func Errorf(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Issues: []Issue{{Severity: "error", Code: kind.IssueCode(),
		Diagnostics: fmt.Sprintf(format, args...)}}}
}

// Wrap marks err as an internal failure of op. A nil err stays nil, and an
// err that already is an Error keeps its kind.
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

// KindOf returns the kind of err; Internal for a foreign error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// IssueCode is the issue-type code that goes with a kind.
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

// HTTPStatus is the status code that goes with a kind.
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
