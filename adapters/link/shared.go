package link

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Change is a change of a link that Seen has not removed.
type Change struct {
	ID    string // of the link
	value []byte
}

// announce returns the write that keeps a change of a link for Changes.
func (ls *Links) announce(id string) []store.StateWrite {
	if !ls.Clustered {
		return nil
	}
	return []store.StateWrite{{Key: changedPrefix + id, Value: []byte(fhir.RandomID())}}
}

// Changes returns up to limit changes of links, by any process, that were not seen.
func (ls *Links) Changes(ctx context.Context, limit int) (out []Change, err error) {
	err = ls.Store.List(ctx, changedPrefix, func(key string, value []byte) bool {
		out = append(out, Change{strings.TrimPrefix(key, changedPrefix), []byte(string(value))})
		return len(out) < limit
	})
	return out, fhir.Wrap("link.Changes", err)
}

// Seen returns the write that removes a change. Its commit fails with Conflict if the
// link has changed again.
func (c *Change) Seen() store.StateWrite {
	return store.StateWrite{Key: changedPrefix + c.ID, Expect: store.StateEquals, Old: c.value}
}

// claimFor is the time for which a process may revoke a grant or erase data before
// another one tries it, too.
const claimFor = 10 * time.Minute

// claim stores that this process finishes what an unlinked grant left behind, and returns
// the stored bytes, or nil if another process does.
func (ls *Links) claim(ctx context.Context, id string, e *ended, old []byte) ([]byte, error) {
	if ls.Clock().Before(e.Busy) {
		return nil, nil
	}
	e.Busy = ls.Clock().Add(claimFor)
	next, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	_, err = ls.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: endedPrefix + id, Value: next,
		Expect: store.StateEquals, Old: old}}})
	if store.Lost(err) {
		return nil, nil
	}
	return next, err
}
