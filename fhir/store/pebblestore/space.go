package pebblestore

import (
	"log/slog"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const (
	// reserve is the disk space in bytes below which writes are refused. What is
	// left lets reads go on, each of which has to write its AuditEvent.
	reserve = 128 << 20
	// lastReserve is the space below which nothing is written any more: Pebble
	// needs it to flush what it holds, and a WAL that could not be written cannot
	// be used again.
	lastReserve = 64 << 20
	// lowSpace is the space from which the log warns.
	lowSpace = 1 << 30
	// lightState bounds the bytes of small state that go with an AuditEvent
	// below reserve: a token, or the end of one.
	lightState = 16 << 10
	// lookAtSpace is the interval at which a busy store asks the file system
	// for its free space.
	lookAtSpace = 200 * time.Millisecond
)

// Space is the state of the file system that holds the store.
type Space struct {
	// Free is the bytes that are available, Reserve those below which writes are
	// refused. Known is false when the file system does not tell.
	Free, Reserve uint64
	Known         bool
}

// Full reports whether writes are refused.
func (s Space) Full() bool { return s.Known && s.Free < s.Reserve }

// level grades the free space of the disk.
type level int

const (
	roomy level = iota
	low         // the log warns
	full        // writes are refused, reads go on
	over        // everything that writes is refused, reads too
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

// spaceWatch remembers what the file system said last, and logs what changes.
type spaceWatch struct {
	mu    sync.Mutex
	at    time.Time
	space Space
	level level
}

// Space asks the file system.
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

// logSpace tells the operator, who also learns which directory it is.
func (d *DB) logSpace(was, now level, s Space) {
	facts := []any{slog.String("dir", d.dir), slog.Uint64("free_bytes", s.Free),
		slog.Uint64("reserve_bytes", s.Reserve)}
	switch {
	case now == over:
		d.opts.Logger.Error("the disk is full: reads and writes are refused, because no AuditEvent can be written",
			facts...)
	case now == full:
		d.opts.Logger.Error("the disk is full: writes are refused, reads go on", facts...)
	case now == low:
		d.opts.Logger.Warn("the disk is nearly full", facts...)
	default:
		d.opts.Logger.Info("the disk has room again", facts...)
	}
}

// light reports whether a request is an AuditEvent with a little state, and
// nothing else: what a read, a token request or an operator's command writes.
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

// refuseForSpace refuses the requests that the disk has no room for, and
// reports whether any are left. A full disk is found here, before Pebble meets
// it.
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
