package pebblestore_test

import (
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/storetest"
)

func TestContract(t *testing.T) {
	var at sync.Map
	open := func(t testing.TB, fs *vfs.MemFS) store.Store {
		s, err := pebblestore.Open("", pebblestore.Options{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		at.Store(s, fs)
		return s
	}
	storetest.Run(t, storetest.Driver{
		Open: func(t testing.TB) store.Store { return open(t, vfs.NewMem()) },
		Reopen: func(t testing.TB, s store.Store) store.Store {
			fs, _ := at.LoadAndDelete(s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, fs.(*vfs.MemFS))
		},
	})
}
