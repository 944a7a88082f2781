package capability

import (
	"encoding/json"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// AllTypes is the Operation.Type of an operation of every resource type.
const AllTypes = "Resource"

// Operation is one operation. If Type is empty, it is an operation of the system.
type Operation struct {
	Type       string
	Name       string // without the dollar sign
	Definition string // canonical of the OperationDefinition
	// Documentation says how the operation differs from its definition, or is "".
	Documentation string
}

// Settings holds the parts of the statements that do not come from the registries.
type Settings struct {
	Base     string // base URL of the FHIR API
	Version  string // of the software
	Released time.Time
	// OAuth endpoints for the oauth-uris extension. Empty ones are omitted.
	Token, Authorize, Introspect, Revoke, Register, Manage string
	Operations                                             []Operation
	// Instantiates lists the canonical URLs of the CapabilityStatements that the server
	// implements.
	Instantiates []string
	// Profiles lists the canonical URLs of the supported profiles by type.
	Profiles map[string][]string
	// Registry holds the search parameters. If it is nil, they are search.Builtin.
	Registry *search.Registry
	// Topics lists the canonical URLs of the topics that Subscriptions may name.
	Topics []string
	// WebSocket is the URL of the WebSocket of Subscriptions. It may be empty.
	WebSocket string
}

const (
	oauthURIs = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
	// websocketURL is the URL of R4's extension for the WebSocket of Subscriptions.
	websocketURL = element.StructureDefinition + "capabilitystatement-websocket"

	topicURL = element.SubscriptionsBackport + "StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
)

type code struct {
	Code string `json:"code"`
}

type operation struct {
	Name          string `json:"name"`
	Definition    string `json:"definition"`
	Documentation string `json:"documentation,omitempty"`
}

type param struct {
	Name       string `json:"name"`
	Definition string `json:"definition,omitempty"`
	Type       string `json:"type"`
	// Documentation explains choices that R4 leaves open.
	Documentation string `json:"documentation,omitempty"`
}

// localDay tells clients how to search for a day of the wearer.
const localDay = "A value without an offset, and a day without a time, is taken in UTC. To search for a day of the wearer, state the offset of the wearer's zone: date=ge2026-03-01T00:00:00+01:00&date=lt2026-03-02T00:00:00+01:00, with + percent-encoded as %2B. Values of a whole day (totals, scores) have no time; they are found by the day as the vendor states it: date=2026-03-01."

type resource struct {
	Extension         []element.Extension `json:"extension,omitempty"`
	Type              string              `json:"type"`
	SupportedProfile  []string            `json:"supportedProfile,omitempty"`
	Documentation     string              `json:"documentation,omitempty"`
	Interaction       []code              `json:"interaction"`
	Versioning        string              `json:"versioning"`
	ReadHistory       bool                `json:"readHistory"`
	UpdateCreate      bool                `json:"updateCreate"`
	ConditionalCreate bool                `json:"conditionalCreate"`
	ConditionalRead   string              `json:"conditionalRead"`
	ConditionalUpdate bool                `json:"conditionalUpdate"`
	ConditionalDelete string              `json:"conditionalDelete"`
	SearchInclude     []string            `json:"searchInclude,omitempty"`
	SearchRevInclude  []string            `json:"searchRevInclude,omitempty"`
	SearchParam       []param             `json:"searchParam,omitempty"`
	Operation         []operation         `json:"operation,omitempty"`
}

type security struct {
	Extension   []element.Extension       `json:"extension,omitempty"`
	CORS        bool                      `json:"cors"`
	Service     []element.CodeableConcept `json:"service"`
	Description string                    `json:"description"`
}

type rest struct {
	Extension []element.Extension `json:"extension,omitempty"`
	Mode      string              `json:"mode"`
	// Documentation explains what the statement has no elements for.
	Documentation string      `json:"documentation"`
	Security      security    `json:"security"`
	Resource      []resource  `json:"resource"`
	Interaction   []code      `json:"interaction"`
	Operation     []operation `json:"operation,omitempty"`
}

type software struct {
	Name        string `json:"name"`
	Version     string `json:"version,omitempty"`
	ReleaseDate string `json:"releaseDate,omitempty"`
}

type implementation struct {
	Description string `json:"description"`
	URL         string `json:"url"`
}

type statement struct {
	ResourceType   string         `json:"resourceType"`
	URL            string         `json:"url"`
	Name           string         `json:"name"`
	Title          string         `json:"title"`
	Status         string         `json:"status"`
	Date           string         `json:"date"`
	Publisher      string         `json:"publisher"`
	Description    string         `json:"description"`
	Kind           string         `json:"kind"`
	Instantiates   []string       `json:"instantiates,omitempty"`
	Software       software       `json:"software"`
	Implementation implementation `json:"implementation"`
	FHIRVersion    string         `json:"fhirVersion"`
	Format         []string       `json:"format"`
	PatchFormat    []string       `json:"patchFormat"`
	Rest           []rest         `json:"rest"`
}

// Statement returns the CapabilityStatement as JSON.
func Statement(s Settings) ([]byte, error) {
	date := s.Released.UTC().Format("2006-01-02")
	r := rest{
		Mode:          "server",
		Documentation: searching,
		Security:      s.security(),
		Interaction:   []code{{"batch"}, {"transaction"}, {"history-system"}, {"search-system"}},
		Operation:     s.operations(""),
	}
	if s.WebSocket != "" {
		r.Extension = []element.Extension{{URL: websocketURL, ValueURI: s.WebSocket}}
	}
	revIncludes := referring(s.Registry)
	for _, t := range fhir.Types {
		r.Resource = append(r.Resource, s.resource(t, revIncludes[t]))
	}
	b, err := json.Marshal(statement{
		ResourceType: "CapabilityStatement",
		URL:          s.Base + "/metadata", Name: "Pulsegate", Title: "Pulsegate: wearables on FHIR",
		Status: "active", Date: date, Publisher: "Pulsegate", Kind: "instance",
		Description:    "SMART on FHIR R4 server for the data of wearables",
		Instantiates:   s.Instantiates,
		Software:       software{"Pulsegate", s.Version, date},
		Implementation: implementation{"This server", s.Base},
		FHIRVersion:    "4.0.1",
		Format:         []string{"application/fhir+json", "application/fhir+xml", "json", "xml", "text/html"},
		PatchFormat:    []string{"application/json-patch+json", "application/fhir+json", "application/fhir+xml"},
		Rest:           []rest{r},
	})
	if err != nil {
		return nil, fhir.Wrap("capability.Statement", err)
	}
	return b, nil
}

// Terminology returns the TerminologyCapabilities as JSON.
func Terminology(s Settings) ([]byte, error) {
	date := s.Released.UTC().Format("2006-01-02")
	b, err := json.Marshal(struct {
		ResourceType   string         `json:"resourceType"`
		URL            string         `json:"url"`
		Name           string         `json:"name"`
		Title          string         `json:"title"`
		Status         string         `json:"status"`
		Date           string         `json:"date"`
		Publisher      string         `json:"publisher"`
		Description    string         `json:"description"`
		Kind           string         `json:"kind"`
		Software       software       `json:"software"`
		Implementation implementation `json:"implementation"`
		Expansion      expansion      `json:"expansion"`
		CodeSearch     string         `json:"codeSearch"`
		ValidateCode   struct {
			Translations bool `json:"translations"`
		} `json:"validateCode"`
		Translation struct {
			NeedsMap bool `json:"needsMap"`
		} `json:"translation"`
	}{"TerminologyCapabilities", s.Base + "/metadata?mode=terminology", "PulsegateTerminology",
		"Pulsegate: terminology", "active", date, "Pulsegate",
		"ValueSet/$expand and $validate-code, CodeSystem/$lookup, $validate-code and $subsumes, and ConceptMap/$translate are " +
			"offered for the resources of this server and the required value sets of R4. Other terminologies, such as LOINC " +
			"and SNOMED CT, are not held.", "instance",
		software{"Pulsegate", s.Version, ""}, implementation{"This server", s.Base},
		expansion{Paging: true, Parameter: expansionParameters(), TextFilter: "The code, the display or a designation contains the filter, " +
			"regardless of case."}, "explicit", struct {
			Translations bool `json:"translations"`
		}{}, struct {
			NeedsMap bool `json:"needsMap"`
		}{}})
	if err != nil {
		return nil, fhir.Wrap("capability.Terminology", err)
	}
	return b, nil
}

// expansion is TerminologyCapabilities.expansion.
type expansion struct {
	Hierarchical bool        `json:"hierarchical"`
	Paging       bool        `json:"paging"`
	Parameter    []namedItem `json:"parameter"`
	TextFilter   string      `json:"textFilter"`
}

type namedItem struct {
	Name string `json:"name"`
}

func expansionParameters() (out []namedItem) {
	for _, name := range []string{"filter", "offset", "count", "includeDesignations", "includeDefinition", "activeOnly",
		"excludeNested"} {
		out = append(out, namedItem{name})
	}
	return out
}

func (s Settings) security() security {
	out := security{
		CORS: true,
		Service: []element.CodeableConcept{{
			Coding: []element.Coding{{System: element.Terminology + "restful-security-service", Code: "SMART-on-FHIR",
				Display: "SMART-on-FHIR"}},
			Text: "OAuth2 with SMART scopes",
		}},
		Description: "Access needs a bearer token with SMART scopes. Health data of patients, which is every type " +
			"of the Patient compartment but Patient, Person, RelatedPerson, Consent and AuditEvent, and Binary, Bundle " +
			"and others that may hold such data, is given out only under an active Consent of each patient that it " +
			"names. Consents are written by the patient's pages, the operator, and those clients that the operator has " +
			"registered for it; no scope alone allows that.",
	}
	uris := element.Extension{URL: oauthURIs}
	for _, e := range [][2]string{{"token", s.Token}, {"authorize", s.Authorize}, {"introspect", s.Introspect},
		{"revoke", s.Revoke}, {"register", s.Register}, {"manage", s.Manage}} {
		if e[1] != "" {
			uris.Extension = append(uris.Extension, element.Extension{URL: e[0], ValueURI: e[1]})
		}
	}
	if len(uris.Extension) > 0 {
		out.Extension = []element.Extension{uris}
	}
	return out
}

func (s Settings) operations(typ string) []operation {
	var out []operation
	for _, o := range s.Operations {
		if o.Type == typ || o.Type == AllTypes && typ != "" {
			out = append(out, operation{o.Name, o.Definition, o.Documentation})
		}
	}
	return out
}

var (
	reading = []code{{"read"}, {"vread"}, {"history-instance"}, {"history-type"}, {"search-type"}} // read only
	writing = []code{{"create"}, {"update"}, {"patch"}, {"delete"}}                                // read only
)

func (s Settings) resource(typ string, revIncludes []string) resource {
	writable := !fhir.WrittenByServer(typ)
	r := resource{
		Type: typ, SupportedProfile: s.Profiles[typ], Interaction: append([]code{}, reading...),
		Versioning: "versioned", ReadHistory: true,
		UpdateCreate: writable, ConditionalCreate: writable, ConditionalUpdate: writable,
		ConditionalRead: "full-support", ConditionalDelete: "not-supported",
		Operation: s.operations(typ),
	}
	if writable {
		r.Interaction = append(r.Interaction, writing...)
		r.ConditionalDelete = "single"
	}
	if typ == "Observation" {
		r.Documentation = writingVitals
	}
	if typ == "Subscription" {
		for _, t := range s.Topics {
			r.Extension = append(r.Extension, element.Extension{URL: topicURL, ValueCanonical: t})
		}
	}
	r.SearchRevInclude = revIncludes
	for _, p := range s.Registry.Params(typ) {
		kind, ok := kinds[p.Type]
		if p.Type.Composite() {
			kind, ok = "composite", true
		}
		if !ok {
			continue
		}
		doc := ""
		if typ == "Observation" && p.Code == "date" {
			doc = localDay
		}
		r.SearchParam = append(r.SearchParam, param{Name: p.Code, Definition: p.URL, Type: kind, Documentation: doc})
		if p.Type == search.TypeReference {
			r.SearchInclude = append(r.SearchInclude, typ+":"+p.Code)
		}
	}
	return r
}

// writingVitals describes writes of Observations, as the page "Writing Vital Signs" of US
// Core asks servers to do.
const writingVitals = "Writing (US Core, Writing Vital Signs): no Observation is discarded, merged or held back, however " +
	"close in time; each valid create makes a new one, which can be read at once. To avoid duplicates, create with " +
	"If-None-Exist and an identifier: a repeated request gets the stored Observation with 200. encounter is not required " +
	"and never filled in. Contained Device and Provenance resources are kept and returned as sent. What a patient or a " +
	"designee writes gets the tag patient-supplied; later updates keep it, and only $meta-delete by somebody else removes " +
	"it. Patients may write vital-signs, activity and survey Observations, and update, for example to entered-in-error, " +
	"those with the tag, whichever app wrote them. Vital signs that people write must conform to the US Core profile of " +
	"their LOINC code; all others to the profiles that they claim. A scope with a category must cover the Observation " +
	"before and after an update; otherwise the answer is 403 with an OperationOutcome."

// searching describes what searches offer beyond the parameters of the types.
const searching = "Search: all prefixes; the modifiers :missing (all types), :exact and :contains (string), :not, :text, " +
	":of-type, :in, :not-in, :above and :below (token), :identifier, :[type] and, for canonical references, :below " +
	"(reference), :above and :below (uri). Quantities match in commensurable units of UCUM. Chained parameters and _has " +
	"may be nested up to 5 deep; _include and _revinclude take Type:parameter[:Target], Type:* and :iterate. Of the " +
	"results: _count, _sort, _total, _summary, _elements. Also _list with the id of a List, _filter, searches of several " +
	"types ([base]?_type=) and in compartments ([base]/Patient/[id]/[type]). GET and POST _search are equal. Not " +
	"offered: _text, _content, _contained, _query."

// maxTargets is the number of targets from which a parameter refers to nearly any type.
const maxTargets = 40

// referring maps types to the values of _revinclude for their resources: the parameters
// of all types that name it among their targets. Those that may refer to nearly any type
// are left out, except Provenance:target, because they would double the statement.
func referring(r *search.Registry) map[string][]string {
	out := map[string][]string{}
	for _, source := range fhir.Types {
		for _, p := range r.Params(source) {
			targets := p.Targets
			if source == "Provenance" && p.Code == "target" {
				targets = fhir.Types
			} else if len(targets) > maxTargets {
				continue
			}
			for _, t := range targets {
				if p.RefersTo(t) {
					out[t] = append(out[t], source+":"+p.Code)
				}
			}
		}
	}
	return out
}

var kinds = map[search.ParamType]string{ // read only
	search.TypeToken: "token", search.TypeDate: "date", search.TypeReference: "reference", search.TypeString: "string",
	search.TypeQuantity: "quantity", search.TypeURI: "uri", search.TypeNumber: "number",
}
