package pebblestore

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/klauspost/compress/zstd"

	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/sharedlog"
)

// maxEntryBytes bounds the rows of an entry before compression. A group is bounded by
// groupBytes and maxBatch; its rows also hold superseded versions and index values.
const maxEntryBytes = 512 << 20

// entryCodec compresses the representation of a Pebble batch, which is the format of
// sharedlog.Entry.Rows.
type entryCodec struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

func newEntryCodec() (*entryCodec, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxEntryBytes))
	if err != nil {
		return nil, err
	}
	return &entryCodec{encoder: e, decoder: d}, nil
}

// pack returns the rows of an entry. It fails with sharedlog.ErrTooLarge if other
// processes would refuse them.
func (c *entryCodec) pack(repr []byte) ([]byte, error) {
	if len(repr) > maxEntryBytes {
		return nil, sharedlog.ErrTooLarge
	}
	out := c.encoder.EncodeAll(repr, nil)
	if len(out) > sharedlog.MaxRows {
		return nil, sharedlog.ErrTooLarge
	}
	return out, nil
}

// unpack returns the representation of the batch of an entry.
func (c *entryCodec) unpack(e *sharedlog.Entry) ([]byte, error) {
	if len(e.Rows) > sharedlog.MaxRows {
		return nil, malformed(e, "the rows are too large")
	}
	repr, err := c.decoder.DecodeAll(e.Rows, nil)
	if err != nil {
		return nil, malformed(e, "the rows cannot be decompressed")
	}
	return repr, nil
}

// malformed returns the error of an entry that this program must not apply.
func malformed(e *sharedlog.Entry, rule string) error {
	return fault.Refusal(fmt.Sprintf("entry %d of the log is malformed: %s", e.Index, rule))
}

// batchHeader is the length of the header of a batch: sequence number(8) | count(4), both
// little-endian.
const batchHeader = 12

// eachRow calls fn with the rows that a batch sets (pebble.InternalKeyKindSet), deletes
// or merges, in order. Pebble's own reader trusts its input; the input of eachRow comes
// from other processes. A representation that eachRow accepts can be applied.
func eachRow(repr []byte, fn func(kind pebble.InternalKeyKind, key, value []byte) error) error {
	if len(repr) < batchHeader {
		return fault.ErrRow
	}
	count, rest := binary.LittleEndian.Uint32(repr[8:]), repr[batchHeader:]
	text := func() (s []byte, ok bool) {
		n, size := binary.Uvarint(rest)
		if size <= 0 || size > binary.MaxVarintLen32 || n > uint64(len(rest)-size) {
			return nil, false
		}
		s, rest = rest[size:size+int(n)], rest[size+int(n):]
		return s, true
	}
	for len(rest) > 0 {
		kind := pebble.InternalKeyKind(rest[0])
		rest = rest[1:]
		key, ok := text()
		if !ok || len(key) == 0 || count == 0 {
			return fault.ErrRow
		}
		count--
		var value []byte
		switch kind {
		case pebble.InternalKeyKindDelete:
		case pebble.InternalKeyKindSet, pebble.InternalKeyKindMerge:
			if value, ok = text(); !ok {
				return fault.ErrRow
			}
		default:
			return fault.ErrRow
		}
		if err := fn(kind, key, value); err != nil {
			return err
		}
	}
	if count != 0 {
		return fault.ErrRow
	}
	return nil
}
