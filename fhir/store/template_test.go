package store_test

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// TestTemplate checks that a template and the slots of a resource give the JSON
// they were made of, and that only JSON that agrees outside the cuts fits.
func TestTemplate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const typ, id = "AuditEvent", "x"
		prefix := fhir.Prefix(typ, id)
		json := append([]byte(prefix), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "rest")...)
		cuts := rapid.SliceOfN(rapid.IntRange(len(prefix), len(json)), 0, 8).Draw(t, "cuts")
		slices.Sort(cuts)
		f := store.NewTemplate(json, len(prefix), cuts)
		if f == nil {
			if len(cuts)%2 == 0 {
				t.Fatal("no template")
			}
			return
		}
		if !f.Fits(json, len(prefix), cuts) {
			t.Fatal("it does not fit what it was made of")
		}
		own := store.AppendSlots(nil, json, cuts)
		if again, ok := f.JSON(typ, id, own); !ok || !bytes.Equal(again, json) {
			t.Fatalf("%q is not %q", again, json)
		}
		d, ok := store.DecodeTemplate(f.Encoded)
		if !ok || d.ID != f.ID {
			t.Fatal("not read back")
		}
		if _, ok := f.JSON(typ, id, append(own, 1)); ok {
			t.Fatal("more bytes than it has places for")
		}
		if len(own) > 0 {
			if _, ok := f.JSON(typ, id, own[:len(own)-1]); ok {
				t.Fatal("fewer bytes")
			}
		}
		at := rapid.IntRange(len(prefix), max(len(prefix), len(json)-1)).Draw(t, "at")
		if at == len(json) {
			return
		}
		other := bytes.Clone(json)
		other[at]++
		inside := false
		for i := 0; i < len(cuts); i += 2 {
			inside = inside || cuts[i] <= at && at < cuts[i+1]
		}
		if f.Fits(other, len(prefix), cuts) != inside {
			t.Fatalf("byte %d changed: fits is not %v", at, inside)
		}
	})
}

func TestFormOfNoCuts(t *testing.T) {
	for _, cuts := range [][]int{{1}, {3, 2}, {0, 2}, {2, 9}, {-1, 2}} {
		if store.NewTemplate([]byte("12345"), 1, cuts) != nil {
			t.Errorf("%v make a template", cuts)
		}
	}
}
