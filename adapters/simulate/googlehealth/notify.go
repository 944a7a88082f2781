package googlehealth

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"pulsegate/adapters/simulate"
)

// Delivery of notifications.
const (
	firstRetry = time.Minute
	maxRetry   = 6 * time.Hour
	retryFor   = 7 * 24 * time.Hour
	lookAhead  = 24 * time.Hour
	maxEntries = 50 // notifications in one body
)

// change is something that happened to the data of a wearer.
type change struct {
	typ        *dataType
	deleted    bool
	at         time.Time
	start, end time.Time // the data concerned
}

// follow is the state of an account that has given consent.
type follow struct {
	mark     time.Time // changes up to here have been queued
	horizon  time.Time // upcoming is complete up to here
	upcoming []change  // later changes, ascending
}

// delivery is a body on its way to a subscriber.
type delivery struct {
	subscriber string
	body       []byte
	due, first time.Time
	tries      int
}

// changes returns the changes to the data of a wearer after from and up to to, ascending,
// for the types that have webhooks.
func (s *Server) changes(w *wearer, from, to time.Time) []change {
	if !w.linked {
		return nil
	}
	out := s.syncChanges(w, from, to)
	add := func(t *dataType, deleted bool, at, start, end time.Time) {
		if at.After(from) && !at.After(to) {
			if !end.After(start) {
				end = start.Add(time.Second)
			}
			out = append(out, change{t, deleted, at, start, end})
		}
	}
	for day := simulate.DayOf(to.In(w.Zone)) + 1; day >= s.first; day-- {
		settled := w.NextSync(w.NextSync((day + 1).At(w.Zone, 0, 0))).Add(30 * time.Hour)
		if settled.Before(from) {
			break // nothing of this day or an earlier one changes any more
		}
		for _, t := range allTypes {
			if !t.webhook || t.bulk {
				continue
			}
			for _, p := range s.points(w, t, day) {
				start, end := p.start, p.end
				for {
					start, end = minTime(start, p.start), maxTime(end, p.end)
					add(t, false, p.at, start, end)
					if p.next == nil {
						break
					}
					p = p.next
				}
				if !p.gone.IsZero() {
					add(t, true, p.gone, start, end)
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b change) int { return a.at.Compare(b.at) })
	return out
}

// syncChanges returns the changes of the bulk types, which arrive with every sync.
func (s *Server) syncChanges(w *wearer, from, to time.Time) (out []change) {
	begin := s.first.At(w.Zone, 0, 0)
	for day := simulate.DayOf(from.In(w.Zone)); day <= simulate.DayOf(to.In(w.Zone)); day++ {
		for _, at := range w.Syncs(day) {
			if !at.After(from) || at.After(to) || at.Before(begin) {
				continue
			}
			last := maxTime(w.LastSync(at.Add(-1)), begin).In(w.Zone)
			midnight := simulate.DayOf(last).At(w.Zone, 0, 0)
			start := midnight.Add(last.Sub(midnight).Truncate(s.opts.Every))
			for _, t := range allTypes {
				if t.webhook && t.bulk && (t.name != "blood-glucose" || w.hasCGM) {
					out = append(out, change{t, false, at, start, at.Add(time.Second)})
				}
			}
		}
	}
	return out
}

// collectAll queues the notifications of all accounts up to now. The caller holds mu.
func (s *Server) collectAll(now time.Time) {
	for _, w := range s.wearers {
		if s.follows[w.account] != nil {
			s.collect(w.account, now)
		}
	}
}

// collect queues the notifications of an account up to now. The caller holds mu.
func (s *Server) collect(account string, now time.Time) {
	f := s.follows[account]
	if f == nil || !now.After(f.mark) {
		return
	}
	if len(s.subscribers) == 0 || !s.consented(account) {
		f.mark, f.horizon, f.upcoming = now, time.Time{}, nil
		return
	}
	s.look(account, f, now)
	n := 0
	for n < len(f.upcoming) && !f.upcoming[n].at.After(now) {
		n++
	}
	f.mark = now
	due := f.upcoming[:n]
	f.upcoming = f.upcoming[n:]
	for len(due) > 0 { // one notification for changes of the same instant
		k := 1
		for k < len(due) && k < maxEntries && due[k].at.Equal(due[0].at) {
			k++
		}
		s.notify(account, due[0].at, due[:k])
		due = due[k:]
	}
}

// look makes upcoming complete at least up to now. The caller holds mu.
func (s *Server) look(account string, f *follow, now time.Time) {
	if f.horizon.Before(f.mark) {
		f.horizon, f.upcoming = f.mark, nil
	}
	if !now.Before(f.horizon) {
		to := now.Add(lookAhead)
		for _, c := range s.changes(s.accounts[account], f.horizon, to) {
			if s.wanted(c.typ) {
				f.upcoming = append(f.upcoming, c)
			}
		}
		f.horizon = to
	}
}

// wanted reports whether a subscriber follows a type. The caller holds mu.
func (s *Server) wanted(t *dataType) bool {
	for _, sub := range s.subscribers {
		if sub.policy(t) != "" {
			return true
		}
	}
	return false
}

// forget makes look start again, because the types of subscribers have changed. The
// caller holds mu.
func (s *Server) forget() {
	for _, f := range s.follows {
		f.horizon, f.upcoming = time.Time{}, nil
	}
}

// granted reports whether the account has granted the scope of a type. The caller holds
// mu.
func (s *Server) granted(account string, t *dataType) bool {
	for _, c := range s.opts.Clients {
		if g := s.consents[account+" "+c.ID]; g != nil && g.scopes[readScope(t.group)] {
			return true
		}
	}
	return false
}

// subscribed returns the name of the subscription through which a subscriber follows a
// type of an account, or "". The caller holds mu.
func (s *Server) subscribed(sub *subscriber, account string, t *dataType) string {
	switch sub.policy(t) {
	case automatic:
		return s.key.Named("subscription " + sub.id + " " + account).UUID()
	case manual:
		for _, p := range sub.subscriptions {
			if p.account == account && slices.Contains(p.types, t.name) {
				return p.id
			}
		}
	}
	return ""
}

// notify queues a notification of changes to the data of an account. The caller holds mu.
func (s *Server) notify(account string, at time.Time, changes []change) {
	for _, sub := range s.sortedSubscribers() {
		var entries []any
		for _, c := range changes {
			name := s.subscribed(sub, account, c.typ)
			if name == "" || sub.created.After(at) || !s.granted(account, c.typ) {
				continue
			}
			entries = append(entries, s.entry(account, name, c))
		}
		s.enqueue(sub, account, at, entries)
	}
}

// notifyWithdrawn queues the deletion of everything that a consent covered. The caller
// holds mu.
func (s *Server) notifyWithdrawn(c *consent, now time.Time) {
	w := s.accounts[c.account]
	if !w.linked {
		return
	}
	var all []change
	for _, t := range allTypes {
		if t.webhook && c.scopes[readScope(t.group)] {
			all = append(all, change{t, true, now, s.first.At(w.Zone, 0, 0), now})
		}
	}
	for chunk := range slices.Chunk(all, maxEntries) {
		s.notify(c.account, now, chunk)
	}
}

// entry returns one notification.
func (s *Server) entry(account, name string, c change) object {
	w := s.accounts[account]
	start, end := c.start.In(w.Zone), c.end.In(w.Zone)
	operation := "UPSERT"
	if c.deleted {
		operation = "DELETE"
	}
	const civil = "2006-01-02T15:04:05"
	return object{"data": object{
		"version": "1", "clientProvidedSubscriptionName": name, "healthUserId": account, "operation": operation,
		"dataType": c.typ.name,
		"intervals": []any{object{
			"physicalTimeInterval":     object{"startTime": stamp(start), "endTime": stamp(end)},
			"civilDateTimeInterval":    object{"startDateTime": civilOf(start), "endDateTime": civilOf(end)},
			"civilIso8601TimeInterval": object{"startTime": start.Format(civil), "endTime": end.Format(civil)},
		}},
	}}
}

// enqueue queues entries for a subscriber: as an array, which live bodies are, or one by
// one as the documented object. The caller holds mu.
func (s *Server) enqueue(sub *subscriber, account string, at time.Time, entries []any) {
	if len(entries) == 0 {
		return
	}
	bodies := []any{entries}
	if s.key.Named("form " + account).With(int(at.Unix())).Chance(0.25) {
		bodies = entries
	}
	for _, body := range bodies {
		b, err := json.MarshalIndent(body, "", "  ")
		if err != nil { // body is built of maps, lists and strings
			panic("googlehealth: " + err.Error())
		}
		if s.faults.Draw(simulate.LostEvent, account) {
			continue
		}
		d := delivery{subscriber: sub.id, body: b, due: at, first: at}
		if s.faults.Draw(simulate.Reorder, account) {
			d.due = at.Add(20 * time.Minute)
		}
		s.queue = append(s.queue, &d)
		if s.faults.Draw(simulate.Duplicate, account) {
			again := d
			again.due = d.due.Add(time.Minute)
			s.queue = append(s.queue, &again)
		}
	}
}

// Deliver sends all notifications that are due at the clock's time, including those for
// changes since the last call. It returns how many were accepted. Everything else than
// 204 is retried with growing distance for seven days.
func (s *Server) Deliver(ctx context.Context) (int, error) {
	s.sending.Lock()
	defer s.sending.Unlock()
	now := s.Now()
	s.keys.age(now)
	s.mu.Lock()
	s.collectAll(now)
	var due []*delivery
	s.queue = slices.DeleteFunc(s.queue, func(d *delivery) bool {
		if d.due.After(now) {
			return false
		}
		due = append(due, d)
		return true
	})
	s.mu.Unlock()
	slices.SortStableFunc(due, func(a, b *delivery) int { return a.due.Compare(b.due) })
	accepted := 0
	for i, d := range due {
		if ctx.Err() != nil {
			s.requeue(due[i:])
			return accepted, ctx.Err()
		}
		if s.attempt(ctx, d, now) {
			accepted++
		}
	}
	return accepted, nil
}

// requeue returns deliveries that were not attempted.
func (s *Server) requeue(rest []*delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, rest...)
}

// attempt sends a body once. It reports whether the endpoint accepted it.
func (s *Server) attempt(ctx context.Context, d *delivery, now time.Time) bool {
	s.mu.Lock()
	sub := s.subscribers[d.subscriber]
	var uri, secret string
	if sub != nil {
		uri, secret = sub.uri, sub.secret
	}
	s.mu.Unlock()
	if sub == nil {
		return false
	}
	code := s.post(ctx, uri, secret, s.keys.sign(d.body), d.body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Sent++
	if code == http.StatusNoContent {
		s.stats.Accepted++
		return true
	}
	d.due = now.Add(min(firstRetry<<min(d.tries, 20), maxRetry))
	d.tries++
	if d.due.Sub(d.first) > retryFor || s.subscribers[d.subscriber] == nil {
		s.stats.Dropped++
		return false
	}
	s.queue = append(s.queue, d)
	return false
}

// Next returns the time at which Deliver next has something to send. ok is false if
// nothing is to be expected.
func (s *Server) Next() (at time.Time, ok bool) {
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	earlier := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	for _, d := range s.queue {
		earlier(d.due)
	}
	if len(s.subscribers) == 0 {
		return at, ok
	}
	for account, f := range s.follows {
		if !s.consented(account) {
			continue
		}
		s.look(account, f, maxTime(now, f.mark))
		if len(f.upcoming) > 0 {
			earlier(f.upcoming[0].at)
		} else {
			earlier(f.horizon)
		}
	}
	return at, ok
}

// Run delivers notifications as the clock advances, until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	for {
		if _, err := s.Deliver(ctx); err != nil {
			return err
		}
		wait := time.Second // new consents and subscribers are noticed at the latest then
		if at, ok := s.Next(); ok {
			wait = min(wait, s.clock.Wall(max(at.Sub(s.Now()), 0)))
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}
