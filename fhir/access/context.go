package access

import "strings"

// SecurityContext is the name for which Facts.Tokens of a Binary returns the reference in
// its securityContext, if it has one. No search parameter has this name.
const SecurityContext = "securityContext"

// inContext reports whether the caller may see the resource that the securityContext of a
// Binary names, and whether the consents of its patients permit the Binary. Writes are not
// bound to it: they disclose nothing, and the resource may be in the same transaction. Nor
// are the operator's commands.
func (f Filter) inContext(binary *Facts) bool {
	if f.interaction&(Read|Search) == 0 || f.grant.AllPatients {
		return true
	}
	for _, token := range binary.Tokens(SecurityContext) {
		typ, id, _ := strings.Cut(token.Code, "/")
		id, _, _ = strings.Cut(id, "/_history/")
		if f.grant.Context == nil || typ == "Binary" {
			return false
		}
		read, within := Filter{f.grant, Read}, f.grant.Context(typ, id)
		if within == nil || !read.Allow(within) && !f.Allow(within) {
			return false
		}
		for _, p := range within.Patients() {
			if !f.Consented(binary, p) {
				return false
			}
		}
	}
	return true
}
