package relay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/cluster/relay/internal/wire"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/sharedlog"
)

// Lease tells which process is the sequencer. *hints.Redis implements it.
type Lease interface {
	// Sequencer returns the sequencer, as far as this process knows.
	Sequencer() (hints.Holder, bool)
	// Resign gives up the lease for some time, if this process has it.
	Resign(pause time.Duration)
}

// Local is the store of this process. It must know the results of batches with an
// ID, and show what other processes commit (Sync).
type Local interface {
	store.Store
	store.Columnar
}

// entries is implemented by a Local that passes the entries of the log on.
type entries interface {
	// Landed lets fn be called for each entry that this process has put into the log,
	// before its writers are answered.
	Landed(fn func(*sharedlog.Entry))
	// Offer passes an entry that another process has put into the log. If it is the next
	// one, the store shows it before Offer returns.
	Offer(e *sharedlog.Entry)
}

// Timing holds the durations of a Store. Zero fields have the default in their
// comment.
type Timing struct {
	Dial    time.Duration // bounds a connection to the sequencer; default 3 s
	Retry   time.Duration // the pause after a connection failed; default 1 s
	Silence time.Duration // after which a silent connection is closed; default 3 s
	Answer  time.Duration // the longest wait for one answer; default 10 s
	Show    time.Duration // the longest wait until this process shows a commit; default 30 s
	Resign  time.Duration // the time for which a failing process is not the sequencer; default 10 s
}

func (t Timing) withDefaults() Timing {
	for _, f := range []struct {
		field *time.Duration
		def   time.Duration
	}{{&t.Dial, 3 * time.Second}, {&t.Retry, time.Second}, {&t.Silence, 3 * time.Second},
		{&t.Answer, 10 * time.Second}, {&t.Show, 30 * time.Second}, {&t.Resign, 10 * time.Second}} {
		if *f.field <= 0 {
			*f.field = f.def
		}
	}
	return t
}

// Options configures a Store. Local and Clock are required.
type Options struct {
	Local Local
	// Lease may be nil: the process then commits everything itself.
	Lease Lease
	// Trust is required with Lease.
	Trust *Trust
	// Instance names this process in the lease.
	Instance string
	Clock    func() time.Time // the real time, which deadlines of connections need
	Logger   *slog.Logger
	Timing   Timing

	// forgetID sends batches without an ID, which is wrong. Tests use it as a control.
	forgetID bool
	// withholdEntries sends no entries to other processes. Tests use it as a control.
	withholdEntries bool
}

// maxSent bounds the bytes of the batches of this process that wait for the
// sequencer.
const maxSent = 64 << 20

// Store is a store that sends its commits to the sequencer. It is safe for
// concurrent use.
type Store struct {
	Local
	opts  Options
	codec *wire.Codec
	sent  *semaphore.Weighted

	meters meters
	watch  watchers
	// unwatch ends the calls of watch.
	unwatch func()

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	link    atomic.Pointer[client] // the connection to the sequencer, or nil
	connect chan struct{}          // asks connector to look at the lease
	// unreachable is the sequencer to which the latest attempt to connect failed.
	unreachable atomic.Pointer[hints.Holder]
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Columnar = (*Store)(nil)
)

