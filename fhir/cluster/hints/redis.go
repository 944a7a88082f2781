package hints

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Timing holds the durations of a Redis. Zero fields have the default in their
// comment.
type Timing struct {
	Take  time.Duration // the longest wait for a shared bucket; default 10 ms
	Call  time.Duration // the longest wait for any other answer; default 1 s
	Lease time.Duration // the length of the sequencer's lease; default 3 s
	Retry time.Duration // the pause before Redis is tried again after a failure; default 1 s
}

func (t Timing) withDefaults() Timing {
	for _, f := range []struct {
		field *time.Duration
		def   time.Duration
	}{{&t.Take, 10 * time.Millisecond}, {&t.Call, time.Second}, {&t.Lease, 3 * time.Second}, {&t.Retry, time.Second}} {
		if *f.field <= 0 {
			*f.field = f.def
		}
	}
	return t
}

// Options configures a Redis.
type Options struct {
	URL      string // see ParseURL
	Password string
	Cluster  [16]byte // begins every key
	Secret   []byte   // the key of the HMAC of bucket names; equal in all processes
	// Self describes this process as a sequencer. If Address is empty, it never takes
	// the lease. Instance is drawn at random if it is empty.
	Self   Holder
	Clock  func() time.Time
	Logger *slog.Logger
	Timing Timing
	// Wake, if not nil, is the channel that Redis.Wake returns. It has space for one
	// value. A store that is opened before the id of the cluster is known needs it.
	Wake chan struct{}
}

// Redis keeps hints in a Redis server. It is safe for concurrent use, and usable
// while the server cannot be reached.
type Redis struct {
	client *redis.Client
	prefix string
	secret []byte
	self   Holder
	clock  func() time.Time
	logger *slog.Logger
	timing Timing

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	rung  atomic.Uint64 // the greatest index passed to Ring
	ring  chan struct{}
	wake  chan struct{}
	lease lease

	failures atomic.Int32  // consecutive failures of Take
	down     atomic.Bool   // set while Take does not ask Redis
	probe    chan struct{} // starts the probes that end down
}

// maxFailures is the number of consecutive failures after which shared buckets are
// not asked until a probe succeeds.
const maxFailures = 3

// Open returns a Redis for the server at the URL of o. It does not wait for the
// server, and fails only if the options are not valid.
func Open(o Options) (*Redis, error) {
	opts, err := ParseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if len(o.Secret) < 16 {
		return nil, errors.New("hints: the secret must have at least 16 bytes")
	}
	t := o.Timing.withDefaults()
	// The library writes its errors to stderr, with addresses. They are returned, too.
	redis.SetLogger(&logging.VoidLogger{})
	opts.Password = o.Password
	opts.Protocol = 2
	opts.MaxRetries, opts.ContextTimeoutEnabled = -1, true
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = t.Call, t.Call, t.Call, t.Call
	opts.DialerRetries, opts.MinIdleConns, opts.PipelinePoolSize = 1, 1, -1
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opts.Dialer = dialer(opts.TLSConfig, t.Call)
	r := &Redis{client: redis.NewClient(opts), prefix: "pulsegate:{" + hex.EncodeToString(o.Cluster[:]) + "}:",
		secret: o.Secret, self: o.Self, clock: o.Clock, logger: o.Logger, timing: t,
		ring: make(chan struct{}, 1), wake: make(chan struct{}, 1), probe: make(chan struct{}, 1)}
	if o.Wake != nil {
		r.wake = o.Wake
	}
	if r.self.Instance == "" {
		r.self.Instance = rand.Text()
	}
	r.lease.init(r.self)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	for _, task := range []func(){r.ringer, r.listen, r.prober, r.campaign} {
		r.tasks.Go(task)
	}
	return r, nil
}

// ParseURL checks the URL of a Redis server: redis://[user@]host[:port][/db], or
// rediss for TLS. It refuses a password, because settings are not secret.
func ParseURL(s string) (*redis.Options, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("redis: must be a URL such as redis://host:6379") // err quotes the URL
	}
	if _, ok := u.User.Password(); ok {
		return nil, errors.New("redis: must not contain a password; use redis-password-file")
	}
	if (u.Scheme != "redis" && u.Scheme != "rediss") || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("redis: must be a URL such as redis://host:6379, or rediss://host:6379 for TLS")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	o := &redis.Options{Addr: net.JoinHostPort(u.Hostname(), port), Username: u.User.Username()}
	if db := strings.TrimPrefix(u.Path, "/"); db != "" {
		if o.DB, err = strconv.Atoi(db); err != nil || o.DB < 0 {
			return nil, errors.New("redis: the path must be the number of a database")
		}
	}
	if u.Scheme == "rediss" {
		o.TLSConfig = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	return o, nil
}

// dialer returns the function that connects to Redis, with bounds on what it
// answers.
func dialer(conf *tls.Config, timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
	dial := plain.DialContext
	if conf != nil {
		dial = (&tls.Dialer{NetDialer: plain, Config: conf}).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &boundedConn{Conn: c}, nil
	}
}

// Self returns the description of this process.
func (r *Redis) Self() Holder { return r.self }

// Close gives up the lease and ends the connections.
func (r *Redis) Close() error {
	r.cancel()
	r.tasks.Wait()
	if r.lease.mine != "" && !r.down.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), r.timing.Call)
		defer cancel()
		r.release(ctx)
	}
	return r.client.Close()
}

// prober asks Redis for as long as down is set, so that no request waits for a
// server that does not answer.
func (r *Redis) prober() {
	for {
		select {
		case <-r.probe:
		case <-r.ctx.Done():
			return
		}
		for r.down.Load() {
			if !r.pause(r.timing.Retry) {
				return
			}
			ctx, cancel := context.WithTimeout(r.ctx, r.timing.Call)
			err := r.client.Ping(ctx).Err()
			cancel()
			if err == nil {
				r.failures.Store(0)
				r.down.Store(false)
				r.logger.Info("Redis answers again; rate limits are shared")
			}
		}
	}
}

// note counts a failure of Take. It reports whether err is nil.
func (r *Redis) note(err error) bool {
	if err == nil {
		if r.failures.Load() != 0 {
			r.failures.Store(0)
		}
		return true
	}
	if r.failures.Add(1) >= maxFailures && r.down.CompareAndSwap(false, true) {
		r.logger.Warn("Redis does not answer in time; each process applies its share of the rate limits")
		signal(r.probe)
	}
	return false
}

// pause waits for d. It reports false if r was closed.
func (r *Redis) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// signal sends on a channel with space for one value, unless one is there already.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
