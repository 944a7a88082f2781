// Package mirror copies the current resources of the store into MongoDB, for people
// and tools that expect to find documents there. The server never reads the mirror.
//
// There is one collection per resource type. A document is the FHIR JSON of the
// resource, with its id in _id, and:
//
//	_commit     the commit as of which the document was copied
//	_time       start and end of an Observation's effective time, as dates
//	_deletedAt  on what is left of a deleted resource for a day; it has no content
//	_omitted    true if the resource is too large for a document of MongoDB
//
// Numbers are doubles or integers. Samples are in the collection samples, in buckets
// of one series and one day in UTC:
//
//	_id          series/day
//	series       names what all samples have in common
//	stream       names the stream, which may have several series
//	day          the day, as a date
//	_time        start of the first and of the last sample
//	observation  the Observation that all samples have in common
//	samples      at (date), until (date, of an interval), value or values
//
// AuditEvents are not mirrored. All collections but samples have the indexes that
// suit their type: subject, code and time.
//
// The mirror follows the change log. Its cursor is a document in the collection
// mirror, which also names the store that it mirrors: a mirror of another store, or
// an empty database, is filled from the first commit. A deleted, erased or moved
// resource or sample leaves the mirror at the commit that removed it. Every write
// carries its commit, so that a process that overslept its role cannot put back what
// was changed or deleted since.
package mirror
