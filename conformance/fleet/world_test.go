package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/sync"
	"pulsegate/adapters/vendors"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/table"
)

// start is before the change to summer time in Europe and after that in America.
var start = time.Date(2026, 3, 20, 12, 0, 0, 0, time.UTC)

var caller = audit.Caller{Principal: &access.Principal{Operator: "test", Grant: access.All()}}

// chart is a store with a pipeline, as a server has them.
type chart struct {
	t        testing.TB
	db       *pebblestore.DB
	audit    *audit.Recorder
	pipeline *ingest.Pipeline
	closing  gosync.Once
	// withdrawn holds the patients without consent.
	withdrawn map[string]bool
}

func newChart(t testing.TB, clock func() time.Time, patients []string) *chart {
	t.Helper()
	c := &chart{t: t, withdrawn: map[string]bool{}}
	var err error
	c.db, err = pebblestore.Open(t.TempDir(), pebblestore.Options{Clock: clocktest.Distinct(clock), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	c.audit, err = audit.NewRecorder(audit.Options{Store: c.db, Clock: clock, Rand: rand.Reader,
		Observer: "https://example.org"})
	if err != nil {
		t.Fatal(err)
	}
	mapper, err := mapping.New(table.Builtin(), mapping.Options{Key: []byte("0123456789abcdef0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	c.pipeline = &ingest.Pipeline{Store: c.db, Audit: c.audit, Consents: c, Mapper: mapper, Adapters: vendors.All(),
		Clock: clock, SpoolDir: t.TempDir()}
	var b store.Batch
	for _, p := range patients {
		b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: "Patient", ID: p,
			JSON: []byte(fhir.Prefix("Patient", p) + `}}`)}})
	}
	if _, err := c.db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return c
}

// close closes the store, once.
func (c *chart) close() {
	c.closing.Do(func() {
		if err := c.db.Close(); err != nil {
			c.t.Error(err)
		}
	})
}

// Collects implements the consents of ingest and sync.
func (c *chart) Collects(_ context.Context, patient, _ string) (fhir.Ref, bool, error) {
	return fhir.Ref{Type: "Consent", ID: "c"}, !c.withdrawn[patient], nil
}

// CollectsCategory implements ingest.Consents.
func (c *chart) CollectsCategory(_ context.Context, patient, _ string, _ ...string) (bool, error) {
	return !c.withdrawn[patient], nil
}

// deliver ingests one payload.
func (c *chart) deliver(rq ingest.Request) {
	c.t.Helper()
	rq.Caller = caller
	if _, err := c.pipeline.Run(c.t.Context(), rq); err != nil {
		c.t.Fatal(err)
	}
}

// encoded returns the JSON of v.
func encoded(t testing.TB, v any) io.Reader {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

// content returns the valid Observations of a patient by id, in canonical form: without
// the facts of their versions, and with the same status for final and amended ones,
// because these tell only how often the vendor changed a value. Without codes, it returns
// those of all codes.
func (c *chart) content(patient string, codes ...string) map[string]string {
	c.t.Helper()
	params := [][2]string{{"patient", patient}}
	if len(codes) > 0 {
		params = append(params, [2]string{"code", strings.Join(codes, ",")})
	}
	q, err := search.Parse("Observation", params, search.ParseOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]string{}
	err = c.db.Find(c.t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if s, ok := canonical(c.t, f.Resource.JSON); ok {
				out[f.Resource.ID] = s
			}
			return true
		})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// versions returns the versions of all Observations by id.
func (c *chart) versions() map[string]uint64 {
	c.t.Helper()
	out := map[string]uint64{}
	err := c.db.Scan(c.t.Context(), store.ScanRange{Types: []string{"Observation"},
		Filter: access.All().Filter(access.Search)}, func(f *store.Found) bool {
		out[f.Resource.ID] = f.Resource.Version
		return true
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func canonical(t testing.TB, body []byte) (string, bool) {
	t.Helper()
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	switch m["status"] {
	case "entered-in-error":
		return "", false
	case "amended":
		m["status"] = "final"
	}
	if meta, ok := m["meta"].(map[string]any); ok {
		delete(meta, "versionId")
		delete(meta, "lastUpdated")
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), true
}

// difference shows where two canonical forms begin to differ.
func difference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-200)
	return fmt.Sprintf("got …%s, want …%s", got[from:min(len(got), i+200)], want[from:min(len(want), i+200)])
}

// fleet is an engine whose accounts are at simulated clouds.
type fleet struct {
	*chart
	clock  *simulate.Clock
	clouds []simulated
	links  *link.Links
	engine *sync.Engine
	hooks  *gin.Engine
	base   string // URL of the server
}

// simulated is a simulated cloud under test.
type simulated struct {
	code    string
	advance func(context.Context) error
	// approve returns the form that approves the request for a wearer on the consent
	// page.
	approve func(wearer int) url.Values
	// truth delivers everything that the cloud holds for a wearer to a chart.
	truth func(c *chart, patient string, wearer int)
	// settle, if not nil, delivers what arrives without time passing.
	settle func()
	url    string
}

func newFleet(t testing.TB, clock *simulate.Clock, wearers int,
	open func(f *fleet) ([]simulated, []cloud.Vendor)) *fleet {
	t.Helper()
	f := &fleet{clock: clock}
	clouds, vendors := open(f)
	var patients []string
	for _, c := range clouds {
		for i := range wearers {
			patients = append(patients, patient(c.code, i))
		}
	}
	f.clouds = clouds
	f.chart = newChart(t, clock.Now, patients)
	log := slog.New(slog.DiscardHandler)
	f.links = link.New(link.Options{Store: f.db, Audit: f.audit, Vault: vault{}, Vendors: vendors,
		HTTP: http.DefaultClient, Callback: "https://pg.example/callback", Clock: clock.Now, Logger: log,
		// Polls are spread by the ids of links, so that equal ids make runs repeatable.
		Rand: mathrand.NewChaCha8([32]byte{byte(*seed)}),
		API: func(_ cloud.Vendor, token string) *cloud.Client {
			return &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: clock.Now}
		}})
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	hooks := httptest.NewServer(router)
	t.Cleanup(hooks.Close)
	f.base = hooks.URL
	var err error
	f.engine, err = sync.New(t.Context(),
		sync.Options{Store: f.db, Links: f.links, Ingest: f.pipeline, Consents: f.chart,
			Clock: clock.Now, Hooks: hooks.URL + "/hooks", Backfill: 20 * 24 * time.Hour, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	f.engine.Mount(router)
	f.hooks = router
	return f
}

func patient(code string, wearer int) string { return fmt.Sprintf("%s-%d", code, wearer) }

// vault keeps secrets as they are; package link tests that they are sealed.
type vault struct{}

func (vault) Seal(purpose string, plain []byte) []byte {
	return []byte(purpose + "\n" + fhir.RandomID() + "\n" + string(plain))
}

func (vault) Open(purpose string, sealed []byte) ([]byte, error) {
	parts := strings.SplitN(string(sealed), "\n", 3)
	if len(parts) != 3 || parts[0] != purpose {
		return nil, errors.New("not sealed for this purpose")
	}
	return []byte(parts[2]), nil
}

// link links the account of a wearer.
func (f *fleet) link(c *simulated, wearer int) {
	f.t.Helper()
	if err := f.tryLink(c, wearer); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) tryLink(c *simulated, wearer int) error {
	return f.linkTo(c, patient(c.code, wearer), wearer)
}

// linkTo links the account of a wearer to a patient. It goes through the consent page as
// a browser does.
func (f *fleet) linkTo(c *simulated, patient string, wearer int) error {
	session := "session of " + patient
	to, err := f.links.Begin(f.t.Context(), patient, c.code, session)
	if err != nil {
		return err
	}
	u, err := url.Parse(to)
	if err != nil {
		return err
	}
	form := u.Query()
	for name, values := range c.approve(wearer) {
		form[name] = values
	}
	u.RawQuery = ""
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := client.PostForm(u.String(), form)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	back, err := url.Parse(r.Header.Get("Location"))
	if err != nil || r.StatusCode != http.StatusFound && r.StatusCode != http.StatusSeeOther {
		return fmt.Errorf("the consent page answers %d", r.StatusCode)
	}
	q := back.Query()
	_, err = f.links.Complete(f.t.Context(), caller, session, link.Answer{State: q.Get("state"), Code: q.Get("code"),
		Error: q.Get("error"), Scope: q.Get("scope")})
	return err
}

// pass lets simulated time pass in steps.
func (f *fleet) pass(d, step time.Duration) {
	f.t.Helper()
	for range int(d / step) {
		f.clock.Add(step)
		for i := range f.clouds {
			if err := f.clouds[i].advance(f.t.Context()); err != nil {
				f.t.Fatal(err)
			}
		}
		f.engine.Drain(f.t.Context())
	}
}

// reconnect links the accounts again whose grants have ended.
func (f *fleet) reconnect(wearers int) (n int) {
	f.t.Helper()
	for i := range f.clouds {
		c := &f.clouds[i]
		for wearer := range wearers {
			links, err := f.links.List(f.t.Context(), patient(c.code, wearer))
			if err != nil {
				f.t.Fatal(err)
			}
			for _, l := range links {
				// The cloud may refuse, too; the person tries again the next day.
				if l.Status == link.Reconnect && f.tryLink(c, wearer) == nil {
					n++
				}
			}
		}
	}
	return n
}

// checkLinks reports links that do not work.
func (f *fleet) checkLinks() {
	f.t.Helper()
	links, err := f.links.List(f.t.Context(), "")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, l := range links {
		if l.Status != link.Working {
			f.t.Errorf("the link of %s is %v (%s)", l.Patient, l.Status, l.Reason)
		}
	}
}

// settle reads all accounts once more, without letting time pass.
func (f *fleet) settle() {
	f.t.Helper()
	links, err := f.links.List(f.t.Context(), "")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, l := range links {
		if err := f.engine.Pull(l.ID); err != nil {
			f.t.Fatal(err)
		}
	}
	f.engine.Drain(f.t.Context())
	for i := range f.clouds {
		if settle := f.clouds[i].settle; settle != nil {
			settle()
		}
	}
}

// check compares the store with new ones that got the truth of the clouds once.
func (f *fleet) check(wearers int) {
	f.t.Helper()
	for i := range f.clouds {
		c := &f.clouds[i]
		all, wrong := 0, 0
		for wearer := range wearers {
			n, bad := f.compare(c, wearer)
			all, wrong = all+n, wrong+bad
		}
		if all == 0 {
			f.t.Errorf("%s holds nothing", c.code)
		}
		f.t.Logf("%s: %d Observations, %d wrong", c.code, all, wrong)
	}
}

// compare compares the Observations of one wearer with a new store. It returns how many
// there are, and how many are wrong.
func (f *fleet) compare(c *simulated, wearer int) (n, wrong int) {
	f.t.Helper()
	p := patient(c.code, wearer)
	fresh := newChart(f.t, f.clock.Now, []string{p})
	defer fresh.close()
	c.truth(fresh, p, wearer)
	want, got := fresh.content(p), f.content(p)
	report := func(format string, args ...any) {
		if wrong++; wrong <= 3 {
			f.t.Errorf(p+": "+format, args...)
		}
	}
	for id, w := range want {
		switch g, ok := got[id]; {
		case !ok:
			report("missing: %s", w)
		case g != w:
			report("differs: %s", difference(g, w))
		}
	}
	for id, g := range got {
		if _, ok := want[id]; !ok {
			report("not at the vendor: %s", g)
		}
	}
	return len(want), wrong
}
