package pebblestore

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// idIterator walks the I table; one of them serves many lookups.
func idIterator(r pebble.Reader) (*pebble.Iterator, error) {
	return r.NewIter(&pebble.IterOptions{LowerBound: []byte{tabID}, UpperBound: []byte{tabID + 1}})
}

// headIn is headOf on an iterator of idIterator.
func headIn(it *pebble.Iterator, ref fhir.Ref, t store.Seq) (*pointer, error) {
	key := idKey(ref.Type, ref.ID, t)
	if !it.SeekGE(key) {
		return nil, it.Error()
	}
	if pre := len(key) - 8; len(it.Key()) != len(key) || !bytes.Equal(it.Key()[:pre], key[:pre]) {
		return nil, nil
	}
	x, err := decodePointer(it.Key(), it.Value())
	if err != nil {
		return nil, err
	}
	return &x, nil
}

// headOf returns the newest version of ref at t, nil when there is none.
func headOf(r pebble.Reader, ref fhir.Ref, t store.Seq) (p *pointer, err error) {
	pre := idPrefix(ref.Type, ref.ID)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	if !it.SeekGE(idKey(ref.Type, ref.ID, t)) {
		return nil, it.Error()
	}
	x, err := decodePointer(it.Key(), it.Value())
	if err != nil {
		return nil, err
	}
	return &x, nil
}
