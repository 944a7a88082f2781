package openapi

import (
	"net/http"
	"slices"
	"strings"
)

// endpoint describes a route that the CapabilityStatement does not mention.
type endpoint struct {
	method, path string // in gin's syntax
	tag, title   string
	body         string // component with the body
	status       string // status and component of the answer, as in "200 JSON"
	security     string // scheme; "none" without one, "" for an access token
}

const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	remove = http.MethodDelete
)

// endpoints lists the routes that the CapabilityStatement does not mention.
var endpoints = []endpoint{ // read only
	{get, "/fhir/metadata", tagSystem, "CapabilityStatement; with mode=terminology, the TerminologyCapabilities", "",
		"200 Result", "none"},
	{get, "/fhir/$export-status/:job", tagBulk, "Status of an export, and its manifest", "", "200 JSON", ""},
	{remove, "/fhir/$export-status/:job", tagBulk, "Cancel an export or delete its files", "", "202 Empty", ""},
	{get, "/fhir/$export-file/:job/:file", tagBulk, "File of an export", "", "200 File", ""},
	{get, "/fhir/$bulk-publish-file/:file", tagBulk, "Published file", "", "200 File", "none"},
	{get, "/fhir/$bulk-submit-status/:id", tagBulk, "Status of a submission, and its manifest", "", "200 JSON", ""},
	{remove, "/fhir/$bulk-submit-status/:id", tagBulk, "End a request for the status", "", "202 Empty", ""},
	{get, "/fhir/$bulk-submit-file/:id/:file", tagBulk, "File about a submission", "", "200 File", ""},
	{get, "/fhir/$subscription-ws", "Subscription",
		"WebSocket with notifications; the first message is bind-with-token and the token", "", "101 Empty", "none"},
	{get, "/fhir/AuditEvent/$checkpoint", "AuditEvent", "Signed checkpoint of the audit log", "", "200 Text", ""},
	{post, "/fhir/AuditEvent/$verify", "AuditEvent", "Verify the audit log", "Parameters", "200 Result", ""},
	{get, "/oauth/authorize", tagOAuth, "Authorization request (RFC 6749 4.1.1)", "", "302 Empty", "none"},
	{post, "/oauth/authorize", tagOAuth, "Authorization request by POST", "Form", "302 Empty", "none"},
	{post, "/oauth/token", tagOAuth, "Access token (RFC 6749 3.2)", "Form", "200 JSON", "none"},
	{post, "/oauth/introspect", tagOAuth, "State of a token (RFC 7662)", "Form", "200 JSON", "none"},
	{post, "/oauth/revoke", tagOAuth, "Revoke a token (RFC 7009)", "Form", "200 Empty", "none"},
	{post, "/oauth/register", tagOAuth, "Register a client (RFC 7591)", "JSON", "201 JSON", "none"},
	{get, "/oauth/register/:client", tagOAuth, "Registration of a client (RFC 7592)", "", "200 JSON", "none"},
	{put, "/oauth/register/:client", tagOAuth, "Change a registration", "JSON", "200 JSON", "none"},
	{remove, "/oauth/register/:client", tagOAuth, "Delete a registration", "", "204 Empty", "none"},
	{post, "/oauth/launch", tagOAuth, "Launch context from an EHR", "JSON", "200 JSON", ""},
	{get, "/fhir/.well-known/smart-configuration", tagOAuth, "Discovery of SMART", "", "200 JSON", "none"},
	{get, "/.well-known/smart-configuration", tagOAuth, "Discovery of SMART at the root", "", "200 JSON", "none"},
	{get, "/.well-known/oauth-authorization-server", tagOAuth, "Metadata of the authorization server (RFC 8414)", "",
		"200 JSON", "none"},
	{get, "/.well-known/openid-configuration", tagOAuth, "Discovery of OpenID Connect", "", "200 JSON", "none"},
	{get, "/.well-known/jwks.json", tagOAuth, "Keys that sign tokens", "", "200 JSON", "none"},
	{get, "/.well-known/client-jwks.json", tagOAuth, "Keys of this server as a client of EHRs", "", "200 JSON", "none"},
	{get, "/.well-known/smart-style.json", tagOAuth, "Style of the launch context", "", "200 JSON", "none"},
	{post, "/ingest/:vendor/:format", tagIngest, "Deliver a payload of a vendor", "Payload", "200 JSON", "pushKey"},
	{get, "/brands.json", tagServer, "User-access brands", "", "200 Bundle", "none"},
	{get, "/livez", tagServer, "Whether the process runs", "", "200 Text", "none"},
	{get, "/readyz", tagServer, "Whether the server takes requests", "", "200 Text", "none"},
	{get, "/openapi.json", tagServer, "This document; with types=Observation,Patient, for these types", "", "200 JSON",
		"none"},
	{get, "/collection.json", tagServer, "Collection of requests in Postman's format", "", "200 JSON", "none"},
	{get, "/guide.tgz", tagServer, "FHIR package with the profiles and terminology of this server", "", "200 Package",
		"none"},
	{get, "/hooks/:vendor", tagIngest, "Verification of a webhook", "", "200 Text", "none"},
	{post, "/hooks/:vendor", tagIngest, "Notification of a vendor", "Payload", "204 Empty", "none"},
	{get, "/hooks/:vendor/*path", tagIngest, "Verification of a webhook with a path", "", "200 Text", "none"},
	{post, "/hooks/:vendor/*path", tagIngest, "Notification of a vendor with a path", "Payload", "204 Empty", "none"},
}

