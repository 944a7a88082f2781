// Package series is the sample tier's vocabulary: what a dense stream is made
// of, how its samples are named, and how they are written down.
//
// A wearer makes 10^5 to 10^6 samples a month. A series keeps one Template,
// the Observation that they share with holes where they differ (id, effective
// time, values), and Columns with what differs. The Observation of a sample is
// materialised when somebody looks (Template.Append); its bytes are those that
// the same measurement would have as a document.
//
// It owns: Identity and the ids made of it, Template, Columns, and the format
// of blocks and their headers (Codec, AppendHeader, DecodeHeader). It does not own: where blocks lie, which blocks a
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
//
// # Format of a block, version 1
//
// uvarint and varint are those of encoding/binary: 7 bits a byte, the lowest
// first; varint is zigzag. Sums and differences wrap at 64 bits.
//
//	byte     1, the version
//	byte     bit 0: ends follow; bit 1: commits follow; bits 2 to 7: number
//	         of value columns, at most 4
//	uvarint  count of samples, at most 16384
//	         times, each value column, commits; nothing when count is 0
//	4 bytes  CRC-32C (Castagnoli) of all before it, little-endian
//
// A column of integers, of n elements:
//
//	byte     bits 0 to 3: width, the bytes of a small number, at most 8;
//	         bits 4 to 7: 0 plain, 1 delta, 2 abut
//	varint   plain: the base; otherwise: element 0
//	varint   delta and abut: the typical step
//	planes   the small numbers, n of them when plain, otherwise n-1: as many
//	         planes as width, plane p with byte p of each, the lowest first
//
// plain: element i = base + small i. delta: element i+1 = element i + typical
// step + zigzag of small i. abut: as delta, plus the length of sample i in the
// unit of the column; only the column of starts has it. A width of 0 has no
// planes; its small numbers are 0. Which of the three a column has is its
// writer's choice.
//
// A plane, of n bytes:
//
//	byte     0: all are alike; the byte that they are follows
//	         1: n bytes follow as they are
//	         2: uvarint length in bytes, then runs: a byte, and uvarint how often
//	         3: uvarint length in bytes, then a block of Finite State Entropy:
//	         frequencies as RFC 8878, 4.1.1 has them (table of at most 2^12),
//	         then the stream of two states in turn as in its 4.2.1.2
//
// A unit is a byte: 0 for microseconds, 1 for milliseconds, 2 for seconds, 3
// for minutes.
//
// Times, what stands in brackets only with ends:
//
//	[column] 1 where a sample has an end, 0 where it is an instant
//	[unit]   of the lengths
//	[column] lengths, end less start; 0 for an instant
//	[column] EndOff less Off, minutes
//	unit     of the starts
//	varint   start 0, Unix microseconds
//	column   starts, less start 0, in the unit
//	column   Off, minutes east of UTC
//
// A value column:
//
//	byte     0: one scale; 1: shortest; 2: scales, aligned; 3: scales, free
//	byte     the largest scale, at most 18
//	[column] with 2 and 3: the scales
//	column   mantissas: with 0 and 3 as they are, otherwise at the largest
//	         scale. 1: each value is that without zeros at the end of its
//	         fraction; 2: at the scale that it has
//
// Commits:
//
//	uvarint  k, how many distinct commits
//	column   of each sample: which of them, from 0
//	column   T of the k commits
//	column   Updated of the k commits, Unix milliseconds
//
// # Format of a header, version 1
//
//	byte     1, the version
//	byte     number of value columns, at most 4
//	uvarint  Count
//	varint   MinStart; varint MaxStart less MinStart; varint MaxEnd
//	uvarint  MinT; uvarint MaxT less MinT
//	varint   MinUpdated; varint MaxUpdated less MinUpdated
//	         by value column Min, Max, Sum, SumSq: IEEE 754 binary64,
//	         little-endian; uvarint length of Counts, 0 for none, and Counts
//	4 bytes  CRC-32C of all before it, little-endian
package series
