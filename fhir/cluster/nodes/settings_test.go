package nodes

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore"
)

// admission has processes over one store and no Redis.
type admission struct {
	t  *testing.T
	db *pebblestore.DB
}

func admitting(t *testing.T, fn func(a admission)) {
	synctest.Test(t, func(t *testing.T) {
		db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		fn(admission{t, db})
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// process returns a process named NAME or NAME@DIR with settings "name=hash ...".
func (a admission) process(name, settings string) *Registry {
	name, dir, _ := strings.Cut(name, "@")
	set := Settings{}
	for _, s := range strings.Fields(settings) {
		k, v, _ := strings.Cut(s, "=")
		set[k] = v
	}
	instance := fmt.Sprint(name, time.Now().UnixNano(), settings)
	return New(Options{State: a.db, Clock: time.Now,
		Self: func() Node { return Node{Name: name, Instance: instance, Dir: dir, Settings: set} }})
}

// start admits a process, and lets it live until stop is called.
func (a admission) start(name, settings string) (stop func(), err error) {
	r := a.process(name, settings)
	if err := r.Admit(a.t.Context()); err != nil {
		return nil, err
	}
	return a.live(r), nil
}

func (a admission) live(r *Registry) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(5 * time.Second)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if err := r.Beat(a.t.Context()); err != nil {
					a.t.Error(err)
				}
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended } // as by a kill
}

func (a admission) must(name, settings string) (stop func()) {
	a.t.Helper()
	stop, err := a.start(name, settings)
	if err != nil {
		a.t.Fatalf("%s with %s: %v", name, settings, err)
	}
	return stop
}

func (a admission) refused(name, settings string, want ...string) {
	a.t.Helper()
	stop, err := a.start(name, settings)
	if err == nil {
		stop()
		a.t.Fatalf("%s started with %s", name, settings)
	}
	for _, text := range want {
		if fhir.KindOf(err) != fhir.Conflict || !strings.Contains(err.Error(), text) {
			a.t.Fatalf("%s with %s: %v, want %q", name, settings, err, text)
		}
	}
}

// TestAdmit checks that a process with other settings than a live one is refused, and by
// which change it is not.
func TestAdmit(t *testing.T) {
	admitting(t, func(a admission) {
		one := a.must("one", "packs=1 url=x")
		two := a.must("two", "packs=1 url=x")
		a.refused("three", "packs=2 url=x", "packs: ", "server one", "2 here, 1 there")
		three := a.must("three", "packs=1 url=x new=5") // of a program with another setting
		three()
		if list, err := a.process("look", "").others(a.t.Context()); err != nil || len(list) != 3 {
			t.Errorf("%+v, %v", list, err) // without the refused one
		}
		one()
		two()
		began := time.Now()
		four := a.must("four", "packs=2 url=x")
		if d := time.Since(began); d < 15*time.Second || d > time.Minute {
			t.Errorf("listened for others for %v", d)
		}
		a.refused("one", "packs=1 url=x", "packs: ", "server four")
		four()
	})
}

// TestAdmitUnheard has a process that Redis has just forgotten: the process that starts
// does not see it at first.
func TestAdmitUnheard(t *testing.T) {
	admitting(t, func(a admission) {
		r := a.process("one", "packs=1")
		if err := r.Admit(a.t.Context()); err != nil {
			t.Fatal(err)
		}
		r.leave(a.t.Context())
		stop := a.live(r)
		defer stop()
		a.refused("two", "packs=2", "server one")
	})
}

// TestAdmitFormerSelf checks that a process that was killed does not keep its successor
// from starting with new settings, and that one with another directory does.
func TestAdmitFormerSelf(t *testing.T) {
	admitting(t, func(a admission) {
		one := a.must("one@dir", "packs=1") // seems to live until the end
		a.refused("one@copy", "packs=2", "server one")
		a.refused("two@dir", "packs=2", "server one")
		a.must("one@dir", "packs=2")()
		one()
	})
}

// TestRoll checks that an operator can change a setting from process to process.
func TestRoll(t *testing.T) {
	admitting(t, func(a admission) {
		one, two := a.must("one", "packs=1 url=x"), a.must("two", "packs=1 url=x")
		r := a.process("operator", "")
		if err := r.Roll(a.t.Context(), Roll{[]string{"packs"}, time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		a.refused("three", "packs=2 url=y", "url: ")
		three := a.must("three", "packs=2 url=x")
		a.refused("four", "packs=3 url=x", "two contents of packs")
		four := a.must("four", "packs=1 url=x") // a restart of an old one
		list, err := a.process("look", "").others(a.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d := Differences(list)
		if len(d) != 1 || d[0].Setting != "packs" || fmt.Sprint(d[0].Nodes) != "map[1:[four one two] 2:[three]]" {
			t.Errorf("%+v", d)
		}
		one()
		two()
		four()
		time.Sleep(time.Minute)
		a.must("one", "packs=3 url=x")() // the roll goes on until its end
		time.Sleep(time.Hour)
		a.refused("four", "packs=4 url=x", "server three")
		if err := r.Roll(a.t.Context(), Roll{}); err != nil {
			t.Fatal(err)
		}
		three()
	})
}

// TestAdmitTogether starts processes with different settings at the same time: those with
// one of them start.
func TestAdmitTogether(t *testing.T) {
	for _, before := range []string{"", "packs=0"} {
		admitting(t, func(a admission) {
			if before != "" {
				a.must("former", before)()
				time.Sleep(time.Hour)
			}
			var mu sync.Mutex
			started := map[string][]func(){}
			var all sync.WaitGroup
			for i := range 8 {
				settings := fmt.Sprint("packs=", 1+i%2)
				all.Go(func() {
					stop, err := a.start(fmt.Sprint("node", i), settings)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						started[settings] = append(started[settings], stop)
					}
				})
			}
			all.Wait()
			if len(started) != 1 {
				t.Errorf("after %q: processes started with %d settings", before, len(started))
			}
			for _, stops := range started {
				for _, stop := range stops {
					stop()
				}
			}
		})
	}
}
