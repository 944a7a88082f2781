package sync

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/adapters/cloud"
	"pulsegate/fhir"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/store"
)

const (
	inboxPrefix = "sync/inbox/"
	seenPrefix  = "sync/seen/"
)

// maxNotification bounds the body of a notification in bytes.
const maxNotification = 1 << 20

// notificationFactor bounds the bytes of memory per byte of a notification: the body,
// its growth while it is read, and its events.
const notificationFactor = 4

// maxBacklog bounds the events in memory. Beyond it, notifications are refused with
// 503, and the vendor sends them again.
const maxBacklog = 200_000

// entry is a notification in the inbox.
type entry struct {
	key      string
	received time.Time
	left     int // events that were not handled
}

// event is an announced change of one link.
type event struct {
	cloud.Event
	entries  []*entry // notifications that announce it
	failures int
	started  bool
}

// Mount adds the routes of the webhooks: BASE/hooks/VENDOR and paths below.
func (e *Engine) Mount(r gin.IRouter) {
	for _, v := range e.order {
		if _, ok := v.Vendor.(cloud.Notifier); !ok {
			continue
		}
		h := func(c *gin.Context) { e.serve(c, v) }
		for _, path := range []string{"/hooks/" + v.Code(), "/hooks/" + v.Code() + "/*path"} {
			r.GET(path, h)
			r.HEAD(path, h)
			r.POST(path, h)
		}
	}
}

// serve answers a request to a webhook.
func (e *Engine) serve(c *gin.Context, v *vendor) {
	status, body := e.receive(c.Request, v, strings.TrimPrefix(c.Param("path"), "/"))
	e.meters.received(c.Request.Context(), v.Code(), status)
	if body == nil {
		c.Status(status)
		c.Writer.WriteHeaderNow()
		return
	}
	c.Data(status, "application/json", body)
}

func (e *Engine) receive(rq *http.Request, v *vendor, path string) (int, []byte) {
	if e.crowded(rq.Context()) {
		return http.StatusServiceUnavailable, nil
	}
	size := int64(maxNotification)
	if rq.ContentLength >= 0 {
		size = min(size, rq.ContentLength)
	}
	if err := budget.Of(rq.Context()).Grow(size * notificationFactor); err != nil {
		return http.StatusServiceUnavailable, nil
	}
	raw, err := io.ReadAll(http.MaxBytesReader(nil, rq.Body, maxNotification))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return http.StatusRequestEntityTooLarge, nil
		}
		return http.StatusBadRequest, nil
	}
	notifier := v.Vendor.(cloud.Notifier)
	receipt, err := notifier.Receive(rq.Context(), &cloud.Notification{Method: rq.Method, Path: path,
		Query: rq.URL.Query(), Header: rq.Header, Body: raw, Now: e.Clock(), Callback: e.Hooks + "/" + v.Code()})
	if err != nil {
		e.Logger.Warn("sync: a notification was refused", "vendor", v.Code(), "error", err.Error())
		if receipt.Status < 400 {
			receipt.Status = http.StatusServiceUnavailable
		}
		return receipt.Status, nil
	}
	if !receipt.Store {
		return receipt.Status, receipt.Body
	}
	events, err := notifier.Events(raw)
	if err != nil {
		e.Logger.Warn("sync: a notification has an unknown form", "vendor", v.Code(), "error", err.Error())
		return http.StatusBadRequest, nil
	}
	one, err := e.keep(rq.Context(), v, raw, &receipt)
	if err != nil {
		e.Logger.Error("sync: a notification could not be stored", "vendor", v.Code(), "error", err.Error())
		return http.StatusServiceUnavailable, nil
	}
	if one != nil && !e.shared {
		e.enqueue(rq.Context(), v, one, events)
	}
	return receipt.Status, receipt.Body
}

// keep stores a notification. It returns nil if the notification was stored before.
func (e *Engine) keep(ctx context.Context, v *vendor, raw []byte, receipt *cloud.Receipt) (*entry, error) {
	now := e.Clock()
	var random [8]byte
	_, _ = rand.Read(random[:]) // crypto/rand never fails
	one := &entry{received: now, key: fmt.Sprintf("%s%s/%016x-%x", inboxPrefix, v.Code(), now.UnixNano(), random)}
	value := binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano()))
	seen := seenPrefix + v.Code() + "/" + hex.EncodeToString(receipt.Key[:])
	b := &store.Batch{State: []store.StateWrite{
		{Key: one.key, Value: append(value, raw...), Expect: store.StateAbsent},
		{Key: seen, Value: value, Expect: store.StateAbsent, Expires: now.Add(receipt.Keep)},
	}}
	if e.shared { // the holder of the role follows it
		b.State = append(b.State, store.StateWrite{Key: newPrefix + strings.TrimPrefix(one.key, inboxPrefix),
			Value: []byte("1")})
	}
	_, err := e.Store.Commit(ctx, b)
	if store.Lost(err) {
		return nil, nil
	}
	return one, err
}

// readInbox enqueues the notifications that were not handled before the last stop.
func (e *Engine) readInbox(ctx context.Context) error {
	type stored struct {
		key   string
		value []byte
	}
	var all []stored
	err := e.Store.List(ctx, inboxPrefix, func(key string, value []byte) bool {
		all = append(all, stored{strings.Clone(key), append([]byte(nil), value...)})
		return true
	})
	if err != nil {
		return fhir.Wrap("sync.readInbox", err)
	}
	for _, s := range all {
		e.readEntry(ctx, s.key, s.value)
	}
	return nil
}

