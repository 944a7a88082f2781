package series

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

var errTemplate = errors.New("malformed template")

// templateVersion is the first byte of an encoded template.
const templateVersion = 1

// Bounds on an encoded template.
const (
	maxSlots      = 32
	maxCategories = 64
)

// AppendTemplate appends the encoding of t:
//
//	version(1) = 1 | identity(9) | class(1) | flags(1): 1 KeyValue |
//	seed(8, big-endian) | values(1) | patient | vendor |
//	uvarint n, n categories | uvarint m, m slots (1 byte each) |
//	m + 1 parts
//
// A text or a part is its length as uvarint and its bytes.
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
	for _, slot := range t.Slots {
		b = append(b, byte(slot))
	}
	for _, p := range t.Parts {
		b = appendBytes(b, string(p))
	}
	return b
}

func appendBytes(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// SeriesID identifies a series by a hash of its encoded template.
type SeriesID [8]byte

// IDOf returns the SeriesID of an encoded template.
func IDOf(encoded []byte) (id SeriesID) {
	sum := sha256.Sum256(encoded)
	copy(id[:], sum[:])
	return id
}

// DecodeTemplate decodes a template that AppendTemplate encoded. The result does
// not share memory with b.
func DecodeTemplate(b []byte) (*Template, error) {
	r := &reader{rest: b}
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
	for range r.uvarint(maxCategories) {
		t.Categories = append(t.Categories, r.text())
	}
	for range r.uvarint(maxSlots) {
		t.Slots = append(t.Slots, Slot(r.byte()))
	}
	for range len(t.Slots) + 1 {
		t.Parts = append(t.Parts, []byte(r.text()))
	}
	if r.bad || len(r.rest) != 0 || t.Class > Long || t.Values > MaxValues || len(t.Parts[0]) == 0 {
		return nil, errTemplate
	}
	for _, slot := range t.Slots {
		if int(slot) >= int(SlotValue)+t.Values {
			return nil, errTemplate
		}
	}
	return t, nil
}

// text reads a string and its length.
func (r *reader) text() string { return string(r.take(int(r.uvarint(uint64(len(r.rest)))))) }
