package role

import (
	"context"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// TestSuccessor kills a process and starts another one. If it has the same name and the
// same data directory, it takes the roles at once. Otherwise it is the control: the former
// process may be alive, and must not be robbed.
func TestSuccessor(t *testing.T) {
	for _, c := range []struct {
		name, node, dir string
		former          string // the directory of the process that is killed
		atOnce          bool
	}{
		{"the same", "one", "dir", "dir", true},
		{"another directory", "one", "copy", "dir", false},
		{"another name", "two", "dir", "dir", false},
		{"an unknown directory", "one", "", "", false},
		{"a directory that is not known any more", "one", "", "dir", false},
	} {
		cluster(t, 0, func(t *testing.T, db *pebblestore.DB, _ []*process, j *journal) {
			old := newProcessIn(t, db, "one", c.former)
			defer func() { old.resume(); old.mend(); old.kill(); old.wg.Wait() }()
			j.start(old, "x")
			pass(time.Minute)
			term := only(t, j.running()).term
			old.stop()
			old.cutOff()
			next := newProcessIn(t, db, c.node, c.dir)
			defer func() { next.kill(); next.wg.Wait() }()
			j.start(next, "x")
			pass(time.Millisecond)
			taken := len(j.list()) == 2
			if taken != c.atOnce {
				t.Fatalf("%s: taken at once: %v", c.name, taken)
			}
			b := &store.Batch{State: []store.StateWrite{{Key: "late", Value: []byte("1")}}}
			term.Bind(b) // a commit of the former process, on its way since before it was killed
			_, err := db.Commit(t.Context(), b)
			if got := fhir.KindOf(err) == fhir.Conflict; got != c.atOnce {
				t.Errorf("%s: a late commit of the former process: %v", c.name, err)
			}
			all, err := List(t.Context(), db)
			if want := map[bool]uint64{false: 1, true: 2}[c.atOnce]; err != nil || all[0].Epoch != want {
				t.Errorf("%s: %+v, %v", c.name, all, err)
			}
		})
	}
}

// TestSuccessorOfOne checks that a process does not take its own role from itself.
func TestSuccessorOfOne(t *testing.T) {
	cluster(t, 0, func(t *testing.T, db *pebblestore.DB, _ []*process, j *journal) {
		p := newProcessIn(t, db, "one", "dir")
		defer func() { p.kill(); p.wg.Wait() }()
		j.start(p, "x")
		pass(time.Second)
		j.start(p, "x")
		pass(time.Hour)
		if jobs := j.list(); len(jobs) != 1 {
			t.Errorf("%d jobs", len(jobs))
		}
	})
}

// TestClose checks that Close ends the work, and that the roles are free when it returns.
func TestClose(t *testing.T) {
	cluster(t, 1, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
		p := ps[0]
		j.start(p, "x")
		j.start(p, "y")
		pass(time.Minute)
		if n := len(j.running()); n != 2 {
			t.Fatalf("%d roles", n)
		}
		p.leases.Close()
		if n := len(j.running()); n != 0 {
			t.Errorf("%d works are running after Close", n)
		}
		all, err := List(t.Context(), db)
		if err != nil || len(all) != 2 || all[0].Instance != "" || all[1].Instance != "" {
			t.Errorf("%+v, %v", all, err)
		}
		p.wg.Wait() // Run returns although its context has not ended
		p.leases.Run(t.Context(), "z", func(context.Context, Term) { t.Error("a role after Close") })
		p.leases.Close()
	})
}
