package fhir

import (
	"slices"
	"strings"
	"sync"
)

var r4Types = sync.OnceValues(func() (names []string, set map[string]bool) {
	names, set = strings.Fields(r4TypeNames), map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return names, set
})

// R4Types lists all resource types of R4 in alphabetical order, including those
// that this server does not store (see Types): a reference may name any of
// them. The slice is shared and must not be changed.
func R4Types() []string {
	names, _ := r4Types()
	return names
}

// IsR4Type reports whether R4 defines a resource type of this name.
func IsR4Type(name string) bool {
	_, set := r4Types()
	return set[name]
}

// Types lists the resource types that this server stores, in alphabetical order: all of
// R4 except Parameters and OperationOutcome, which have no endpoint. The slice is shared
// and must not be changed.
var Types = slices.DeleteFunc(strings.Fields(r4TypeNames), transient)

// transient reports whether resources of type t exist only in requests and responses.
func transient(t string) bool { return t == "Parameters" || t == "OperationOutcome" }

// KnownType reports whether the server stores resources of type t.
func KnownType(t string) bool { return IsR4Type(t) && !transient(t) }

// WrittenByServer reports whether only the server writes resources of type t, as it does
// the audit trail.
func WrittenByServer(t string) bool { return t == "AuditEvent" }
