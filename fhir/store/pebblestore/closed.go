package pebblestore

import (
	"context"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// ClosedState is the small state of a closed store, for reading only.
type ClosedState struct {
	pdb  *pebble.DB
	head rows.Head
}

var _ store.State = (*ClosedState)(nil)

// ReadClosed calls fn with the small state of the closed store in dir, which may be the
// copy of a cluster. It changes nothing. If files is nil, the store is on disk.
func ReadClosed(dir string, files vfs.FS, fn func(*ClosedState) error) error {
	const op = "pebblestore.ReadClosed"
	var failed error // of fn, which is returned as it is
	err := inspect(dir, files, func(pdb *pebble.DB) error {
		s := &ClosedState{pdb: pdb}
		v, err := rows.Get(pdb, keys.Head)
		if err == nil && v != nil {
			s.head, err = rows.DecodeHead(v)
		}
		if err == nil {
			failed = fn(s)
		}
		return err
	})
	if failed != nil {
		return failed
	}
	return fault.Wrap(op, err)
}

// Commit implements store.State. It fails.
func (s *ClosedState) Commit(context.Context, *store.Batch) (store.Result, error) {
	return store.Result{}, fhir.Errorf(fhir.Conflict, "pebblestore.Commit", "the store is closed, and only read")
}

// Get implements store.State.
func (s *ClosedState) Get(_ context.Context, key string) ([]byte, error) {
	const op = "pebblestore.Get"
	b, err := rows.Get(s.pdb, keys.StateKey(key))
	if err == nil && b != nil && len(b) < stateExpiry {
		err = fault.ErrRow
	}
	if err != nil || b == nil {
		return nil, fault.Wrap(op, err)
	}
	return b[stateExpiry:], nil
}

// List implements store.State.
func (s *ClosedState) List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) (err error) {
	const op = "pebblestore.List"
	pre := keys.StateKey(prefix)
	it, err := s.pdb.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return fault.Wrap(op, err)
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return fault.Canceled(op, ctx.Err())
		}
		v := it.Value()
		if len(v) < stateExpiry {
			return fault.Wrap(op, fault.ErrRow)
		}
		if !fn(string(it.Key()[1:]), append([]byte{}, v[stateExpiry:]...)) {
			return nil
		}
	}
	return fault.Wrap(op, it.Error())
}

// LastSeq returns the number of the last commit.
func (s *ClosedState) LastSeq() store.Seq { return s.head.Seq }

// stateExpiry is the size of the time before the value in a row of small state.
const stateExpiry = 8
