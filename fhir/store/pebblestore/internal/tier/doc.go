// Package tier reads and encodes the samples of a store, and plans the compaction of
// their blocks.
//
// A sample has no row. It stands for the D, P and X rows that its
// Observation would have. A Walk returns the samples of one series in the order of
// those rows.
//
// A commit appends blocks to a series. Blocks of at least half the full size that
// begin after all samples of the series go to the base; all others become tails. In
// the background, tails of like size are merged with each other, and into the base if
// that rewrites at most 16 times as many samples. A compaction is planned on a
// snapshot and lists rows to delete and to write, which the committer applies. If a
// sample has left the series meanwhile, the plan is void. A sample is thus rewritten
// about 4 + 16 times at worst, and about twice if samples arrive in order.
//
// A write with the id of a sample takes the sample out of its block: its version 1
// becomes a document, which the new version supersedes. The I row of version 1 names
// the series, for the change log of the sample's commit.
package tier
