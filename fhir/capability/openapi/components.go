package openapi

import (
	"slices"
	"strings"
)

// resultParameters lists the parameters of the results of a search: name, type of JSON and
// description.
var resultParameters = [][3]string{ // read only
	{"_count", "integer", "Number of resources per page."},
	{"_sort", "string", "Parameters to sort by, separated by commas; - for descending order."},
	{"_include", "list", "Resources to add that the matches refer to: Type:parameter[:Target]."},
	{"_revinclude", "list", "Resources to add that refer to the matches: Type:parameter[:Target]."},
	{"_total", "string", "none, estimate or accurate."},
	{"_summary", "string", "true, text, data, count or false."},
	{"_elements", "string", "Elements to return, separated by commas."},
	{"_format", "string", "json, xml or html, in place of Accept."},
}

// otherParameters lists the parameters of interactions: name, place and description.
var otherParameters = [][3]string{ // read only
	{"_type", "query", "Resource types, separated by commas."},
	{"_since", "query", "Versions made at or after this instant."},
	{"_at", "query", "Versions that were current at this time."},
	{"If-Match", "header", `The version that is expected, W/"3".`},
	{"If-None-Match", "header", `The version that the client has, W/"3". With * in an update, the resource must not exist.`},
	{"If-Modified-Since", "header", "The time of the version that the client has."},
	{"If-None-Exist", "header", "Search parameters. The resource is created only if none matches."},
	{"Prefer", "header", "return=minimal, return=representation or return=OperationOutcome."},
}

// pathParameters lists the parameters of paths: name and description.
var pathParameters = [][2]string{ // read only
	{"id", "Logical id."}, {"vid", "Version."}, {"type", "Resource type."},
	{"compartment", "Type that defines the compartment."}, {"job", "Id of the job."}, {"file", "Name of the file."},
	{"client", "Id of the client."}, {"vendor", "Code of the vendor, such as apple."},
	{"format", "Format of the payload, or auto."}, {"path", "Path below the webhook."},
}

// searchTypes describes the values of the types of search parameters.
var searchTypes = map[string]string{ // read only
	"token": "code, system|code or |code", "date": "a date or time with a prefix such as ge or lt",
	"reference": "Type/id, an id or a URL", "string": "the beginning of the text",
	"quantity": "number|system|unit with a prefix such as ge or lt", "uri": "a URI",
	"number": "a number with a prefix such as ge or lt", "composite": "values joined by $", "special": "as R4 defines",
}

// parameterName returns the name of the component for a search parameter.
func (d *document) parameterName(p param) string {
	if d.shared[p.Name] == p.Type && !fixedParameter(p.Name) {
		return p.Name
	}
	return p.Name + "-" + p.Type
}

// fixedParameter reports whether a component with the name of the search parameter exists.
func fixedParameter(name string) bool {
	is := func(p [3]string) bool { return p[0] == name }
	return slices.ContainsFunc(resultParameters, is) || slices.ContainsFunc(otherParameters, is)
}

// addComponents adds all components.
func (d *document) addComponents() {
	d.components = map[string]object{
		"parameters": d.parameters(), "schemas": d.schemas(), "responses": d.responses(),
		"requestBodies": d.requestBodies(), "securitySchemes": d.securitySchemes(),
	}
}

func (d *document) parameters() object {
	text, list := object{"type": "string"}, object{"type": "array", "items": object{"type": "string"}}
	out := object{}
	for _, p := range resultParameters {
		schema := object{"type": p[1]}
		if p[1] == "list" {
			schema = list
		}
		out[p[0]] = object{"name": p[0], "in": "query", "description": p[2], "schema": schema}
	}
	for _, p := range otherParameters {
		out[p[0]] = object{"name": p[0], "in": p[1], "description": p[2], "schema": text}
	}
	for _, p := range pathParameters {
		schema := text
		switch p[0] {
		case "type":
			schema = object{"type": "string", "enum": d.types()}
		case "compartment":
			schema = object{"type": "string", "enum": []string{"Device", "Encounter", "Patient", "Practitioner",
				"RelatedPerson"}}
		}
		out["path-"+p[0]] = object{"name": p[0], "in": "path", "required": true, "description": p[1], "schema": schema}
	}
	for _, r := range d.resources {
		for _, p := range r.SearchParam {
			text := p.Type + ": " + searchTypes[p.Type]
			if p.Documentation != "" {
				text += ". " + p.Documentation
			}
			out[d.parameterName(p)] = object{"name": p.Name, "in": "query", "description": text, "schema": list}
		}
	}
	return out
}

// types lists the names of the types in the document.
func (d *document) types() (out []string) {
	for _, r := range d.resources {
		out = append(out, r.Type)
	}
	return out
}

