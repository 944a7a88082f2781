package capability

import (
	"encoding/json"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

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
	// Topics lists the canonical URLs of the topics that Subscriptions may name.
	Topics []string
}

const (
	oauthURIs = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
	topicURL  = element.SubscriptionsBackport + "StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
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
	Interaction       []code              `json:"interaction"`
	Versioning        string              `json:"versioning"`
	ReadHistory       bool                `json:"readHistory"`
	UpdateCreate      bool                `json:"updateCreate"`
	ConditionalCreate bool                `json:"conditionalCreate"`
	ConditionalRead   string              `json:"conditionalRead"`
	ConditionalUpdate bool                `json:"conditionalUpdate"`
	ConditionalDelete string              `json:"conditionalDelete"`
	SearchInclude     []string            `json:"searchInclude,omitempty"`
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
	Mode        string      `json:"mode"`
	Security    security    `json:"security"`
	Resource    []resource  `json:"resource"`
	Interaction []code      `json:"interaction"`
	Operation   []operation `json:"operation,omitempty"`
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
		Mode:        "server",
		Security:    s.security(),
		Interaction: []code{{"batch"}, {"transaction"}, {"history-system"}},
		Operation:   s.operations(""),
	}
	for _, t := range fhir.Types {
		r.Resource = append(r.Resource, s.resource(t))
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

// Terminology returns the TerminologyCapabilities as JSON: the server validates the
// codes of R4's required value sets and has no terminology operations.
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
	}{"TerminologyCapabilities", s.Base + "/metadata?mode=terminology", "PulsegateTerminology",
		"Pulsegate: terminology", "active", date, "Pulsegate",
		"This server offers no terminology operations: no $expand, $validate-code, $lookup, $translate or $subsumes", "instance",
		software{"Pulsegate", s.Version, ""}, implementation{"This server", s.Base}})
	if err != nil {
		return nil, fhir.Wrap("capability.Terminology", err)
	}
	return b, nil
}

func (s Settings) security() security {
	out := security{
		CORS: true,
		Service: []element.CodeableConcept{{
			Coding: []element.Coding{{System: element.Terminology + "restful-security-service", Code: "SMART-on-FHIR",
				Display: "SMART-on-FHIR"}},
			Text: "OAuth2 with SMART scopes",
		}},
		Description: "Access needs a bearer token with SMART scopes. Observation, Device and Provenance are given out only under an active Consent of the patient. Consents are written by the patient's pages, the operator, and those clients that the operator has registered for it; no scope alone allows that.",
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
		if o.Type == typ {
			out = append(out, operation{o.Name, o.Definition, o.Documentation})
		}
	}
	return out
}

var (
	reading = []code{{"read"}, {"vread"}, {"history-instance"}, {"history-type"}, {"search-type"}} // read only
	writing = []code{{"create"}, {"update"}, {"patch"}, {"delete"}}                                // read only
)

func (s Settings) resource(typ string) resource {
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
	if typ == "Subscription" {
		for _, t := range s.Topics {
			r.Extension = append(r.Extension, element.Extension{URL: topicURL, ValueCanonical: t})
		}
	}
	for _, p := range search.Params(typ) {
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

var kinds = map[search.ParamType]string{ // read only
	search.TypeToken: "token", search.TypeDate: "date", search.TypeReference: "reference", search.TypeString: "string",
	search.TypeQuantity: "quantity", search.TypeURI: "uri", search.TypeNumber: "number",
}
