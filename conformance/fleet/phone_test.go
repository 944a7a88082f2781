package fleet

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"pulsegate/adapters/apple"
	"pulsegate/adapters/pushkey"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/phone"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/mapping/ingest"
)

// phones are simulated phones. Those of every other wearer push as Health Auto Export,
// and the rest as a companion app.
type phones struct {
	fleet *fleet
	all   []simulate.Wearer
	keys  *pushkey.Keys
	one   []*phone.Phone // by wearer; nil before pairing
}

// openPhones returns the phones of wearers as a vendor without a cloud. pair must be
// called before they push.
func openPhones(f *fleet, all []simulate.Wearer) (simulated, *phones) {
	p := &phones{fleet: f, all: all, one: make([]*phone.Phone, len(all))}
	return simulated{code: "apple", advance: p.advance, truth: p.truth, settle: p.opened}, p
}

// keysOnly refuses requests without a push key. It implements ingest.Authenticator.
type keysOnly struct{}

func (keysOnly) Authenticate(*http.Request) (*access.Principal, error) {
	return nil, fhir.Errorf(fhir.Unauthorized, "fleet", "a push key is needed")
}

// pair gives each phone a push key of its patient.
func (p *phones) pair() {
	f := p.fleet
	f.t.Helper()
	var err error
	p.keys, err = pushkey.New(pushkey.Options{Store: f.db, Audit: f.audit, Clock: f.clock.Now, Rand: rand.Reader,
		Secure: func(*http.Request) bool { return true }})
	if err != nil {
		f.t.Fatal(err)
	}
	(&ingest.Handler{Pipeline: f.pipeline, Auth: p.keys.Or(keysOnly{})}).Mount(f.hooks)
	for i, w := range p.all {
		_, text, err := p.keys.Create(f.t.Context(), pushkey.NewKey{Patient: patient("apple", i), Vendor: "apple"},
			audit.Event{Type: audit.Security, Interaction: "configuration", Caller: caller})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, s := range pushkey.SettingsFor(f.base, apple.New(), text) {
			if s.Format != string(format(i)) {
				continue
			}
			p.one[i], err = phone.New(phone.Options{Clock: f.clock, Wearer: w, Start: start.Add(-history), Seed: *seed,
				Format: format(i), URL: s.URL, Header: s.Header, Value: s.Value, Zstd: true})
			if err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

func format(wearer int) phone.Format {
	if wearer%2 == 0 {
		return phone.Companion
	}
	return phone.HealthAutoExport
}

// faults returns the injectors of the phones.
func (p *phones) faults() (all []*simulate.Injector) {
	for _, one := range p.one {
		all = append(all, one.Faults())
	}
	return all
}

func (p *phones) advance(ctx context.Context) error {
	for _, one := range p.one {
		if err := one.Advance(ctx); err != nil {
			return err
		}
	}
	return nil
}

// truth delivers what the phone of a wearer says that the server must hold.
func (p *phones) truth(c *chart, patient string, wearer int) {
	byType := map[string][]json.RawMessage{}
	var all []json.RawMessage
	for _, r := range p.one[wearer].Truth() {
		byType[r.Type] = append(byType[r.Type], r.JSON)
		all = append(all, r.JSON)
	}
	// A value of a day stays preliminary if nothing was pushed after the day.
	if format(wearer) == phone.HealthAutoExport {
		c.pipeline.Clock = p.one[wearer].Accepted
	}
	deliver := func(aggregation string, body any) {
		c.deliver(ingest.Request{Patient: patient, Vendor: "apple", Format: string(format(wearer)),
			Body: encoded(c.t, body), Delivery: func(name string) string {
				if name == "automation-aggregation" {
					return aggregation
				}
				return ""
			}})
	}
	if format(wearer) == phone.Companion {
		deliver("", companion(p.fleet.clock, all))
		return
	}
	for typ, rows := range byType {
		if typ == "workout" {
			deliver("None", map[string]any{"data": map[string]any{"workouts": rows}})
			continue
		}
		aggregation := "Days"
		if typ == "heart_rate" {
			aggregation = "Minutes"
		}
		deliver(aggregation, map[string]any{"data": map[string]any{"metrics": []any{
			map[string]any{"name": typ, "units": units[typ], "data": rows}}}})
	}
}

// units holds the units of the metrics that a phone pushes as Health Auto Export.
var units = map[string]string{"heart_rate": "count/min", "step_count": "count", "active_energy": "kcal",
	"resting_heart_rate": "count/min", "heart_rate_variability": "ms", "sleep_analysis": "hr"}

// companionBatch is a body of the companion app. The members that say what it is come
// first, so that the adapter need not hold the samples.
type companionBatch struct {
	Format       string            `json:"format"`
	Version      int               `json:"version"`
	Created      time.Time         `json:"created"`
	Installation string            `json:"installation"`
	Sequence     int               `json:"sequence"`
	Anchor       string            `json:"anchor"`
	Samples      []json.RawMessage `json:"samples"`
	Deleted      []string          `json:"deleted"`
}

// companion returns a batch of the companion app.
func companion(clock *simulate.Clock, samples []json.RawMessage) *companionBatch {
	if samples == nil {
		samples = []json.RawMessage{}
	}
	return &companionBatch{Format: "pulsegate-companion", Version: 1, Created: clock.Now(),
		Installation: "1A7D5F0C-3F0B-4C7C-9B5E-0D5A4E7C2B11", Sequence: 1, Anchor: "00",
		Samples: samples, Deleted: []string{}}
}

// opened delivers a batch without samples from each companion app, as when it is opened,
// so that nights that were preliminary become final.
func (p *phones) opened() {
	for i := range p.one {
		if format(i) == phone.Companion {
			p.fleet.deliver(ingest.Request{Patient: patient("apple", i), Vendor: "apple",
				Format: string(phone.Companion), Body: encoded(p.fleet.t, companion(p.fleet.clock, nil))})
		}
	}
}

// check reports phones whose faults did not occur or whose data have not arrived.
func (p *phones) check(t *testing.T) {
	t.Helper()
	injected := map[simulate.Fault]uint64{}
	for i, one := range p.one {
		for fault, n := range one.Sent().Injected {
			injected[fault] += n
		}
		if last := p.all[i].LastSync(p.fleet.clock.Now()); one.Acknowledged().Before(last) {
			t.Errorf("phone %d: everything until %v has arrived, want until %v", i, one.Acknowledged(), last)
		}
	}
	for _, fault := range []simulate.Fault{simulate.Outage, simulate.Drop, simulate.Duplicate, simulate.Reorder} {
		if injected[fault] == 0 {
			t.Errorf("the phones had no %s", fault)
		}
	}
	t.Logf("faults of phones: %v", fmt.Sprint(injected))
}
