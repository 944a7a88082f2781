package fleet

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	googlecloud "pulsegate/adapters/cloud/googlehealth"
	ouracloud "pulsegate/adapters/cloud/oura"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
	"pulsegate/adapters/simulate/oura"
	"pulsegate/mapping/ingest"
)

// history is the time with data before the accounts are linked. It is longer than any
// window of the vendors' roll-ups.
const history = 17 * 24 * time.Hour

var (
	wearers = flag.Int("fleet.wearers", 2, "wearers of each vendor")
	days    = flag.Int("fleet.days", 8, "days that pass")
	seed    = flag.Uint64("fleet.seed", 1, "seed of wearers and faults")
	events  = flag.Int("fleet.events", 2000, "events that are delivered again")
)

const ouraSecret = "a-client-secret"

// filter wraps the handler of a simulated cloud.
type filter func(http.Handler) http.Handler

// plain changes nothing.
func plain(h http.Handler) http.Handler { return h }

// openOura opens a simulated Oura cloud, whose data are those of clock and whose limits
// and tokens are those of wall.
func openOura(t testing.TB, clock, wall *simulate.Clock, all []simulate.Wearer, wrap filter) (simulated, *oura.Server,
	cloud.Vendor) {
	t.Helper()
	const id, secret = "pulsegate", ouraSecret
	sim := oura.New(oura.Options{Clock: clock, Wall: wall.Now, Start: start.Add(-history), Seed: *seed, Wearers: all,
		Clients: []oura.Client{{ID: id, Secret: secret, Provider: oura.Moi}}})
	srv := httptest.NewServer(wrap(sim))
	t.Cleanup(srv.Close)
	v, err := ouracloud.New(cloud.Config{ClientID: id, ClientSecret: secret, Clock: wall.Now,
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
				c.deliver(ingest.Request{Patient: patient, Vendor: "oura", Format: "v2:" + typ,
					Body: bytes.NewReader(append(body, `],"next_token":null}`...))})
			}
		}}, sim, v
}

