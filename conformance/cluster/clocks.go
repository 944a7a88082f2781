package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/cluster/skew"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// offsets are the offsets of the clocks of the first processes with -skew. Each is less
// than a second off that of MongoDB, which is this machine's.
var offsets = []time.Duration{0, 800 * time.Millisecond, -800 * time.Millisecond}

const (
	// wrongBy is the offset of a clock with which a process must not be ready.
	wrongBy = 90 * time.Second
	// tolerance is the accepted difference between times of the cluster and this process's
	// clock: a second for the offset, and one for times without fractions.
	tolerance = 2 * time.Second
)

// buildClocks builds a binary for each offset.
func (h *harness) buildClocks() error {
	if !h.settings.skew {
		return nil
	}
	dir := cmp.Or(h.settings.skewDir, filepath.Join(h.dir, "skew"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := skew.New(dir)
	if err != nil {
		return err
	}
	for _, by := range append(offsets[:len(offsets):len(offsets)], wrongBy) {
		path := h.settings.bin
		if by != 0 {
			if path, err = b.Build("pulsegate/cmd/pulsegate", by); err != nil {
				return err
			}
		}
		h.bins = append(h.bins, path)
	}
	fmt.Printf("cluster: the clocks of the processes are off by %v, and by %s in one round\n", offsets, wrongBy)
	return nil
}

// binary returns the binary of a process.
func (h *harness) binary(i int) string {
	if h.settings.skew {
		return h.bins[i%len(offsets)]
	}
	return h.settings.bin
}

// clockFaults returns the faults of clocks.
func (h *harness) clockFaults() []fault {
	if !h.settings.skew || h.settings.control {
		return nil
	}
	return []fault{{name: "clock far ahead", hit: h.any(), run: h.wrongClock}}
}

// wrongClock starts a process with a clock that is far off, which must not serve, and
// then again with its own.
func (h *harness) wrongClock(n *node) error {
	own := n.bin
	err := n.kill()
	n.bin = h.bins[len(offsets)]
	if err = errors.Join(err, n.launch()); err == nil {
		err = errors.Join(h.refusesClock(n), n.kill())
	}
	n.bin = own
	return errors.Join(err, n.start())
}

// refusesClock requires that a process with a wrong clock is not ready and says why,
// that it acknowledges nothing, and that the others go on, without it as the sequencer.
func (h *harness) refusesClock(n *node) error {
	before := n.acknowledged.Load()
	if err := h.notReady(n); err != nil {
		return err
	}
	if err := h.outlast(n, h.settings.lease); err != nil {
		return err
	}
	if err := h.notReady(n); err != nil {
		return err
	}
	if got := n.acknowledged.Load() - before; got != 0 {
		return fmt.Errorf("a process whose clock is wrong acknowledged %d operations", got)
	}
	if !strings.Contains(n.server.Log(), "refuses requests") {
		return errors.New("the log does not say that the process refuses requests")
	}
	if h.hasRedis && h.sequencer() == n {
		return errors.New("the process whose clock is wrong is the sequencer")
	}
	return nil
}

// notReady requires that a process is not ready because of its clock.
func (h *harness) notReady(n *node) error {
	r, err := n.http.Get(base + "/readyz")
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	_ = r.Body.Close()
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "clock of this server") {
		return fmt.Errorf("/readyz of a process whose clock is wrong: status %d, %q", r.StatusCode, body)
	}
	return nil
}

// stamp notes the lastUpdated of a resource that was written after begin, if it is
// wrong.
func (h *harness) stamp(begin time.Time, r map[string]any) {
	meta, _ := r["meta"].(map[string]any)
	text, _ := meta["lastUpdated"].(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err == nil {
		err = within(at, begin, time.Now())
	}
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.wrong = fmt.Errorf("lastUpdated: %w", err)
	}
}

// within requires that a time of the cluster is between two times of this process.
func within(at, begin, end time.Time) error {
	if at.Before(begin.Add(-tolerance)) || at.After(end.Add(tolerance)) {
		return fmt.Errorf("%s is not between %s and %s", at, begin, end)
	}
	return nil
}

// inOrder requires that lastUpdated never goes back from one commit to the next.
func inOrder(ctx context.Context, s store.Store) error {
	type write struct {
		ref     fhir.Ref
		version uint64
	}
	var writes []write
	err := s.Changes(ctx, 0, func(c *store.Change) bool {
		writes = append(writes, write{c.Ref, c.Version})
		return true
	})
	if err != nil {
		return err
	}
	var times []time.Time
	for _, w := range writes {
		r, _, err := s.ReadVersion(ctx, w.ref, w.version)
		if err != nil {
			return err
		}
		times = append(times, r.LastUpdated)
	}
	if i := goesBack(times); i >= 0 {
		return fmt.Errorf("lastUpdated goes back from %s to %s at %v", times[i-1], times[i], writes[i].ref)
	}
	return nil
}

// goesBack returns the first index of a time that is before the last one, or -1.
func goesBack(times []time.Time) int {
	for i := range times {
		if i > 0 && times[i].Before(times[i-1]) {
			return i
		}
	}
	return -1
}

// expiry is the name of the check that verifyExpiry is.
const expiry = "expiry of a token"

// expiring is a token that is issued at the start of a run, and that nothing revokes.
type expiring struct {
	token      string
	life       time.Duration
	begin, end time.Time // before and after it was issued
}

// issueExpiring requests the token of verifyExpiry.
func (h *harness) issueExpiring(n *node) error {
	if !h.settings.skew {
		return nil
	}
	c := h.backend(n)
	assertion, err := c.Assertion(blackbox.NewJTI())
	if err != nil {
		return err
	}
	e := expiring{begin: time.Now()}
	status, out, err := c.TokenRequest(assertion, scope)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("token: status %d, %w", status, err)
	}
	e.end = time.Now()
	e.token, _ = out["access_token"].(string)
	seconds, _ := out["expires_in"].(float64)
	e.life = time.Duration(seconds) * time.Second
	h.expiring = e
	return nil
}

// verifyExpiry requires that a token expires at the right time at every process. It
// waits until then.
func (h *harness) verifyExpiry() error {
	if !h.settings.skew || !h.settings.includes(expiry) {
		return nil
	}
	e := h.expiring
	time.Sleep(time.Until(e.begin.Add(e.life - 2*tolerance)))
	expired := map[*node]bool{}
	for deadline := time.Now().Add(patience); len(expired) < len(h.nodes) && time.Now().Before(deadline); {
		for _, n := range h.nodes {
			c := h.backend(n)
			c.Static = e.token
			asked := time.Now()
			status, _, err := c.JSON("GET", "Patient/"+h.patients[0], nil)
			if err != nil {
				continue
			}
			if err := e.check(status, asked, time.Now()); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			if status == http.StatusUnauthorized {
				expired[n] = true
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(expired) < len(h.nodes) {
		return errors.New("a token does not expire at all processes")
	}
	fmt.Println("cluster: a token expired at the right time at all processes")
	return nil
}

// check checks the status of a request that used the token between two times.
func (e *expiring) check(status int, asked, answered time.Time) error {
	switch {
	case status == http.StatusOK && asked.After(e.end.Add(e.life+tolerance)):
		return errors.New("a token is taken after it has expired")
	case status == http.StatusUnauthorized && answered.Before(e.begin.Add(e.life-tolerance)):
		return errors.New("a token is refused before it expires")
	}
	return nil
}
