// Package openapi describes the API for tools: as an OpenAPI 3.1 document and as a
// Postman collection (format 2.1), which Bruno and Insomnia import, too.
//
// Both are derived from the CapabilityStatement and the routes of the server: the
// statement says what each type offers, the routes say by which methods. Only the routes
// that no statement mentions (OAuth, files of exports, ingestion) are described here, in
// endpoints.go. A test of the server requires that every route is in the document and
// that every operation of the document has a route.
package openapi
