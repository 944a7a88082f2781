package series

import (
	"encoding/base32"
	"encoding/binary"
	"math"
)

// Identity names a stream. It is derived by whoever makes the samples.
type Identity [9]byte

// idBytes is identity, start and check; idLen the length of a sample's id.
const (
	idBytes = 9 + 7 + 4
	idLen   = 32
)

// epoch is 1900-01-01T00:00:00Z in Unix microseconds; starts before it, or
// beyond 56 bits after it, do not fit an id.
const epoch = -2208988800_000000

// MinStart and MaxStart bound the start of a sample, in Unix microseconds.
const (
	MinStart = epoch
	MaxStart = epoch + 1<<56 - 1
)

// NoEnd is the end of an instant.
const NoEnd = math.MinInt64

var alphabet = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// Key is a sample's id in parts.
type Key struct {
	Identity Identity
	Start    int64 // Unix microseconds
	Check    uint32
}

// AppendID appends the id of a sample.
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

// ID is AppendID as a string.
func (k *Key) ID() string {
	var b [idLen]byte
	return string(k.AppendID(b[:0]))
}

// ParseID takes an id apart. An id that has the form of a sample's need not
// be one.
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

// Compare orders keys of one identity by start, then check: the order of ids.
func (k *Key) Compare(o *Key) int {
	switch {
	case k.Start != o.Start:
		if k.Start < o.Start {
			return -1
		}
		return 1
	case k.Check != o.Check:
		if k.Check < o.Check {
			return -1
		}
		return 1
	}
	return 0
}
