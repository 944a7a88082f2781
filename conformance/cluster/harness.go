package main

import (
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
	network  network
	stand    *clusterrun.StandIn // nil with a MongoDB of the user
	password string              // file of its password; may be empty
	remove   func() error        // removes its database; may be nil
	redis    *clusterrun.Redis   // nil with a Redis of the user
	hasRedis bool
	nodes    []*node
	patients []string
	clientID string
	signer   *blackbox.Key
	runs     int // rounds so far
	random   *mathrand.Rand
	bins     []string // by clock, with -skew
	expiring expiring // with -skew

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
	wrong     error          // about a lastUpdated
}

// start starts the servers and the processes, and adds patients, data and a client.
func (h *harness) start() error {
	h.creations, h.answers = map[string]bool{}, map[string]int{}
	err := h.chooseNetwork()
	if err != nil {
		return err
	}
	if err := h.buildClocks(); err != nil {
		return err
	}
	if h.key, err = clusterrun.WriteKey(h.dir); err != nil {
		return err
	}
	if h.settings.mongodb != "" {
		h.settings.mongodb, h.password, h.remove, err = clusterrun.NewDatabase(h.settings.mongodb, h.dir)
		if err != nil {
			return err
		}
	} else {
		at, err := h.network.place(mongodb)
		if err != nil {
			return err
		}
		if h.stand, err = clusterrun.StartStandIn(at, filepath.Join(h.dir, "mongodb")); err != nil {
			return err
		}
	}
	h.hasRedis = h.settings.redis != "none"
	switch h.settings.redis {
	case "none":
		h.settings.redis = ""
	case "":
		at, err := h.network.place(redis)
		if err != nil {
			return err
		}
		if h.redis, err = clusterrun.StartRedis(at); err != nil {
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
	if err := h.issueExpiring(h.nodes[len(h.nodes)-1]); err != nil {
		return err
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

// anywhere returns a process that is not down, other than avoid.
func (h *harness) anywhere(r *mathrand.Rand, avoid *node) *node {
	for {
		if n := h.nodes[r.IntN(len(h.nodes))]; n.up.Load() && (n != avoid || len(h.nodes) == 1) {
			return n
		}
		time.Sleep(time.Millisecond)
	}
}

// fault is a fault of the round of that name.
type fault struct {
	name string
	// hit is the process that the fault strikes, or nil if it strikes all.
	hit *node
	// pick, if not nil, chooses hit when the round begins.
	pick func() *node
	// run begins the fault, and returns when it has ended.
	run func(hit *node) error
}

// title names the fault and the process that it strikes.
func (f *fault) title() string {
	if f.hit == nil {
		return f.name
	}
	return f.name + " (" + f.hit.name + ")"
}

// round lets the clients work during a fault, waits until all processes are ready
// again, and checks the history.
func (h *harness) round(f *fault) error {
	if f.pick != nil {
		if f.hit = f.pick(); f.hit == nil {
			return errors.New("no process is the sequencer")
		}
	}
	h.runs++
	h.history, h.answers = &history.Recorder{}, map[string]int{}
	objects, err := h.newObjects()
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	for i := range h.settings.workers {
		w := newWorker(h, i, objects)
		if i%2 == 1 { // these clients do not wait for a process that does not answer
			w.avoid = f.hit
		}
		work.Go(func() { w.work(stop) })
	}
	time.Sleep(time.Second)
	failed := f.run(f.hit)
	for deadline := time.Now().Add(patience); h.history.Count(history.Done) < enough && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Second)
	close(stop)
	work.Wait()
	if failed != nil {
		return failed
	}
	if err := errors.Join(h.history.Check(), h.wrong); err != nil {
		return err
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
	fmt.Printf("cluster: %-48s %5d done, %4d unknown, linearizable\n", f.title(), done, unknown)
	if h.settings.verbose {
		fmt.Println(h.answers)
	}
	if done < enough {
		return fmt.Errorf("fewer than %d operations were done: the history shows nothing", enough)
	}
	return nil
}

const (
	// enough is the number of operations in a history that shows something.
	enough = 40
	// patience is the time for which a condition is awaited.
	patience = 2 * time.Minute
)

// outlast waits for the length of a fault, and until other processes than that which it
// strikes have acknowledged operations that began during it.
func (h *harness) outlast(hit *node, length time.Duration) error {
	others := func() (count int64) {
		for _, n := range h.nodes {
			if n != hit {
				count += n.acknowledged.Load()
			}
		}
		return count
	}
	before, deadline := others(), time.Now().Add(length+patience)
	time.Sleep(length)
	if hit == nil || len(h.nodes) == 1 {
		return nil
	}
	// Each client may have begun one of them before the fault.
	for others() <= before+int64(h.settings.workers) {
		if time.Now().After(deadline) {
			return errors.New("the other processes acknowledge nothing during the fault")
		}
		time.Sleep(50 * time.Millisecond)
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
	return fmt.Errorf("%s commits nothing two minutes after the fault: %w", n.name, last)
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

// any returns a random process.
func (h *harness) any() *node { return h.nodes[h.random.IntN(len(h.nodes))] }

// faults returns the faults of a round.
func (h *harness) faults() []fault {
	h.random = mathrand.New(mathrand.NewPCG(h.settings.seed, uint64(h.runs)))
	restart := func(n *node) error {
		return errors.Join(n.kill(), h.outlast(n, h.settings.length), n.start())
	}
	halt := func(n *node) error {
		return errors.Join(n.server.Signal(syscall.SIGSTOP), h.outlast(n, h.settings.lease),
			n.server.Signal(syscall.SIGCONT))
	}
	out := []fault{
		{name: "none", run: func(*node) error { time.Sleep(h.settings.length); return nil }},
		{name: "kill of a process", hit: h.any(), run: restart},
		{name: "stop beyond leases", hit: h.any(), run: halt},
	}
	if h.hasRedis && !h.settings.control {
		out = append(out, fault{name: "kill of the sequencer", pick: h.sequencer, run: restart},
			fault{name: "stop of the sequencer beyond leases", pick: h.sequencer, run: halt})
	}
	out = append(append(out, h.network.faults(h)...), h.clockFaults()...)
	if h.stand != nil {
		out = append(out, fault{name: "end of MongoDB", run: h.ended(h.stand.Kill, h.stand.Start)})
	}
	if h.redis != nil {
		out = append(out, fault{name: "Redis emptied", run: h.ended(h.redis.Flush, h.redis.Flush)},
			fault{name: "end of Redis", run: h.ended(h.redis.Kill, h.redis.Start)})
	}
	return out
}

// ended ends a server for a while.
func (h *harness) ended(end, start func() error) func(*node) error {
	return func(*node) error {
		err := end()
		time.Sleep(h.settings.length)
		return errors.Join(err, start())
	}
}

// sequencer returns the process that has the lease of the sequencer, or nil.
func (h *harness) sequencer() *node {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, asked := range h.nodes {
			var status struct{ Sequencer struct{ Node string } }
			if !asked.up.Load() || asked.server.Run(&status, "cluster", "status") != nil {
				continue
			}
			for _, n := range h.nodes {
				if strings.EqualFold(n.name, status.Sequencer.Node) {
					return n
				}
			}
		}
	}
	return nil
}
