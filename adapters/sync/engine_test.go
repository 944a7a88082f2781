package sync_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	gosync "sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"pgregory.net/rapid"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/budget"
)

func newRouter() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	return gin.New()
}

const day = 24 * time.Hour

// fill gives an account two months of data.
func (w *world) fill(account string) {
	for i := range 60 {
		at := start.Add(-time.Duration(i) * day)
		w.put(account, "beats", item{ID: fmt.Sprintf("b%d", i), At: at.Add(-time.Minute), V: i})
		w.put(account, "days", item{ID: fmt.Sprintf("d%d", i), At: at.Truncate(day), V: i})
	}
	w.put(account, "ring", item{ID: "ring", At: start, V: 80})
}

// within returns the items of a stream that begin at or after a time.
func (w *world) within(account, stream string, from time.Time) map[string]item {
	out := map[string]item{}
	for id, it := range w.acme.items[account][stream] {
		if !it.At.Before(from) {
			out[id] = it
		}
	}
	return out
}

func TestBackfillIsBounded(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	from := start.Add(-20 * day)
	if got, want := len(w.chart.held["p1/beats"]), len(w.within("ann", "beats", from)); got != want {
		t.Errorf("%d beats of the last 20 days, want %d", got, want)
	}
	// Days are read in whole days of all time zones.
	if got := len(w.chart.held["p1/days"]); got < 20 || got > 23 {
		t.Errorf("%d days, want those of the last 20 days", got)
	}
	if len(w.chart.held["p1/ring"]) != 1 {
		t.Error("the state of the ring was not read")
	}
}

// TestBackfillResumes checks that a restart in the middle of reading the past
// continues where it was.
func TestBackfillResumes(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.acme.fail = func(string, cloud.Query) error {
		if w.acme.pages == 9 {
			return &cloud.Error{Problem: cloud.Unavailable}
		}
		return nil
	}
	l := w.link("p1", "ann")
	w.engine.Drain(context.Background())
	w.restart()
	if s, err := w.engine.Status(l.ID); err != nil || s.Past <= 0 || s.Past >= 1 {
		t.Errorf("status after the restart: past %v, %v; want a part of it", s.Past, err)
	}
	w.advance(time.Hour, time.Minute)
	if got, want := len(w.chart.held["p1/beats"]), len(w.within("ann", "beats", start.Add(-20*day))); got < want {
		t.Errorf("%d beats, want %d", got, want)
	}
	if s, err := w.engine.Status(l.ID); err != nil || s.Past != 1 {
		t.Errorf("status: past %v, %v; want 1", s.Past, err)
	}
}

func TestRestatementAndDeletion(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	w.put("ann", "beats", item{ID: "b1", At: start.Add(-day - time.Minute), V: 1000})
	delete(w.acme.items["ann"]["beats"], "b0")
	w.put("ann", "beats", item{ID: "new", At: start.Add(30 * time.Minute), V: 7})
	w.advance(3*time.Hour, time.Hour)
	held := w.chart.held["p1/beats"]
	if held["b1"].V != 1000 {
		t.Error("a restated item was not updated")
	}
	if _, ok := held["b0"]; ok {
		t.Error("a deleted item was not retracted")
	}
	if held["new"].V != 7 {
		t.Error("a new item was not read")
	}
}

// TestEmptyAnswerIsDistrusted checks that a vendor that answers with nothing is not
// believed until it says so twice.
func TestEmptyAnswerIsDistrusted(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	before := len(w.chart.held["p1/beats"])
	w.acme.items["ann"]["beats"] = map[string]item{}
	w.advance(80*time.Minute, 80*time.Minute)
	if got := len(w.chart.held["p1/beats"]); got != before {
		t.Errorf("after one empty answer, %d items, want %d", got, before)
	}
	w.advance(80*time.Minute, 80*time.Minute)
	if got := len(w.chart.held["p1/beats"]); got >= before {
		t.Errorf("after two empty answers, %d items, want fewer than %d", got, before)
	}
}

