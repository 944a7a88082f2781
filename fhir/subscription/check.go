package subscription

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Check is the hook of writes from outside: it holds a Subscription to what
// is offered, and sets the status. next is the resource to be written, prev the
// present one (nil on create). A client may ask for off; anything else becomes
// requested, and the endpoint is verified again. On a delete next is nil, and
// only the owner is checked.
func (e *Engine) Check(ctx context.Context, p *access.Principal, next, prev *fhir.Resource) (*fhir.Resource, error) {
	const op = "subscription.Check"
	owner := e.ownerOf(prev)
	if prev != nil && owner != "" && (p == nil || p.Operator == "" && owner != p.ClientID) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "this Subscription belongs to another client")
	}
	if next == nil {
		return nil, nil
	}
	spec, err := Parse(next.JSON, e.opts.Base, e.opts.Policy)
	if err != nil {
		return nil, err
	}
	if p == nil || p.ClientID == "" {
		return nil, fhir.Errorf(fhir.Forbidden, op, "a Subscription belongs to a client; an operator cannot write one")
	}
	if !p.Grant.MayUnattended(access.Read, "Observation") {
		return nil, fhir.Errorf(fhir.Forbidden, op,
			"the token is a person's, or its scopes do not cover reading Observation, which this topic notifies of")
	}
	if !spec.End.IsZero() && !spec.End.After(e.opts.Clock()) {
		return nil, refuse("Subscription.end", "value", "lies in the past")
	}
	if prev == nil {
		if err := e.reserve(ctx, p.ClientID, next.ID); err != nil {
			return nil, err
		}
	}
	status := "requested"
	if prev != nil && spec.Status == "off" {
		status = "off"
	}
	body, err := setStatus(next.JSON, status, "")
	if err != nil {
		return nil, err
	}
	out := *next
	out.JSON = body
	return &out, nil
}

// ownerOf finds the owner of prev; it is empty when there is none.
func (e *Engine) ownerOf(prev *fhir.Resource) string {
	if prev == nil {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.subs[prev.ID]; s != nil {
		return s.owner
	}
	return ""
}

// reserveFor is the time for which a Subscription that passed Check counts
// against the limits before the follower has met it. No request is committed
// later than that.
const reserveFor = 2 * time.Minute

// reserve counts a new Subscription against the limit of its client from now
// on, so that the limit holds for those of one transaction, and for requests at
// the same time.
func (e *Engine) reserve(ctx context.Context, client, id string) error {
	const op = "subscription.Check"
	select {
	case <-e.behind: // what was there at the start is counted
	case <-ctx.Done():
		return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: ctx.Err()}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.opts.Clock()
	mine := e.reserved[client]
	for id, at := range mine {
		if now.Sub(at) > reserveFor {
			delete(mine, id)
		}
	}
	count := len(mine)
	for id, s := range e.subs {
		if _, twice := mine[id]; s.owner == client && !twice {
			count++
		}
	}
	if _, again := mine[id]; again { // the commit is tried again
		return nil
	}
	if count >= e.opts.MaxPerClient {
		return fhir.Errorf(fhir.TooMany, op, "a client has at most %d Subscriptions", e.opts.MaxPerClient)
	}
	if mine == nil {
		mine = map[string]time.Time{}
		e.reserved[client] = mine
	}
	mine[id] = now
	return nil
}

// settle ends a reservation, because the follower has met the Subscription. The
// caller holds mu.
func (e *Engine) settle(client, id string) {
	if mine := e.reserved[client]; mine != nil {
		if delete(mine, id); len(mine) == 0 {
			delete(e.reserved, client)
		}
	}
}

// forget ends the reservation of a Subscription that was deleted before the
// follower met it.
func (e *Engine) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for client := range e.reserved {
		e.settle(client, id)
	}
}

// keepMissed bounds the events that are kept for a Subscription in error.
// Further events are only counted: their numbers show the client that it has
// missed some, and it can search for them.
const keepMissed = 256

// heads adds the durable numbers of the Subscriptions that got events in this
// step. Those whose events are only counted have theirs written once in
// saveCursor commits: the commits in between are counted again after a restart.
// It returns the commit that each written number counts up to, zero for the
// cursor.
func (st *stepState) heads() (map[string]store.Seq, error) {
	e := st.e
	written := map[string]store.Seq{}
	put := func(id string, n uint64, at store.Seq) error {
		s := e.subs[id] // events and counts are the follower's own
		if s == nil {
			return nil
		}
		v, err := json.Marshal(head{Owner: s.owner, Events: s.events + n, At: at})
		if err == nil {
			written[id] = at
			st.state = append(st.state, store.StateWrite{Key: headKey(id), Value: v})
		}
		return err
	}
	for id, n := range st.given {
		if st.counted[id] > 0 {
			continue
		}
		if err := put(id, n, 0); err != nil {
			return nil, err
		}
	}
	for id, n := range st.counted {
		s := e.subs[id]
		if s == nil || slices.Contains(st.leaving, id) || st.given[id] == 0 && s.counts > 0 &&
			st.to < s.counts+saveCursor {
			continue
		}
		if err := put(id, st.given[id]+n, st.to); err != nil {
			return nil, err
		}
	}
	for _, id := range st.leaving {
		if err := put(id, st.given[id]+st.counted[id], 0); err != nil {
			return nil, err
		}
	}
	return written, nil
}
