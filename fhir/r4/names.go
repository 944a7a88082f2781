package r4

// IsElement reports whether R4 has an element of this name, in any type: such
// a name may be repeated in an error.
func IsElement(name string) bool { return names().elements[name] }
