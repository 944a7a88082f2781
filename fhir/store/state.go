package store

import (
	"context"

	"pulsegate/fhir"
)

// State is the part of a Store that keeps small state: values under keys,
// changed together with documents in one commit.
type State interface {
	// Commit makes b durable, or returns an error and changes nothing.
	Commit(ctx context.Context, b *Batch) (Result, error)
	// Get returns the value of key, or nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// List calls fn for the keys with the prefix, in order, until fn returns
	// false.
	List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) error
}

// Lost reports whether err says that another writer was faster: the commit
// changed nothing, and the change can be computed anew from the current state.
func Lost(err error) bool {
	if err == nil {
		return false
	}
	k := fhir.KindOf(err)
	return k == fhir.Conflict || k == fhir.PreconditionFailed
}

// Retry calls change, which reads the current state and commits, again for as
// long as its commit is lost to other writers. After attempts calls the error
// is Unavailable, with busy as its text.
func Retry(attempts int, op, busy string, change func() error) error {
	for range attempts {
		if err := change(); !Lost(err) {
			return err
		}
	}
	return fhir.Errorf(fhir.Unavailable, op, "%s", busy)
}