func TestNotification(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	w.put("ann", "days", item{ID: "today", At: start.Truncate(day), V: 1})
	n := note{Account: "ann", Stream: "days", Object: "today"}
	if got := w.notify(n); got != http.StatusNoContent {
		t.Fatalf("status %d, want 204", got)
	}
	if w.inbox() != 1 {
		t.Fatal("the notification is not in the inbox when it is acknowledged")
	}
	pages := w.acme.pages
	w.engine.Drain(context.Background())
	if w.chart.held["p1/days"]["today"].V != 1 {
		t.Error("the object was not read")
	}
	if w.acme.pages != pages+1 {
		t.Errorf("%d requests for one object, want 1", w.acme.pages-pages)
	}
	if w.inbox() != 0 {
		t.Error("a handled notification is still in the inbox")
	}
	if got := w.notify(n); got != http.StatusNoContent {
		t.Errorf("repetition: status %d, want 204", got)
	}
	if w.inbox() != 0 {
		t.Error("a repetition was stored")
	}
	delete(w.acme.items["ann"]["days"], "today")
	w.notify(note{Account: "ann", Stream: "days", Object: "today", Deleted: true})
	w.engine.Drain(context.Background())
	if _, ok := w.chart.held["p1/days"]["today"]; ok {
		t.Error("a deleted object was not retracted")
	}
	if got := w.post([]byte("[]"), "bad"); got != http.StatusUnauthorized {
		t.Errorf("bad signature: status %d, want 401", got)
	}
	if got := w.post([]byte("{"), "good"); got != http.StatusBadRequest {
		t.Errorf("unknown form: status %d, want 400", got)
	}
	if got := w.post(make([]byte, 2<<20), "good"); got != http.StatusRequestEntityTooLarge {
		t.Errorf("large body: status %d, want 413", got)
	}
}

// TestInboxSurvivesRestart checks that notifications that were acknowledged before a
// crash are handled after it.
func TestInboxSurvivesRestart(t *testing.T) {
	w := newWorld(t)
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	w.put("ann", "days", item{ID: "x", At: start.Add(-40 * day), V: 1}) // older than any poll reads
	w.notify(note{Account: "ann", Stream: "days", From: start.Add(-41 * day), To: start.Add(-39 * day)})
	w.restart()
	w.engine.Drain(context.Background())
	if w.chart.held["p1/days"]["x"].V != 1 {
		t.Error("the announced item was not read after the restart")
	}
	if w.inbox() != 0 {
		t.Error("the notification is still in the inbox")
	}
}

// TestBurstIsCoalesced checks that a burst of notifications about one object leads to
// one read.
func TestBurstIsCoalesced(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	pages := w.acme.pages
	for i := range 50 {
		w.notify(note{Account: "ann", Stream: "days", Object: "d3", Nonce: fmt.Sprint(i)})
	}
	w.engine.Drain(context.Background())
	if got := w.acme.pages - pages; got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
	if w.inbox() != 0 {
		t.Error("notifications are left in the inbox")
	}
}

// TestFailingAccountDelaysNobody checks that an account whose requests fail does not
// delay another.
func TestFailingAccountDelaysNobody(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"ann", "bob", "cat"} {
		w.fill(a)
		w.link("p-"+a, a)
	}
	w.acme.fail = func(account string, _ cloud.Query) error {
		if account == "ann" {
			return &cloud.Error{Problem: cloud.Unavailable, Status: 500}
		}
		return nil
	}
	w.engine.Drain(context.Background())
	if len(w.chart.held["p-bob/beats"]) == 0 || len(w.chart.held["p-cat/beats"]) == 0 {
		t.Error("links were held up by a failing one")
	}
	w.acme.fail = nil
	w.advance(2*time.Hour, time.Minute)
	if len(w.chart.held["p-ann/beats"]) == 0 {
		t.Error("the failing link did not recover")
	}
}

func TestThrottling(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	refused := 0
	w.acme.fail = func(string, cloud.Query) error {
		if w.clock.Now().Before(start.Add(10 * time.Minute)) {
			refused++
			return &cloud.Error{Problem: cloud.Throttled, Status: 429, RetryAfter: 4 * time.Minute}
		}
		return nil
	}
	l := w.link("p1", "ann")
	w.advance(20*time.Minute, time.Minute)
	if refused == 0 || refused > 3 {
		t.Errorf("%d requests while throttled, want one every 4 minutes", refused)
	}
	if len(w.chart.held["p1/beats"]) == 0 {
		t.Error("nothing was read after the limit")
	}
	if have, err := w.links.Get(context.Background(), l.ID); err != nil || have.Status != link.Working {
		t.Errorf("status %q, want working", have.Status)
	}
}

