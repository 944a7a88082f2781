package push

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

const (
	// idle is the wait of a sender without work. The follower wakes it.
	idle = time.Hour
	// flushEvery is the number of results after which they are made durable.
	flushEvery = 32
	// maxWait bounds the Retry-After that is honored.
	maxWait = time.Hour
	// minMatch and maxMatch bound the wait before a patient is looked up again who had
	// no or several matches.
	minMatch, maxMatch = time.Minute, time.Hour
)

// Stat holds the counters of a target.
type Stat struct {
	Sent      uint64 `json:"sent"`      // creations, updates and retractions accepted
	Withheld  uint64 `json:"withheld"`  // not visible to the recipient any more when their turn came
	Thinned   uint64 `json:"thinned"`   // left out because of Every
	Unsuited  uint64 `json:"unsuited"`  // without a representation in the form
	Aside     uint64 `json:"aside"`     // set aside, in total
	Failures  uint64 `json:"failures"`  // failed requests
	Repeating bool   `json:"repeating"` // the last request failed and is being repeated
	// LastError is the class of the last failure, such as "status-503".
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	LastSent    time.Time `json:"lastSent,omitzero"`
}

// waiting is the state of a patient whose next request has to wait.
type waiting struct {
	until time.Time
	tries int
}

// sender sends what is queued for one target. Unless stated otherwise, its fields
// belong to the goroutine of run.
type sender struct {
	follower *follower
	name     string
	tokens   Tokens
	form     Form
	wake     chan struct{} // capacity 1
	cancel   context.CancelFunc
	ended    chan struct{} // closed when run has returned

	// target, stat are guarded by follower.mu.
	target Target
	stat   Stat

	last      string // patient of the last row
	until     time.Time
	tries     int // failures in a row
	waiting   map[string]waiting
	buffered  map[string]sent // results that are not durable yet, by id
	writes    []store.StateWrite
	savedStat Stat
	// claimed holds the time slots of the messages that are being prepared.
	claimed map[string][]byte
}

func newSender(ctx context.Context, f *follower, t Target) (*sender, error) {
	form, ok := f.opts.Forms[t.Form]
	if !ok {
		return nil, fhir.Errorf(fhir.Invalid, "push.newSender", "form: this server has no such form")
	}
	tokens, err := f.opts.TokensFor(t)
	if err != nil {
		return nil, err
	}
	s := &sender{follower: f, name: t.Name, tokens: tokens, form: form, wake: make(chan struct{}, 1),
		ended: make(chan struct{}), target: t, waiting: map[string]waiting{}, buffered: map[string]sent{}}
	v, err := f.opts.Store.Get(ctx, statKey(t.Name))
	if err == nil && v != nil {
		err = json.Unmarshal(v, &s.stat)
	}
	s.savedStat = s.stat
	return s, err
}

// view returns a copy of the target.
func (s *sender) view() Target {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	return s.target
}

// count changes the counters.
func (s *sender) count(fn func(*Stat)) {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	fn(&s.stat)
}

func (s *sender) run(ctx context.Context) {
	for {
		wait := s.turn(ctx)
		if ctx.Err() != nil {
			break
		}
		if wait > 0 && !follow.Sleep(ctx, s.wake, wait) {
			break
		}
	}
	// Save the results, so that nothing is repeated after a restart.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if s.view().Status != removed {
		if err := s.flush(end); err != nil {
			s.logFailure(end, "the results of a target cannot be written", err)
		}
	}
}

// turn works on one row and returns the time until the next turn.
func (s *sender) turn(ctx context.Context) time.Duration {
	t := s.view()
	if t.Status != Active {
		return idle
	}
	now := s.follower.opts.Clock()
	if t.Backfill != nil {
		if err := s.backfill(ctx, t); err != nil {
			s.logFailure(ctx, "what is stored cannot be queued for a target", err)
			return s.backoff(0)
		}
	}
	if now.Before(s.until) {
		return s.until.Sub(now)
	}
	q, wait, err := s.next(ctx, now)
	if err == nil && q.key == "" {
		err = s.flush(ctx)
	}
	if err != nil {
		s.logFailure(ctx, "the queue of a target cannot be read", err)
		return s.backoff(0)
	}
	if q.key == "" || wait > 0 {
		return wait
	}
	s.last = q.patient
	yield.Now()
	f := s.work(ctx, t, &q)
	if ctx.Err() != nil {
		return 0
	}
	return s.settle(ctx, &q, f)
}

