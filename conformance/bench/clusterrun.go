package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
)

// loadRun measures a cluster that grows.
type loadRun struct {
	fleet  *fleet
	target *target // all processes of the fleet
	floor  *mongo.Collection
	length time.Duration
	alone  alone // just before

	// Over all loads:
	created, read             tally
	createdLogged, readLogged logged
}

// clusterLoads measures a cluster that grows to each number of processes.
func (b *bench) clusterLoads(ctx context.Context, s *backing, p plan) (err error) {
	single, err := b.newTarget(b.srv)
	if err != nil {
		return err
	}
	f, err := b.newFleet(ctx, s, "loads")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(ctx, err != nil)) }()
	floor, name, err := connect(f.uri, s.password)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.Disconnect(ctx)) }()
	r := &loadRun{fleet: f, floor: floor.Database(name).Collection("bench_floor"), length: b.opt.length}
	for _, n := range p.nodes {
		s.delay(0)
		if r.alone, err = single.measureAlone(r.length); err != nil {
			return err
		}
		b.add("one process alone: creates", r.alone.creates.rate(), "1/s", r.alone.creates.times())
		b.add("one process alone: reads", r.alone.reads.rate(), "1/s", r.alone.reads.times())
		if err := r.grow(ctx, n); err != nil {
			return err
		}
		for _, d := range p.latency {
			s.delay(d)
			if err := r.measure(ctx, d); err != nil {
				return fmt.Errorf("%d processes, %v: %w", n, d, err)
			}
		}
	}
	s.delay(0)
	return r.sizes(ctx)
}

// grow adds processes until there are n.
func (r *loadRun) grow(ctx context.Context, n int) error {
	f := r.fleet
	for len(f.nodes) < n {
		if _, err := f.add(ctx); err != nil {
			return err
		}
		if r.target == nil {
			var err error
			if r.target, err = f.bench.newTarget(f.nodes[0]); err != nil {
				return err
			}
			if f.backing.mongodb != nil {
				r.target.mongodb = f.backing.mongodb.PID()
			}
		}
		r.target.addrs, r.target.processes = f.addrs, f.nodes
	}
	return nil
}

// measure measures the cluster at the delay that is set, each figure next to its floor.
func (r *loadRun) measure(ctx context.Context, delay time.Duration) error {
	b, t := r.fleet.bench, r.target
	what := fmt.Sprintf("%s, log %v: ", processes(len(t.addrs)), delay)
	if _, err := t.creates(r.length / 8); err != nil { // opens connections, and gives the lease of the sequencer
		return err
	}
	floor, err := insertFloor(ctx, r.floor, b.opt.workers, r.length/2)
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name  string
		alone tally
		load  func(time.Duration) (tally, error)
		sum   *tally
		log   *logged
	}{
		{"creates", r.alone.creates, t.creates, &r.created, &r.createdLogged},
		{"reads", r.alone.reads, t.reads, &r.read, &r.readLogged},
	} {
		at, err := r.fleet.log.head(ctx)
		if err != nil {
			return err
		}
		before, err := logMeters(t.processes)
		if err != nil {
			return err
		}
		done, cost, err := t.costs(func() (tally, error) { return l.load(r.length) })
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		work, err := logMeters(t.processes)
		if err != nil {
			return err
		}
		log, err := r.fleet.log.after(ctx, at)
		if err != nil {
			return err
		}
		b.add(what+l.name, done.rate(), "1/s", fmt.Sprintf("%s, %s of one process alone; %s; %s; %s", done.times(),
			share(done, l.alone), log.groups(done.took), work.note(before, done.done), cost))
		b.floor("floor: majority inserts, one per request", floor.rate(), done.rate(), "1/s",
			fmt.Sprintf("%s, %d bytes each, %d connections, the same network", floor.times(), insertBytes,
				b.opt.workers))
		*l.sum, *l.log = l.sum.merge(done), l.log.merge(log)
	}
	if len(t.addrs) == 1 {
		return nil
	}
	seen, err := t.visibility(r.length / 2)
	if err != nil {
		return err
	}
	b.add(what+"read at another process", ms(seen.lat, .5), "ms p50",
		fmt.Sprintf("p99 %.2f ms, right after a create was acknowledged; all %d found at the first request",
			ms(seen.lat, .99), seen.done))
	return nil
}

func processes(n int) string {
	if n == 1 {
		return "1 process of a cluster"
	}
	return fmt.Sprintf("%d processes", n)
}

// share returns the ratio of two rates.
func share(t, of tally) string { return fmt.Sprintf("%.2f", t.rate()/of.rate()) }

// groups returns a note of the commits and entries of a load.
func (l *logged) groups(took time.Duration) string {
	return fmt.Sprintf("%.0f commits/s in %.0f entries/s", float64(l.commits)/took.Seconds(),
		float64(l.entries)/took.Seconds())
}

// merge returns the sums of two parts of a log.
func (l logged) merge(o logged) logged {
	return logged{l.entries + o.entries, l.commits + o.commits, l.bytes + o.bytes}
}

