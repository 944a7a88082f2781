package rows

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Head is the N row "head": the state of the store after a commit.
type Head struct {
	Seq       store.Seq
	Updated   int64
	Leaves    uint64
	Resources uint64
}

func (m Head) Encode() []byte {
	b := keys.AppendUint64(nil, uint64(m.Seq))
	b = keys.AppendUint64(b, uint64(m.Updated))
	return keys.AppendUint64(keys.AppendUint64(b, m.Leaves), m.Resources)
}

// DecodeHead decodes the value of the head row.
func DecodeHead(v []byte) (Head, error) {
	r := Reader{Bytes: v}
	m := Head{Seq: store.Seq(r.Uint64()), Updated: int64(r.Uint64()), Leaves: r.Uint64(), Resources: r.Uint64()}
	if r.Bad {
		return m, fault.ErrRow
	}
	return m, nil
}

// Get returns a copy of a value, or nil if the key is absent.
func Get(r pebble.Reader, key []byte) ([]byte, error) {
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
