package rows

import (
	"slices"
	"strings"

	"pulsegate/fhir/search"
)

// legacy lists the parameters that had X rows when schema 4 was the newest, by the types of
// that time. Those of Observation and AuditEvent are in indexedFew.
var legacy = map[string]string{ // read only
	"CodeSystem": "_profile _security _source _tag code content-mode context context-type identifier" +
		" jurisdiction language status supplements system url version",
	"ConceptMap": "_profile _security _source _tag context context-type dependson identifier" +
		" jurisdiction other product source source-code source-system source-uri status" +
		" target target-code target-system target-uri url version",
	"Consent": "_profile _security _source _tag action actor category consentor data identifier" +
		" organization patient purpose scope security-label source-reference status",
	"Device": "_profile _security _source _tag identifier location organization patient status" +
		" type url",
	"Group": "_profile _security _source _tag actual characteristic code exclude identifier" +
		" managing-entity member type value",
	"Organization": "_profile _security _source _tag active address-use endpoint identifier partof" +
		" type",
	"Patient": "_profile _security _source _tag active address-use deceased email gender" +
		" general-practitioner identifier language link organization phone telecom",
	"Practitioner": "_profile _security _source _tag active address-use communication email gender" +
		" identifier phone telecom",
	"Provenance": "_profile _security _source _tag agent agent-role agent-type entity location" +
		" patient signature-type target",
	"Subscription": "_profile _security _source _tag contact payload status type url",
}

// IndexedBefore reports whether a search parameter has X rows in schema 4. All documents
// of types that are not in legacy are younger than those lists.
func IndexedBefore(p *search.Param) bool {
	if !Indexed(p) || Late(p) {
		return false
	}
	codes, older := legacy[p.ResourceType]
	return !older || slices.Contains(strings.Fields(codes), p.Code)
}
