// Package floor measures the raw speed of Pebble on this machine, so that the
// figures of the store can be read as ratios. The data it writes is never read.
package floor

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const batch = 500 // documents that share one fsync

// RawFloor writes n documents of size bytes, each with rows-1 index rows of 16
// bytes, in synced batches of 500 into a new Pebble store in dir. It returns
// documents per second. Keys are spread like hashes. The first half of a document
// repeats one hash; the second half is zero.
func RawFloor(dir string, n int, rows int, size int) (perSecond float64, err error) {
	if n <= 0 || rows <= 0 || size < 0 {
		return 0, errors.New("floor: n and rows must be positive")
	}
	db, err := pebble.Open(dir, &pebble.Options{MemTableSize: 16 << 20, MemTableStopWritesThreshold: 4,
		FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	doc := make([]byte, size)
	start := time.Now()
	for done := 0; done < n; {
		b := db.NewBatch()
		for i := 0; i < batch && done < n; i++ {
			for r := range rows {
				h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte{byte(r)}, uint64(done)))
				value := h[16:]
				if r == 0 {
					for at := 0; at < size/2; at += len(h) {
						copy(doc[at:size/2], h[:])
					}
					value = doc
				}
				if err := b.Set(h[:], value, nil); err != nil {
					return 0, errors.Join(err, b.Close())
				}
			}
			done++
		}
		if err := b.Commit(pebble.Sync); err != nil {
			return 0, errors.Join(err, b.Close())
		}
		if err := b.Close(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}
