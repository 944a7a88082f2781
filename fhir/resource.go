package fhir

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// Resource is one version of one FHIR R4 resource.
//
// JSON is in canonical form: it begins with exactly
//
//	{"resourceType":"<Type>","id":"<ID>","meta":{
//
// and everything after that is the bytes the author sent (numbers keep their
// written precision, "62" is not "62.0"). Before a commit the bytes carry no
// meta.versionId and no meta.lastUpdated; the store stamps both (see Stamp).
type Resource struct {
	Type        string
	ID          string
	Version     uint64    // meta.versionId, from 1; 0 before it is stored
	LastUpdated time.Time // UTC, millisecond precision; zero before it is stored
	Deleted     bool      // a deletion marker: JSON is nil
	JSON        []byte
}

// Ref names a resource: "Patient/p1".
type Ref struct {
	Type, ID string
}

// Ref returns the reference to r.
func (r *Resource) Ref() Ref { return Ref{r.Type, r.ID} }

func (r Ref) String() string { return r.Type + "/" + r.ID }

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// ParseRef reads a relative literal reference ("Patient/p1" or
// "Patient/p1/_history/3"; the version is dropped).
func ParseRef(s string) (Ref, bool) {
	t, rest, ok := strings.Cut(s, "/")
	if !ok || t == "" || rest == "" {
		return Ref{}, false
	}
	id, hist, _ := strings.Cut(rest, "/")
	if hist != "" && !strings.HasPrefix(hist, "_history/") {
		return Ref{}, false
	}
	if !ValidID(id) || t[0] < 'A' || t[0] > 'Z' {
		return Ref{}, false
	}
	return Ref{t, id}, true
}

// ValidID reports whether s is a legal FHIR id: [A-Za-z0-9\-\.]{1,64}.
func ValidID(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

// InstantLayout is how the server writes instants: UTC, milliseconds.
const InstantLayout = "2006-01-02T15:04:05.000Z"

// Prefix returns the canonical beginning of a resource's bytes.
func Prefix(typ, id string) string {
	return `{"resourceType":"` + typ + `","id":"` + id + `","meta":{`
}

// Sendable returns the bytes of a canonical form as a client sends them. A
// form that the store has not stamped has an empty meta, which R4 does not
// allow; it is left out.
func (r *Resource) Sendable() []byte {
	if rest, ok := bytes.CutPrefix(r.JSON, []byte(Prefix(r.Type, r.ID)+"},")); ok {
		return append([]byte(`{"resourceType":"`+r.Type+`","id":"`+r.ID+`",`), rest...)
	}
	return r.JSON
}

// Stamp returns canonical bytes with meta.versionId and meta.lastUpdated
// inserted directly after `"meta":{`. The input is not changed. It returns nil
// if body does not have the canonical beginning for typ and id.
func Stamp(body []byte, typ, id string, version uint64, updated time.Time) []byte {
	p := Prefix(typ, id)
	if !bytes.HasPrefix(body, []byte(p)) {
		return nil
	}
	rest := body[len(p):]
	out := make([]byte, 0, len(body)+72)
	out = append(out, p...)
	out = append(out, `"versionId":"`...)
	out = strconv.AppendUint(out, version, 10)
	out = append(out, `","lastUpdated":"`...)
	out = updated.UTC().AppendFormat(out, InstantLayout)
	out = append(out, '"')
	if len(rest) > 0 && rest[0] != '}' {
		out = append(out, ',')
	}
	return append(out, rest...)
}

// Types lists the resource types this server stores, in the order in which
// the CapabilityStatement names them.
var Types = []string{
	"AuditEvent", "Consent", "Device", "Group", "Observation", "Organization",
	"Patient", "Practitioner", "Provenance", "Subscription",
}

// KnownType reports whether the server stores resources of type t.
func KnownType(t string) bool {
	for _, k := range Types {
		if k == t {
			return true
		}
	}
	return false
}
