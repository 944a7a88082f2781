package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
	"pulsegate/adapters/sync"
	"pulsegate/adapters/vendors"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/table"
	"pulsegate/smart/appconsent"
)

// home is a server with real consents: two patients, one account at each of two
// simulated clouds, and what a server puts together from packages.
type home struct {
	*fleet
	dir     string
	commit  func() time.Time // clock of the store
	vendors []cloud.Vendor
	ring    *oura.Server
	hooksTo http.Handler // current router
	hooks   string       // URL
	ids     *mathrand.ChaCha8
	zone    *time.Location // of the wearer

	consents    *consent.Engine
	withdrawals *appconsent.Withdrawals
	unwatch     func()

	// The following fields are also used by the handlers of the clouds.
	mu       gosync.Mutex
	requests map[string]int // for data, by vendor
	sample   map[string]*http.Request
	// request is called at each request for data, before the cloud answers.
	request func(vendor string)

	refused int // deliveries that ended because there was no consent
}

func newHome(t *testing.T) *home {
	t.Helper()
	all, err := simulate.Wearers(*seed, 1)
	if err != nil {
		t.Fatal(err)
	}
	h := &home{fleet: &fleet{clock: simulate.NewClock(nil, start, 1)}, dir: t.TempDir(), zone: all[0].Zone,
		ids: mathrand.NewChaCha8([32]byte{byte(*seed)}), requests: map[string]int{}, sample: map[string]*http.Request{}}
	h.commit = clocktest.Distinct(h.clock.Now)
	ring, sim, ringVendor := openOura(t, h.clock, h.clock, all, h.watching("oura", "/v2/usercollection/"))
	band, _, bandVendor := openGoogle(t, h.clock, 1, h.watching("fitbit", "/users/"))
	h.ring, h.clouds, h.vendors = sim, []simulated{ring, band}, []cloud.Vendor{ringVendor, bandVendor}
	hooks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.hooksTo.ServeHTTP(w, r)
	}))
	t.Cleanup(hooks.Close)
	h.hooks = hooks.URL + "/hooks"
	h.chart = &chart{t: t}
	h.open()
	t.Cleanup(h.close)
	var b store.Batch
	for _, p := range people {
		b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: "Patient", ID: p,
			JSON: []byte(fhir.Prefix("Patient", p) + `}}`)}})
	}
	if _, err := h.db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return h
}

