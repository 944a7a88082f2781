package r4

// IsElement reports whether any R4 type has an element of this name. Errors may
// repeat such names.
func IsElement(name string) bool { return names().elements[name] }
