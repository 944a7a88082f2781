package withings

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

// subscription is a category of a user that is announced to a callback.
type subscription struct {
	client   string
	account  int
	appli    int
	callback string
}

// delivery is a notification on its way.
type delivery struct {
	subscription
	form   url.Values
	due    time.Time
	cycle  int
	serial int
}

// retries lists the shortest and the longest wait before each cycle but the first
// ("Notification overview").
var retries = [][2]time.Duration{
	{10 * time.Second, 10 * time.Second},
	{2 * time.Minute, 11 * time.Minute},
	{62 * time.Minute, 80 * time.Minute},
	{243 * time.Minute, 270 * time.Minute},
}

// maxCallback is the longest callback in characters.
const maxCallback = 255

// notify answers a request about the subscriptions of a user.
func (s *Server) notify(w http.ResponseWriter, r *http.Request, g *grant) {
	f := r.PostFormValue
	appli, err := strconv.Atoi(cmp.Or(f("appli"), "1"))
	sub := subscription{client: g.client.ID, account: g.account, appli: appli, callback: f("callbackurl")}
	if err != nil {
		refuse(w, statusInvalid, "Invalid Params: invalid appli")
		return
	}
	switch f("action") {
	case "subscribe":
		s.subscribe(w, r, g, sub)
	case "list":
		answer(w, 0, map[string]any{"profiles": s.profiles(sub, f("appli") != "")}, "")
	case "get", "revoke":
		s.mu.Lock()
		_, ok := s.subs[sub]
		if f("action") == "revoke" {
			delete(s.subs, sub)
		}
		s.mu.Unlock()
		if !ok {
			refuse(w, statusInvalid, "No such subscription was found")
			return
		}
		answer(w, 0, map[string]any{"appli": appli, "callbackurl": sub.callback, "comment": ""}, "")
	default:
		refuse(w, statusInvalid, "Invalid Params: invalid action")
	}
}

// subscribe verifies the callback and stores the subscription.
func (s *Server) subscribe(w http.ResponseWriter, r *http.Request, g *grant, sub subscription) {
	scope, ok := scopeOf(sub.appli)
	switch {
	case !ok || r.PostFormValue("appli") == "":
		refuse(w, statusInvalid, "Invalid Params: invalid appli")
		return
	case !slices.Contains(g.scopes, scope):
		refuse(w, statusPermission, "Unauthorized")
		return
	case !s.acceptable(sub.callback) || !s.verified(r.Context(), sub.callback):
		refuse(w, statusInvalid, "Invalid Params: the callback URL is either absent or incorrect")
		return
	}
	s.mu.Lock()
	s.subs[sub] = struct{}{}
	s.mu.Unlock()
	answer(w, 0, struct{}{}, "")
}

// scopeOf returns the scope that a category requires.
func scopeOf(appli int) (string, bool) {
	for i := range lists {
		for _, k := range lists[i].kinds {
			if k.appli == appli {
				return lists[i].scope, true
			}
		}
	}
	return "", false
}

// acceptable reports whether a URL is one that Withings accepts as callback.
func (s *Server) acceptable(callback string) bool {
	u, err := url.Parse(callback)
	if err != nil || u.Host == "" || len(callback) > maxCallback {
		return false
	}
	if s.opts.AllowHTTP {
		return u.Scheme == "http" || u.Scheme == "https"
	}
	return u.Scheme == "https" && net.ParseIP(u.Hostname()) == nil && strings.Contains(u.Hostname(), ".") &&
		(u.Port() == "" || u.Port() == "80" || u.Port() == "443")
}

// verified reports whether a callback answers HEAD.
func (s *Server) verified(ctx context.Context, callback string) bool {
	rq, err := http.NewRequestWithContext(ctx, http.MethodHead, callback, http.NoBody)
	if err != nil {
		return false
	}
	status := s.status(rq)
	return status >= 200 && status < 300
}

// status sends a request and returns the status of the answer, or 0 if there is none.
func (s *Server) status(rq *http.Request) int {
	r, err := s.opts.HTTP.Do(rq)
	if err != nil {
		return 0
	}
	_, err = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<16))
	if closed := r.Body.Close(); err != nil || closed != nil {
		return 0
	}
	return r.StatusCode
}

// profiles lists the subscriptions of a user, of one category or of all.
func (s *Server) profiles(of subscription, one bool) []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []map[string]any{}
	for _, sub := range s.sorted() {
		if sub.client == of.client && sub.account == of.account && (!one || sub.appli == of.appli) {
			out = append(out, map[string]any{"appli": sub.appli, "callbackurl": sub.callback, "comment": ""})
		}
	}
	return out
}

// sorted returns all subscriptions in order. The caller holds s.mu.
func (s *Server) sorted() []subscription {
	var out []subscription
	for sub := range s.subs {
		out = append(out, sub)
	}
	slices.SortFunc(out, func(a, b subscription) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.appli, b.appli),
			cmp.Compare(a.client, b.client), cmp.Compare(a.callback, b.callback))
	})
	return out
}

