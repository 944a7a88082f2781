package rows

import (
	"encoding/binary"
)

// AppendText appends s, preceded by its length (uvarint).
func AppendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Reader decodes varints and strings. Bad is set after the first error.
type Reader struct {
	Bytes []byte
	Bad   bool
}

func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.Bytes)
	if n <= 0 {
		r.Bad, r.Bytes = true, nil
		return 0
	}
	r.Bytes = r.Bytes[n:]
	return v
}

func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.Bytes)
	if n <= 0 {
		r.Bad, r.Bytes = true, nil
		return 0
	}
	r.Bytes = r.Bytes[n:]
	return v
}

func (r *Reader) Take(n uint64) []byte {
	if n > uint64(len(r.Bytes)) {
		r.Bad, r.Bytes = true, nil
		return nil
	}
	out := r.Bytes[:n]
	r.Bytes = r.Bytes[n:]
	return out
}

func (r *Reader) Text() string { return string(r.Take(r.Uvarint())) }

func (r *Reader) texts() []string {
	n := r.Uvarint()
	if n > uint64(len(r.Bytes)) {
		r.Bad = true
		return nil
	}
	var out []string
	for range n {
		out = append(out, r.Text())
	}
	return out
}

func (r *Reader) Uint64() uint64 {
	b := r.Take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (r *Reader) Byte() byte {
	b := r.Take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// Recent holds the strings of the document decoded last, because neighbors mostly
// have the same ones. The strings and slices it returns are shared and must not be
// changed.
type Recent struct {
	vendor, author string
	raw            string // encoded categories
	categories     []string
}

func (r *Reader) same(last *string) string {
	if b := r.Take(r.Uvarint()); string(b) != *last {
		*last = string(b)
	}
	return *last
}

func (r *Reader) sameTexts(last *Recent) []string {
	b := r.Bytes
	n := r.Uvarint()
	if n > uint64(len(r.Bytes)) {
		r.Bad = true
		return nil
	}
	for range n {
		r.Take(r.Uvarint())
	}
	if raw := b[:len(b)-len(r.Bytes)]; !r.Bad && string(raw) != last.raw {
		again := Reader{Bytes: b}
		last.categories, last.raw = again.texts(), string(raw)
	}
	return last.categories
}
