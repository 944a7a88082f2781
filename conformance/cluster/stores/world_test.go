package stores

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/cluster"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

var all = access.All().Filter(access.Search | access.Read)

// identity is the cluster of all tests.
var identity = sharedlog.Identity{Cluster: [16]byte{7}, Epoch: 1, Schema: pebblestore.RowSchema}

// options configure a world.
type options struct {
	plan memlog.Plan
	poll time.Duration // zero means the default of the store
	// joining lets processes open their stores as members of the cluster do, on disk,
	// and begin with snapshots.
	joining bool
	// around, if not nil, wraps the store of a process.
	around func(l *life) store.Store
}

// world is a cluster of processes in one test. It runs in a synctest bubble, in which
// waiting takes no time.
type world struct {
	t         *testing.T
	options   options
	servers   *memlog.Cluster
	processes []*process
	disk      string      // directory of the stores, with options.joining
	calm      atomic.Bool // faults have ended
	kills     int
	cuts      int
	snapshots int
	rejoins   int // of processes that were behind the log at the end
}

// process is one process of the cluster, which lives several times.
type process struct {
	world *world
	name  string
	skew  time.Duration
	lives int
	// life is nil while the process is down.
	life atomic.Pointer[life]
}

// dir is the directory of the process's store, if it is on disk.
func (p *process) dir() string { return filepath.Join(p.world.disk, p.name) }

// life is the time from a start of a process to its end.
type life struct {
	process *process
	log     *memlog.Client
	fs      *vfs.MemFS      // nil if the store is on disk
	member  *cluster.Member // nil unless options.joining
	db      *pebblestore.DB
	store   store.Store
	cache   *consents
	ctx     context.Context // of the operations of clients
	kill    context.CancelFunc
}

// newWorld starts processes over an empty log.
func newWorld(t *testing.T, n int, o options) *world {
	t.Helper()
	w := &world{t: t, options: o}
	if o.joining {
		w.disk = t.TempDir()
	}
	w.servers = memlog.New(memlog.Options{Plan: func(c memlog.Call) memlog.Fault {
		if o.plan == nil || c.Client == "setup" || w.calm.Load() {
			return memlog.Fault{}
		}
		return o.plan(c)
	}})
	if _, err := w.servers.Client("setup").SetIdentity(t.Context(), sharedlog.Identity{}, identity); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		p := &process{world: w, name: fmt.Sprintf("node-%d", i+1), skew: time.Duration(i) * 300 * time.Millisecond}
		w.processes = append(w.processes, p)
		if err := p.start(vfs.NewCrashableMem()); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// start opens the store of a process.
func (p *process) start(fs *vfs.MemFS) error {
	p.lives++
	l := &life{process: p, fs: fs, log: p.world.servers.Client(fmt.Sprintf("%s.%d", p.name, p.lives))}
	l.ctx, l.kill = context.WithCancel(context.Background())
	var err error
	for range 100 {
		// A fault of the log may meet Open, too. The process is then started again.
		if err = l.open(); err == nil || errors.Is(err, pebblestore.ErrRejoin) {
			break
		}
		time.Sleep(time.Second)
	}
	if err != nil {
		return fmt.Errorf("opening the store of %s: %w", p.name, err)
	}
	l.store = l.db
	if p.world.options.around != nil {
		l.store = p.world.options.around(l)
	}
	l.cache = newConsents(l.store)
	p.life.Store(l)
	return nil
}

// open opens the store.
func (l *life) open() (err error) {
	p := l.process
	o := pebblestore.Options{Clock: func() time.Time { return time.Now().Add(p.skew) },
		Shared: &pebblestore.Shared{Log: l.log, Node: p.name, Identity: identity, Poll: p.world.options.poll}}
	if !p.world.options.joining {
		o.FS = l.fs
		l.db, err = pebblestore.Open("", o)
		return err
	}
	l.member, err = cluster.Open(l.ctx,
		cluster.Options{Log: l.log, Snapshots: l.log.Snapshots(), Dir: p.dir(), Store: o})
	if err == nil {
		l.db = l.member.DB
	}
	return err
}

// restart ends a process without a warning, and starts it again from the files that
// were on its disk, or from an empty disk.
func (p *process) restart(r *rand.Rand) error {
	l := p.life.Swap(nil)
	l.log.Cut()
	l.kill()
	var left *vfs.MemFS
	empty := r.IntN(4) == 0
	if !p.world.options.joining {
		left = l.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101),
			RNG: rand.New(rand.NewPCG(r.Uint64(), 0))})
		if empty {
			left = vfs.NewCrashableMem()
		}
	}
	l.cache.stop()
	// The old life may still write to its files and answer. Both are lost.
	_ = l.db.Close()
	if p.world.options.joining && empty {
		if err := os.RemoveAll(p.dir()); err != nil {
			return err
		}
	}
	return p.start(left)
}

// close closes all stores.
func (w *world) close() {
	for _, p := range w.processes {
		l := p.life.Swap(nil)
		if l == nil {
			continue
		}
		l.cache.stop()
		l.kill()
		if err := l.db.Close(); err != nil {
			w.t.Errorf("closing the store of %s: %v", p.name, err)
		}
	}
}

// consents knows the version of each patient's Consent, as a watcher learns it.
type consents struct {
	store store.Store
	stop  func()

	mu       sync.Mutex
	versions map[string]uint64
}

func newConsents(s store.Store) *consents {
	c := &consents{store: s, versions: map[string]uint64{}}
	c.stop = s.Watch(func(commit store.Commit) {
		for _, x := range commit.Changes {
			if x.Ref.Type == "Consent" {
				c.note(x.Ref.ID, x.Version)
			}
		}
	})
	_ = s.Changes(context.Background(), 0, func(x *store.Change) bool {
		if x.Ref.Type == "Consent" {
			c.note(x.Ref.ID, x.Version)
		}
		return true
	})
	return c
}

func (c *consents) note(id string, version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.versions[id] = max(c.versions[id], version)
}

// value returns the value of the Consent of a patient, or "" if there is none.
func (c *consents) value(ctx context.Context, id string) (string, error) {
	c.mu.Lock()
	version := c.versions[id]
	c.mu.Unlock()
	if version == 0 {
		return "", nil
	}
	r, _, err := c.store.ReadVersion(ctx, fhir.Ref{Type: "Consent", ID: id}, version)
	if err != nil {
		return "", err
	}
	return consentValue(r), nil
}

func consentValue(r fhir.Resource) string {
	return between(string(r.JSON), `"implicitRules":"urn:`, `"`)
}

// between returns the part of s between two strings.
func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// device returns a Device with a value and an identifier.
func device(id, value, identifier string) fhir.Resource {
	return fhir.Resource{Type: "Device", ID: id, JSON: fmt.Appendf(nil,
		`%s},"identifier":[{"system":"urn:test","value":"%s"}],"lotNumber":"%s"}`, fhir.Prefix("Device", id), identifier,
		value)}
}

func deviceValue(r fhir.Resource) string { return between(string(r.JSON), `"lotNumber":"`, `"`) }

// consent returns a Consent of a patient with a value.
func consent(patient, value string) fhir.Resource {
	return fhir.Resource{Type: "Consent", ID: patient, JSON: fmt.Appendf(nil,
		`%s},"implicitRules":"urn:%s","status":"active","patient":{"reference":"Patient/%s"}}`,
		fhir.Prefix("Consent", patient), value, patient)}
}
