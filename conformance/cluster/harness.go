package main

import (
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/cluster/history"
	"pulsegate/conformance/clusterrun"
)

// base is the public address of the cluster. It is never looked up.
const base = "http://pulsegate.test"

const scope = "system/*.cruds"

// harness is one run of the program.
type harness struct {
	settings *settings
	dir, key string
	stand    *clusterrun.StandIn // nil with a MongoDB of the user
	password string              // file of its password; may be empty
	remove   func() error        // removes its database; may be nil
	redis    *clusterrun.Redis   // nil with a Redis of the user
	nodes    []*node
	patients []string
	clientID string
	signer   *blackbox.Key
	runs     int // rounds so far

	// history records the current round.
	history                *history.Recorder
	done, refused, unknown int

	// mu guards the fields below.
	mu        sync.Mutex
	creations map[string]bool // markers of created resources: whether they were acknowledged
	next      int             // last marker
	token     string
	until     time.Time      // when to request the next token
	issued    []issued       // tokens to be revoked
	answers   map[string]int // of the round, by operation and status; 0 is none
}

// start starts the servers and the processes, and adds patients, data and a client.
func (h *harness) start() error {
	h.creations, h.answers = map[string]bool{}, map[string]int{}
	var err error
	if h.key, err = clusterrun.WriteKey(h.dir); err != nil {
		return err
	}
	if h.settings.mongodb != "" {
		h.settings.mongodb, h.password, h.remove, err = clusterrun.NewDatabase(h.settings.mongodb, h.dir)
		if err != nil {
			return err
		}
	} else {
		if h.stand, err = clusterrun.StartStandIn(filepath.Join(h.dir, "mongodb")); err != nil {
			return err
		}
	}
	switch h.settings.redis {
	case "none":
		h.settings.redis = ""
	case "":
		if h.redis, err = clusterrun.StartRedis(); err != nil {
			return err
		}
	}
	for i := range h.settings.nodes {
		n, err := h.newNode(i)
		if err != nil {
			return err
		}
		h.nodes = append(h.nodes, n)
	}
	for i, n := range h.nodes { // the first founds the cluster
		if err := n.start(); err != nil {
			return err
		}
		if i == 0 {
			if err := h.addClient(n); err != nil {
				return err
			}
		}
	}
	return h.addPatients(h.nodes[0])
}

func (h *harness) addClient(n *node) error {
	var err error
	if h.signer, err = blackbox.NewKey(); err != nil {
		return err
	}
	jwks, err := h.signer.JWKS()
	if err != nil {
		return err
	}
	file := filepath.Join(h.dir, "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		return err
	}
	var c struct {
		ID string `json:"client_id"`
	}
	err = n.server.Run(&c, "client", "add", "--name", "cluster", "--jwks", file, "--scope", scope)
	h.clientID = c.ID
	return err
}

// addPatients adds a patient for the writes and patients for the consents, with heart
// rates of a vendor.
func (h *harness) addPatients(n *node) error {
	for range 1 + consents {
		var p struct{ ID string }
		if err := n.server.Run(&p, "patient", "add", "--given", "Kim", "--family", "Muster"); err != nil {
			return err
		}
		h.patients = append(h.patients, p.ID)
		if err := n.server.Run(nil, "consent", "grant", "--patient", p.ID, "--vendor", vendor); err != nil {
			return err
		}
		c, err := h.client(n)
		if err != nil {
			return err
		}
		const payload = `{"data":[{"timestamp":"2026-01-01T00:00:00.000Z","timestamp_unix":1767225600000,"bpm":61,"source":"awake"}],"next_token":null}`
		r, err := c.Do("POST", base+"/ingest/oura/v2?patient="+p.ID+"&name=heartrate.json", []byte(payload),
			"Content-Type", "application/json")
		if err != nil {
			return err
		}
		_ = r.Body.Close()
		if r.StatusCode != 200 {
			return fmt.Errorf("ingest: status %d", r.StatusCode)
		}
	}
	return nil
}

// vendor is the vendor of all samples.
const vendor = "oura"

// backend returns a client of a process, without a token.
func (h *harness) backend(n *node) *blackbox.Client {
	return &blackbox.Client{Base: base, ID: h.clientID, Scope: scope, Key: h.signer, HTTP: n.http}
}

// client returns a client of a process, with a token that any process may have issued.
func (h *harness) client(n *node) (*blackbox.Client, error) {
	c := h.backend(n)
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().After(h.until) {
		token, err := c.Token()
		if err != nil {
			return nil, err
		}
		h.token, h.until = token, time.Now().Add(2*time.Minute)
	}
	c.Static = h.token
	return c, nil
}

// anywhere returns a process that is not down.
func (h *harness) anywhere(r *mathrand.Rand) *node {
	for {
		if n := h.nodes[r.IntN(len(h.nodes))]; n.up.Load() {
			return n
		}
		time.Sleep(time.Millisecond)
	}
}

// fault is a fault of the round of that name. It begins when run is called, and has
// ended when run returns.
type fault struct {
	name string
	run  func() error
	// hit is the process that the fault strikes, or nil if it strikes all.
	hit *node
}

