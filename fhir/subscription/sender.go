package subscription

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

const (
	// errorText stands in Subscription.error; what the endpoint answered
	// does not.
	errorText = "the endpoint did not accept the notifications"
	// handshakeText is the same for the verification of the endpoint, which
	// is tried handshakes times.
	handshakeText = "the endpoint did not accept the handshake"
	handshakes    = 5
	// keepEvents is how many delivered events $events can still give.
	keepEvents = 1000
	// savePlace is how often the place of a busy sender is made durable: an
	// event answered within it may be repeated after a crash.
	savePlace = 250 * time.Millisecond
	// drain is how long an answer in flight is waited for at a shutdown.
	drain = 2 * time.Second
	// maxBundle bounds the resources of one notification, beyond the first.
	maxBundle = 1 << 20
)

// sender delivers to one endpoint. Only its own goroutine uses it.
type sender struct {
	e *Engine
	s *sub

	saved    uint64    // durable place
	ahead    []event   // the next ones, as far as they are read
	lastSave time.Time // of the place
	lastSent time.Time
	attempt  int
	// shaken is the version whose handshake was accepted.
	shaken uint64
	// audited names the events, and what of them was visible, whose
	// disclosure is durable already: a repeat adds nothing.
	audited string
}

// view is what the sender needs to know of its Subscription now.
type view struct {
	spec              *Spec
	version           uint64
	status, reason    string
	events, delivered uint64
	since             time.Time
}

func (d *sender) view() view {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	s := d.s
	return view{s.spec, s.version, s.status, s.reason, s.events, s.delivered, s.since}
}

func (d *sender) run(ctx context.Context) {
	d.saved = d.view().delivered
	d.lastSent = d.e.opts.Clock()
	for ctx.Err() == nil {
		wait := d.once(ctx)
		if ctx.Err() != nil {
			break
		}
		if wait != 0 && !sleep(ctx, d.s.wake, wait) {
			break
		}
	}
	// The last place, so that a restart repeats nothing that was answered.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	d.e.mu.Lock()
	_, alive := d.e.subs[d.s.id]
	d.e.mu.Unlock()
	if alive {
		d.save(end)
	}
}

const idle = time.Hour

// once does what is due and returns how long nothing else is; 0: go on.
func (d *sender) once(ctx context.Context) time.Duration {
	v := d.view()
	now := d.e.opts.Clock()
	if v.spec == nil {
		return idle
	}
	if !v.spec.End.IsZero() && !now.Before(v.spec.End) && v.status != "off" {
		return d.become(ctx, v, "off", "")
	}
	wait := idle
	if !v.spec.End.IsZero() {
		wait = min(wait, v.spec.End.Sub(now))
	}
	switch v.status {
	case "requested":
		if d.shaken == v.version {
			return wait // accepted; the follower brings the new status
		}
		if due := v.since.Add(d.e.opts.HandshakeDelay); now.Before(due) {
			return due.Sub(now)
		}
		if d.notify(ctx, v, "handshake", nil) {
			d.shaken = v.version
			return d.become(ctx, v, "active", "")
		}
		if d.attempt >= handshakes-1 {
			return d.become(ctx, v, "error", handshakeText)
		}
		return d.failed(ctx, v)
	case "active":
		if v.delivered < v.events {
			return d.deliver(ctx, v)
		}
		if v.spec.Heartbeat > 0 {
			if due := d.lastSent.Add(v.spec.Heartbeat); !now.Before(due) {
				if !d.notify(ctx, v, "heartbeat", nil) {
					return d.failed(ctx, v)
				}
				return 0
			}
			wait = min(wait, d.lastSent.Add(v.spec.Heartbeat).Sub(now))
		}
	}
	if d.saved < v.delivered {
		if due := d.lastSave.Add(savePlace); now.Before(due) {
			return min(wait, due.Sub(now))
		}
		d.save(ctx)
	}
	return wait
}

