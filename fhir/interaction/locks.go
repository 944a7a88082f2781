package interaction

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"pulsegate/fhir"
)

// locks serializes requests of this process that would void each other's commits:
// conditional creates with the same criteria, and the deletion of a Patient with writes
// that refer to it. Nothing but the number of attempts depends on the locks, because
// store.Batch.Guards protects the commits of all processes. Criteria are always locked
// before patients, and the keys of each in ascending order, so that requests cannot
// deadlock.
type locks struct {
	criteria, patients keyed
	off                bool // for tests
}

// keyed has one read-write lock per key in use. Waiting ends with the request's
// context. Different keys never wait for each other.
type keyed struct {
	once   sync.Once
	seed   maphash.Seed
	shards [64]struct {
		mu sync.Mutex
		m  map[string]*keyLock
	}
}

// keyLock is the lock of one key. users counts holders and waiters; the mutex of
// the shard guards it, and the last user removes the key.
type keyLock struct {
	sem   *semaphore.Weighted
	users int
}

// exclusive is the weight of a writer. A reader has weight 1.
const exclusive = 1 << 30

var keyLocks = sync.Pool{New: func() any { return &keyLock{sem: semaphore.NewWeighted(exclusive)} }}

// lockKey is a key to be locked in shared or exclusive mode.
type lockKey struct {
	key    string
	shared bool
}

// lock locks all keys. If the context ends, it locks none and returns an error. A
// key that is given in both modes is locked exclusively.
func (k *keyed) lock(ctx context.Context, keys []lockKey) (release func(), err error) {
	slices.SortFunc(keys, func(a, b lockKey) int {
		switch c := strings.Compare(a.key, b.key); {
		case c != 0 || a.shared == b.shared:
			return c
		case a.shared:
			return 1
		}
		return -1
	})
	keys = slices.CompactFunc(keys, func(a, b lockKey) bool { return a.key == b.key })
	held := 0
	release = func() {
		for _, x := range keys[:held] {
			k.unlock(x)
		}
		held = 0
	}
	for _, x := range keys {
		if err := k.lockOne(ctx, x); err != nil {
			release()
			return nil, &fhir.Error{Kind: fhir.Unavailable, Op: "interaction.lock", Err: err, Issues: []fhir.Issue{{
				Severity: "error", Code: "lock-error",
				Diagnostics: "other requests are changing the same resources; try again"}}}
		}
		held++
	}
	return release, nil
}

func (x lockKey) weight() int64 {
	if x.shared {
		return 1
	}
	return exclusive
}

func (k *keyed) shard(key string) int {
	k.once.Do(func() { k.seed = maphash.MakeSeed() })
	return int(maphash.String(k.seed, key) % uint64(len(k.shards)))
}

func (k *keyed) lockOne(ctx context.Context, x lockKey) error {
	s := &k.shards[k.shard(x.key)]
	s.mu.Lock()
	l := s.m[x.key]
	if l == nil {
		if s.m == nil {
			s.m = map[string]*keyLock{}
		}
		l, _ = keyLocks.Get().(*keyLock) // the pool holds nothing else
		s.m[x.key] = l
	}
	l.users++
	s.mu.Unlock()
	if err := l.sem.Acquire(ctx, x.weight()); err != nil {
		k.leave(x.key, l)
		return err
	}
	return nil
}

func (k *keyed) unlock(x lockKey) {
	s := &k.shards[k.shard(x.key)]
	s.mu.Lock()
	l := s.m[x.key]
	s.mu.Unlock()
	l.sem.Release(x.weight())
	k.leave(x.key, l)
}

// leave removes a key that is no longer in use.
func (k *keyed) leave(key string, l *keyLock) {
	s := &k.shards[k.shard(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.m, key)
		keyLocks.Put(l)
	}
}

// inUse returns the number of keys that are locked or waited for.
func (k *keyed) inUse() int {
	n := 0
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		n += len(s.m)
		s.mu.Unlock()
	}
	return n
}

// lockCriteria locks the given criteria.
func (l *locks) lockCriteria(ctx context.Context, keys []string) (release func(), err error) {
	if l.off {
		return func() {}, nil
	}
	want := make([]lockKey, len(keys))
	for i, c := range keys {
		want[i].key = c
	}
	return l.criteria.lock(ctx, want)
}

// lockPatients locks referred patients in shared mode and deleted patients
// exclusively.
func (l *locks) lockPatients(ctx context.Context, referred, deleted []string) (release func(), err error) {
	if l.off {
		return func() {}, nil
	}
	want := make([]lockKey, 0, len(referred)+len(deleted))
	for _, p := range referred {
		want = append(want, lockKey{p, true})
	}
	for _, p := range deleted {
		want = append(want, lockKey{key: p})
	}
	return l.patients.lock(ctx, want)
}