// readEntry enqueues a stored notification, unless it is in memory.
func (e *Engine) readEntry(ctx context.Context, key string, value []byte) {
	code, _, _ := strings.Cut(strings.TrimPrefix(key, inboxPrefix), "/")
	v := e.vendors[code]
	if v == nil || len(value) < 8 {
		return // the vendor is no longer configured; it may be again
	}
	notifier, ok := v.Vendor.(cloud.Notifier)
	if !ok {
		return
	}
	events, err := notifier.Events(value[8:])
	if err != nil {
		e.Logger.Error("sync: a stored notification has an unknown form", "vendor", code, "error", err.Error())
		return
	}
	if e.shared {
		e.mu.Lock()
		_, known := e.queued[key]
		e.queued[key] = struct{}{}
		e.mu.Unlock()
		if known {
			return
		}
	}
	at := time.Unix(0, int64(binary.BigEndian.Uint64(value))) // written by keep
	e.enqueue(ctx, v, &entry{key: key, received: at}, events)
}

// enqueue gives the events of a notification to their links. Events of unknown
// accounts have been handled: when such an account is linked, its past is read.
func (e *Engine) enqueue(ctx context.Context, v *vendor, one *entry, events []cloud.Event) {
	e.mu.Lock()
	v.heard = maxTime(v.heard, one.received)
	one.left = 1 // until all events have been added
	for _, ev := range events {
		t := e.tasks[e.accounts[accountKey(v.Code(), ev.Account)]]
		if t == nil || t.stopped() {
			continue
		}
		one.left++
		e.backlog++
		t.addEvent(ev, one)
		e.schedule(t, e.Clock())
	}
	e.mu.Unlock()
	e.handled(ctx, one)
}

// addEvent adds an event to the task, or to a waiting event of the same content. The
// caller holds the mutex.
func (t *task) addEvent(ev cloud.Event, one *entry) {
	for _, have := range t.events {
		if have.started || have.Stream != ev.Stream || have.Object != ev.Object {
			continue
		}
		if ev.Object == "" && (ev.From.After(have.To) || have.From.After(ev.To)) {
			continue
		}
		have.From, have.To = minTime(have.From, ev.From), maxTime(have.To, ev.To)
		have.Deleted = have.Deleted || ev.Deleted
		have.entries = append(have.entries, one)
		return
	}
	t.events = append(t.events, &event{Event: ev, entries: []*entry{one}})
}

// firstEvent returns the event of the turn, or nil.
func (e *Engine) firstEvent(t *task) *event {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(t.events) == 0 {
		return nil
	}
	t.events[0].started = true
	return t.events[0]
}

// eventDone removes an event that was handled.
func (e *Engine) eventDone(ctx context.Context, t *task, ev *event) {
	e.mu.Lock()
	for i, have := range t.events {
		if have == ev {
			t.events = append(t.events[:i:i], t.events[i+1:]...)
			break
		}
	}
	e.backlog -= len(ev.entries)
	e.mu.Unlock()
	for _, one := range ev.entries {
		e.meters.handled(ctx, t.vendor.Code(), e.Clock().Sub(one.received))
		e.handled(ctx, one)
	}
}

// maxEventFailures is the number of failures after which an event is given up. The
// next poll reads what it announced.
const maxEventFailures = 12

// eventFailed ends the turn of an event that could not be handled.
func (e *Engine) eventFailed(ctx context.Context, t *task, v *vendor, ev *event, err error) time.Time {
	problem := cloud.ProblemOf(err)
	if ctx.Err() == nil && problem != cloud.Throttled && fhir.KindOf(err) != fhir.Forbidden {
		e.mu.Lock()
		ev.failures++
		e.mu.Unlock()
		_, isCloud := errors.AsType[*cloud.Error](err)
		useless := problem == cloud.Permission || problem == cloud.Rejected || !isCloud && !retryable(err)
		if useless || ev.failures >= maxEventFailures {
			e.log(err, t, "an event is given up")
			e.eventDone(ctx, t, ev)
			return time.Time{}
		}
	}
	return e.failed(ctx, t, v, nil, err)
}

// drop gives up the events of a link that is not read. It returns the notifications
// whose events they were, for handledAll. The caller holds the mutex.
func (e *Engine) drop(t *task) (entries []*entry) {
	for _, ev := range t.events {
		entries = append(entries, ev.entries...)
	}
	e.backlog -= len(entries)
	t.events = nil
	return entries
}

// forget drops the events of a link. When the link can be read again, the polls read
// what was missed.
func (e *Engine) forget(ctx context.Context, t *task) {
	e.mu.Lock()
	entries := e.drop(t)
	e.mu.Unlock()
	e.handledAll(ctx, entries)
}

func (e *Engine) handledAll(ctx context.Context, entries []*entry) {
	for _, one := range entries {
		e.handled(ctx, one)
	}
}

// handled counts an event of a notification as handled, and removes the notification
// from the inbox after the last one.
func (e *Engine) handled(ctx context.Context, one *entry) {
	e.mu.Lock()
	one.left--
	done := one.left == 0
	e.mu.Unlock()
	if !done {
		return
	}
	err := e.commit(context.WithoutCancel(ctx), store.StateWrite{Key: one.key})
	if err == nil && e.shared {
		e.mu.Lock()
		delete(e.queued, one.key)
		e.mu.Unlock()
	}
	if err != nil {
		e.Logger.Warn("sync: a handled notification stays in the inbox", "error", err.Error())
	}
}