// failed counts an attempt and returns the wait before the next, or gives up.
func (d *sender) failed(ctx context.Context, v view) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	wait := d.e.opts.MinBackoff << min(d.attempt, 20)
	if d.attempt > 0 && wait/2 >= d.e.opts.MaxBackoff {
		return d.become(ctx, v, "error", errorText)
	}
	d.attempt++
	wait = min(wait, d.e.opts.MaxBackoff)
	// Up to a quarter more, so that endpoints that came back are not met by
	// everybody at once.
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1))
	// A wake (new events, a changed Subscription) must not shorten the wait.
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0
		case <-timer.C:
			return 0
		case <-d.s.wake:
			if d.view().version != v.version {
				d.attempt = 0
				return 0
			}
		}
	}
}

// deliver sends the next events.
func (d *sender) deliver(ctx context.Context, v view) time.Duration {
	items, err := d.items(ctx, v)
	if errors.Is(err, errMissed) {
		return 0
	}
	if err != nil {
		if ctx.Err() == nil {
			d.e.opts.Logger.ErrorContext(ctx, "events cannot be read", "subscription", d.s.id, "err", err)
		}
		return d.failed(ctx, v)
	}
	if !d.notify(ctx, v, "event-notification", items) {
		return d.failed(ctx, v)
	}
	now := d.e.opts.Clock()
	for i := range items {
		d.e.latency.Record(ctx, now.Sub(items[i].At).Seconds())
	}
	d.e.mu.Lock()
	d.s.delivered = items[len(items)-1].Number
	d.e.mu.Unlock()
	if now.Sub(d.lastSave) >= savePlace {
		d.save(ctx)
	}
	return 0
}

// items reads the next events and what of them may be given out now.
func (d *sender) items(ctx context.Context, v view) ([]item, error) {
	next, err := d.next(ctx, v)
	if err != nil {
		return nil, err
	}
	grant, err := d.e.opts.GrantFor(ctx, d.s.owner)
	if err != nil {
		grant = nil // may see nothing any more
	}
	var out []item
	size := 0
	for i := range next {
		yield.Now() // a commit that just happened comes before its notifications
		it := item{event: next[i]}
		if err := d.e.look(ctx, &it, grant); err != nil {
			return nil, err
		}
		if v.spec.Content == FullResource {
			if size += len(it.json); size > maxBundle && len(out) > 0 {
				break
			}
		}
		out = append(out, it)
	}
	return out, nil
}

// readAhead is how many events a sender reads at once: what a run is of has to
// be walked to from the beginning of its commit.
const readAhead = 4096

// next are the events that come next, as many as one notification may have.
func (d *sender) next(ctx context.Context, v view) ([]event, error) {
	first := v.delivered + 1
	for len(d.ahead) > 0 && d.ahead[0].Number < first {
		d.ahead = d.ahead[1:]
	}
	want := int(min(v.events-v.delivered, uint64(v.spec.MaxCount)))
	if len(d.ahead) < want {
		var err error
		if d.ahead, err = d.e.events(ctx, d.s.id, first, int(min(v.events-v.delivered, readAhead))); err != nil {
			return nil, err
		}
	}
	if len(d.ahead) == 0 || d.ahead[0].Number != first {
		return nil, d.missed(ctx, v, first)
	}
	n := 1
	for n < min(want, len(d.ahead)) && d.ahead[n].Number == first+uint64(n) {
		n++
	}
	return d.ahead[:n], nil
}

// errMissed says that the next events were only counted, and are passed over.
var errMissed = errors.New("events were only counted")

// missed passes over events that were only counted while the Subscription was
// in error (keepMissed). The client sees the gap in the numbers.
func (d *sender) missed(ctx context.Context, v view, first uint64) error {
	last := v.events
	if len(d.ahead) > 0 {
		last = d.ahead[0].Number - 1
	}
	d.e.opts.Logger.WarnContext(ctx, "events of a subscription that was in error are passed over", "subscription",
		d.s.id, "from", first, "to", last)
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	d.s.delivered = last
	return errMissed
}

