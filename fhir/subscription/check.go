package subscription

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Check validates a write of a Subscription by a client and sets the status. It
// implements interaction.Check. next is the resource to be written and nil for a
// deletion, for which only the owner is checked; prev is the current resource and
// nil for a creation. A client may set the status off. Any other status becomes
// requested, and the endpoint is verified again.
func (e *Engine) Check(ctx context.Context, p *access.Principal, next, prev *fhir.Resource) (*fhir.Resource, error) {
	const op = "subscription.Check"
	owner, err := e.ownerOf(ctx, prev)
	if err != nil {
		return nil, err
	}
	if prev != nil && owner != "" && (p == nil || p.Operator == "" && owner != p.ClientID) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "this Subscription belongs to another client")
	}
	if next == nil {
		return nil, nil
	}
	parser, err := e.parser(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := parser.parse(next.JSON)
	if err != nil {
		return nil, err
	}
	if p == nil || p.ClientID == "" {
		return nil, fhir.Errorf(fhir.Forbidden, op, "a Subscription belongs to a client; an operator cannot write one")
	}
	if err := mayNotify(p.Grant, spec); err != nil {
		return nil, err
	}
	if !spec.End.IsZero() && !spec.End.After(e.opts.Clock()) {
		return nil, refuse("Subscription.end", "value", "is in the past")
	}
	if prev == nil {
		if err := e.reserve(ctx, p.ClientID, next.ID); err != nil {
			return nil, err
		}
	}
	status, reason, body := "requested", "", next.JSON
	switch {
	case len(spec.Dropped) > 0:
		// US Core: the adjusted Subscription has the status error until the client has
		// accepted it by an update to requested.
		status, reason = "error", adjustedText
		if body, err = withoutFilters(body, spec.Dropped); err != nil {
			return nil, err
		}
	case prev != nil && spec.Status == "off":
		status = "off"
	}
	if body, err = setStatus(body, status, reason); err != nil {
		return nil, err
	}
	out := *next
	out.JSON = body
	return &out, nil
}

// adjustedText is the value of Subscription.error after filters were removed.
const adjustedText = "filters that this server does not support were removed; set the status to requested to accept the rest"

// mayNotify returns an error unless a grant covers what a Subscription notifies of: all
// types that its filters name, or one of the types of its topic.
func mayNotify(g *access.Grant, spec *Spec) error {
	any, named := false, len(spec.Filters) > 0
	for _, typ := range spec.types() {
		ok := g.MayUnattended(access.Read, typ)
		any = any || ok
		if named && !ok {
			any = false
			break
		}
	}
	if !any {
		return fhir.Errorf(fhir.Forbidden, "subscription.Check",
			"the token is a person's, or its scopes do not cover reading %s, which the Subscription notifies of",
			strings.Join(spec.types(), ", "))
	}
	return nil
}

// ownerOf returns the owner of prev, or "" if it has none.
func (e *Engine) ownerOf(ctx context.Context, prev *fhir.Resource) (string, error) {
	if prev == nil {
		return "", nil
	}
	_, facts, err := e.opts.Store.Read(ctx, prev.Ref(), 0)
	if err != nil || facts == nil {
		return "", err
	}
	return facts.Author, nil
}

// own calls fn for the Subscriptions of a client until it returns false.
func (e *Engine) own(ctx context.Context, client string, fn func(*fhir.Resource) bool) error {
	q, err := search.Parse("Subscription", nil, search.ParseOptions{Base: e.opts.Base})
	if err != nil {
		return err
	}
	grant := &access.Grant{Recipient: client, Rules: []access.Rule{{Type: "Subscription", May: access.Read}}}
	return e.opts.Store.Find(ctx, store.Find{Query: q, Filter: grant.Filter(access.Read)}, func(f *store.Found) bool {
		return f.Facts.Author != client || fn(&f.Resource)
	})
}

