// Package wire encodes batches, results and errors of a store for other processes of
// the same cluster.
//
// Numbers are uvarints, or varints where they can be negative. A text, and a list,
// follow their length. Bytes that may be absent follow their length plus one, and
// zero stands for their absence. The decoders do not trust their input: they
// allocate no more than a constant times its length, within the bounds of this
// package.
package wire

import (
	"encoding/binary"
	"errors"
	"time"

	"pulsegate/fhir/series"
)

// Bounds of a batch. A larger one is not sent to another process.
const (
	maxItems   = 1 << 16 // writes, states, leaves, guards
	maxSeries  = 1 << 10
	maxSamples = 1 << 19 // of all series
	maxParts   = 1 << 10
	maxCause   = 4 << 10 // bytes of the text of an error's cause
	maxIssues  = 256
)

var (
	// ErrBounds reports a batch that cannot be encoded, because it exceeds a bound or is
	// not valid. The process commits it itself, and thereby gets the right error.
	ErrBounds = errors.New("the batch cannot be sent to another process")
	errWire   = errors.New("the message of another process is malformed or exceeds a limit")
)

// Codec encodes and decodes. It is safe for concurrent use.
type Codec struct{ blocks *series.Codec }

// NewCodec returns a Codec.
func NewCodec() (*Codec, error) {
	b, err := series.NewCodec()
	if err != nil {
		return nil, err
	}
	return &Codec{b}, nil
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTexts[T string | []byte](b []byte, list []T) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// appendBytes appends bytes that may be absent.
func appendBytes(b, s []byte) []byte {
	if s == nil {
		return append(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(s))+1), s...)
}

// appendTime appends a time, without its location.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

// reader reads from the beginning of rest. After a failure it has the error, and
// returns zero values.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail() { r.rest, r.err = nil, errWire }

// end returns the error of the reader, or an error if bytes are left.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.fail()
	}
	return r.err
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// enum reads a byte that is at most last.
func (r *reader) enum(last byte) byte {
	b := r.byte()
	if b > last {
		r.fail()
		return 0
	}
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads a number that is at most limit.
func (r *reader) count(limit int) int {
	v := r.uvarint()
	if v > uint64(limit) {
		r.fail()
		return 0
	}
	return int(v)
}

// take returns the next n bytes, which share the memory of the input.
func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.fail()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) text() string { return string(r.take(r.count(len(r.rest)))) }

// bytes reads bytes that may be absent.
func (r *reader) bytes() []byte {
	n := r.count(len(r.rest))
	if n == 0 {
		return nil
	}
	return r.take(n - 1)
}

func (r *reader) texts(limit int) (list []string) {
	for range r.count(limit) {
		if list = append(list, r.text()); r.err != nil {
			return nil
		}
	}
	return list
}

func (r *reader) time() time.Time {
	if r.enum(1) == 0 {
		return time.Time{}
	}
	sec, nano := r.varint(), r.count(999_999_999)
	return time.Unix(sec, int64(nano)).UTC()
}
