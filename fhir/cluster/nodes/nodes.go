// Package nodes lists the live processes of a cluster, for `pulsegate cluster status`
// and for the share of each process of the rate limits. It also keeps processes from
// starting whose settings differ from those of the live ones (Registry.Admit).
//
// Each process states every few seconds that it lives: in Redis, and also in small
// state while this process or another one cannot reach Redis. A process counts as live for three intervals after
// it was heard, by the clock of the process that counts. A list can therefore be wrong
// for that time, and nothing depends on it that must not be.
//
// Small state:
//
//	node/INSTANCE   JSON: Node, a count that changes with each row, and whether the
//	                process reaches Redis
//	cluster/settings   JSON: the settings that processes start with, the number of starts,
//	                and the permission to change settings from process to process
package nodes

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Node describes a process.
type Node struct {
	Name     string    `json:"name"`
	Instance string    `json:"instance"`          // random, drawn when the process starts
	Address  string    `json:"address,omitempty"` // of its peer listener
	Version  string    `json:"version,omitempty"` // of the program
	Started  time.Time `json:"started,omitzero"`
	Index    uint64    `json:"index,omitempty"`  // last place of the log that it shows
	Schema   uint32    `json:"schema,omitempty"` // newest encoding of rows that it reads
	Dir      string    `json:"dir,omitempty"`    // id of its locked data directory (package datadir)
	Settings Settings  `json:"settings,omitempty"`
}

// Beats keeps the values of live processes. *hints.Redis implements it.
type Beats interface {
	// Beat states that an instance lives, and returns the values of all that do, by
	// instance. If life is 0, the instance is removed; if instance is also empty, Beat
	// only returns the values.
	Beat(ctx context.Context, instance string, value []byte, life time.Duration) (map[string][]byte, error)
}

// Options configures a Registry. Self, State and Clock are required.
type Options struct {
	// Self describes this process, as of the call. Name and Instance do not change.
	Self  func() Node
	Beats Beats // nil without Redis
	State store.State
	Clock func() time.Time
	// Interval is the time between two statements of a process. Zero means 5 s.
	Interval time.Duration
	Logger   *slog.Logger
}

const (
	prefix   = "node/"
	maxNodes = 256
	maxValue = 2048 // bytes of the JSON of a Node
	// life is the number of intervals for which a process counts as live.
	life = 3
)

// Registry lists the live processes. It is safe for concurrent use.
type Registry struct {
	opts Options
	live atomic.Int64

	mu     sync.Mutex
	seen   map[string]*sighting // by instance
	beats  uint64
	stored bool // this process has a row in small state
	asked  bool // a process that does not reach Redis needs the rows of the others
}

// sighting holds the latest description of a process.
type sighting struct {
	node Node
	row  string    // its last row in small state
	lost bool      // it did not reach Redis when it wrote the row
	at   time.Time // when it was heard
}

// New returns a Registry.
func New(o Options) *Registry {
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Registry{opts: o, seen: map[string]*sighting{}}
	r.live.Store(1)
	return r
}

// Live returns the number of live processes as of the last interval, at least 1.
func (r *Registry) Live() int { return int(r.live.Load()) }

// Run states that this process lives until ctx ends, and then that it has ended.
func (r *Registry) Run(ctx context.Context) {
	t := time.NewTicker(r.opts.Interval)
	defer t.Stop()
	for {
		if err := r.Beat(ctx); err != nil && ctx.Err() == nil {
			r.opts.Logger.Warn("this process cannot tell others that it lives", "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.Interval)
			defer cancel()
			r.leave(ctx)
			return
		}
	}
}

// Beat states once that this process lives.
func (r *Registry) Beat(ctx context.Context) error {
	self := r.opts.Self()
	value, err := json.Marshal(self)
	if err != nil {
		return fhir.Wrap("nodes.Beat", err)
	}
	lost := r.look(ctx, self.Instance, value, life*r.opts.Interval) != nil // also without Redis
	r.mu.Lock()
	asked := r.asked
	r.mu.Unlock()
	if lost || asked {
		err = r.write(ctx, self, lost)
	}
	list, lerr := r.Nodes(ctx)
	r.live.Store(int64(max(1, len(list))))
	if err == nil {
		err = lerr
	}
	return err
}

// leave states that this process has ended. If that fails, it counts as live for a
// while.
func (r *Registry) leave(ctx context.Context) {
	self := r.opts.Self()
	err := r.look(ctx, self.Instance, nil, 0)
	r.mu.Lock()
	stored := r.stored
	r.mu.Unlock()
	if stored {
		_, err = r.opts.State.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: prefix + self.Instance}}})
	}
	if err != nil {
		r.opts.Logger.Debug("other processes count this one for a while", "error", err)
	}
}

