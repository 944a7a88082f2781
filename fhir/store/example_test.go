package store_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// ExampleStore_Commit writes a resource and small state together. The second batch
// expects another version, and fails without writing anything.
func ExampleStore_Commit() {
	ctx := context.Background()
	db, err := pebblestore.Open("store", pebblestore.Options{
		FS:    vfs.NewMem(), // leave FS nil to store on disk
		Clock: func() time.Time { return time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ada := fhir.Resource{Type: "Patient", ID: "ada",
		JSON: []byte(fhir.Prefix("Patient", "ada") + `},"gender":"female"}`)}
	result, err := db.Commit(ctx, &store.Batch{
		Writes: []store.Write{{Resource: ada, Expect: store.Absent}},
		State:  []store.StateWrite{{Key: "import/ada", Value: []byte("done")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("commit", result.Seq, "created version", result.Outcomes[0].Version)

	_, err = db.Commit(ctx, &store.Batch{
		Writes: []store.Write{{Resource: ada, Expect: store.Version, IfVersion: 7}},
		State:  []store.StateWrite{{Key: "import/ada", Value: []byte("done twice")}},
	})
	fmt.Println("precondition failed:", fhir.KindOf(err) == fhir.PreconditionFailed)

	r, _, err := db.Read(ctx, ada.Ref(), 0)
	if err != nil {
		log.Fatal(err)
	}
	state, err := db.Get(ctx, "import/ada")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n%s\n", r.JSON, state)
	// Output:
	// commit 1 created version 1
	// precondition failed: true
	// {"resourceType":"Patient","id":"ada","meta":{"versionId":"1","lastUpdated":"2026-03-01T08:00:00.000Z"},"gender":"female"}
	// done
}
