package rows

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// NewIDIter returns an iterator over table I. One iterator serves many calls of
// HeadIn.
func NewIDIter(r pebble.Reader) (*pebble.Iterator, error) {
	return r.NewIter(&pebble.IterOptions{LowerBound: []byte{keys.TableID}, UpperBound: []byte{keys.TableID + 1}})
}

// HeadIn is HeadOf with an iterator from NewIDIter.
func HeadIn(it *pebble.Iterator, ref fhir.Ref, seq store.Seq) (*Pointer, error) {
	key := keys.IDKey(ref.Type, ref.ID, seq)
	if !it.SeekGE(key) {
		return nil, it.Error()
	}
	if pre := len(key) - 8; len(it.Key()) != len(key) || !bytes.Equal(it.Key()[:pre], key[:pre]) {
		return nil, nil
	}
	x, err := DecodePointer(it.Key(), it.Value())
	if err != nil {
		return nil, err
	}
	return &x, nil
}

// HeadOf returns the newest version of ref at a Seq, or nil if there is none.
func HeadOf(r pebble.Reader, ref fhir.Ref, seq store.Seq) (p *Pointer, err error) {
	pre := keys.IDPrefix(ref.Type, ref.ID)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	if !it.SeekGE(keys.IDKey(ref.Type, ref.ID, seq)) {
		return nil, it.Error()
	}
	x, err := DecodePointer(it.Key(), it.Value())
	if err != nil {
		return nil, err
	}
	return &x, nil
}
