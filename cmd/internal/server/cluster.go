package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/membership"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster"
	"pulsegate/fhir/cluster/datadir"
	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/cluster/mirror"
	"pulsegate/fhir/cluster/nodes"
	"pulsegate/fhir/cluster/relay"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog/mongolog"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/proof/keys"
)

const (
	// snapshotEntries and snapshotEvery are the growth of the log and the time after
	// which a snapshot is made.
	snapshotEntries = 500_000
	snapshotEvery   = time.Hour
	// sweepParts is the interval at which parts of large entries are removed that no
	// entry names.
	sweepParts = time.Hour
)

// member is this server's membership in a cluster.
type member struct {
	*cluster.Member
	env  environment
	dir  *datadir.Lock
	log  *mongolog.Log
	keys sealed.Keys
	// settings holds what must be the same on all servers.
	settings nodes.Settings
	vault    *sealed.Vault
	roles    *role.Leases
	nodes    *nodes.Registry
	redis    *hints.Redis // nil without Redis
	// store is the store of this server, through the relay if there is one.
	store database
	relay *relay.Store // nil without Redis
	peers *relay.Server
	// mirror is nil if there is none. Only the server with its role runs it.
	mirror *mirror.Mirror

	wake   chan struct{}
	bell   atomic.Pointer[hints.Redis]
	offset atomic.Int64 // of this server's clock, in nanoseconds
	// strict is set while this server serves. It does not begin, nor end, with a
	// refusal of its own records.
	strict atomic.Bool

	work    sync.WaitGroup // ends with stop
	stop    context.CancelFunc
	serving sync.WaitGroup // ends with closers
	started time.Time
	closers closers
}

