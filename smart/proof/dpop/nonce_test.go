package dpop

import (
	"crypto/rand"
	"testing"
	"time"

	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

// TestNoncesOfTwoProcesses interrupts the first start of a process by that of another
// one. Each must accept the nonces of the other.
func TestNoncesOfTwoProcesses(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			db := pebbletest.Open(t)
			clock := clocktest.At(time.Unix(1_800_000_000, 0))
			var one *Nonces
			two, err := OpenNonces(t.Context(), &sealedtest.Interrupted{Store: db, Key: nonceKey, Careless: control,
				By: func() {
					var err error
					if one, err = OpenNonces(t.Context(), db, rand.Reader, clock.Now); err != nil {
						t.Error(err)
					}
				}}, rand.Reader, clock.Now)
			if err != nil {
				t.Fatal(err)
			}
			if ok := one.good(two.generate()) && two.good(one.generate()); ok == control {
				t.Errorf("accepted: %t", ok)
			}
		})
	}
}