// Subscriptions returns the number of subscriptions of all users.
func (s *Server) Subscriptions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs)
}

// Advance creates the notifications of all synchronizations up to the time of the clock
// and sends those that are due. It returns when all of them have been answered, or with
// the error of ctx.
func (s *Server) Advance(ctx context.Context) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	now := s.opts.Clock.Now()
	s.mu.Lock()
	s.create(now)
	var due []*delivery
	s.queue = slices.DeleteFunc(s.queue, func(d *delivery) bool {
		if d.due.After(now) {
			return false
		}
		due = append(due, d)
		return true
	})
	s.mu.Unlock()
	slices.SortFunc(due, func(a, b *delivery) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.serial, b.serial))
	})
	for i, d := range due {
		if ctx.Err() != nil {
			s.mu.Lock()
			s.queue = append(s.queue, due[i:]...)
			s.mu.Unlock()
			return ctx.Err()
		}
		s.send(ctx, d)
	}
	return nil
}

// lookback is the number of days before a synchronization whose items it can deliver or
// change.
const lookback = 9

// create queues the notifications of the synchronizations since the last call. The caller
// holds s.mu.
func (s *Server) create(now time.Time) {
	from := s.cursor
	s.cursor = now
	for _, sub := range s.sorted() {
		w := s.wearer(sub.account)
		for at := w.NextSync(from); !at.IsZero() && !at.After(now); at = w.NextSync(at) {
			last := simulate.DayOf(at.In(w.Zone))
			for day := max(last-lookback, simulate.DayOf(s.opts.Start)); day <= last; day++ {
				s.announce(sub, w, day, at)
			}
		}
	}
}

// announce queues the notification of what a synchronization delivered of a day. The
// caller holds s.mu.
func (s *Server) announce(sub subscription, w *simulate.Wearer, day simulate.Day, at time.Time) {
	for i := range lists {
		for _, k := range lists[i].kinds {
			if k.appli != sub.appli {
				continue
			}
			for _, it := range k.versions(w, day) {
				if it.at.Equal(at) {
					s.enqueue(sub, &it)
				}
			}
		}
	}
}

// enqueue queues the notification of an item. The caller holds s.mu.
func (s *Server) enqueue(sub subscription, it *item) {
	subject := fmt.Sprint(sub.account, " ", sub.appli)
	if s.faults.Draw(simulate.LostEvent, subject) {
		return
	}
	form := url.Values{"userid": {strconv.Itoa(sub.account)}, "appli": {strconv.Itoa(sub.appli)}}
	switch it.kind {
	case total:
		form.Set("date", it.day.String())
	case night:
		bed, up := it.wearer.Night(it.day)
		form.Set("startdate", strconv.FormatInt(bed.Unix(), 10))
		form.Set("enddate", strconv.FormatInt(up.Unix(), 10))
	default:
		form.Set("startdate", strconv.FormatInt(it.measured.Unix(), 10))
		form.Set("enddate", strconv.FormatInt(it.measured.Unix()+1, 10))
	}
	k := it.key.Named("delivery").With(it.revision)
	s.serial++
	d := delivery{subscription: sub, form: form, serial: s.serial,
		due: it.at.Add(time.Duration(k.Between(20, 100)) * time.Second)} // typically less than two minutes
	if s.faults.Draw(simulate.Reorder, subject) {
		d.due = d.due.Add(time.Duration(k.Between(5, 30)) * time.Minute)
	}
	s.queue = append(s.queue, &d)
	if s.faults.Draw(simulate.Duplicate, subject) {
		again := d
		s.queue = append(s.queue, &again)
	}
}

// send sends a notification, twice if the first attempt fails. If both fail, it returns
// to the queue until its cycles are used up.
func (s *Server) send(ctx context.Context, d *delivery) {
	s.mu.Lock()
	_, ok := s.subs[d.subscription]
	s.mu.Unlock()
	if !ok {
		return
	}
	accepted := false
	for attempt := 0; attempt < 2 && !accepted; attempt++ {
		rq, err := http.NewRequestWithContext(ctx, http.MethodPost, d.callback, strings.NewReader(d.form.Encode()))
		if err != nil {
			return
		}
		rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		status := s.status(rq)
		accepted = status > 0 && status < 400
		s.mu.Lock()
		s.stats.Sent++
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case accepted:
		s.stats.Accepted++
	case d.cycle == len(retries):
		s.stats.Failed++
	default:
		wait := retries[d.cycle]
		spread := int((wait[1] - wait[0]) / time.Second)
		d.due = s.opts.Clock.Now().Add(wait[0] + time.Duration(simulate.Key(s.opts.Seed).Named("retry").
			With(d.serial, d.cycle).Between(0, spread))*time.Second)
		d.cycle++
		s.queue = append(s.queue, d)
	}
}
