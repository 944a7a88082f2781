package fhir

import (
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
