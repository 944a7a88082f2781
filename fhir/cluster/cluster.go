// Package cluster opens the store of one process of a cluster: it founds the cluster
// or joins it, from a snapshot if need be.
//
// The packages below it: snapshot takes and installs snapshots, role gives work to
// one process at a time, hints wakes other processes and counts through Redis, relay
// sends commits to the process that puts in the entries of all, sealed keeps shared
// keys, and mirror copies resources into MongoDB for other programs.
package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/snapshot"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
)

// Options of Open.
type Options struct {
	Log       sharedlog.Log
	Snapshots sharedlog.Snapshots
	// Dir is the directory of the store. Directories beside it whose names begin with
	// its name are used for snapshots.
	Dir string
	// Store has the options of the store. Shared.Log and Shared.Identity are set by
	// Open.
	Store pebblestore.Options
	// Prepare, if set, is called with the store of a server that was alone before it
	// founds a cluster. Every process of the cluster begins with what it commits. It is
	// called again if the cluster could not be founded.
	Prepare func(ctx context.Context, st *pebblestore.DB) error
	// Clock stamps snapshots. If it is nil, time.Now is used.
	Clock  func() time.Time
	Logger *slog.Logger
}

// Member is the open store of a process, and how it came about.
type Member struct {
	*pebblestore.DB
	Identity sharedlog.Identity
	Node     string
	// Founded is set if this process founded the cluster.
	Founded bool
	// Discarded says why the process discarded the copy that it had, if it did.
	Discarded string
	// Kept is the directory of the discarded copy if it may have what the log lost: it
	// is of an epoch before a restore.
	Kept string
	// Was is the epoch of the discarded copy, if the cluster has another one.
	Was uint64

	taking chan struct{} // has an element while a snapshot is made; capacity 1
	taker  snapshot.Taker
	opts   Options
}

// Open opens the store of this process and brings it up to the log. A directory with
// the store of a server that was alone founds the cluster if the log is empty, and is
// refused otherwise.
func Open(ctx context.Context, o Options) (*Member, error) {
	const op = "cluster.Open"
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	m := &Member{opts: o, Node: o.Store.Shared.Node, taking: make(chan struct{}, 1)}
	if err := m.open(ctx); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	m.taker = m.newTaker()
	// An earlier process may have been killed in Take. The files of its checkpoint are
	// links, which keep the space of tables that the store no longer has.
	if err := os.RemoveAll(m.taker.Dir); err != nil {
		return nil, fhir.Wrap(op, errors.Join(err, m.Close()))
	}
	return m, nil
}

func (m *Member) newTaker() snapshot.Taker {
	return snapshot.Taker{Source: m.DB, Snapshots: m.opts.Snapshots, Log: m.opts.Log, Identity: m.Identity,
		Node: m.Node, Dir: m.opts.Dir + ".checkpoint", Clock: m.opts.Clock, Check: m.positionOf}
}

func (m *Member) open(ctx context.Context) error {
	had, err := pebblestore.MembershipOf(m.opts.Dir, m.opts.Store.FS)
	if err != nil {
		return err
	}
	if m.Identity, err = m.opts.Log.Identity(ctx); err != nil {
		return err
	}
	if m.Identity == (sharedlog.Identity{}) {
		return m.found(ctx, had)
	}
	if err := pebblestore.CheckSchema(m.Identity.Schema); err != nil {
		return err // before a snapshot is installed, or anything is discarded
	}
	if had.Alone() {
		return fmt.Errorf("%s holds the store of a server that was alone, and the cluster has a store of its own: "+
			"move the data directory away, and this server joins with an empty one", m.opts.Dir)
	}
	if had.Exists && had.Cluster != m.Identity.Cluster {
		return fmt.Errorf("%s holds the store of another cluster: move the data directory away, or name the other database",
			m.opts.Dir)
	}
	if had.Exists && had.Epoch != m.Identity.Epoch {
		m.Was = had.Epoch
	}
	if had.Exists {
		m.DB, err = m.openStore(false)
		switch {
		case !errors.Is(err, pebblestore.ErrRejoin) || errors.Is(err, pebblestore.ErrSchema):
			return err
		case m.Was == 0 && errors.Is(err, sharedlog.ErrDiverged):
			// The copy may be the last one that has what the log lost.
			return fmt.Errorf("the database was restored to an earlier state, or is not the one of this server: "+
				"stop all servers and run `pulsegate cluster restore`: %w", err)
		}
		m.Discarded = err.Error()
		if err := m.discard(); err != nil {
			return err
		}
	}
	return m.join(ctx)
}

