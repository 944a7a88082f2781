package pebblestore

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/find"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/readcache"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
	"pulsegate/fhir/store/pebblestore/internal/tier"
	"pulsegate/fhir/store/sharedlog"
)

// Options of a store. The zero value is a store on disk with defaults.
type Options struct {
	// FS is the file system. If it is nil, the store is on disk.
	FS vfs.FS
	// Clock returns the time for lastUpdated. If it is nil, time.Now is used.
	Clock func() time.Time
	// Logger receives warnings and errors. If it is nil, they are discarded.
	Logger *slog.Logger
	// CacheBytes is the size of the block cache in bytes. Zero means 64 MiB.
	CacheBytes int64
	// SpillBytes bounds the temporary files in which searches sort, in bytes. Zero
	// means 1 GiB.
	SpillBytes int64
	// Registry returns the search parameters, including those defined at run time, as of
	// the newest commit that this process shows. If it is nil, they are search.Builtin.
	Registry func() *search.Registry
	// NoSync acknowledges commits without an fsync. A crash then loses commits; it is
	// for tests and for stores that are thrown away.
	NoSync bool
	// Shared, if set, connects the store to the log through which several processes
	// share it. Commits are then durable in the log, and the files are a copy that can
	// be replaced.
	Shared *Shared

	bounds limits
}

// limits bounds the memory of searches. Tests make it small.
type limits struct {
	find.Bounds
	run    int // bytes of a sorted run in memory
	guards int // guards of a generation
}

// DB is an open store. It is safe for concurrent use.
type DB struct {
	opts   Options
	fs     vfs.FS
	dir    string
	pdb    *pebble.DB
	cache  *pebble.Cache
	wopts  *pebble.WriteOptions
	failed atomic.Bool
	why    atomic.Pointer[error] // reason for failed, if it was not a failed write
	meters *meters

	reads     *readcache.Cache
	templates *rows.Templates
	tier      *tier.Tier
	search    *find.Searcher
	compactor *compactor
	replica   *replica // nil if the store is not shared
	damage    damage

	mu      sync.Mutex
	idle    *sync.Cond // signaled when readers is 0
	view    *view
	readers int
	closed  bool
	watches map[uint64]func(store.Commit)
	nextID  uint64

	in     chan *request
	toSync chan *group
	done   chan struct{}

	// The fields below belong to the goroutine of the committer or of the replica.
	position         rows.Position // in the log, if the store is shared
	head             rows.Head
	groups           uint64
	writtenTemplates *simplelru.LRU[[16]byte, struct{}] // templates whose F row is known to exist
	edge             edge
	lastSweep        time.Time
	disk             spaceWatch
	days             *rows.Days
	guards           *guards
	schemas          schemas

	// runtime is set if the store may have indexes of parameters defined at run time.
	runtime    atomic.Bool
	parameters atomic.Pointer[parameters]
}

var _ store.Store = (*DB)(nil)

