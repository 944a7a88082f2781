package wire

import (
	"encoding/binary"

	"pulsegate/fhir/store/sharedlog"
)

// maxTouched bounds the guards of an entry.
const maxTouched = 1 << 16

// AppendEntry appends an entry of the log.
func AppendEntry(dst []byte, e *sharedlog.Entry) []byte {
	dst = binary.AppendUvarint(dst, e.Index)
	dst = append(append(dst, e.Parent[:]...), e.Nonce[:]...)
	dst = binary.AppendUvarint(dst, e.Epoch)
	dst = binary.AppendUvarint(dst, uint64(e.Schema))
	dst = appendText(dst, e.Node)
	dst = binary.AppendUvarint(dst, e.First)
	dst = binary.AppendUvarint(dst, e.Count)
	dst = appendTexts(dst, e.Touched)
	return appendText(dst, e.Rows)
}

// DecodeEntry reads what AppendEntry has written. The rows share the memory of b.
func DecodeEntry(b []byte) (*sharedlog.Entry, error) {
	r := &reader{rest: b}
	e := &sharedlog.Entry{Index: r.uvarint()}
	copy(e.Parent[:], r.take(len(e.Parent)))
	copy(e.Nonce[:], r.take(len(e.Nonce)))
	e.Epoch = r.uvarint()
	e.Schema = uint32(r.count(1<<31 - 1))
	e.Node = r.text()
	e.First, e.Count = r.uvarint(), r.uvarint()
	e.Touched = r.texts(maxTouched)
	e.Rows = r.take(r.count(len(r.rest)))
	return e, r.end()
}
