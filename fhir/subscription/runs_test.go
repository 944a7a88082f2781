package subscription

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// commit writes one Observation for each patient in one commit and returns their
// URLs by patient.
func (w *world) commit(patients ...string) (urls map[string][]string) {
	w.t.Helper()
	var b store.Batch
	urls = map[string][]string{}
	for _, p := range patients {
		w.n++
		id := fmt.Sprintf("o%06d", w.n)
		b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: "Observation", ID: id,
			JSON: []byte(fhir.Prefix("Observation", id) +
				`},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/` + p + `"},"effectiveDateTime":"2026-03-01T10:00:00Z"}`)}})
		urls[p] = append(urls[p], base+"/Observation/"+id)
	}
	if _, err := w.st.Commit(context.Background(), &b); err != nil {
		w.t.Fatal(err)
	}
	return urls
}

// TestRuns checks that large commits take few rows, and that each of their changes
// is still one event: in order, across restarts, and in $events.
func TestRuns(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "Observation?patient=Patient/p1", ""))
	w.until("active", func() bool { return w.status("s1") == "active" })
	r.mu.Lock()
	r.fail = func(n int) bool { return n%5 == 0 }
	r.mu.Unlock()
	var want []string
	for i := range 6 {
		list := slices.Concat(slices.Repeat([]string{"p1"}, 150+i), []string{"p2"},
			slices.Repeat([]string{"p1"}, leastRun-1), []string{"p2", "p1", "p2"},
			slices.Repeat([]string{"p1"}, leastRun))
		want = append(want, w.commit(list...)["p1"]...)
		if i%2 == 1 {
			w.restart()
		}
	}
	w.until("numbered", func() bool { return w.engine.count("s1") == uint64(len(want)) })
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	w.until("all", func() bool { n, _ := r.events(); return len(n) > 0 && n[len(n)-1] == uint64(len(want)) })
	_, all := r.events()
	for _, n := range all {
		for i, num := range n.numbers {
			if n.focus[i] != want[num-1] {
				t.Fatalf("event %d has focus %s, want %s", num, n.focus[i], want[num-1])
			}
		}
	}
	for _, since := range []uint64{uint64(len(want)) - 900, uint64(len(want)) - 400, uint64(len(want)) - 3} {
		b, err := w.engine.Events(context.Background(), Request{Caller: audit.Caller{Principal: w.principal("ehr")}},
			"s1", since, since+120, "")
		if err != nil {
			t.Fatal(err)
		}
		n := readNotification(t, b)
		if last := min(since+120, uint64(len(want))); n.numbers[0] != since ||
			n.numbers[len(n.numbers)-1] != last || !slices.Equal(n.focus, want[since-1:last]) {
			t.Errorf("$events from %d: %v", since, n.numbers)
		}
	}
	// Old events are deleted by whole rows.
	w.engine.Close()
	rows := 0
	if err := w.st.List(context.Background(), eventPrefix("s1"),
		func(string, []byte) bool { rows++; return true }); err != nil {
		t.Fatal(err)
	}
	if rows > 6*(2+leastRun) {
		t.Errorf("%d rows for %d events", rows, len(want))
	}
	w.start()
	b, err := w.engine.Events(context.Background(), Request{Caller: audit.Caller{Principal: w.principal("ehr")}}, "s1",
		1, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	n := readNotification(t, b)
	if first := n.numbers[0]; first <= 1 || first > uint64(len(want))-keepEvents+1 ||
		!strings.HasSuffix(n.focus[0], want[first-1]) {
		t.Errorf("$events begins with %d, %s", first, n.focus[0])
	}
}
