// Package series defines how dense streams of samples are represented,
// identified and encoded.
//
// A wearer produces 10^5 to 10^6 samples per month. A series stores one
// Template, which is the Observation that all its samples share with slots for
// the id, the effective time and the values, and Columns with the contents of
// the slots. The Observation of a sample is built on demand (Template.Append).
// Its bytes equal those that the same measurement would have as a document.
//
// It owns: Identity and the ids derived from it, Template, Columns, and the
// format of blocks and their headers (Codec, AppendHeader, DecodeHeader).
//
// It does not own: where blocks are stored, which blocks a search reads, what
// is visible at a commit (fhir/store and its drivers), or which metrics become
// series (the metric table of mapping).
//
// # Identity
//
// An Identity names a stream. It covers the natural key of a sample without the
// time: vendor, patient, metric, source and device. The id of a sample is
//
//	base32hex( identity(9) | start(7) | check(4) )    32 characters
//
// start is in microseconds since 1900-01-01T00:00:00Z. check distinguishes
// samples at the same instant (Template.Check). The alphabet preserves the order
// of the bytes, so the ids of a stream sort by time, and the stream and instant
// of a sample are found from its id without an index row. Several templates may
// share one identity, for example with another unit or another method. The
// sample is the same resource under each of them.
//
// # Which samples fit
//
// A sample in a series has version 1 and has never changed. When a sample is
// restated, updated or deleted, it moves from its series to a document with its
// whole history, and remains a document. Every sample has an instant or an
// interval in whole microseconds, and its values are decimals of at most 18
// digits. Samples that do not fit are documents from the start.
//
// # Format of a block, version 1
//
// uvarint and varint are the encodings of encoding/binary: 7 bits per byte, the
// lowest first; varint is zigzag. Sums and differences wrap at 64 bits.
//
//	byte     1, the version
//	byte     bit 0: ends follow; bit 1: commits follow; bits 2 to 7: number
//	         of value columns, at most 4
//	uvarint  count of samples, at most 16384
//	         times, each value column, commits; absent if count is 0
//	4 bytes  CRC-32C (Castagnoli) of all preceding bytes, little-endian
//
// A column of integers, of n elements:
//
//	byte     bits 0 to 3: width of a small number in bytes, at most 8;
//	         bits 4 to 7: transform, 0 plain, 1 delta, 2 abut
//	varint   plain: the base; otherwise: element 0
//	varint   delta and abut: the typical step
//	planes   the small numbers, n for plain, otherwise n-1: width planes,
//	         where plane p holds byte p of each number, the lowest first
//
// plain: element i = base + small i. delta: element i+1 = element i + typical
// step + zigzag of small i. abut: like delta, plus the length of sample i in the
// unit of the column; only the column of starts may use it. With a width of 0
// there are no planes and all small numbers are 0. The writer chooses the
// transform.
//
// A plane, of n bytes:
//
//	byte     0: all bytes are equal; that byte follows
//	         1: n bytes follow uncompressed
//	         2: uvarint length in bytes, then runs: a byte and uvarint count
//	         3: uvarint length in bytes, then a block of Finite State Entropy:
//	         frequencies as in RFC 8878, section 4.1.1 (table of at most 2^12),
//	         then the stream of two alternating states as in section 4.2.1.2
//
// A unit is a byte: 0 for microseconds, 1 for milliseconds, 2 for seconds, 3
// for minutes.
//
// Times. The fields in brackets are present only if bit 0 of the flags is set:
//
//	[column] 1 for a sample with an end, 0 for an instant
//	[unit]   of the lengths
//	[column] lengths: end minus start; 0 for an instant
//	[column] EndOff minus Off, in minutes
//	unit     of the starts
//	varint   start 0, in Unix microseconds
//	column   starts minus start 0, in the unit
//	column   Off, in minutes east of UTC
//
// A value column:
//
//	byte     0: one scale; 1: shortest; 2: scales, aligned; 3: scales, free
//	byte     the largest scale, at most 18
//	[column] with 2 and 3: the scales
//	column   mantissas: with 0 and 3 unchanged, otherwise at the largest
//	         scale. With 1, a value has no trailing zeros in its fraction;
//	         with 2, it has its own scale
//
// Commits:
//
//	uvarint  k, the number of distinct commits
//	column   for each sample the index of its commit, from 0
//	column   Seq of the k commits
//	column   Updated of the k commits, in Unix milliseconds
//
// # Format of a header, version 1
//
//	byte     1, the version
//	byte     number of value columns, at most 4
//	uvarint  Count
//	varint   MinStart; varint MaxStart minus MinStart; varint MaxEnd
//	uvarint  MinSeq; uvarint MaxSeq minus MinSeq
//	varint   MinUpdated; varint MaxUpdated minus MinUpdated
//	         for each value column Min, Max, Sum, SumSq: IEEE 754 binary64,
//	         little-endian; uvarint length of Counts, 0 for none, and Counts
//	4 bytes  CRC-32C of all preceding bytes, little-endian
package series
