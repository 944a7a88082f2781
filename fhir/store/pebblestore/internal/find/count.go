package find

import (
	"bytes"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// countRows counts the matches by rows alone. It does nothing if the rows do not decide
// which documents match, or if the filter may hide some.
func (f *finder) countRows() (n uint64, done bool, err error) {
	q := f.query
	if !f.filter.Everything(q.Type) {
		return 0, false, nil
	}
	switch len(q.Clauses) {
	case 0:
		if q.Patient != "" {
			return 0, false, nil
		}
		n, err = f.countDocuments()
		return n, true, err
	case 1:
		if !rows.Generic(q.Type) {
			return 0, false, nil
		}
		d, err := f.driverOf(0)
		if d == nil || !d.exact || err != nil {
			return 0, false, err
		}
		return f.countSpans(d)
	}
	return 0, false, nil
}

// countDocuments counts the documents and samples of the type. It decodes none of them.
func (f *finder) countDocuments() (n uint64, err error) {
	err = f.eachRow("", false, nil, func(_ []byte, r keys.Row, t *table) (bool, error) {
		if ser, _ := t.sampled(); ser != nil {
			n++
		} else if v := t.Value(); rows.Visible(v, r.Seq, f.at) && !rows.DeletedIn(v) {
			n++
		}
		return true, f.step()
	})
	return n, err
}

// countedIDs bounds the documents of which countSpans remembers that they were counted.
const countedIDs = 1 << 17

// countSpans counts the documents with a row in the spans of a driver. It gives up if a
// document may have several rows, and there are too many to remember.
func (f *finder) countSpans(d *driver) (n uint64, done bool, err error) {
	if len(d.spans) == 0 {
		return 0, true, nil
	}
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: d.spans[0].lower,
		UpperBound: d.spans[len(d.spans)-1].upper})
	if err != nil {
		return 0, false, err
	}
	defer fault.Close(it, &err)
	counted := map[string]struct{}{}
	for _, s := range d.spans {
		for ok := it.SeekGE(s.lower); ok && bytes.Compare(it.Key(), s.upper) < 0; ok = it.Next() {
			if err := f.step(); err != nil {
				return 0, false, err
			}
			k, v := it.Key(), it.Value()
			if len(k) < 8 {
				return 0, false, fault.ErrRow
			}
			if !rows.Visible(v, store.Seq(binary.BigEndian.Uint64(k[len(k)-8:])), f.at) {
				continue
			}
			if d.single {
				n++
				continue
			}
			rest, ok := keys.CutIndex(k)
			if !ok || len(rest) < 8 {
				return 0, false, fault.ErrRow
			}
			if len(counted) == countedIDs {
				return 0, false, nil
			}
			counted[string(rest[:len(rest)-8])] = struct{}{}
		}
		if err := it.Error(); err != nil {
			return 0, false, err
		}
	}
	return n + uint64(len(counted)), true, nil
}
