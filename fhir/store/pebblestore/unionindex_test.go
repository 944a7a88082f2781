package pebblestore

import (
	"context"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// TestLateRows checks that a store whose index lacks the rows of performers answers
// completely before, while and after they are built.
func TestLateRows(t *testing.T) {
	const n = 600
	d := measured(t, 2, n)
	defer d.Close()
	ctx := context.Background()
	want, _ := looked(t, d, "Observation", "performer=Patient/p0", 0)
	slices.Sort(want)
	pre := keys.IndexRows("Observation", "performer")
	if err := d.pdb.DeleteRange(pre, keys.PrefixEnd(pre), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	say := func(version int) { // the next snapshot shows what was removed
		x := rows.Index{Version: version, Done: true}
		if _, err := d.Commit(ctx, &store.Batch{State: []store.StateWrite{
			{Key: rows.BuiltinIndex, Value: x.Encode()}}}); err != nil {
			t.Fatal(err)
		}
	}
	say(rows.BuiltinVersion)
	// A control: an index that claims to be complete, and is not, loses matches.
	if got, _ := looked(t, d, "Observation", "performer=Patient/p0", 0); len(want) != n/100 || len(got) != 0 {
		t.Fatalf("%d matches with rows, %d without", len(want), len(got))
	}
	say(rows.BuiltinVersion - 1)
	same := func(when string) {
		t.Helper()
		got, _ := looked(t, d, "Observation", "performer=Patient/p0", 0)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %d matches, want %d", when, len(got), len(want))
		}
	}
	same("before")
	for more := true; more; {
		var err error
		if more, err = d.Reindex(ctx, 250); err != nil {
			t.Fatal(err)
		}
		same("while the rows are built")
	}
	if _, looks := looked(t, d, "Observation", "performer=Patient/p0", 0); looks >= 2*n {
		t.Errorf("after: looked at %d rows", looks)
	}
	if err := d.Check(ctx, func(problem string) { t.Error(problem) }); err != nil {
		t.Fatal(err)
	}
}
