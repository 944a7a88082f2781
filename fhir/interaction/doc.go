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
// Hidden and absent are the same on every write path, status and text. The
// target of an update that the filter hides is judged as absent in each step
// and refused at the end; a patient whose consent does not permit a write is
// refused like a reference to a Patient who is not there; ids of the forms that
// the server gives cannot be chosen by clients, because whoever creates under
// an id learns whether it was free. (With an id of its own form a client does
// learn that: R4's update as create has one space of ids.)
//
// It also owns the rules between resources: references of subject and patient
// must exist, a Patient others refer to is not deleted, ingested data stay with
// their patient, AuditEvents are not written from outside. And it owns what
// becomes of references and links in a transaction (R4 http.html#trules): they
// are replaced before validation, so that the validation judges what is stored.
//
// It does not own: validation of one resource (fhir/r4, the Door), search
// semantics (fhir/search), storage (fhir/store), who may (smart/policy builds
// the Grant), rules of one type (Checks), HTTP (fhir/rest).
//
// # What is recorded
//
//	create, update, delete  one event, in the commit, with the version; a change of patient is one for each of the two
//	read, vread, history    one event
//	search                  one event per distinct patient among the results (or named by the query), and a plain one unless one of these holds the whole query
//	$lastn, $stats          like a search
//	If-None-Exist, conditional references   a search for the criteria, and per patient a read that lists what they found, in the commit
//	transaction             in its commit one event per patient and kind of write, listing what was written; its reads like single ones
//	batch                   each entry like a request of its own
//	anything refused        one event, outcome 4 (caller's fault), 8 (denied) or 12 (ours); what the error tells of is named, per patient
//	any look at AuditEvents "audit log used" instead of the above
//
// An AuditEvent of the request names every resource whose content or existence
// the answer discloses (conformance/enforce checks every answer). An event in a patient's
// compartment, which the patient may read, holds that patient's part of the
// query only: references to the patient, values that the patient's own resource
// matched, codes, dates and numbers. The whole query is in a plain event beside
// it when that is not all.
//
// capabilities is public, says nothing about anybody, and is not recorded.
package interaction
