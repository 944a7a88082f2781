package pebblestore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/zstd"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// stops checks that a store stops with an error that names the reason, and can be
// closed.
func stops(t *testing.T, d *pebblestore.DB, rejoin bool) {
	t.Helper()
	until(t, "the store stops", func() bool { return d.Ready() != nil })
	_, err := d.Commit(context.Background(), batchOf(device("late", "")))
	_, err2 := d.Get(context.Background(), "k")
	for _, err := range []error{d.Ready(), err, err2, d.Sync(context.Background())} {
		wantKind(t, err, fhir.Unavailable)
		if errors.Is(err, pebblestore.ErrRejoin) != rejoin {
			t.Fatalf("error %v", err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustRejoin(t *testing.T, p *process) {
	t.Helper()
	d, err := p.open()
	if err == nil {
		err = d.Close()
		t.Fatal("the store was opened", err)
	}
	if !errors.Is(err, pebblestore.ErrRejoin) || fhir.KindOf(err) != fhir.Unavailable {
		t.Fatal(err)
	}
}

func ready(p *process) { p.conf.Confirmed = time.Hour }

func TestRejoinAfterRestore(t *testing.T) {
	_, g, dbs := lazy(t, 2, ready)
	g.closed = true // the stores are not equal
	must(t, dbs[0], batchOf(device("kept", "")))
	restore := g.cluster.Backup()
	must(t, dbs[0], batchOf(device("lost", "")))
	restore()
	_ = dbs[0].Sync(context.Background())
	stops(t, dbs[0], true)
	mustRejoin(t, g.processes[0])
	if err := dbs[1].Sync(context.Background()); err != nil || dbs[1].LastSeq() != 1 {
		t.Fatal(err)
	}
}

func TestRejoinAfterTruncation(t *testing.T) {
	_, g, dbs := lazy(t, 2, ready)
	g.closed = true
	for i := range 5 {
		must(t, dbs[0], batchOf(device(fmt.Sprint(i), "")))
	}
	if err := g.cluster.Client("operator").Truncate(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	_ = dbs[1].Sync(context.Background())
	stops(t, dbs[1], true)
	mustRejoin(t, g.processes[1])
	if err := dbs[0].Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestRejoinAfterEpoch(t *testing.T) {
	_, g, dbs := lazy(t, 2, ready)
	g.closed = true
	must(t, dbs[0], batchOf(device("d", "")))
	raised := identity
	raised.Epoch++
	if ok, err := g.cluster.Client("operator").SetIdentity(context.Background(), identity, raised); !ok || err != nil {
		t.Fatal(ok, err)
	}
	_, err := dbs[0].Commit(context.Background(), batchOf(device("e", "")))
	wantKind(t, err, fhir.Unavailable)
	stops(t, dbs[0], true)
	mustRejoin(t, g.processes[0])
}

func TestRejoinOtherCluster(t *testing.T) {
	_, g, dbs := lazy(t, 1, nil)
	must(t, dbs[0], batchOf(device("d", "")))
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	p := *g.processes[0]
	other := memlog.New(memlog.Options{})
	id := sharedlog.Identity{Cluster: [16]byte{2}, Epoch: 1, Schema: pebblestore.RowSchema}
	if ok, err := other.Client("operator").SetIdentity(context.Background(), sharedlog.Identity{}, id); !ok ||
		err != nil {
		t.Fatal(ok, err)
	}
	p.log = other.Client("node0")
	mustRejoin(t, &p)
}

// TestFound makes a store of one process the first of a cluster.
func TestFound(t *testing.T) {
	fs := vfs.NewCrashableMem()
	single, err := pebblestore.Open("", pebblestore.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	must(t, single, batchOf(device("d", "")))
	if single.Position() != (sharedlog.Position{}) || single.Ready() != nil ||
		single.Sync(context.Background()) != nil {
		t.Fatal("a store of one process has a position or is not ready")
	}
	if err := single.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblestore.PositionOf("", fs); fhir.KindOf(err) != fhir.NotFound {
		t.Fatal(err)
	}
	cluster := logOf(t, memlog.Options{})
	p := &process{fs: fs, log: cluster.Client("node0")}
	mustRejoin(t, p)
	p.conf.Found = true
	first, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	copied := vfs.NewMem()
	at, err := first.Checkpoint(context.Background(), "copy")
	if ok, err2 := vfs.Clone(fs, copied, "copy", "", vfs.CloneSync); err != nil || err2 != nil || !ok {
		t.Fatal(err, err2, ok)
	}
	if at.Index != 0 {
		t.Fatalf("position %+v", at)
	}
	must(t, first, batchOf(device("e", "")))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	p.conf.Found = false // it now has a position
	if first, err = p.open(); err != nil {
		t.Fatal(err)
	}
	q := &process{fs: copied, log: cluster.Client("node1")}
	second, err := q.open()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, []store.Store{first, second})
	// A third one that begins with nothing does not fit the log, nor does another store
	// with data.
	mustRejoin(t, &process{fs: vfs.NewCrashableMem(), log: cluster.Client("node2")})
	mustRejoin(t, &process{fs: single2(t), log: cluster.Client("node3"), conf: pebblestore.Shared{Found: true}})
	for _, d := range []*pebblestore.DB{first, second} {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// single2 returns the files of a store of one process.
func single2(t *testing.T) *vfs.MemFS {
	fs := vfs.NewCrashableMem()
	d, err := pebblestore.Open("", pebblestore.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	must(t, d, batchOf(device("d", "")))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestCheckpoint makes checkpoints while commits go on, and opens each as a process.
func TestCheckpoint(t *testing.T) {
	_, g, dbs := lazy(t, 1, nil)
	d, fs := dbs[0], g.processes[0].fs
	done := make(chan error, 1)
	stop := make(chan struct{})
	// A copy that takes long must not let the store grow without end.
	more := make(chan struct{}, 5*60)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			case <-more:
			}
			if _, err := d.Commit(context.Background(), batchOf(device(fmt.Sprint("d", i), ""))); err != nil {
				done <- err
				return
			}
		}
	}()
	for i := range 5 {
		for range 60 {
			more <- struct{}{}
		}
		until(t, "there are more commits", func() bool { return d.LastSeq() > store.Seq(20*(i+1)) })
		before := d.Position()
		dir := fmt.Sprint("copy", i)
		at, err := d.Checkpoint(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := pebblestore.PositionOf(dir, fs); err != nil || again != at || at.Index < before.Index {
			t.Fatalf("position %d, then %d, before %d, error %v", at.Index, again.Index, before.Index, err)
		}
		copied := vfs.NewCrashableMem()
		if ok, err := vfs.Clone(fs, copied, dir, "", vfs.CloneSync); !ok || err != nil {
			t.Fatal(ok, err)
		}
		p := &process{fs: copied, log: g.cluster.Client(dir)}
		c, err := p.open()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestCompactingProcesses lets all processes compact the same series at once.
func TestCompactingProcesses(t *testing.T) {
	_, g, dbs := lazy(t, 3, func(p *process) { p.conf.Poll = time.Millisecond })
	tpl := stream(1)
	n := 0
	for i := range int64(200) {
		cols := samples(200-i, 3) // backwards, so that each becomes a tail
		d := dbs[i%3]
		if _, err := commitSamples(d, &store.Batch{Series: []store.SeriesWrite{{Template: tpl,
			Columns: cols}}}); err != nil {
			t.Fatal(err)
		}
		if n += 3; i == 100 {
			for _, d := range dbs {
				d.SetCompacting(true)
			}
		}
	}
	until(t, "the series was compacted",
		func() bool { return dbs[0].Compaction().Series+dbs[1].Compaction().Series > 1 })
	for _, d := range dbs {
		if err := d.Compact(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	err := dbs[1].Scan(context.Background(), store.ScanRange{Types: []string{"Observation"}, At: dbs[1].LastSeq(),
		Filter: access.All().Filter(access.Search)}, func(*store.Found) bool { found++; return true })
	if err != nil || found != n {
		t.Fatalf("%d samples of %d, error %v", found, n, err)
	}
	if err := g.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
}

// commitSamples commits samples that were probed on a current state.
func commitSamples(d *pebblestore.DB, b *store.Batch) (r store.Result, err error) {
	for range 100 {
		if err = d.Sync(context.Background()); err != nil {
			return r, err
		}
		b.Probed = d.LastSeq()
		if r, err = d.Commit(context.Background(), b); fhir.KindOf(err) != fhir.Conflict {
			return r, err
		}
	}
	return r, err
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

// repr returns the representation of a batch.
func repr(t *testing.T, fill func(b *pebble.Batch) error) []byte {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	if err := fill(b); err != nil {
		t.Fatal(err)
	}
	out := append([]byte(nil), b.Repr()...)
	if err := errors.Join(b.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestMalformedEntries puts entries into the log that no program of ours writes. Every
// process must stop with a clear error, and apply nothing of them.
func TestMalformedEntries(t *testing.T) {
	head := func(seq uint64) []byte {
		b := binary.BigEndian.AppendUint64(nil, seq)
		b = binary.BigEndian.AppendUint64(b, 1<<50)
		return append(b, make([]byte, 16)...)
	}
	with := func(key string, value []byte) []byte {
		return repr(t, func(b *pebble.Batch) error {
			return errors.Join(b.Set([]byte("Nhead"), head(1), nil), b.Set([]byte(key), value, nil))
		})
	}
	good := with("Sk", append(make([]byte, 8), 'v'))
	cut := append([]byte(nil), good...)
	cut[len(cut)-10] = 0xff // the length of the last value
	count := append([]byte(nil), good...)
	count[8]++
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	pack := func(b []byte) []byte { return enc.EncodeAll(b, nil) }
	// A frame that states a size of 1 TiB.
	bomb := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0}
	for name, e := range map[string]*sharedlog.Entry{
		"good":    {First: 1, Count: 1, Rows: pack(good)},
		"no rows": {First: 1, Count: 1},
		"garbage": {First: 1, Count: 1, Rows: []byte("garbage")},
		"bomb":    {First: 1, Count: 1, Rows: bomb},
		"short":   {First: 1, Count: 1, Rows: pack([]byte{1, 2})},
		"cut":     {First: 1, Count: 1, Rows: pack(cut)},
		"count":   {First: 1, Count: 1, Rows: pack(count)},
		"first":   {First: 2, Count: 1, Rows: pack(good)},
		"many":    {First: 1, Count: 2, Rows: pack(good)},
		"huge":    {First: 1, Count: 1 << 60, Rows: pack(good)},
		"no head": {First: 1, Count: 1, Rows: pack(repr(t, func(b *pebble.Batch) error {
			return b.Set([]byte("Sk"), head(1), nil)
		}))},
		"other table":  {First: 1, Count: 1, Rows: pack(with("zk", nil))},
		"position":     {First: 1, Count: 1, Rows: pack(with("Nlog", make([]byte, 96)))},
		"schema":       {First: 1, Count: 1, Rows: pack(with("Nschema", []byte("5")))},
		"short change": {First: 1, Count: 1, Rows: pack(with("L\x00", nil))},
		"short id":     {First: 1, Count: 1, Rows: pack(with("Ix", nil))},
		"short row":    {First: 1, Count: 1, Rows: pack(with("Dx", nil))},
		"range": {First: 1, Count: 1, Rows: pack(repr(t, func(b *pebble.Batch) error {
			return errors.Join(b.Set([]byte("Nhead"), head(1), nil), b.DeleteRange([]byte("A"), []byte("Z"), nil))
		}))},
		"merge": {First: 1, Count: 1, Rows: pack(repr(t, func(b *pebble.Batch) error {
			return errors.Join(b.Set([]byte("Nhead"), head(1), nil), b.Merge([]byte("Sk"), head(1), nil))
		}))},
		"newer": {First: 1, Count: 1, Rows: pack(good), Schema: pebblestore.RowSchema + 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, g, dbs := lazy(t, 1, ready)
			defer dbs[0].Watch(func(store.Commit) {})()
			e.Index, e.Epoch = 1, identity.Epoch
			if err := g.cluster.Client("writer").Append(context.Background(), e); err != nil {
				t.Fatal(err)
			}
			err := dbs[0].Sync(context.Background())
			if name == "good" {
				if v, err2 := dbs[0].Get(context.Background(), "k"); err != nil || err2 != nil || string(v) != "v" {
					t.Fatal(err, err2, v)
				}
				return
			}
			wantKind(t, err, fhir.Unavailable)
			g.closed = true
			stops(t, dbs[0], name == "newer" || name == "first")
			if at, err := pebblestore.PositionOf("", g.processes[0].fs); err != nil || at.Index != 0 {
				t.Fatal(at, err)
			}
		})
	}
}
