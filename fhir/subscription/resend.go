package subscription

import (
	"context"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// Range selects events by number and by time, bounds included. A zero bound is open.
type Range struct {
	Since, Until uint64
	From, To     time.Time
}

// Resend answers $resend: it sends events of a Subscription again through its channel,
// under the current scopes and consents, with the numbers they had. It sends at most the
// first 200 events of the range that are still stored, in the process that answers, and
// returns an OperationOutcome that says which. The operation is defined by the draft of
// version 1.2 of the guide and by R6, where it has this name and these parameters.
//
// Events for a websocket go to all sockets that are bound to the Subscription, in any
// process, and to the next one if there is none.
func (e *Engine) Resend(ctx context.Context, c Request, id string, r Range) ([]byte, error) {
	const op = "subscription.Resend"
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
	if h.spec == nil || h.status != "active" {
		return nil, fhir.Errorf(fhir.Conflict, op, "the Subscription is not active")
	}
	evs, more, err := e.selected(ctx, id, h.total, r)
	if err != nil {
		return nil, err
	}
	if err := e.opts.Audit.Record(ctx, c.event(audit.Rest)); err != nil {
		return nil, err
	}
	if len(evs) == 0 {
		return outcome("warning", "not-found", "no stored event is in the range"), nil
	}
	if h.spec.Channel == websocket {
		err = e.rewind(ctx, id, evs[0].Number, evs[len(evs)-1].Number)
	} else {
		err = e.again(ctx, c.Principal.ClientID, &h, evs)
	}
	if err != nil {
		return nil, err
	}
	text := "events " + number(evs[0].Number) + " to " + number(evs[len(evs)-1].Number) + " were sent again"
	if more {
		text += "; repeat the operation with eventsSinceNumber=" + number(evs[len(evs)-1].Number+1)
	}
	return outcome("information", "informational", text), nil
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// outcome returns an OperationOutcome. The texts are the server's own.
func outcome(severity, code, text string) []byte {
	return []byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"` + severity + `","code":"` + code +
		`","diagnostics":"` + text + `"}]}`)
}

// selected returns the stored events in a range, at most maxEvents, and whether there are
// more.
func (e *Engine) selected(ctx context.Context, id string, total uint64, r Range) (out []event, more bool, err error) {
	next, until := max(r.Since, 1), r.Until
	if until == 0 || until > total {
		until = total
	}
	for next <= until {
		evs, err := e.events(ctx, id, next, maxEvents)
		if err != nil || len(evs) == 0 {
			return out, false, err
		}
		for _, ev := range evs {
			if ev.Number > until || !r.To.IsZero() && ev.At.After(r.To) {
				return out, false, nil
			}
			if ev.At.Before(r.From) {
				continue
			}
			if len(out) == maxEvents {
				return out, true, nil
			}
			out = append(out, ev)
		}
		next = evs[len(evs)-1].Number + 1
	}
	return out, false, nil
}

// again sends events through a channel, in notifications as a sender makes them.
func (e *Engine) again(ctx context.Context, owner string, h *header, evs []event) error {
	const op = "subscription.Resend"
	for len(evs) > 0 {
		if err := e.opts.Store.Sync(ctx); err != nil {
			return err
		}
		items, err := e.disclosed(ctx, owner, h.spec, evs[:min(len(evs), h.spec.MaxCount)])
		if err != nil {
			return err
		}
		evs = evs[len(items):]
		if err := e.opts.Audit.Record(ctx, sendings(owner, h.id, h.spec, "event-notification", items)...); err != nil {
			return err
		}
		of := *h
		of.notificationType, of.reason = "event-notification", ""
		n, err := e.newNotice(&of, items)
		if err != nil {
			return err
		}
		sending, cancel := context.WithTimeout(ctx, h.spec.Timeout)
		err = e.send(sending, owner, h.spec, n)
		cancel()
		if err != nil {
			// Do not pass on the error: it may contain the URL of the endpoint.
			return fhir.Errorf(fhir.Unavailable, op, "the endpoint did not accept event %d and later ones",
				items[0].Number)
		}
	}
	return nil
}

// disclosed returns as many of the events as one notification may have, at least one, with
// what the owner may see now.
func (e *Engine) disclosed(ctx context.Context, owner string, spec *Spec, evs []event) ([]item, error) {
	grant, err := e.opts.GrantFor(ctx, owner)
	if err != nil {
		grant = nil // permits nothing
	}
	var out []item
	size := 0
	for i := range evs {
		it := item{event: evs[i]}
		if err := e.disclose(ctx, &it, grant, spec.Topic, spec.Content); err != nil {
			return nil, err
		}
		if spec.Content == fullResource {
			if size += it.size(); size > maxBundle && len(out) > 0 {
				break
			}
		}
		out = append(out, it)
	}
	return out, nil
}

// rewind asks all processes to send events through their sockets again.
func (e *Engine) rewind(ctx context.Context, id string, from, to uint64) error {
	nonce, err := newUUID(e.opts.Rand)
	if err != nil {
		return err
	}
	_, err = e.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: resendKey(id),
		Value: []byte(nonce + " " + number(from) + " " + number(to)), Expires: e.opts.Clock().Add(resendFor)}}})
	return err
}

// resendFor is the time for which a request to send events again is kept for sockets.
const resendFor = 24 * time.Hour

func resendKey(id string) string { return keyPrefix + id + "/resend" }
