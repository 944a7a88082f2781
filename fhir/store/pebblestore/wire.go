package pebblestore

import (
	"encoding/binary"
)

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader reads varints and texts; bad stays set after the first fault.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) text() string { return string(r.take(r.uvarint())) }

func (r *reader) texts() []string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	var out []string
	for range n {
		out = append(out, r.text())
	}
	return out
}

func (r *reader) u64() uint64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (r *reader) byte() byte {
	b := r.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// recent remembers what the document before had, for neighbours have mostly
// the same. What it hands out is shared and must not be changed.
type recent struct {
	vendor, author string
	raw            string // of categories
	categories     []string
}

func (r *reader) same(last *string) string {
	if b := r.take(r.uvarint()); string(b) != *last {
		*last = string(b)
	}
	return *last
}

func (r *reader) sameTexts(last *recent) []string {
	b := r.b
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	for range n {
		r.take(r.uvarint())
	}
	if raw := b[:len(b)-len(r.b)]; !r.bad && string(raw) != last.raw {
		again := reader{b: b}
		last.categories, last.raw = again.texts(), string(raw)
	}
	return last.categories
}
