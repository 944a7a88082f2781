package main

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestDuring requires that a fault which prevents nothing, one that does not end, and
// one that stops all processes are found.
func TestDuring(t *testing.T) {
	one, two := &node{name: "one"}, &node{name: "two"}
	for name, c := range map[string]struct {
		broken, cut, stays, progress, ok bool
	}{
		"a cut":                         {cut: true, progress: true, ok: true},
		"no cut":                        {progress: true},
		"a cut that stays":              {cut: true, stays: true, progress: true},
		"no network before":             {broken: true, cut: true, progress: true},
		"a cut that stops every client": {cut: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := &harness{settings: &settings{workers: 2}, nodes: []*node{one, two}}
			cut := c.broken
			connects := func() error {
				if cut {
					return errors.New("no connection")
				}
				return nil
			}
			stop := make(chan struct{})
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
						one.acknowledged.Add(1)
						if c.progress {
							two.acknowledged.Add(1)
						}
					}
				}
			}()
			err := h.during(one, 10*time.Second, connects, func(on bool) error {
				cut = c.cut && (on || c.stays)
				return nil
			})
			close(stop)
			if (err == nil) != c.ok {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
