package fleet

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	withingscloud "pulsegate/adapters/cloud/withings"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/withings"
	"pulsegate/mapping/ingest"
)

// recorder keeps the path to which the latest notification was sent.
type recorder struct{ path string }

func (r *recorder) RoundTrip(rq *http.Request) (*http.Response, error) {
	r.path = rq.URL.Path
	return http.DefaultTransport.RoundTrip(rq)
}

// openWithings opens a simulated Withings cloud.
func openWithings(t testing.TB, clock *simulate.Clock, all []simulate.Wearer, sent *recorder) (simulated,
	*withings.Server, cloud.Vendor) {
	t.Helper()
	const id, secret = "pulsegate", "a-client-secret"
	sim := withings.New(withings.Options{Clock: clock, Start: start.Add(-history), Seed: *seed, Wearers: all,
		AllowHTTP: true, PageSize: 7, HTTP: &http.Client{Transport: sent, Timeout: time.Minute},
		Clients: []withings.Client{{ID: id, Secret: secret, RedirectURIs: []string{"https://pg.example/callback"}}}})
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	v, err := withingscloud.New(cloud.Config{ClientID: id, ClientSecret: secret, Clock: clock.Now,
		AuthURL: srv.URL + "/oauth2_user/authorize2", TokenURL: srv.URL + "/v2/oauth2", APIURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return simulated{code: "withings", url: srv.URL, advance: sim.Advance,
		approve: func(wearer int) url.Values {
			return url.Values{"wearer": {fmt.Sprint(wearer)}, "decision": {"approve"}}
		},
		truth: func(c *chart, patient string, wearer int) {
			for _, body := range sim.Truth(wearer) {
				c.deliver(ingest.Request{Patient: patient, Vendor: "withings", Format: "api", Body: bytes.NewReader(body)})
			}
		}}, sim, v
}

// TestWithings links two wearers at a vendor whose subscriptions belong to accounts and
// whose notifications are not signed. Notifications lead to data, the store follows
// restated and deleted items, and unlinking ends the subscriptions and the grant.
func TestWithings(t *testing.T) {
	const subscriptions = 5 // of each account
	clock := simulate.NewClock(nil, start, 0)
	all, err := simulate.Wearers(*seed, 2)
	if err != nil {
		t.Fatal(err)
	}
	var sim *withings.Server
	var sent recorder
	f := newFleet(t, clock, len(all), func(*fleet) ([]simulated, []cloud.Vendor) {
		c, server, v := openWithings(t, clock, all, &sent)
		sim = server
		return []simulated{c}, []cloud.Vendor{v}
	})
	c := &f.clouds[0]
	for i := range all {
		f.link(c, i)
	}
	f.engine.Drain(t.Context())
	if n := sim.Subscriptions(); n != subscriptions*len(all) {
		t.Fatalf("%d subscriptions after linking, want %d for each account", n, subscriptions)
	}
	f.check(len(all))

	f.pass(30*time.Hour, time.Hour)
	f.announced(c, sim, &all[0])
	f.pass(time.Duration(*days)*24*time.Hour, time.Hour)
	if s := sim.Stats(); s.Accepted == 0 || s.Accepted != s.Sent || s.Limited > 0 {
		t.Errorf("notifications and requests: %+v", s)
	}
	f.settle()
	f.checkLinks()
	f.check(len(all))
	f.stranger(sent.path)

	links, err := f.links.List(t.Context(), patient("withings", 0))
	if err != nil || len(links) != 1 {
		t.Fatalf("%d links, %v", len(links), err)
	}
	token, err := f.links.Token(t.Context(), links[0].ID, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.links.Unlink(t.Context(), caller, links[0].ID, false); err != nil {
		t.Fatal(err)
	}
	if n := sim.Subscriptions(); n != subscriptions {
		t.Errorf("%d subscriptions after unlinking, want %d of the other account", n, subscriptions)
	}
	client := &cloud.Client{HTTP: http.DefaultClient, Token: token, Base: c.url, Clock: clock.Now}
	v := f.links.Vendor("withings")
	_, err = v.Page(t.Context(), client, cloud.Query{Stream: &v.Streams()[0], From: start, To: clock.Now()})
	if err == nil || cloud.ProblemOf(err) != cloud.Unauthorized {
		t.Errorf("the access token works after unlinking: %v", err)
	}
}

// announced moves the clock to just after the next synchronization of the first wearer,
// when no poll is due, and checks that the notifications alone bring its data.
func (f *fleet) announced(c *simulated, sim *withings.Server, w *simulate.Wearer) {
	f.t.Helper()
	for range 10 {
		at := w.NextSync(f.clock.Now())
		f.clock.Set(at.Add(-time.Second))
		f.engine.Drain(f.t.Context())
		f.clock.Set(at.Add(2 * time.Minute))
		before, accepted := f.content(patient(c.code, 0)), sim.Stats().Accepted
		poll := !f.engine.NextDue().After(f.clock.Now())
		if err := c.advance(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
		f.engine.Drain(f.t.Context())
		after := f.content(patient(c.code, 0))
		if poll || len(after) == len(before) {
			continue // the data may be those of the poll, or restate others
		}
		if sim.Stats().Accepted == accepted {
			f.t.Error("data came without a notification")
		}
		if _, wrong := f.compare(c, 0); wrong > 0 {
			f.t.Errorf("%d Observations are wrong after the notification", wrong)
		}
		return
	}
	f.t.Error("no notification led to data")
}

// stranger posts notifications to the webhook as others may: for an account that is not
// linked, and without the secret of the path.
func (f *fleet) stranger(path string) {
	f.t.Helper()
	before := f.versions()
	for to, want := range map[string]int{path: http.StatusOK, path + "x": http.StatusNotFound,
		path[:len(path)-1]: http.StatusNotFound, "/hooks/withings": http.StatusNotFound} {
		rq := httptest.NewRequest(http.MethodPost, to,
			strings.NewReader("userid=424242&appli=1&startdate=1774000000&enddate=1774000001"))
		rec := httptest.NewRecorder()
		f.hooks.ServeHTTP(rec, rq)
		if rec.Code != want {
			f.t.Errorf("a notification to a path of %d characters: %d, want %d", len(to), rec.Code, want)
		}
	}
	f.engine.Drain(f.t.Context())
	left := 0
	if err := f.db.List(f.t.Context(), "sync/inbox/", func(string, []byte) bool { left++; return true }); err != nil {
		f.t.Fatal(err)
	}
	if after := f.versions(); left > 0 || fmt.Sprint(after) != fmt.Sprint(before) {
		f.t.Errorf("a notification of a stranger changed the store, or %d stay in the inbox", left)
	}
}