// discard removes the copy of this process, or sets it aside if it may have what the
// log lost.
func (m *Member) discard() error {
	if m.Was == 0 {
		m.opts.Logger.Warn("the copy of the store cannot follow the log and is discarded", "reason", m.Discarded)
		return os.RemoveAll(m.opts.Dir)
	}
	m.Kept = fmt.Sprintf("%s.epoch-%d", m.opts.Dir, m.Was)
	m.opts.Logger.Warn("the log was restored; the copy from before is set aside, and may be removed",
		"reason", m.Discarded, "dir", m.Kept)
	return errors.Join(os.RemoveAll(m.Kept), os.Rename(m.opts.Dir, m.Kept))
}

// join begins with a snapshot, or with the log if it has none.
func (m *Member) join(ctx context.Context) error {
	if err := os.RemoveAll(m.opts.Dir); err != nil { // an empty store
		return err
	}
	newest, err := snapshot.Newest(ctx, m.opts.Snapshots, m.opts.Log, m.Identity)
	if err != nil {
		return err
	}
	if newest == nil {
		m.DB, err = m.openStore(false)
		if errors.Is(err, pebblestore.ErrRejoin) {
			err = fmt.Errorf("the log does not begin at its first entry, and there is no snapshot to join from: %w", err)
		}
		return err
	}
	m.opts.Logger.Info("joining from a snapshot", "entry", newest.At.Index, "files", len(newest.Files),
		"bytes", newest.Bytes())
	if err := snapshot.Install(ctx, m.opts.Snapshots, newest, m.opts.Dir); err != nil {
		return err
	}
	m.DB, err = m.openStore(true)
	return err
}

// positionOf opens the checkpoint in dir.
func (m *Member) positionOf(_ context.Context, dir string) (sharedlog.Position, error) {
	return pebblestore.PositionOf(dir, m.opts.Store.FS)
}

func (m *Member) openStore(adopt bool) (*pebblestore.DB, error) {
	return pebblestore.Open(m.opts.Dir, m.shared(func(s *pebblestore.Shared) { s.Adopt = adopt }))
}

// shared returns the options of the store, with the log and a change.
func (m *Member) shared(change func(*pebblestore.Shared)) pebblestore.Options {
	o := m.opts.Store
	s := *o.Shared
	s.Log, s.Identity = m.opts.Log, m.Identity
	change(&s)
	o.Shared = &s
	return o
}

// found makes a new cluster. Of several processes that try, one succeeds.
func (m *Member) found(ctx context.Context, had pebblestore.Membership) (err error) {
	if had.Exists && !had.Alone() {
		if had.Position != (sharedlog.Position{}) {
			return fmt.Errorf("%s holds the store of a cluster, and the database has none: name the right database, "+
				"or move the data directory away", m.opts.Dir)
		}
		// Founding was interrupted before there was a cluster.
		if err := pebblestore.Leave(m.opts.Dir, m.opts.Store.FS); err != nil {
			return err
		}
		if had, err = pebblestore.MembershipOf(m.opts.Dir, m.opts.Store.FS); err != nil {
			return err
		}
	}
	m.Identity = sharedlog.Identity{Epoch: 1, Schema: pebblestore.RowSchema}
	if _, err := rand.Read(m.Identity.Cluster[:]); err != nil {
		return err
	}
	if !had.Alone() {
		return m.claim(ctx, func() error { return m.join(ctx) })
	}
	// Others begin from a snapshot of this store, so it must be there before they
	// learn that there is a cluster.
	m.opts.Logger.Info("founding a cluster with the store of this server")
	if err := m.prepare(ctx); err != nil {
		return err
	}
	if m.DB, err = pebblestore.Open(m.opts.Dir,
		m.shared(func(s *pebblestore.Shared) { s.Found = true })); err == nil {
		err = m.publishBase(ctx)
	}
	if err == nil {
		return nil
	}
	// The store is that of a lone server again.
	if m.DB != nil {
		err = errors.Join(err, m.DB.Close())
	}
	return errors.Join(err, pebblestore.Leave(m.opts.Dir, m.opts.Store.FS))
}

