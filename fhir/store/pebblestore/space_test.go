package pebblestore_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// fullFS is a file system that can be filled: it reports no free space and creates
// no new tables.
type fullFS struct {
	vfs.FS
	full    atomic.Bool
	refused atomic.Int32
}

func (f *fullFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	u := vfs.DiskUsage{TotalBytes: 1 << 40, AvailBytes: 1 << 39, UsedBytes: 1 << 39}
	if f.full.Load() {
		u.AvailBytes = 1 << 20
	}
	return u, nil
}

func (f *fullFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.full.Load() && strings.HasSuffix(name, ".sst") {
		f.refused.Add(1)
		return nil, syscall.ENOSPC
	}
	return f.FS.Create(name, c)
}

func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	fs := &fullFS{FS: mem}
	s, err := pebblestore.Open("", pebblestore.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	var j journal
	n := 0
	write := func() error {
		n++
		ref := fhir.Ref{Type: "Device", ID: fmt.Sprintf("d%d", n)}
		text := ref.String()
		r, err := s.Commit(ctx, &store.Batch{
			Writes: []store.Write{{Resource: fhir.Resource{Type: ref.Type, ID: ref.ID,
				JSON: []byte(fhir.Prefix(ref.Type, ref.ID) + `}}`)}}},
			State:  []store.StateWrite{{Key: text, Value: []byte(text)}},
			Leaves: []store.Leaf{store.Leaf(text)},
		})
		if err == nil {
			j.add(acked{ref: ref, t: r.Seq, leaf: r.LeafIndex, text: text})
		}
		return err
	}
	// The store asks the file system a few times per second.
	until := func(want fhir.Kind, ok bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
			err := write()
			if ok && err == nil || !ok && err != nil && fhir.KindOf(err) == want {
				return
			}
			if err != nil && fhir.KindOf(err) != fhir.NoSpace {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("full=%v: writes did not change", fs.full.Load())
	}
	for range 100 {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		fs.full.Store(true)
		until(fhir.NoSpace, false)
		acknowledged := len(j.all())
		at := s.LastSeq()
		if err := write(); fhir.KindOf(err) != fhir.NoSpace {
			t.Fatal("a write on the full disk:", err)
		}
		if s.LastSeq() != at || len(j.all()) != acknowledged {
			t.Fatal("something was written on the full disk")
		}
		if miss := lost(t, s, j.all()); miss != 0 { // reads continue
			t.Fatalf("%d acknowledged commits cannot be read on the full disk", miss)
		}
		fs.full.Store(false)
		until(0, true)
	}
	// Fill the disk while tables are created in the background.
	fs.full.Store(true)
	flush, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Compact(flush) }()
	for fs.refused.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if miss := lost(t, s, j.all()); miss != 0 {
		t.Fatalf("%d acknowledged commits cannot be read while no table can be made", miss)
	}
	fs.full.Store(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	until(0, true)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := pebblestore.Open("", pebblestore.Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		t.Fatal(err)
	}
	if miss := lost(t, c, j.all()); miss != 0 {
		t.Fatalf("%d acknowledged commits are missing after the full disk", miss)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
