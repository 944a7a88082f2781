package pebblestore

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// sizedFS is a file system with a given number of free bytes.
type sizedFS struct {
	vfs.FS
	free atomic.Uint64
}

func (f *sizedFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{TotalBytes: 1 << 40, AvailBytes: f.free.Load(), UsedBytes: 1 << 40}, nil
}

// TestFillingDisk fills the disk step by step. The log warns first; then writes are
// refused with the free bytes, while AuditEvents, and with them reads and tokens,
// are still accepted; in the end everything is refused. Only the log names the
// path.
func TestFillingDisk(t *testing.T) {
	fs := &sizedFS{FS: vfs.NewMem()}
	fs.free.Store(1 << 39)
	var log bytes.Buffer // written by the committer, read while no commit runs
	d, err := Open("data-dir", Options{FS: fs, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	n := 0
	event := func(state int) store.Batch {
		n++
		b := store.Batch{Writes: []store.Write{auditEvent(fmt.Sprint("e", n), n%60, true)},
			Leaves: []store.Leaf{[]byte("leaf")}}
		if state > 0 {
			b.State = []store.StateWrite{{Key: fmt.Sprint("k", n), Value: make([]byte, state)}}
		}
		return b
	}
	resource := func() store.Batch {
		b := event(0)
		id := fmt.Sprint("d", n)
		b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: "Device", ID: id,
			JSON: []byte(fhir.Prefix("Device", id) + "}}")}})
		return b
	}
	batches := map[string]func() store.Batch{
		"read":           func() store.Batch { return event(0) },
		"token":          func() store.Batch { return event(1000) },
		"resource":       resource,
		"much state":     func() store.Batch { return event(lightState + 1) },
		"state alone":    func() store.Batch { return store.Batch{State: event(10).State} },
		"event, no leaf": func() store.Batch { return store.Batch{Writes: event(0).Writes} },
	}
	light := map[string]bool{"read": true, "token": true}
	for _, c := range []struct {
		free        uint64
		all, lights bool
		log         string
	}{
		{1 << 39, true, true, ""},
		{lowSpace - 1, true, true, "nearly full"},
		{reserve - 1, false, true, "writes are refused, reads continue"},
		{lastReserve - 1, false, false, "reads and writes are refused"},
		{reserve, true, true, ""},
		{1 << 39, true, true, "free space again"},
	} {
		fs.free.Store(c.free)
		log.Reset()
		if s := d.Space(); s.Free != c.free || s.Full() == c.all { // asks the file system
			t.Errorf("%d bytes free: %+v", c.free, s)
		}
		if !strings.Contains(log.String(), c.log) || c.log != "" && !strings.Contains(log.String(), "data-dir") {
			t.Errorf("%d bytes free: the log says %q", c.free, log.String())
		}
		for name, make := range batches {
			b := make()
			_, err := d.Commit(context.Background(), &b)
			if ok := c.all || c.lights && light[name]; ok != (err == nil) || !ok && fhir.KindOf(err) != fhir.NoSpace {
				t.Errorf("%d bytes free, %s: %v", c.free, name, err)
			}
			if err != nil && (!strings.Contains(err.Error(), fmt.Sprintf("%d MiB are free", c.free>>20)) ||
				!strings.Contains(err.Error(), "keeps 128 MiB") || strings.Contains(err.Error(), "data-dir")) {
				t.Errorf("%d bytes free, %s: %v", c.free, name, err)
			}
		}
	}
	sound(t, d)
}
