// Package preferred derives one preferred value from what several sources measure.
//
// A phone, a watch and a ring count the same steps, and a ring and a bed sensor see the
// same night. All of it is stored, each with its source. This package chooses one source
// for each patient, concept, and day or night, and writes its value as a separate
// Observation.
//
// It owns: the policy (preferred.yaml), the follower that keeps the derived Observations
// up to date (Engine), the view of $stats over the preferred sources (View), and the state
// with the prefix preferred/.
//
// It does not own: the measurements (package ingest), the nights that are derived from the
// segments of one source (package sleep), and the arithmetic of $stats (fhir/interaction).
//
// # Choice
//
// A source is a Device, or else a stream of samples without a device, or else the account
// at a vendor. Observations that clients wrote are not sources. Sources are compared by
//
//   - the rank of the kind of their device,
//   - whether they state the value, which counts before the sum or mean of samples,
//   - completeness: the number of hours with samples and then the number of samples, or the
//     length of the sleep and then the number of its stages,
//   - and in the end the vendor's code and the ids, so that the choice does not depend on
//     the order of deliveries.
//
// The concepts are of four kinds:
//
//	day-total    the total that the source states, or the sum of its samples of that day
//	day-value    the value that it states, or the last or mean of its samples of that day
//	night-value  the value that it states, or the mean of its samples within the longest
//	             sleep session that its own vendor knows for that night
//	night        sleep sessions
//
// Days are local days of the wearer, by the offset that each measurement is written with; a
// night belongs to the day of waking. A sample belongs to the day on which it starts.
//
// Sleep sessions of all sources that overlap, or follow each other within 90 minutes
// (sleep.Gap), are one night or nap. The sessions of the preferred source in it that do not
// overlap are added up; of those that overlap, the longest one counts. Further nights and
// naps of a day are separate values.
//
// # Derived Observation
//
// It has the tag CodeSystem/measures|preferred, the code of the concept, the policy in words
// as method, the device of the source, and derivedFrom: the Observations, or the streams of
// samples by their identifier. Its id is derived from the secret of the installation, the
// patient, the concept, and the day or night, but not from the source, so that another choice
// is a new version.
//
// Its vendor (access.Facts.Vendor) is the vendor of the source, and its categories are those
// of the concept. So the consents that govern the measurement govern the derived value, and
// erasing a vendor's data erases it. It contains nothing about other sources. No consent is
// needed to derive a value: it discloses nothing, and everything that it is derived from was
// collected under a consent.
//
// The status is preliminary until the day or night is over (a night 90 minutes after its
// end) and while the source states its value as preliminary. Afterwards it is final, and
// amended after a change. If no source is left, it becomes entered-in-error; if its inputs
// were deleted, it is deleted.
//
// # Follower
//
// The Engine follows the change log with a durable cursor. Each change of an input marks the
// days that it may affect. Their values are then derived again from the current content of
// the store, and what differs is committed, with a Provenance for each patient and vendor and
// an AuditEvent for each patient. The cursor is committed last. So a repeated or interrupted
// step has the same result, and the order of deliveries does not matter. The follower waits
// a second after a change, so that a burst of deliveries leads to one new version. It reads
// the samples of 31 days at a time, never an import as a whole. The tag keeps it from
// following its own writes.
//
// If the policy changes, the Engine begins at the first commit again. Values of concepts that
// a new policy lacks stay as they are.
//
// A change of a Device, such as a new name, changes the kind of a source only for values that
// are derived afterwards.
//
// In a cluster, the process that holds the role "preferred" (package fhir/cluster/role) is
// the one that follows. All that it writes is bound to its term, and the next holder goes
// on from the durable cursor.
//
// # View
//
// View answers $stats with preferred=true by the same rules, among the measurements that the
// caller may see. So a source that is hidden from the caller is not revealed by a missing
// day, and the answer does not lag behind. The stored values cannot do that: who may see one
// vendor's data and finds no preferred value on a day with data may conclude that another
// source was preferred.
//
// # State
//
//	preferred/cursor    commit up to which changes have been processed, decimal
//	preferred/policy    hash of the policy
//	preferred/open/<time>/<patient>/<concept>/<day>
//	                    a day or night that is not over before a time (Unix seconds as 16
//	                    hex digits); the day is the number of days since 1970
package preferred
