package submit

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Identifier is the submitter of a submission.
type Identifier struct {
	System string `json:"system,omitempty"`
	Value  string `json:"value"`
}

// Header is a header for requests of manifests and files.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Params are the parameters of $bulk-submit, and of $bulk-submit-status.
type Params struct {
	Submitter    Identifier
	SubmissionID string
	Status       string // inProgress, completed or stopped
	ManifestURL  string
	Replaces     string
	Base         string // fhirBaseUrl
	Headers      []Header
}

// Values of submissionStatus.
const (
	inProgress = "in-progress"
	completed  = "completed"
	stopped    = "stopped"
)

// statusOf maps the codes of submissionStatus, including those of the Argonaut draft.
var statusOf = map[string]string{inProgress: inProgress, completed: completed, "complete": completed,
	stopped: stopped, "aborted": stopped} // read only

const (
	maxParameters = 100
	maxHeaders    = 20
	maxText       = 2048
)

type parameter struct {
	Name            string `json:"name"`
	ValueString     string `json:"valueString"`
	ValueURL        string `json:"valueUrl"`
	ValueURI        string `json:"valueUri"`
	ValueCode       string `json:"valueCode"`
	ValueIdentifier *Identifier
	ValueCoding     *struct{ System, Code string }
	Part            []parameter `json:"part"`
}

func (p *parameter) text() string {
	for _, v := range []string{p.ValueString, p.ValueURL, p.ValueURI, p.ValueCode} {
		if v != "" {
			return v
		}
	}
	return ""
}

func invalid(format string, args ...any) error {
	return fhir.Errorf(fhir.Invalid, "submit.ParseParams", format, args...)
}

// ParseParams parses the Parameters resource of $bulk-submit, or of $bulk-submit-status.
func ParseParams(body []byte, status bool) (*Params, error) {
	var r struct {
		ResourceType string      `json:"resourceType"`
		Parameter    []parameter `json:"parameter"`
	}
	if err := json.Unmarshal(body, &r); err != nil || r.ResourceType != "Parameters" {
		return nil, invalid("the body must be a Parameters resource")
	}
	if len(r.Parameter) > maxParameters {
		return nil, fhir.Errorf(fhir.TooLarge, "submit.ParseParams", "at most %d parameters", maxParameters)
	}
	p := &Params{Status: inProgress}
	seen := map[string]bool{}
	for i := range r.Parameter {
		in := &r.Parameter[i]
		if seen[in.Name] && in.Name != "fileRequestHeader" && in.Name != "metadata" {
			return nil, invalid("Parameters.parameter[%d] is repeated", i)
		}
		if len(in.text()) > maxText {
			return nil, invalid("Parameters.parameter[%d] is longer than %d bytes", i, maxText)
		}
		seen[in.Name] = true
		if err := p.set(in, i); err != nil {
			return nil, err
		}
	}
	if p.Submitter.Value == "" || len(p.Submitter.Value) > maxText || len(p.Submitter.System) > maxText {
		return nil, invalid("submitter must be an Identifier with a value")
	}
	if p.SubmissionID == "" {
		return nil, invalid("submissionId is required")
	}
	switch {
	case status:
	case p.ManifestURL == "" && !seen["submissionStatus"]:
		return nil, invalid("submissionStatus or manifestUrl is required")
	case p.ManifestURL != "" && p.Base == "":
		return nil, invalid("manifestUrl needs fhirBaseUrl")
	}
	return p, nil
}

func (p *Params) set(in *parameter, i int) error {
	switch in.Name {
	case "submitter":
		if in.ValueIdentifier != nil {
			p.Submitter = *in.ValueIdentifier
		}
	case "submissionId":
		p.SubmissionID = in.text()
	case "submissionStatus":
		code := in.text()
		if in.ValueCoding != nil {
			code = in.ValueCoding.Code
		}
		var ok bool
		if p.Status, ok = statusOf[code]; !ok {
			return invalid("submissionStatus must be in-progress, completed or stopped")
		}
	case "manifestUrl":
		p.ManifestURL = in.text()
		return absolute(in.Name, p.ManifestURL)
	case "replacesManifestUrl":
		p.Replaces = in.text()
		return absolute(in.Name, p.Replaces)
	case "fhirBaseUrl":
		p.Base = strings.TrimSuffix(in.text(), "/")
		return absolute(in.Name, p.Base)
	case "fileRequestHeader", "fileRequestHeaders":
		return p.header(in, i)
	case "outputFormat", "_outputFormat":
		format, _, _ := strings.Cut(in.text(), ";")
		switch strings.TrimSpace(format) {
		case "application/fhir+ndjson", "application/ndjson", "ndjson":
		default:
			return invalid("%s must be application/fhir+ndjson, application/ndjson or ndjson", in.Name)
		}
	case "metadata":
	default:
		return &fhir.Error{Kind: fhir.Invalid, Op: "submit.ParseParams", Issues: []fhir.Issue{{Code: "not-supported",
			Diagnostics: "a parameter is not supported; supported are submitter, submissionId, submissionStatus, " +
				"manifestUrl, replacesManifestUrl, fhirBaseUrl, outputFormat, fileRequestHeader and metadata"}}}
	}
	return nil
}

func (p *Params) header(in *parameter, i int) error {
	var h Header
	for k := range in.Part {
		switch in.Part[k].Name {
		case "headerName":
			h.Name = in.Part[k].text()
		case "headerValue":
			h.Value = in.Part[k].text()
		}
	}
	name := http.CanonicalHeaderKey(h.Name)
	bad := strings.ContainsFunc(h.Name, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) || strings.ContainsFunc(h.Value, func(r rune) bool { return r < ' ' || r > '~' })
	switch {
	case h.Name == "" || h.Value == "" || bad || len(h.Name) > 100 || len(h.Value) > 8*maxText:
		return invalid("Parameters.parameter[%d] must have a headerName and a headerValue of a request", i)
	case name == "Host" || name == "Content-Length" || name == "Transfer-Encoding" || name == "Connection" ||
		name == "Range" || name == "Te" || name == "Upgrade" || name == "Trailer":
		return invalid("Parameters.parameter[%d] names a header that the server sets", i)
	case len(p.Headers) >= maxHeaders:
		return invalid("at most %d request headers", maxHeaders)
	}
	p.Headers = append(p.Headers, h)
	return nil
}

func absolute(name, s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return invalid("%s must be an absolute URL", name)
	}
	return nil
}

// relatedArtifact is the extension that names what an OperationOutcome is about.
const relatedArtifact = element.StructureDefinition + "artifact-relatedArtifact"