// openGoogle opens a simulated Google Health API.
func openGoogle(t testing.TB, clock *simulate.Clock, wearers int, wrap filter) (simulated, *googlehealth.Server,
	cloud.Vendor) {
	t.Helper()
	const id, secret, project, mail = "pulsegate", "google-client-secret", "123456789012", "hooks@example.org"
	key, err := rsa.GenerateKey(crand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sim, err := googlehealth.New(googlehealth.Options{Seed: *seed, Wearers: wearers, Start: start.Add(-history),
		Clock: clock, Project: project, AllowHTTP: true,
		Clients: []googlehealth.Client{{ID: id, Secret: secret,
			RedirectURIs: []string{"https://pg.example/callback"}}},
		ServiceAccounts: []googlehealth.ServiceAccount{{Email: mail, KeyID: "k1", Key: &key.PublicKey}}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(wrap(sim))
	t.Cleanup(srv.Close)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	account, err := json.Marshal(map[string]string{"type": "service_account", "client_email": mail,
		"private_key_id": "k1",
		"private_key":    string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"token_uri":      srv.URL + "/token"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := googlecloud.New(cloud.Config{ClientID: id, ClientSecret: secret, Clock: clock.Now,
		AuthURL: srv.URL + "/o/oauth2/v2/auth", TokenURL: srv.URL + "/token", RevokeURL: srv.URL + "/revoke",
		APIURL: srv.URL, Options: map[string]string{"webhook-secret-file": "Bearer endpoint-secret",
			"webhook-keys-url":     srv.URL + "/googlehealthapi/webhooks/webhooks_public_keyset.json",
			"service-account-file": string(account), "project-number": project,
			"scopes": "nutrition,logged_symptoms,mindfulness,reproductive_health,profile"}})
	if err != nil {
		t.Fatal(err)
	}
	accounts := sim.Accounts()
	return simulated{code: "fitbit", url: srv.URL,
		advance: func(ctx context.Context) error { _, err := sim.Deliver(ctx); return err },
		approve: func(wearer int) url.Values {
			return url.Values{"account": {accounts[wearer]}, "decision": {"allow"}}
		},
		truth: func(c *chart, patient string, wearer int) {
			byType := map[string][][]byte{}
			for _, r := range sim.Truth(accounts[wearer]) {
				if r.Type != "floors" { // cannot be listed; its totals are read
					byType[r.Type] = append(byType[r.Type], r.JSON)
				}
			}
			for typ, all := range byType {
				body := append([]byte(`{"dataPoints":[`), bytes.Join(all, []byte{','})...)
				c.deliver(ingest.Request{Patient: patient, Vendor: "fitbit", Format: "google-health:" + typ,
					Body: bytes.NewReader(append(body, `]}`...))})
			}
			for _, typ := range []string{"floors", "total-calories", "calories-in-heart-rate-zone"} {
				var all [][]byte
				for _, r := range sim.DayTotals(accounts[wearer], typ) {
					all = append(all, r.JSON)
				}
				body := append([]byte(`{"rollupDataPoints":[`), bytes.Join(all, []byte{','})...)
				c.deliver(ingest.Request{Patient: patient, Vendor: "fitbit", Format: "google-health:" + typ,
					Body: bytes.NewReader(append(body, `]}`...))})
			}
		}}, sim, v
}

// pushFaults are the faults of the phones.
var pushFaults = map[simulate.Fault]float64{simulate.Outage: 0.15, simulate.Drop: 0.1, simulate.Duplicate: 0.1,
	simulate.Reorder: 0.1}

// TestMonth lets wearers wear their devices while the clouds fail in every way, and
// then compares the store with what the clouds hold.
func TestMonth(t *testing.T) {
	all, err := simulate.Wearers(*seed, *wearers)
	if err != nil {
		t.Fatal(err)
	}
	clock := simulate.NewClock(nil, start, 1)
	faults := map[simulate.Fault]float64{simulate.Outage: 0.02, simulate.Drop: 0.01, simulate.RateLimit: 0.01,
		simulate.EmptyPage: 0.02, simulate.Lapse: 0.1, simulate.LostToken: 0.05,
		simulate.Expire: 0.05, simulate.Duplicate: 0.1, simulate.Reorder: 0.1, simulate.LostEvent: 0.1,
		simulate.Unexpected: 0.01}
	var injectors []*simulate.Injector
	var pushers *phones
	f := newFleet(t, clock, *wearers, func(f *fleet) ([]simulated, []cloud.Vendor) {
		ring, ouraSim, ouraVendor := openOura(t, clock, clock, all, plain)
		band, googleSim, googleVendor := openGoogle(t, clock, *wearers, plain)
		var handset simulated
		handset, pushers = openPhones(f, all)
		injectors = []*simulate.Injector{ouraSim.Faults(), googleSim.Faults()}
		return []simulated{ring, band, handset}, []cloud.Vendor{ouraVendor, googleVendor}
	})
	f.engine.Drain(context.Background()) // subscribes
	for i := range f.clouds[:2] {
		for wearer := range *wearers {
			f.link(&f.clouds[i], wearer)
		}
	}
	pushers.pair()
	for _, in := range injectors {
		in.SetRates(faults)
	}
	for _, in := range pushers.faults() {
		in.SetRates(pushFaults)
	}
	again := 0
	for range *days {
		f.pass(24*time.Hour, time.Hour)
		again += f.reconnect(*wearers)
	}
	for _, in := range injectors {
		in.SetRates(nil)
		t.Logf("faults: %v", in.Injected())
	}
	for _, in := range pushers.faults() {
		in.SetRates(nil)
	}
	again += f.reconnect(*wearers) // those that the clouds refused on the last day
	// A lapsed membership is tried again after a day, and late rows are read once a day.
	f.pass(60*time.Hour, time.Hour)
	f.settle()
	f.checkLinks()
	pushers.check(t)
	t.Logf("%d links had to be connected again", again)
	f.check(*wearers)
}

// TestRedelivery delivers events again, some of them byte for byte and others as new
// notifications about objects that have not changed. Nothing may be written.
func TestRedelivery(t *testing.T) {
	all, err := simulate.Wearers(*seed, *wearers)
	if err != nil {
		t.Fatal(err)
	}
	clock := simulate.NewClock(nil, start, 1)
	// The cloud's time ends when the events begin, so that nothing is measured meanwhile.
	var end time.Time
	cloudClock := simulate.NewClock(func() time.Time {
		if !end.IsZero() {
			return end
		}
		return clock.Now()
	}, start, 1)
	var sim *oura.Server
	f := newFleet(t, clock, *wearers, func(*fleet) ([]simulated, []cloud.Vendor) {
		one, s, v := openOura(t, cloudClock, clock, all, plain)
		sim = s
		return []simulated{one}, []cloud.Vendor{v}
	})
	f.engine.Drain(t.Context())
	for wearer := range *wearers {
		f.link(&f.clouds[0], wearer)
	}
	f.pass(3*24*time.Hour, time.Hour)
	f.settle()
	end = clock.Now()
	before := f.versions()
	random := rand.New(rand.NewPCG(*seed, 0))
	accounts := sim.Accounts()
	var truth [][]oura.Record
	for _, a := range accounts {
		truth = append(truth, sim.Truth(a))
	}
	var sent [][]byte
	distinct, turns := 0, 0
	heap := heapInUse()
	for n := range *events {
		clock.Add(eventEvery)
		body := repeated(sent, random)
		if body == nil {
			i := random.IntN(len(accounts))
			body = event(truth[i], accounts[i], n, random)
			if distinct++; len(sent) < maxSent {
				sent = append(sent, body)
			} else {
				sent[random.IntN(maxSent)] = body
			}
		}
		if got := f.notifyOura(body); got >= 300 {
			t.Fatalf("status %d, want success", got)
		}
		if n%100 == 99 {
			turns += f.engine.Drain(t.Context())
		}
	}
	turns += f.engine.Drain(t.Context())
	if after := f.versions(); !maps.Equal(before, after) {
		t.Errorf("redelivered events changed the store: %d Observations before, %d after", len(before), len(after))
	}
	t.Logf("%d events, %d of them distinct, led to %d turns and no change of %d Observations; "+
		"heap %d MB before, %d MB after", *events, distinct, turns, len(before), heap>>20, heapInUse()>>20)
}

// eventEvery is the time between two events of TestRedelivery. Without time, the budget of
// requests would end.
const eventEvery = 5 * time.Millisecond

// maxSent limits the events of TestRedelivery that are kept to be sent again.
const maxSent = 10_000

// heapInUse returns the bytes of the heap that are in use.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// repeated returns an event that was sent before, in half of the cases.
func repeated(sent [][]byte, random *rand.Rand) []byte {
	if len(sent) == 0 || random.IntN(2) == 0 {
		return nil
	}
	return sent[random.IntN(len(sent))]
}

// event returns a notification about one of the records that have an id.
func event(truth []oura.Record, account string, n int, random *rand.Rand) []byte {
	for {
		r := truth[random.IntN(len(truth))]
		if r.Type != "sleep" && r.Type != "daily_sleep" && r.Type != "daily_activity" && r.Type != "daily_readiness" {
			continue
		}
		b, err := json.Marshal(map[string]string{"event_type": "update", "data_type": r.Type, "object_id": r.ID,
			"event_time": start.Add(time.Duration(n) * time.Millisecond).Format(time.RFC3339Nano), "user_id": account})
		if err != nil {
			panic(err) // strings are always encoded
		}
		return b
	}
}

// notifyOura sends a signed notification and returns the status.
func (f *fleet) notifyOura(body []byte) int {
	f.t.Helper()
	var e struct {
		Type string `json:"data_type"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		f.t.Fatal(err)
	}
	at := fmt.Sprint(f.clock.Now().Unix())
	rq := httptest.NewRequest(http.MethodPost, "/hooks/oura/update/"+e.Type, bytes.NewReader(body))
	rq.Header.Set("x-oura-timestamp", at)
	rq.Header.Set("x-oura-signature", oura.Sign(ouraSecret, at, body))
	rec := httptest.NewRecorder()
	f.hooks.ServeHTTP(rec, rq)
	return rec.Code
}
