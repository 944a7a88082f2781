package audit

import (
	"time"

	"pulsegate/fhir"
)

// EventType selects the pattern of an event.
type EventType uint8

const (
	Rest         EventType = iota + 1 // a RESTful interaction (Interaction says which)
	TokenIssue                        // IUA ITI-71
	Ingest                            // a vendor payload became resources
	IngestRefuse                      // a payload was refused for want of consent
	Export                            // kick-off of $export
	Disclosure                        // download of an export file, or a notification with content
	ConsentDeny                       // AuthZ-Consent, outcome 8
	Operator                          // a command over the admin socket
	AuditRead                         // the trail itself was read or verified
	Lifecycle                         // server start and stop
)

// Kinds of what people do at the sign-in and on its pages. The number goes
// into the leaf, so it is never given to another kind.
const (
	SignIn   EventType = iota + 32 // Interaction "login" or "step-up"
	SignOut                        // Interaction "logout"
	Security                       // Interaction names it: see securitySubtype
	Decision                       // a person allowed an app, or did not (outcome 8)
)

// Outcome codes of AuditEvent.outcome.
const (
	Success = "0"
	Minor   = "4" // the caller's fault
	Serious = "8" // denied
	Major   = "12"
)

// Event is what happened. It holds ids only, never a name, value or token.
type Event struct {
	Type        EventType
	Interaction string // restful-interaction code: "read", "search-type", "create", ...; or the operation's name
	Outcome     string // Success and its like; "" means Success
	// Reason is a fixed text for a failed event ("scope does not cover
	// Observation"), never input.
	Reason string
	At     time.Time // zero: the recorder's clock
	Caller
	Patient string    // id; at most one an event
	Data    []DataRef // what was touched
	// raw query or request line for searches, operations and token requests (secrets already
	// taken out)
	Query     string
	Recipient string      // network address or client the data went to (Disclosure)
	Extra     [][2]string // AuditEvent.entity.detail: counts and job ids, no PHI
}

// DataRef is a resource, versioned when Version > 0.
type DataRef struct {
	Ref     fhir.Ref
	Version uint64
}
