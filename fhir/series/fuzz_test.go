package series

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// seeds are the golden blocks or headers.
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

// FuzzDecode reads bytes as they are and with a checksum that fits; what is
// read must be what a block can hold.
func FuzzDecode(f *testing.F) {
	seeds(f, "*.block")
	f.Fuzz(func(t *testing.T, b []byte) {
		codec := newCodec(t) // with memory of its own, so that what an input covers is repeatable
		var got, back Columns
		for _, b := range [][]byte{b, seal(b[:len(b):len(b)], 0)} {
			if codec.Decode(b, &got) != nil {
				if got.Len() != 0 {
					t.Fatal("samples beside an error")
				}
				continue
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

// FuzzParseID: what parses is the one spelling of its key.
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

// FuzzDecodeTemplate: a stored template is what AppendTemplate writes, or an
// error; and every template that is read writes Observations.
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
			t.Fatal("wrote less than the template's beginning")
		}
	})
}
