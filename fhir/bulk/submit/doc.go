// Package submit implements the Data Consumer of Bulk Submit (Bulk Data 4.0.0 ballot, the
// Argonaut draft): a client names manifests of files, and the server fetches and stores
// them.
//
// It owns: the parameters of $bulk-submit and $bulk-submit-status, the durable
// submissions, fetching manifests and files, and the files of outcomes.
//
// It does not own: addresses that may be fetched (fhir/egress), validation, access, consent
// and audit of what is stored (fhir/interaction: every line is an entry of a batch by the
// client that submitted it), or HTTP (fhir/rest).
//
// # What is stored
//
// A line is stored by an update, so that it can be repeated. If fhirBaseUrl is the base URL
// of this server, a resource keeps its id. Otherwise the id is derived from fhirBaseUrl,
// type and id, because ids of different servers may be equal; relative references and those
// below fhirBaseUrl are changed in the same way. A reference below the base URL of this
// server names a resource of this server. An Observation with the profile of phone-made
// Observations is created instead: the receiver of package mapping repairs it, stores it as
// data of the vendor, and knows it again. The phone-made Observations of a batch are stored
// after its other lines, as one delivery per patient, which gives what single creates in
// their order would give.
//
// Files with Patients come first, then types outside of the Patient compartment, then the
// others, and Provenance last, because what a resource refers to must exist. A line that
// fails has an OperationOutcome in the status manifest, which names the line and never its
// content.
//
// # Replacing and stopping
//
// A submission that is stopped, and a manifest that is replaced, lose the resources that
// they created. A resource that existed before and was updated stays as it is, because the
// earlier version may be what another client depends on; its history has both.
//
// # Crashes
//
// One process, which has the role "submissions", works on the submissions of all. After each
// batch of lines it commits its position, bound to the role. The next holder continues
// there. Before a batch, it commits which resources the batch is going to create: if the
// process ends before it knows the result, the next one leaves out what was created, and
// a submission that is stopped loses it. An update is repeated, which adds a version with
// the same content, and so is a resource that has several lines in the batch.
//
// # Bounds
//
// A manifest has at most 1 MiB, a line 5 MiB, and a batch 5 MiB, 1,000 phone-made
// Observations, and 100 other lines. Only one line
// and one batch are in memory. A submission has at most 1,000 manifests and 10,000 reported
// outcomes per manifest; further ones are counted. A file that breaks off is fetched again
// from its start, and its lines up to the position are skipped.
//
// # State
//
//	bulk-submit/<id>                             JSON of submission
//	bulk-submit-outcome/<id>/<manifest>/<n>      lines of OperationOutcomes
//	bulk-submit-created/<id>/<manifest>/<n>      references of created resources, one per line
//
// The request headers of a client are secrets. They are removed from the state as soon as
// the manifest has been processed.
package submit
