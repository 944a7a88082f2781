package interaction

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
)

// Preconditions say what must hold of the current version for a write to
// happen (RFC 9110 section 13.1); what does not is PreconditionFailed. The
// zero value requires nothing.
type Preconditions struct {
	IfMatch, IfNoneMatch Tags
	// IfUnmodifiedSince counts to the second, and only without IfMatch (RFC
	// 9110 section 13.1.4). The zero time requires nothing.
	IfUnmodifiedSince time.Time
}

// Tags is a list of entity tags. The zero value is no list.
type Tags struct {
	given, any bool
	versions   []uint64
}

// Given reports whether there is a list.
func (t *Tags) Given() bool { return t.given }

// Has reports whether the list holds version, or "*" and there is one.
func (t *Tags) Has(version uint64) bool {
	return version > 0 && (t.any || slices.Contains(t.versions, version))
}

// ParseTags reads the value of If-Match or If-None-Match (RFC 9110 section
// 8.8.3): "*" or a list of entity tags, weak or not. A tag that is none of
// this server's matches nothing. The empty string is no list.
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

// check holds what is there, as far as the caller may know it, to the
// preconditions.
func (p *Preconditions) check(op string, old *stored) error {
	version := uint64(0)
	if old.live() {
		version = old.res.Version
	}
	var failed error
	switch {
	case p.IfMatch.Given() && !p.IfMatch.Has(version):
		failed = fhir.Errorf(fhir.PreconditionFailed, op, "If-Match does not name the current version")
	case p.IfNoneMatch.Given() && p.IfNoneMatch.Has(version):
		failed = fhir.Errorf(fhir.PreconditionFailed, op,
			"If-None-Match names the current version: the resource is there")
	case !p.IfMatch.Given() && version > 0 && !p.IfUnmodifiedSince.IsZero() &&
		old.res.LastUpdated.Truncate(time.Second).After(p.IfUnmodifiedSince):
		failed = fhir.Errorf(fhir.PreconditionFailed, op,
			"the resource has changed since the time of If-Unmodified-Since")
	}
	if failed != nil && old != nil {
		return disclosing(failed, disclosedOf(old))
	}
	return failed
}
