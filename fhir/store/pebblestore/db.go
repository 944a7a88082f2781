package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// Schema is the version of the key layout that this package reads and writes.
// Version 1 had no series: it is taken over as it is, and remembered, because
// what it ingested has ids of an older derivation (see DB.Legacy). Version 2
// had no forms and a row for each leaf and hash of the log: its rows are read
// as they are. Versions before 4 had no U, V and W rows: they are made when the
// store is opened.
const (
	Schema       = "4"
	schemaFirst  = "1"
	schemaSecond = "2"
	schemaThird  = "3"
)

// Options of a store. The zero value is a store on disk with defaults.
type Options struct {
	// FS is the file system; nil is the disk.
	FS vfs.FS
	// Clock gives lastUpdated; nil is time.Now.
	Clock func() time.Time
	// Logger gets what Pebble has to say above the routine; nil discards it.
	Logger *slog.Logger
	// CacheBytes is the block cache; 0 is 64 MiB.
	CacheBytes int64
	// SpillBytes bounds the temporary files in which searches sort what has no
	// order of its own; 0 is DefaultSpilled.
	SpillBytes int64
	// NoSync acknowledges without an fsync. It loses writes in a crash and
	// exists for the control run of the crash test alone.
	NoSync bool

	bounds bounds
}

// bounds of what a search holds in memory. The tests make them small.
type bounds struct {
	dayBatch int    // rows of a walk by date over all patients
	probe    uint   // rows looked at to see whether the matches of a code are few
	few      uint64 // resources that are few enough to be met by lastUpdated
	others   int    // rows of mergeSeveral
	run      int    // bytes of matches being sorted
}

var defaultBounds = bounds{dayBatch: 1024, probe: 1024, few: 4096, others: 100_000, run: 8 << 20}

// DB is an open store.
type DB struct {
	opts   Options
	fs     vfs.FS
	dir    string
	pdb    *pebble.DB
	cache  *pebble.Cache
	wopts  *pebble.WriteOptions
	failed atomic.Bool
	legacy bool
	older  string // schema of the store when it was opened, unless it is Schema
	meters *meters

	codec     *series.Codec
	decoded   decodedBlocks
	lately    *cache
	forms     forms
	infos     *infos
	clusters  clusters
	compactor *compactor
	results   *results
	damage    damage
	spare     sync.Pool     // of *series.Columns
	looked    atomic.Uint64 // rows that finished searches looked at

	mu      sync.Mutex
	idle    *sync.Cond // readers == 0
	view    *view
	readers int
	closed  bool
	watches map[uint64]func(store.Commit)
	nextID  uint64

	in     chan *request
	toSync chan *group
	done   chan struct{}

	// The committer's own; nobody else reads them.
	head      meta
	groups    uint64
	wrote     *simplelru.LRU[[16]byte, struct{}] // forms
	edge      map[int][32]byte
	lastSweep time.Time
	disk      spaceWatch
	days      map[string]dayBits // of W rows
}

var _ store.Store = (*DB)(nil)

// view is what readers see: the durable state at one T.
type view struct {
	snap  *pebble.Snapshot
	meta  meta
	group uint64 // how many groups were written before, since the start
	forms *forms
	refs  int // guarded by DB.mu; the DB's own counts as one
}

// meta is the N row "head".
type meta struct {
	t         store.Seq
	updated   int64
	leaves    uint64
	resources uint64
}

func (m meta) encode() []byte {
	b := appendU64(nil, uint64(m.t))
	b = appendU64(b, uint64(m.updated))
	return appendU64(appendU64(b, m.leaves), m.resources)
}

func decodeMeta(v []byte) (meta, error) {
	r := reader{b: v}
	m := meta{t: store.Seq(r.u64()), updated: int64(r.u64()), leaves: r.u64(), resources: r.u64()}
	if r.bad {
		return m, errRow
	}
	return m, nil
}

