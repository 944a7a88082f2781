package readcache

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

const (
	cacheShards = 64
	cacheBytes  = 32 << 20
	// What an entry costs beside its bytes, about.
	cacheEntry = 400
)

// cache holds what was read last as of the newest view: resources, samples
// among them, and small state. Every request asks for the same few keys of
// state, and a resource that was read is mostly read again.
//
// The syncer drops what a group changed before it shows the group's view, so
// that nobody who sees the view finds what was before. A reader who is still on
// an older view may not put back what it read there: a shard remembers the
// latest group that changed anything in it.
//
// A shard has two halves. When the young one is full it becomes the old one,
// and the old one is forgotten; what is found in the old one becomes young
// again.
type Cache struct {
	seed   maphash.Seed
	off    atomic.Bool // the store is closed or has stopped
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu         sync.Mutex
	changed    uint64 // group
	young, old map[Key]Value
	bytes      int // of young
}

// cached is a version of a resource, whose JSON is there and which nobody
// changes, or a state value, nil when absent.
type Value struct {
	Match *snapshot.Match
	State []byte
}

func (c *Value) size() int {
	n := cacheEntry + len(c.State)
	if c.Match != nil {
		n += len(c.Match.Document.JSON)
	}
	return n
}

func New() *Cache {
	c := &Cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].young = map[Key]Value{}
	}
	return c
}

// cacheKey is a resource, or a key of small state.
type Key struct {
	Ref   fhir.Ref
	State string
}

func StateKey(key string) Key { return Key{State: key} }

func (c *Cache) shard(k Key) *cacheShard {
	return &c.shards[(maphash.String(c.seed, k.Ref.ID)^maphash.String(c.seed, k.State))%cacheShards]
}

func (c *Cache) Get(k Key) (x Value, ok bool) {
	if c.off.Load() {
		return Value{}, false
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok = s.young[k]; ok {
		return x, true
	}
	if x, ok = s.old[k]; ok {
		delete(s.old, k)
		s.add(k, x)
	}
	return x, ok
}

// put keeps what was read at the view of a group.
func (c *Cache) Put(k Key, x Value, group uint64) {
	if x.size() > cacheBytes/cacheShards/8 {
		return
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed <= group {
		s.add(k, x)
	}
}

func (s *cacheShard) add(k Key, x Value) {
	if s.bytes += x.size(); s.bytes > cacheBytes/cacheShards/2 {
		s.old, s.young, s.bytes = s.young, map[Key]Value{}, x.size()
	}
	s.young[k] = x
}

// drop forgets what a group changed; its view is not yet shown.
func (c *Cache) Drop(ks []Key, group uint64) {
	for _, k := range ks {
		s := c.shard(k)
		s.mu.Lock()
		s.changed = group
		delete(s.young, k)
		delete(s.old, k)
		s.mu.Unlock()
	}
}

// stop ends all reads from the cache: the store is closed or has stopped.
func (c *Cache) Stop() { c.off.Store(true) }
