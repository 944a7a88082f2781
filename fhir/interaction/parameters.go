package interaction

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// Parameter is one input of an operation. From a URL it has a Value; from a
// Parameters resource it has the type of value[x].
type Parameter struct {
	Name   string
	Value  string // a primitive, as written
	Coding *element.Coding
	Period *element.Period
	// The following fields are set by ParseComplex only.
	Concept  *element.CodeableConcept
	Meta     json.RawMessage
	Resource json.RawMessage
	// Position is the offset of Resource in the body.
	Position int
}

const maxParameters = 100

// QueryParameters parses the inputs in a query string.
func QueryParameters(raw string) ([]Parameter, error) {
	pairs, err := search.Pairs(raw)
	if err != nil {
		return nil, err
	}
	out := make([]Parameter, 0, len(pairs))
	for _, p := range pairs {
		if strings.TrimSpace(p[1]) != "" { // R4 search.html: empty parameters are ignored
			out = append(out, Parameter{Name: p[0], Value: p[1]})
		}
	}
	return out, nil
}

// ParseParameters parses the inputs in a Parameters resource: primitives,
// valueCoding and valuePeriod.
func ParseParameters(body []byte) ([]Parameter, error) { return parseParameters(body, false) }

// ParseComplex is ParseParameters for an operation that also takes resources,
// CodeableConcepts and Metas.
func ParseComplex(body []byte) ([]Parameter, error) { return parseParameters(body, true) }

func parseParameters(body []byte, complexTypes bool) ([]Parameter, error) {
	const op = "interaction.ParseParameters"
	var p struct {
		ResourceType string                       `json:"resourceType"`
		Parameter    []map[string]json.RawMessage `json:"parameter"`
	}
	// jsontext refuses duplicate members and invalid UTF-8; encoding/json does not.
	if !jsontext.Value(body).IsValid() || json.Unmarshal(body, &p) != nil || p.ResourceType != "Parameters" {
		return nil, fhir.Errorf(fhir.Invalid, op, "the body must be a Parameters resource")
	}
	if len(p.Parameter) > maxParameters {
		return nil, fhir.Errorf(fhir.TooLarge, op, "the Parameters resource has more than %d parameters", maxParameters)
	}
	out := make([]Parameter, 0, len(p.Parameter))
	for i, m := range p.Parameter {
		x := Parameter{}
		if json.Unmarshal(m["name"], &x.Name) != nil || x.Name == "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "Parameters.parameter[%d] has no name", i)
		}
		values := 0
		for k, raw := range m {
			if !strings.HasPrefix(k, "value") && !(complexTypes && k == "resource") {
				continue
			}
			values++
			if !x.read(k, raw) && !(complexTypes && x.readComplex(k, raw, body)) {
				return nil, fhir.Errorf(fhir.Invalid, op,
					"Parameters.parameter[%d] has a value of an unsupported type", i)
			}
		}
		if values != 1 {
			return nil, fhir.Errorf(fhir.Invalid, op, "Parameters.parameter[%d] must have one value", i)
		}
		out = append(out, x)
	}
	return out, nil
}

func (x *Parameter) read(member string, raw json.RawMessage) bool {
	switch member {
	case "valueCoding":
		x.Coding = &element.Coding{}
		return json.Unmarshal(raw, x.Coding) == nil
	case "valuePeriod":
		x.Period = &element.Period{}
		return json.Unmarshal(raw, x.Period) == nil
	}
	switch {
	case len(raw) == 0:
		return false
	case raw[0] == '"':
		return json.Unmarshal(raw, &x.Value) == nil
	case raw[0] == '{' || raw[0] == '[' || raw[0] == 'n':
		return false
	}
	x.Value = string(raw) // a number or boolean, as written
	return true
}

// readComplex reads a value that only some operations take.
func (x *Parameter) readComplex(member string, raw json.RawMessage, body []byte) bool {
	if len(raw) == 0 || raw[0] != '{' {
		return false
	}
	switch member {
	case "valueCodeableConcept":
		x.Concept = &element.CodeableConcept{}
		return json.Unmarshal(raw, x.Concept) == nil
	case "valueMeta":
		x.Meta = raw
		return true
	case "resource":
		x.Resource, x.Position = raw, max(0, bytes.Index(body, raw))
		return true
	}
	return false
}

// primitive reports whether the value is a primitive.
func (x *Parameter) primitive() bool {
	return x.Coding == nil && x.Period == nil && x.Concept == nil && x.Meta == nil && x.Resource == nil
}

// text returns the value as it appears in a query.
func (x *Parameter) text() string {
	switch {
	case x.Coding != nil:
		return x.Coding.System + "|" + x.Coding.Code
	case x.Period != nil:
		return x.Period.Start + "/" + x.Period.End
	case x.Concept != nil:
		var codes []string
		for _, c := range x.Concept.Coding {
			codes = append(codes, c.System+"|"+c.Code)
		}
		return strings.Join(codes, ",")
	case x.Meta != nil:
		return "(a Meta)"
	case x.Resource != nil:
		return "(a resource)"
	}
	return x.Value
}

// recordedOf returns an operation's request about one patient for the audit trail.
func (s *Service) recordedOf(rq *Request, ps []Parameter, patient string) recorded {
	a := recorded{typ: "Observation", line: rq.Line, single: patient, base: s.Base}
	for i := range ps {
		a.pairs = append(a.pairs, [2]string{ps[i].Name, ps[i].text()})
	}
	return a
}

// FormatParameters formats inputs as a query for the audit trail.
func FormatParameters(ps []Parameter) string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(p.Name) + "=" + url.QueryEscape(p.text()))
	}
	return b.String()
}
