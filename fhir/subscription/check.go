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

// Check validates a write of a Subscription by a client and sets the status. It
// implements interaction.Check. next is the resource to be written and nil for a
// deletion, for which only the owner is checked; prev is the current resource and
// nil for a creation. A client may set the status off. Any other status becomes
// requested, and the endpoint is verified again.
func (e *Engine) Check(ctx context.Context, p *access.Principal, next, prev *fhir.Resource) (*fhir.Resource, error) {
	const op = "subscription.Check"
	owner := e.ownerOf(prev)
	if prev != nil && owner != "" && (p == nil || p.Operator == "" && owner != p.ClientID) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "this Subscription belongs to another client")
	}
	if next == nil {
		return nil, nil
	}
	spec, err := parse(next.JSON, e.opts.Base, e.opts.Policy)
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
		return nil, refuse("Subscription.end", "value", "is in the past")
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

// ownerOf returns the owner of prev, or "" if it has none.
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

// reserveFor bounds the time for which a Subscription that passed Check counts
// against the limit of its client without being in the change log. Every
// request commits or fails within that time.
const reserveFor = 2 * time.Minute

// reserve counts a new Subscription against the limit of its client before it is
// committed, so that the limit also holds within a transaction and for concurrent
// requests.
func (e *Engine) reserve(ctx context.Context, client, id string) error {
	const op = "subscription.Check"
	select {
	case <-e.caughtUp: // all Subscriptions that existed at the start are counted
	case <-ctx.Done():
		return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: ctx.Err()}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.opts.Clock()
	reserved := e.reserved[client]
	for id, at := range reserved {
		if now.Sub(at) > reserveFor {
			delete(reserved, id)
		}
	}
	count := len(reserved)
	for id, s := range e.subs {
		if _, ok := reserved[id]; s.owner == client && !ok {
			count++
		}
	}
	if _, ok := reserved[id]; ok { // the request retries its commit
		return nil
	}
	if count >= e.opts.MaxPerClient {
		return fhir.Errorf(fhir.TooMany, op, "a client can have at most %d Subscriptions; delete one first",
			e.opts.MaxPerClient)
	}
	if reserved == nil {
		reserved = map[string]time.Time{}
		e.reserved[client] = reserved
	}
	reserved[id] = now
	return nil
}

// release ends the reservation of a Subscription that the follower has found in
// the change log. The caller holds mu.
func (e *Engine) release(client, id string) {
	if reserved := e.reserved[client]; reserved != nil {
		if delete(reserved, id); len(reserved) == 0 {
			delete(e.reserved, client)
		}
	}
}

// releaseDeleted ends the reservation of a Subscription that was deleted before
// the follower found it.
func (e *Engine) releaseDeleted(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for client := range e.reserved {
		e.release(client, id)
	}
}

// keepMissed bounds the events that are stored for a Subscription in error. Later
// events are only counted. The gap in the numbers tells the client that it has
// missed events, and it can search for the Observations.
const keepMissed = 256

// heads adds the durable event counts of the Subscriptions that got events in
// this step. While the events of a Subscription are only counted, the count is
// written once per saveCursor commits; after a restart the commits since then are
// counted again. heads returns the commit up to which each written count is
// valid, zero for the cursor.
func (st *stepState) heads() (map[string]store.Seq, error) {
	e := st.engine
	written := map[string]store.Seq{}
	put := func(id string, n uint64, at store.Seq) error {
		s := e.subs[id] // only the follower changes events and counts, so no lock is needed
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
	for id, n := range st.numbered {
		if st.counted[id] > 0 {
			continue
		}
		if err := put(id, n, 0); err != nil {
			return nil, err
		}
	}
	for id, n := range st.counted {
		s := e.subs[id]
		if s == nil || slices.Contains(st.resuming, id) || st.numbered[id] == 0 && s.counts > 0 &&
			st.to < s.counts+saveCursor {
			continue
		}
		if err := put(id, st.numbered[id]+n, st.to); err != nil {
			return nil, err
		}
	}
	for _, id := range st.resuming {
		if err := put(id, st.numbered[id]+st.counted[id], 0); err != nil {
			return nil, err
		}
	}
	return written, nil
}
