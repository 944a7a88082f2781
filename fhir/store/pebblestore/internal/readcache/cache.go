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
	// overhead of an entry in bytes, estimated
	cacheEntry = 400
)

// Cache caches the resources and state values read last, as of the latest view.
// Requests ask for the same few state keys, and a resource that was read is mostly
// read again. It is safe for concurrent use.
//
// The syncer drops the keys that a group changed before it publishes the group's
// view, so that a reader of the view never finds an older value. A reader of an
// older view must not put back the value it read: each shard remembers the latest
// group that changed one of its keys.
//
// A shard has two generations. When the young one is full, it becomes the old one,
// and the old one is dropped. An entry found in the old generation moves to the
// young one.
//
// It is not a golang-lru cache, because it is bounded by bytes, and Put must check
// the shard's latest change under the same lock.
type Cache struct {
	seed   maphash.Seed
	off    atomic.Bool // the store is closed or has stopped
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu         sync.Mutex
	changed    uint64 // latest group that changed a key
	young, old map[Key]Value
	bytes      int // of the young generation
}

// Value is a version of a resource with its JSON, which must not be changed, or a
// state value, which is nil if the key is absent.
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

// New returns an empty cache.
func New() *Cache {
	c := &Cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].young = map[Key]Value{}
	}
	return c
}

// Key identifies a resource or a state key.
type Key struct {
	Ref   fhir.Ref
	State string
}

// StateKey returns the Key of a state key.
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

// Put caches a value that was read at the view of a group.
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

// Drop removes the keys that a group changed. Call it before the group's view is
// published.
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

// Stop disables the cache, because the store is closed or has stopped.
func (c *Cache) Stop() { c.off.Store(true) }
