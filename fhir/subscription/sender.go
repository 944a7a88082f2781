package subscription

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

const (
	// errorText is the value of Subscription.error. It does not include the
	// response of the endpoint.
	errorText = "the endpoint did not accept the notifications"
	// handshakeText is the value of Subscription.error after handshakes failed
	// attempts to verify the endpoint.
	handshakeText = "the endpoint did not accept the handshake"
	handshakes    = 5
	// keepEvents is the number of delivered events that are kept for $events.
	keepEvents = 1000
	// saveInterval is the interval at which a busy sender makes its position durable.
	// Events delivered within it may be repeated after a crash.
	saveInterval = 250 * time.Millisecond
	// drainTimeout bounds the wait for a pending response at shutdown.
	drainTimeout = 2 * time.Second
	// maxBundle bounds the size in bytes of the resources in one notification. The
	// first resource may be larger.
	maxBundle = 1 << 20
)

// sender delivers the events of one Subscription. All fields belong to the
// goroutine of run.
type sender struct {
	follower *follower
	sub      *sub

	saved    uint64    // durable position: number of the last delivered event
	buffered []event   // the next events
	lastSave time.Time // when saved was written
	lastSent time.Time
	attempt  int
	// verified is the version for which the endpoint accepted the handshake.
	verified uint64
	// audited identifies the events of the last recorded notification and their
	// visible parts, so that a repetition is not recorded again.
	audited string
}

// view is a consistent copy of the fields of sub that follower.mu guards.
type view struct {
	spec              *Spec
	version           uint64
	status, reason    string
	events, delivered uint64
	since             time.Time
}

func (s *sender) view() view {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	sub := s.sub
	return view{sub.spec, sub.version, sub.status, sub.reason, sub.events, sub.delivered, sub.since}
}

func (s *sender) run(ctx context.Context) {
	s.saved = s.view().delivered
	s.lastSent = s.follower.opts.Clock()
	for ctx.Err() == nil {
		wait := s.step(ctx)
		if ctx.Err() != nil {
			break
		}
		if wait != 0 && !follow.Sleep(ctx, s.sub.wake, wait) {
			break
		}
	}
	// Save the position, so that nothing is repeated after a restart.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	s.follower.mu.Lock()
	_, alive := s.follower.subs[s.sub.id]
	s.follower.mu.Unlock()
	if alive {
		s.save(end)
	}
}

const idle = time.Hour

// handshakes reports whether the endpoint is verified before the Subscription becomes
// active. Criteria of R4 know no handshake, and a socket gets its handshake when it is
// bound.
func (s *Spec) handshakes() bool { return s.Topic != nil && s.Channel != websocket }

// step does one thing that is due and returns the time until the next one, or 0
// to continue immediately.
func (s *sender) step(ctx context.Context) time.Duration {
	v := s.view()
	now := s.follower.opts.Clock()
	if v.spec == nil {
		return idle
	}
	if !v.spec.End.IsZero() && !now.Before(v.spec.End) && v.status != "off" {
		return s.transition(ctx, v, "off", "")
	}
	wait := idle
	if !v.spec.End.IsZero() {
		wait = min(wait, v.spec.End.Sub(now))
	}
	switch v.status {
	case "requested":
		if s.verified == v.version {
			return wait // accepted; the follower will apply the new status
		}
		if due := v.since.Add(s.follower.opts.HandshakeDelay); now.Before(due) {
			return due.Sub(now)
		}
		if !s.sync(ctx) {
			return 0
		}
		if !v.spec.handshakes() || s.notify(ctx, v, "handshake", nil) {
			s.verified = v.version
			return s.transition(ctx, v, "active", "")
		}
		if s.attempt >= handshakes-1 {
			return s.transition(ctx, v, "error", handshakeText)
		}
		return s.failed(ctx, v)
	case "active":
		if v.delivered < v.events && v.spec.Channel == websocket {
			// The processes that hold its sockets send the events. Here they count as
			// delivered, so that only the latest are kept.
			s.follower.mu.Lock()
			s.sub.delivered = v.events
			s.follower.mu.Unlock()
			return 0
		}
		if v.delivered < v.events {
			if !s.sync(ctx) {
				return 0
			}
			return s.deliver(ctx, v)
		}
		if v.spec.Heartbeat > 0 && v.spec.Channel != websocket {
			if due := s.lastSent.Add(v.spec.Heartbeat); !now.Before(due) {
				if !s.sync(ctx) {
					return 0
				}
				if !s.notify(ctx, v, "heartbeat", nil) {
					return s.failed(ctx, v)
				}
				return 0
			}
			wait = min(wait, s.lastSent.Add(v.spec.Heartbeat).Sub(now))
		}
	}
	if s.saved < v.delivered {
		if due := s.lastSave.Add(saveInterval); now.Before(due) {
			return min(wait, due.Sub(now))
		}
		s.save(ctx)
	}
	return wait
}

