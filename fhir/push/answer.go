package push

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"pulsegate/fhir"
)

// created returns the id in the Location of an answer, or "" if there is none.
func (a *answer) created() string {
	path := a.location
	if u, err := url.Parse(a.location); err == nil {
		path = u.Path
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i := len(parts) - 2; i >= 0; i-- {
		if parts[i] == "Observation" && fhir.ValidID(parts[i+1]) {
			return parts[i+1]
		}
	}
	return ""
}

// matches returns the ids of the resources of a type in the searchset that answers a
// search, at most maxMatches. It reports false if the answer is not a searchset, or
// if its total contradicts the entries.
func (a *answer) matches(typ string) (ids []string, ok bool) {
	var b struct {
		Type  string `json:"resourceType"`
		Kind  string `json:"type"`
		Total *int   `json:"total"`
		Entry []struct {
			Search   struct{ Mode string }
			Resource struct {
				Type string `json:"resourceType"`
				ID   string `json:"id"`
			} `json:"resource"`
		} `json:"entry"`
	}
	if !a.ok() || json.Unmarshal(a.body, &b) != nil || b.Type != "Bundle" || b.Kind != "searchset" {
		return nil, false
	}
	for _, e := range b.Entry {
		if e.Search.Mode != "" && e.Search.Mode != "match" {
			continue
		}
		if e.Resource.Type != typ || !fhir.ValidID(e.Resource.ID) {
			return nil, false
		}
		if ids = append(ids, e.Resource.ID); len(ids) >= maxMatches {
			return ids, true
		}
	}
	// A page that leaves out matches must not pass for exactly one.
	if b.Total != nil && *b.Total != len(ids) {
		return nil, false
	}
	return ids, true
}

// maxCodes bounds the codes that are kept of an OperationOutcome.
const maxCodes = 10

// codes returns the issue codes of the OperationOutcome in an answer. Only codes of
// the value set issue-type are kept, because any other text may contain PHI.
func (a *answer) codes() []string {
	var o struct {
		Type  string `json:"resourceType"`
		Issue []struct {
			Code string `json:"code"`
		} `json:"issue"`
	}
	if json.Unmarshal(a.body, &o) != nil || o.Type != "OperationOutcome" {
		return nil
	}
	var out []string
	for _, i := range o.Issue {
		if slices.Contains(issueTypes(), i.Code) && !slices.Contains(out, i.Code) && len(out) < maxCodes {
			out = append(out, i.Code)
		}
	}
	return out
}

// issueTypes lists http://hl7.org/fhir/ValueSet/issue-type of R4.
func issueTypes() []string {
	return []string{"invalid", "structure", "required", "value", "invariant", "security", "login", "unknown",
		"expired", "forbidden", "suppressed", "processing", "not-supported", "duplicate", "multiple-matches",
		"not-found", "deleted", "too-long", "code-invalid", "extension", "too-costly", "business-rule",
		"conflict", "transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled",
		"informational"}
}
