package tier

import (
	"bytes"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// decodedBlocks caches the blocks that lookups by id decoded last, because a reader
// of one sample mostly reads its neighbors, too. An entry is compared with the
// bytes of the block, so that a rewritten block is decoded again. It is not a
// golang-lru cache, because a key alone does not identify an entry.
type decodedBlocks struct {
	mu   sync.Mutex
	list [8]*decodedBlock
	next int
}

// decodedBlock is immutable.
type decodedBlock struct {
	key, body []byte
	seq       uint64 // Seq of the header, which new samples do not repeat
	updated   int64
	cols      series.Columns
}

// block is Tier.ReadBlock with a cache. The columns are read only.
func (c *decodedBlocks) block(t *Tier, r pebble.Reader, headKey []byte,
	h *series.Header) (_ *series.Columns, err error) {
	body, done, err := r.Get(append([]byte{keys.TableBlock}, headKey[1:]...))
	if err != nil {
		return nil, err
	}
	defer fault.Close(done, &err)
	c.mu.Lock()
	list := c.list
	c.mu.Unlock()
	for _, b := range list {
		if b != nil && b.seq == h.MinSeq && b.updated == h.MinUpdated && bytes.Equal(b.key, headKey) &&
			bytes.Equal(b.body, body) && b.cols.Len() == h.Count {
			return &b.cols, nil
		}
	}
	b := &decodedBlock{key: slices.Clone(headKey), body: slices.Clone(body), seq: h.MinSeq, updated: h.MinUpdated}
	if err := t.decode(body, h, &b.cols); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list[c.next] = b
	c.next = (c.next + 1) % len(c.list)
	return &b.cols, nil
}

// Columns returns empty columns from the pool. The caller passes them to Release
// when done.
func (t *Tier) Columns(values int) *series.Columns {
	c, ok := t.spare.Get().(*series.Columns)
	if !ok {
		return &series.Columns{}
	}
	c.Reset()
	c.Values = c.Values[:min(values, len(c.Values))]
	return c
}

// ReadBlock decodes the block of a header row.
func (t *Tier) ReadBlock(r pebble.Reader, headKey []byte, h *series.Header, into *series.Columns) error {
	k := append([]byte{keys.TableBlock}, headKey[1:]...)
	v, c, err := r.Get(k)
	if err != nil {
		return err
	}
	err = t.decode(v, h, into)
	fault.Close(c, &err)
	return err
}

// ReadFirst decodes the first n samples of the block of a header row, or all if it has fewer,
// without their commits.
func (t *Tier) ReadFirst(r pebble.Reader, headKey []byte, n int, into *series.Columns) error {
	v, c, err := r.Get(append([]byte{keys.TableBlock}, headKey[1:]...))
	if err != nil {
		return err
	}
	err = t.codec.DecodeFirst(v, n, into)
	fault.Close(c, &err)
	return err
}

// decode decodes the bytes of a block.
func (t *Tier) decode(body []byte, h *series.Header, into *series.Columns) error {
	err := t.codec.Decode(body, into)
	if err == nil && into.Len() != h.Count {
		err = fault.ErrRow
	}
	// A block that a commit wrote leaves out the commit, which its header names.
	for i := range into.Commits {
		if into.Commits[i].Seq == 0 {
			into.Commits[i] = series.Commit{Seq: h.MinSeq, Updated: h.MinUpdated}
		}
	}
	return err
}
