// Package rest is the FHIR REST API over HTTP (gin): decode, call
// fhir/interaction, render. It decides nothing: no *gin.Context goes below it
// and no rule of FHIR or access lives here.
//
// It owns: routes, content negotiation, headers, conditional reads, limits of
// bodies and time, request ids, the access log, request metrics and spans,
// CORS, the rendering of errors as OperationOutcome.
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
//	and what Server.Operations and Server.Public mount
//
// # What is never logged
//
// Logs, metrics and spans name the method, the route's template, the resource
// type, the status, sizes, the client id and the request id: no path ids, no
// query, no header, no body.
package rest
