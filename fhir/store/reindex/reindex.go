// Package reindex builds the index of search parameters in the background, for resources
// that were written before the parameters were defined or before the store had their
// rows, and removes the index of parameters that are gone.
//
// The work is a sequence of small commits, whose progress is part of the store (see
// store.Indexer), so that it can end at any moment and go on in another process. One
// process at a time should do it, under the role "reindex"; two do no harm.
package reindex

import (
	"context"
	"log/slog"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Role is the name of the role under which a process of a cluster runs the work.
const Role = "reindex"

// Options configures the work.
type Options struct {
	Index store.Indexer
	// Wake, if set, starts the work at once when it receives, as after a change of the
	// parameters.
	Wake <-chan struct{}
	// Batch is the number of resources per commit. The default is 128, which keeps
	// writers waiting for a few milliseconds.
	Batch int
	// Poll is the interval at which an idle process looks for work. The default is a
	// minute.
	Poll time.Duration
	// After is time.After by default.
	After  func(time.Duration) <-chan time.Time
	Logger *slog.Logger
}

const (
	defaultBatch = 128
	defaultPoll  = time.Minute
	// pause is the wait between two commits of the work, so that it takes a part of the
	// processor only.
	pause = 2 * time.Millisecond
	// afterFailure is the wait after a commit that failed.
	afterFailure = 5 * time.Second
)

// Run does the work until ctx ends.
func Run(ctx context.Context, o Options) {
	if o.Batch <= 0 {
		o.Batch = defaultBatch
	}
	if o.Poll <= 0 {
		o.Poll = defaultPoll
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	working, failing := false, false
	for ctx.Err() == nil {
		more, err := o.Index.Reindex(ctx, o.Batch)
		wait := pause
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if wait = afterFailure; !failing { // once per outage
				o.Logger.WarnContext(ctx, "the search index cannot be built", "error", err, "kind", fhir.KindOf(err))
			}
		case more && !working:
			o.Logger.InfoContext(ctx, "building the search index")
		case !more:
			if wait = o.Poll; working {
				o.Logger.InfoContext(ctx, "the search index is complete")
			}
		}
		working, failing = more || err != nil && working, err != nil
		select {
		case <-ctx.Done():
		case <-o.Wake:
		case <-o.After(wait):
		}
	}
}