// TestBudget checks that an account keeps to its budget.
func TestBudget(t *testing.T) {
	w := newWorld(t)
	for i := range 400 {
		w.put("ann", "beats", item{ID: fmt.Sprintf("b%03d", i), At: start.Add(-time.Duration(i) * time.Hour), V: i})
	}
	w.link("p1", "ann")
	for range 60 {
		before := w.acme.pages
		w.clock.Add(time.Second)
		w.engine.Drain(context.Background())
		if got := w.acme.pages - before; got > 600 {
			t.Fatalf("%d requests within a second, the account has 600 a minute", got)
		}
	}
	if len(w.chart.held["p1/beats"]) < 300 {
		t.Errorf("%d beats were read, want all", len(w.chart.held["p1/beats"]))
	}
}

// TestReconnect checks that an access token that is refused is refreshed once, that a
// refused new one ends the link's work until it is connected again, and that nothing
// is missing then.
func TestReconnect(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	l := w.link("p1", "ann")
	w.engine.Drain(context.Background())
	w.acme.fail = func(string, cloud.Query) error { return &cloud.Error{Problem: cloud.Unauthorized, Status: 401} }
	posts := w.posts
	w.advance(12*time.Hour, time.Hour)
	if w.posts != posts+2 {
		t.Errorf("%d refreshes, want 2: the access token has expired, and the new one is refused", w.posts-posts)
	}
	have, err := w.links.Get(context.Background(), l.ID)
	if err != nil || have.Status != link.Reconnect {
		t.Fatalf("status %q, want reconnect", have.Status)
	}
	w.acme.fail = nil
	w.put("ann", "beats", item{ID: "gap", At: w.clock.Now().Add(-time.Hour), V: 5})
	w.notify(note{Account: "ann", Stream: "beats", Object: "gap"})
	if w.inbox() != 0 {
		t.Error("a notification for a link that is not read stays in the inbox")
	}
	if again := w.link("p1", "ann"); again.ID != l.ID {
		t.Error("connecting again made another link")
	}
	w.engine.Drain(context.Background())
	if w.chart.held["p1/beats"]["gap"].V != 5 {
		t.Error("what was measured before the account was connected again was not read")
	}
}

// TestConsentWithdrawn checks that nothing is requested without consent, and that
// items measured in that time are never read.
func TestConsentWithdrawn(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	w.chart.refuse = true
	w.advance(time.Hour, 15*time.Minute)
	pages := w.acme.pages
	w.put("ann", "beats", item{ID: "secret", At: w.clock.Now(), V: 5})
	w.notify(note{Account: "ann", Stream: "beats", From: start, To: w.clock.Now().Add(time.Hour)})
	w.advance(day, time.Hour)
	if w.acme.pages != pages {
		t.Errorf("%d requests without consent", w.acme.pages-pages)
	}
	w.chart.refuse = false
	w.advance(time.Hour, time.Hour)
	w.put("ann", "beats", item{ID: "later", At: w.clock.Now(), V: 6})
	w.notify(note{Account: "ann", Stream: "beats", From: start, To: w.clock.Now().Add(time.Hour)})
	w.advance(3*day, time.Hour)
	if _, ok := w.chart.held["p1/beats"]["secret"]; ok {
		t.Error("an item that was measured without consent was read")
	}
	if w.chart.held["p1/beats"]["later"].V != 6 {
		t.Error("an item that was measured with the new consent was not read")
	}
}

func TestProblems(t *testing.T) {
	for _, tt := range []struct {
		problem cloud.Problem
		status  link.Status
	}{
		{cloud.Membership, link.Membership}, {cloud.Permission, link.Permission}, {cloud.Gone, link.Gone},
		{cloud.Unlinked, link.Reconnect}, {cloud.Rejected, link.Working}, {cloud.NotFound, link.Working},
	} {
		t.Run(tt.problem.String(), func(t *testing.T) {
			w := newWorld(t)
			w.fill("ann")
			l := w.link("p1", "ann")
			w.acme.fail = func(string, cloud.Query) error { return &cloud.Error{Problem: tt.problem} }
			w.engine.Drain(context.Background())
			pages := w.acme.pages
			if pages > len(streams) {
				t.Errorf("%d requests, want at most one of each stream", pages)
			}
			w.advance(12*time.Hour, time.Hour)
			if w.acme.pages != pages {
				t.Errorf("%d requests within a day of a refusal", w.acme.pages-pages)
			}
			have, err := w.links.Get(context.Background(), l.ID)
			if err != nil || have.Status != tt.status {
				t.Errorf("status %q, want %q", have.Status, tt.status)
			}
			if tt.status == link.Reconnect || tt.status == link.Gone {
				return
			}
			w.acme.fail = nil
			w.advance(36*time.Hour, time.Hour)
			if len(w.chart.held["p1/beats"]) == 0 {
				t.Error("the link did not recover")
			}
			if have, err = w.links.Get(context.Background(), l.ID); err != nil || have.Status != link.Working {
				t.Errorf("status %q after the recovery, want working", have.Status)
			}
		})
	}
}

