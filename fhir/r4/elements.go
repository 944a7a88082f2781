package r4

import "pulsegate/fhir/definitions"

// IsElement reports whether any R4 type has an element of this name. Errors may
// repeat such names.
func IsElement(name string) bool { return definitions.R4().IsElement([]byte(name)) }
