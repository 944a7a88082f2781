package store

import (
	"context"

	"pulsegate/fhir/search"
)

// IndexState tells how far the index of a search parameter is built.
type IndexState struct {
	// Ready is set if searches use the index, or need none. Until then, they read every
	// resource of the type.
	Ready bool
	// Documents is the number of versions that were indexed so far, of about Total.
	Documents, Total uint64
}

// Indexer is implemented by a store that keeps an index of search parameters, which it
// builds in the background for resources that were written before the parameter was
// defined. Any process of a cluster may call it at any time.
type Indexer interface {
	// IndexState returns the state of the index of a parameter, as of the newest commit.
	IndexState(ctx context.Context, p *search.Param) (IndexState, error)
	// Reindex does one step of the work that is left, of at most limit resources or
	// rows, in one commit. It reports whether there is more to do. The work is kept in
	// the store, so that it goes on after a crash, in this process or another.
	Reindex(ctx context.Context, limit int) (more bool, err error)
}
