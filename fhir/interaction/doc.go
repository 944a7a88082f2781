// Package interaction implements the FHIR RESTful API without HTTP
// (https://hl7.org/fhir/R4/http.html). There is one file per interaction.
//
// It owns the order of steps of every interaction, both for single requests and
// for the entries of a Bundle:
//
//  1. Grant.May decides whether the token covers the interaction on the type. If
//     not, the status is 403.
//  2. The Filter decides whether the caller may see or write the resource. A hidden
//     resource is treated as absent: the status is 404, and it is missing in
//     searches, histories, includes, totals and conditional criteria.
//  3. The work: one commit for a write, one snapshot for a read.
//  4. The audit: in the same commit for a write; durable before the answer for a
//     read. Denied and failed requests are recorded too.
//
// Hidden and absent resources have the same status and text in every write. An
// update whose target is hidden treats it as absent in every step and fails at
// the end. A write that a patient's consent does not permit fails like a
// reference to a Patient that does not exist. Clients cannot choose ids of the
// form that the server assigns, because a create under an id reveals whether the
// id was free. (For ids of other forms a client does learn that: R4's update as
// create has a single space of ids.)
//
// It also owns the rules between resources: the references in subject and patient
// must exist, a Patient cannot be deleted while other resources refer to it,
// ingested data stay with their patient, and clients cannot write AuditEvents and
// the CodeSystems and ConceptMaps that the server publishes. In transactions it
// replaces references and links (R4 http.html#trules) before validation, so that
// the stored text is what has been validated.
//
// # Conditional writes
//
// An update, patch or delete may name its resource by search criteria. Only what the caller
// may find can match. What the criteria have found is a precondition of the commit: the
// version of the match, and guards of the criteria, which every write touches whose resource
// may match. So the outcome is that of one moment, in any number of processes
// (conformance/cluster/requests). Criteria may have chained parameters, _has and _list; the
// commit then also depends on the types to which these lead (store.TypeGuard), because a
// write of any of their resources may change what the criteria match. Criteria cannot depend
// on AuditEvents. If other requests keep changing what the criteria match,
// the error is Conflict, and nothing is written. To be fast under load, criteria should have
// an identifier or a patient.
//
// In a transaction, the criteria of all entries see the state before it, and conditional
// references the state after it. Entries may not write the same resource, also if criteria
// find it. They may not write a type that decides a chained parameter, _has or _list of a
// conditional reference, because joins are evaluated on the state before.
//
// A patch is an update whose body the server makes of the stored resource. It needs the
// scope to update, and the answer has the resource only if the caller may read it.
//
// # Searches of several types
//
// Without _sort, the types follow one another. With _sort, they are merged, and every page
// link has the position of each type. _sort takes the parameters that all types of the
// search have with the same type (_lastUpdated and _id always), and refuses others.
//
// # Histories
//
// The histories of a type and of the system list the versions that the caller may see, the
// newest first, in pages of one snapshot. A page ends after 20,000 versions that were looked
// at, so that it may have fewer entries than _count and a next link. The history of the
// system leaves out AuditEvents. _at selects the versions that were current at some time of
// the period that it names; a resource that was deleted before has none.
//
// # Batches
//
// The outcome of a batch is that of its entries as separate requests, one after the
// other. But consecutive entries that cannot affect each other wait for the store
// together, up to 64 at a time: creates without criteria, and updates, deletes and reads
// of different resources, none of which refers to one that another entry writes. So a
// thousand creates take a few round trips to the disk or the log instead of a thousand.
// Their commits have no particular order. All other entries begin after those before
// them have ended, and end before the next one begins: searches, histories, operations,
// conditional writes, patches, deletes of Patients, Consents, types with a Check, and
// phone-made Observations.
//
// Entries of a batch or transaction may be searches by GET, of a type, a compartment or the
// system, histories, and the operations of Operations: by GET, or by POST with the Parameters
// as the resource. They have the access checks, limits and AuditEvents of single requests,
// and share the limit on the size of the answer. Operations that work in the background or
// stream, such as $export, are refused, and in a transaction those that change something. A
// transaction performs its reads after its commit: searches and reads see that commit,
// histories and operations the state of the moment.
//
// # Phone-made Observations
//
// Apps make Observations of HealthKit samples on the phone, with faults: fractions as
// percent, categories and systems that are missing. If an Observation has
// PhoneMadeProfile as one of its profiles, or if the client is registered for it
// (access.Grant.PhoneMade, `pulsegate client add --phone-made`), a create gives it to
// the Receiver, which repairs it and stores it like a payload of the vendor. Then:
//
//   - It must be a valid Observation. If it cannot be mapped, the status is 422 and
//     nothing is kept. If only a component cannot be mapped, the rest is stored, and
//     the component goes to quarantine.
//   - The scopes, with the categories in them, must cover the repaired Observation. The
//     patient is its subject or, if it has none, the patient in context, and must permit
//     the collection from the vendor.
//   - One sample sent twice is one Observation. The second answer has the status 200 and
//     the stored Observation. If the second one differs, it amends the first if the
//     scopes cover the update, and changes nothing otherwise. If-None-Exist is evaluated
//     before.
//   - A client that may not read the Observation gets the status 201 and no content,
//     whether it was stored before or not.
//   - The status entered-in-error says that the sample was deleted, which needs the
//     scope to update.
//   - In a batch it is like a single request. A PUT and an entry of a transaction are
//     refused, because the server finds the id.
//
// It does not own the validation of single resources (fhir/r4), search semantics
// (fhir/search), storage (fhir/store), access control (smart/policy builds the
// Grant), the rules of single types (Checks), or HTTP (fhir/rest).
//
// # What is recorded
//
//	create, update, patch, delete  one event, in the commit, with the version; a change of patient is one for each of the two
//	read, vread, history    one event
//	history of a type or of the system  one event per patient with a version on the page, with the request line
//	search                  one event per distinct patient among the results (or named by the query), and a plain one unless one of these holds the whole query
//	$lastn, $stats, $ehr-bundle, $docref  like a search
//	conditional writes and references   a search for the criteria, and per patient a read that lists what they found, in the commit
//	transaction             in its commit one event per patient and kind of write, listing what was written; its reads like single ones
//	batch                   each entry like a request of its own
//	phone-made Observations in bulk  one event per delivery that names them, and one for each that is refused
//	failed requests         one event with outcome 4 (client error), 8 (denied) or 12 (server error); it names the resources that the error discloses, per patient
//	reading AuditEvents     "audit log used" instead of the above
//
// The AuditEvents of a request name every resource whose content or existence the
// answer discloses (conformance/enforce checks every answer). The patient may read
// the events in their compartment, so these contain only that patient's part of
// the query: references to the patient, values that a resource of the patient
// matched, codes, dates and numbers. If the query has other parts, an additional
// event in no compartment contains all of it.
//
// The capabilities interaction is public, discloses no data, and is not recorded.
package interaction
