// Package bulk implements the FHIR Bulk Data Access export (IG 3.0, and the shapes of the
// ballot of 4.0.0): kick-off, status manifest, files and deletion, for the system, all
// patients and a Group; and $bulk-publish. Package submit implements $bulk-submit.
//
// It owns: the rules of the kick-off parameters, the durable jobs (state keys
// "bulk/<id>") and files ("bulk-file/<id>/..."), the manifest, and the streaming of files.
//
// It does not own: access decisions (fhir/access), reading a snapshot
// (fhir/store), the evaluation of searches (fhir/search) and HTTP (fhir/rest).
//
// # Files are read from the snapshot
//
// A job pins the commit of the kick-off. No file is ever written to disk. A pass over the
// data, in constant memory, finds where each file begins and ends, its number of lines and
// its size, and hashes of its blocks. During a download, the resources are read from the
// store as of the pinned commit, through the filter of the token and the consents at that
// moment, and their stored bytes are copied to the response. So an export is one snapshot,
// takes constant memory and no disk space, survives a restart, and leaves no second copy of
// patient data. A consent that is withdrawn after the kick-off stops the data that has not
// been sent yet: if any consent has changed, each block of at most 256 KiB is checked again
// before it is written.
//
// A file has at most 128 MiB, unless a resource is larger. The positions of files that are
// complete are durable, so that another process continues after them.
//
// # Entity tags and ranges
//
// A file has an entity tag and ranges as long as its bytes are those of the preparation. A
// download compares each block with the hash before it writes it. When the bytes differ for
// the first time, because consents have changed, this is made durable before they are
// written, and from then on the file has no tag, no ranges and no count: a client that
// continues a download gets the whole file. A range whose length was promised is aborted.
// Blocks before a range are read and compared, but not disclosed or recorded.
//
// # Why downloads do not come from an object store
//
// A download URL of an object store works without asking this server: a consent that is
// withdrawn, or a client that is disabled, would not end it, and the bucket would be a second
// copy of patient data that no audit covers. If the server fetched and filtered the objects
// itself, the store would cost time and save nothing, because the snapshot is there anyway.
//
// # Copies in an object store
//
// Some recipients take files only from a bucket of their own. The operator can name one, and
// the clients whose exports go there (Delivery). That is a disclosure like a download, not a
// storage of this server: there are no download URLs, the key need not permit reading, and
// downloads from this server work as before.
//
// The process with the role "deliveries" puts the files of a complete job there one after the
// other, as downloads by the client of the job: under its grant and the consents at that
// moment, with an AuditEvent per patient and file that names the object and the host. An
// object appears with its last byte. If a consent changes before, the file is made anew, so
// that an object has nothing that was withdrawn before it was complete; after 3 repetitions,
// the file is delivered like a slow download, whose blocks are each checked when they are
// written. A client that is disabled or deleted gets nothing more. A consent that is withdrawn
// later does not reach an object, as it does not reach a file that was downloaded.
//
// The number of delivered files is durable, and bound to the role. After a failure of the
// target, the next attempt is made with pauses that double; after the end of a process, the
// next one begins with the file that was not complete. Deliveries end when the job expires. A
// client that deletes a job ends its delivery, and if the operator permits it, its objects are
// deleted, too, with repetitions for 7 days. Objects of jobs that expire stay: their
// lifecycle is the bucket's.
//
// In manifests, the extension https://pulsegate.dev/fhir/bulk-delivery has
// the status (in-progress, complete or refused), and at each file that is there the address of
// the object.
//
// # Transaction time
//
// transactionTime is one millisecond before the commit's timestamp, because
// another commit of the same millisecond may follow the snapshot. A chain of
// exports, each with the previous transactionTime as its _since, must not lose a
// resource. It may return a resource twice.
//
// # What is exported
//
//	system         all types that are stored
//	Patient, Group the types of the Patient compartment, but Group
//
// AuditEvent, Subscription, Binary and Bundle are not exported (see withheld). _since
// restricts the export to resources that changed after that instant, and _until to those
// that changed before one. For a Group, older data of patients who joined since then is not
// added. Deletions since _since, of what the request selects, are transaction Bundles in the
// manifest's deleted. _typeFilter takes searches of one type without chains, result
// parameters and what spans several resources; several of one type are alternatives.
// _elements keeps mandatory elements. organizeOutputBy takes Patient, and leaves out resources
// that refer to none. A parameter that is not supported is rejected with status 400 or, with
// Prefer: handling=lenient, ignored and reported in the manifest's error. The parameter patient
// is applied, not ignored, in a lenient GET.
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
//	bulk-file/<job id>/<stream>/<number>   JSON of file; expires with the job
//	bulk-running/<job id>   mark of a job that is to be prepared
//	bulk-delivery/<job id>  JSON of delivery; expires with the job, or with the deletion of objects
package bulk