// schemas holds the frame of each resource. R4's JSON schema has the elements.
func (d *document) schemas() object {
	text := object{"type": "string"}
	out := object{
		"Resource": object{"type": "object", "required": []string{"resourceType"},
			"properties": object{"resourceType": text, "id": object{"type": "string", "pattern": `^[A-Za-z0-9\-.]{1,64}$`},
				"meta": object{"type": "object"}},
			"externalDocs": object{"url": "http://hl7.org/fhir/R4/json.html"}},
		"OperationOutcome": object{"type": "object", "required": []string{"resourceType", "issue"}, "properties": object{
			"resourceType": object{"const": "OperationOutcome"},
			"issue": object{"type": "array", "minItems": 1, "items": object{"type": "object",
				"required": []string{"severity", "code"}, "properties": object{
					"severity": object{"enum": []string{"fatal", "error", "warning", "information"}}, "code": text,
					"details": object{"type": "object"}, "diagnostics": text,
					"expression": object{"type": "array", "items": text}}}}}},
		"OAuthError": object{"type": "object", "required": []string{"error"},
			"properties": object{"error": text, "error_description": text}},
		"Bundle": object{"type": "object", "required": []string{"resourceType", "type"}, "properties": object{
			"resourceType": object{"const": "Bundle"}, "type": text, "total": object{"type": "integer"},
			"link":  object{"type": "array", "items": object{"type": "object", "properties": object{"relation": text, "url": text}}},
			"entry": object{"type": "array", "items": object{"type": "object"}}}},
		"Parameters": object{"type": "object", "required": []string{"resourceType"}, "properties": object{
			"resourceType": object{"const": "Parameters"},
			"parameter":    object{"type": "array", "items": object{"type": "object", "required": []string{"name"}}}}},
		"JSONPatch": object{"type": "array", "items": object{"type": "object", "required": []string{"op", "path"},
			"properties": object{"op": text, "path": text, "from": text, "value": object{}}}},
	}
	for _, t := range d.types() {
		if out[t] == nil { // a Bundle has its own
			out[t] = object{"allOf": []object{ref("schemas", "Resource"),
				{"properties": object{"resourceType": object{"const": t}}}}}
		}
	}
	return out
}

// content returns the media types of FHIR with one schema.
func (d *document) content(schema string) object {
	out := object{}
	for _, f := range d.Format {
		if strings.HasPrefix(f, "application/fhir") {
			out[f] = object{"schema": ref("schemas", schema)}
		}
	}
	return out
}

func (d *document) responses() object {
	header := func(text string) object { return object{"description": text, "schema": object{"type": "string"}} }
	out := object{
		"Bundle": object{"description": "A Bundle", "content": d.content("Bundle")},
		"Empty":  object{"description": "No body"},
		"Result": object{"description": "The result, as the definition says", "content": d.content("Resource")},
		"Error":  object{"description": "An error", "content": d.content("OperationOutcome")},
		"OAuthError": object{"description": "An error of OAuth", "content": object{"application/json": object{
			"schema": ref("schemas", "OAuthError")}}},
		"Accepted": object{"description": "The job has begun",
			"headers": object{"Content-Location": header("URL of the status of the job")}},
		"JSON": object{"description": "A JSON document", "content": object{"application/json": object{
			"schema": object{"type": "object"}}}},
		"Text": object{"description": "Text", "content": object{"text/plain": object{
			"schema": object{"type": "string"}}}},
		"File": object{"description": "One resource per line", "content": object{"application/fhir+ndjson": object{
			"schema": object{"type": "string"}}}},
		"Package": object{"description": "A FHIR package", "content": object{"application/gzip": object{}}},
		"Page":    object{"description": "A page for the browser", "content": object{"text/html": object{}}},
	}
	headers := object{"ETag": header("The version"), "Last-Modified": header("The time of the version"),
		"Location": header("URL of the version, of a write")}
	for _, t := range d.types() {
		if out[t] == nil {
			out[t] = object{"description": t, "headers": headers, "content": d.content(t)}
		}
	}
	return out
}

func (d *document) requestBodies() object {
	patch := object{}
	for _, f := range d.PatchFormat {
		schema := "Parameters"
		if strings.HasPrefix(f, "application/json-patch") {
			schema = "JSONPatch"
		}
		patch[f] = object{"schema": ref("schemas", schema)}
	}
	form := object{"schema": object{"type": "object", "additionalProperties": object{"type": "string"}}}
	out := object{
		"Search":     object{"content": object{"application/x-www-form-urlencoded": form}},
		"Form":       object{"required": true, "content": object{"application/x-www-form-urlencoded": form}},
		"Patch":      object{"required": true, "content": patch},
		"Parameters": object{"content": d.content("Parameters")},
		"Bundle":     object{"required": true, "content": d.content("Bundle")},
		"Payload":    object{"required": true, "content": object{"*/*": object{}}},
		"JSON":       object{"required": true, "content": object{"application/json": object{}}},
	}
	for _, t := range d.types() {
		if out[t] == nil {
			out[t] = object{"required": true, "content": d.content(t)}
		}
	}
	return out
}

// securitySchemes takes the endpoints of OAuth from the statement.
func (d *document) securitySchemes() object {
	ends := map[string]string{}
	for _, e := range d.Rest[0].Security.Extension {
		for _, x := range e.Extension {
			ends[x.URL] = x.ValueURI
		}
	}
	flows := object{}
	if ends["token"] != "" {
		flows["clientCredentials"] = object{"tokenUrl": ends["token"], "scopes": object{
			"system/*.rs": "Backend services: read and search all types", "system/*.cruds": "All interactions"}}
		if ends["authorize"] != "" {
			flows["authorizationCode"] = object{"authorizationUrl": ends["authorize"], "tokenUrl": ends["token"],
				"refreshUrl": ends["token"], "scopes": object{
					"launch/patient": "Select a patient", "openid": "Identity", "fhirUser": "The user's resource",
					"offline_access": "Refresh tokens", "patient/*.rs": "Read and search data of the patient",
					"user/*.rs": "Read and search what the user may see"}}
		}
	}
	return object{
		"smart": object{"type": "oauth2", "flows": flows, "description": "SMART App Launch 2.2. Scopes name types, " +
			"interactions and search parameters, such as system/Observation.rs?category=vital-signs."},
		"pushKey": object{"type": "apiKey", "in": "header", "name": "X-API-Key",
			"description": "A push key: it delivers the data of one vendor for one patient."},
	}
}
