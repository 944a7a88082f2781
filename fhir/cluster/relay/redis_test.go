package relay

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/cluster/hints/redistest"
)

// TestWithRedis runs three processes with hints from a Redis server that is emptied,
// suspended, killed and started again under load, and kills the sequencer. Every
// acknowledgment is one version.
func TestWithRedis(t *testing.T) {
	server := redistest.Start(t)
	c := newCluster(t, 3, nil, nil)
	var all []*hints.Redis
	for i, p := range c.processes {
		r, err := hints.Open(hints.Options{URL: server.URL(), Secret: make([]byte, 32), Self: p.holder, Clock: time.Now,
			Logger: slog.New(slog.DiscardHandler), Timing: hints.Timing{Lease: 300 * time.Millisecond,
				Call: 100 * time.Millisecond, Retry: 10 * time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		all = append(all, r)
		// The processes of newCluster have hints of their own; these replace them.
		c.processes[i].lease.other.Store(r)
	}
	w := &workers{t: t}
	w.start(c, 4)
	relayed := func(processes ...*process) {
		t.Helper()
		eventually(t, "connections to the sequencer", func() bool {
			n := 0
			for _, p := range processes {
				if p.sequencer() != nil {
					n++
				}
			}
			return n == len(processes)-1
		})
	}
	relayed(c.processes...)
	w.atLeast(20, 0)
	server.Do("FLUSHALL")
	w.atLeast(20, 0)
	relayed(c.processes...)
	server.Pause()
	w.atLeast(20, 0)
	server.Resume()
	relayed(c.processes...)
	w.atLeast(20, 0)
	server.Stop()
	w.atLeast(20, 0)
	server.Restart()
	relayed(c.processes...)
	w.atLeast(20, 0)
	// Process 0 becomes the sequencer, and is killed.
	for _, r := range all[1:] {
		r.Resign(time.Hour)
	}
	eventually(t, "sequencer 0", func() bool { h, ok := all[1].Sequencer(); return ok && h == c.processes[0].holder })
	relayed(c.processes...)
	w.atLeast(20, 0)
	_ = c.processes[0].server.Close()
	_ = c.processes[0].Close()
	w.atLeast(20, 1) // no other process may be the sequencer
	w.stop.Store(true)
	w.wg.Wait()
	w.check(c.processes[1:]...)
	if err := c.processes[1].Check(context.Background(), func(problem string) { t.Error(problem) }); err != nil {
		t.Error(err)
	}
}
