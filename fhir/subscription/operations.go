package subscription

import (
	"context"
	"slices"
	"strconv"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
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
	type row struct {
		h header
	}
	var rows []row
	e.mu.Lock()
	for id, s := range e.subs {
		if s.owner != c.Principal.ClientID || len(ids) > 0 && !slices.Contains(ids, id) ||
			len(statuses) > 0 && !slices.Contains(statuses, s.status) {
			continue
		}
		h := header{id: id, status: s.status, notificationType: "query-status", total: s.events, reason: s.reason,
			criteria: Topic}
		if s.spec != nil {
			h.criteria, h.content = s.spec.Criteria, s.spec.Content
		}
		rows = append(rows, row{h})
	}
	e.mu.Unlock()
	if instance && len(rows) == 0 {
		return nil, fhir.Errorf(fhir.NotFound, "subscription.Status", "there is no such Subscription")
	}
	slices.SortFunc(rows, func(a, b row) int {
		if a.h.id < b.h.id {
			return -1
		}
		return 1
	})
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
		b = appendStatus(b, e.opts.Base, uuid, &rows[i].h, nil)
		b = append(b, `,"search":{"mode":"match"}}`...)
	}
	if len(rows) > 0 {
		b = append(b, ']')
	}
	return append(b, '}'), nil
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
	e.mu.Lock()
	s := e.subs[id]
	var h header
	if s != nil && s.owner == c.Principal.ClientID {
		h = header{id: id, status: s.status, notificationType: "query-event", total: s.events, reason: s.reason,
			criteria: Topic, content: empty}
		if s.spec != nil {
			h.criteria, h.content = s.spec.Criteria, s.spec.Content
		}
	}
	e.mu.Unlock()
	if h.id == "" {
		return nil, fhir.Errorf(fhir.NotFound, op, "there is no such Subscription")
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
	items, err := e.between(ctx, c, id, since, until)
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

func (e *Engine) between(ctx context.Context, c Request, id string, since, until uint64) ([]item, error) {
	if since > until {
		return nil, nil
	}
	evs, err := e.events(ctx, id, since, int(min(until-since+1, maxEvents)))
	if err != nil {
		return nil, err
	}
	var items []item
	for i := range evs {
		if evs[i].Number > until {
			break
		}
		it := item{event: evs[i]}
		if err := e.disclose(ctx, &it, c.Principal.Grant); err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}
