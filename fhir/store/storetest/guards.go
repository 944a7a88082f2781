package storetest

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// guarded returns a batch that depends on guards as of a commit.
func guarded(seen store.Seq, guards ...string) *store.Batch {
	return &store.Batch{State: []store.StateWrite{{Key: "guarded", Value: []byte("x")}}, Guards: guards, Seen: seen}
}

func touch(t testing.TB, s store.Store, guards ...string) store.Seq {
	t.Helper()
	return mustCommit(t, s, &store.Batch{State: []store.StateWrite{{Key: "touch", Value: []byte("x")}},
		Touches: guards}).Seq
}

func mustCommit(t testing.TB, s store.Store, b *store.Batch) store.Result {
	t.Helper()
	r, err := s.Commit(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testGuards(t *testing.T, s store.Store) {
	seen := touch(t, s, "a")
	mustCommit(t, s, guarded(seen, "a", "b"))
	at := touch(t, s, "a")
	fails(t, s, guarded(seen, "b", "a"), fhir.Conflict)
	mustCommit(t, s, guarded(seen, "b"))
	mustCommit(t, s, guarded(at, "a"))
	// A batch does not conflict with the guards that it touches itself.
	b := guarded(at, "a")
	b.Touches = []string{"a"}
	mustCommit(t, s, b)
	fails(t, s, b, fhir.Conflict)
	// A refused batch touches nothing.
	b = guarded(at, "a")
	b.Touches = []string{"c"}
	fails(t, s, b, fhir.Conflict)
	mustCommit(t, s, guarded(at, "c"))

	// A guard may be any bytes.
	for _, odd := range []string{"", "\xff\xfe", strings.Repeat("criteria&", 1000)} {
		at = s.LastSeq()
		mustCommit(t, s, guarded(at, odd))
		touch(t, s, odd)
		fails(t, s, guarded(at, odd), fhir.Conflict)
	}

	// Of many writers that saw the same commit, one wins.
	at = s.LastSeq()
	won := make(chan bool, 16)
	for range cap(won) {
		go func() {
			b := guarded(at, "d")
			b.Touches = []string{"d"}
			_, err := s.Commit(context.Background(), b)
			won <- err == nil
		}()
	}
	n := 0
	for range cap(won) {
		if <-won {
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d of %d writers won", n, cap(won))
	}
}

// testGuardsForgotten checks that a guard is not forgotten in silence when many others
// are touched.
func testGuardsForgotten(t *testing.T, s store.Store) {
	seen := touch(t, s, "x")
	touch(t, s, "kept")
	for i := range 40 {
		touch(t, s, fmt.Sprint("other", i))
		fails(t, s, guarded(seen, "kept"), fhir.Conflict)
		mustCommit(t, s, guarded(s.LastSeq(), "kept"))
	}
}

// testTypeGuard checks that every way to write a type touches its guard, and nothing else
// does.
func testTypeGuard(t *testing.T, s store.Store) {
	seen := commit(t, s, put("Patient", "p1", "")).Seq
	for _, step := range []struct {
		name string
		do   func()
		want string // the types whose guards are touched
	}{
		{"create", func() { commit(t, s, put("Observation", "o", observation("p1", 0, "2026-01-01T10:00:00Z", ""))) },
			"Observation"},
		{"several", func() { commit(t, s, put("Device", "d", ""), put("List", "l", ""), put("Device", "e", "")) },
			"Device List"},
		{"update", func() { commit(t, s, put("Device", "d", `"manufacturer":"x"`)) }, "Device"},
		{"delete", func() { commit(t, s, remove("Device", "d")) }, "Device"},
		{"delete again", func() { commit(t, s, remove("Device", "d")) }, ""},
		{"samples", func() { sampled(t, s, every(pulse("d"), 1_772_000_000_000_000, 3, 60)) }, "Observation"},
		{"state", func() { touch(t, s, "a") }, ""},
		{"AuditEvent", func() { commit(t, s, put("AuditEvent", "a", "")) }, ""},
	} {
		step.do()
		for _, typ := range []string{"Patient", "Observation", "Device", "List", "AuditEvent"} {
			b := guarded(seen, store.TypeGuard(typ))
			if strings.Contains(" "+step.want+" ", " "+typ+" ") {
				fails(t, s, b, fhir.Conflict)
				continue
			}
			if _, err := s.Commit(t.Context(), b); err != nil {
				t.Errorf("%s touches the guard of %s", step.name, typ)
			}
		}
		seen = s.LastSeq()
	}
}

func testConsentGuard(t *testing.T, s store.Store) {
	consent := func(patient, rest string) store.Write {
		return put("Consent", "c", fmt.Sprintf(`"patient":{"reference":"Patient/%s"}%s`, patient, rest))
	}
	g1, g2 := store.ConsentGuard("p1"), store.ConsentGuard("p2")
	seen := commit(t, s, put("Patient", "p1", "")).Seq
	for _, step := range []struct {
		w        store.Write
		one, two bool
	}{
		{put("Observation", "o", observation("p1", 0, "2026-01-01T10:00:00Z", "")), false, false},
		{consent("p1", ""), true, false},
		{consent("p1", `,"status":"inactive"`), true, false},
		{consent("p2", ""), true, true},
		{remove("Consent", "c"), false, true},
	} {
		commit(t, s, step.w)
		for guard, touched := range map[string]bool{g1: step.one, g2: step.two} {
			if b := guarded(seen, guard); touched {
				fails(t, s, b, fhir.Conflict)
			} else {
				mustCommit(t, s, b)
			}
		}
		seen = s.LastSeq()
	}
}

// testGuardsReopen checks that a guard touched before the store was closed is not
// forgotten in silence.
func testGuardsReopen(t *testing.T, d Driver) {
	s := d.Open(t, nil)
	seen := touch(t, s, "x")
	touch(t, s, "a")
	s = d.Reopen(t, s)
	defer shut(t, s)
	fails(t, s, guarded(seen, "a"), fhir.Conflict)
	mustCommit(t, s, guarded(s.LastSeq(), "a"))
	seen = s.LastSeq()
	touch(t, s, "a")
	fails(t, s, guarded(seen, "a"), fhir.Conflict)
}

// once returns a batch with an ID that could be committed once only.
func once(id byte) *store.Batch {
	create := put("Patient", fmt.Sprint("p", id), `"active":true`)
	create.Expect = store.Absent
	same := put("Device", "same", "")
	same.SkipSame = true
	return &store.Batch{ID: [16]byte{15: id}, Writes: []store.Write{create, same, remove("Device", "gone")},
		State:  []store.StateWrite{{Key: fmt.Sprint("once/", id), Value: []byte("v"), Expect: store.StateAbsent}},
		Leaves: []store.Leaf{store.Leaf("leaf")}}
}

// repeated checks that a batch that was committed with result r finds its result.
func repeated(t testing.TB, s store.Store, b *store.Batch, r store.Result) {
	t.Helper()
	at, leaves := s.LastSeq(), s.Log().Size()
	again := mustCommit(t, s, b)
	want := r
	want.Outcomes = nil
	for _, o := range r.Outcomes {
		o.JSON = nil
		want.Outcomes = append(want.Outcomes, o)
	}
	if !reflect.DeepEqual(again, want) {
		t.Fatalf("the result is %+v, was %+v", again, want)
	}
	if s.LastSeq() != at || s.Log().Size() != leaves {
		t.Fatal("a repeated batch wrote something")
	}
}

func testBatchID(t *testing.T, s store.Store) {
	commit(t, s, put("Device", "same", ""), put("Device", "gone", ""))
	calls := 0
	defer s.Watch(func(store.Commit) { calls++ })()
	b := once(1)
	r := mustCommit(t, s, b)
	if o := r.Outcomes; !o[0].Created || o[0].JSON == nil || !o[1].Unchanged || !o[2].Deleted {
		t.Fatalf("outcomes %+v", o)
	}
	repeated(t, s, b, r)
	touch(t, s, "g")
	b.Guards = []string{"g"} // touched since, but the batch was committed before
	repeated(t, s, b, r)
	if calls != 2 {
		t.Fatalf("%d commits were reported", calls)
	}
	r2 := mustCommit(t, s, once(2))
	repeated(t, s, b, r)
	repeated(t, s, once(2), r2)

	// A refused batch is not remembered.
	refused := once(1)
	refused.ID[0] = 1
	fails(t, s, refused, fhir.Conflict)
	refused.Writes, refused.State[0].Expect = nil, store.StateAny
	mustCommit(t, s, refused)

	// Of many attempts at once, one is written.
	at := s.LastSeq()
	results := make(chan store.Result, 16)
	for range cap(results) {
		go func() {
			r, err := s.Commit(context.Background(), once(3))
			if err != nil {
				t.Error(err)
			}
			results <- r
		}()
	}
	for range cap(results) {
		if r := <-results; r.Seq != at+1 || len(r.Outcomes) != 3 {
			t.Errorf("result %+v", r)
		}
	}
	if s.LastSeq() != at+1 {
		t.Fatalf("%d commits of one batch", s.LastSeq()-at)
	}
}

func testBatchIDReopen(t *testing.T, d Driver) {
	s := d.Open(t, nil)
	b := once(1)
	r := mustCommit(t, s, b)
	s = d.Reopen(t, s)
	defer shut(t, s)
	repeated(t, s, b, r)
}
