package series

import (
	"encoding/base32"
	"encoding/binary"
	"math"
)

// Identity names a stream. The producer of the samples derives it.
type Identity [9]byte

// idBytes is the number of bytes in an id: identity, start and check. idLen is
// the length of the id as text.
const (
	idBytes = 9 + 7 + 4
	idLen   = 32
)

// epoch is 1900-01-01T00:00:00Z in Unix microseconds. An id cannot represent an
// earlier start, or one more than 56 bits later.
const epoch = -2208988800_000000

// MinStart and MaxStart bound the start of a sample, in Unix microseconds.
const (
	MinStart = epoch
	MaxStart = epoch + 1<<56 - 1
)

// NoEnd is the end of an instant.
const NoEnd = math.MinInt64

var alphabet = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// Key holds the parts of a sample's id.
type Key struct {
	Identity Identity
	Start    int64 // Unix microseconds
	Check    uint32
}

// AppendID appends the id.
func (k *Key) AppendID(b []byte) []byte {
	var raw [idBytes]byte
	copy(raw[:], k.Identity[:])
	u := uint64(k.Start - epoch)
	raw[9] = byte(u >> 48)
	raw[10] = byte(u >> 40)
	binary.BigEndian.PutUint32(raw[11:], uint32(u>>8))
	raw[15] = byte(u)
	binary.BigEndian.PutUint32(raw[16:], k.Check)
	return alphabet.AppendEncode(b, raw[:])
}

// ID returns the id.
func (k *Key) ID() string {
	var b [idLen]byte
	return string(k.AppendID(b[:0]))
}

// ParseID splits an id into its parts. A document may have an id of the same
// format, so ok does not mean that id names a sample.
func ParseID(id string) (k Key, ok bool) {
	if len(id) != idLen {
		return k, false
	}
	var raw [idBytes]byte
	if n, err := alphabet.Decode(raw[:], []byte(id)); err != nil || n != idBytes {
		return k, false
	}
	copy(k.Identity[:], raw[:9])
	u := uint64(raw[9])<<48 | uint64(raw[10])<<40 | uint64(binary.BigEndian.Uint32(raw[11:]))<<8 | uint64(raw[15])
	k.Start = int64(u) + epoch
	k.Check = binary.BigEndian.Uint32(raw[16:])
	return k, true
}

// Compare compares keys of one identity by start, then check, which is the order
// of their ids.
func (k *Key) Compare(other *Key) int {
	switch {
	case k.Start != other.Start:
		if k.Start < other.Start {
			return -1
		}
		return 1
	case k.Check != other.Check:
		if k.Check < other.Check {
			return -1
		}
		return 1
	}
	return 0
}