// forPeople lists the beginnings of the paths of pages for people. They are not in the
// document.
var forPeople = []string{"/auth/", "/favicon.ico"} // read only

// ForPeople reports whether a path is that of a page for people.
func ForPeople(path string) bool {
	return path == "/" || slices.ContainsFunc(forPeople, func(p string) bool { return strings.HasPrefix(path, p) })
}

// addEndpoints adds the endpoints that the server has.
func (d *document) addEndpoints() {
	for _, r := range d.Routes {
		for _, e := range endpoints {
			if e.method != r.Method || !e.matches(r.Path) || !d.hasTag(e.tag) {
				continue
			}
			status, name, _ := strings.Cut(e.status, " ")
			answers := object{status: ref("responses", name), "default": ref("responses", "Error")}
			if e.tag == tagOAuth {
				answers["default"] = ref("responses", "OAuthError")
			}
			o := object{"operationId": strings.ToLower(e.method) + strings.NewReplacer("/", "-", ":", "", "$", "", "*", "").
				Replace(r.Path), "tags": []string{e.tag}, "summary": e.title, "responses": answers}
			if e.body != "" {
				o["requestBody"] = ref("requestBodies", e.body)
			}
			switch e.security {
			case "":
			case "none":
				o["security"] = []object{}
			default: // in addition to an access token
				o["security"] = []object{{e.security: []string{}}, {"smart": []string{}}}
			}
			d.add(e.method, openPath(r.Path), r.Path, o)
			break
		}
	}
}

// matches reports whether the endpoint is that of a route. The webhook of each vendor has
// a route of its own.
func (e *endpoint) matches(route string) bool {
	if e.path == route {
		return true
	}
	if rest, ok := strings.CutPrefix(e.path, "/hooks/:vendor"); ok {
		_, after, _ := strings.Cut(strings.TrimPrefix(route, "/hooks/"), "/")
		if after != "" {
			after = "/" + after
		}
		return strings.HasPrefix(route, "/hooks/") && after == rest
	}
	return false
}

// hasTag reports whether the document has the type, if the tag is one.
func (d *document) hasTag(tag string) bool {
	return tag != "Subscription" && tag != "AuditEvent" || slices.Contains(d.types(), tag)
}