// sync waits until this process shows what any process has acknowledged: a consent that
// was withdrawn at another one must stop the notification, and so must the loss of the
// role. If that cannot be confirmed, sync waits and reports false. The endpoint is not to
// blame then, so that the attempt does not count.
func (s *sender) sync(ctx context.Context) bool {
	err := s.follower.opts.Store.Sync(ctx)
	if err != nil {
		follow.Sleep(ctx, nil, s.follower.opts.MinBackoff)
	}
	return err == nil
}

// failed counts a failed attempt and waits before the next, or sets the
// Subscription to error.
func (s *sender) failed(ctx context.Context, v view) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	wait := s.follower.opts.MinBackoff << min(s.attempt, 20)
	if s.attempt > 0 && wait/2 >= s.follower.opts.MaxBackoff {
		return s.transition(ctx, v, "error", errorText)
	}
	s.attempt++
	wait = min(wait, s.follower.opts.MaxBackoff)
	// Add up to a quarter, so that the senders do not all call an endpoint at the
	// same moment when it is back.
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1))
	// New events must not shorten the wait; a new version of the Subscription does.
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0
		case <-timer.C:
			return 0
		case <-s.sub.wake:
			if s.view().version != v.version {
				s.attempt = 0
				return 0
			}
		}
	}
}

// deliver sends the next events in one notification.
func (s *sender) deliver(ctx context.Context, v view) time.Duration {
	items, err := s.items(ctx, v)
	if errors.Is(err, errMissed) {
		return 0
	}
	if err != nil {
		if ctx.Err() == nil {
			s.follower.opts.Logger.ErrorContext(ctx, "events cannot be read", "subscription", s.sub.id, "error", err)
		}
		return s.failed(ctx, v)
	}
	if !s.notify(ctx, v, "event-notification", items) {
		return s.failed(ctx, v)
	}
	now := s.follower.opts.Clock()
	for i := range items {
		s.follower.latency.Record(ctx, now.Sub(items[i].At).Seconds())
	}
	s.follower.mu.Lock()
	s.sub.delivered = items[len(items)-1].Number
	s.follower.mu.Unlock()
	if now.Sub(s.lastSave) >= saveInterval {
		s.save(ctx)
	}
	return 0
}

// items reads the next events and the parts of them that may be disclosed now.
func (s *sender) items(ctx context.Context, v view) ([]item, error) {
	next, err := s.next(ctx, v)
	if err != nil {
		return nil, err
	}
	grant, err := s.follower.opts.GrantFor(ctx, s.sub.owner)
	if err != nil {
		grant = nil // permits nothing
	}
	var out []item
	size := 0
	for i := range next {
		yield.Now() // let requests go first
		it := item{event: next[i]}
		if err := s.follower.disclose(ctx, &it, grant, v.spec.Topic, v.spec.Content); err != nil {
			return nil, err
		}
		if v.spec.Content == fullResource {
			if size += it.size(); size > maxBundle && len(out) > 0 {
				break
			}
		}
		out = append(out, it)
	}
	return out, nil
}

// readAhead is the number of events that a sender reads together, because reading
// a part of a run scans its commit from the beginning.
const readAhead = 4096

// next returns the next events, at most as many as one notification may have.
func (s *sender) next(ctx context.Context, v view) ([]event, error) {
	first := v.delivered + 1
	for len(s.buffered) > 0 && s.buffered[0].Number < first {
		s.buffered = s.buffered[1:]
	}
	want := int(min(v.events-v.delivered, uint64(v.spec.MaxCount)))
	if len(s.buffered) < want {
		var err error
		if s.buffered, err = s.follower.events(ctx, s.sub.id, first,
			int(min(v.events-v.delivered, readAhead))); err != nil {
			return nil, err
		}
	}
	if len(s.buffered) == 0 || s.buffered[0].Number != first {
		return nil, s.skipMissed(ctx, v, first)
	}
	n := 1
	for n < min(want, len(s.buffered)) && s.buffered[n].Number == first+uint64(n) {
		n++
	}
	return s.buffered[:n], nil
}

// errMissed reports that the next events have no rows and were skipped.
var errMissed = errors.New("events were only counted")

// skipMissed skips the events that were only counted while the Subscription was
// in error (keepMissed). The client notices the gap in the numbers.
func (s *sender) skipMissed(ctx context.Context, v view, first uint64) error {
	last := v.events
	if len(s.buffered) > 0 {
		last = s.buffered[0].Number - 1
	}
	s.follower.opts.Logger.WarnContext(ctx, "events of a subscription that was in error are skipped", "subscription",
		s.sub.id, "from", first, "to", last)
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	s.sub.delivered = last
	return errMissed
}

