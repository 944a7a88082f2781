package googlehealth

import (
	"encoding/json"
	"net/http"
	"strings"
)

type object = map[string]any

// apiError is a google.rpc.Status with its HTTP status.
type apiError struct {
	code    int
	status  string
	message string
	reason  string // reason of the ErrorInfo, if any
	domain  string
	detail  string // detailedReasons of the ErrorInfo, if any
	field   string // field of a BadRequest violation, if any
	rule    string
}

const healthDomain = "health.googleapis.com"

// body returns the error as the API writes it.
func (e *apiError) body() object {
	status := object{"code": e.code, "message": e.message, "status": e.status}
	var details []any
	if e.reason != "" {
		info := object{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": e.reason, "domain": e.domain}
		if e.detail != "" {
			info["metadata"] = object{"detailedReasons": e.detail}
		}
		details = append(details, info)
	}
	if e.field != "" {
		details = append(details, object{"@type": "type.googleapis.com/google.rpc.BadRequest",
			"fieldViolations": []any{object{"field": e.field, "description": e.rule}}})
	}
	if details != nil {
		status["details"] = details
	}
	return object{"error": status}
}

func invalid(field, rule string) *apiError {
	return &apiError{code: http.StatusBadRequest, status: "INVALID_ARGUMENT",
		message: "Request contains an invalid argument.", field: field, rule: rule}
}

func badFilter(detail, rule string) *apiError {
	message := "Invalid data point filter: " + rule
	if detail != "" {
		message = "Invalid data point filter: " + detail + "."
	}
	return &apiError{code: http.StatusBadRequest, status: "INVALID_ARGUMENT", message: message,
		reason: "INVALID_DATA_POINT_FILTER", domain: healthDomain, detail: detail, field: "filter", rule: rule}
}

func badType(rule string) *apiError {
	return &apiError{code: http.StatusBadRequest, status: "INVALID_ARGUMENT", message: rule,
		reason: "INVALID_PARENT_DATA_TYPE_COLLECTION", domain: healthDomain}
}

func badFamily(rule string) *apiError {
	return &apiError{code: http.StatusBadRequest, status: "INVALID_ARGUMENT", message: rule,
		reason: "INVALID_DATA_POINT_DATA_SOURCE_FAMILY", domain: healthDomain}
}

func denied(message string) *apiError {
	return &apiError{code: http.StatusForbidden, status: "PERMISSION_DENIED", message: message}
}

func precondition(message string) *apiError {
	return &apiError{code: http.StatusBadRequest, status: "FAILED_PRECONDITION", message: message}
}

var (
	errUnauthenticated = &apiError{code: http.StatusUnauthorized, status: "UNAUTHENTICATED",
		message: "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or " +
			"other valid authentication credential."}
	errScope = &apiError{code: http.StatusForbidden, status: "PERMISSION_DENIED",
		message: "Request had insufficient authentication scopes.",
		reason:  "ACCESS_TOKEN_SCOPE_INSUFFICIENT", domain: "googleapis.com"}
	errNotLinked = &apiError{code: http.StatusBadRequest, status: "FAILED_PRECONDITION",
		message: "The account is not linked to Google Health.", reason: "ACCOUNT_NOT_LINKED", domain: healthDomain}
	errQuota = &apiError{code: http.StatusTooManyRequests, status: "RESOURCE_EXHAUSTED",
		message: "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute per user' of service " +
			"'health.googleapis.com'.", reason: "RATE_LIMIT_EXCEEDED", domain: "googleapis.com"}
	errUnavailable = &apiError{code: http.StatusServiceUnavailable, status: "UNAVAILABLE",
		message: "The service is currently unavailable."}
	errNotFound = &apiError{code: http.StatusNotFound, status: "NOT_FOUND",
		message: "Requested entity was not found."}
	errExists = &apiError{code: http.StatusConflict, status: "ALREADY_EXISTS",
		message: "Requested entity already exists."}
	errUnimplemented = &apiError{code: http.StatusNotImplemented, status: "UNIMPLEMENTED",
		message: "The simulator does not implement this method."}
)

// send writes v as the API formats JSON. The bytes depend only on v, because
// encoding/json sorts the members of maps.
func send(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Cache-Control", "private")
	body, err := json.Marshal(v)
	if err != nil { // every value is built of maps, lists, strings and numbers
		panic("googlehealth: " + err.Error())
	}
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}

// fail writes an error.
func fail(w http.ResponseWriter, e *apiError) {
	if e.code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://accounts.google.com/"`)
	}
	send(w, e.code, e.body())
}

// standardParameters are the query parameters of every method.
var standardParameters = []string{"$.xgafv", "access_token", "alt", "callback", "fields", "key", "oauth_token",
	"prettyPrint", "quotaUser", "uploadType", "upload_protocol"}

// checkQuery refuses query parameters that the method does not have.
func checkQuery(r *http.Request, names ...string) *apiError {
	for name := range r.URL.Query() {
		known := strings.HasPrefix(name, "$")
		for _, n := range append(names, standardParameters...) {
			known = known || n == name
		}
		if !known {
			return &apiError{code: http.StatusBadRequest, status: "INVALID_ARGUMENT",
				message: "Invalid query parameter.", field: name, rule: "Unknown name: cannot find field."}
		}
	}
	return nil
}