// failure describes why the work on a row stopped. The zero value is none.
type failure struct {
	class string
	// status is the HTTP status of the answer to one Observation, or 0.
	status int
	// wait is the least wait that the target asked for.
	wait time.Duration
	// broken is set if the target must not be used any more.
	broken bool
	// match is set if the patient has no or several matches.
	match bool
	err   error // failure of this server
}

// ceiling returns the longest wait of the whole target after a failure. A target that
// answers may fail at one Observation only, and then the other patients must not wait
// for long.
func (f *failure) ceiling(o *Options) time.Duration {
	if f.status == 0 || f.status == http.StatusTooManyRequests || f.status >= http.StatusBadGateway &&
		f.status <= http.StatusGatewayTimeout {
		return o.MaxBackoff
	}
	return min(o.MaxBackoff, 30*o.MinBackoff)
}

// settle draws the consequences of the work on a row.
func (s *sender) settle(ctx context.Context, q *queued, f *failure) time.Duration {
	now := s.follower.opts.Clock()
	if f == nil {
		s.tries = 0
		delete(s.waiting, q.patient)
		s.count(func(st *Stat) { st.Repeating = false })
		return 0
	}
	w := s.waiting[q.patient]
	w.tries++
	if f.match {
		w.until = now.Add(jitter(grow(minMatch, maxMatch, w.tries)))
		s.waiting[q.patient] = w
		return 0 // the others go on
	}
	if f.err != nil {
		s.logFailure(ctx, "an Observation cannot be sent to a target", f.err)
	}
	s.count(func(st *Stat) {
		st.Failures++
		st.Repeating, st.LastError, st.LastErrorAt = true, f.class, now.UTC()
	})
	if !s.follower.role.Alone() { // other processes show the durable counters
		if err := s.flush(ctx); err != nil {
			s.logFailure(ctx, "the counters of a target cannot be written", err)
		}
	}
	if f.broken {
		if err := s.fail(ctx, f.class); err != nil {
			s.logFailure(ctx, "the status of a target cannot be written", err)
			return s.backoff(0)
		}
		s.follower.opts.Logger.WarnContext(ctx, "a target is in error", "target", s.name, "class", f.class)
		return 0
	}
	s.follower.opts.Logger.WarnContext(ctx, "a request to a target failed", "target", s.name, "class", f.class)
	// This patient waits for longer than the target, so that one Observation that the
	// target fails at does not stop the others.
	wait := s.backoffWithin(f.ceiling(&s.follower.opts), f.wait)
	w.until = now.Add(max(wait, jitter(grow(s.follower.opts.MinBackoff, s.follower.opts.MaxBackoff, w.tries))))
	s.waiting[q.patient] = w
	return wait
}

// backoff makes all patients wait after a failure, at least for least.
func (s *sender) backoff(least time.Duration) time.Duration {
	return s.backoffWithin(s.follower.opts.MaxBackoff, least)
}

func (s *sender) backoffWithin(ceiling, least time.Duration) time.Duration {
	s.tries++
	wait := max(jitter(grow(s.follower.opts.MinBackoff, ceiling, s.tries)), min(least, maxWait))
	s.until = s.follower.opts.Clock().Add(wait)
	return wait
}

// grow returns first, doubled for each further try, at most ceiling.
func grow(first, ceiling time.Duration, tries int) time.Duration {
	d := first
	for range min(tries-1, 40) {
		if d >= ceiling {
			break
		}
		d *= 2
	}
	return min(d, ceiling)
}

