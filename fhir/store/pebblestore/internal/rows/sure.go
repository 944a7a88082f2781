package rows

import (
	"slices"

	"pulsegate/fhir/search"
)

// unsure holds, for the types of parameters that have rows, the data types of elements that
// may be present without one: they have nothing to compare, or no code.
var unsure = map[search.ParamType][]string{ // read only
	search.TypeToken:     {"Coding", "CodeableConcept", "Identifier"},
	search.TypeDate:      {"string", "Age", "Range"},
	search.TypeReference: {"Reference", "Attachment"},
	search.TypeQuantity:  {"SampledData"},
}

// Sure reports whether every document has X rows of a parameter unless the parameter is
// missing from it (:missing=true).
func Sure(p *search.Param) bool {
	if p.Expression != nil || len(p.Paths) == 0 || !Indexed(p) && !Ordered(p) {
		return false
	}
	return !slices.ContainsFunc(p.Paths, func(path search.Path) bool {
		return path.Type == "Extension" || slices.Contains(unsure[p.Type], path.Type)
	})
}
