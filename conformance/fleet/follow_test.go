package fleet

import (
	"encoding/json"
	"maps"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
	"pulsegate/mapping/ingest"
)

// TestDeletedSessions checks that a night and a workout that a wearer deletes are
// retracted when the notification has been handled, and not by the poll of a later day.
func TestDeletedSessions(t *testing.T) {
	for _, typ := range []string{"sleep", "exercise"} {
		t.Run(typ, func(t *testing.T) {
			wearer, at := deletion(t, typ)
			// By the deletion, notifications have arrived, so that polls are daily.
			clock := simulate.NewClock(nil, at.Add(-12*time.Hour), 1)
			var sim *googlehealth.Server
			f := newFleet(t, clock, wearer+1, func(*fleet) ([]simulated, []cloud.Vendor) {
				band, s, v := openGoogle(t, clock, wearer+1, plain)
				sim = s
				return []simulated{band}, []cloud.Vendor{v}
			})
			f.engine.Drain(t.Context())
			f.link(&f.clouds[0], wearer)
			f.engine.Drain(t.Context()) // reads the past
			p, account := patient("fitbit", wearer), sim.Accounts()[wearer]
			lost := 0
			for before := 0; !clock.Now().After(at.Add(scan)); {
				f.pass(time.Hour, time.Hour)
				records := sim.Truth(account, typ)
				fresh := newChart(t, clock.Now, []string{p})
				for _, r := range records {
					fresh.deliver(ingest.Request{Patient: p, Vendor: "fitbit", Format: "google-health:" + typ,
						Body: encoded(t, map[string]any{"dataPoints": []any{json.RawMessage(r.JSON)}})})
				}
				if len(records) < before {
					lost++
				}
				before = len(records)
				if got, want := f.content(p, typ), fresh.content(p, typ); !maps.Equal(got, want) || len(want) == 0 {
					t.Errorf("%v: the store holds %d, the cloud %d", clock.Now(), len(got), len(want))
				}
				fresh.close()
			}
			if lost == 0 {
				t.Error("nothing was deleted")
			}
		})
	}
}

// scan is the time between two looks of deletion.
const scan = 3 * time.Hour

// deletion returns a wearer, and a time before the wearer deletes an item of a type.
func deletion(t *testing.T, typ string) (wearer int, at time.Time) {
	t.Helper()
	const people = 8
	clock := simulate.NewClock(nil, start, 1)
	_, sim, _ := openGoogle(t, clock, people, plain)
	before := make([]int, people)
	for clock.Now().Before(start.AddDate(0, 1, 0)) {
		for i, account := range sim.Accounts() {
			n := len(sim.Truth(account, typ))
			if n < before[i] {
				return i, clock.Now().Add(-scan)
			}
			before[i] = n
		}
		clock.Add(scan)
	}
	t.Fatalf("nobody deletes %s", typ)
	return 0, at
}