// look decides on one event with the scopes and consents of now.
func (e *Engine) look(ctx context.Context, it *item, grant *access.Grant) error {
	ref := fhir.Ref{Type: "Observation", ID: it.ID}
	if !grant.May(access.Read, "Observation") {
		return nil
	}
	res, facts, err := e.opts.Store.ReadVersion(ctx, ref, it.Version)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			return nil
		}
		return err
	}
	heads, err := e.opts.Store.Heads(ctx, []fhir.Ref{ref})
	if err != nil {
		return err
	}
	if res.Deleted || len(heads) != 1 || heads[0].Deleted || facts == nil || !grant.Filter(access.Read).Allow(facts) {
		return nil
	}
	it.visible, it.patient, it.json = true, facts.Patient, res.JSON
	return nil
}

// notify sends one notification and reports whether it was accepted.
func (d *sender) notify(ctx context.Context, v view, kind string, items []item) bool {
	if err := d.record(ctx, v, kind, items); err != nil {
		if ctx.Err() == nil {
			d.e.opts.Logger.ErrorContext(ctx, "a notification cannot be recorded and is not sent", "subscription",
				d.s.id, "err", err)
		}
		return false
	}
	uuid, err := newUUID(d.e.opts.Rand)
	if err == nil {
		var id string
		if id, err = newUUID(d.e.opts.Rand); err == nil {
			h := &header{id: d.s.id, status: v.status, kind: kind, criteria: v.spec.Criteria, total: v.events,
				content: v.spec.Content}
			err = d.post(ctx, v, appendNotification(make([]byte, 0, 4096), d.e.opts.Base, id, uuid,
				d.e.opts.Clock(), h, items))
		}
	}
	d.e.attempts.Add(ctx, 1)
	d.lastSent = d.e.opts.Clock()
	if err != nil {
		if ctx.Err() == nil {
			// The cause may name the endpoint, with secrets in its path: only
			// its class is logged.
			d.e.opts.Logger.WarnContext(ctx, "notification not accepted", "subscription", d.s.id, "kind", kind,
				"attempt", d.attempt+1)
		}
		return false
	}
	d.attempt = 0
	return true
}

func (d *sender) post(ctx context.Context, v view, body []byte) error {
	// A shutdown lets the answer in flight come, so that what was accepted is
	// not sent again.
	stopping := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.spec.Timeout)
	defer cancel()
	defer context.AfterFunc(stopping, func() {
		if sleep(ctx, nil, drain) {
			cancel()
		}
	})()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.spec.Endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	for _, h := range v.spec.Headers {
		req.Header.Add(h[0], h[1])
	}
	req.Header.Set("Content-Type", v.spec.Payload)
	resp, err := d.e.client.Do(req)
	if err != nil {
		return err
	}
	// Read a little, so that the connection can be used again.
	_, derr := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return errors.New("status " + strconv.Itoa(resp.StatusCode))
	}
	return derr
}

// record makes what is about to leave durable in the audit trail: one
// disclosure a patient for content, one plain event otherwise. A repeat of
// the same events is not recorded again.
func (d *sender) record(ctx context.Context, v view, kind string, items []item) error {
	mark := auditMark(v.version, items)
	if len(items) > 0 && d.audited == mark {
		return nil
	}
	p := &access.Principal{ClientID: d.s.owner}
	base := audit.Event{
		Type: audit.Rest, Interaction: "operation", Caller: audit.Caller{Principal: p, RemoteIP: v.spec.Endpoint.Host},
		Recipient: v.spec.Endpoint.Scheme + "://" + v.spec.Endpoint.Host, Query: "POST " + kind,
		Extra: [][2]string{{"subscription", d.s.id}, {"kind", kind}},
	}
	if len(items) > 0 {
		base.Extra = append(base.Extra, [2]string{"events",
			strconv.FormatUint(items[0].Number, 10) + "-" + strconv.FormatUint(items[len(items)-1].Number, 10)})
	}
	evs := disclosures(base, v.spec.Content, items)
	if len(evs) == 0 {
		evs = []audit.Event{base}
	}
	if err := d.e.opts.Audit.Record(ctx, evs...); err != nil {
		return err
	}
	d.audited = mark
	return nil
}

func auditMark(version uint64, items []item) string {
	b := strconv.AppendUint(nil, version, 10)
	for i := range items {
		b = strconv.AppendUint(append(b, ' '), items[i].Number, 10)
		if items[i].visible {
			b = append(b, '+')
		}
	}
	return string(b)
}

