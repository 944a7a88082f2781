package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"pulsegate/fhir"
)

// Template is what many resources of a type have in common byte for byte: the
// parts of their canonical JSON behind fhir.Prefix, between which each has
// bytes of its own. A driver may keep a form once and of each resource what is
// its own; from outside nothing differs. A Template does not change.
type Template struct {
	// ID is the first half of the SHA-256 of Encoded.
	ID [16]byte
	// Encoded are the parts, each behind its length (uvarint).
	Encoded []byte
	parts   [][]byte
}

// maxParts bounds a form.
const maxParts = 64

// NewTemplate takes the parts of canonical JSON that lie behind from and outside
// cuts: offsets in JSON, in order, of the begin and end of what is the
// resource's own. It is nil when cuts are none that a form can have.
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

// DecodeTemplate reads Encoded; ok is false when it is not one that a Form has.
// It keeps b.
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

// Fits reports whether JSON is the form with what lies in cuts between its
// parts.
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

// AppendOwn appends what lies in cuts, each behind its length (uvarint).
func AppendOwn(b, json []byte, cuts []int) []byte {
	for i := 0; i+1 < len(cuts); i += 2 {
		b = append(binary.AppendUvarint(b, uint64(cuts[i+1]-cuts[i])), json[cuts[i]:cuts[i+1]]...)
	}
	return b
}

// JSON are the canonical bytes of the resource whose own bytes AppendOwn
// wrote; ok is false when they are not of this form.
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
