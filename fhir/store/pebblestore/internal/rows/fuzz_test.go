package rows

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// stored lists the decoders of stored values. Each returns the decoded value and
// encodes it again.
var stored = []func(b []byte) (value any, again []byte, err error){
	func(b []byte) (any, []byte, error) { d, err := decodeDocument(b); return d, d.Encode(), err },
	func(b []byte) (any, []byte, error) {
		p, err := DecodePointer(make([]byte, 8), b)
		return p, p.Encode(), err
	},
	func(b []byte) (any, []byte, error) {
		e, err := DecodeSeriesChange(b)
		return e, e.Encode(), err
	},
	func(b []byte) (any, []byte, error) { e, err := DecodeChange(b); return e, e.Encode(), err },
	func(b []byte) (any, []byte, error) { s, err := DecodeTally(b); return s, s.Encode(), err },
	func(b []byte) (any, []byte, error) { m, err := DecodeHead(b); return m, m.Encode(), err },
	func(b []byte) (any, []byte, error) {
		f, ok := store.DecodeTemplate(b)
		if !ok {
			return nil, nil, fault.ErrRow
		}
		if json, ok := f.JSON("Device", "d", b); ok && !bytes.Contains(json, []byte(fhir.Prefix("Device", "d"))) {
			return nil, nil, errors.New("not the resource that was asked for")
		}
		return f, f.Encoded, nil
	},
	func(b []byte) (any, []byte, error) {
		var all [][]byte
		var again []byte
		for i := uint64(0); ; i++ {
			l, err := LeafIn(b, i)
			if err != nil {
				return nil, nil, err
			}
			if l == nil {
				return all, again, nil
			}
			all, again = append(all, l), append(binary.AppendUvarint(again, uint64(len(l))), l...)
		}
	},
	func(b []byte) (any, []byte, error) {
		r, ok := keys.ParseRow(b)
		if !ok {
			return nil, nil, fault.ErrRow
		}
		return r, keys.RowKey(b[0], &r.Location, r.Code, r.Type, r.ID, r.Seq), nil
	},
}

// FuzzStored checks that any bytes either fail to decode or decode to a value that
// survives encoding and decoding.
func FuzzStored(f *testing.F) {
	at := keys.Location{Patient: "a\x00b", Code: [8]byte{1, 2}, Bucket: keys.BucketLong, Start: -5}
	rows := [][]byte{
		(&Document{EndSeq: 7, Deleted: true, Version: 3, Updated: -1, Vendor: "v",
			Categories: []string{"vital-signs", ""},
			JSON:       []byte(`{}`)}).Encode(),
		(&Pointer{Location: at, Version: 1, Moved: true, Series: series.SeriesID{9}}).Encode(),
		(&SeriesChange{Location: at, Count: 1 << 40, First: -1, Last: 1 << 60}).Encode(),
		(&Change{Location: at, Type: "Observation", ID: "x", Version: 2, Created: true, Author: "me",
			Categories: []string{"a", "b"}}).Encode(),
		(&Tally{MaxStart: 1, Samples: 2, Tails: 3, TailSamples: 4, Moves: 5, Merges: 6}).Encode(),
		Head{Seq: 1, Updated: 2, Leaves: 3, Resources: 4}.Encode(),
		store.NewTemplate([]byte("0123456789"), 1, []int{2, 4, 8, 10}).Encoded,
		{1, 'a', 0, 2, 'b', 'c'},
		keys.RowKey(keys.TableDocument, &at, at.Code, "Observation", "x", store.Seq(1<<63)),
	}
	f.Add(byte(0), (&Document{Version: 1, Templated: true, TemplateID: [16]byte{7}, Slots: []byte{1, 'x'}}).Encode())
	for which, b := range rows {
		f.Add(byte(which), b)
		f.Add(byte(which), b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		decode := stored[int(which)%len(stored)]
		value, again, err := decode(b)
		if err != nil {
			return
		}
		back, _, err := decode(again)
		if err != nil || !reflect.DeepEqual(value, back) {
			t.Fatalf("decoder %d: %v\n%+v\n%+v", which, err, value, back)
		}
	})
}