// errNoRedis is the error of a look without Redis.
var errNoRedis = fhir.Errorf(fhir.Unavailable, "nodes.look", "there is no Redis")

// look calls Redis and notes the processes that it knows.
func (r *Registry) look(ctx context.Context, instance string, value []byte, life time.Duration) error {
	if r.opts.Beats == nil {
		return errNoRedis
	}
	live, err := r.opts.Beats.Beat(ctx, instance, value, life)
	if err != nil {
		return err
	}
	now := r.opts.Clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, v := range live {
		if n, ok := parse(id, v); ok {
			r.note(n.Node, now).lost = false
		}
	}
	return nil
}

// note records that a process was heard. The caller holds mu.
func (r *Registry) note(n Node, now time.Time) *sighting {
	s := r.seen[n.Instance]
	if s == nil {
		if len(r.seen) >= maxNodes {
			return &sighting{}
		}
		s = &sighting{}
		r.seen[n.Instance] = s
	}
	s.node, s.at = n, now
	return s
}

// row is the value of a process in small state.
type row struct {
	Node
	Beats uint64 `json:"beats"` // changes with each row
	Lost  bool   `json:"lost,omitempty"`
}

// write writes the row of this process to small state. It expires after the process has
// long been forgotten.
func (r *Registry) write(ctx context.Context, self Node, lost bool) error {
	r.mu.Lock()
	r.beats++
	value, err := json.Marshal(row{self, r.beats, lost})
	r.stored = true
	r.mu.Unlock()
	if err != nil {
		return fhir.Wrap("nodes.Beat", err)
	}
	_, err = r.opts.State.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: prefix + self.Instance, Value: value,
		Expires: r.opts.Clock().Add(10 * life * r.opts.Interval)}}})
	return err
}

// Nodes returns the live processes, this one included, by name.
func (r *Registry) Nodes(ctx context.Context) ([]Node, error) {
	_ = r.look(ctx, "", nil, 0) // without Redis, small state has the processes
	rows := map[string]string{}
	err := r.opts.State.List(ctx, prefix, func(key string, value []byte) bool {
		rows[strings.TrimPrefix(key, prefix)] = string(value)
		return len(rows) < maxNodes
	})
	now := r.opts.Clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, v := range rows {
		n, ok := parse(id, []byte(v))
		if s := r.seen[id]; ok && (s == nil || s.row != v) {
			s = r.note(n.Node, now)
			s.row, s.lost = v, n.Lost
		}
	}
	self := r.note(r.opts.Self(), now)
	r.asked = false
	var list []Node
	for id, s := range r.seen {
		if _, stored := rows[id]; err == nil && s.lost && s != self && !stored {
			delete(r.seen, id) // it was known by its row, and has removed it
			continue
		}
		// If the clock was set back, the process was heard in the future.
		if age := now.Sub(s.at); age >= 0 && age < life*r.opts.Interval {
			list = append(list, s.node)
			r.asked = r.asked || s.lost && s != self
		} else if _, ok := rows[id]; !ok {
			delete(r.seen, id)
		}
	}
	slices.SortFunc(list, byName)
	return list, err
}

// Beating returns the processes that live according to beats, by name. It is for programs
// that have no store.
func Beating(ctx context.Context, beats Beats) ([]Node, error) {
	live, err := beats.Beat(ctx, "", nil, 0)
	var list []Node
	for id, v := range live {
		if n, ok := parse(id, v); ok {
			list = append(list, n.Node)
		}
	}
	slices.SortFunc(list, byName)
	return list, fhir.Wrap("nodes.Beating", err)
}

func byName(a, b Node) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Instance, b.Instance))
}

// parse decodes the value of an instance. It reports false if another program wrote it.
func parse(id string, value []byte) (n row, ok bool) {
	if len(value) > maxValue || json.Unmarshal(value, &n) != nil || n.Instance != id || id == "" {
		return row{}, false
	}
	return n, true
}
