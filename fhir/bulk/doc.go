// Package bulk implements the FHIR Bulk Data Access export (IG 2.0): kick-off,
// status manifest, files and deletion, for the system, all patients and a Group.
//
// It owns: the rules of the kick-off parameters, the durable jobs (state keys
// "bulk/<id>"), the manifest, and the streaming of files.
//
// It does not own: access decisions (fhir/access), reading a snapshot
// (fhir/store) and HTTP (fhir/rest).
//
// # Files are read from the snapshot
//
// A job pins the commit of the kick-off. No file is ever written to disk.
// During a download, the resources are read from the store as of the pinned
// commit, through the filter of the token and the consents at that moment, and
// their stored bytes are copied to the response. So an export is one snapshot,
// takes constant memory and no disk space, survives a restart, and leaves no
// second copy of patient data. A consent that is withdrawn after the kick-off
// stops the data that has not been sent yet: if any consent has changed, each
// block of at most 256 KiB is checked again before it is written. There is one
// file per resource type. The manifest has no counts, because they would cost a
// pass over the data and could be wrong by the time of the download.
//
// transactionTime is one millisecond before the commit's timestamp, because
// another commit of the same millisecond may follow the snapshot. A chain of
// exports, each with the previous transactionTime as its _since, must not lose a
// resource. It may return a resource twice.
//
// # What is exported
//
//	system         Consent, Device, Group, Observation, Organization, Patient, Practitioner, Provenance
//	Patient, Group Consent, Device, Observation, Patient, Provenance (the compartment)
//
// AuditEvent and Subscription are not exported: the audit trail has its own
// access rules, and Subscriptions contain secrets of endpoints. _since restricts
// the export to resources that changed after that instant. For a Group, older
// data of patients who joined since then is not added. Deletions since then are
// transaction Bundles in the manifest's deleted. _type, _since and _outputFormat
// are supported. Any other parameter is rejected with status 400 or, with Prefer:
// handling=lenient, ignored and reported in the manifest's error.
//
// # Audit
//
// The kick-off is recorded in the commit that creates the job. A download records
// one disclosure per patient and file, which is durable before the first byte of
// that patient's data is sent.
//
// # Several processes
//
// Kick-off, status, files and deletion are served by any process: all they need is the
// job and the snapshot. One process, which has the role "exports", determines the files
// of all jobs, and the next one continues what it did not finish. The limits of a client
// hold for all processes together. Consents are read anew, as of all processes, before
// each block of a download.
//
// # State
//
//	bulk/<job id>           JSON of job; the store deletes it some time after it expires
//	bulk-running/<job id>   mark of a job that is to be prepared
package bulk