// watching counts the requests for a patient's data, which are below a path.
func (h *home) watching(vendor, path string) filter {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, path) {
				h.mu.Lock()
				h.requests[vendor]++
				if r.Method == http.MethodGet {
					h.sample[vendor] = r.Clone(context.Background())
				}
				request := h.request
				h.mu.Unlock()
				if request != nil {
					request(vendor)
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// open opens the store and everything above it, as the start of a server does.
func (h *home) open() {
	t := h.t
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now, log := h.clock.Now, slog.New(slog.DiscardHandler)
	var err error
	h.db, err = pebblestore.Open(h.dir, pebblestore.Options{Clock: h.commit, NoSync: true})
	check(err)
	h.audit, err = audit.NewRecorder(audit.Options{Store: h.db, Clock: now, Rand: rand.Reader,
		Observer: "https://example.org"})
	check(err)
	h.consents, err = consent.New(consent.Options{Store: h.db, Clock: now})
	check(err)
	mapper, err := mapping.New(table.Builtin(), mapping.Options{Key: []byte("0123456789abcdef0123456789abcdef")})
	check(err)
	h.pipeline = &ingest.Pipeline{Store: h.db, Audit: h.audit, Consents: h.consents, Mapper: mapper,
		Adapters: vendors.All(), Clock: now, SpoolDir: t.TempDir()}
	h.withdrawals = &appconsent.Withdrawals{Store: h.db, Audit: h.audit, Consents: h.consents, Clock: now,
		NewID: fhir.RandomID, Vendors: []string{"oura", "fitbit"}}
	h.links = link.New(link.Options{Store: h.db, Audit: h.audit, Vault: vault{}, Vendors: h.vendors,
		HTTP: http.DefaultClient, Callback: "https://pg.example/callback", Clock: now, Logger: log, Rand: h.ids,
		API: func(_ cloud.Vendor, token string) *cloud.Client {
			return &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: now}
		},
		Erase: func(ctx context.Context, patient, vendor string, by audit.Caller) error {
			_, err := h.pipeline.Erase(ctx, ingest.Erasure{Patient: patient, Vendor: vendor, Caller: by})
			return err
		}})
	h.engine, err = sync.New(t.Context(), sync.Options{Store: h.db, Links: h.links, Ingest: refusals{h},
		Consents: h.consents, Clock: now, Hooks: h.hooks, Backfill: backfill, Logger: log})
	check(err)
	h.unwatch = h.db.Watch(func(c store.Commit) {
		for _, change := range c.Changes {
			if change.Ref.Type == "Consent" {
				h.engine.ConsentChanged(change.Facts.Patient)
			}
		}
	})
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	h.engine.Mount(router)
	h.fleet.hooks, h.hooksTo = router, router
}

func (h *home) close() {
	h.unwatch()
	h.consents.Close()
	if err := h.db.Close(); err != nil {
		h.t.Error(err)
	}
}

// refusals counts the deliveries that end because there is no consent.
type refusals struct{ h *home }

func (r refusals) Run(ctx context.Context, rq ingest.Request) (ingest.Summary, error) {
	return r.count(r.h.pipeline.Run(ctx, rq))
}

func (r refusals) Retract(ctx context.Context, rq ingest.Retraction) (ingest.Summary, error) {
	return r.count(r.h.pipeline.Retract(ctx, rq))
}

func (r refusals) count(s ingest.Summary, err error) (ingest.Summary, error) {
	if fhir.KindOf(err) == fhir.Forbidden {
		r.h.refused++
	}
	return s, err
}

// grant records a consent of a patient to the collection of a vendor's data, or of all
// data.
func (h *home) grant(patient, vendor string) {
	h.t.Helper()
	r, err := consent.Build(consent.Terms{ID: fhir.RandomID(), Patient: patient, Vendor: vendor, CollectOnly: true,
		Now: h.clock.Now()})
	if err == nil {
		_, err = h.db.Commit(h.t.Context(), &store.Batch{Writes: []store.Write{{Resource: r}}})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// endByStatus makes all Consents of a patient inactive, as a client does.
func (h *home) endByStatus(patient string) {
	h.t.Helper()
	var all []fhir.Resource
	err := h.db.Scan(h.t.Context(), store.ScanRange{Types: []string{"Consent"},
		Filter: access.All().Filter(access.Search)}, func(f *store.Found) bool {
		if f.Facts.Patient == patient && bytes.Contains(f.Resource.JSON, []byte(`"status":"active"`)) {
			r := f.Resource
			r.ID, r.JSON = strings.Clone(r.ID), bytes.Clone(r.JSON)
			all = append(all, r)
		}
		return true
	})
	for _, r := range all {
		if err == nil {
			r, err = consent.Withdraw(r)
		}
		if err == nil {
			_, err = h.db.Commit(h.t.Context(), &store.Batch{Writes: []store.Write{{Resource: fhir.Resource{
				Type: "Consent", ID: r.ID, JSON: r.JSON}}}})
		}
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// audited returns the number of AuditEvents that contain all of the texts.
func (h *home) audited(texts ...string) (n int) {
	h.t.Helper()
	err := h.db.Scan(h.t.Context(), store.ScanRange{Types: []string{"AuditEvent"},
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		for _, text := range texts {
			if !bytes.Contains(f.Resource.JSON, []byte(text)) {
				return true
			}
		}
		n++
		return true
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// observation is a valid stored Observation.
type observation struct {
	version uint64
	body    string
}

// observations returns the valid Observations in a chart by patient and vendor, and id.
func observations(c *chart) map[string]map[string]observation {
	c.t.Helper()
	out := map[string]map[string]observation{}
	err := c.db.Scan(c.t.Context(), store.ScanRange{Types: []string{"Observation"},
		Filter: access.All().Filter(access.Search)}, func(f *store.Found) bool {
		key := f.Facts.Patient + "/" + f.Facts.Vendor
		if bytes.Contains(f.Resource.JSON, []byte(`"status":"entered-in-error"`)) {
			return true
		}
		if out[key] == nil {
			out[strings.Clone(key)] = map[string]observation{}
		}
		out[key][strings.Clone(f.Resource.ID)] = observation{f.Resource.Version, string(f.Resource.JSON)}
		return true
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// content returns the canonical form of o.
func (o *observation) content(t testing.TB) string {
	t.Helper()
	s, _ := canonical(t, []byte(o.body)) // o is valid
	return s
}

// span is the effective time of an Observation.
type span struct {
	from, to time.Time
	day      bool
}

// time returns the effective time of o.
func (o *observation) time(t testing.TB) (s span) {
	t.Helper()
	var r struct {
		EffectiveDateTime string
		EffectivePeriod   struct{ Start, End string }
	}
	err := json.Unmarshal([]byte(o.body), &r)
	parse := func(text string) (at time.Time) {
		if err == nil {
			at, err = time.Parse(time.RFC3339, text)
		}
		return at
	}
	switch {
	case len(r.EffectiveDateTime) == len(time.DateOnly):
		s.day = true
		s.from, err = time.Parse(time.DateOnly, r.EffectiveDateTime)
	case r.EffectiveDateTime != "":
		s.from = parse(r.EffectiveDateTime)
		s.to = s.from
	default:
		s.from, s.to = parse(r.EffectivePeriod.Start), parse(r.EffectivePeriod.End)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// before reports whether s lies wholly before a time. A day ends at midnight of the
// wearer's zone.
func (s span) before(at time.Time, zone *time.Location) bool {
	if s.day {
		return !time.Date(s.from.Year(), s.from.Month(), s.from.Day()+1, 0, 0, 0, 0, zone).After(at)
	}
	return s.to.Before(at) || s.from.Before(s.to) && s.to.Equal(at)
}

// after reports whether s begins at a time or later. A day does if it does in every
// zone.
func (s span) after(at time.Time) bool {
	if s.day {
		return s.from.Add(-14 * time.Hour).After(at)
	}
	return !s.from.Before(at)
}
