package store

import (
	"context"

	"pulsegate/fhir/series"
)

// Run is a run of matches that are samples of one series. It is valid until
// the callback returns.
type Run struct {
	Template *series.Template
	From, To int // the matches are [From:To] of the columns, in order
	// Whole is the header of the block, when the run is all of it: its Counts
	// can make the columns unnecessary.
	Whole *series.Header
	Load  func() (*series.Columns, error)
}

// Columnar is offered by a store that has samples in columns: it answers
// without making Observations of them. All that holds for f in Find holds
// here, the filter first; there is no order, no limit and no position.
type Columnar interface {
	// FindRuns gives out every match of f once: documents by doc, samples by
	// run.
	FindRuns(ctx context.Context, f Find, doc func(*Found) bool, run func(*Run) bool) error
	// FindNewest gives out at least, of the documents with the same codings
	// of their code, the newest n matches, those that begin with the n-th and
	// those that have no time, and of each series the newest n matches and
	// those that begin in the same second as the n-th. A document may be left
	// out, too, when n newer ones have all of its codings.
	FindNewest(ctx context.Context, f Find, n int, fn func(*Found) bool) error
	// ChangesBrief is Changes for who has no use for samples: all that a
	// commit wrote of one series is one Change, without a Ref.
	ChangesBrief(ctx context.Context, from Seq, fn func(*Change) bool) error
}
