package bulk

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
)

// Level is what an export covers.
type Level string

// The three levels of the guide.
const (
	System   Level = "system"
	Patients Level = "patient"
	Group    Level = "group"
)

// Request is a kick-off as it came in, before its rules are checked.
type Request struct {
	Level   Level
	GroupID string
	URL     string // full URL of the request, for the manifest
	Params  url.Values
	Lenient bool // Prefer: handling=lenient
}

// typesOf returns the types a level exports, in the order of the manifest.
func typesOf(l Level) []string {
	if l == System {
		return []string{"Consent", "Device", "Group", "Observation", "Organization", "Patient", "Practitioner",
			"Provenance"}
	}
	return []string{"Consent", "Device", "Observation", "Patient", "Provenance"}
}

// spec is a checked request.
type spec struct {
	types    []string
	since    time.Time
	warnings []string
}

// withValue returns the parameters that have a value: R4 search.html has empty
// ones ignored.
func withValue(params map[string][]string) map[string][]string {
	out := map[string][]string{}
	for name, values := range params {
		for _, v := range values {
			if strings.Trim(v, ", ") != "" {
				out[name] = append(out[name], v)
			}
		}
	}
	return out
}

func (r *Request) check(g *access.Grant) (*spec, error) {
	const op = "bulk.KickOff"
	s := &spec{}
	r.Params = withValue(r.Params)
	for name := range r.Params {
		switch name {
		case "_outputFormat", "_since", "_type":
		default:
			known := "an unknown parameter"
			switch name {
			case "_typeFilter", "_elements", "patient", "includeAssociatedData", "_until", "organizeOutputBy":
				known = "parameter " + name
			}
			if !r.Lenient {
				return nil, &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Code: "not-supported",
					Diagnostics: known +
						" is not supported by this export; supported are _type, _since and _outputFormat"}}}
			}
			s.warnings = append(s.warnings, known+" is not supported and was ignored")
		}
	}
	slices.Sort(s.warnings)
	if err := checkFormat(r.Params["_outputFormat"]); err != nil {
		return nil, err
	}
	if v := r.Params["_since"]; len(v) > 1 {
		return nil, fhir.Errorf(fhir.Invalid, op, "_since may be given once")
	} else if len(v) == 1 {
		t, err := time.Parse(time.RFC3339Nano, search.Plus(v[0]))
		if err != nil || t.Year() < 1900 {
			return nil, fhir.Errorf(fhir.Invalid, op, "_since must be a FHIR instant, e.g. 2026-01-02T03:04:05Z")
		}
		s.since = t.UTC()
	}
	if err := r.checkTypes(g, s); err != nil {
		return nil, err
	}
	return s, nil
}

func checkFormat(values []string) error {
	for _, f := range values {
		switch f {
		// A plus that was not escaped in a URL arrives as a space.
		case "application/fhir+ndjson", "application/fhir ndjson", "application/ndjson", "ndjson":
		default:
			return fhir.Errorf(fhir.Invalid, "bulk.KickOff",
				"_outputFormat must be application/fhir+ndjson, application/ndjson or ndjson")
		}
	}
	return nil
}

func (r *Request) checkTypes(g *access.Grant, s *spec) error {
	const op = "bulk.KickOff"
	offered := typesOf(r.Level)
	var asked []string
	for _, v := range r.Params["_type"] {
		for t := range strings.SplitSeq(v, ",") {
			if t = strings.TrimSpace(t); t != "" {
				asked = append(asked, t)
			}
		}
	}
	if _, given := r.Params["_type"]; !given {
		for _, t := range offered {
			if g.MayUnattended(access.Read, t) {
				s.types = append(s.types, t)
			}
		}
		if len(s.types) == 0 {
			return fhir.Errorf(fhir.Forbidden, op, "the token's scopes cover none of the exported resource types")
		}
		return nil
	}
	for _, t := range asked {
		switch {
		case !slices.Contains(offered, t):
			if !r.Lenient {
				return fhir.Errorf(fhir.Invalid, op,
					"_type names a resource type that this export does not offer; offered are %s",
					strings.Join(offered, ", "))
			}
			s.warnings = append(s.warnings, "a resource type in _type is not offered by this export and was ignored")
		case !g.MayUnattended(access.Read, t):
			return fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover reading %s", t)
		case !slices.Contains(s.types, t):
			s.types = append(s.types, t)
		}
	}
	if len(s.types) == 0 {
		return fhir.Errorf(fhir.Invalid, op, "_type names no resource type that this export offers")
	}
	slices.Sort(s.types)
	return nil
}

// maxParameters bounds the body of a kick-off by POST.
const maxParameters = 100

// ParseParameters reads the Parameters resource of a kick-off by POST into
// the form of query parameters.
func ParseParameters(body []byte) (url.Values, error) {
	const op = "bulk.ParseParameters"
	var p struct {
		ResourceType string                       `json:"resourceType"`
		Parameter    []map[string]json.RawMessage `json:"parameter"`
	}
	if err := json.Unmarshal(body, &p); err != nil || p.ResourceType != "Parameters" {
		return nil, fhir.Errorf(fhir.Invalid, op, "the body of an export request must be a Parameters resource")
	}
	if len(p.Parameter) > maxParameters {
		return nil, fhir.Errorf(fhir.TooLarge, op, "at most %d parameters", maxParameters)
	}
	out := url.Values{}
	for i, m := range p.Parameter {
		var name, value string
		if err := json.Unmarshal(m["name"], &name); err != nil || name == "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "Parameters.parameter[%d] has no name", i)
		}
		found := false
		for k, raw := range m {
			if strings.HasPrefix(k, "value") {
				if json.Unmarshal(raw, &value) != nil {
					// A structured value: of no parameter that is supported,
					// and refused (or ignored) by its name later.
					value = ""
				}
				found = true
			}
		}
		if !found {
			return nil, fhir.Errorf(fhir.Invalid, op, "Parameters.parameter[%d] has no value", i)
		}
		out.Add(name, value)
	}
	return out, nil
}
