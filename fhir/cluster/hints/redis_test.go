package hints

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"pulsegate/fhir/cluster/hints/redistest"
	"pulsegate/fhir/limit"
)

// patience bounds the wait for a condition.
const patience = 2 * time.Minute

// quick has short pauses, and no bound that a slow machine exceeds.
var quick = Timing{Take: patience, Call: 5 * time.Second, Lease: 300 * time.Millisecond, Retry: 10 * time.Millisecond}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// heard waits for a value of a channel.
func heard(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// observer names a process without a peer listener.
const observer = "observer"

// newCluster returns a function that opens Redis values of one new cluster. A node is
// "name" or "name@directory".
func newCluster(t *testing.T, url string) func(node string, timing Timing) *Redis {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return func(node string, timing Timing) *Redis {
		t.Helper()
		node, dir, _ := strings.Cut(node, "@")
		self := Holder{Node: node, Address: node + ":1", Dir: dir}
		if node == observer {
			self.Address = ""
		}
		r, err := Open(Options{URL: url, Cluster: id, Secret: []byte("0123456789abcdef"), Self: self, Clock: time.Now,
			Logger: slog.New(slog.DiscardHandler), Timing: timing})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
}

func TestParseURL(t *testing.T) {
	for _, tc := range []struct{ url, addr, bad string }{
		{"redis://cache.example", "cache.example:6379", ""},
		{"rediss://user@cache.example:7000/3", "cache.example:7000", ""},
		{"redis://[::1]", "[::1]:6379", ""},
		{"redis://user:hunter2@cache.example", "", "redis-password-file"},
		{"redis://:hunter2@cache.example", "", "redis-password-file"},
		{"http://cache.example", "", "must be a URL"},
		{"redis://cache.example?db=2", "", "must be a URL"},
		{"redis://cache.example/x", "", "number of a database"},
		{"redis://hunter2%zz@cache", "", "must be a URL"},
		{"", "", "must be a URL"},
	} {
		o, err := ParseURL(tc.url)
		switch {
		case tc.bad == "" && (err != nil || o.Addr != tc.addr):
			t.Errorf("%s: %v, %v", tc.url, o, err)
		case tc.bad != "" && (err == nil || !strings.Contains(err.Error(), tc.bad) ||
			strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%s: error %v, want %q", tc.url, err, tc.bad)
		}
	}
}

func TestRingWakesOthers(t *testing.T) {
	open := newCluster(t, redistest.URL(t))
	a, b := open("a", quick), open("b", quick)
	heard(t, "subscription of a", a.Wake())
	heard(t, "subscription of b", b.Wake())
	a.Ring(7)
	heard(t, "ring of a", b.Wake())
	b.Ring(8)
	heard(t, "ring of b", a.Wake())
	// A process does not wake itself.
	a.heard(&redis.Message{Payload: a.self.Instance + " 9"})
	select {
	case <-a.Wake():
		t.Error("a process woke itself")
	default:
	}
}

func TestReconnectWakes(t *testing.T) {
	s := redistest.Start(t)
	open := newCluster(t, s.URL())
	a, b := open("a", quick), open("b", quick)
	heard(t, "subscription of a", a.Wake())
	heard(t, "subscription of b", b.Wake())
	s.Stop()
	a.Ring(1) // lost
	s.Restart()
	heard(t, "new connection of b", b.Wake())
	a.Ring(2)
	heard(t, "ring after the restart", b.Wake())
}

func TestStartsWithoutRedis(t *testing.T) {
	s := redistest.Start(t)
	s.Stop()
	a := newCluster(t, s.URL())("a", quick)
	a.Ring(1)
	if _, ok := a.Sequencer(); ok {
		t.Error("a sequencer without Redis")
	}
	if _, _, _, err := a.Take([]byte("x"), 1, 1, 1, 0); err == nil {
		t.Error("a shared bucket without Redis")
	}
	s.Restart()
	heard(t, "connection", a.Wake())
	eventually(t, "lease", func() bool { h, ok := a.Sequencer(); return ok && h == a.Self() })
	eventually(t, "shared bucket", func() bool {
		_, _, ok, err := a.Take([]byte("x"), 1, 1e6, 1, 0)
		return ok && err == nil
	})
}

// agree waits until every process names the same sequencer, and returns it.
func agree(t *testing.T, rs ...*Redis) (h Holder) {
	t.Helper()
	eventually(t, "one sequencer", func() bool {
		var ok bool
		if h, ok = rs[0].Sequencer(); !ok {
			return false
		}
		for _, r := range rs {
			if got, ok := r.Sequencer(); !ok || got != h {
				return false
			}
		}
		return true
	})
	return h
}

func TestLease(t *testing.T) {
	s := redistest.Start(t)
	open := newCluster(t, s.URL())
	c := open(observer, quick)
	foreign := newCluster(t, s.URL())(observer, quick)
	heard(t, "subscription", c.Wake())
	if h, ok := c.Sequencer(); ok {
		t.Errorf("a process without a peer listener is the sequencer: %v", h)
	}
	a, b := open("a", quick), open("b", quick)
	agree(t, a, b, c)
	if h, ok := foreign.Sequencer(); ok {
		t.Errorf("a process of another cluster has the sequencer %v", h)
	}
	for _, command := range []string{
		"FLUSHALL",
		"SET " + a.prefix + "sequencer nonsense", // without an expiry
		"DEL " + a.prefix + "sequencer",
	} {
		s.Do(command)
		if command == "DEL "+a.prefix+"sequencer" {
			s.Do("RPUSH " + a.prefix + "sequencer x y") // another type
		}
		agree(t, a, b)
	}
	// A foreign value with an expiry means that there is no sequencer.
	s.Do("SET " + a.prefix + "sequencer nonsense PX 3600000")
	eventually(t, "no sequencer", func() bool {
		_, okA := a.Sequencer()
		_, okB := b.Sequencer()
		return !okA && !okB
	})
	s.Do("FLUSHALL")
	holder, other := a, b
	if agree(t, a, b, c) == b.Self() {
		holder, other = b, a
	}
	if err := holder.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "takeover", func() bool { h, ok := other.Sequencer(); return ok && h == other.Self() })
}

func TestLeaseExpires(t *testing.T) {
	s := redistest.Start(t)
	open := newCluster(t, s.URL())
	a := open("a", quick)
	agree(t, a)
	b := open("b", quick)
	if h := agree(t, b, a); h != a.Self() {
		t.Fatalf("sequencer %v, want a", h)
	}
	a.cancel() // ends without a release, as a crash does
	a.tasks.Wait()
	eventually(t, "takeover", func() bool { h, ok := b.Sequencer(); return ok && h == b.Self() })
	s.Stop()
	eventually(t, "the holder is forgotten", func() bool { _, ok := b.Sequencer(); return !ok })
}

// TestLeaseOfFormerSelf checks that a process takes the lease that its former self left
// behind, and that no other process does.
func TestLeaseOfFormerSelf(t *testing.T) {
	long := quick
	long.Lease = time.Hour // by far more than the test takes
	for _, c := range []struct {
		next  string
		taken bool
	}{{"a@dir", true}, {"a@copy", false}, {"b@dir", false}, {"a", false}} {
		open := newCluster(t, redistest.URL(t))
		a := open("a@dir", long)
		agree(t, a)
		a.cancel() // ends without a release, as a crash does
		a.tasks.Wait()
		b := open(c.next, long)
		if h := agree(t, b); (h == b.Self()) != c.taken {
			t.Errorf("%s: the sequencer is %v", c.next, h)
		}
	}
}

func TestResign(t *testing.T) {
	open := newCluster(t, redistest.URL(t))
	a := open("a", quick)
	agree(t, a)
	b := open("b", quick)
	agree(t, a, b)
	a.Resign(time.Hour)
	if h, ok := a.Sequencer(); ok && h == a.Self() {
		t.Error("a process that resigned is still the sequencer")
	}
	if h := agree(t, a, b); h != b.Self() {
		t.Errorf("sequencer %v, want b", h)
	}
}

// TestSharedBucket takes from one bucket in two processes: together they get what
// it holds. The rate is so low that nothing is earned during the test.
func TestSharedBucket(t *testing.T) {
	const rate, size = 1e-4, 10
	open := newCluster(t, redistest.URL(t))
	a, b := open("a", quick), open("b", quick)
	taken := func(bucket string, rs ...*Redis) (n int) {
		for i := range 30 {
			_, wait, ok, err := rs[i%len(rs)].Take([]byte(bucket), rate, size, 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				n++
			} else if wait <= 0 || wait > time.Duration(1/rate)*time.Second {
				t.Fatalf("wait %v", wait)
			}
		}
		return n
	}
	if n := taken("shared", a, b); n != size {
		t.Errorf("%d tokens from a bucket of %d", n, size)
	}
	if n := taken("other", b); n != size {
		t.Errorf("%d tokens from another bucket of %d", n, size)
	}
	// The control: buckets that are not shared give the tokens twice.
	if n := taken("mine", a) + taken("yours", b); n != 2*size {
		t.Errorf("%d tokens from two buckets of %d", n, size)
	}
	more, _, ok, err := a.Take([]byte("ahead"), rate, size, 1, 5)
	if err != nil || !ok || more != 5 {
		t.Errorf("%d tokens ahead, %v, %v; want 5", more, ok, err)
	}
	if more, _, ok, err = b.Take([]byte("ahead"), rate, size, 1, 5); err != nil || !ok || more != 3 {
		t.Errorf("%d tokens ahead, %v, %v; want 3", more, ok, err)
	}
	for range 2 { // a query takes nothing
		if _, _, ok, err = b.Take([]byte("query"), rate, 1, 0, 0); err != nil || !ok {
			t.Errorf("query: %v, %v", ok, err)
		}
	}
}

func TestNothingInPlain(t *testing.T) {
	s := redistest.Start(t)
	a := newCluster(t, s.URL())("a", quick)
	agree(t, a)
	if _, _, ok, err := a.Take([]byte("token remote\x00203.0.113.7\x00wearable-app"), 1, 10, 1, 0); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, err := a.Beat(t.Context(), "i", []byte("v"), time.Minute); err != nil {
		t.Fatal(err)
	}
	keys, err := a.client.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != 3 {
		t.Fatal(keys, err)
	}
	for _, k := range keys {
		dump := a.client.Dump(t.Context(), k).Val()
		for _, secret := range []string{"203.0.113", "wearable", "remote"} {
			if strings.Contains(k, secret) || strings.Contains(dump, secret) {
				t.Errorf("%s holds %s", k, secret)
			}
		}
		if !strings.HasPrefix(k, a.prefix) {
			t.Errorf("%s does not begin with %s", k, a.prefix)
		}
		if ttl := a.client.PTTL(t.Context(), k).Val(); ttl <= 0 {
			t.Errorf("%s never expires", k)
		}
	}
}

func TestDamagedBucket(t *testing.T) {
	s := redistest.Start(t)
	a := newCluster(t, s.URL())("a", quick)
	take := func() bool {
		_, _, ok, err := a.Take([]byte("x"), 1e-4, 1, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !take() || take() {
		t.Fatal("a bucket of one token does not give one token")
	}
	key := a.client.Keys(t.Context(), a.prefix+"bucket:*").Val()[0]
	for _, command := range []string{"SET " + key + " nonsense", "FLUSHALL", "SET " + key + " inf_-1"} {
		s.Do(command)
		if !take() || take() {
			t.Errorf("%s: the bucket is not full again", command)
		}
	}
	s.Do("DEL " + key)
	s.Do("RPUSH " + key + " x")
	if !take() {
		t.Error("a value of another type does not count as full")
	}
}

// TestSlowRedis checks that a server that does not answer is given up after a few
// calls, and asked again once it answers.
func TestSlowRedis(t *testing.T) {
	s := redistest.Start(t)
	timing := quick
	timing.Take, timing.Call = 20*time.Millisecond, 100*time.Millisecond
	a := newCluster(t, s.URL())("a", timing)
	take := func() error { _, _, _, err := a.Take([]byte("x"), 1, 1e9, 1, 0); return err }
	eventually(t, "an answer", func() bool { return take() == nil })
	s.Pause()
	calls := 0
	eventually(t, "down", func() bool { calls++; _ = take(); return a.down.Load() })
	if calls > 2*maxFailures {
		t.Errorf("given up after %d calls", calls)
	}
	if err := take(); err != errDown {
		t.Errorf("a call while Redis is down: %v", err)
	}
	s.Resume()
	eventually(t, "an answer again", func() bool { return take() == nil })
}

func TestBeat(t *testing.T) {
	s := redistest.Start(t)
	open := newCluster(t, s.URL())
	a, b := open("a", quick), open("b", quick)
	beat := func(r *Redis, id, value string, life time.Duration) string {
		live, err := r.Beat(t.Context(), id, []byte(value), life)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s", live)
	}
	beat(a, "1", "first", time.Hour)
	if got := beat(b, "2", "second line", time.Hour); got != "map[1:first 2:second line]" {
		t.Errorf("live: %s", got)
	}
	if got := beat(b, "2", "", 0); got != "map[1:first]" {
		t.Errorf("after the end of 2: %s", got)
	}
	if got := beat(b, "", "", 0); got != "map[1:first]" {
		t.Errorf("only a look: %s", got)
	}
	beat(b, "3", "short", time.Millisecond)
	eventually(t, "expiry", func() bool { return beat(a, "1", "first", time.Hour) == "map[1:first]" })
	s.Do("HSET " + a.prefix + "nodes 4 nonsense")
	if got := beat(b, "", "", 0); got != "map[1:first]" {
		t.Errorf("with nonsense: %s", got)
	}
	s.Do("SET " + a.prefix + "nodes nonsense")
	if got := beat(b, "2", "again", time.Hour); got != "map[2:again]" {
		t.Errorf("after another type: %s", got)
	}
}

// TestNonsense connects to servers that answer with something else than Redis.
func TestNonsense(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 400 Bad Request\r\n\r\n", "$9000000000000000000\r\n", "*9000000000000000000\r\n", "$2000000\r\n",
		strings.Repeat("*1\r\n", 100000), "+" + strings.Repeat("x", 1<<20), "", ":1\r\n", "+OK\r\n", "$-1\r\n",
		"*2\r\n:1\r\n:99999\r\n", "*0\r\n", "-ERR\r\n", "%1\r\n+a\r\n+b\r\n", "\n\n\n\n", "$1\r\nxxxxxx",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go serveNonsense(l, answer)
		timing := quick
		timing.Take, timing.Call = 50*time.Millisecond, 50*time.Millisecond
		r := newCluster(t, "redis://"+l.Addr().String())("a", timing)
		r.Ring(1)
		for range maxFailures {
			if more, _, ok, err := r.Take([]byte("x"), 1, 1, 1, 0); err == nil && ok && more > 0 {
				t.Errorf("%.20q: tokens that were not asked for", answer)
			}
		}
		if h, ok := r.Sequencer(); ok {
			t.Errorf("%.20q: the sequencer is %v", answer, h)
		}
		if live, err := r.Beat(t.Context(), "1", nil, time.Second); err == nil && len(live) > 0 {
			t.Errorf("%.20q: live processes %v", answer, live)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		_ = l.Close()
	}
}

// serveNonsense sends answer for everything it reads.
func serveNonsense(l net.Listener, answer string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 4096)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := c.Write([]byte(answer)); err != nil {
					return
				}
			}
		}()
	}
}

// TestLimitsOfInstallation spends the failures that an endpoint allows at two
// processes. With Redis they have one limit; without it, each has half of it.
func TestLimitsOfInstallation(t *testing.T) {
	s := redistest.Start(t)
	open := newCluster(t, s.URL())
	limiter := func(node string) *limit.Limiter {
		l := &Limits{Redis: open(node, quick), Live: func() int { return 2 }}
		return limit.New(limit.Limits{Failures: 1, Shared: l, Name: "token"})
	}
	both := []*limit.Limiter{limiter("a"), limiter("b")}
	// The clock of the processes stands still, and that of Redis does not: it earns
	// one token per second.
	now := time.Now()
	spend := func(claimed string) (n int) {
		k := limit.Failing("192.0.2.1", claimed)
		for i := range 100 {
			if _, ok := both[i%2].MayFail(k, now); ok {
				both[i%2].Failed(k, now)
				n++
			}
		}
		return n
	}
	start := time.Now()
	if n := spend("app"); n < 20 || float64(n) > 21+time.Since(start).Seconds() {
		t.Errorf("%d failures with Redis, want 20", n)
	}
	s.Stop()
	if n := spend("other app"); n != 20 {
		t.Errorf("%d failures without Redis, want 10 at each process", n)
	}
}