// jitter adds up to a quarter, so that several servers do not repeat together.
func jitter(d time.Duration) time.Duration { return d + time.Duration(rand.Int64N(int64(d)/4+1)) }

// work sends the Observations of a row and removes it when all are done. It returns
// nil unless it had to stop before.
func (s *sender) work(ctx context.Context, t Target, q *queued) *failure {
	pending, total := unique(q.IDs), len(q.IDs)
	size := max(1, t.Batch)
	// Each round sends or drops at least one Observation or fails; one Observation
	// takes at most three rounds.
	for results := 0; len(pending) > 0 && ctx.Err() == nil; {
		if s.view().Status != Active {
			break // paused or removed meanwhile
		}
		chunk := pending[:min(size, len(pending))]
		again, f := s.round(ctx, t, q, chunk)
		pending = append(again, pending[len(chunk):]...)
		if results += len(chunk); results >= flushEvery || f != nil {
			if err := s.flush(ctx); err != nil && f == nil {
				f = &failure{class: "internal", err: err}
			}
			results = 0
		}
		if f != nil {
			s.shorten(ctx, q, pending, total)
			return f
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if len(pending) > 0 {
		s.shorten(ctx, q, pending, total)
		return nil
	}
	if err := s.flush(ctx, store.StateWrite{Key: q.key}); err != nil {
		return &failure{class: "internal", err: err}
	}
	return nil
}

// shorten removes what is done from a row that is not finished.
func (s *sender) shorten(ctx context.Context, q *queued, pending []string, total int) {
	if len(pending) == total || s.view().Status == removed {
		return
	}
	r := row{At: q.At, IDs: pending}
	v, err := json.Marshal(&r)
	if err == nil {
		err = s.flush(ctx, store.StateWrite{Key: q.key, Value: v})
	}
	if err != nil {
		s.logFailure(ctx, "the queue of a target cannot be written", err)
	}
}

// unique returns ids without repetitions, in order.
func unique(ids []string) []string {
	seen := make(map[string]bool, len(ids))
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}

// round prepares the Observations of a chunk and sends them in one request. It
// returns those that need another round, in order.
func (s *sender) round(ctx context.Context, t Target, q *queued, chunk []string) (again []string, f *failure) {
	grant, err := s.follower.opts.GrantFor(ctx, t.Recipient)
	if err != nil {
		grant = nil // permits nothing
	}
	s.claimed = map[string][]byte{}
	var msgs []*message
	for i, id := range chunk {
		m, f := s.prepare(ctx, &t, grant, q.patient, id)
		if f != nil {
			for _, m := range msgs { // these are prepared again
				again = append(again, m.id)
			}
			return append(again, chunk[i:]...), f
		}
		if m != nil {
			m.queued = time.UnixMilli(q.At)
			if m.slot != nil {
				s.claimed[m.slot.Key] = m.slot.Value
			}
			msgs = append(msgs, m)
		}
	}
	if len(msgs) == 0 {
		return nil, nil
	}
	f = s.send(ctx, &t, q.patient, msgs)
	for _, m := range msgs {
		if !m.done {
			again = append(again, m.id)
		}
	}
	return again, f
}

// alter changes the target of the sender and makes the result durable.
func (s *sender) alter(ctx context.Context, fn func(*Target) ([]store.StateWrite, error)) error {
	return s.follower.change(ctx, s.name, s.follower.commitState, fn)
}

// fail sets the status of the target to error, unless an operator has changed it.
func (s *sender) fail(ctx context.Context, class string) error {
	return s.alter(ctx, func(t *Target) ([]store.StateWrite, error) {
		if t.Status == Active {
			t.Status, t.Reason = Failed, class
		}
		return nil, nil
	})
}

// logFailure logs an error that is not the target's. What fails because the role is lost
// is repeated by the next holder.
func (s *sender) logFailure(ctx context.Context, what string, err error) {
	if ctx.Err() == nil && (s.follower.ctx.Err() == nil || !store.Lost(err)) {
		s.follower.opts.Logger.ErrorContext(ctx, what, "target", s.name, "error", err)
	}
}
