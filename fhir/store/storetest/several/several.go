// Package several makes one store of the stores of several processes, for tests. Each
// call goes to another store than the last. What fails through it fails for a client
// whose requests go to several servers.
package several

import (
	"context"
	"errors"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Store is a store.Store and a store.Columnar. Reads call Sync before, as requests do.
// A Commit calls Sync of all stores afterwards, so that watchers are called before it
// returns, whichever store they watch.
type Store struct {
	stores []store.Store
	calls  atomic.Uint64
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Columnar = (*Store)(nil)
)

// New returns a store of stores that share their data. Columnar calls fail for stores
// that are not store.Columnar.
func New(stores ...store.Store) *Store { return &Store{stores: stores} }

// Stores returns the stores.
func (s *Store) Stores() []store.Store { return s.stores }

func (s *Store) next() store.Store { return s.stores[s.calls.Add(1)%uint64(len(s.stores))] }

// synced returns the next store after a Sync.
func (s *Store) synced(ctx context.Context) (store.Store, error) {
	x := s.next()
	return x, x.Sync(ctx)
}

func (s *Store) columnar(ctx context.Context) (store.Columnar, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return nil, err
	}
	c, ok := x.(store.Columnar)
	if !ok {
		return nil, errors.New("several: the store is not columnar")
	}
	return c, nil
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	r, err := s.next().Commit(ctx, b)
	if err != nil {
		return r, err
	}
	return r, s.Sync(ctx)
}

// LastSeq implements store.Store. If Sync fails, it returns what the store shows.
func (s *Store) LastSeq() store.Seq {
	x, err := s.synced(context.Background())
	if err != nil {
		return x.LastSeq()
	}
	return x.LastSeq()
}

// Sync implements store.Store for all stores.
func (s *Store) Sync(ctx context.Context) error {
	for _, x := range s.stores {
		if err := x.Sync(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	return x.Read(ctx, ref, at)
}

// ReadVersion implements store.Store.
func (s *Store) ReadVersion(ctx context.Context, ref fhir.Ref, version uint64) (fhir.Resource, *access.Facts, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	return x.ReadVersion(ctx, ref, version)
}

// History implements store.Store.
func (s *Store) History(ctx context.Context, ref fhir.Ref, at store.Seq, before uint64,
	fn func(fhir.Resource, *access.Facts) bool) error {
	x, err := s.synced(ctx)
	if err != nil {
		return err
	}
	return x.History(ctx, ref, at, before, fn)
}

// Probe implements store.Store.
func (s *Store) Probe(ctx context.Context, ws []store.SeriesWrite) (store.Seq, [][]store.Presence, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return 0, nil, err
	}
	return x.Probe(ctx, ws)
}

// Heads implements store.Store.
func (s *Store) Heads(ctx context.Context, refs []fhir.Ref) ([]store.Head, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return nil, err
	}
	return x.Heads(ctx, refs)
}

// Find implements store.Store.
func (s *Store) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	x, err := s.synced(ctx)
	if err != nil {
		return err
	}
	return x.Find(ctx, f, fn)
}

// Versions implements store.Store.
func (s *Store) Versions(ctx context.Context, r store.VersionRange,
	fn func(*store.Found) bool) (search.Position, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return "", err
	}
	return x.Versions(ctx, r, fn)
}

// Count implements store.Store.
func (s *Store) Count(ctx context.Context, f store.Find) (uint64, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return 0, err
	}
	return x.Count(ctx, f)
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	x, err := s.synced(ctx)
	if err != nil {
		return err
	}
	return x.Scan(ctx, r, fn)
}

// Changes implements store.Store.
func (s *Store) Changes(ctx context.Context, from store.Seq, fn func(*store.Change) bool) error {
	x, err := s.synced(ctx)
	if err != nil {
		return err
	}
	return x.Changes(ctx, from, fn)
}

// Watch implements store.Store. One of the stores calls fn.
func (s *Store) Watch(fn func(store.Commit)) (stop func()) { return s.next().Watch(fn) }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	x, err := s.synced(ctx)
	if err != nil {
		return nil, err
	}
	return x.Get(ctx, key)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) error {
	x, err := s.synced(ctx)
	if err != nil {
		return err
	}
	return x.List(ctx, prefix, fn)
}

// ListFrom implements store.Store.
func (s *Store) ListFrom(ctx context.Context, prefix, from string, fn func(key string, value []byte) bool) error {
	x, err := s.synced(ctx)
	if err != nil {
		return err
	}
	return x.ListFrom(ctx, prefix, from, fn)
}

// Log implements store.Store.
func (s *Store) Log() store.Log { return log{s} }

type log struct{ *Store }

func (l log) Size() uint64 {
	x, err := l.synced(context.Background())
	if err != nil {
		return 0
	}
	return x.Log().Size()
}

func (l log) Leaf(i uint64) (store.Leaf, error) {
	x, err := l.synced(context.Background())
	if err != nil {
		return nil, err
	}
	return x.Log().Leaf(i)
}

func (l log) Hashes(indexes []int64) ([][32]byte, error) {
	x, err := l.synced(context.Background())
	if err != nil {
		return nil, err
	}
	return x.Log().Hashes(indexes)
}

func (l log) Root(n uint64) ([32]byte, error) {
	x, err := l.synced(context.Background())
	if err != nil {
		return [32]byte{}, err
	}
	return x.Log().Root(n)
}

// Stats implements store.Store.
func (s *Store) Stats() store.Stats { return s.next().Stats() }

// Inspect implements store.Store.
func (s *Store) Inspect(ctx context.Context, typ string, at store.Seq, fn func(*store.Row),
	report func(id, problem string)) error {
	x, err := s.synced(ctx)
	if err != nil {
		return err
	}
	return x.Inspect(ctx, typ, at, fn, report)
}

// Check implements store.Store for all stores.
func (s *Store) Check(ctx context.Context, report func(problem string)) error {
	for _, x := range s.stores {
		if err := errors.Join(x.Sync(ctx), x.Check(ctx, report)); err != nil {
			return err
		}
	}
	return nil
}

// Compact implements store.Store.
func (s *Store) Compact(ctx context.Context) error { return s.next().Compact(ctx) }

// Close closes all stores.
func (s *Store) Close() error {
	var err error
	for _, x := range s.stores {
		err = errors.Join(err, x.Close())
	}
	return err
}

// FindRuns implements store.Columnar.
func (s *Store) FindRuns(ctx context.Context, f store.Find, doc func(*store.Found) bool,
	run func(*store.Run) bool) error {
	x, err := s.columnar(ctx)
	if err != nil {
		return err
	}
	return x.FindRuns(ctx, f, doc, run)
}

// FindNewest implements store.Columnar.
func (s *Store) FindNewest(ctx context.Context, f store.Find, n int, fn func(*store.Found) bool) error {
	x, err := s.columnar(ctx)
	if err != nil {
		return err
	}
	return x.FindNewest(ctx, f, n, fn)
}

// ChangesBrief implements store.Columnar.
func (s *Store) ChangesBrief(ctx context.Context, from store.Seq, fn func(*store.Change) bool) error {
	x, err := s.columnar(ctx)
	if err != nil {
		return err
	}
	return x.ChangesBrief(ctx, from, fn)
}