// join founds the cluster of the settings or joins it.
func join(ctx context.Context, env environment) (_ *member, err error) {
	m := &member{env: env, wake: make(chan struct{}, 1), started: env.now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.dir, err = datadir.Acquire(env.config.Data); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	m.closers.add(m.dir.Close)
	if m.settings, err = agreedSettings(env); err != nil {
		return nil, err
	}
	if m.keys, err = sealed.ReadKeys(env.config.ClusterKeyFile); err != nil {
		return nil, err
	}
	if err := m.openLog(ctx); err != nil {
		return nil, err
	}
	if err := m.measureClock(ctx); err != nil {
		return nil, err
	}
	o := storeOptions(env)
	o.Clock = m.stampTime
	o.Shared = &pebblestore.Shared{Node: m.node(), Wake: m.wake, Ring: m.ring}
	m.Member, err = cluster.Open(ctx, cluster.Options{Log: m.log, Snapshots: m.log.Snapshots(), Dir: storeDir(env),
		Store: o, Prepare: m.shareKeys, Clock: env.now, Logger: env.log})
	if err != nil {
		return nil, err
	}
	m.closers.add(func() error { return m.DB.Close() })
	m.store = m.DB
	// Before others send their commits, whose rows depend on the parameters.
	if err := env.followParameters(ctx, m.DB, &m.closers); err != nil {
		return nil, err
	}
	if err := m.connect(); err != nil {
		return nil, err
	}
	m.store = timely{m.store, m}
	if err := m.nodes.Admit(ctx); err != nil {
		return nil, admin.Advise(err, "give this server the same settings, or permit a change from server to server "+
			"with `pulsegate cluster roll` on a running server")
	}
	if m.vault, err = sealed.Open(ctx, m.store, m.keys); err != nil {
		return nil, err
	}
	if m.roles, err = role.New(role.Options{State: m.store, Node: m.node(), Dir: m.dir.ID(), Lease: env.lease,
		Clock: time.Now, Logger: env.log}); err != nil {
		return nil, err
	}
	if err := m.openMirror(); err != nil {
		return nil, err
	}
	m.noteClock(nil)
	env.log.Info("member of a cluster", "node", m.node(), "entry", m.Position().Index, "founded", m.Founded,
		"redis", m.redis != nil)
	m.run(ctx)
	return m, nil
}

// shareKeys puts the keys of a server that is alone among the secrets of the cluster that
// it is about to found. No other process can be faster then, and make its own keys.
func (m *member) shareKeys(ctx context.Context, st *pebblestore.DB) error {
	// If the server has left another cluster, its files are newer than those secrets.
	if err := sealed.Clear(ctx, st); err != nil {
		return err
	}
	vault, err := sealed.Open(ctx, st, m.keys)
	if err == nil {
		_, err = keys.Import(ctx, m.env.config.Data, vault, m.env.now)
	}
	if err == nil {
		_, err = authn.ImportKey(ctx, m.env.config.Data, vault)
	}
	if err == nil {
		_, err = audit.ImportNotary(ctx, notaryOptions(m.env, st, nil), vault)
	}
	return err
}

// openMirror prepares the mirror of the settings.
func (m *member) openMirror() error {
	name := m.env.config.MongoDBMirror
	if name == "" {
		return nil
	}
	db, err := m.log.Database(name)
	if err == nil {
		m.mirror, err = mirror.New(mirror.Options{Store: m.store, DB: db, Source: m.source(), Clock: m.env.now,
			Logger: m.env.log})
	}
	if err != nil {
		return fmt.Errorf("mongodb-mirror: %w", err)
	}
	return nil
}

// source names the store to the mirror, which is emptied when the log was restored.
func (m *member) source() string {
	return fmt.Sprintf("%x/%d", m.Identity.Cluster, m.Identity.Epoch)
}

func (m *member) openLog(ctx context.Context) (err error) {
	if m.log, err = membership.OpenLog(ctx, m.env.config); err != nil {
		return err
	}
	m.closers.add(func() error { return m.log.Close(context.Background()) })
	return nil
}

// connect opens the connection to Redis, the relay and the list of live processes.
func (m *member) connect() (err error) {
	c := m.env.config
	if c.Redis != "" {
		address, err := m.peerAddress()
		if err != nil {
			return err
		}
		m.redis, err = membership.OpenRedis(c, m.Identity.Cluster, m.keys, hints.Options{Wake: m.wake,
			Self: hints.Holder{Node: m.node(), Address: address, Dir: m.dir.ID()}, Logger: m.env.log})
		if err != nil {
			return err
		}
		m.closers.add(m.redis.Close)
		if m.clockError() != nil {
			m.redis.Resign(resignFor)
		}
		m.bell.Store(m.redis)
		if err := m.openRelay(); err != nil {
			return err
		}
	}
	o := nodes.Options{Self: m.self, State: m.store, Clock: time.Now, Logger: m.env.log,
		Interval: m.env.lease / 3} // 0 is the default
	if m.redis != nil {
		o.Beats = m.redis
	}
	m.nodes = nodes.New(o)
	return nil
}

// openRelay opens the relay and, if other servers may send their commits to this one,
// its listener.
func (m *member) openRelay() error {
	trust, err := relay.NewTrust(m.keys, time.Now)
	if err != nil {
		return err
	}
	m.relay, err = relay.New(relay.Options{Local: m.DB, Lease: m.redis, Trust: trust,
		Instance: m.redis.Self().Instance, Clock: time.Now, Logger: m.env.log})
	if err != nil {
		return err
	}
	m.closers.add(func() error { m.relay.Stop(); return nil })
	m.store = m.relay
	if m.env.config.PeerListen == "" {
		return nil
	}
	l, err := net.Listen("tcp", m.env.config.PeerListen)
	if err != nil {
		return fmt.Errorf("peer-listen: %w", err)
	}
	m.peers = relay.NewServer(m.relay)
	m.closers.addListener(l)
	m.closers.add(m.peers.Close)
	m.serving.Go(func() {
		if err := m.peers.Serve(l); err != nil {
			m.env.log.Error("the listener for other servers has ended", "error", err)
			m.redis.Resign(time.Hour)
		}
	})
	return nil
}

// peerAddress returns the address at which other servers reach this one, or "" if they
// send it no commits.
func (m *member) peerAddress() (string, error) {
	c := m.env.config
	if c.PeerListen == "" || c.PeerAddress != "" {
		return c.PeerAddress, nil
	}
	host, port, err := net.SplitHostPort(c.PeerListen)
	if err != nil || port == "0" {
		return "", errors.New("peer-listen: it must name a port, as in :8443")
	}
	if host == "" || net.ParseIP(host).IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("peer-address: %w", err)
		}
	}
	return net.JoinHostPort(host, port), nil
}

