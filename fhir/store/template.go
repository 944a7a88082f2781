package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"pulsegate/fhir"
)

// Template holds the parts of canonical JSON, after fhir.Prefix, that many
// resources of a type share byte for byte. Between two parts lies a slot with bytes
// of the resource. A driver may store a template once, and the slots of each
// resource; readers see no difference. A Template is immutable.
type Template struct {
	// ID is the first half of the SHA-256 of Encoded.
	ID [16]byte
	// Encoded holds the parts, each preceded by its length (uvarint).
	Encoded []byte
	parts   [][]byte
}

// maxParts bounds the parts of a template.
const maxParts = 64

// NewTemplate returns the template of canonical JSON. Its parts begin at offset
// from; cuts holds the offsets in json, in order, at which each slot begins and
// ends. NewTemplate returns nil if the cuts are out of order or too many.
func NewTemplate(json []byte, from int, cuts []int) *Template {
	var b []byte
	if !ordered(json, from, cuts) {
		return nil
	}
	for i := 0; i <= len(cuts); i += 2 {
		end := len(json)
		if i < len(cuts) {
			end = cuts[i]
		}
		b = append(binary.AppendUvarint(b, uint64(end-from)), json[from:end]...)
		if i < len(cuts) {
			from = cuts[i+1]
		}
	}
	f, ok := DecodeTemplate(b)
	if !ok {
		return nil
	}
	return f
}

func ordered(json []byte, from int, cuts []int) bool {
	if len(cuts)%2 != 0 || from < 0 {
		return false
	}
	for _, c := range cuts {
		if c < from {
			return false
		}
		from = c
	}
	return from <= len(json)
}

// DecodeTemplate decodes Encoded. It reports false if b is malformed. The template
// retains b.
func DecodeTemplate(b []byte) (f *Template, ok bool) {
	f = &Template{Encoded: b}
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) || len(f.parts) == maxParts {
			return nil, false
		}
		f.parts = append(f.parts, b[w:w+int(n)])
		b = b[w+int(n):]
	}
	sum := sha256.Sum256(f.Encoded)
	copy(f.ID[:], sum[:])
	return f, len(f.parts) > 0
}

// Fits reports whether json consists of the parts of the template, with the bytes
// between cuts in its slots.
func (f *Template) Fits(json []byte, from int, cuts []int) bool {
	if len(cuts) != 2*len(f.parts)-2 || !ordered(json, from, cuts) {
		return false
	}
	for i, p := range f.parts {
		end := len(json)
		if 2*i < len(cuts) {
			end = cuts[2*i]
		}
		if !bytes.Equal(json[from:end], p) {
			return false
		}
		if 2*i < len(cuts) {
			from = cuts[2*i+1]
		}
	}
	return true
}

// AppendSlots appends the bytes between cuts, each slot preceded by its length
// (uvarint).
func AppendSlots(b, json []byte, cuts []int) []byte {
	for i := 0; i+1 < len(cuts); i += 2 {
		b = append(binary.AppendUvarint(b, uint64(cuts[i+1]-cuts[i])), json[cuts[i]:cuts[i+1]]...)
	}
	return b
}

// JSON returns the canonical bytes of the resource whose slots AppendSlots encoded.
// It reports false if the slots do not belong to the template.
func (f *Template) JSON(typ, id string, own []byte) (json []byte, ok bool) {
	p := fhir.Prefix(typ, id)
	json = make([]byte, 0, len(p)+len(f.Encoded)+len(own))
	json = append(json, p...)
	for i, part := range f.parts {
		json = append(json, part...)
		if i == len(f.parts)-1 {
			break
		}
		n, w := binary.Uvarint(own)
		if w <= 0 || n > uint64(len(own)-w) {
			return nil, false
		}
		json = append(json, own[w:w+int(n)]...)
		own = own[w+int(n):]
	}
	return json, len(own) == 0
}
