// Package push sends Observations to the FHIR endpoints of EHRs.
//
// It owns: the targets, the queue of each target, the decision what is sent and as
// what, the requests, and the record of what each target has accepted.
//
// It does not own: access tokens (smart/backend implements Tokens), consents and
// scopes (Options.GrantFor), outgoing connections (fhir/egress), or the form in
// which an EHR wants an Observation, except the form "stored" (Options.Forms).
//
// # Targets
//
// A target stands for a registered client, its recipient. What the client may see,
// by its scopes and the consents that name it, is sent; so a patient permits and
// withdraws a push like any other disclosure. The criteria of a target (categories
// and codes) narrow that further.
//
// # Queue
//
// A follower walks the change log with a durable cursor. If a changed Observation
// matches a target and the recipient may see it, its id is queued for its patient in
// the same commit as the cursor. A queue row holds up to 256 ids. What is sent is
// decided when an id is taken from the queue, from the current version. So a version
// that was superseded meanwhile is never sent.
//
// Each target has one sender, which takes the patients in turn and the rows of a
// patient in order. It checks scopes and consents again immediately before each
// request. What the recipient may not see any more leaves the queue unsent.
//
// # What is sent
//
// A new Observation is sent by a conditional create whose identifier is derived from
// the stored one. A retracted one (deleted, or entered in error) that was sent before
// is updated to entered-in-error. A changed one is updated if the form permits it
// (Form.Updates); otherwise the old one is updated to entered-in-error and the new
// one is created. An Observation that came from the target is not sent back.
//
// Before the first request about a version, one commit records the disclosure in the
// audit trail and marks the Observation as being sent. After a crash the request is
// repeated, and the conditional create makes it take effect once.
//
// Values at an instant that follow one another closely are thinned (Target.Every):
// two values of one patient and code that are sent are at least that far apart.
// Intervals are not thinned, because they may be summands, and neither are values
// that people measure one by one (blood pressure, weight, height).
//
// # Failures
//
//	network, 5xx, 408, 409, 425, 429   repeated with growing waits, at most MaxBackoff, or
//	                                   after Retry-After; the order within a patient is kept
//	401                                one new token, then like 503
//	404, 410 of the base               the target goes to error until it is resumed
//	other 4xx                          the Observation is set aside until `target retry`
//	no or several matching Patients    the patient waits
//
// # Several processes
//
// Every process takes commands about targets: they change the rows of the targets, with
// the revision of all targets as a precondition. One process, which holds the role "push"
// (package fhir/cluster/role), queues and sends. It looks for a new revision after
// commits, at most every 50 milliseconds. All that it writes is bound to its term. Before
// each request it synchronizes its store, so that it neither sends what a consent does
// not permit any more that was withdrawn at another process, nor goes on when it has lost
// the role. The next holder goes on from the durable cursor and the queue.
//
// The process that sends may have passed changes when it learns of a new target. They
// are queued for the target before anything else (Target.Joining).
//
// # State
//
//	push/cursor                             Seq up to which the follower is done, decimal
//	push/revision                           number that each change of a target increases
//	push/target/<name>                      JSON of the Target
//	push/stat/<name>                        JSON of counters
//	push/queue/<name>/<patient>/<seq>/<n>   JSON of a row; seq and n in hex digits
//	push/sent/<name>/<id>                   JSON: what the target has of an Observation
//	push/dense/<name>/<patient>/<code>/<n>  id and time of the value sent for a time slot
//	push/patient/<name>/<patient>           JSON: the Patient at the target
//	push/aside/<name>/<id>                  JSON: why an Observation was set aside
package push
