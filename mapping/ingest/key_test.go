package ingest

import (
	"bytes"
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/table"
)

// keyed sets the Mapper to one with the key of the store, and returns the key.
func (w *world) keyed() []byte {
	w.t.Helper()
	key, err := Key(w.t.Context(), w.pipeline.Store, rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := mapping.New(table.Builtin(), mapping.Options{Key: key})
	if err != nil {
		w.t.Fatal(err)
	}
	w.pipeline.Mapper = m
	return key
}

// feedKinds stores a sample, a document, a night and their Devices.
func (w *world) feedKinds() {
	w.must("apple", "export.xml", exportXML(recordXML(heartRateType, "count/min", "62", "2026-10-01 08:00:00 +0200",
		"11.0"),
		recordXML("HKQuantityTypeIdentifierBodyMass", "kg", "70.5", "2026-10-01 08:00:00 +0200", "11.0"),
		lateEvening[0].xml()))
	w.must("oura", "sleep.json", night(27000))
}

// TestIDsDifferBetweenInstallations checks that two installations give the same
// data different ids, and that one installation gives it the same ids again,
// even after a restart.
func TestIDsDifferBetweenInstallations(t *testing.T) {
	ids := map[string]int{}
	for range 2 {
		w := newWorld(t)
		key := w.keyed()
		if len(key) != mapping.KeySize {
			t.Fatalf("the key has %d bytes", len(key))
		}
		w.feedKinds()
		before := append(slices.Collect(maps.Keys(w.all("Observation"))), slices.Collect(maps.Keys(w.all("Device")))...)
		if again := w.keyed(); !bytes.Equal(again, key) {
			t.Error("the key changed")
		}
		w.feedKinds()
		after := append(slices.Collect(maps.Keys(w.all("Observation"))), slices.Collect(maps.Keys(w.all("Device")))...)
		slices.Sort(before)
		slices.Sort(after)
		if !slices.Equal(before, after) || len(after) != 7 {
			t.Errorf("%v became %v", before, after)
		}
		for _, id := range after {
			ids[id]++
		}
		streams := map[string]bool{}
		for _, o := range w.all("Observation") {
			_, rest, ok := strings.Cut(string(o.JSON), `{"system":"`+mapping.StreamSystem+`","value":"`)
			if ok {
				stream, _, _ := strings.Cut(rest, `"`)
				streams[stream] = true
			}
		}
		for s := range streams {
			ids[s]++
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("both installations have the id %s", id)
		}
	}
}

// TestKeyOfTwoProcesses interrupts a process, which has found no key, by another one that
// makes one. Both must use the same key, because ids are derived from it.
func TestKeyOfTwoProcesses(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			db := newWorld(t).pipeline.Store
			var one []byte
			two, err := Key(t.Context(), &sealedtest.Interrupted{Store: db, Key: keyIDSecret, Careless: control,
				By: func() {
					var err error
					if one, err = Key(t.Context(), db, rand.Reader); err != nil {
						t.Error(err)
					}
				}}, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if len(one) != mapping.KeySize || bytes.Equal(one, two) == control {
				t.Error("two processes have different keys, or the control has one")
			}
		})
	}
}

// TestDamagedKey checks that an invalid key is an error and is not replaced.
func TestDamagedKey(t *testing.T) {
	w := newWorld(t)
	if _, err := w.pipeline.Store.Commit(t.Context(),
		&store.Batch{State: []store.StateWrite{{Key: keyIDSecret, Value: []byte("short")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Key(t.Context(), w.pipeline.Store, rand.Reader); err == nil {
		t.Error("no error")
	}
	if _, err := mapping.New(table.Builtin(), mapping.Options{Key: []byte("short")}); err == nil {
		t.Error("a short key is accepted")
	}
}
