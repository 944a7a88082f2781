package store

import (
	"context"

	"pulsegate/fhir/series"
)

// Run is a run of matches that are samples of one series. It is valid until the
// callback returns.
type Run struct {
	Template *series.Template
	From, To int // the matches are [From:To] of the columns, in order
	// Header is the header of the block if the run covers all of it. Its counts can
	// make loading the columns unnecessary.
	Header *series.Header
	Load   func() (*series.Columns, error)
	// First is Load for the first n samples of the block, or all if it has fewer, without
	// their commits. They are valid until the next call of First or Load.
	First func(n int) (*series.Columns, error)
}

// Columnar is implemented by a store that keeps samples in columns. It answers
// without building Observations. Find applies as in Store.Find, except that matches
// have no order, limit or position.
type Columnar interface {
	// FindRuns passes every match of f once, documents to doc and samples to run.
	FindRuns(ctx context.Context, f Find, doc func(*Found) bool, run func(*Run) bool) error
	// FindNewest passes at least these matches to fn: of the documents whose code
	// has the same codings, the newest n, those that begin with the n-th, and those
	// without a time; of each series, the newest n samples and those that begin in
	// the same second as the n-th. It may leave out a document if n newer ones have
	// all of its codings.
	FindNewest(ctx context.Context, f Find, n int, fn func(*Found) bool) error
	// ChangesBrief is Changes for callers that do not need samples: the samples
	// that a commit wrote of one series are one Change, with Samples and without a
	// Ref.
	ChangesBrief(ctx context.Context, from Seq, fn func(*Change) bool) error
}
