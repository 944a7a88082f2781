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
// and continues with the bytes that the author sent, so that numbers keep their
// written precision. Before a commit, the bytes contain neither meta.versionId nor
// meta.lastUpdated; the store inserts both (see Stamp).
type Resource struct {
	Type        string
	ID          string
	Version     uint64    // meta.versionId, from 1; 0 before the resource is stored
	LastUpdated time.Time // UTC with millisecond precision; zero before the resource is stored
	Deleted     bool      // set for a deletion marker, which has no JSON
	JSON        []byte
}

// Ref identifies a resource, for example Patient/p1.
type Ref struct {
	Type, ID string
}

// Ref returns the reference to r.
func (r *Resource) Ref() Ref { return Ref{r.Type, r.ID} }

func (r Ref) String() string { return r.Type + "/" + r.ID }

// IsZero reports whether r is the zero Ref.
func (r Ref) IsZero() bool { return r == Ref{} }

// ParseRef parses a relative literal reference such as "Patient/p1" or
// "Patient/p1/_history/3". It ignores the version.
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

// ValidID reports whether s is a valid FHIR id: [A-Za-z0-9\-\.]{1,64}.
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

// InstantLayout is the layout of instants that the server writes, which are in UTC
// with milliseconds.
const InstantLayout = "2006-01-02T15:04:05.000Z"

// Prefix returns the canonical beginning of a resource's bytes.
func Prefix(typ, id string) string {
	return `{"resourceType":"` + typ + `","id":"` + id + `","meta":{`
}

// Sendable returns the JSON of r as a client would send it. It omits the empty meta
// of a resource that the store has not stamped, because R4 does not allow empty
// elements.
func (r *Resource) Sendable() []byte {
	if rest, ok := bytes.CutPrefix(r.JSON, []byte(Prefix(r.Type, r.ID)+"},")); ok {
		return append([]byte(`{"resourceType":"`+r.Type+`","id":"`+r.ID+`",`), rest...)
	}
	return r.JSON
}

// Stamp returns a copy of the canonical bytes body with meta.versionId and
// meta.lastUpdated inserted directly after `"meta":{`. It returns nil if body does
// not have the canonical beginning for typ and id.
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