// Open opens the store in dir, or creates it. Only one process may have it open.
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
	if opts.bounds == (limits{}) {
		opts.bounds = limits{Bounds: find.DefaultBounds, run: 8 << 20, guards: maxGuards}
	}
	d := &DB{opts: opts, fs: opts.FS, dir: dir, watches: map[uint64]func(store.Commit){},
		in: make(chan *request, 256), toSync: make(chan *group, 1), done: make(chan struct{}),
		reads: readcache.New(), days: rows.NewDays()}
	d.schemas.newest = RowSchema
	if opts.Shared != nil && opts.Shared.newest != 0 {
		d.schemas.newest = opts.Shared.newest
	}
	// fails only for a size below one
	d.writtenTemplates, _ = simplelru.NewLRU[[16]byte, struct{}](rows.MaxTemplates, nil)
	if d.fs == nil {
		d.fs = vfs.Default
	}
	opts.NoSync = opts.NoSync || opts.Shared != nil
	d.opts.NoSync = opts.NoSync
	d.idle = sync.NewCond(&d.mu)
	d.wopts = pebble.Sync
	if opts.NoSync {
		d.wopts = pebble.NoSync
	}
	d.cache = pebble.NewCache(opts.CacheBytes)
	po := &pebble.Options{
		// Up to four memtables are in memory under load, so each is small. Twice
		// the usual number of their files go into one compaction, so that
		// compactions rewrite no more.
		FS: d.fs, Cache: d.cache, MemTableSize: 8 << 20, MemTableStopWritesThreshold: 4,
		L0CompactionThreshold: 8, L0StopWritesThreshold: 24, MaxOpenFiles: 1000,
		FormatMajorVersion: pebble.FormatNewest, Merger: rows.Merger, Logger: &pebbleLog{db: d},
		EventListener: d.events(),
	}
	po.EnsureDefaults()
	pdb, err := pebble.Open(dir, po)
	if err != nil {
		d.cache.Unref()
		return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op,
			Err: fault.Refusal("the store cannot be opened: " + fault.Describe(err))}
	}
	d.pdb, d.templates = pdb, rows.NewTemplates()
	results, err := sorted.NewResults(d.fs, d.fs.PathJoin(dir, "sorted"), opts.Clock, opts.bounds.run, opts.SpillBytes)
	if err == nil {
		err = d.load()
	}
	if err != nil {
		tooOld := errors.Is(err, ErrSchema)
		err = errors.Join(err, pdb.Close())
		d.cache.Unref()
		err = fault.Refusal("the store cannot be opened: " + fault.Describe(err))
		if tooOld {
			err = schemaError{err}
		}
		return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
	}
	if d.tier, err = tier.New(); err != nil {
		err = errors.Join(err, pdb.Close())
		d.cache.Unref()
		return nil, fault.Wrap(op, err)
	}
	d.compactor = newCompactor(d)
	d.guards = newGuards(d.head.Seq, opts.bounds.guards)
	d.search = find.New(results, opts.bounds.Bounds)
	if err := d.share(); err != nil {
		err = errors.Join(err, pdb.Close())
		d.cache.Unref()
		return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
	}
	d.view = d.newView()
	if d.meters, err = newMeters(d); err != nil {
		err = errors.Join(err, d.view.Reader.Close(), pdb.Close())
		d.cache.Unref()
		return nil, fault.Wrap(op, err)
	}
	if d.replica != nil {
		go d.replica.run()
	} else {
		go d.committer()
		go d.syncer()
	}
	go d.compactor.run()
	return d, nil
}

// load reads the N rows, or writes them in a new store.
func (d *DB) load() error {
	schema, err := rows.Get(d.pdb, keys.Schema)
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
			return fault.Refusal("the directory does not hold a Pulsegate store")
		}
		schema = version(d.firstSchema())
		if err := d.pdb.Set(keys.Schema, schema, pebble.Sync); err != nil {
			return err
		}
	}
	if err := d.schemas.load(schema); err != nil {
		return err
	}
	if d.opts.Shared == nil && d.schemas.stored < RowSchema { // no other process reads it
		d.schemas.stored = RowSchema
		if err := d.pdb.Set(keys.Schema, version(RowSchema), pebble.Sync); err != nil {
			return err
		}
	}
	v, err := rows.Get(d.pdb, keys.Head)
	if err != nil || v == nil {
		return err
	}
	d.runtime.Store(true) // until the first stage has looked
	d.head, err = rows.DecodeHead(v)
	return err
}

// firstSchema returns the schema of a new store.
func (d *DB) firstSchema() uint32 {
	if d.opts.Shared != nil {
		return min(d.schemas.newest, max(oldestSchema, d.opts.Shared.Identity.Schema))
	}
	return RowSchema
}