// node returns the name of this server.
func (m *member) node() string {
	if name := strings.TrimSpace(m.env.config.Node); name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return "unnamed"
	}
	return name
}

// self describes this server to the others.
func (m *member) self() nodes.Node {
	n := nodes.Node{Name: m.node(), Version: m.env.version, Started: m.started, Index: m.Position().Index,
		Schema: pebblestore.RowSchema, Dir: m.dir.ID(), Settings: m.settings}
	if m.redis != nil {
		h := m.redis.Self()
		n.Instance, n.Address = h.Instance, h.Address
	} else {
		n.Instance = m.instance()
	}
	return n
}

// instance identifies this process without Redis.
func (m *member) instance() string { return fmt.Sprintf("%s-%x", m.node(), m.started.UnixNano()) }

// ring tells the other servers that the log has a new entry.
func (m *member) ring(index uint64) {
	if r := m.bell.Load(); r != nil {
		r.Ring(index)
	}
}

// limits returns the buckets that the servers share.
func (m *member) limits() limit.Shared {
	return &hints.Limits{Redis: m.redis, Live: m.nodes.Live}
}

// run starts the work of a member. It ends before the store is closed.
func (m *member) run(ctx context.Context) {
	ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	m.work.Go(func() { m.nodes.Run(ctx) })
	m.work.Go(func() { m.watch(ctx) })
	works := map[string]func(context.Context, role.Term){
		"snapshots": func(ctx context.Context, _ role.Term) { m.KeepSnapshots(ctx, snapshotEntries, snapshotEvery) },
		"parts":     func(ctx context.Context, _ role.Term) { m.sweepParts(ctx) },
		"compaction": func(ctx context.Context, _ role.Term) {
			m.SetCompacting(true)
			defer m.SetCompacting(false)
			<-ctx.Done()
		},
	}
	if m.mirror != nil {
		works["mirror"] = func(ctx context.Context, _ role.Term) { m.mirror.Run(ctx) }
	}
	for name, work := range works {
		m.work.Go(func() { m.roles.Run(ctx, name, work) })
	}
}

// ready returns the reason why this server must not serve, or nil.
func (m *member) ready() error {
	if err := m.clockError(); err != nil {
		return err
	}
	return m.Ready()
}

// lost returns when this server can no longer follow the log and must start again.
func (m *member) lost(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := m.Ready(); errors.Is(err, pebblestore.ErrRejoin) {
				return fmt.Errorf("this server must start again: %w", err)
			}
		}
	}
}

func (m *member) sweepParts(ctx context.Context) {
	t := time.NewTicker(sweepParts)
	defer t.Stop()
	for {
		if n, err := m.log.Sweep(ctx); err != nil && ctx.Err() == nil {
			m.env.log.Warn("parts of entries could not be removed", "error", err)
		} else if n > 0 {
			m.env.log.Info("parts of entries were removed", "parts", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// drain lets another server put in the commits of all.
func (m *member) drain() {
	if m == nil {
		return
	}
	m.strict.Store(false)
	if m.redis == nil {
		return
	}
	m.redis.Resign(time.Hour)
	if m.peers != nil {
		m.peers.Drain()
	}
}

func (m *member) close() error {
	if m.stop != nil {
		m.stop()
	}
	if m.roles != nil {
		m.roles.Close() // it releases the roles, which needs the store
	}
	m.work.Wait()
	err := m.closers.close()
	m.serving.Wait()
	return err
}