// notify sends one notification and reports whether it was accepted.
func (s *sender) notify(ctx context.Context, v view, typ string, items []item) bool {
	if err := s.record(ctx, v, typ, items); err != nil {
		if ctx.Err() == nil {
			s.follower.opts.Logger.ErrorContext(ctx, "a notification cannot be recorded and is not sent",
				"subscription",
				s.sub.id, "error", err)
		}
		return false
	}
	err := s.send(ctx, v, typ, items)
	s.follower.attempts.Add(ctx, 1)
	s.lastSent = s.follower.opts.Clock()
	if err != nil {
		if ctx.Err() == nil {
			// Do not log the error: it may contain the URL of the endpoint with
			// secrets in its path.
			s.follower.opts.Logger.WarnContext(ctx, "notification not accepted", "subscription", s.sub.id, "type", typ,
				"attempt", s.attempt+1)
		}
		return false
	}
	s.attempt = 0
	return true
}

// send renders and sends a notification.
func (s *sender) send(ctx context.Context, v view, typ string, items []item) error {
	// At shutdown, wait for a pending response, so that an accepted notification
	// is not sent again.
	stopping := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.spec.Timeout)
	defer cancel()
	defer context.AfterFunc(stopping, func() {
		if follow.Sleep(ctx, nil, drainTimeout) {
			cancel()
		}
	})()
	n, err := s.follower.newNotice(&header{id: s.sub.id, status: v.status, notificationType: typ,
		criteria: v.spec.Criteria, total: v.events, content: v.spec.Content, codes: v.spec.codes()}, items)
	if err != nil {
		return err
	}
	return s.follower.send(ctx, s.sub.owner, v.spec, n)
}

// codes reports whether events have trigger codes.
func (s *Spec) codes() bool { return s.Topic != nil && s.Topic.Feed }

// size returns the size in bytes of the resources of an event.
func (e *item) size() int {
	n := len(e.json)
	for i := range e.context {
		n += len(e.context[i].json)
	}
	return n
}

// recipient returns the network address of the endpoint for the audit trail, without
// the parts that may hold secrets.
func (s *Spec) recipient() (host, address string) {
	switch {
	case s.Endpoint != nil:
		return s.Endpoint.Host, s.Endpoint.Scheme + "://" + s.Endpoint.Host
	case s.Mail != "":
		_, domain, _ := strings.Cut(s.Mail, "@")
		return domain, "mailto:" + domain
	}
	return s.Channel, s.Channel
}

// record adds a notification to the audit trail before it is sent: one disclosure
// per patient, or one plain event if it has no content. A repetition of the same
// events is not recorded again.
func (s *sender) record(ctx context.Context, v view, typ string, items []item) error {
	mark := auditMark(v.version, items)
	if len(items) > 0 && s.audited == mark {
		return nil
	}
	evs := sendings(s.sub.owner, s.sub.id, v.spec, typ, items)
	if err := s.follower.record(ctx, evs); err != nil {
		return err
	}
	s.audited = mark
	return nil
}

// sendings returns the audit events of a notification.
func sendings(owner, id string, spec *Spec, typ string, items []item) []audit.Event {
	host, address := spec.recipient()
	base := audit.Event{
		Type: audit.Rest, Interaction: "operation",
		Caller:    audit.Caller{Principal: &access.Principal{ClientID: owner}, RemoteIP: host},
		Recipient: address, Query: "POST " + typ, Extra: [][2]string{{"subscription", id}, {"kind", typ}},
	}
	if len(items) > 0 {
		base.Extra = append(base.Extra, [2]string{"events",
			strconv.FormatUint(items[0].Number, 10) + "-" + strconv.FormatUint(items[len(items)-1].Number, 10)})
	}
	if evs := disclosures(base, spec.Content, items); len(evs) > 0 {
		return evs
	}
	return []audit.Event{base}
}

// record makes audit events durable, in a commit that is bound to the term.
func (f *follower) record(ctx context.Context, evs []audit.Event) error {
	if f.role.Alone() {
		return f.opts.Audit.Record(ctx, evs...)
	}
	_, err := audit.Commit(ctx, f.opts.Store, f.opts.Audit, &store.Batch{}, evs...)
	return err
}

// auditMark identifies events and their visible parts.
func auditMark(version uint64, items []item) string {
	b := strconv.AppendUint(nil, version, 10)
	for i := range items {
		b = strconv.AppendUint(append(b, ' '), items[i].Number, 10)
		if items[i].visible {
			b = append(b, '+')
		}
		for _, r := range items[i].context {
			b = strconv.AppendUint(append(append(b, ' '), r.ref.String()...), r.version, 10)
		}
	}
	return string(b)
}

