package server

import (
	"context"
	"fmt"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const (
	// maxOffset is the offset from the clock of MongoDB from which a server is not
	// ready.
	maxOffset = time.Second
	// clockEvery is the interval at which the offset is measured.
	clockEvery = 5 * time.Second
	// resignFor is the time for which a server whose clock is wrong lets another one be
	// the sequencer. It is extended at each look.
	resignFor = 3 * clockEvery
)

// measureClock measures the offset of this server's clock from MongoDB's.
func (m *member) measureClock(ctx context.Context) error {
	at, roundTrip, err := m.log.ServerTime(ctx)
	if err != nil {
		return fmt.Errorf("mongodb: %w", err)
	}
	off := m.env.now().Sub(at) - roundTrip/2
	if off < 0 {
		off = min(0, off+roundTrip/2)
	} else {
		off = max(0, off-roundTrip/2)
	}
	m.offset.Store(int64(off))
	return nil
}

// watch measures the clock from time to time. It also looks whether the schema of rows was
// raised, in case that the entry that tells of it is missing.
func (m *member) watch(ctx context.Context) {
	t := time.NewTicker(clockEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			m.lookAtClock(ctx)
			id, err := m.log.Identity(ctx)
			if err == nil {
				err = m.RaiseSchema(id.Schema)
			}
			if err != nil && ctx.Err() == nil {
				m.env.log.Warn("the schema of the cluster is not known", "error", err)
			}
		}
	}
}

// lookAtClock measures the offset and acts on it. Without MongoDB, the server is not
// ready in any case.
func (m *member) lookAtClock(ctx context.Context) {
	before := m.clockError()
	if m.measureClock(ctx) == nil {
		m.noteClock(before)
	}
}

// noteClock acts on a measurement. before is what clockError returned until then.
func (m *member) noteClock(before error) {
	err := m.clockError()
	switch {
	case err != nil && before == nil:
		m.env.log.Error("this server is not ready, and refuses requests", "error", err)
	case err == nil && before != nil:
		m.env.log.Info("the clock of this server is right again")
	}
	if err != nil && m.redis != nil {
		// The sequencer's clock is that of lastUpdated at all servers.
		m.redis.Resign(resignFor)
	}
}

// clockOffset returns the offset of this server's clock from MongoDB's.
func (m *member) clockOffset() time.Duration { return time.Duration(m.offset.Load()) }

// clockError returns an error while the clock is too far off that of MongoDB.
func (m *member) clockError() error {
	if off := m.clockOffset(); off.Abs() > maxOffset {
		return fmt.Errorf("the clock of this server is %s off that of MongoDB", off.Round(time.Millisecond))
	}
	return nil
}

// stampTime returns the time for lastUpdated: that of MongoDB if this server's clock is
// wrong. A server with a wrong clock still records its start and its end, and stamps
// never go back.
func (m *member) stampTime() time.Time {
	now := m.env.now()
	if off := m.clockOffset(); off.Abs() > maxOffset {
		now = now.Add(-off)
	}
	return now
}

// timely is the store of a member. While the clock of the server is wrong, it neither
// confirms that it is up to date nor commits, so that no lifetime of a token or a
// consent is judged by that clock, and no time of it is stored.
type timely struct {
	database
	member *member
}

func (t timely) err(op string) error {
	err := t.member.clockError()
	if err == nil || !t.member.strict.Load() {
		return nil
	}
	return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
}

// Sync implements store.Store.
func (t timely) Sync(ctx context.Context) error {
	if err := t.err("server.Sync"); err != nil {
		return err
	}
	return t.database.Sync(ctx)
}

// Commit implements store.Store.
func (t timely) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if err := t.err("server.Commit"); err != nil {
		return store.Result{}, err
	}
	return t.database.Commit(ctx, b)
}
