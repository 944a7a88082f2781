package audit

import "pulsegate/fhir/access"

// Caller identifies who made a request and where it came from. A field that is
// not known is left empty.
type Caller struct {
	Principal *access.Principal
	RemoteIP  string // client address
	RequestID string
}

// As returns the caller with another principal: the same connection and
// request, once it is known who made it.
func (c Caller) As(p *access.Principal) Caller {
	c.Principal = p
	return c
}