// disclosures returns one audit event per patient for the visible items. It
// returns none for content empty.
func disclosures(base audit.Event, content Content, items []item) []audit.Event {
	if content == empty {
		return nil
	}
	var evs []audit.Event
	at := map[string]int{}
	addTo := func(patient string, ref audit.DataRef) {
		k, ok := at[patient]
		if !ok {
			k = len(evs)
			at[patient] = k
			ev := base
			ev.Patient, ev.Data, ev.Query = patient, nil, ""
			if content == fullResource {
				ev.Type = audit.Disclosure
			}
			evs = append(evs, ev)
		}
		evs[k].Data = append(evs[k].Data, ref)
	}
	add := func(patients []string, ref audit.DataRef) {
		if len(patients) == 0 {
			patients = []string{""}
		}
		for _, p := range patients {
			addTo(p, ref)
		}
	}
	for i := range items {
		it := &items[i]
		if !it.visible {
			continue
		}
		add(it.patients, audit.DataRef{Ref: it.ref(), Version: it.Version})
		for _, r := range it.context {
			add(r.patients, audit.DataRef{Ref: r.ref, Version: r.version})
		}
	}
	return evs
}

// save makes the position durable and deletes old events.
func (s *sender) save(ctx context.Context) {
	v := s.view()
	s.lastSave = s.follower.opts.Clock()
	if v.delivered == s.saved {
		return
	}
	b := store.Batch{State: []store.StateWrite{{Key: sentKey(s.sub.id),
		Value: strconv.AppendUint(nil, v.delivered, 10)}}}
	var err error
	if v.delivered > keepEvents {
		kept := eventKey(s.sub.id, v.delivered-keepEvents+1)
		err = s.follower.opts.Store.List(ctx, eventPrefix(s.sub.id), func(k string, _ []byte) bool {
			if k >= kept || len(b.State) == 500 {
				return false
			}
			b.State = append(b.State, store.StateWrite{Key: k})
			return true
		})
	}
	if err == nil {
		_, err = s.follower.opts.Store.Commit(ctx, &b)
	}
	if err != nil {
		// If the role is lost, the next holder repeats what was delivered since.
		if ctx.Err() == nil && !store.Lost(err) {
			s.follower.opts.Logger.ErrorContext(ctx, "the position of a subscription cannot be written", "subscription",
				s.sub.id, "error", err)
		}
		return
	}
	s.saved = v.delivered
}

// transition writes a new version of the Subscription with another status, which
// the follower then applies. If a client has updated the Subscription meanwhile,
// the client's version wins.
func (s *sender) transition(ctx context.Context, v view, status, reason string) time.Duration {
	err := s.write(ctx, v, status, reason)
	switch {
	case err == nil || ctx.Err() != nil:
		s.attempt = 0
	case fhir.KindOf(err) == fhir.PreconditionFailed || fhir.KindOf(err) == fhir.Conflict ||
		fhir.KindOf(err) == fhir.Gone:
	default:
		s.follower.opts.Logger.ErrorContext(ctx, "the status of a subscription cannot be written", "subscription",
			s.sub.id, "error", err)
		s.verified = 0
		return s.follower.opts.MinBackoff
	}
	// There is nothing to do until the follower has applied the new version.
	for s.view().version == v.version {
		if !follow.Sleep(ctx, s.sub.wake, time.Second) {
			return 0
		}
	}
	return 0
}

func (s *sender) write(ctx context.Context, v view, status, reason string) error {
	ref := fhir.Ref{Type: "Subscription", ID: s.sub.id}
	res, facts, err := s.follower.opts.Store.Read(ctx, ref, 0)
	if err != nil {
		return err
	}
	if res.Deleted || res.Version != v.version {
		return fhir.Errorf(fhir.PreconditionFailed, "subscription.write",
			"the Subscription has changed since it was read")
	}
	body, err := unstamp(&res)
	if err != nil {
		return err
	}
	if body, err = setStatus(body, status, reason); err != nil {
		return err
	}
	host, _ := v.spec.recipient()
	_, err = audit.Commit(ctx, s.follower.opts.Store, s.follower.opts.Audit, &store.Batch{
		Writes: []store.Write{{
			Op: store.Put, Resource: fhir.Resource{Type: ref.Type, ID: ref.ID, JSON: body},
			Vendor: facts.Vendor, Author: facts.Author, Expect: store.Version, IfVersion: v.version,
		}},
	}, audit.Event{
		Type: audit.Rest, Interaction: "update",
		Caller: audit.Caller{Principal: &access.Principal{ClientID: s.sub.owner}, RemoteIP: host},
		Data:   []audit.DataRef{{Ref: ref, Version: v.version + 1}},
		Extra:  [][2]string{{"status", status}},
	})
	return err
}