// share brings a shared store up to date with the log.
func (d *DB) share() error {
	d.compactor.enabled.Store(d.opts.Shared == nil)
	if d.opts.Shared == nil {
		return d.checkAlone()
	}
	conf, err := d.opts.Shared.setDefaults()
	if err != nil {
		return err
	}
	d.schemas.raise(max(conf.Identity.Schema, d.schemas.stored))
	r, err := newReplica(d, conf)
	if err != nil {
		return err
	}
	if r.meters, err = newLogMeters(r); err != nil {
		return err
	}
	if err = d.loadPosition(r.ctx, conf); err == nil {
		err = r.catchUp()
	}
	if err != nil {
		r.stop()
		return errors.Join(err, r.meters.reg.Unregister())
	}
	r.index.Store(d.position.Index)
	d.replica = r
	return nil
}

// view is the durable state that readers see.
type view struct {
	snapshot.Snapshot
	position sharedlog.Position
	group    uint64 // groups written since the store was opened, up to this one
	refs     int    // guarded by DB.mu; the DB counts as one
}

// newView takes a snapshot of the applied groups. The caller releases it.
func (d *DB) newView() *view {
	return &view{Snapshot: snapshot.Snapshot{Reader: d.pdb.NewSnapshot(), Head: d.head, Templates: d.templates,
		Tier: d.tier},
		position: d.position.Position, group: d.groups, refs: 1}
}

// enter returns the current view for a read. The caller passes it to leave.
func (d *DB) enter(op string) (*view, error) {
	if d.failed.Load() {
		return nil, d.errStopped(op)
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
		if err := v.Reader.Close(); err != nil {
			d.opts.Logger.Error("close snapshot", "error", fault.Describe(err))
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

func errClosed(op string) error {
	return fhir.Errorf(fhir.Unavailable, op, "the store is closed")
}

// fail stops the store for good.
func (d *DB) fail(why error) {
	d.reads.Stop()
	if !d.failed.Swap(true) {
		d.opts.Logger.Error("store stopped", "error", fault.Describe(why))
	}
}

// Close waits for running commits and reads. A store that has stopped keeps its
// files open until the process ends.
func (d *DB) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.reads.Stop()
	close(d.compactor.stop)
	if d.replica != nil {
		close(d.replica.closing)
	}
	for d.readers > 0 {
		d.idle.Wait()
	}
	d.mu.Unlock()
	<-d.compactor.done
	close(d.in)
	<-d.done
	unmetered := d.meters.reg.Unregister()
	if d.failed.Load() && d.why.Load() == nil {
		return fault.Wrap("pebblestore.Close", unmetered)
	}
	d.release(d.view)
	err := errors.Join(unmetered, d.search.Close(), d.pdb.Close())
	d.cache.Unref()
	return fault.Wrap("pebblestore.Close", err)
}

// Watch implements store.Store.
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

// LastSeq implements store.Store.
func (d *DB) LastSeq() store.Seq {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.view.Head.Seq
}

// Stats implements store.Store.
func (d *DB) Stats() store.Stats {
	v, err := d.enter("pebblestore.Stats")
	if err != nil {
		return store.Stats{}
	}
	defer d.leave(v)
	return store.Stats{DiskBytes: d.pdb.Metrics().DiskSpaceUsage(), Resources: v.Head.Resources, Seq: v.Head.Seq,
		Log: v.Head.Leaves}
}

// Compact implements store.Store.
func (d *DB) Compact(ctx context.Context) error {
	v, err := d.enter("pebblestore.Compact")
	if err != nil {
		return err
	}
	defer d.leave(v)
	if err := d.compactAll(ctx, v); err != nil {
		return fault.Wrap("pebblestore.Compact", err)
	}
	if err := d.pdb.Flush(); err != nil {
		return fault.Wrap("pebblestore.Compact", err)
	}
	return fault.Wrap("pebblestore.Compact", d.pdb.Compact(ctx, []byte{0}, []byte{0xff}, true))
}
