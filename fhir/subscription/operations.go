package subscription

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/subscription/topic"
)

// Request is a request for one of the operations.
type Request struct {
	audit.Caller
	Query string // method and URL
}

func (e *Engine) may(c Request) error {
	if c.Principal == nil || !c.Principal.Grant.MayUnattended(access.Read, "Subscription") {
		return fhir.Errorf(fhir.Forbidden, "subscription.operation",
			"the token's scopes do not cover reading Subscription")
	}
	return nil
}

func (c Request) event(typ audit.EventType) audit.Event {
	return audit.Event{Type: typ, Interaction: "operation", Caller: c.Caller, Query: c.Query}
}

// Status answers $status with a searchset Bundle. It holds one SubscriptionStatus
// for each of the caller's own Subscriptions that matches ids and statuses. An
// empty list matches all. If instance is set and nothing matches, Status returns
// NotFound.
func (e *Engine) Status(ctx context.Context, c Request, ids, statuses []string, instance bool) ([]byte, error) {
	if err := e.may(c); err != nil {
		return nil, err
	}
	rows, err := e.statuses(ctx, c.Principal.ClientID, ids)
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(h header) bool {
		return len(statuses) > 0 && !slices.Contains(statuses, h.status)
	})
	if instance && len(rows) == 0 {
		return nil, fhir.Errorf(fhir.NotFound, "subscription.Status", "there is no such Subscription")
	}
	if err := e.opts.Audit.Record(ctx, c.event(audit.Rest)); err != nil {
		return nil, err
	}
	bundleID, err := newUUID(e.opts.Rand)
	if err != nil {
		return nil, err
	}
	b := []byte(`{"resourceType":"Bundle","id":"` + bundleID + `","type":"searchset","total":` +
		strconv.Itoa(len(rows)))
	for i := range rows {
		if i == 0 {
			b = append(b, `,"entry":[`...)
		} else {
			b = append(b, ',')
		}
		uuid, err := newUUID(e.opts.Rand)
		if err != nil {
			return nil, err
		}
		b = append(b, `{"fullUrl":"urn:uuid:`+uuid+`","resource":`...)
		b = appendStatus(b, e.opts.Base, uuid, &rows[i], nil)
		b = append(b, `,"search":{"mode":"match"}}`...)
	}
	if len(rows) > 0 {
		b = append(b, ']')
	}
	return append(b, '}'), nil
}

// statuses returns the headers of the Subscriptions of a client with one of ids, or of
// all if ids is empty, ordered by id.
func (e *Engine) statuses(ctx context.Context, client string, ids []string) ([]header, error) {
	var rows []header
	var bad error
	if len(ids) == 0 {
		err := e.own(ctx, client, func(r *fhir.Resource) bool {
			var h header
			h, bad = e.header(ctx, r)
			rows = append(rows, h)
			return bad == nil
		})
		if err = firstOf(err, bad); err != nil {
			return nil, fhir.Wrap("subscription.Status", err)
		}
	}
	slices.SortFunc(rows, func(a, b header) int { return strings.Compare(a.id, b.id) })
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		h, err := e.headerOf(ctx, client, id)
		switch {
		case err == nil:
			rows = append(rows, h)
		case fhir.KindOf(err) != fhir.NotFound:
			return nil, err
		}
	}
	for i := range rows {
		var err error
		if rows[i].total, err = e.total(ctx, rows[i].id); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// headerOf returns the header of a Subscription of a client, without the number of
// events. It fails with NotFound if the client has no such Subscription.
func (e *Engine) headerOf(ctx context.Context, client, id string) (header, error) {
	const op = "subscription.headerOf"
	missing := fhir.Errorf(fhir.NotFound, op, "there is no such Subscription")
	if !fhir.ValidID(id) {
		return header{}, missing
	}
	res, facts, err := e.opts.Store.Read(ctx, fhir.Ref{Type: "Subscription", ID: id}, 0)
	switch {
	case fhir.KindOf(err) == fhir.NotFound, err == nil && (res.Deleted || facts == nil || facts.Author != client):
		return header{}, missing
	case err != nil:
		return header{}, fhir.Wrap(op, err)
	}
	return e.header(ctx, &res)
}

// header returns the header of a Subscription, without the number of events.
func (e *Engine) header(ctx context.Context, res *fhir.Resource) (header, error) {
	spec, status, reason, err := e.interpret(ctx, res.JSON)
	h := header{id: res.ID, status: status, notificationType: "query-status", reason: reason, criteria: Topic,
		spec: spec}
	if spec != nil {
		h.criteria, h.content, h.codes = spec.Criteria, spec.Content, spec.codes()
	}
	return h, err
}

// total returns the number of events of a Subscription. While events are only counted,
// the process that counts them knows more of them than the others, which know the last
// durable count.
func (e *Engine) total(ctx context.Context, id string) (uint64, error) {
	v, err := e.opts.Store.Get(ctx, headKey(id))
	if err != nil {
		return 0, err
	}
	var h head
	if v != nil {
		if err := json.Unmarshal(v, &h); err != nil {
			return 0, fhir.Wrap("subscription.total", err)
		}
	}
	if f := e.role.Current(); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if s := f.subs[id]; s != nil {
			h.Events = max(h.Events, s.events)
		}
	}
	return h.Events, nil
}

