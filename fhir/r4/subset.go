package r4

import (
	"bytes"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// subsetted is the tag of an incomplete resource. It warns clients not to write
// the resource back.
const subsetted = `{"system":"` + element.Terminology + `v3-ObservationValue","code":"SUBSETTED"}`

// Subset returns the part of a stored resource's JSON that _summary or
// _elements select, tagged SUBSETTED. It selects top-level elements with all
// their content and always keeps the mandatory ones. If neither parameter is
// set, it returns json itself.
func Subset(typ string, json []byte, mode search.Summary, elements []string) ([]byte, error) {
	st := definitions.R4().Structure(typ)
	if st == nil {
		return nil, fhir.Errorf(fhir.Internal, "r4.Subset", "the server does not support this resource type")
	}
	var keep func(m *definitions.Member, e *definitions.Element) bool
	switch {
	case mode == search.SummaryTrue:
		keep = func(_ *definitions.Member, e *definitions.Element) bool { return e.Summary || e.Min > 0 }
	case mode == search.SummaryText:
		keep = func(_ *definitions.Member, e *definitions.Element) bool { return e.Name == "text" || e.Min > 0 }
	case mode == search.SummaryData:
		keep = func(_ *definitions.Member, e *definitions.Element) bool { return e.Name != "text" }
	case len(elements) > 0:
		keep = func(m *definitions.Member, e *definitions.Element) bool {
			return e.Min > 0 || slices.Contains(elements, m.Name) || slices.Contains(elements, e.Name)
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
			// They change the meaning of the other elements.
		default:
			if m := st.LookupString(bare); m == nil || !keep(m, &st.Elements[m.Element]) {
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

// tagged adds the tag SUBSETTED to a resource's meta.
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
