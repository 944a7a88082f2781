package pebblestore

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

func TestCheckFindsDamage(t *testing.T) {
	ctx := context.Background()
	db, err := Open("", Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	js := fhir.Prefix("Device", "d1") + `},"identifier":[{"system":"urn:s","value":"v"}],"patient":{"reference":"Patient/p1"}}`
	_, err = db.Commit(ctx, &store.Batch{
		Writes: []store.Write{{Resource: fhir.Resource{Type: "Device", ID: "d1", JSON: []byte(js)}}},
		Leaves: []store.Leaf{store.Leaf("a"), store.Leaf("b")},
	})
	if err != nil {
		t.Fatal(err)
	}
	problems := func() (n int) {
		if err := db.Check(ctx, func(p string) { t.Log(p); n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := problems(); n != 0 {
		t.Fatalf("%d problems in a sound store", n)
	}
	damage := map[string][]byte{
		"X": keys.AppendUint64(keys.AppendString(keys.IndexPrefix("Device", "identifier", "v"), "d1"), 1),
		"I": keys.IDKey("Device", "d1", 1),
		"M": keys.LeavesKey(0),
	}
	for name, key := range damage {
		old, err := rows.Get(db.pdb, key)
		if err != nil || old == nil {
			t.Fatalf("%s: row is not there: %v", name, err)
		}
		bump := func(i byte) {
			if _, err := db.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: "x",
				Value: []byte{i}}}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.pdb.Delete(key, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		bump(1)
		if problems() == 0 {
			t.Errorf("%s: a missing row was not found", name)
		}
		if err := db.pdb.Set(key, old, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		bump(2)
	}
}
