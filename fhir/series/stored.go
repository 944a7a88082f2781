package series

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// errTemplate is an encoded template that cannot be read.
var errTemplate = errors.New("malformed template")

// templateVersion is the first byte of an encoded template.
const templateVersion = 1

const maxHoles = 32

// AppendTemplate appends the stored form of t:
//
//	version(1) = 1 | identity(9) | class(1) | flags(1): 1 KeyValue |
//	seed(8, big-endian) | values(1) | patient | vendor |
//	uvarint n, n categories | uvarint holes, that many (hole(1)) |
//	holes + 1 parts
//
// where a text or part is uvarint length and bytes.
func AppendTemplate(b []byte, t *Template) []byte {
	b = append(b, templateVersion)
	b = append(b, t.Identity[:]...)
	b = append(b, byte(t.Class))
	if t.KeyValue {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(b, t.Seed)
	b = append(b, byte(t.Values))
	b = appendBytes(b, t.Patient)
	b = appendBytes(b, t.Vendor)
	b = binary.AppendUvarint(b, uint64(len(t.Categories)))
	for _, c := range t.Categories {
		b = appendBytes(b, c)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Slots)))
	for _, h := range t.Slots {
		b = append(b, byte(h))
	}
	for _, p := range t.Parts {
		b = appendBytes(b, string(p))
	}
	return b
}

func appendBytes(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// SeriesID names a series: a hash of its stored template.
type SeriesID [8]byte

// IDOf is the SeriesID of an encoded template.
func IDOf(encoded []byte) (id SeriesID) {
	sum := sha256.Sum256(encoded)
	copy(id[:], sum[:])
	return id
}

// DecodeTemplate reads what AppendTemplate wrote. The result does not share
// memory with b.
func DecodeTemplate(b []byte) (*Template, error) {
	r := &templateReader{b: b}
	t := &Template{}
	if r.byte() != templateVersion {
		return nil, errTemplate
	}
	copy(t.Identity[:], r.take(len(t.Identity)))
	t.Class = Class(r.byte())
	t.KeyValue = r.byte()&1 != 0
	if s := r.take(8); s != nil {
		t.Seed = binary.BigEndian.Uint64(s)
	}
	t.Values = int(r.byte())
	t.Patient, t.Vendor = r.text(), r.text()
	for range r.count(64) {
		t.Categories = append(t.Categories, r.text())
	}
	for range r.count(maxHoles) {
		t.Slots = append(t.Slots, Slot(r.byte()))
	}
	for range len(t.Slots) + 1 {
		t.Parts = append(t.Parts, []byte(r.text()))
	}
	if r.bad || len(r.b) != 0 || t.Class > Long || t.Values > MaxValues || len(t.Parts[0]) == 0 {
		return nil, errTemplate
	}
	for _, h := range t.Slots {
		if int(h) >= int(SlotValue)+t.Values {
			return nil, errTemplate
		}
	}
	return t, nil
}

type templateReader struct {
	b   []byte
	bad bool
}

func (r *templateReader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *templateReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *templateReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *templateReader) count(limit uint64) uint64 {
	n := r.uvarint()
	if n > limit {
		r.bad, r.b = true, nil
		return 0
	}
	return n
}

func (r *templateReader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	return string(r.take(int(n)))
}
