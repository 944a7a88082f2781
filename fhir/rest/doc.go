// Package rest serves the FHIR REST API over HTTP with gin. It decodes requests,
// calls fhir/interaction and renders the results. It contains no rules of FHIR or
// access, and no other package receives a *gin.Context from it.
//
// It owns routes, content negotiation, headers, conditional reads, limits on bodies
// and time, request ids, the access log, request metrics and spans, CORS, and the
// rendering of errors as OperationOutcomes.
//
// # Routes, below /fhir
//
//	GET       /metadata                          no token
//	POST      /                                  batch, transaction
//	GET,HEAD  /:type                             search
//	POST      /:type/_search                     search
//	POST      /:type                             create (If-None-Exist)
//	GET,HEAD  /:type/:id                         read (If-None-Match, If-Modified-Since)
//	PUT       /:type/:id                         update (If-Match, If-None-Match, If-Unmodified-Since)
//	DELETE    /:type/:id                         delete (likewise)
//	GET,HEAD  /:type/:id/_history                history
//	GET,HEAD  /:type/:id/_history/:vid           vread
//	GET,POST  /Observation/$lastn, $stats        operations
//	GET,POST  /Patient/:id/$ehr-bundle           operation
//	GET,POST  /DocumentReference/$docref          operation
//	GET       /OperationDefinition/:id           no token for those of this server
//	and the routes of Server.Operations and Server.Public
//
// # Formats
//
// An answer is JSON, XML or, for GET and HEAD, a page for browsers, as Accept and _format
// say (negotiate.go); errors have the same format, also those without a token. The store
// and fhir/interaction know JSON only: a body in XML becomes JSON before it is validated,
// and an answer is converted while it is sent (convert.go). JSON without _pretty is sent as
// stored. Pages need the same token in the Authorization header as FHIR. A Binary is read
// and written as its content as well (binary.go).
//
// # What is never logged
//
// Logs, metrics and spans name the method, the route's template, the resource
// type, the status, sizes, the client id and the request id. They never contain
// ids in paths, queries, headers or bodies.
package rest
