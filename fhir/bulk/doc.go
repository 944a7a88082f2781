// Package bulk is the FHIR Bulk Data Access export (IG 2.0): kick-off, status
// manifest, files, deletion, for the system, all patients and a Group.
//
// It owns: the rules of the kick-off parameters, the durable jobs (state room
// "bulk/<id>"), the manifest, and the streaming of files. It does not own:
// who may (fhir/access), the reading of a snapshot (fhir/store) and HTTP
// (fhir/rest).
//
// # Files are read from the snapshot
//
// A job pins the commit T of its own kick-off. No file is ever written to
// disk: when a client downloads, the resources are read from the store at the
// pinned T, through the filter of the token and the consents of that moment,
// and their stored bytes are copied to the wire. So an export is one
// snapshot, takes constant memory and no disk, survives a restart, leaves no
// second copy of anybody's data, and a consent that was withdrawn after the
// kick-off stops what has not been sent yet: each block of at most 256 KiB is
// looked at again before it is written when any consent changed since it was
// read. There is one file a resource type. Counts are left out of the
// manifest: they would cost a pass over the data and could be wrong by the
// time of the download.
//
// transactionTime is one millisecond before the commit's own time stamp:
// another commit of the same millisecond may lie behind the snapshot, and a
// chain of exports, each with the transactionTime of the one before as its
// _since, must lose nothing. A resource may come twice, never not at all.
//
// # What is exported
//
//	system         Consent, Device, Group, Observation, Organization, Patient, Practitioner, Provenance
//	Patient, Group Consent, Device, Observation, Patient, Provenance (the compartment)
//
// AuditEvent and Subscription are not part of an export: the trail has its
// own access rules, and subscriptions hold the secrets of endpoints.
// _since gives what changed after that instant, and for a Group also only
// that (the data from before a member joined is not added); deletions since
// then come as transaction Bundles in the manifest's deleted. _type,
// _since and _outputFormat are supported; any other parameter is refused with
// 400, or ignored and reported in the manifest's error under
// Prefer: handling=lenient.
//
// # Audit
//
// The kick-off is in the commit that makes the job. A download records one
// disclosure a patient and file, durable before the first byte of that
// patient's data leaves.
//
// # State
//
//	bulk/<job id>   JSON of job; the driver drops it some time after it expired
package bulk