// The size of a sample is measured by pushes of heart rates, one every five minutes, as
// Oura has them.
const (
	samplePushes  = 5
	samplesEach   = 20 * samplesPerDay
	samplesPerDay = 288
)

// sizes adds the bytes of log for each request and sample.
func (r *loadRun) sizes(ctx context.Context) error {
	b := r.fleet.bench
	b.add("log of a create", r.createdLogged.per(r.created.done), "B",
		fmt.Sprintf("BSON of the entries, mean of %d; also what the processes commit by themselves", r.created.done))
	b.add("log of a read", r.readLogged.per(r.read.done), "B", fmt.Sprintf("its audit event, mean of %d", r.read.done))
	at, err := r.fleet.log.head(ctx)
	if err != nil {
		return err
	}
	for i := range samplePushes {
		to := &r.target.bench
		path := fmt.Sprintf("%s/ingest/oura/v2?patient=%s&name=heartrate.json", to.client.Base, to.patient)
		rs, err := to.client.Do(http.MethodPost, path, heartRates(i), "Content-Type", "application/json")
		if err != nil {
			return err
		}
		if _, err := readAll(rs); err != nil {
			return fmt.Errorf("ingest of samples: %w", err)
		}
	}
	log, err := r.fleet.log.after(ctx, at)
	b.add("log of a sample", log.per(samplePushes*samplesEach), "B",
		fmt.Sprintf("heart rates, %d in each push of a vendor", samplesEach))
	return err
}

// heartRates returns the i-th payload of Oura heart rates.
func heartRates(i int) []byte {
	var b strings.Builder
	at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	for k := range samplesEach {
		if k > 0 {
			b.WriteByte(',')
		}
		t := at.Add(time.Duration(i*samplesEach+k) * 5 * time.Minute)
		fmt.Fprintf(&b, `{"timestamp":"%s","timestamp_unix":%d,"bpm":%d,"source":"awake"}`,
			t.Format("2006-01-02T15:04:05.000Z"), t.UnixMilli(), 60+rand.IntN(30))
	}
	return []byte(`{"data":[` + b.String() + `],"next_token":null}`)
}

// fillTime bounds the time in which the store of a size is filled.
const fillTime = 75 * time.Second

// clusterJoins measures how long a process takes to join a cluster with a number of
// Observations, from its start until it is ready.
func (b *bench) clusterJoins(ctx context.Context, s *backing, sizes []int) (err error) {
	if len(sizes) == 0 {
		return nil
	}
	f, err := b.newFleet(ctx, s, "joins")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(ctx, err != nil)) }()
	if _, err := f.add(ctx); err != nil {
		return err
	}
	t, err := b.newTarget(f.nodes[0])
	if err != nil {
		return err
	}
	var filled atomic.Int64
	for _, size := range sizes {
		if err := t.fill(&filled, int64(size)); err != nil {
			return err
		}
		probe, err := t.oneMore()
		if err != nil {
			return err
		}
		log, err := f.log.after(ctx, 0)
		if err != nil {
			return err
		}
		took, err := f.add(ctx)
		if err != nil {
			return err
		}
		b.add(fmt.Sprintf("joining a cluster of %d Observations", filled.Load()), took.Seconds(), "s",
			fmt.Sprintf("by the log: %d entries, %.1f MB; %.0f Observations/s", log.entries, float64(log.bytes)/1e6,
				float64(filled.Load())/took.Seconds()))
		if err := t.has(f.addrs[1], probe); err != nil {
			return fmt.Errorf("the process that joined: %w", err)
		}
		if err := f.remove(); err != nil {
			return err
		}
	}
	return nil
}

// oneMore creates one more Observation and returns its URL.
func (t *target) oneMore() (id string, err error) {
	lines, end, err := t.lines()
	if err != nil {
		return "", err
	}
	id, err = t.create(lines[0])
	return id, errors.Join(err, end())
}

// has checks that a process has an Observation.
func (t *target) has(addr, id string) error {
	w, err := newWireAt(t.bench.client, addr)
	if err != nil {
		return err
	}
	_, err = w.do(http.MethodGet, id, nil, http.StatusOK)
	return errors.Join(err, w.close())
}

// bundleSize is the number of Observations in a transaction.
const bundleSize = 100

// fill creates Observations in transactions until there are size.
func (t *target) fill(filled *atomic.Int64, size int64) error {
	done, err := t.run(t.bench.opt.workers, fillTime, func(do send, _ int) error {
		from := filled.Add(bundleSize) - bundleSize
		if from >= size {
			filled.Add(-bundleSize)
			return errDone
		}
		_, err := do(http.MethodPost, "", t.bench.bundle("transaction", int(from), bundleSize), http.StatusOK)
		return err
	})
	if err == nil && filled.Load() < size {
		fmt.Printf("%d of %d Observations after %v: the machine is too slow for this size\n", filled.Load(), size,
			done.took.Round(time.Second))
	}
	return err
}
