package sync_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/adapters/sync"
)

// accounts is acme with subscriptions that belong to accounts.
type accounts struct {
	*acme
	fail  error
	calls []string // accounts, callback and scopes of the calls
}

func (a *accounts) SubscribeAccount(_ context.Context, c *cloud.Client, callback string, granted []string) (time.Time,
	error) {
	who := account(c.Token)
	a.calls = append(a.calls, who+" "+callback)
	if !slices.Contains(granted, "daily") {
		return time.Time{}, errors.New("the granted scopes are missing")
	}
	return a.clock.Now().Add(24 * time.Hour), a.fail
}

// newAccounts returns a world whose vendor subscribes accounts.
func newAccounts(t *testing.T, hooks string) (*world, *accounts) {
	t.Helper()
	w := newWorld(t)
	a := &accounts{acme: w.acme}
	o := w.links.Options
	o.Vendors = []cloud.Vendor{a}
	w.links = link.New(o)
	var err error
	w.engine, err = sync.New(t.Context(), sync.Options{Store: w.db, Links: w.links, Ingest: w.chart, Consents: w,
		Clock: w.clock.Now, Hooks: hooks, Backfill: 20 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return w, a
}

// TestSubscribeAccount checks when an account is subscribed to: after it was linked and
// each day, not without consent, and at once after it was connected again.
func TestSubscribeAccount(t *testing.T) {
	w, a := newAccounts(t, "https://pg.example/hooks")
	w.chart.refuse = true
	w.link("p", "ann")
	w.engine.Drain(t.Context())
	if len(a.calls) > 0 {
		t.Errorf("subscribed without consent: %q", a.calls)
	}
	w.chart.refuse = false
	w.advance(time.Hour, 15*time.Minute)
	if want := []string{"ann https://pg.example/hooks/acme"}; !slices.Equal(a.calls, want) {
		t.Fatalf("calls %q, want %q", a.calls, want)
	}
	w.advance(3*24*time.Hour, time.Hour)
	if n := len(a.calls); n < 3 || n > 5 {
		t.Errorf("%d calls in three days", n)
	}
	w.clock.Add(time.Minute) // the last subscription may have been at this very moment
	w.engine.Drain(t.Context())
	before := len(a.calls)
	w.link("p", "ann")
	w.engine.Drain(t.Context())
	if len(a.calls) != before+1 {
		t.Errorf("%d calls after the account was connected again", len(a.calls)-before)
	}
}

// TestSubscriptionFails checks that an account is polled as without notifications while
// it cannot be subscribed to, and that the subscription is tried again.
func TestSubscriptionFails(t *testing.T) {
	for _, fails := range []bool{false, true} {
		w, a := newAccounts(t, "https://pg.example/hooks")
		if fails {
			a.fail = &cloud.Error{Problem: cloud.Rejected, Status: http.StatusOK}
		}
		polls := 0
		a.acme.fail = func(_ string, q cloud.Query) error {
			if q.Stream.Name == "days" && q.Object == "" {
				polls++
			}
			return nil
		}
		w.link("p", "ann")
		w.link("q", "bob")
		w.put("ann", "days", item{ID: "d", At: start, V: 1})
		w.engine.Drain(t.Context())
		e := newRouter()
		w.engine.Mount(e)
		w.hooks = e
		w.notify(note{Account: "bob", Stream: "days", Object: "d"}) // the vendor sends notifications
		w.advance(12*time.Hour, time.Hour)
		polls = 0
		w.advance(24*time.Hour, time.Hour)
		if fails && polls < 6 || !fails && polls > 4 {
			t.Errorf("failing %v: %d polls of two accounts in a day", fails, polls)
		}
		if n := len(a.calls); fails && n < 20 || !fails && n > 6 {
			t.Errorf("failing %v: %d calls", fails, n)
		}
		if len(w.chart.held["p/days"]) != 1 {
			t.Errorf("failing %v: the chart holds %d days", fails, len(w.chart.held["p/days"]))
		}
	}
}

// TestNoHooks checks that a server that vendors cannot reach subscribes to nothing and
// comes to rest, also if it had subscribed before.
func TestNoHooks(t *testing.T) {
	w, a := newAccounts(t, "https://pg.example/hooks")
	w.link("p", "ann")
	w.engine.Drain(t.Context())
	a.calls = nil
	var err error
	w.engine, err = sync.New(t.Context(), sync.Options{Store: w.db, Links: w.links, Ingest: w.chart, Consents: w,
		Clock: w.clock.Now, Backfill: 20 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.advance(3*24*time.Hour, time.Hour)
	if len(a.calls) > 0 || !w.engine.NextDue().After(w.clock.Now()) {
		t.Errorf("calls %q, next turn %v, now %v", a.calls, w.engine.NextDue(), w.clock.Now())
	}
}

// TestHead checks that the webhook passes HEAD to the vendor, whose answer to a request
// without a signature it is.
func TestHead(t *testing.T) {
	w := newWorld(t)
	rec := httptest.NewRecorder()
	w.hooks.ServeHTTP(rec, httptest.NewRequest(http.MethodHead, "/hooks/acme/secret", http.NoBody))
	if rec.Code != http.StatusUnauthorized {
		t.Errorf("status %d", rec.Code)
	}
}
