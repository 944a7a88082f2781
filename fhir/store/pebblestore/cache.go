package pebblestore

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"pulsegate/fhir"
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
// again. It is not a golang-lru cache, because it is bounded by bytes and put
// must check the shard's latest change under the same lock.
type cache struct {
	seed   maphash.Seed
	off    atomic.Bool // the store is closed or has stopped
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu         sync.Mutex
	changed    uint64 // group
	young, old map[cacheKey]cached
	bytes      int // of young
}

// cached is a version of a resource, whose JSON is there and which nobody
// changes, or a state value, nil when absent.
type cached struct {
	match *match
	state []byte
}

func (c *cached) size() int {
	n := cacheEntry + len(c.state)
	if c.match != nil {
		n += len(c.match.doc.json)
	}
	return n
}

func newCache() *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].young = map[cacheKey]cached{}
	}
	return c
}

// cacheKey is a resource, or a key of small state.
type cacheKey struct {
	ref   fhir.Ref
	state string
}

func stateRef(key string) cacheKey { return cacheKey{state: key} }

func (c *cache) shard(k cacheKey) *cacheShard {
	return &c.shards[(maphash.String(c.seed, k.ref.ID)^maphash.String(c.seed, k.state))%cacheShards]
}

func (c *cache) get(k cacheKey) (x cached, ok bool) {
	if c.off.Load() {
		return cached{}, false
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
func (c *cache) put(k cacheKey, x cached, group uint64) {
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

func (s *cacheShard) add(k cacheKey, x cached) {
	if s.bytes += x.size(); s.bytes > cacheBytes/cacheShards/2 {
		s.old, s.young, s.bytes = s.young, map[cacheKey]cached{}, x.size()
	}
	s.young[k] = x
}

// drop forgets what a group changed; its view is not yet shown.
func (c *cache) drop(ks []cacheKey, group uint64) {
	for _, k := range ks {
		s := c.shard(k)
		s.mu.Lock()
		s.changed = group
		delete(s.young, k)
		delete(s.old, k)
		s.mu.Unlock()
	}
}
