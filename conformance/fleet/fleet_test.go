package fleet

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	ouracloud "pulsegate/adapters/cloud/oura"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
)

var (
	wearers = flag.Int("fleet.wearers", 3, "wearers of each vendor")
	days    = flag.Int("fleet.days", 12, "days that pass")
	seed    = flag.Uint64("fleet.seed", 1, "seed of wearers and faults")
)

func openOura(t testing.TB, clock *simulate.Clock, all []simulate.Wearer) (simulated, *oura.Server,
	cloud.Vendor) {
	t.Helper()
	const id, secret = "pulsegate", "a-client-secret"
	sim := oura.New(oura.Options{Clock: clock, Start: start.Add(-8 * 24 * time.Hour), Seed: *seed, Wearers: all,
		Clients: []oura.Client{{ID: id, Secret: secret, Provider: oura.Moi}}})
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	v, err := ouracloud.New(cloud.Config{ClientID: id, ClientSecret: secret, Clock: clock.Now,
		AuthURL:   srv.URL + "/oauth/v2/ext/oauth-authorize",
		TokenURL:  srv.URL + "/oauth/v2/ext/oauth-token",
		RevokeURL: srv.URL + "/oauth/v2/ext/oauth-revoke", APIURL: srv.URL,
		Options: map[string]string{"identity-provider": "moi"}})
	if err != nil {
		t.Fatal(err)
	}
	accounts := sim.Accounts()
	return simulated{code: "oura", url: srv.URL, advance: sim.Advance,
		approve: func(wearer int) url.Values {
			return url.Values{"wearer": {fmt.Sprint(wearer)}, "decision": {"approve"}}
		},
		truth: func(c *chart, patient string, wearer int) {
			byType := map[string][][]byte{}
			for _, r := range sim.Truth(accounts[wearer]) {
				byType[r.Type] = append(byType[r.Type], r.JSON)
			}
			for typ, all := range byType {
				body := append([]byte(`{"data":[`), bytes.Join(all, []byte{','})...)
				c.deliver(patient, "oura", "v2:"+typ, append(body, `],"next_token":null}`...))
			}
		}}, sim, v
}

// TestMonth lets wearers wear their devices while the clouds fail in every way, and
// then compares the store with what the clouds hold.
func TestMonth(t *testing.T) {
	all, err := simulate.Wearers(*seed, *wearers)
	if err != nil {
		t.Fatal(err)
	}
	clock := simulate.NewClock(nil, start, 1)
	faults := map[simulate.Fault]float64{simulate.Outage: 0.02, simulate.Drop: 0.01, simulate.RateLimit: 0.01, simulate.EmptyPage: 0.02, simulate.Lapse: 0.1, simulate.LostToken: 0.05,
		simulate.Expire: 0.05, simulate.Duplicate: 0.1, simulate.Reorder: 0.1, simulate.LostEvent: 0.1,
		simulate.Unexpected: 0.01}
	var servers []*oura.Server
	f := newFleet(t, clock, *wearers, func(f *fleet) ([]simulated, []cloud.Vendor) {
		one, sim, v := openOura(t, clock, all)
		servers = append(servers, sim)
		return []simulated{one}, []cloud.Vendor{v}
	})
	f.engine.Drain(context.Background()) // subscribes
	for i := range f.clouds {
		for wearer := range *wearers {
			f.link(&f.clouds[i], wearer)
		}
	}
	for _, s := range servers {
		s.Faults().SetRates(faults)
	}
	again := 0
	for range *days {
		f.pass(24*time.Hour, time.Hour)
		again += f.reconnect(*wearers)
	}
	for _, s := range servers {
		s.Faults().SetRates(nil)
		t.Logf("faults: %v, events: %+v", s.Faults().Injected(), s.Sent())
	}
	// A lapsed membership is tried again after a day, and late rows are read once a day.
	f.pass(60*time.Hour, time.Hour)
	f.settle()
	t.Logf("%d links had to be connected again", again)
	f.check(*wearers)
}
