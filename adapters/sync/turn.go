package sync

import (
	"context"
	"errors"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

// take performs the turn of a task and returns the time of the next one. A zero time
// means when the plan is due.
func (e *Engine) take(ctx context.Context, t *task) time.Time {
	e.mu.Lock()
	v, l, ended, pull := t.vendor, t.link, t.ended, t.pull
	t.pull = false
	e.mu.Unlock()
	if ended {
		return time.Time{}
	}
	ok, err := e.permitted(ctx, t, &l)
	if err != nil {
		return e.failed(ctx, t, v, nil, err)
	}
	if !ok {
		return e.Clock().Add(consentRecheck)
	}
	t.plan.complete(&l, v.streams, e.Clock(), e.Backfill)
	if pull {
		for _, p := range t.plan.Streams {
			p.Due, p.Swept = minTime(p.Due, e.Clock()), time.Time{}
		}
	}
	r := &reader{engine: e, vendor: v, task: t, link: l}
	if ev := e.firstEvent(t); ev != nil {
		if err := e.handle(ctx, r, ev); err != nil {
			return e.eventFailed(ctx, t, v, ev, err)
		}
		e.eventDone(ctx, t, ev)
		return e.succeeded(ctx, t, nil)
	}
	if err := e.subscribe(ctx, r); err != nil {
		return e.failed(ctx, t, v, nil, err)
	}
	if s, p := t.plan.duePoll(v.streams, e.Clock()); s != nil {
		if err := e.poll(ctx, r, s, p); err != nil {
			return e.failed(ctx, t, v, p, err)
		}
		return e.succeeded(ctx, t, p)
	}
	if s, p := t.plan.pastWork(v.streams); s != nil {
		if err := e.readPast(ctx, r, s, p); err != nil {
			return e.failed(ctx, t, v, p, err)
		}
		return e.succeeded(ctx, t, p)
	}
	return time.Time{}
}

// consentRecheck is the time after which a link without consent is looked at again,
// if nothing announces a new consent before.
const consentRecheck = 15 * time.Minute

// duePoll returns the stream whose poll has been due for longest, or nil.
func (p *plan) duePoll(streams []cloud.Stream, now time.Time) (s *cloud.Stream, due *progress) {
	for i := range streams {
		one := p.Streams[streams[i].Name]
		if !one.Uncovered && !one.Due.After(now) && (due == nil || one.Due.Before(due.Due)) {
			s, due = &streams[i], one
		}
	}
	return s, due
}

// pastWork returns the first stream whose past has not been read, or nil. Streams are
// read in step, so that the recent past of all comes before the distant past of one.
func (p *plan) pastWork(streams []cloud.Stream) (s *cloud.Stream, next *progress) {
	for i := range streams {
		one := p.Streams[streams[i].Name]
		if !one.Uncovered && one.Problem == "" && !one.pastDone() && (next == nil || one.Back.After(next.Back)) {
			s, next = &streams[i], one
		}
	}
	return s, next
}

// poll reads a stream from before the previous poll until now.
func (e *Engine) poll(ctx context.Context, r *reader, s *cloud.Stream, p *progress) error {
	now := e.Clock()
	trailing, sweep := s.Trailing, s.Late > s.Trailing && now.Sub(p.Swept) >= dayLater
	if sweep {
		trailing = s.Late
	}
	from := maxTime(p.Through.Add(-trailing), r.task.plan.Since)
	items := 0
	for to := from; ; {
		to = now
		if s.Span != cloud.Snapshot && s.Chunk > 0 {
			to = minTime(from.Add(chunk(s)), now)
		}
		// An empty window is believed when the previous poll was empty, too.
		n, err := r.window(ctx, s, from, to, reading{origin: "poll", complete: true, trustEmpty: p.Empty})
		if err != nil {
			return err
		}
		if items += n; !to.Before(now) {
			break
		}
		p.Through, from = maxTime(p.Through, to), to
	}
	every := jitter(e.every(r.vendor, r.task.plan, s), r.link.ID, s.Name, now)
	if p.Polled.IsZero() {
		every = spread(every, r.link.ID, s.Name)
	}
	p.Through, p.Polled, p.Empty = now, now, items == 0
	if sweep {
		p.Swept = now
	}
	e.record(r.task, p, items)
	p.Due = now.Add(every)
	return nil
}

// defaultChunk is the length of a piece of the past for streams without a longest
// window.
const defaultChunk = 30 * 24 * time.Hour

// chunk returns the longest time that one window of a stream may cover.
func chunk(s *cloud.Stream) time.Duration {
	c := s.Chunk
	if c == 0 {
		c = defaultChunk
	}
	if s.Span == cloud.Days {
		c -= wholeDays
	}
	return max(c, time.Hour)
}

// wholeDays is the greatest time by which cloud.Dates extends a window.
const wholeDays = 4 * 24 * time.Hour

// readPast reads one piece of the past of a stream, backwards.
func (e *Engine) readPast(ctx context.Context, r *reader, s *cloud.Stream, p *progress) error {
	from := maxTime(p.Back.Add(-chunk(s)), p.Floor)
	n, err := r.window(ctx, s, from, p.Back, reading{origin: "backfill"})
	if err != nil {
		return err
	}
	p.Back = from
	e.record(r.task, p, n)
	return nil
}

func (e *Engine) record(t *task, p *progress, items int) {
	if items > 0 {
		t.plan.Data = e.Clock()
		p.Items += uint64(items)
	}
}

// succeeded ends a turn that did its work.
func (e *Engine) succeeded(ctx context.Context, t *task, p *progress) time.Time {
	now := e.Clock()
	if p != nil {
		p.Problem = ""
	}
	if p != nil || now.Sub(t.plan.saved) > time.Hour {
		if err := e.savePlan(ctx, t); err != nil {
			return e.backOff(t, err)
		}
	}
	e.mu.Lock()
	t.failures = 0
	t.vendor.throttled = 0
	status := t.link.Status
	e.mu.Unlock()
	if status == link.Membership || status == link.Permission {
		_, err := e.Links.SetStatus(ctx, t.id, link.Working, "")
		e.log(err, t, "status")
	}
	return time.Time{}
}

// dayLater is the time after which something that only a person can change is tried
// again.
const dayLater = 24 * time.Hour

// failed ends a turn with an error and returns the time of the next turn. p is the
// stream whose turn it was, or nil.
func (e *Engine) failed(ctx context.Context, t *task, v *vendor, p *progress, err error) time.Time {
	if ctx.Err() != nil {
		return e.Clock().Add(time.Minute) // the server stops
	}
	now := e.Clock()
	if fhir.KindOf(err) == fhir.Forbidden {
		return now // the consent was withdrawn meanwhile; the next turn sees it
	}
	problem, isCloud := errors.AsType[*cloud.Error](err)
	if !isCloud {
		if p != nil && !retryable(err) {
			e.stop(ctx, t, p, "unreadable", now)
			e.log(err, t, "the answer of the vendor could not be processed")
			return time.Time{}
		}
		return e.backOff(t, err)
	}
	e.meters.failed(ctx, v.Code(), problem.Problem)
	switch problem.Problem {
	case cloud.Throttled:
		until := e.throttle(v, t, waitFor(problem, t.failures))
		if e.shared {
			e.log(e.savePlan(ctx, t), t, "plan")
		}
		return until
	case cloud.Unauthorized, cloud.Unlinked:
		if problem.Problem == cloud.Unlinked {
			_, err = e.Links.SetStatus(ctx, t.id, link.Reconnect, "account-not-linked")
			e.log(err, t, "status")
		}
		e.forget(ctx, t)
		return farFuture
	case cloud.Gone:
		_, err = e.Links.SetStatus(ctx, t.id, link.Gone, "provider-gone")
		e.log(err, t, "status")
		e.forget(ctx, t)
		return farFuture
	case cloud.Membership:
		_, err = e.Links.SetStatus(ctx, t.id, link.Membership, problem.Reason)
		e.log(err, t, "status")
		e.mu.Lock()
		t.blocked = now.Add(dayLater)
		e.mu.Unlock()
		return now.Add(dayLater)
	case cloud.Permission, cloud.NotFound, cloud.Rejected:
		if p == nil {
			return e.backOff(t, err)
		}
		e.stop(ctx, t, p, problem.Problem.String(), now)
		if problem.Problem == cloud.Rejected {
			e.log(err, t, "the vendor refuses our request")
		}
		if problem.Problem == cloud.Permission && t.plan.allRefused() {
			_, err = e.Links.SetStatus(ctx, t.id, link.Permission, problem.Reason)
			e.log(err, t, "status")
		}
		return time.Time{}
	}
	if p != nil {
		p.Problem = "" // a failure of the moment does not stop the past from being read
	}
	return e.backOff(t, err)
}

// retryable reports whether an error of ingest may not occur again.
func retryable(err error) bool {
	k := fhir.KindOf(err)
	return k == fhir.Unavailable || k == fhir.Conflict || k == fhir.Internal || k == fhir.TooCostly
}

// stop notes that a stream cannot be read, and tries it again after a day.
func (e *Engine) stop(ctx context.Context, t *task, p *progress, problem string, now time.Time) {
	p.Problem, p.Due = problem, now.Add(dayLater)
	e.log(e.savePlan(ctx, t), t, "plan")
}

// allRefused reports whether the vendor refuses all streams whose scopes were
// granted.
func (p *plan) allRefused() bool {
	for _, s := range p.Streams {
		if !s.Uncovered && s.Problem != cloud.Permission.String() {
			return false
		}
	}
	return true
}

const (
	minWait = 15 * time.Second
	maxWait = time.Hour
)

// waitFor returns the time to wait after a failure: what the vendor says, or a time
// that doubles with each failure.
func waitFor(problem *cloud.Error, failures int) time.Duration {
	if problem != nil && problem.RetryAfter > 0 {
		return problem.RetryAfter
	}
	return min(minWait<<min(failures, 10), maxWait)
}

// backOff ends a turn that failed for a reason that may pass.
func (e *Engine) backOff(t *task, err error) time.Time {
	problem, _ := errors.AsType[*cloud.Error](err)
	e.log(err, t, "a turn failed and will be tried again")
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.Clock()
	t.blocked = now.Add(jitter(waitFor(problem, t.failures), t.id, "failure", now))
	t.failures++
	return t.blocked
}

func (e *Engine) log(err error, t *task, what string) {
	if err != nil {
		e.Logger.Warn("sync: "+what, "link", t.id, "vendor", t.vendor.Code(), "error", err.Error())
	}
}

// handle reads what an event announces.
func (e *Engine) handle(ctx context.Context, r *reader, ev *event) error {
	s := cloud.Find(r.vendor.streams, ev.Stream)
	if s == nil || r.task.plan.Streams[s.Name].Uncovered {
		return nil // a stream that is not read
	}
	p := r.task.plan.Streams[s.Name]
	if ev.Object != "" {
		n, err := r.object(ctx, s, ev.Object)
		if cloud.ProblemOf(err) == cloud.NotFound && err != nil {
			_, err = e.Ingest.Retract(ctx, ingest.Retraction{Patient: r.link.Patient, Vendor: r.link.Vendor,
				Types: s.Types, VendorID: ev.Object,
				Origin: ingest.Origin{Channel: "webhook", Link: r.link.ID}, Caller: caller(), Bind: e.bind})
			return err
		}
		e.record(r.task, p, n)
		return err
	}
	from, to := ev.From, ev.To
	if from = maxTime(from, r.task.plan.Since); !from.Before(to) {
		return nil
	}
	n, err := r.window(ctx, s, from, to, reading{origin: "webhook", complete: true, trustEmpty: ev.Deleted})
	e.record(r.task, p, n)
	return err
}
