package interaction

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
)

// Preconditions holds conditions on the current version (RFC 9110 section 13.1). A
// write fails with PreconditionFailed if they are not met. The zero value requires
// nothing.
type Preconditions struct {
	IfMatch, IfNoneMatch Tags
	// IfUnmodifiedSince has a precision of one second and is ignored if IfMatch is
	// given (RFC 9110 section 13.1.4). The zero time requires nothing.
	IfUnmodifiedSince time.Time
}

// Tags is a list of entity tags. The zero value is no list.
type Tags struct {
	given, any bool
	versions   []uint64
}

// Given reports whether there is a list.
func (t *Tags) Given() bool { return t.given }

// Has reports whether the list matches an existing version. "*" matches any.
func (t *Tags) Has(version uint64) bool {
	return version > 0 && (t.any || slices.Contains(t.versions, version))
}

// ParseTags parses the value of If-Match or If-None-Match (RFC 9110 section
// 8.8.3): "*" or a list of entity tags, weak or strong. Tags that this server does
// not issue match nothing. The empty string is no list.
func ParseTags(s string) (Tags, error) {
	s = strings.TrimSpace(s)
	t := Tags{given: s != ""}
	if s == "*" {
		t.any = true
		return t, nil
	}
	for s != "" {
		rest, ok := strings.CutPrefix(strings.TrimPrefix(s, "W/"), `"`)
		tag, after, closed := strings.Cut(rest, `"`)
		if !ok || !closed || strings.ContainsFunc(tag, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return Tags{}, badTags()
		}
		if v, err := strconv.ParseUint(tag, 10, 64); err == nil && strconv.FormatUint(v, 10) == tag {
			t.versions = append(t.versions, v)
		}
		after = strings.TrimSpace(after)
		next, comma := strings.CutPrefix(after, ",")
		s = strings.TrimSpace(next)
		if !comma && after != "" || comma && s == "" {
			return Tags{}, badTags()
		}
	}
	return t, nil
}

func badTags() error {
	return fhir.Errorf(fhir.Invalid, "interaction.ParseTags",
		`If-Match and If-None-Match take "*" or entity tags such as W/"3"`)
}

// check checks the preconditions against the version that the caller may see.
func (p *Preconditions) check(op string, old *stored) error {
	version := uint64(0)
	if old.live() {
		version = old.res.Version
	}
	var failed error
	switch {
	case p.IfMatch.Given() && !p.IfMatch.Has(version):
		failed = fhir.Errorf(fhir.PreconditionFailed, op, "If-Match does not name the current version; read the resource again and repeat the request")
	case p.IfNoneMatch.Given() && p.IfNoneMatch.Has(version):
		failed = fhir.Errorf(fhir.PreconditionFailed, op,
			"the resource exists, and If-None-Match names its current version")
	case !p.IfMatch.Given() && version > 0 && !p.IfUnmodifiedSince.IsZero() &&
		old.res.LastUpdated.Truncate(time.Second).After(p.IfUnmodifiedSince):
		failed = fhir.Errorf(fhir.PreconditionFailed, op,
			"the resource has changed since the time in If-Unmodified-Since; read it again and repeat the request")
	}
	if failed != nil && old != nil {
		return disclosing(failed, disclosedOf(old))
	}
	return failed
}