// Open opens or makes the store in dir. One process at a time.
func Open(dir string, opts Options) (*DB, error) {
	const op = "pebblestore.Open"
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.CacheBytes == 0 {
		opts.CacheBytes = 64 << 20
	}
	if opts.bounds == (bounds{}) {
		opts.bounds = defaultBounds
	}
	d := &DB{opts: opts, fs: opts.FS, dir: dir, watches: map[uint64]func(store.Commit){},
		in: make(chan *request, 256), toSync: make(chan *group, 1), done: make(chan struct{}), edge: map[int][32]byte{},
		lately: newCache(), forms: newForms(), days: map[string]dayBits{}}
	d.wrote, _ = simplelru.NewLRU[[16]byte, struct{}](maxForms, nil) // fails only for a size below one
	d.clusters.byID, _ = simplelru.NewLRU[clusterID, *cluster](maxClusters, nil)
	if d.fs == nil {
		d.fs = vfs.Default
	}
	d.idle = sync.NewCond(&d.mu)
	d.wopts = pebble.Sync
	if opts.NoSync {
		d.wopts = pebble.NoSync
	}
	d.cache = pebble.NewCache(opts.CacheBytes)
	po := &pebble.Options{
		// Small memtables, for up to four are in memory when much is written;
		// twice as many of their files as usual go into a compaction, so that
		// it rewrites no more.
		FS: d.fs, Cache: d.cache, MemTableSize: 8 << 20, MemTableStopWritesThreshold: 4,
		L0CompactionThreshold: 8, L0StopWritesThreshold: 24, MaxOpenFiles: 1000,
		FormatMajorVersion: pebble.FormatNewest, Merger: setBits, Logger: &pebbleLog{d: d}, EventListener: d.events(),
	}
	po.EnsureDefaults()
	pdb, err := pebble.Open(dir, po)
	if err != nil {
		d.cache.Unref()
		return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op,
			Err: refusal("the store cannot be opened: " + faultOf(err))}
	}
	d.pdb = pdb
	if d.results, err = newResults(d); err == nil {
		err = d.load()
	}
	if err != nil {
		err = errors.Join(err, pdb.Close())
		d.cache.Unref()
		return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op,
			Err: refusal("the store cannot be opened: " + faultOf(err))}
	}
	if d.codec, err = series.NewCodec(); err != nil {
		err = errors.Join(err, pdb.Close())
		d.cache.Unref()
		return nil, faulted(op, err)
	}
	d.infos, d.compactor = newInfos(), newCompactor(d)
	if d.older != "" {
		if err := d.migrate(d.older); err != nil {
			err = errors.Join(err, pdb.Close())
			d.cache.Unref()
			return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op,
				Err: refusal("the store of an older version cannot be taken over: " + faultOf(err))}
		}
	}
	d.view = &view{snap: pdb.NewSnapshot(), meta: d.head, forms: &d.forms, refs: 1}
	if d.meters, err = newMeters(d); err != nil {
		err = errors.Join(err, d.view.snap.Close(), pdb.Close())
		d.cache.Unref()
		return nil, faulted(op, err)
	}
	go d.committer()
	go d.syncer()
	go d.compactor.run()
	return d, nil
}

// load reads or makes the N rows.
func (d *DB) load() error {
	schema, err := get(d.pdb, schemaKey)
	if err != nil {
		return err
	}
	if schema == nil {
		it, err := d.pdb.NewIter(nil)
		if err != nil {
			return err
		}
		empty := !it.First()
		if err := it.Close(); err != nil {
			return err
		}
		if !empty {
			return refusal("the directory holds another kind of store")
		}
		return d.pdb.Set(schemaKey, []byte(Schema), pebble.Sync)
	}
	switch string(schema) {
	case Schema:
	case schemaFirst, schemaSecond, schemaThird:
		d.older = string(schema)
	default:
		return refusal(fmt.Sprintf("schema version %q is not known; this program reads %q", schema, Schema))
	}
	legacy, err := get(d.pdb, legacyKey)
	if err != nil {
		return err
	}
	d.legacy = legacy != nil || d.older == schemaFirst
	v, err := get(d.pdb, headKey)
	if err != nil || v == nil {
		return err
	}
	d.head, err = decodeMeta(v)
	return err
}

