package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/conformance/blackbox"
)

// target receives loads. It is one process, or a cluster, of which each process gets
// every n-th request.
type target struct {
	bench     bench // with the client and the patient of the target
	addrs     []string
	processes []*blackbox.Server
	mongodb   int          // process id of the stand-in, or 0
	next      atomic.Int64 // number of the next Observation

	mu  sync.Mutex // guards ids
	ids []string   // URLs of created Observations
}

// newTarget adds a patient and a client at a process.
func (b *bench) newTarget(srv *blackbox.Server) (*target, error) {
	t := &target{bench: *b, processes: []*blackbox.Server{srv}}
	u, err := url.Parse(srv.Base)
	if err != nil {
		return nil, err
	}
	t.addrs = []string{u.Host}
	var p struct{ ID string }
	if err := srv.Run(&p, "patient", "add", "--given", "Bo", "--family", "Bench"); err != nil {
		return nil, err
	}
	t.bench.patient = p.ID
	if err := srv.Run(nil, "consent", "grant", "--patient", p.ID, "--vendor", "oura"); err != nil {
		return nil, err
	}
	t.bench.client, err = b.newClient(srv, b.client.HTTP)
	return t, err
}

// turn returns the process that gets the i-th of a number of requests.
func turn(i, processes int) int { return i % processes }

// lines opens a connection to each process.
func (t *target) lines() (lines []send, end func() error, err error) {
	var wires []*wire
	end = func() error {
		var errs []error
		for _, w := range wires {
			errs = append(errs, w.close())
		}
		return errors.Join(errs...)
	}
	for _, addr := range t.addrs {
		w, err := newWireAt(t.bench.client, addr)
		if err != nil {
			return nil, nil, errors.Join(err, end())
		}
		wires, lines = append(wires, w), append(lines, w.do)
	}
	return lines, end, nil
}

// run sends requests to the processes in turn for a time.
func (t *target) run(workers int, length time.Duration, request func(do send, i int) error) (tally, error) {
	return during(workers, length, func(int) (func(int) error, func() error, error) {
		lines, end, err := t.lines()
		return func(i int) error { return request(lines[turn(i, len(lines))], i) }, end, err
	})
}

// create creates the next Observation and returns its URL.
func (t *target) create(do send) (string, error) {
	loc, err := do(http.MethodPost, "Observation", t.bench.observation(int(t.next.Add(1))), http.StatusCreated)
	if err != nil {
		return "", err
	}
	u, err := t.bench.created(loc)
	if err == nil {
		t.mu.Lock()
		t.ids = append(t.ids, u)
		t.mu.Unlock()
	}
	return u, err
}

// creates creates Observations for a time.
func (t *target) creates(length time.Duration) (tally, error) {
	return t.run(t.bench.opt.workers, length, func(do send, _ int) error {
		_, err := t.create(do)
		return err
	})
}

// reads reads the Observations for a time.
func (t *target) reads(length time.Duration) (tally, error) {
	ids := t.ids
	return t.run(t.bench.opt.workers, length, func(do send, _ int) error {
		_, err := do(http.MethodGet, ids[rand.IntN(len(ids))], nil, http.StatusOK)
		return err
	})
}

// visibility creates Observations at one process after the other and reads each at the
// next process as soon as the create is acknowledged. It fails if a read does not find
// one. The times are those of the reads.
func (t *target) visibility(length time.Duration) (out tally, err error) {
	lines, end, err := t.lines()
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, end()) }()
	begin := time.Now()
	for i := 0; time.Since(begin) < length; i++ {
		id, err := t.create(lines[turn(i, len(lines))])
		if err != nil {
			return out, err
		}
		at := time.Now()
		if _, err := lines[turn(i+1, len(lines))](http.MethodGet, id, nil, http.StatusOK); err != nil {
			return out, fmt.Errorf("an Observation that was acknowledged at another process: %w", err)
		}
		out.lat = append(out.lat, time.Since(at))
	}
	out.done, out.took = len(out.lat), time.Since(begin)
	slices.Sort(out.lat)
	return out, nil
}

// cpu returns the processor time of the processes, and of the stand-in for MongoDB.
func (t *target) cpu() (processes, mongodb time.Duration, err error) {
	for _, p := range t.processes {
		d, err := p.CPU()
		if err != nil {
			return 0, 0, err
		}
		processes += d
	}
	if t.mongodb != 0 {
		mongodb, err = blackbox.CPU(t.mongodb)
	}
	return processes, mongodb, err
}

// costs runs a load and returns a note of the processor time of each request.
func (t *target) costs(load func() (tally, error)) (tally, string, error) {
	p0, m0, err := t.cpu()
	if err != nil {
		return tally{}, "", err
	}
	out, err := load()
	if err != nil {
		return out, "", err
	}
	p1, m1, err := t.cpu()
	n := int64(max(1, out.done))
	note := fmt.Sprintf("CPU per request: servers %d us", (p1-p0).Microseconds()/n)
	if t.mongodb != 0 {
		note += fmt.Sprintf(", MongoDB's stand-in %d us", (m1-m0).Microseconds()/n)
	}
	return out, note, err
}

// alone holds the rates of one process without a cluster.
type alone struct{ creates, reads tally }

// measureAlone measures one process without a cluster.
func (t *target) measureAlone(length time.Duration) (a alone, err error) {
	if a.creates, err = t.creates(length); err == nil {
		a.reads, err = t.reads(length)
	}
	return a, err
}

// merge adds the counts and times of another load. The latencies stay.
func (t tally) merge(o tally) tally {
	return tally{done: t.done + o.done, took: t.took + o.took, lat: t.lat}
}

// compareBefore compares one process without a cluster with that of an earlier binary,
// in turn.
func (b *bench) compareBefore() (err error) {
	earlier, err := blackbox.Start(b.opt.before, filepath.Join(b.dir, "before"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, earlier.Stop()) }()
	old, err := b.newTarget(earlier)
	if err != nil {
		return err
	}
	now, err := b.newTarget(b.srv)
	if err != nil {
		return err
	}
	var was, is alone
	for i := range 4 {
		for j := range 2 {
			t, sum := old, &was
			if (i+j)%2 == 1 { // old, now, now, old
				t, sum = now, &is
			}
			a, err := t.measureAlone(b.opt.length / 2)
			if err != nil {
				return err
			}
			sum.creates, sum.reads = sum.creates.merge(a.creates), sum.reads.merge(a.reads)
		}
	}
	for _, c := range []struct {
		name    string
		was, is tally
	}{{"creates", was.creates, is.creates}, {"reads", was.reads, is.reads}} {
		b.add("one process alone, of the earlier binary: "+c.name, c.is.rate()/c.was.rate(), "ratio",
			fmt.Sprintf("%.0f/s, earlier %.0f/s, in turn", c.is.rate(), c.was.rate()))
	}
	return nil
}
