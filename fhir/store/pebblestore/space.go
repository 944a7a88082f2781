package pebblestore

import (
	"log/slog"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const (
	// reserve is the disk space in bytes below which writes are refused. The rest
	// lets reads continue, each of which writes an AuditEvent.
	reserve = 128 << 20
	// lastReserve is the space in bytes below which nothing is written. Pebble
	// needs it to flush memtables, and cannot use a WAL again after a failed write.
	lastReserve = 64 << 20
	// lowSpace is the space in bytes below which the log warns.
	lowSpace = 1 << 30
	// lightState bounds the bytes of small state, such as a token, that may
	// accompany an AuditEvent below reserve.
	lightState = 16 << 10
	// lookAtSpace is the interval at which a busy store asks the file system for
	// its free space.
	lookAtSpace = 200 * time.Millisecond
)

// Space describes the file system that holds the store.
type Space struct {
	// Free is the number of bytes available. Writes are refused below Reserve
	// bytes. Known is false if the file system does not report its free space.
	Free, Reserve uint64
	Known         bool
}

// Full reports whether writes are refused.
func (s Space) Full() bool { return s.Known && s.Free < s.Reserve }

// level classifies the free space of the disk.
type level int

const (
	roomy level = iota
	low         // the log warns
	full        // writes are refused, reads continue
	over        // writes and reads are refused
)

func (s Space) level() level {
	switch {
	case !s.Known || s.Free >= lowSpace:
		return roomy
	case s.Free >= reserve:
		return low
	case s.Free >= lastReserve:
		return full
	}
	return over
}

// spaceWatch remembers the last answer of the file system, and logs changes of the
// level.
type spaceWatch struct {
	mu    sync.Mutex
	at    time.Time
	space Space
	level level
}

// Space asks the file system for its free space.
func (d *DB) Space() Space { return d.spaceSince(0) }

// spaceSince returns an answer of the file system that is no older than age.
func (d *DB) spaceSince(age time.Duration) Space {
	w := &d.disk
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if age > 0 && now.Sub(w.at) < age {
		return w.space
	}
	u, err := d.fs.GetDiskUsage(d.dir)
	w.at, w.space = now, Space{Free: u.AvailBytes, Reserve: reserve, Known: err == nil && u.TotalBytes > 0}
	if was := w.level; w.space.level() != was {
		w.level = w.space.level()
		d.logSpace(was, w.level, w.space)
	}
	return w.space
}

// logSpace logs a change of the level. The log names the directory.
func (d *DB) logSpace(was, now level, s Space) {
	facts := []any{slog.String("dir", d.dir), slog.Uint64("free_bytes", s.Free),
		slog.Uint64("reserve_bytes", s.Reserve)}
	switch {
	case now == over:
		d.opts.Logger.Error("the disk is full: reads and writes are refused, because no AuditEvent can be written",
			facts...)
	case now == full:
		d.opts.Logger.Error("the disk is full: writes are refused, reads continue", facts...)
	case now == low:
		d.opts.Logger.Warn("the disk is nearly full", facts...)
	default:
		d.opts.Logger.Info("the disk has free space again", facts...)
	}
}

// light reports whether a request consists of AuditEvents and a little state, as
// reads, token requests and commands of the operator write.
func (r *request) light() bool {
	if r.compact != nil || len(r.series) > 0 || len(r.batch.Leaves) == 0 {
		return false
	}
	for i := range r.batch.Writes {
		if w := &r.batch.Writes[i]; w.Op != store.Put || w.Resource.Type != "AuditEvent" {
			return false
		}
	}
	n := 0
	for i := range r.batch.State {
		n += len(r.batch.State[i].Value)
	}
	return n <= lightState
}

// refuseForSpace refuses the requests for which there is not enough disk space, and
// reports whether any are left. It finds a full disk before Pebble does.
func (d *DB) refuseForSpace(reqs []*request) (left bool) {
	s := d.spaceSince(lookAtSpace)
	at := s.level()
	for _, r := range reqs {
		if at == over || at == full && !r.light() {
			r.err = fhir.Errorf(fhir.NoSpace, "pebblestore.Commit",
				"the disk is full: %d MiB are free, and the server keeps %d MiB in reserve", s.Free>>20, s.Reserve>>20)
			continue
		}
		left = true
	}
	return left
}
