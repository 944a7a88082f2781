package hints

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Holder describes the process that is the sequencer.
type Holder struct {
	Node     string `json:"node"`
	Instance string `json:"instance"` // random, drawn when the process starts
	Address  string `json:"address"`  // host and port of its peer listener
	// Dir identifies the data directory that the process has locked (package datadir).
	Dir string `json:"dir,omitempty"`
}

// maxHolder bounds the value of the lease in bytes.
const maxHolder = 1024

// lease holds the knowledge of this process about the lease of the sequencer.
type lease struct {
	mine string // the value of the lease while this process holds it
	look chan struct{}

	mu     sync.Mutex
	holder Holder
	until  time.Time // holder is known until then
	rest   time.Time // this process does not compete before then
}

func (l *lease) init(self Holder) {
	l.look = make(chan struct{}, 1)
	b, err := json.Marshal(struct {
		Holder
		Random string `json:"random"`
	}{self, rand.Text()})
	if err == nil && len(b) <= maxHolder && self.Address != "" {
		l.mine = string(b)
	}
}

// leaseScript takes or renews the lease if ARGV[1] is not empty, and returns its
// value. A value of another type, or without an expiry, was not written by this
// package and is removed.
var leaseScript = redis.NewScript(`
local key, mine, life = KEYS[1], ARGV[1], ARGV[2]
if redis.call('TYPE', key).ok ~= 'string' or redis.call('PTTL', key) < 0 then redis.call('DEL', key) end
local now = redis.call('GET', key) or ''
if mine == '' or (now ~= '' and now ~= mine) then return now end
redis.call('SET', key, mine, 'PX', life)
return mine`)

// succeedScript replaces the lease ARGV[1] by ARGV[2].
var succeedScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`)

// releaseScript removes the lease if its value is ARGV[1].
var releaseScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)

// Sequencer returns the process that holds the lease of the sequencer, as far as
// this process knows. It reports false if there is none, or if Redis cannot be
// reached. Two processes may each see another one, or themselves.
func (r *Redis) Sequencer() (h Holder, ok bool) {
	l := &r.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder.Instance == "" || !r.clock().Before(l.until) {
		return Holder{}, false
	}
	return l.holder, true
}

// Resign gives up the lease, and does not compete for it for a while: a process
// whose log or disk fails lets another one be the sequencer. If it is already
// resigning, only the time is extended.
func (r *Redis) Resign(pause time.Duration) {
	l := &r.lease
	l.mu.Lock()
	if rest := r.clock().Add(pause); rest.After(l.rest) {
		l.rest = rest
	}
	if l.holder.Instance == r.self.Instance {
		l.holder = Holder{}
	}
	l.mu.Unlock()
	signal(l.look)
}

// campaign competes for the lease, or only looks at it, until r is closed.
func (r *Redis) campaign() {
	for {
		r.compete()
		t := time.NewTimer(r.timing.Lease / 3)
		select {
		case <-t.C:
		case <-r.lease.look:
			t.Stop()
		case <-r.ctx.Done():
			t.Stop()
			return
		}
	}
}

// compete takes or renews the lease if it may, and notes the holder.
func (r *Redis) compete() {
	l := &r.lease
	start := r.clock()
	l.mu.Lock()
	mine, held := l.mine, l.holder.Instance == r.self.Instance
	if start.Before(l.rest) {
		mine = ""
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.ctx, r.timing.Call)
	defer cancel()
	if mine == "" && l.mine != "" {
		r.release(ctx)
	}
	now, err := leaseScript.Run(ctx, r.client, []string{r.prefix + "sequencer"}, mine,
		r.timing.Lease.Milliseconds()).Text()
	if err != nil {
		return // the holder is forgotten when its time is over
	}
	holder := parseHolder(now)
	if mine != "" && r.succeeds(holder) {
		n, err := succeedScript.Run(ctx, r.client, []string{r.prefix + "sequencer"}, now, mine,
			r.timing.Lease.Milliseconds()).Int()
		if err != nil || n == 0 {
			return
		}
		holder = r.self
	}
	l.mu.Lock()
	if holder.Instance == r.self.Instance && start.Before(l.rest) {
		holder = Holder{} // resigned meanwhile
	}
	changed := holder.Instance == r.self.Instance && !held
	l.holder, l.until = holder, start.Add(r.timing.Lease)
	l.mu.Unlock()
	if changed {
		r.logger.Info("this process is the sequencer")
		r.publish(ctx, sequencerChanged)
	}
}

// succeeds reports whether the holder is gone, because this process has locked its data
// directory.
func (r *Redis) succeeds(h Holder) bool {
	return h.Instance != r.self.Instance && h.Dir != "" && h.Dir == r.self.Dir && h.Node == r.self.Node
}

// release removes the lease if this process holds it.
func (r *Redis) release(ctx context.Context) {
	n, err := releaseScript.Run(ctx, r.client, []string{r.prefix + "sequencer"}, r.lease.mine).Int()
	if err == nil && n > 0 {
		r.publish(ctx, sequencerChanged)
	}
}

// parseHolder returns the zero Holder for a value that this package did not write.
func parseHolder(s string) (h Holder) {
	if len(s) > maxHolder || json.Unmarshal([]byte(s), &h) != nil || h.Instance == "" || h.Address == "" {
		return Holder{}
	}
	return h
}