// reserveFor bounds the time for which a Subscription that passed Check counts
// against the limit of its client without being stored. Every request commits or
// fails within that time.
const reserveFor = 2 * time.Minute

// reservedKey returns the key of the reservations of a client. It has one slash, and
// the keys of a Subscription have two.
func reservedKey(client string) string { return keyPrefix + "reserved:" + url.QueryEscape(client) }

// reserve counts a new Subscription against the limit of its client before it is
// committed, so that the limit also holds within a transaction and for concurrent
// requests, which other processes may answer.
func (e *Engine) reserve(ctx context.Context, client, id string) error {
	return store.Retry(64, "subscription.Check", "other requests create Subscriptions; repeat the request",
		func() error { return e.tryReserve(ctx, client, id) })
}

func (e *Engine) tryReserve(ctx context.Context, client, id string) error {
	const op = "subscription.Check"
	key := reservedKey(client)
	old, err := e.opts.Store.Get(ctx, key)
	if err != nil {
		return err
	}
	reserved := map[string]time.Time{} // time of the reservation by id
	if old != nil {
		if err := json.Unmarshal(old, &reserved); err != nil {
			return fhir.Wrap(op, err)
		}
	}
	now := e.opts.Clock().UTC()
	if err := e.expire(ctx, reserved, now); err != nil {
		return err
	}
	if _, ok := reserved[id]; ok { // the request retries its commit
		return nil
	}
	// The Subscriptions are read after the reservations, so that one that is stored
	// meanwhile is counted in either.
	count := len(reserved)
	err = e.own(ctx, client, func(r *fhir.Resource) bool {
		if _, ok := reserved[r.ID]; !ok {
			count++
		}
		return count < e.opts.MaxPerClient
	})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if count >= e.opts.MaxPerClient {
		return fhir.Errorf(fhir.TooMany, op, "a client can have at most %d Subscriptions; delete one first",
			e.opts.MaxPerClient)
	}
	reserved[id] = now
	w := store.StateWrite{Key: key, Expect: store.StateAbsent, Expires: now.Add(2 * reserveFor)}
	if old != nil {
		w.Expect, w.Old = store.StateEquals, old
	}
	if w.Value, err = json.Marshal(reserved); err != nil {
		return fhir.Wrap(op, err)
	}
	_, err = e.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	return err
}

// expire removes the reservations that are too old, and those of Subscriptions that
// were stored, even if they were deleted later.
func (e *Engine) expire(ctx context.Context, reserved map[string]time.Time, now time.Time) error {
	maps.DeleteFunc(reserved, func(_ string, at time.Time) bool { return now.Sub(at) > reserveFor })
	var refs []fhir.Ref
	for id := range reserved {
		refs = append(refs, fhir.Ref{Type: "Subscription", ID: id})
	}
	heads, err := e.opts.Store.Heads(ctx, refs)
	for i := range heads {
		if heads[i].Version > 0 {
			delete(reserved, refs[i].ID)
		}
	}
	return err
}

// keepMissed bounds the events that are stored for a Subscription in error. Later
// events are only counted. The gap in the numbers tells the client that it has
// missed events, and it can search for the Observations.
const keepMissed = 256

// heads adds the durable event counts of the Subscriptions that got events in
// this step. While the events of a Subscription are only counted, the count is
// written once per follow.SaveEvery commits; after a restart the commits since then are
// counted again. heads returns the commit up to which each written count is
// valid, zero for the cursor.
func (st *stepState) heads() (map[string]store.Seq, error) {
	f := st.follower
	written := map[string]store.Seq{}
	put := func(id string, n uint64, at store.Seq) error {
		s := f.subs[id] // only the follower changes events and counts, so no lock is needed
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
		s := f.subs[id]
		if s == nil || slices.Contains(st.resuming, id) || st.numbered[id] == 0 && s.counts > 0 &&
			st.to < s.counts+follow.SaveEvery {
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
