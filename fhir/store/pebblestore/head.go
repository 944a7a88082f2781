package pebblestore

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/store"
)

// meta is the N row "head".
type meta struct {
	t         store.Seq
	updated   int64
	leaves    uint64
	resources uint64
}

func (m meta) encode() []byte {
	b := appendU64(nil, uint64(m.t))
	b = appendU64(b, uint64(m.updated))
	return appendU64(appendU64(b, m.leaves), m.resources)
}

func decodeMeta(v []byte) (meta, error) {
	r := reader{b: v}
	m := meta{t: store.Seq(r.u64()), updated: int64(r.u64()), leaves: r.u64(), resources: r.u64()}
	if r.bad {
		return m, errRow
	}
	return m, nil
}

// get returns a copy of a value, nil when absent.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, c, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, c.Close()
}
