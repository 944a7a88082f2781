package relay

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// patience bounds the wait for a condition.
const patience = 2 * time.Minute

// timing has short pauses, and no bound that a slow machine exceeds.
var timing = Timing{Dial: patience, Retry: 10 * time.Millisecond, Silence: patience, Answer: patience, Show: patience}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// clusterKeys returns cluster keys of 32 bytes that count up from each of firsts.
func clusterKeys(t testing.TB, firsts ...byte) sealed.Keys {
	t.Helper()
	var text []byte
	for _, first := range firsts {
		var b [32]byte
		for i := range b {
			b[i] = first + byte(i)
		}
		text = append(base64.StdEncoding.AppendEncode(text, b[:]), '\n')
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := sealed.ReadKeys(name)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func trust(t testing.TB, keys sealed.Keys, clock func() time.Time) *Trust {
	t.Helper()
	tr, err := NewTrust(keys, clock)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// lease is a Lease that tests control.
type lease struct {
	mu       sync.Mutex
	holder   hints.Holder
	resigned atomic.Int32
	other    atomic.Pointer[hints.Redis] // if set, used instead
}

func (l *lease) Sequencer() (hints.Holder, bool) {
	if r := l.other.Load(); r != nil {
		return r.Sequencer()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder, l.holder.Instance != ""
}

func (l *lease) Resign(time.Duration) { l.resigned.Add(1) }

func (l *lease) set(h hints.Holder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder = h
}

// process is one process of a cluster.
type process struct {
	*Store
	number int
	t      testing.TB
	db     Local
	server *Server
	lease  *lease
	holder hints.Holder
}

// newProcess starts a process with a local store.
func newProcess(t testing.TB, name string, db Local, tr *Trust, change func(*Options)) *process {
	t.Helper()
	p := &process{t: t, db: db, lease: &lease{}, holder: hints.Holder{Node: name, Instance: "instance of " + name}}
	o := Options{Local: db, Lease: p.lease, Trust: tr, Instance: p.holder.Instance, Clock: time.Now, Timing: timing}
	if change != nil {
		change(&o)
	}
	var err error
	if p.Store, err = New(o); err != nil {
		t.Fatal(err)
	}
	p.server = NewServer(p.Store)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.holder.Address = l.Addr().String()
	go func() {
		if err := p.server.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		p.Stop()
		_ = p.server.Close()
	})
	return p
}

// follow makes h the sequencer of p, and waits for the connection.
func (p *process) follow(h hints.Holder) *process {
	p.t.Helper()
	p.lease.set(h)
	if h.Instance != "" && h.Instance != p.holder.Instance {
		eventually(p.t, "connection to "+h.Node, func() bool { return p.sequencer() != nil })
	}
	return p
}

// cluster is a cluster over a log in memory. Process 0 is the sequencer.
type cluster struct {
	log       *memlog.Cluster
	clock     func() time.Time
	files     []vfs.FS // of each process
	change    func(*Options)
	processes []*process
	faults    atomic.Pointer[memlog.Plan] // of the log, nil for none

	mu      sync.Mutex
	appends map[string]int // calls of the log, by process
}

var identity = sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 1, Schema: pebblestore.RowSchema}

// newCluster starts n processes. clock may be nil.
func newCluster(t testing.TB, n int, clock func() time.Time, change func(*Options)) *cluster {
	t.Helper()
	c := &cluster{clock: clock, change: change, appends: map[string]int{}}
	c.log = memlog.New(memlog.Options{Plan: func(call memlog.Call) memlog.Fault {
		if call.Op == memlog.OpAppend {
			c.mu.Lock()
			c.appends[call.Client]++
			c.mu.Unlock()
		}
		if plan := c.faults.Load(); plan != nil {
			return (*plan)(call)
		}
		return memlog.Fault{}
	}})
	if ok, err := c.log.Client("operator").SetIdentity(t.Context(), sharedlog.Identity{}, identity); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for range n {
		c.files = append(c.files, vfs.NewMem())
	}
	c.start(t)
	return c
}

// start starts the processes with their files.
func (c *cluster) start(t testing.TB) {
	t.Helper()
	c.processes = nil
	tr := trust(t, clusterKeys(t, 1), time.Now)
	for i, fs := range c.files {
		name := fmt.Sprint("p", i)
		db, err := pebblestore.Open("", pebblestore.Options{FS: fs, CacheBytes: 8 << 20, Clock: c.clock,
			Shared: &pebblestore.Shared{Log: c.log.Client(name), Node: name, Identity: identity,
				Poll: 5 * time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		p := newProcess(t, name, db, tr, c.change)
		p.number = i
		p.lease.set(p.holder)
		c.processes = append(c.processes, p)
		t.Cleanup(func() { _ = p.Close() }) // fails only if the test closed it
	}
	for _, p := range c.processes[1:] {
		p.follow(c.processes[0].holder)
	}
}

// appended returns the number of entries that a process has appended.
func (c *cluster) appended(i int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.appends[fmt.Sprint("p", i)]
}

// put returns a batch with one document.
func put(id string) *store.Batch {
	return &store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: "Patient", ID: id,
		JSON: []byte(fhir.Prefix("Patient", id) + "}}")}}}}
}

// proxy passes connections on to an address, and can hold or discard what comes back.
type proxy struct {
	net.Listener
	to      string
	discard atomic.Bool // the answers from now on

	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to}
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
	})
	go p.run()
	return p
}

func (p *proxy) run() {
	for {
		in, err := p.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		go func() {
			buf := make([]byte, 4096)
			for {
				n, err := out.Read(buf)
				if n > 0 && !p.discard.Load() {
					if _, err := in.Write(buf[:n]); err != nil {
						return
					}
				}
				if err != nil {
					_ = in.Close()
					return
				}
			}
		}()
	}
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// through returns the holder with the address of a proxy to it.
func (p *proxy) through(h hints.Holder) hints.Holder {
	h.Address = p.Addr().String()
	return h
}
