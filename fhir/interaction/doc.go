// Package interaction is the FHIR RESTful API without HTTP: one file per
// interaction (https://hl7.org/fhir/R4/http.html).
//
// It owns the order in which every interaction proceeds, on every path that
// leads to it (REST, the entries of a Bundle):
//
//  1. Grant.May: does the token cover this interaction on this type? No is 403.
//  2. Filter: may it see, or write, this very resource? What the filter hides
//     is treated as absent: 404, missing from search, history, include, total
//     and conditional criteria.
//  3. the work: one commit for a write, one snapshot for a read.
//  4. the audit: in the same commit for a write; durable before the answer is
//     given out for a read; denied and failed requests too.
//
// It also owns the rules between resources: references of subject and patient
// must exist, a Patient others refer to is not deleted, AuditEvents are not
// written from outside.
//
// It does not own: validation of one resource (fhir/r4, the Door), search
// semantics (fhir/search), storage (fhir/store), who may (smart/policy builds
// the Grant), rules of one type (Checks), HTTP (fhir/rest).
//
// # What is recorded
//
//	create, update, delete  one event, in the commit, with the version
//	read, vread, history    one event
//	search                  one event per distinct patient among the results (or named by the query); one plain event when there is none
//	$lastn, $stats          like a search
//	transaction             in its commit one event per patient and kind of write, listing what was written; its reads like single ones
//	batch                   each entry like a request of its own
//	anything refused        one event, outcome 4 (caller's fault), 8 (denied) or 12 (ours)
//	any look at AuditEvents "audit log used" instead of the above
//
// capabilities is public, says nothing about anybody, and is not recorded.
package interaction
