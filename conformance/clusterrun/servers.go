// Package clusterrun starts the server of a test as one process, or as several of them
// behind a load balancer, which sends each request to another process than the last.
// Commands of the operator take turns, too. A test that passes at one process must pass
// at several of them.
package clusterrun

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/fhir/store/sharedlog/mongolog/mongotest"
)

// Options are the options of Start.
type Options struct {
	Bin, Dir string
	Nodes    int
	// MongoDB and Redis are the servers of a cluster. If they are empty, Start starts a
	// stand-in for MongoDB and a Redis server.
	MongoDB, Redis string
	Env            []string // more settings of the processes
	Listen         string   // of one process; empty is any port of the loopback interface
}

// Servers are the processes of one server.
type Servers struct {
	Base  string        // URL of the process, or of the load balancer
	Ready time.Duration // time from the start until all were ready

	options  Options
	members  []Member
	listen   []string
	nodes    []*blackbox.Server
	balancer *balancer // nil if there is one process
	stand    *StandIn
	redis    *Redis
	remove   func() error // removes the database; nil unless MongoDB is set

	// mu guards the field below.
	mu   sync.Mutex
	last int // the process that ran the last command
}

// Start starts the processes and waits until they are ready. Data is below o.Dir.
func Start(o Options) (_ *Servers, err error) {
	s := &Servers{options: o, last: -1}
	begin := time.Now()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.End())
		}
		s.Ready = time.Since(begin)
	}()
	s.nodes = make([]*blackbox.Server, max(1, o.Nodes))
	if len(s.nodes) == 1 {
		s.listen = []string{cmp.Or(o.Listen, "127.0.0.1:0")}
		if err := s.start(0); err != nil {
			return nil, err
		}
		s.Base = s.nodes[0].Base
		s.listen[0] = strings.TrimPrefix(s.Base, "http://")
		return s, nil
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	for i := range s.nodes { // the first founds the cluster
		if err := s.StartNode(i); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// prepare starts what a cluster needs and chooses the addresses of the processes.
func (s *Servers) prepare() (err error) {
	m := Member{MongoDB: s.options.MongoDB, Redis: s.options.Redis}
	if m.KeyFile, err = WriteKey(s.options.Dir); err != nil {
		return err
	}
	if m.MongoDB == "" {
		if s.stand, err = StartStandIn(Loopback, filepath.Join(s.options.Dir, "mongodb")); err != nil {
			return err
		}
		m.MongoDB, m.Standalone = s.stand.URI(), true
	} else if err := s.database(&m); err != nil {
		return err
	}
	if m.Redis == "" {
		if s.redis, err = StartRedis(Loopback); err != nil {
			return err
		}
		m.Redis = "redis://" + s.redis.Addr()
	}
	for i := range s.nodes {
		var addr [2]string
		for j := range addr {
			if addr[j], err = Loopback.Free(); err != nil {
				return err
			}
		}
		m.Name, m.PeerListen, m.PeerAddress = fmt.Sprintf("node-%d", i+1), addr[0], addr[0]
		s.members, s.listen = append(s.members, m), append(s.listen, addr[1])
	}
	if s.balancer, err = newBalancer(s.listen); err != nil {
		return err
	}
	s.Base = s.balancer.base()
	return nil
}

// database chooses a new database in the MongoDB of the options.
func (s *Servers) database(m *Member) (err error) {
	m.MongoDB, m.PasswordFile, s.remove, err = NewDatabase(s.options.MongoDB, s.options.Dir)
	return err
}

// NewDatabase returns the connection string of a new database in the MongoDB at uri,
// the file in dir that holds the password, and a function that removes the database.
func NewDatabase(uri, dir string) (string, string, func() error, error) {
	d, remove, err := mongotest.Empty(uri)
	if err != nil || d.Password == "" {
		return d.URI, "", remove, err
	}
	file := filepath.Join(dir, "mongodb-password")
	return d.URI, file, remove, os.WriteFile(file, []byte(d.Password+"\n"), 0o600)
}

// data returns the data directory of a process.
func (s *Servers) data(i int) string {
	if len(s.nodes) == 1 {
		return filepath.Join(s.options.Dir, "data")
	}
	return filepath.Join(s.options.Dir, s.members[i].Name)
}

// start starts a process.
func (s *Servers) start(i int) error {
	env := append([]string{"PULSEGATE_EGRESS_ALLOW=127.0.0.0/8", "PULSEGATE_METRICS_LISTEN=127.0.0.1:0"},
		s.options.Env...)
	if s.balancer != nil {
		env = append(append(env, "PULSEGATE_BASE_URL="+s.Base, "PULSEGATE_TRUSTED_PROXIES="+proxyAddress+"/32"),
			s.members[i].Env()...)
	}
	n, err := blackbox.StartWith(s.options.Bin, s.data(i), s.listen[i], env)
	if err == nil {
		s.nodes[i] = n
	}
	return err
}

// StartNode starts a process of a cluster and waits until it is ready.
func (s *Servers) StartNode(i int) error {
	if err := s.start(i); err != nil {
		return fmt.Errorf("%s: %w", s.members[i].Name, err)
	}
	last := 0
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		r, err := http.Get("http://" + s.listen[i] + "/readyz")
		if err != nil {
			continue
		}
		if last = r.StatusCode; r.Body.Close() == nil && last == http.StatusOK {
			s.balancer.set(i, false)
			return nil
		}
	}
	return fmt.Errorf("%s is not ready after two minutes: status %d", s.members[i].Name, last)
}

// KillNode ends a process of a cluster with SIGKILL. Requests go to the others.
func (s *Servers) KillNode(i int) error {
	err := s.nodes[i].Kill()
	s.balancer.set(i, true)
	return err
}

// Serves waits until each process of a cluster that is up answers ask, which sends a
// request to Base, with true.
func (s *Servers) Serves(ask func() bool) error {
	if s.balancer == nil {
		return nil
	}
	good := 0
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		if !ask() {
			good = 0
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if good++; good == len(s.nodes) {
			return nil
		}
	}
	return errors.New("the other processes do not serve two minutes after a kill")
}

// Nodes returns the number of processes.
func (s *Servers) Nodes() int { return len(s.nodes) }

// Kill ends all processes with SIGKILL.
func (s *Servers) Kill() error { return s.each((*blackbox.Server).Kill) }

// Restart starts all processes after Kill.
func (s *Servers) Restart() error {
	if len(s.nodes) == 1 {
		return s.start(0)
	}
	errs := make([]error, len(s.nodes))
	var wg sync.WaitGroup
	for i := range s.nodes {
		wg.Go(func() { errs[i] = s.StartNode(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stop drains and ends all processes, and what Start started for them.
func (s *Servers) Stop() error {
	return errors.Join(s.each((*blackbox.Server).Stop), s.close())
}

// each calls do for all processes concurrently.
func (s *Servers) each(do func(*blackbox.Server) error) error {
	errs := make([]error, len(s.nodes))
	var wg sync.WaitGroup
	for i, n := range s.nodes {
		wg.Go(func() {
			if err := do(n); err != nil {
				log := n.Log()
				errs[i] = fmt.Errorf("process %d: %w\n%s", i+1, err, log[max(0, len(log)-1000):])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// End ends, with SIGKILL, the processes that run, and what Start started for them.
func (s *Servers) End() (err error) {
	for _, n := range s.nodes {
		if n != nil {
			if kerr := n.Kill(); !errors.Is(kerr, os.ErrProcessDone) {
				err = errors.Join(err, kerr)
			}
		}
	}
	return errors.Join(err, s.close())
}

func (s *Servers) close() error {
	var errs []error
	if s.balancer != nil {
		errs = append(errs, s.balancer.close())
	}
	if s.redis != nil {
		errs = append(errs, s.redis.Kill())
	}
	if s.stand != nil && s.stand.stop != nil {
		errs = append(errs, s.stand.Stop())
	}
	if s.remove != nil {
		errs = append(errs, s.remove())
	}
	return errors.Join(errs...)
}

// next returns the process for the next command.
func (s *Servers) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.nodes {
		s.last = (s.last + 1) % len(s.nodes)
		if s.balancer == nil || !s.balancer.isDown(s.last) {
			break
		}
	}
	return s.last
}

// Run runs a command of the operator at another process than the last one.
func (s *Servers) Run(out any, args ...string) error { return s.RunStdin(nil, out, args...) }

// RunStdin is Run with standard input. A command that a process refuses because it cannot
// confirm that it is up to date has done nothing. It is repeated for two minutes, as the
// operator is told, because a log on a busy machine is slow.
func (s *Servers) RunStdin(in io.Reader, out any, args ...string) error {
	var input []byte
	if in != nil {
		var err error
		if input, err = io.ReadAll(in); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if in != nil {
			in = bytes.NewReader(input)
		}
		err := s.nodes[s.next()].RunStdin(in, out, args...)
		if err == nil || !strings.Contains(err.Error(), notUpToDate) || time.Now().After(deadline) {
			return err
		}
	}
}

// notUpToDate is a part of the text with which a process refuses a command before it does
// anything.
const notUpToDate = "cannot confirm that it is up to date; repeat the command"

// RunAll runs a command at every process.
func (s *Servers) RunAll(args ...string) error {
	for _, n := range s.nodes {
		if err := n.Run(nil, args...); err != nil {
			return err
		}
	}
	return nil
}

// Direct returns the address of a process, for input that a load balancer would
// refuse.
func (s *Servers) Direct() string { return s.listen[s.next()] }

// Metrics returns the URLs of the metrics of all processes.
func (s *Servers) Metrics() (urls []string) {
	for _, n := range s.nodes {
		urls = append(urls, n.Metrics)
	}
	return urls
}

// Log returns the last MiB that each process wrote to stderr.
func (s *Servers) Log() string {
	var b strings.Builder
	for _, n := range s.nodes {
		b.WriteString(n.Log())
	}
	return b.String()
}

// RSS returns the resident memory of the largest process in bytes.
func (s *Servers) RSS() (int64, error) { return s.largest((*blackbox.Server).RSS) }

// PeakRSS returns the maximum resident memory of any process so far, in bytes.
func (s *Servers) PeakRSS() (int64, error) { return s.largest((*blackbox.Server).PeakRSS) }

// CPU returns the processor time that all processes have used, as blackbox.Server.CPU does.
func (s *Servers) CPU() (time.Duration, error) {
	var out time.Duration
	for _, n := range s.nodes {
		used, err := n.CPU()
		if err != nil {
			return 0, err
		}
		out += used
	}
	return out, nil
}

func (s *Servers) largest(of func(*blackbox.Server) (int64, error)) (int64, error) {
	var out int64
	for _, n := range s.nodes {
		size, err := of(n)
		if err != nil {
			return 0, err
		}
		out = max(out, size)
	}
	return out, nil
}
