package ingest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
)

// TestSince checks that samples that lie wholly before Request.Since are not written,
// that stored ones stay as they are, and that a complete window does not retract them.
func TestSince(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		since := func(at time.Time, complete *Window, items ...any) Summary {
			w.pipeline.Adapters = []adapters.Adapter{page{"oura", items}}
			sum, err := w.pipeline.Run(t.Context(), Request{Patient: "p1", Vendor: "oura", Format: "page",
				Body: strings.NewReader("page"), Complete: complete, Since: at, Caller: operator()})
			if err != nil {
				t.Fatal(err)
			}
			return sum
		}
		w.expect("before", "oura", Counts{Read: 5, Created: 5}, nil, slices.Concat([]any{pulse(oct(1, 9), 60)},
			activityDocument("a1", oct(1, 0), 100), sleepDocument("n1", oct(1, 0), 400, 0))...)
		stored := w.labels()
		w.wantLabels("before", stored...)

		at := oct(4, 2)
		sum := since(at, nil, slices.Concat([]any{pulse(oct(1, 9), 99), pulse(at.Add(-time.Second), 70)},
			activityDocument("a1", oct(1, 0), 999), activityDocument("a3", oct(3, 0), 300),
			sleepDocument("n1", oct(1, 0), 1, 50), sleepDocument("n2", oct(3, 18), 410, 0))...)
		if sum.Created != 0 || sum.Updated != 0 || sum.Dropped != sum.Read {
			t.Errorf("samples before Since: %+v", sum.Counts)
		}
		w.wantLabels("samples before Since", stored...)

		types := []string{"heartrate", "daily_activity", "sleep"}
		sum = since(at, &Window{Types: types, From: oct(-9, 0), To: oct(9, 0), Days: true})
		if sum.Retracted != 0 {
			t.Errorf("a window with the time before Since retracted %d", sum.Retracted)
		}
		w.wantLabels("complete", stored...)

		// The night touches the time after Since; its series is over. 4 October is not
		// over in any zone.
		sum = since(at, nil, slices.Concat([]any{pulse(at, 71)}, activityDocument("a4", oct(4, 0), 400),
			sleepDocument("n3", oct(3, 23), 420, 0))...)
		if sum.Created != 4 || sum.Dropped != 1 {
			t.Errorf("samples that touch the time after Since: %+v", sum.Counts)
		}
		sum = since(at, &Window{Types: types, From: oct(-9, 0), To: oct(9, 0), Days: true})
		if sum.Retracted == 0 {
			t.Error("a window with the time after Since retracted nothing")
		}
	})
}
