package series

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// seeds adds the golden blocks or headers to the corpus, with and without their
// checksums.
func seeds(f *testing.F, pattern string) {
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-4])
	}
}

// FuzzDecode decodes bytes without and with a valid checksum. Decoded columns
// must survive another round trip.
func FuzzDecode(f *testing.F) {
	seeds(f, "*.block")
	f.Fuzz(func(t *testing.T, b []byte) {
		codec := newCodec(t) // a fresh Codec keeps the coverage of an input reproducible
		var got, back Columns
		for _, b := range [][]byte{b, seal(b[:len(b):len(b)], 0)} {
			if codec.Decode(b, &got) != nil {
				if got.Len() != 0 {
					t.Fatal("Decode returned samples with an error")
				}
				// The bytes of later samples are not read. It must return all the same.
				_ = codec.DecodeFirst(b, 5, &back)
				continue
			}
			whole := got.Slice(0, min(5, got.Len()))
			whole.Commits = nil
			if err := codec.DecodeFirst(b, 5, &back); err != nil || !equal(&whole, &back) {
				t.Fatalf("the first samples: %v\n%+v\n%+v", err, whole, back)
			}
			again, err := codec.Encode(nil, &got)
			if err != nil {
				t.Fatal(err)
			}
			if err := codec.Decode(again, &back); err != nil || !equal(&got, &back) {
				t.Fatalf("%v\n%+v\n%+v", err, got, back)
			}
		}
	})
}

func FuzzDecodeHeader(f *testing.F) {
	seeds(f, "*.header")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, seal(b[:len(b):len(b)], 0)} {
			h, err := DecodeHeader(b)
			if err != nil {
				continue
			}
			again := AppendHeader(nil, &h)
			back, err := DecodeHeader(again)
			if err != nil || string(AppendHeader(nil, &back)) != string(again) {
				t.Fatal(err)
			}
		}
	})
}

// FuzzParseID checks that every accepted id is the canonical id of its key.
func FuzzParseID(f *testing.F) {
	k := Key{Identity{1, 2, 3, 250}, monday, 77}
	f.Add(k.ID())
	f.Add("vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv")
	f.Add("00000000\n000000000000000000000000")
	f.Fuzz(func(t *testing.T, id string) {
		if k, ok := ParseID(id); ok {
			if k.Start < MinStart || k.Start > MaxStart {
				t.Fatal("start", k.Start)
			}
			if back := k.ID(); back != id {
				t.Fatalf("%q became %q", id, back)
			}
		}
	})
}

// FuzzDecodeTemplate checks that every accepted template survives another round
// trip and can render a sample.
func FuzzDecodeTemplate(f *testing.F) {
	t := &Template{Identity: Identity{1, 2}, Class: Long, KeyValue: true, Seed: 1 << 63, Patient: "p",
		Vendor: "apple", Values: 1,
		Categories: []string{"vital-signs", ""}, Slots: []Slot{SlotEffective, SlotValue},
		Parts: [][]byte{[]byte(`{"a":"`), []byte(`","b":`), []byte(`}`)}}
	f.Add(AppendTemplate(nil, t))
	t.Values, t.Slots, t.Parts = 0, nil, [][]byte{[]byte("{}")}
	f.Add(AppendTemplate(nil, t))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeTemplate(b)
		if err != nil {
			return
		}
		again := AppendTemplate(nil, got)
		back, err := DecodeTemplate(again)
		if err != nil || !reflect.DeepEqual(got, back) {
			t.Fatalf("%v\n%+v\n%+v", err, got, back)
		}
		s := Sample{Start: monday, End: NoEnd}
		if out := got.Append(nil, &s); len(out) < len(got.Parts[0]) {
			t.Fatal("the Observation is shorter than the first part")
		}
	})
}