// prepare calls Options.Prepare.
func (m *Member) prepare(ctx context.Context) error {
	if m.opts.Prepare == nil {
		return nil
	}
	o := m.opts.Store
	o.Shared = nil
	st, err := pebblestore.Open(m.opts.Dir, o)
	if err != nil {
		return err
	}
	return errors.Join(m.opts.Prepare(ctx, st), st.Close())
}

// publishBase makes the snapshot from which others begin, and then the cluster.
func (m *Member) publishBase(ctx context.Context) error {
	taker := m.newTaker()
	base, err := taker.Take(ctx)
	if err != nil {
		return err
	}
	return m.claim(ctx, func() error {
		return errors.Join(errors.New("another server founded the cluster at the same moment: "+
			"move the data directory of one of them away"), m.opts.Snapshots.Remove(ctx, base))
	})
}

// claim makes m.Identity that of the cluster. If another process was faster, it takes
// over its identity and calls lost.
func (m *Member) claim(ctx context.Context, lost func() error) error {
	ok, err := m.opts.Log.SetIdentity(ctx, sharedlog.Identity{}, m.Identity)
	if !ok {
		// The answer may have been lost, but not the identity.
		now, rerr := m.opts.Log.Identity(ctx)
		switch {
		case rerr != nil || now == (sharedlog.Identity{}):
			return errors.Join(err, rerr, errors.New("the cluster could not be entered into the database"))
		case now != m.Identity:
			m.Identity = now
			return lost()
		}
	}
	m.Founded = true
	if m.DB == nil {
		m.DB, err = m.openStore(false)
		return err
	}
	return nil
}

// Snapshot makes a snapshot, after one that this process is making. Several processes may
// make snapshots at a time.
func (m *Member) Snapshot(ctx context.Context) (*sharedlog.Manifest, error) {
	select {
	case m.taking <- struct{}{}:
	case <-ctx.Done():
		return nil, &fhir.Error{Kind: fhir.Unavailable, Op: "cluster.Snapshot", Err: ctx.Err()}
	}
	defer func() { <-m.taking }()
	m.taker.Identity.Schema = max(m.taker.Identity.Schema, m.WrittenSchema())
	return m.taker.Take(ctx)
}

// Snapshots returns the snapshots of the cluster, newest first.
func (m *Member) Snapshots(ctx context.Context) ([]*sharedlog.Manifest, error) {
	all, err := m.opts.Snapshots.List(ctx)
	return slices.DeleteFunc(all, func(s *sharedlog.Manifest) bool { return !s.Of(m.Identity) }), err
}

// SharedLog returns the log of the cluster.
func (m *Member) SharedLog() sharedlog.Log { return m.opts.Log }

// KeepSnapshots makes a snapshot whenever the log has grown by entries since the last
// one, or has grown and a time has passed, until ctx ends. It is the work of the role
// that makes snapshots.
func (m *Member) KeepSnapshots(ctx context.Context, entries uint64, every time.Duration) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		if err := m.keepSnapshot(ctx, entries, every); err != nil && ctx.Err() == nil {
			m.opts.Logger.Error("the snapshots cannot be brought up to date", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// lookEvery is the time between two looks whether a snapshot is due.
const lookEvery = 30 * time.Second

func (m *Member) keepSnapshot(ctx context.Context, entries uint64, every time.Duration) error {
	all, err := m.Snapshots(ctx)
	if err != nil {
		return err
	}
	at := m.Position().Index
	if len(all) > 0 {
		newest := all[0]
		grown := at - min(at, newest.At.Index)
		if grown == 0 || grown < entries && m.opts.Clock().Sub(newest.Created) < every {
			return nil
		}
	} else if at == 0 {
		return nil
	}
	_, err = m.Snapshot(ctx)
	return err
}

// Restore raises the epoch of a cluster whose log was restored to an earlier state,
// while all of its processes are stopped. Each of them then discards its copy and
// begins again. It returns the new identity.
func Restore(ctx context.Context, log sharedlog.Log) (sharedlog.Identity, error) {
	const op = "cluster.Restore"
	old, err := log.Identity(ctx)
	if err != nil {
		return old, fhir.Wrap(op, err)
	}
	if old == (sharedlog.Identity{}) {
		return old, fhir.Errorf(fhir.NotFound, op, "the database holds no cluster")
	}
	now := old
	now.Epoch++
	ok, err := log.SetIdentity(ctx, old, now)
	if err == nil && !ok {
		err = fhir.Errorf(fhir.Conflict, op, "another command changed the cluster at the same moment")
	}
	return now, fhir.Wrap(op, err)
}
