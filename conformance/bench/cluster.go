package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

// plan holds the cases of the step cluster.
type plan struct {
	nodes   []int           // numbers of processes, ascending
	latency []time.Duration // round trips to the log
	joins   []int           // Observations in the store when a process joins, ascending
}

// newPlan reads the flags of the step.
func newPlan(o options) (p plan, err error) {
	if p.nodes, err = list(o.nodes, "1,2,4", number1); err != nil {
		return p, fmt.Errorf("-nodes: %w", err)
	}
	if p.joins, err = list(o.joins, "20000,200000", number1); err != nil {
		return p, fmt.Errorf("-joins: %w", err)
	}
	latency := "0,5ms,10ms"
	if o.mongodb != "" {
		latency = "0"
	}
	if p.latency, err = list(o.latency, latency, roundTrip); err != nil {
		return p, fmt.Errorf("-latency: %w", err)
	}
	if o.mongodb != "" && !slices.Equal(p.latency, []time.Duration{0}) {
		return p, errors.New("-latency: with -mongodb it must be 0: " +
			"the driver connects to the members that the set names, not through a network that delays")
	}
	return p, nil
}

// list reads values separated by commas and returns them in order, each once. "none" is
// no value.
func list[T int | time.Duration](s, byDefault string, parse func(string) (T, error)) ([]T, error) {
	if s == "" {
		s = byDefault
	}
	if s == "none" {
		return nil, nil
	}
	var out []T
	for _, v := range strings.Split(s, ",") {
		one, err := parse(strings.TrimSpace(v))
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// number1 reads a number of at least 1.
func number1(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is not a number of at least 1", s)
	}
	return n, nil
}

// roundTrip reads a duration. 0 needs no unit.
func roundTrip(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > time.Second {
		return 0, fmt.Errorf("%q is not a duration from 0 to 1s", s)
	}
	return d, nil
}

// backing holds the servers behind all processes of the step.
type backing struct {
	mongodb  *clusterrun.StandIn // nil with -mongodb
	redis    *clusterrun.Redis
	network  *network // before the stand-in; nil with -mongodb
	uri      string   // connection string of the user, or of the stand-in
	near     string   // as the program itself reaches it, without a delay
	password string
	suffix   []byte // of the databases of this run
}

// startBacking starts the stand-in for MongoDB, unless -mongodb is given, and Redis.
func (b *bench) startBacking() (s *backing, err error) {
	s = &backing{uri: b.opt.mongodb, near: b.opt.mongodb, suffix: make([]byte, 4)}
	rand.Read(s.suffix)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if b.opt.mongodb == "" {
		if s.mongodb, err = clusterrun.StartStandIn(clusterrun.Loopback, filepath.Join(b.dir, "mongodb")); err != nil {
			return s, err
		}
		if s.network, err = newNetwork(s.mongodb.Addr()); err != nil {
			return s, err
		}
		s.uri, s.near = "mongodb://"+s.network.addr()+"/bench", "mongodb://"+s.mongodb.Addr()+"/bench"
	}
	if b.opt.mongodbPassword != "" {
		raw, err := os.ReadFile(b.opt.mongodbPassword)
		if err != nil {
			return s, err
		}
		s.password = strings.TrimSpace(string(raw))
	}
	s.redis, err = clusterrun.StartRedis(clusterrun.Loopback)
	return s, err
}

// delay sets the time of a round trip to the log.
func (s *backing) delay(d time.Duration) {
	if s.network != nil {
		s.network.set(d)
	}
}

func (s *backing) close() error {
	var errs []error
	if s.redis != nil {
		errs = append(errs, s.redis.Kill())
	}
	if s.network != nil {
		errs = append(errs, s.network.close())
	}
	if s.mongodb != nil {
		errs = append(errs, s.mongodb.Stop())
	}
	return errors.Join(errs...)
}

// fleet is a cluster of processes over one log.
type fleet struct {
	bench   *bench
	backing *backing
	dir     string
	uri     string // with the database of the cluster, as the processes reach it
	env     []string
	log     *logDB
	nodes   []*blackbox.Server
	addrs   []string // at which the processes listen
}

// newFleet prepares a cluster without processes.
func (b *bench) newFleet(ctx context.Context, s *backing, name string) (*fleet, error) {
	f := &fleet{bench: b, backing: s, dir: filepath.Join(b.dir, name)}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	file := filepath.Join(f.dir, "key")
	err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
	if err != nil {
		return nil, err
	}
	if f.uri, err = newDatabase(s.uri, s.suffix, name); err != nil {
		return nil, err
	}
	near, err := newDatabase(s.near, s.suffix, name)
	if err != nil {
		return nil, err
	}
	if err := prepareLog(ctx, near, s.password, s.mongodb != nil); err != nil {
		return nil, err
	}
	if f.log, err = openLog(ctx, near, s.password); err != nil {
		return nil, err
	}
	f.env = []string{"PULSEGATE_EGRESS_ALLOW=127.0.0.0/8", "PULSEGATE_METRICS_LISTEN=127.0.0.1:0",
		"PULSEGATE_MONGODB=" + f.uri, "PULSEGATE_MONGODB_STANDALONE=" + strconv.FormatBool(s.mongodb != nil),
		"PULSEGATE_MONGODB_PASSWORD_FILE=" + b.opt.mongodbPassword,
		"PULSEGATE_REDIS=redis://" + s.redis.Addr(), "PULSEGATE_CLUSTER_KEY_FILE=" + file}
	return f, nil
}

// add starts one more process and waits until it is ready. It returns the time that
// this took from the start of the process.
func (f *fleet) add(ctx context.Context) (time.Duration, error) {
	var listen, peer string
	for _, addr := range []*string{&listen, &peer} {
		port, err := blackbox.FreePort()
		if err != nil {
			return 0, err
		}
		*addr = "127.0.0.1:" + strconv.Itoa(port)
	}
	f.addrs = append(f.addrs, listen)
	name := fmt.Sprintf("node-%d", len(f.addrs))
	begin := time.Now()
	// All processes have the URL of the first, as behind a load balancer.
	srv, err := blackbox.StartWith(f.bench.opt.bin, filepath.Join(f.dir, name), listen, append([]string{
		"PULSEGATE_BASE_URL=http://" + f.addrs[0], "PULSEGATE_NODE=" + name, "PULSEGATE_PEER_LISTEN=" + peer,
		"PULSEGATE_PEER_ADDRESS=" + peer}, f.env...))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	f.nodes = append(f.nodes, srv)
	if err := ready(ctx, listen); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return time.Since(begin), nil
}

// ready waits until a process says that it is ready.
func ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last := errors.New("no answer")
	for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		rq, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
		if err != nil {
			return err
		}
		r, err := http.DefaultClient.Do(rq)
		if err != nil {
			last = err
			continue
		}
		if err := r.Body.Close(); err != nil {
			return err
		}
		if r.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("status %d", r.StatusCode)
	}
	return fmt.Errorf("not ready after a minute: %w", last)
}

