// Package series is the sample tier's vocabulary: what a dense stream is made
// of, how its samples are named, and how they are written down.
//
// A wearer makes 10^5 to 10^6 samples a month. A series keeps one Template,
// the Observation that they share with holes where they differ (id, effective
// time, values), and Columns with what differs. The Observation of a sample is
// materialised when somebody looks (Template.Append); its bytes are those that
// the same measurement would have as a document.
//
// It owns: Identity and the ids made of it, Template, Columns, and the block
// format (Encode, Decode). It does not own: where blocks lie, which blocks a
// search reads, what is visible at a commit (fhir/store and its drivers), or
// which metrics become series (the metric table of mapping).
//
// # Identity
//
// An Identity names a stream: everything of a sample's natural key but its
// time (vendor, patient, metric, source, device). The id of a sample is
//
//	base32hex( identity(9) | start(7) | check(4) )    32 characters
//
// start is microseconds since 1900-01-01T00:00:00Z; check tells samples at
// one instant apart (Template.Check). The alphabet keeps the order of the
// bytes, so the ids of a stream sort by time, and an id leads to its stream
// and instant without an index row. Several templates may share one identity
// (another unit, another method): the sample is the same resource whichever of
// them it came under.
//
// # What fits
//
// A sample in a series has version 1 and has never changed. What is restated,
// updated or deleted leaves its series and becomes a document with its whole
// history, and stays one. Every sample has an instant or an interval in whole
// microseconds, and values that are decimals of at most 18 digits; what does
// not fit is a document from the start.
package series