// migrate takes over a store of an older schema. An older program refuses it
// from then on. When it is interrupted it begins again.
func (d *DB) migrate(from string) error {
	if err := d.rebuildOrders(); err != nil {
		return err
	}
	b := d.pdb.NewBatch()
	err := b.Set(schemaKey, []byte(Schema), nil)
	if from == schemaFirst {
		err = errors.Join(err, b.Set(legacyKey, []byte(schemaFirst), nil))
	}
	if err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// Legacy reports whether the store may hold documents that a program of the
// first schema ingested.
func (d *DB) Legacy() bool { return d.legacy }

// get returns a copy of a value, nil when absent.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, c, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, c.Close()
}

// enter takes the current view for a read. The caller leaves it.
func (d *DB) enter(op string) (*view, error) {
	if d.failed.Load() {
		return nil, errStopped(op)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed(op)
	}
	d.readers++
	d.view.refs++
	return d.view, nil
}

func (d *DB) leave(v *view) {
	d.mu.Lock()
	d.readers--
	if d.readers == 0 {
		d.idle.Broadcast()
	}
	d.mu.Unlock()
	d.release(v)
}

func (d *DB) release(v *view) {
	d.mu.Lock()
	v.refs--
	last := v.refs == 0
	d.mu.Unlock()
	if last {
		if err := v.snap.Close(); err != nil {
			d.opts.Logger.Error("close snapshot", "error", faultOf(err))
		}
	}
}

// publish makes v the view of new readers.
func (d *DB) publish(v *view) {
	d.mu.Lock()
	old := d.view
	d.view = v
	d.mu.Unlock()
	d.release(old)
}

func errStopped(op string) error {
	return fhir.Errorf(fhir.Unavailable, op, "the store has stopped after a failed write to disk; a restart is needed")
}

func errClosed(op string) error {
	return fhir.Errorf(fhir.Unavailable, op, "the store is closed")
}

// fail stops the store for good.
func (d *DB) fail(why error) {
	d.lately.off.Store(true)
	if !d.failed.Swap(true) {
		d.opts.Logger.Error("store stopped", "error", faultOf(why))
	}
}

// Close waits for commits and reads under way. A store that has stopped is
// left as it is: only the end of the process lets go of its files.
func (d *DB) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.lately.off.Store(true)
	close(d.compactor.stop)
	for d.readers > 0 {
		d.idle.Wait()
	}
	d.mu.Unlock()
	<-d.compactor.done
	close(d.in)
	<-d.done
	unmetered := d.meters.reg.Unregister()
	if d.failed.Load() {
		return faulted("pebblestore.Close", unmetered)
	}
	d.release(d.view)
	err := errors.Join(unmetered, d.results.close(), d.pdb.Close())
	d.cache.Unref()
	return faulted("pebblestore.Close", err)
}

// Watch is of store.Store.
func (d *DB) Watch(fn func(store.Commit)) (stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.nextID
	d.nextID++
	d.watches[id] = fn
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watches, id)
	}
}

// LastSeq is of store.Store.
func (d *DB) LastSeq() store.Seq {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.view.meta.t
}

// Stats is of store.Store.
func (d *DB) Stats() store.Stats {
	v, err := d.enter("pebblestore.Stats")
	if err != nil {
		return store.Stats{}
	}
	defer d.leave(v)
	return store.Stats{DiskBytes: d.pdb.Metrics().DiskSpaceUsage(), Resources: v.meta.resources, Seq: v.meta.t,
		Log: v.meta.leaves}
}

// Compact is of store.Store.
func (d *DB) Compact(ctx context.Context) error {
	v, err := d.enter("pebblestore.Compact")
	if err != nil {
		return err
	}
	defer d.leave(v)
	if err := d.compactAll(ctx, v); err != nil {
		return faulted("pebblestore.Compact", err)
	}
	if err := d.pdb.Flush(); err != nil {
		return faulted("pebblestore.Compact", err)
	}
	return faulted("pebblestore.Compact", d.pdb.Compact(ctx, []byte{0}, []byte{0xff}, true))
}

func closing(c io.Closer, err *error) {
	if e := c.Close(); e != nil && *err == nil {
		*err = e
	}
}
