package interaction

import (
	"crypto/rand"
	"testing"

	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

// TestPageLinksOfTwoProcesses interrupts the first page link of a process, which has found
// no key, by that of another one. Each must open the links of the other.
func TestPageLinksOfTwoProcesses(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			db := pebbletest.Open(t)
			bound, want := []byte("search"), pagePoint{7, "position"}
			link := func(st store.Store) (string, *pageSealer) {
				p, err := (&Service{Store: st, Rand: rand.Reader}).sealer(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return p.seal(bound, want), p
			}
			var first string
			var one *pageSealer
			second, two := link(&sealedtest.Interrupted{Store: db, Key: pageKey, Careless: control,
				By: func() { first, one = link(db) }})
			got, err := two.open("test", bound, first)
			if ok := err == nil && got == want; ok == control {
				t.Errorf("opens a link of the first process: %t", ok)
			}
			got, err = one.open("test", bound, second)
			if ok := err == nil && got == want; ok == control {
				t.Errorf("opens a link of the second process: %t", ok)
			}
		})
	}
}
