package audit

import (
	"time"

	"pulsegate/fhir"
)

// EventType selects the pattern of an event.
type EventType uint8

const (
	Rest         EventType = iota + 1 // RESTful interaction, named by Interaction
	TokenIssue                        // IUA ITI-71
	Ingest                            // import of a vendor payload
	IngestRefuse                      // payload rejected because of missing consent
	Export                            // kick-off of $export
	Disclosure                        // download of an export file, or a notification with content
	ConsentDeny                       // AuthZ-Consent, outcome 8
	Operator                          // command over the admin socket
	AuditRead                         // read or verification of the audit trail
	Lifecycle                         // server start and stop
)

// Types of events on the sign-in and account pages. The number is part of the
// leaf, so it must never be reused for another type.
const (
	SignIn   EventType = iota + 32 // Interaction "login" or "step-up"
	SignOut                        // Interaction "logout"
	Security                       // change of security settings, see securitySubtype
	Decision                       // a person authorized an app or refused to (outcome 8)
)

// Outcome codes of AuditEvent.outcome.
const (
	Success = "0"
	Minor   = "4" // error by the caller
	Serious = "8" // denied
	Major   = "12"
)

// Event describes an event. It contains ids, but no names, values or tokens of
// patients.
type Event struct {
	Type        EventType
	Interaction string // restful-interaction code such as "read", or the name of an operation
	Outcome     string // Success, Minor, Serious or Major; if empty, it depends on Type
	// Reason is a fixed text for a failed event ("scope does not cover
	// Observation"). It must not contain input.
	Reason string
	At     time.Time // if zero, the recorder's clock is used
	Caller
	Patient string    // id
	Data    []DataRef // resources that were read or written
	// Query is the request line of a search or operation, or the parameters of a
	// token request without secrets.
	Query     string
	Recipient string      // network address that received the data (Disclosure)
	Extra     [][2]string // AuditEvent.entity.detail: counts and job ids, no PHI
}

// DataRef references a resource, and one of its versions if Version is not 0.
type DataRef struct {
	Ref     fhir.Ref
	Version uint64
}
