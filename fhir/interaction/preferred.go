package interaction

import (
	"bytes"
	"context"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
)

// Preferred answers $stats over the preferred sources.
type Preferred interface {
	// Values calls fn with numbers of the preferred sources until fn returns false. It uses
	// no measurement that the filter hides. If a code has no preferred source, the error is
	// Invalid.
	Values(ctx context.Context, q *PreferredQuery, fn func(*Numbers) bool) error
}

// PreferredQuery selects measurements of preferred sources.
type PreferredQuery struct {
	Patient  string
	Codes    []element.Coding // the system may be empty
	From, To time.Time        // the zero time means open; To is excluded
	Filter   access.Filter
	At       store.Seq
	// Each passes every number alone, with its own From.
	Each bool
}

// preferredCoding is the tag of Observations that are derived from a preferred source.
var preferredCoding = []byte(`{"system":"` + fhir.Canonical + `/CodeSystem/measures","code":"preferred"`)

// metaBytes is the size of the beginning of a resource in which its tags are expected.
const metaBytes = 512

// isPreferred reports whether an Observation is derived from a preferred source.
func isPreferred(json []byte) bool {
	head, _, _ := bytes.Cut(json[:min(len(json), metaBytes)], []byte(`"status":`))
	return bytes.Contains(head, preferredCoding)
}