// disclosures is one event a patient of what is visible; none for empty.
func disclosures(base audit.Event, content Content, items []item) []audit.Event {
	if content == Empty {
		return nil
	}
	var evs []audit.Event
	at := map[string]int{}
	for i := range items {
		it := &items[i]
		if !it.visible {
			continue
		}
		k, ok := at[it.patient]
		if !ok {
			k = len(evs)
			at[it.patient] = k
			ev := base
			ev.Patient, ev.Data, ev.Query = it.patient, nil, ""
			if content == FullResource {
				ev.Type = audit.Disclosure
			}
			evs = append(evs, ev)
		}
		evs[k].Data = append(evs[k].Data,
			audit.DataRef{Ref: fhir.Ref{Type: "Observation", ID: it.ID}, Version: it.Version})
	}
	return evs
}

// save makes the place durable and lets old events go.
func (d *sender) save(ctx context.Context) {
	v := d.view()
	d.lastSave = d.e.opts.Clock()
	if v.delivered == d.saved {
		return
	}
	b := store.Batch{State: []store.StateWrite{{Key: sentKey(d.s.id), Value: strconv.AppendUint(nil, v.delivered, 10)}}}
	var err error
	if v.delivered > keepEvents {
		kept := eventKey(d.s.id, v.delivered-keepEvents+1)
		err = d.e.opts.Store.List(ctx, eventPrefix(d.s.id), func(k string, _ []byte) bool {
			if k >= kept || len(b.State) == 500 {
				return false
			}
			b.State = append(b.State, store.StateWrite{Key: k})
			return true
		})
	}
	if err == nil {
		_, err = d.e.opts.Store.Commit(ctx, &b)
	}
	if err != nil {
		if ctx.Err() == nil {
			d.e.opts.Logger.ErrorContext(ctx, "the place of a subscription cannot be written", "subscription",
				d.s.id, "err", err)
		}
		return
	}
	d.saved = v.delivered
}

// become writes another status into the Subscription, as a new version. The
// follower brings it back and puts it in force. A client's update in between
// wins.
func (d *sender) become(ctx context.Context, v view, status, reason string) time.Duration {
	err := d.write(ctx, v, status, reason)
	switch {
	case err == nil || ctx.Err() != nil:
		d.attempt = 0
	case fhir.KindOf(err) == fhir.PreconditionFailed || fhir.KindOf(err) == fhir.Conflict ||
		fhir.KindOf(err) == fhir.Gone:
	default:
		d.e.opts.Logger.ErrorContext(ctx, "the status of a subscription cannot be written", "subscription", d.s.id,
			"err", err)
		d.shaken = 0
		return d.e.opts.MinBackoff
	}
	// Until the follower has seen the new version there is nothing to do.
	for d.view().version == v.version {
		if !sleep(ctx, d.s.wake, time.Second) {
			return 0
		}
	}
	return 0
}

func (d *sender) write(ctx context.Context, v view, status, reason string) error {
	ref := fhir.Ref{Type: "Subscription", ID: d.s.id}
	res, facts, err := d.e.opts.Store.Read(ctx, ref, 0)
	if err != nil {
		return err
	}
	if res.Deleted || res.Version != v.version {
		return fhir.Errorf(fhir.PreconditionFailed, "subscription.write", "the Subscription has changed")
	}
	body, err := unstamp(&res)
	if err != nil {
		return err
	}
	if body, err = setStatus(body, status, reason); err != nil {
		return err
	}
	_, err = audit.Commit(ctx, d.e.opts.Store, d.e.opts.Audit, &store.Batch{
		Writes: []store.Write{{
			Op: store.Put, Resource: fhir.Resource{Type: ref.Type, ID: ref.ID, JSON: body},
			Vendor: facts.Vendor, Author: facts.Author, Expect: store.Version, IfVersion: v.version,
		}},
	}, audit.Event{
		Type: audit.Rest, Interaction: "update",
		Caller: audit.Caller{Principal: &access.Principal{ClientID: d.s.owner}, RemoteIP: v.spec.Endpoint.Host},
		Data:   []audit.DataRef{{Ref: ref, Version: v.version + 1}},
		Extra:  [][2]string{{"status", status}},
	})
	return err
}