// round lets the clients work during a fault, waits until all processes are ready
// again, and checks the history.
func (h *harness) round(f fault) error {
	h.runs++
	h.history, h.answers = &history.Recorder{}, map[string]int{}
	objects, err := h.newObjects()
	if err != nil {
		return err
	}
	before := make([]int64, len(h.nodes))
	for i, n := range h.nodes {
		before[i] = n.acknowledged.Load()
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	for i := range h.settings.workers {
		w := newWorker(h, i, objects)
		work.Go(func() { w.work(stop) })
	}
	time.Sleep(time.Second)
	failed := f.run()
	var others int64
	for i, n := range h.nodes {
		if n != f.hit {
			others += n.acknowledged.Load() - before[i]
		}
	}
	time.Sleep(time.Second)
	close(stop)
	work.Wait()
	if failed != nil {
		return failed
	}
	if err := h.history.Check(); err != nil {
		return err
	}
	if f.hit != nil && others == 0 && len(h.nodes) > 1 {
		return errors.New("no other process acknowledged anything during the fault")
	}
	for _, n := range h.nodes {
		if err := n.ready(); err != nil {
			return err
		}
		if err := h.writable(n); err != nil {
			return err
		}
	}
	done, unknown := h.history.Count(history.Done), h.history.Count(history.Unknown)
	h.done, h.unknown, h.refused = h.done+done, h.unknown+unknown, h.refused+h.history.Count(history.Refused)
	fmt.Printf("cluster: %-40s %5d done, %4d unknown, linearizable\n", f.name, done, unknown)
	if h.settings.verbose {
		fmt.Println(h.answers)
	}
	if done < 20 {
		return errors.New("fewer than 20 operations were done: the history shows nothing")
	}
	return nil
}

// writable requires that a process commits again.
func (h *harness) writable(n *node) error {
	var last error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if last = h.create(n); last == nil {
			return nil
		}
	}
	return fmt.Errorf("%s commits nothing a minute after the fault: %w", n.name, last)
}

// logs prints the ends of the logs of all processes.
func (h *harness) logs() {
	for _, n := range h.nodes {
		if n.server != nil {
			log := n.server.Log()
			fmt.Fprintf(os.Stderr, "--- %s\n%s\n", n.name, log[max(0, len(log)-4000):])
		}
	}
}

// faults returns the faults of a round.
func (h *harness) faults() []fault {
	r := mathrand.New(mathrand.NewPCG(h.settings.seed, uint64(h.runs)))
	one := func() *node { return h.nodes[r.IntN(len(h.nodes))] }
	killed, stopped, sequencer := one(), one(), h.sequencer()
	restart := func(n *node) func() error {
		return func() error {
			err := n.kill()
			time.Sleep(h.settings.length)
			return errors.Join(err, n.start())
		}
	}
	halt := func(n *node) func() error {
		return func() error {
			err := n.server.Signal(syscall.SIGSTOP)
			time.Sleep(h.settings.lease)
			return errors.Join(err, n.server.Signal(syscall.SIGCONT))
		}
	}
	out := []fault{
		{"none", func() error { time.Sleep(h.settings.length); return nil }, nil},
		{"kill of " + killed.name, restart(killed), killed},
		{"stop of " + stopped.name + " beyond leases", halt(stopped), stopped},
		{"peers cannot reach each other", h.network(cut, 0, func(n *node) *proxy { return n.toPeer }, h.nodes...), nil},
	}
	if sequencer != nil {
		out = append(out, fault{"kill of the sequencer", restart(sequencer), sequencer},
			fault{"stop of the sequencer beyond leases", halt(sequencer), sequencer})
	}
	if h.stand != nil {
		n, m := one(), one()
		toMongoDB := func(n *node) *proxy { return n.toMongoDB }
		out = append(out, fault{"cut of " + n.name + " from MongoDB", h.network(cut, 0, toMongoDB, n), n},
			fault{"network of " + m.name + " holds bytes to MongoDB", h.network(hold, 0, toMongoDB, m), m},
			fault{"slow network to MongoDB", h.network(pass, 50*time.Millisecond, toMongoDB, h.nodes...), nil},
			fault{"end of MongoDB", h.ended(h.stand.Kill, h.stand.Start), nil})
	}
	if h.redis != nil {
		n := one()
		out = append(out, fault{"cut of " + n.name + " from Redis",
			h.network(cut, 0, func(n *node) *proxy { return n.toRedis }, n), n},
			fault{"Redis emptied", h.ended(h.redis.Flush, h.redis.Flush), nil},
			fault{"end of Redis", h.ended(h.redis.Kill, h.redis.Start), nil})
	}
	return out
}

// network changes the network of processes for a while.
func (h *harness) network(m mode, delay time.Duration, of func(*node) *proxy, nodes ...*node) func() error {
	return func() error {
		for _, n := range nodes {
			of(n).set(m, delay)
		}
		time.Sleep(h.settings.length)
		for _, n := range nodes {
			of(n).set(pass, 0)
		}
		return nil
	}
}

// ended ends a server for a while.
func (h *harness) ended(end, start func() error) func() error {
	return func() error {
		err := end()
		time.Sleep(h.settings.length)
		return errors.Join(err, start())
	}
}

// sequencer returns the process that has the lease of the sequencer, or nil.
func (h *harness) sequencer() *node {
	if h.redis == nil {
		return nil
	}
	lease, err := h.redis.Sequencer()
	if err != nil {
		return nil
	}
	var holder struct{ Node string }
	if json.Unmarshal([]byte(lease), &holder) != nil {
		return nil
	}
	for _, n := range h.nodes {
		if strings.EqualFold(n.name, holder.Node) {
			return n
		}
	}
	return nil
}
