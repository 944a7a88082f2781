// Package pebbletest opens stores for tests of other packages.
package pebbletest

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/store/pebblestore"
)

// Open returns an empty store in memory, which is closed at the end of the test.
func Open(t testing.TB) *pebblestore.DB {
	t.Helper()
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}