func TestUnlink(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	l := w.link("p1", "ann")
	w.engine.Drain(context.Background())
	if err := w.links.Unlink(context.Background(), caller, l.ID, false); err != nil {
		t.Fatal(err)
	}
	pages := w.acme.pages
	w.advance(2*day, time.Hour)
	if w.acme.pages != pages {
		t.Errorf("%d requests after unlinking", w.acme.pages-pages)
	}
	if b, err := w.db.Get(context.Background(), "sync/plan/"+l.ID); err != nil || b != nil {
		t.Error("the plan of an unlinked account is still stored")
	}
	if _, err := w.engine.Status(l.ID); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("status of an unlinked account: %v, want NotFound", err)
	}
}

// TestRun runs workers, webhooks, and changes and queries of links concurrently.
func TestRun(t *testing.T) {
	w := newWorld(t)
	accounts := []string{"ann", "bob", "cat", "dan"}
	links := map[string]link.Link{}
	for _, a := range accounts {
		w.fill(a)
		w.put(a, "days", item{ID: "last", At: start.Truncate(day), V: 1})
		links[a] = w.link("p-"+a, a)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running, senders gosync.WaitGroup
	running.Go(func() { w.engine.Run(ctx) })
	for _, a := range accounts {
		senders.Go(func() {
			for i := range 50 {
				if got := w.notify(note{Account: a, Stream: "days", Object: "last", Nonce: fmt.Sprint(i)}); got != 204 {
					t.Errorf("status %d, want 204", got)
				}
				if _, err := w.engine.Status(links[a].ID); err != nil {
					t.Error(err)
				}
				if err := w.engine.Pull(links[a].ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	for w.inbox() > 0 {
		runtime.Gosched()
	}
	if err := w.links.Unlink(ctx, caller, links["dan"].ID, false); err != nil {
		t.Error(err)
	}
	stop()
	running.Wait()
	for _, a := range accounts {
		if w.chart.held["p-"+a+"/days"]["last"].V != 1 {
			t.Errorf("%s: the announced item was not read", a)
		}
	}
}

// TestChartEqualsVendor checks that after any events in any order, the chart has the
// items of the vendor.
func TestChartEqualsVendor(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t)
		accounts := []string{"ann", "bob"}
		for _, a := range accounts {
			w.put(a, "beats", item{ID: "first", At: start.Add(-time.Hour), V: 1})
			w.link("p-"+a, a)
		}
		for range rapid.IntRange(5, 40).Draw(r, "steps") {
			a := rapid.SampledFrom(accounts).Draw(r, "account")
			s := rapid.SampledFrom([]string{"beats", "days"}).Draw(r, "stream")
			id := fmt.Sprint(rapid.IntRange(0, 12).Draw(r, "id"))
			now := w.clock.Now()
			switch rapid.IntRange(0, 7).Draw(r, "step") {
			case 0, 1, 2:
				back := time.Duration(rapid.IntRange(0, 40).Draw(r, "hours")) * time.Hour
				it := item{ID: id, At: now.Add(-back), V: rapid.Int().Draw(r, "value")}
				if have, ok := w.acme.items[a][s][id]; ok {
					it.At = have.At
				}
				w.put(a, s, it)
				w.notify(note{Account: a, Stream: s, Object: id, Nonce: fhir.RandomID()})
			case 3:
				if have, ok := w.acme.items[a][s][id]; ok {
					delete(w.acme.items[a][s], id)
					w.notify(note{Account: a, Stream: s, From: have.At.Add(-time.Hour), To: have.At.Add(time.Hour),
						Deleted: true, Nonce: fhir.RandomID()})
				}
			case 4:
				until := now.Add(time.Duration(rapid.IntRange(1, 90).Draw(r, "outage")) * time.Minute)
				w.acme.fail = func(string, cloud.Query) error {
					if w.clock.Now().Before(until) {
						return &cloud.Error{Problem: cloud.Unavailable, Status: 503}
					}
					return nil
				}
			case 5:
				w.restart()
			default:
				w.advance(time.Duration(rapid.IntRange(1, 120).Draw(r, "minutes"))*time.Minute, 30*time.Minute)
			}
		}
		w.acme.fail = nil
		w.advance(30*time.Hour, time.Hour)
		for _, a := range accounts {
			w.check("p-"+a, a)
		}
		if n := w.inbox(); n != 0 {
			t.Errorf("%d notifications are left in the inbox", n)
		}
		if t.Failed() {
			r.FailNow()
		}
		_ = w.db.Close() // the next world has its own
	})
}

// TestNotifiedStreamsArePolledDaily checks that streams with notifications are polled
// daily while notifications arrive, and hourly when the vendor falls silent.
func TestNotifiedStreamsArePolledDaily(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.link("p1", "ann")
	polls := 0
	w.acme.fail = func(_ string, q cloud.Query) error {
		if q.Stream.Name == "days" && q.Object == "" && q.Cursor == "" {
			polls++
		}
		return nil
	}
	w.advance(day, time.Hour)
	silent := polls
	if silent < 4 {
		t.Errorf("%d polls in a day without notifications, want one every 6 hours and the past", silent)
	}
	for range 4 {
		w.notify(note{Account: "ann", Stream: "days", Object: "d3", Nonce: fhir.RandomID()})
		w.advance(12*time.Hour, time.Hour)
	}
	if got := polls - silent; got > 3 {
		t.Errorf("%d polls in two days with notifications, want two", got)
	}
	polls = 0
	w.advance(5*day, time.Hour)
	if polls < 9 {
		t.Errorf("%d polls in five days after the last notification, want one every 6 hours after two days", polls)
	}
}

var manyLinks = flag.Int("sync.links", 100, "links of TestManyLinks")

// TestManyLinks polls many links for a day: all of them on time, and none beyond the
// budget of the vendor.
func TestManyLinks(t *testing.T) {
	w := newWorld(t)
	for i := range *manyLinks {
		a := fmt.Sprintf("a%05d", i)
		w.put(a, "beats", item{ID: "b", At: start.Add(-time.Hour), V: i})
		w.link("p"+a, a)
	}
	w.engine.Drain(t.Context())
	w.acme.pages = 0
	most := 0
	for range 24 * 60 {
		before := w.acme.pages
		w.clock.Add(time.Minute)
		w.engine.Drain(t.Context())
		most = max(most, w.acme.pages-before)
	}
	// 24 polls of beats, 4 of days and 1 of the ring, in one page each.
	if got, want := w.acme.pages, *manyLinks*29; got < want*9/10 || got > want*11/10 {
		t.Errorf("%d requests in a day, want about %d", got, want)
	}
	// Polls are spread: at no minute more than four times the mean.
	if mean := w.acme.pages / (24 * 60); most > 4*mean+20 {
		t.Errorf("%d requests in one minute, the mean is %d", most, mean)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d links: %d requests in a day, at most %d in a minute; heap %d MB", *manyLinks, w.acme.pages, most,
		m.HeapAlloc>>20)
}

// TestWindows checks that the windows of polls say how their stream is windowed.
func TestWindows(t *testing.T) {
	w := newWorld(t)
	w.put("a", "beats", item{ID: "b", At: start.Add(-time.Hour), V: 1})
	w.put("a", "days", item{ID: "d", At: start.Add(-24 * time.Hour), V: 1})
	w.link("pa", "a")
	w.engine.Drain(t.Context())
	beats, days := w.chart.windows["beats"], w.chart.windows["days"]
	if beats.Days || beats.Coarse || !slices.Equal(beats.Types, []string{"beats"}) {
		t.Errorf("beats: %+v", beats)
	}
	if !days.Days || !days.Coarse || !slices.Equal(days.Types, []string{"days"}) {
		t.Errorf("days: %+v", days)
	}
}

// TestNotificationsShareTheBudget checks that large notifications are refused, to be
// sent again, when the memory for bodies of requests is taken.
func TestNotificationsShareTheBudget(t *testing.T) {
	w := newWorld(t)
	body := append([]byte("[]"), bytes.Repeat([]byte(" "), 512<<10)...)
	hooks := w.hooks
	for _, tt := range []struct {
		limit int64
		want  int
	}{{1 << 20, http.StatusServiceUnavailable}, {16 << 20, http.StatusNoContent}} {
		w.hooks = budget.New(tt.limit).Handler(hooks)
		if got := w.post(body, "good"); got != tt.want {
			t.Errorf("with a budget of %d bytes: status %d, want %d", tt.limit, got, tt.want)
		}
	}
}