// remove kills the last process and removes its store.
func (f *fleet) remove() error {
	last := len(f.nodes) - 1
	err := f.nodes[last].Kill()
	err = errors.Join(err, os.RemoveAll(f.nodes[last].Data))
	f.nodes, f.addrs = f.nodes[:last], f.addrs[:last]
	return err
}

// close kills all processes and removes their stores and their log. After an error, it
// first prints what the processes logged last.
func (f *fleet) close(ctx context.Context, failed bool) error {
	var errs []error
	for _, n := range f.nodes {
		if log := n.Log(); failed {
			fmt.Fprintf(os.Stderr, "--- %s\n%s\n", filepath.Base(n.Data), log[max(0, len(log)-2000):])
		}
		errs = append(errs, n.Kill())
	}
	errs = append(errs, f.log.db.Drop(ctx), f.log.close(ctx), os.RemoveAll(f.dir))
	return errors.Join(errs...)
}

// clusterTime bounds the step.
const clusterTime = 15 * time.Minute

// cluster measures processes over one log.
func (b *bench) cluster() (err error) {
	p, err := newPlan(b.opt)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterTime)
	defer cancel()
	if b.opt.before != "" {
		if err := b.compareBefore(); err != nil {
			return err
		}
	}
	s, err := b.startBacking()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := b.clusterLoads(ctx, s, p); err != nil {
		return err
	}
	return b.clusterJoins(ctx, s, p.joins)
}
