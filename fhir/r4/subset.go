package r4

import (
	"bytes"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// subsetted marks a resource that lacks elements, so that nobody writes it
// back as if it were whole.
const subsetted = `{"system":"` + element.Terminology + `v3-ObservationValue","code":"SUBSETTED"}`

// Subset returns the part of a stored resource's JSON that _summary or
// _elements ask for, tagged SUBSETTED. Mandatory elements always stay. It
// works on the elements of the top level; what is below them is kept whole.
// Without a wish it returns json itself.
func Subset(typ string, json []byte, mode search.Summary, elements []string) ([]byte, error) {
	top := names().top[typ]
	if top == nil {
		return nil, fhir.Errorf(fhir.Internal, "r4.Subset", "resource type is not known to this server")
	}
	var keep func(e *elementDefinition) bool
	switch {
	case mode == search.SummaryTrue:
		keep = func(e *elementDefinition) bool { return e.summary || e.mandatory }
	case mode == search.SummaryText:
		keep = func(e *elementDefinition) bool { return e.name == "text" || e.mandatory }
	case mode == search.SummaryData:
		keep = func(e *elementDefinition) bool { return e.name != "text" }
	case len(elements) > 0:
		keep = func(e *elementDefinition) bool {
			return e.mandatory || slices.Contains(elements, e.name) || slices.Contains(elements, e.base)
		}
	default:
		return json, nil
	}
	out := append(make([]byte, 0, len(json)+len(subsetted)+16), '{')
	err := members(json, func(name string, raw jsontext.Value) error {
		bare := strings.TrimPrefix(name, "_")
		switch bare {
		case "resourceType", "id":
		case "meta":
			raw = tagged(raw)
		case "modifierExtension", "implicitRules":
			// they change the meaning of the rest
		default:
			if e := top[bare]; e == nil || !keep(e) {
				return nil
			}
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(element.AppendString(out, name), ':'), raw...)
		return nil
	})
	if err != nil {
		return nil, fhir.Wrap("r4.Subset", err)
	}
	return append(out, '}'), nil
}

// tagged adds the tag to a resource's meta.
func tagged(meta jsontext.Value) jsontext.Value {
	out := []byte{'{'}
	found := false
	err := members(meta, func(name string, raw jsontext.Value) error {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(element.AppendString(out, name), ':')
		if name == "tag" && bytes.HasPrefix(raw, []byte("[{")) {
			found = true
			out = append(append(append(out, '['), subsetted...), ',')
			raw = raw[1:]
		}
		out = append(out, raw...)
		return nil
	})
	if err != nil {
		return meta
	}
	if !found {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, `"tag":[`...), subsetted...), ']')
	}
	return append(out, '}')
}