// maxEvents bounds the events in one response to $events.
const maxEvents = 200

// Events answers $events with a notification Bundle of the events since to until,
// both included. A zero until is an open end. Current scopes and consents decide
// which Observations are disclosed. An empty content selects the content of the
// Subscription. The Bundle holds at most the first 200 events of the range; events
// that are not stored any more are omitted.
func (e *Engine) Events(ctx context.Context, c Request, id string, since, until uint64,
	content Content) ([]byte, error) {
	const op = "subscription.Events"
	if err := e.may(c); err != nil {
		return nil, err
	}
	h, err := e.headerOf(ctx, c.Principal.ClientID, id)
	if err == nil {
		h.total, err = e.total(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	h.notificationType = "query-event"
	if h.content == "" { // not supported by the current configuration
		h.content = empty
	}
	switch content {
	case "":
	case empty, iDOnly, fullResource:
		h.content = content
	default:
		return nil, fhir.Errorf(fhir.Invalid, op, "content must be empty, id-only or full-resource")
	}
	since = max(since, 1)
	if until == 0 || until > h.total {
		until = h.total
	}
	items, err := e.between(ctx, c, &h, since, until)
	if err != nil {
		return nil, err
	}
	if err := c.Principal.Grant.Live(ctx); err != nil {
		return nil, err
	}
	base := c.event(audit.Rest)
	base.Recipient = c.RemoteIP
	evs := disclosures(base, h.content, items)
	if len(evs) == 0 {
		evs = []audit.Event{base}
	}
	if err := e.opts.Audit.Record(ctx, evs...); err != nil {
		return nil, err
	}
	bundleID, err := newUUID(e.opts.Rand)
	if err != nil {
		return nil, err
	}
	uuid, err := newUUID(e.opts.Rand)
	if err != nil {
		return nil, err
	}
	return appendNotification(nil, e.opts.Base, bundleID, uuid, e.opts.Clock(), &h, items), nil
}

func (e *Engine) between(ctx context.Context, c Request, h *header, since, until uint64) ([]item, error) {
	if since > until {
		return nil, nil
	}
	var t *topic.Topic
	if h.spec != nil {
		t = h.spec.Topic
	}
	evs, err := e.events(ctx, h.id, since, int(min(until-since+1, maxEvents)))
	if err != nil {
		return nil, err
	}
	var items []item
	for i := range evs {
		if evs[i].Number > until {
			break
		}
		it := item{event: evs[i]}
		if err := e.disclose(ctx, &it, c.Principal.Grant, t, h.content); err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}
