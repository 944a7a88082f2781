package consent_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// ExampleBuild builds the Consent of a patient to show sleep data from one vendor
// to one clinic.
func ExampleBuild() {
	r, err := consent.Build(consent.Terms{
		ID:         rand.Text(),
		Patient:    "p1",
		Vendor:     "oura",
		Categories: []string{"sleep"},
		Recipient:  "clinic",
		Until:      time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC),
		Now:        time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := consent.Describe(r)
	fmt.Println(s.Patient, s.Status, s.Vendor, s.Categories, s.Recipient, s.Date, err)
	// Output:
	// p1 active oura [sleep] clinic 2026-03-01T08:00:00.000Z <nil>
}

// ExampleEngine stores a Consent and decides which data its recipient may see.
func ExampleEngine() {
	st, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer st.Close()
	clock := func() time.Time { return time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC) }
	engine, err := consent.New(consent.Options{Store: st, Clock: clock})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()

	r, err := consent.Build(consent.Terms{ID: "c1", Patient: "p1", Vendor: "oura", Categories: []string{"sleep"},
		Recipient: "clinic", Now: clock()})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = st.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: r}}})
	if err != nil {
		fmt.Println(err)
		return
	}

	night := &access.Facts{Type: "Observation", ID: "o1", Patient: "p1", Vendor: "oura", Categories: []string{"sleep"}}
	pulse := &access.Facts{Type: "Observation", ID: "o2", Patient: "p1", Vendor: "oura",
		Categories: []string{"vital-signs"}}
	fmt.Println("clinic, sleep:", engine.Permits("clinic", night))
	fmt.Println("clinic, vital signs:", engine.Permits("clinic", pulse))
	fmt.Println("other, sleep:", engine.Permits("other", night))

	withdrawn, err := consent.Withdraw(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = st.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: withdrawn}}})
	fmt.Println("clinic, sleep, after the withdrawal:", engine.Permits("clinic", night), err)
	// Output:
	// clinic, sleep: true
	// clinic, vital signs: false
	// other, sleep: false
	// clinic, sleep, after the withdrawal: false <nil>
}
