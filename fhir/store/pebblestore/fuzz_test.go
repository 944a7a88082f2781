package pebblestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// stored are the decoders of what the store wrote itself. Each reads bytes and
// gives the value, and its bytes as they are written today.
var stored = []func(b []byte) (value any, again []byte, err error){
	func(b []byte) (any, []byte, error) { d, err := decodeDoc(b); return d, d.encode(), err },
	func(b []byte) (any, []byte, error) {
		p, err := decodePointer(make([]byte, 8), b)
		return p, p.encode(), err
	},
	func(b []byte) (any, []byte, error) {
		e, err := decodeSamplesEntry(b)
		return e, e.encode(), err
	},
	func(b []byte) (any, []byte, error) { e, err := decodeEntry(b); return e, e.encode(), err },
	func(b []byte) (any, []byte, error) { s, err := decodeSeriesState(b); return s, s.encode(), err },
	func(b []byte) (any, []byte, error) { m, err := decodeMeta(b); return m, m.encode(), err },
	func(b []byte) (any, []byte, error) {
		f, ok := store.DecodeTemplate(b)
		if !ok {
			return nil, nil, errRow
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
			l, err := leafIn(b, i)
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
		r, ok := parseRow(b)
		if !ok {
			return nil, nil, errRow
		}
		return r, rowKey(b[0], &r.place, r.code, r.typ, r.id, r.t), nil
	},
}

// FuzzStored: whatever bytes a damaged table gives are an error or a value
// that is written and read again as it is, in memory bounded by the bytes.
func FuzzStored(f *testing.F) {
	at := place{patient: "a\x00b", code: [8]byte{1, 2}, bucket: bucketLong, start: -5}
	rows := [][]byte{
		(&doc{to: 7, deleted: true, version: 3, updated: -1, vendor: "v", categories: []string{"vital-signs", ""},
			json: []byte(`{}`)}).encode(),
		(&pointer{place: at, version: 1, moved: true, series: series.SeriesID{9}}).encode(),
		(&samplesEntry{place: at, count: 1 << 40, first: -1, end: 1 << 60}).encode(),
		(&entry{place: at, typ: "Observation", id: "x", version: 2, created: true, author: "me",
			categories: []string{"a", "b"}}).encode(),
		(&seriesState{maxStart: 1, samples: 2, tails: 3, loose: 4, moves: 5, merges: 6}).encode(),
		meta{t: 1, updated: 2, leaves: 3, resources: 4}.encode(),
		store.NewTemplate([]byte("0123456789"), 1, []int{2, 4, 8, 10}).Encoded,
		{1, 'a', 0, 2, 'b', 'c'},
		rowKey(tabDoc, &at, at.code, "Observation", "x", store.Seq(1<<63)),
	}
	f.Add(byte(0), (&doc{version: 1, formed: true, form: [16]byte{7}, own: []byte{1, 'x'}}).encode())
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
