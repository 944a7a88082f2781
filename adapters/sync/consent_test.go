package sync_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
)

// consent changes the consent, as a commit of a Consent does.
func (w *world) consent(given bool) {
	w.chart.refuse = !given
	w.engine.ConsentChanged("p1")
}

// TestGapIsRemembered checks that items that were measured without consent are not read,
// even if no turn falls into that time.
func TestGapIsRemembered(t *testing.T) {
	for name, during := range map[string]func(w *world){
		// No turn begins while a vendor refuses requests.
		"suspended": func(w *world) {
			w.acme.fail = func(string, cloud.Query) error {
				return &cloud.Error{Problem: cloud.Throttled, Status: 429, RetryAfter: 3 * time.Hour}
			}
			w.advance(2*time.Hour, time.Hour)
			w.consent(false)
			w.engine.Drain(context.Background())
			w.acme.fail = nil
		},
		// The server stops before anything has followed the withdrawal.
		"restarted": func(w *world) {
			w.consent(false)
			w.restart()
			w.engine.Drain(context.Background())
		},
		// The account is unlinked and linked again, which reads its past.
		"linked again": func(w *world) {
			w.consent(false)
			w.engine.Drain(context.Background())
			l, err := w.links.List(context.Background(), "p1")
			if err == nil {
				err = w.links.Unlink(context.Background(), caller, l[0].ID, false)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fill("ann")
			w.link("p1", "ann")
			w.engine.Drain(context.Background())
			during(w)
			w.clock.Add(30 * time.Minute)
			for _, s := range []string{"beats", "days"} {
				w.put("ann", s, item{ID: "secret", At: w.clock.Now().Add(-time.Minute), V: 5})
			}
			w.consent(true)
			w.engine.Drain(context.Background())
			w.link("p1", "ann") // changes nothing if there is a link
			w.clock.Add(time.Hour)
			w.put("ann", "beats", item{ID: "later", At: w.clock.Now().Add(-time.Minute), V: 6})
			w.notify(note{Account: "ann", Stream: "beats", Object: "secret"})
			w.advance(2*day, time.Hour)
			for _, s := range []string{"beats", "days"} {
				if _, ok := w.chart.held["p1/"+s]["secret"]; ok {
					t.Errorf("%s: an item that was measured without consent was stored", s)
				}
			}
			if w.chart.held["p1/beats"]["later"].V != 6 {
				t.Error("an item that was measured with the new consent was not read")
			}
		})
	}
}

// TestFirstConsentCoversPast checks that the past of an account is read that is linked
// after the first consent, whatever happened without any before.
func TestFirstConsentCoversPast(t *testing.T) {
	w := newWorld(t)
	w.fill("ann")
	w.consent(false)
	w.engine.Drain(context.Background())
	w.clock.Add(time.Hour)
	w.consent(true)
	w.engine.Drain(context.Background())
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	if len(w.chart.held["p1/beats"]) < 2 {
		t.Error("the past was not read")
	}
}

// TestWithdrawalDuringDelivery checks that the further pages of a window are not
// requested.
func TestWithdrawalDuringDelivery(t *testing.T) {
	w := newWorld(t)
	w.link("p1", "ann")
	w.engine.Drain(context.Background())
	for n := range 5 * pageSize {
		w.put("ann", "beats", item{ID: fmt.Sprint(n), At: w.clock.Now(), V: n})
	}
	w.advance(time.Hour, time.Hour)
	before := 0
	w.acme.fail = func(_ string, q cloud.Query) error {
		if q.Stream.Name == "beats" && q.Cursor != "" {
			before = w.acme.pages
			w.chart.refuse = true
		}
		return nil
	}
	w.advance(2*time.Hour, time.Hour)
	if before == 0 {
		t.Fatal("no delivery has a second page")
	}
	if w.acme.pages != before {
		t.Errorf("%d requests after the withdrawal", w.acme.pages-before)
	}
}
