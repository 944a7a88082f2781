package pebblestore

import (
	"bytes"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
)

// decodedBlocks are the blocks that look-ups by id decoded last: who reads one
// sample mostly reads its neighbours, too. A block is known by its bytes, so
// one that was written anew is never taken for what it was. It is not a
// golang-lru cache, because entries are compared by key and content.
type decodedBlocks struct {
	mu   sync.Mutex
	list [8]*decodedBlock
	next int
}

// decodedBlock does not change.
type decodedBlock struct {
	key, body []byte
	t         uint64 // of the header: what the commits of new samples are
	updated   int64
	cols      series.Columns
}

// block is DB.block; the columns are read only.
func (c *decodedBlocks) block(d *DB, r pebble.Reader, headKey []byte, h *series.Header) (_ *series.Columns, err error) {
	body, done, err := r.Get(append([]byte{tabBlock}, headKey[1:]...))
	if err != nil {
		return nil, err
	}
	defer closing(done, &err)
	c.mu.Lock()
	list := c.list
	c.mu.Unlock()
	for _, b := range list {
		if b != nil && b.t == h.MinT && b.updated == h.MinUpdated && bytes.Equal(b.key, headKey) &&
			bytes.Equal(b.body, body) && b.cols.Len() == h.Count {
			return &b.cols, nil
		}
	}
	b := &decodedBlock{key: slices.Clone(headKey), body: slices.Clone(body), t: h.MinT, updated: h.MinUpdated}
	if err := d.decode(body, h, &b.cols); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list[c.next] = b
	c.next = (c.next + 1) % len(c.list)
	return &b.cols, nil
}