// New returns a Store. Close ends its connections and leaves the local store open.
func New(o Options) (*Store, error) {
	if o.Local == nil || o.Clock == nil || o.Lease != nil && o.Trust == nil {
		return nil, fhir.Errorf(fhir.Internal, "relay.New", "an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Timing = o.Timing.withDefaults()
	codec, err := wire.NewCodec()
	if err != nil {
		return nil, err
	}
	m, err := newMeters()
	if err != nil {
		return nil, err
	}
	s := &Store{Local: o.Local, meters: m, opts: o, codec: codec, sent: semaphore.NewWeighted(maxSent),
		connect: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.watch = watchers{fns: map[uint64]func(store.Commit){}, waits: map[uint64]func(store.Seq) bool{}}
	s.unwatch = o.Local.Watch(s.watch.notify)
	s.watch.start(o.Local.LastSeq())
	if o.Lease != nil {
		s.tasks.Go(s.connector)
	}
	return s, nil
}

// Stop ends the connection to the sequencer. From then on, this process commits itself.
// Watchers are still called.
func (s *Store) Stop() {
	s.cancel()
	s.tasks.Wait()
}

// Close stops the relay and closes the local store.
func (s *Store) Close() error {
	s.Stop()
	err := s.Local.Close()
	s.unwatch()
	return err
}

// Commit implements store.Store. It sends the batch to the sequencer if there is a
// connection to one, and otherwise commits it in the local store. ctx ends the wait
// until the batch is on its way; Commit then waits for its result.
func (s *Store) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	const op = "relay.Commit"
	c := s.sequencer()
	if c == nil {
		s.meters.count(ctx, byThis)
		return s.commitHere(ctx, b)
	}
	sending := *b
	if sending.ID == ([16]byte{}) && !s.opts.forgetID {
		_, _ = rand.Read(sending.ID[:]) // never fails
	}
	if sending.Sent.IsZero() {
		sending.Sent = s.opts.Clock() // from here on, another process may commit the batch
	}
	payload := appendSent(make([]byte, 0, 1024), s.opts.Clock())
	payload, err := s.codec.AppendBatch(payload, &sending)
	if err != nil || len(payload) > maxFrame {
		s.meters.count(ctx, byThis)
		return s.commitHere(ctx, b)
	}
	if err := ctx.Err(); err != nil {
		return store.Result{}, canceled(op, err)
	}
	size := int64(len(payload))
	if err := s.sent.Acquire(ctx, size); err != nil {
		return store.Result{}, canceled(op, err)
	}
	a, err := c.commit(payload, &sending, s.opts.Timing.Answer)
	s.sent.Release(size)
	if err != nil {
		if !errors.Is(err, errBusy) {
			s.opts.Logger.Warn("the sequencer did not answer; the commit is repeated here", "node", c.holder.Node,
				"error", err)
		}
		s.meters.count(ctx, byRepeating)
		r, err := s.commitHere(context.WithoutCancel(ctx), &sending)
		if b.ID == ([16]byte{}) { // the writer does not know that there is an ID
			r = stamped(r, &sending)
		}
		return r, err
	}
	s.meters.count(ctx, bySequencer)
	shown := s.show(context.WithoutCancel(ctx), a.at)
	switch {
	case a.refusal != nil:
		return store.Result{}, a.refusal
	case shown != nil:
		return store.Result{}, shown
	}
	return a.result, nil
}

// appendSent appends the time at which a batch is sent.
func appendSent(b []byte, now time.Time) []byte {
	return binary.AppendUvarint(b, uint64(now.UnixMilli()))
}

// canceled returns the error of a commit whose context ended before it was sent.
func canceled(op string, err error) error {
	return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
}

// commitHere commits a batch in the local store. If the log or the disk fails, this
// process does not remain the sequencer.
func (s *Store) commitHere(ctx context.Context, b *store.Batch) (store.Result, error) {
	r, err := s.Local.Commit(ctx, b)
	if err != nil && s.opts.Lease != nil && ctx.Err() == nil {
		if k := fhir.KindOf(err); k == fhir.Unavailable || k == fhir.NoSpace {
			s.opts.Lease.Resign(s.opts.Timing.Resign)
		}
	}
	return r, err
}

// show returns when the local store shows the commit at and the watchers were called for
// it. What the sequencer answered, and the data that a refusal depended on, can then be
// read here.
func (s *Store) show(ctx context.Context, at store.Seq) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timing.Show)
	defer cancel()
	seen, stop, wait := s.watch.until(ctx, at)
	defer stop()
	for wait {
		// Sync looks at the log. The local store may learn of the commit before that by
		// itself, which ends seen.
		err := s.Sync(seen)
		if err == nil || s.watch.reached(at) {
			return nil
		}
		t := time.NewTimer(s.opts.Timing.Retry / 10)
		select {
		case <-t.C:
			continue
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
		t.Stop()
		return &fhir.Error{Kind: fhir.Unavailable, Op: "relay.Commit", Err: err, Issues: []fhir.Issue{{Severity: "error",
			Code:        fhir.Unavailable.IssueCode(),
			Diagnostics: "the change took place, but this server cannot show it yet; read before you repeat it"}}}
	}
	return nil
}

// stamped adds the bytes of new versions to the result of a batch with an ID, which may
// be a repeated one and then has none.
func stamped(r store.Result, b *store.Batch) store.Result {
	for i := range r.Outcomes {
		w, o := &b.Writes[i], &r.Outcomes[i]
		if w.Op == store.Put && w.Template == nil && !o.Unchanged && o.JSON == nil {
			o.JSON = fhir.Stamp(w.Resource.JSON, o.Ref.Type, o.Ref.ID, o.Version, o.LastUpdated)
		}
	}
	return r
}

// sequencer returns the connection to the sequencer, or nil if this process commits
// itself.
func (s *Store) sequencer() *client {
	if s.opts.Lease == nil {
		return nil
	}
	h, ok := s.opts.Lease.Sequencer()
	if !ok {
		h = hints.Holder{}
	}
	c := s.link.Load()
	if ok && h.Instance == s.opts.Instance {
		if c != nil {
			signal(s.connect)
		}
		return nil
	}
	if ok && c != nil && c.holder == h && c.alive() {
		return c
	}
	signal(s.connect)
	return nil
}

// connector keeps a connection to the sequencer.
func (s *Store) connector() {
	defer func() {
		if c := s.link.Swap(nil); c != nil {
			c.close(errClosed)
		}
	}()
	for s.ctx.Err() == nil {
		pause := s.reconnect()
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.ctx.Done():
		case <-s.wanted(pause):
		}
		t.Stop()
	}
}

// wanted returns the channel that ends the pause of connector, or nil after a failure,
// whose pause nothing shortens.
func (s *Store) wanted(pause time.Duration) <-chan struct{} {
	if pause == s.opts.Timing.Retry {
		return nil
	}
	return s.connect
}

// look is the interval at which connector looks at the lease without being asked.
const look = 250 * time.Millisecond

// reconnect makes the connection match the lease. It returns the pause before the next
// look.
func (s *Store) reconnect() time.Duration {
	h, ok := s.opts.Lease.Sequencer()
	old := s.link.Load()
	if ok && old != nil && old.holder == h && old.alive() {
		return look
	}
	if old != nil {
		s.link.Store(nil)
		old.retire()
	}
	if !ok || h.Instance == s.opts.Instance {
		return look
	}
	var offer func(*sharedlog.Entry)
	if l, ok := s.opts.Local.(entries); ok {
		offer = l.Offer
	}
	c, err := dial(s.ctx, h, s.opts.Trust, s.opts.Timing, offer)
	if err != nil {
		if old := s.unreachable.Swap(&h); s.ctx.Err() == nil && (old == nil || *old != h) { // once per sequencer
			s.opts.Logger.Warn("the sequencer cannot be reached; this process commits itself", "node", h.Node,
				"error", err)
		}
		return s.opts.Timing.Retry
	}
	s.unreachable.Store(nil)
	s.link.Store(c)
	return look
}

// signal sends on a channel with space for one value, unless one is there already.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
