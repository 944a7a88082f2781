package pebblestore

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// TestEachRow compares eachRow with Pebble, and requires that Pebble can apply every
// representation that eachRow accepts, whatever its bytes.
func TestEachRow(t *testing.T) {
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: &pebbleLog{db: &DB{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		b := db.NewBatch()
		defer func() {
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		text := rapid.SliceOfN(rapid.Byte(), 1, 200)
		n := rapid.IntRange(0, 5).Draw(t, "rows")
		for range n {
			k := text.Draw(t, "key")
			var err error
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				err = b.Set(k, text.Draw(t, "value"), nil)
			case 1:
				err = b.Merge(k, text.Draw(t, "value"), nil)
			default:
				err = b.Delete(k, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		repr := append([]byte(nil), b.Repr()...)
		reader := b.Reader()
		err := eachRow(repr, func(kind pebble.InternalKeyKind, key, value []byte) error {
			k, key2, value2, ok, err := reader.Next()
			if !ok || err != nil || k != kind || string(key) != string(key2) || string(value) != string(value2) {
				t.Fatal("eachRow and Pebble read different rows")
			}
			n--
			return nil
		})
		if err != nil || n != 0 {
			t.Fatalf("%d rows left, error %v", n, err)
		}
		// Damage it.
		for range rapid.IntRange(1, 3).Draw(t, "damages") {
			if len(repr) == 0 {
				break
			}
			i := rapid.IntRange(0, len(repr)-1).Draw(t, "at")
			if rapid.Bool().Draw(t, "cut") {
				repr = repr[:i]
			} else {
				repr[i] = rapid.Byte().Draw(t, "byte")
			}
		}
		if eachRow(repr, func(pebble.InternalKeyKind, []byte, []byte) error { return nil }) != nil {
			return
		}
		damaged := db.NewBatch()
		if err := damaged.SetRepr(repr); err != nil {
			t.Fatal(err)
		}
		if err := db.Apply(damaged, pebble.NoSync); err != nil && err != pebble.ErrInvalidBatch {
			t.Fatal(err)
		}
		if err := damaged.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
