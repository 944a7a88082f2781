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

// Level selects the patients and types that an export covers.
type Level string

// Levels of the guide.
const (
	System   Level = "system"
	Patients Level = "patient"
	Group    Level = "group"
)

// Request is a kick-off request that has not been validated.
type Request struct {
	Level   Level
	GroupID string
	URL     string // full URL of the request, for the manifest
	Params  url.Values
	Lenient bool // Prefer: handling=lenient
	// Post is set if the request was a POST, the only method with the parameter patient.
	Post bool

	grant *access.Grant // set by check
}

// withheld lists the types that are never exported: the audit trail has its own access
// rules, Subscriptions contain secrets of endpoints, and a Binary or a Bundle can hold
// data of a patient in whose compartment it is not.
var withheld = []string{"AuditEvent", "Binary", "Bundle", "OperationOutcome", "Parameters", "Subscription"} // read only

// typesOf returns the types that a level exports, in alphabetical order: for the system
// all types that are stored, for patients those in the Patient compartment of R4 (as
// search.PatientParam has it). A Group has its members in its compartment, but lists
// other patients, so it is exported for the system only.
func typesOf(l Level) []string {
	var out []string
	for _, t := range fhir.Types {
		if slices.Contains(withheld, t) {
			continue
		}
		if code, _ := search.PatientParam(t); l == System || code != "" && t != "Group" {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

// spec is a validated request.
type spec struct {
	Types    []string  `json:"types"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
	Filters  []string  `json:"filters,omitempty"`  // queries of _typeFilter, such as Observation?code=x
	Elements []string  `json:"elements,omitempty"` // as in _elements
	// Listed is set if the request has the parameter patient. Patients are then its ids.
	Listed   bool     `json:"listed,omitempty"`
	Patients []string `json:"patients,omitempty"`
	// Provenance is "", latest or relevant.
	Provenance string `json:"provenance,omitempty"`
	// Organized is set if the files are organized by Patient.
	Organized bool `json:"organized,omitempty"`
	// Partial is set if the client takes manifests of a part of the files.
	Partial  bool     `json:"partial,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Values of includeAssociatedData, and of spec.Provenance.
const (
	latestProvenance   = "LatestProvenanceResources"
	relevantProvenance = "RelevantProvenanceResources"
)

// withValue returns the parameters that have a value. According to R4 search.html,
// empty parameters are ignored.
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

// checker validates a request.
type checker struct {
	*Request
	*spec
	parse search.ParseOptions // of the queries of _typeFilter, with the base URL
	types bool                // whether _type was given
}

// unsupported refuses a part of a request, or with lenient handling ignores it.
func (c *checker) unsupported(text string) error {
	if !c.Lenient {
		return &fhir.Error{Kind: fhir.Invalid, Op: "bulk.KickOff",
			Issues: []fhir.Issue{{Code: "not-supported", Diagnostics: text}}}
	}
	c.Warnings = append(c.Warnings, text+"; it was ignored")
	return nil
}

func (r *Request) check(g *access.Grant, parse search.ParseOptions) (*spec, error) {
	r.Params, r.grant = withValue(r.Params), g
	c := &checker{Request: r, spec: &spec{}, parse: parse}
	for _, step := range []func() error{c.checkNames, c.checkFormat, c.checkTimes, c.checkTypes, c.checkAssociated,
		c.checkFilters, c.checkElements, c.checkPatients, c.checkOrder} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	slices.Sort(c.Warnings)
	return c.spec, nil
}

// single lists the parameters that may be given once.
var single = []string{"_since", "_until", "_outputFormat", "organizeOutputBy", "allowPartialManifests"} // read only

func (c *checker) checkNames() error {
	for name := range c.Params {
		switch name {
		case "_type", "_typeFilter", "_elements", "patient", "includeAssociatedData":
		default:
			if slices.Contains(single, name) {
				continue
			}
			err := c.unsupported("a parameter is not one of this export; supported are _type, _typeFilter, " +
				"_elements, _since, _until, _outputFormat, patient, includeAssociatedData, organizeOutputBy " +
				"and allowPartialManifests")
			if err != nil {
				return err
			}
		}
	}
	for _, name := range single {
		if len(c.Params[name]) > 1 {
			return fhir.Errorf(fhir.Invalid, "bulk.KickOff", "%s may be given once", name)
		}
	}
	return nil
}

func (c *checker) checkFormat() error {
	for _, f := range c.Params["_outputFormat"] {
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

func (c *checker) checkTimes() error {
	for name, to := range map[string]*time.Time{"_since": &c.Since, "_until": &c.Until} {
		for _, v := range c.Params[name] {
			t, err := time.Parse(time.RFC3339Nano, search.Plus(v))
			if err != nil || t.Year() < 1900 {
				return fhir.Errorf(fhir.Invalid, "bulk.KickOff",
					"%s must be a FHIR instant, e.g. 2026-01-02T03:04:05Z", name)
			}
			*to = t.UTC()
		}
	}
	return nil
}

// list returns the values of a parameter, which may be repeated and may be lists with
// commas (Bulk Data 3.0; 4.0 has no commas).
func (c *checker) list(name string) (out []string) {
	for _, v := range c.Params[name] {
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				out = append(out, item)
			}
		}
	}
	return out
}

func (c *checker) checkTypes() error {
	const op = "bulk.KickOff"
	offered := typesOf(c.Level)
	if _, c.types = c.Params["_type"]; !c.types {
		for _, t := range offered {
			if c.grant.MayUnattended(access.Read, t) {
				c.Types = append(c.Types, t)
			}
		}
		if len(c.Types) == 0 {
			return fhir.Errorf(fhir.Forbidden, op, "the token's scopes cover none of the exported resource types")
		}
		return nil
	}
	for _, t := range c.list("_type") {
		switch {
		case !slices.Contains(offered, t):
			if err := c.unsupported("_type names a resource type that this export does not offer"); err != nil {
				return err
			}
		case !c.grant.MayUnattended(access.Read, t):
			return fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover reading %s", t)
		case !slices.Contains(c.Types, t):
			c.Types = append(c.Types, t)
		}
	}
	if len(c.Types) == 0 {
		return fhir.Errorf(fhir.Invalid, op, "_type names no resource type that this export offers")
	}
	slices.Sort(c.Types)
	return nil
}

// checkAssociated parses includeAssociatedData. Of both values, the one with more
// resources applies, as the guide says.
func (c *checker) checkAssociated() error {
	for _, v := range c.list("includeAssociatedData") {
		switch v {
		case latestProvenance, relevantProvenance:
			if c.Provenance != relevantProvenance {
				c.Provenance = v
			}
		default:
			err := c.unsupported("includeAssociatedData has a value that is not supported; supported are " +
				latestProvenance + " and " + relevantProvenance)
			if err != nil {
				return err
			}
		}
	}
	if c.Provenance == "" || slices.Contains(c.Types, "Provenance") {
		return nil
	}
	if !c.grant.MayUnattended(access.Read, "Provenance") {
		return fhir.Errorf(fhir.Forbidden, "bulk.KickOff", "the token's scopes do not cover reading Provenance")
	}
	c.Types = append(c.Types, "Provenance")
	slices.Sort(c.Types)
	return nil
}

// checkOrder parses organizeOutputBy and allowPartialManifests.
func (c *checker) checkOrder() error {
	for _, v := range c.Params["organizeOutputBy"] {
		if v == "Patient" {
			c.Organized = true
		} else if err := c.unsupported("organizeOutputBy supports only Patient"); err != nil {
			return err
		}
	}
	for _, v := range c.Params["allowPartialManifests"] {
		switch v {
		case "true":
			c.Partial = true
		case "false":
		default:
			return fhir.Errorf(fhir.Invalid, "bulk.KickOff", "allowPartialManifests must be true or false")
		}
	}
	if !c.Organized {
		return nil
	}
	// Resources that refer to no Patient are in no block.
	in := typesOf(Patients)
	c.Types = slices.DeleteFunc(c.Types, func(t string) bool { return !slices.Contains(in, t) })
	if len(c.Types) == 0 {
		return fhir.Errorf(fhir.Invalid, "bulk.KickOff",
			"organizeOutputBy=Patient needs a resource type of the Patient compartment")
	}
	return nil
}

// checkPatients parses the parameter patient. Whether the patients are part of the export
// is for Exporter.
func (c *checker) checkPatients() error {
	const op = "bulk.KickOff"
	values, ok := c.Params["patient"]
	if !ok {
		return nil
	}
	if c.Level == System {
		return c.unsupported("the parameter patient is for exports of patients and groups")
	}
	if !c.Post && !c.Lenient { // To ignore it would return more than was asked for.
		return c.unsupported("the parameter patient needs a POST request")
	}
	c.Listed = true
	for _, v := range values {
		for item := range strings.SplitSeq(v, ",") {
			ref, ok := fhir.ParseRef(strings.TrimPrefix(strings.TrimSpace(item), c.parse.Base+"/"))
			if !ok || ref.Type != "Patient" {
				return fhir.Errorf(fhir.Invalid, op, "each patient must be a reference such as Patient/[id]")
			}
			if !slices.Contains(c.spec.Patients, ref.ID) {
				c.spec.Patients = append(c.spec.Patients, ref.ID)
			}
		}
	}
	return nil
}

// maxParameters bounds the body of a kick-off by POST.
const maxParameters = 1000

// ParseParameters converts the Parameters resource of a kick-off by POST into
// query parameters.
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
		var name string
		if err := json.Unmarshal(m["name"], &name); err != nil || name == "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "Parameters.parameter[%d] has no name", i)
		}
		value, found := parameterValue(m)
		if !found {
			return nil, fhir.Errorf(fhir.Invalid, op, "Parameters.parameter[%d] has no value", i)
		}
		out.Add(name, value)
	}
	return out, nil
}

// parameterValue returns the text of value[x]: a primitive, or the reference of a
// valueReference. A value of another structure is ""; check refuses or ignores its name.
func parameterValue(m map[string]json.RawMessage) (value string, found bool) {
	for k, raw := range m {
		if !strings.HasPrefix(k, "value") {
			continue
		}
		found = true
		var boolean bool
		var reference struct{ Reference string }
		switch {
		case json.Unmarshal(raw, &value) == nil:
		case json.Unmarshal(raw, &boolean) == nil:
			value = "false"
			if boolean {
				value = "true"
			}
		case k == "valueReference" && json.Unmarshal(raw, &reference) == nil:
			value = reference.Reference
		default:
			value = ""
		}
	}
	return value, found
}
