package oura

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pulsegate/adapters/simulate"
)

// delivery is an event on its way to a subscription.
type delivery struct {
	sub      string // id of the subscription
	subject  string // account and type, for faults
	body     []byte
	due      time.Time
	attempts int
	serial   int
}

// event is the body of a webhook.
type event struct {
	EventType string `json:"event_type"`
	DataType  string `json:"data_type"`
	ObjectID  string `json:"object_id"`
	EventTime string `json:"event_time"`
	UserID    string `json:"user_id"`
}

// retries lists the waits before the retries of an event, about an hour together.
var retries = []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute,
	8 * time.Minute, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute}

// Advance creates the events of all syncs up to the time of the clock and sends those
// that are due. It returns when all of them have been answered, or with the error of ctx.
// Events that failed are sent again by a later call.
func (s *Server) Advance(ctx context.Context) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	now := s.opts.Clock.Now()
	s.create(now)
	s.mu.Lock()
	var due []*delivery
	s.queue = slices.DeleteFunc(s.queue, func(d *delivery) bool {
		if d.due.After(now) {
			return false
		}
		due = append(due, d)
		return true
	})
	s.mu.Unlock()
	slices.SortStableFunc(due, func(a, b *delivery) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.serial, b.serial))
	})
	jobs := make(chan *delivery)
	var wg sync.WaitGroup
	for range s.opts.Senders {
		wg.Go(func() {
			for d := range jobs {
				s.send(ctx, d)
			}
		})
	}
	for _, d := range due {
		jobs <- d
	}
	close(jobs)
	wg.Wait()
	return ctx.Err()
}

// Run calls Advance as time passes, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	for {
		if err := s.Advance(ctx); err != nil {
			return err
		}
		t := time.NewTimer(min(max(s.opts.Clock.Wall(10*time.Second), 20*time.Millisecond), time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// Pending returns the number of events that have not been acknowledged.
func (s *Server) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// create puts the events of the syncs since the last call into the queue.
func (s *Server) create(now time.Time) {
	s.mu.Lock()
	from := s.cursor
	s.cursor = now
	s.expire()
	linked := s.linked()
	s.mu.Unlock()
	for _, account := range linked {
		w := s.accounts[account]
		for t := w.NextSync(from); !t.IsZero() && !t.After(now); t = w.NextSync(t) {
			s.model.versionsAt(w, t, func(it item, v version) { s.enqueue(account, it, v) })
		}
	}
}

// linked returns the accounts with a live grant, in order. The caller holds s.mu.
func (s *Server) linked() []string {
	if len(s.subs) == 0 {
		return nil
	}
	var out []string
	for account, grants := range s.granted {
		if slices.ContainsFunc(grants, func(g *grant) bool { return !g.revoked }) {
			out = append(out, account)
		}
	}
	slices.Sort(out)
	return out
}

// lookback is the number of syncs after which no document of a day changes.
const lookback = 5

// versionsAt calls yield with the versions that a sync delivered.
func (m *model) versionsAt(w *simulate.Wearer, sync time.Time, yield func(item, version)) {
	t := sync
	for range lookback {
		if last := w.LastSync(t.Add(-1)); !last.IsZero() {
			t = last
		}
	}
	first, last := simulate.DayOf(t.In(w.Zone))-1, simulate.DayOf(sync.In(w.Zone))
	for _, k := range kinds {
		from := first
		if k.name == "rest_mode_period" {
			from -= restDays
		}
		m.items(w, k, from, last, func(it item) bool {
			for _, v := range k.history(m, it, sync) {
				if v.at.Equal(sync) {
					yield(it, v)
				}
			}
			return true
		})
	}
}

// enqueue puts an event into the queue, once per subscription to it.
func (s *Server) enqueue(account string, it item, v version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subscribers(account, it.kind, v.event) {
		body, _ := json.Marshal(event{v.event, it.kind.dataType(), it.id(),
			v.at.UTC().Format("2006-01-02T15:04:05-07:00"), account}) // never fails
		subject := account + " " + it.kind.name
		s.stats.Events++
		if s.faults.Draw(simulate.LostEvent, subject) {
			continue
		}
		s.serial++
		k := it.key().Named("delivery").With(v.rev)
		d := delivery{sub: sub, subject: subject, body: body, serial: s.serial,
			due: v.at.Add(time.Duration(k.Between(20, 40)) * time.Second)}
		if s.faults.Draw(simulate.Reorder, subject) {
			d.due = d.due.Add(time.Duration(k.Between(5, 30)) * time.Minute)
		}
		s.queue = append(s.queue, &d)
		if s.faults.Draw(simulate.Duplicate, subject) {
			again := d
			again.due = d.due.Add(time.Duration(k.Between(0, 120)) * time.Second)
			s.queue = append(s.queue, &again)
		}
	}
}

// subscribers returns the ids of the subscriptions of clients that may read a kind of the
// account, in order. The caller holds s.mu.
func (s *Server) subscribers(account string, k *kind, eventType string) []string {
	var out []string
	for id, sub := range s.subs {
		if sub.event != eventType || sub.dataType != k.dataType() {
			continue
		}
		if slices.ContainsFunc(s.granted[account], func(g *grant) bool {
			return !g.revoked && g.client == sub.client.ID && g.has(k.scope)
		}) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Sign returns the value of x-oura-signature: the HMAC-SHA256 of timestamp and body with
// the client's secret, in upper-case hexadecimal digits.
func Sign(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp)) // never fails
	mac.Write(body)
	return strings.ToUpper(hex.EncodeToString(mac.Sum(nil)))
}

// send sends an event. If it fails, the event returns to the queue until its retries are
// used up. Status 410 ends the subscription.
func (s *Server) send(ctx context.Context, d *delivery) {
	s.mu.Lock()
	sub := s.subs[d.sub]
	if sub != nil {
		s.stats.Sent++
	}
	s.mu.Unlock()
	if sub == nil {
		return
	}
	status := s.post(ctx, sub, d.body)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case status >= 200 && status < 300:
		s.stats.Accepted++
	case status == http.StatusGone:
		delete(s.subs, d.sub)
	case ctx.Err() != nil: // interrupted, which is no failure of the client
		s.queue = append(s.queue, d)
	case d.attempts == len(retries):
		s.stats.Failed++
	default:
		d.due = s.opts.Clock.Now().Add(retries[d.attempts])
		d.attempts++
		s.queue = append(s.queue, d)
	}
}

// post sends a signed body and returns the status, or 0 if there is no answer.
func (s *Server) post(ctx context.Context, sub *subscription, body []byte) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sub.callback, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	timestamp := strconv.FormatInt(s.opts.Wall().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("x-oura-timestamp", timestamp)
	req.Header.Set("x-oura-signature", Sign(sub.client.Secret, timestamp, body))
	res, err := s.opts.HTTP.Do(req)
	if err != nil {
		return 0
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16))
	if closed := res.Body.Close(); err != nil || closed != nil {
		return 0
	}
	return res.StatusCode
}
