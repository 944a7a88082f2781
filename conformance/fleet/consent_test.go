package fleet

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/rapidtest"
)

// TestMain sets the default to few cases, which flags override, and collects garbage less
// often: the tests allocate much and keep little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	rapidtest.Main(m, 2, 1)
}

// people are the patients of a home.
var people = []string{"ann", "bob"}

// backfill is the time before the linking for which data are read.
const backfill = 24 * time.Hour

// step is one thing that happens. Each kind uses some of the members.
type step struct {
	Kind    string
	Patient int
	Vendor  int           // index; -1 for all
	Time    time.Duration // that passes
	Flag    bool
	N       int
}

var steps = rapid.Custom(func(t *rapid.T) step {
	return step{
		Kind: rapid.SampledFrom([]string{"pass", "pass", "pass", "withdraw", "withdraw", "grant", "grant", "link", "link",
			"unlink", "unlink", "interrupt", "interrupt", "notify", "restart"}).Draw(t, "kind"),
		Patient: min(rapid.IntRange(0, 3).Draw(t, "patient")/3, 1), // mostly ann
		Vendor:  rapid.IntRange(-1, 1).Draw(t, "vendor"),
		Time:    15 * time.Minute * time.Duration(rapid.IntRange(1, 32).Draw(t, "quarters")),
		Flag:    rapid.Bool().Draw(t, "flag"),
		N:       rapid.IntRange(0, 40).Draw(t, "n"),
	}
})

// TestConsentAndLinks draws what happens to consents and links while data flow, and
// checks after each step that everything is where the rules say:
//
//   - Without consent or without a link, no request for data reaches the cloud, and the
//     Observations stay as they are, even if the consent ends in the middle of a
//     delivery, and whatever the cloud notifies.
//   - When consent returns at a time T, reading begins anew at T. Observations that lie
//     wholly before T are those that were stored when the consent ended, with the same
//     content, and no others, also if the account was unlinked in between. One is
//     missing only if the vendor has deleted it. An Observation whose time begins before
//     T and ends after it may be there or not.
//   - The value of a day belongs to the wearer's calendar day, which ends at the
//     wearer's midnight. The day of T itself, and the day after in zones west of the one
//     in which days begin first, thus touch the time after T and may be there or not,
//     with what the vendor says of the whole day.
//   - The first consent covers the past, which is backfill before the linking, unless
//     the account was linked before it. Then the consent is the beginning, too.
//   - Everything that begins after the beginning equals what the cloud holds once the
//     account was read: at the end, and in some cases before the consent ends.
//   - Unlinking deletes tokens and revokes the grant, and the Observations if asked to.
//   - An account of one patient cannot be linked to another.
//   - Linking, unlinking, withdrawing and each refused delivery leave an AuditEvent.
func TestConsentAndLinks(t *testing.T) {
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		plan := rapid.SliceOfN(steps, 6, 16).Draw(r, "steps")
		n++
		// A subtest closes what the case has opened.
		if !t.Run(fmt.Sprint(n), func(t *testing.T) { runPlan(t, plan) }) {
			r.Fatal("the case fails")
		}
	})
}

// TestLinkedAgainAfterWithdrawal checks the same where few random cases go: both
// accounts are linked again after a time without consent, one of them after its data
// were erased.
func TestLinkedAgainAfterWithdrawal(t *testing.T) {
	runPlan(t, []step{
		{Kind: "pass", Time: 5 * time.Hour},
		{Kind: "withdraw", Vendor: -1, N: 1},
		{Kind: "unlink", Vendor: 0},
		{Kind: "unlink", Vendor: 1, Flag: true},
		{Kind: "pass", Time: 8 * time.Hour},
		{Kind: "grant", Vendor: -1},
		{Kind: "link", Vendor: 0, Flag: true},
		{Kind: "link", Vendor: 1, Flag: true},
	})
}

// flow is the model of the data of one patient and vendor.
type flow struct {
	patient string
	vendor  int

	given, ever bool
	since       time.Time // of the latest consent that followed a time without one
	// stored holds the Observations at the latest end of the consent, or is nil.
	stored map[string]observation

	link  string // id, or ""
	whole bool   // all scopes were granted
	begun time.Time
	// idle holds the Observations at the unlinking of the account, until it is linked.
	idle map[string]observation
}

// model is a home and what must be in it.
type model struct {
	*home
	flows map[string]*flow // by patient and vendor

	// Guarded by home.mu.
	allowed  [2]bool // requests for data, by vendor
	stray    int     // requests that were not allowed
	atNumber int     // of the request at which the consent ends; 0 for none

	linked, unlinked, withdrawn int // AuditEvents
}

func runPlan(t *testing.T, plan []step) {
	m := &model{home: newHome(t), flows: map[string]*flow{}}
	for _, p := range people {
		for v := range m.clouds {
			m.flows[m.key(p, v)] = &flow{patient: p, vendor: v}
		}
	}
	m.request = m.requested
	m.engine.Drain(t.Context())
	m.give("ann", -1)
	m.connect("ann", 0, true)
	m.connect("ann", 1, true)
	for i, s := range plan {
		m.do(&s)
		m.verify(fmt.Sprintf("step %d, %+v", i, s))
		if t.Failed() {
			return
		}
	}
	for v := range m.clouds {
		if f := m.flows[m.key("bob", v)]; f.link != "" {
			m.disconnect(f, false)
		}
		m.connect("ann", v, true)
	}
	m.give("ann", -1)
	m.engine.Drain(t.Context())
	m.pass(44*time.Hour, 11*time.Hour)
	m.verify("the end")
	for v := range m.clouds {
		m.complete(m.flows[m.key("ann", v)])
	}
	m.checkAudit()
	t.Logf("%d withdrawals, %d links, %d unlinked, %d refused deliveries", m.withdrawn, m.linked, m.unlinked, m.refused)
}

func (m *model) key(patient string, vendor int) string { return patient + "/" + m.clouds[vendor].code }

// selected returns the flows of a patient and a vendor, or all vendors.
func (m *model) selected(patient string, vendor int) (out []*flow) {
	for v := range m.clouds {
		if vendor == v || vendor < 0 {
			out = append(out, m.flows[m.key(patient, v)])
		}
	}
	return out
}

// requested is called by the handlers of the clouds.
func (m *model) requested(vendor string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for v := range m.clouds {
		if m.clouds[v].code != vendor {
			continue
		}
		if !m.allowed[v] {
			m.stray++
		}
		if m.atNumber > 0 {
			if m.atNumber--; m.atNumber == 0 {
				m.interrupt(v)
			}
		}
	}
}

// interrupt withdraws the consent of the patient whose account is being read, while the
// cloud answers. The caller holds the mutex.
func (m *model) interrupt(vendor int) {
	for _, p := range people {
		f := m.flows[m.key(p, vendor)]
		if f.link == "" || !f.given {
			continue
		}
		if _, err := m.withdrawals.Withdraw(m.t.Context(), caller, p, m.clouds[vendor].code); err != nil {
			m.t.Error(err)
		}
		m.withdrawn++
		f.given, m.allowed[vendor] = false, false
	}
}

// allow tells the handlers which requests may come.
func (m *model) allow() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.allowed = [2]bool{}
	for _, f := range m.flows {
		m.allowed[f.vendor] = m.allowed[f.vendor] || f.given && f.link != ""
	}
}

func (m *model) do(s *step) {
	p, one := people[s.Patient], max(s.Vendor, 0)
	f := m.flows[m.key(p, one)]
	switch s.Kind {
	case "pass":
		m.pass(s.Time, s.Time)
	case "withdraw":
		if s.N%3 == 0 {
			m.complete(f)
		}
		m.withdraw(p, s.Vendor, s.Flag)
		if s.N%2 == 0 {
			m.restart() // before anything has followed the change
		}
		m.engine.Drain(m.t.Context())
	case "grant":
		m.give(p, s.Vendor)
		m.engine.Drain(m.t.Context())
	case "link":
		m.connect(p, one, s.Flag)
	case "unlink":
		if f.link != "" {
			m.disconnect(f, s.Flag)
		}
	case "interrupt":
		m.mu.Lock()
		m.atNumber = s.N + 1
		m.mu.Unlock()
		before := map[*flow]bool{}
		for _, f := range m.flows {
			before[f] = f.given
		}
		m.pass(s.Time, s.Time)
		m.settle()
		m.mu.Lock()
		m.atNumber = 0
		m.mu.Unlock()
		for f, given := range before {
			if given && !f.given {
				f.stored = m.of(f)
			}
		}
	case "notify":
		truth := m.ring.Truth(m.ring.Accounts()[0])
		body := event(truth, m.ring.Accounts()[0], s.N, rand.New(rand.NewPCG(uint64(s.N), 1)))
		if got := m.notifyOura(body); got >= 300 {
			m.t.Errorf("notification: status %d", got)
		}
		m.engine.Drain(m.t.Context())
	case "restart":
		m.restart()
	}
}

func (m *model) restart() {
	m.close()
	m.open()
}

// of returns the Observations of a flow.
func (m *model) of(f *flow) map[string]observation {
	return observations(m.chart)[m.key(f.patient, f.vendor)]
}

// withdraw ends the consent of a patient for a vendor or, with a negative vendor or by
// status, for all.
func (m *model) withdraw(patient string, vendor int, byStatus bool) {
	any := false
	if byStatus {
		vendor = -1
	}
	for _, f := range m.selected(patient, vendor) {
		any = any || f.given
	}
	code := ""
	if vendor >= 0 {
		code = m.clouds[vendor].code
	}
	switch {
	case byStatus:
		m.endByStatus(patient)
	default:
		_, err := m.withdrawals.Withdraw(m.t.Context(), caller, patient, code)
		if any && err != nil || !any && fhir.KindOf(err) != fhir.NotFound {
			m.t.Errorf("withdrawal: %v", err)
		}
		if err == nil {
			m.withdrawn++
		}
	}
	for _, f := range m.selected(patient, vendor) {
		if f.given {
			f.given, f.stored = false, m.of(f)
		}
	}
	m.allow()
}

// give records a consent for a vendor or all.
func (m *model) give(patient string, vendor int) {
	code := ""
	if vendor >= 0 {
		code = m.clouds[vendor].code
	}
	m.grant(patient, code)
	for _, f := range m.selected(patient, vendor) {
		if f.given {
			continue
		}
		now := m.clock.Now()
		if f.ever {
			f.since = now
		}
		if f.given, f.ever = true, true; f.link != "" {
			f.begun = now
		}
	}
	m.allow()
}

// connect links the account of a cloud to a patient.
func (m *model) connect(patient string, vendor int, whole bool) {
	c := m.clouds[vendor]
	approve := c.approve
	if !whole {
		c.approve = func(wearer int) url.Values {
			form := approve(wearer)
			if c.code == "oura" {
				form["granted"] = []string{"extapi:personal", "extapi:daily", "extapi:heartrate"}
			} else {
				form.Set("granular", "1")
				form["grant"] = []string{
					"https://www.googleapis.com/auth/googlehealth.health_metrics_and_measurements.readonly",
					"https://www.googleapis.com/auth/googlehealth.sleep.readonly"}
			}
			return form
		}
	}
	f, taken := m.flows[m.key(patient, vendor)], false
	for _, p := range people {
		taken = taken || p != patient && m.flows[m.key(p, vendor)].link != ""
	}
	m.mu.Lock()
	m.allowed[vendor] = true // the ids of the account are read
	m.mu.Unlock()
	err := m.linkTo(&c, patient, 0)
	switch {
	case taken && fhir.KindOf(err) != fhir.Unprocessable:
		m.t.Errorf("linking the account of another patient: %v", err)
	case !taken && err != nil:
		m.t.Errorf("linking: %v", err)
	case !taken:
		m.linked++
		now := m.clock.Now()
		if f.link == "" {
			links, err := m.links.List(m.t.Context(), patient)
			if err != nil {
				m.t.Fatal(err)
			}
			for _, l := range links {
				if l.Vendor == c.code {
					f.link = l.ID
				}
			}
			if f.begun = now.Add(-backfill); f.begun.Before(f.since) {
				f.begun = f.since
			}
		}
		f.whole, f.idle = whole, nil
	}
	m.allow()
	m.engine.Drain(m.t.Context())
}

// disconnect unlinks an account.
func (m *model) disconnect(f *flow, erase bool) {
	ctx := m.t.Context()
	code := m.clouds[f.vendor].code
	token, err := m.links.Token(ctx, f.link, "")
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.links.Unlink(ctx, caller, f.link, erase); err != nil {
		m.t.Fatal(err)
	}
	m.unlinked++
	for _, prefix := range []string{"link/token/", "link/record/", "link/ended/"} {
		if b, err := m.db.Get(ctx, prefix+f.link); err != nil || b != nil {
			m.t.Errorf("%s remains after unlinking: %v", prefix, err)
		}
	}
	m.mu.Lock()
	m.allowed[f.vendor] = true
	rq := m.sample[code].Clone(ctx)
	m.mu.Unlock()
	if got := m.replay(rq, f.vendor, token); got != http.StatusUnauthorized {
		m.t.Errorf("%s answers %d to a token of an unlinked account, want 401", code, got)
	}
	f.link = ""
	f.idle = m.of(f)
	if erase {
		if len(f.idle) > 0 {
			m.t.Errorf("%d Observations of %s remain after erasing", len(f.idle), m.key(f.patient, f.vendor))
		}
		if f.stored != nil {
			f.stored = map[string]observation{}
		}
	}
	m.allow()
}

// replay sends a request again with another token, and returns the status.
func (m *model) replay(rq *http.Request, vendor int, token string) int {
	out, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.clouds[vendor].url+rq.URL.RequestURI(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	out.Header.Set("Authorization", "Bearer "+token)
	r, err := http.DefaultClient.Do(out)
	if err != nil {
		m.t.Fatal(err)
	}
	_ = r.Body.Close() // the status is enough
	return r.StatusCode
}

// verify checks what must be true at any time.
func (m *model) verify(when string) {
	m.t.Helper()
	m.mu.Lock()
	if m.stray > 0 {
		m.t.Errorf("%s: %d requests for data without consent or link", when, m.stray)
	}
	m.mu.Unlock()
	all := observations(m.chart)
	for key, f := range m.flows {
		_, ok, err := m.consents.Collects(m.t.Context(), f.patient, m.clouds[f.vendor].code)
		if err != nil || ok != f.given {
			m.t.Errorf("%s: %s: consent %t, %v, want %t", when, key, ok, err, f.given)
		}
		now := all[key]
		switch {
		case !f.ever:
			m.same(when+": without any consent, "+key, now, nil)
		case !f.given:
			m.same(when+": without consent, "+key, now, f.stored)
		case f.link == "" && f.idle != nil:
			m.same(when+": without a link, "+key, now, f.idle)
		}
		if f.given && f.stored != nil {
			m.past(when+": "+key, f, now)
		}
	}
}

// same checks that the Observations are the expected ones.
func (m *model) same(when string, got, want map[string]observation) {
	m.t.Helper()
	for id, o := range got {
		if o.version != want[id].version {
			m.t.Errorf("%s was written: %s", when, o.body)
			return
		}
	}
	if len(got) != len(want) {
		m.t.Errorf("%s lost Observations: %d of %d are left", when, len(got), len(want))
	}
}

// past checks that what lies before the latest consent is as it was when the previous
// one ended.
func (m *model) past(when string, f *flow, now map[string]observation) {
	m.t.Helper()
	for id, o := range now {
		if old, ok := f.stored[id]; o.version != old.version && o.time(m.t).before(f.since, m.zone) {
			m.t.Errorf("%s: from before the consent of %s (stored before: %t): %s", when,
				f.since.Format(time.RFC3339), ok, o.body)
			return
		}
	}
	var truth map[string]observation
	for id, o := range f.stored {
		if _, ok := now[id]; ok || !o.time(m.t).before(f.since, m.zone) {
			continue
		}
		if truth == nil {
			truth = m.truth(f)
		}
		if _, ok := truth[id]; ok {
			m.t.Errorf("%s: lost: %s", when, o.body)
			return
		}
	}
}

// truth returns what the store holds of the cloud if it gets everything.
func (m *model) truth(f *flow) map[string]observation {
	fresh := newChart(m.t, m.clock.Now, people)
	m.clouds[f.vendor].truth(fresh, f.patient, 0)
	return observations(fresh)[m.key(f.patient, f.vendor)]
}

// complete reads an account and checks that everything from the beginning on is there.
func (m *model) complete(f *flow) {
	m.t.Helper()
	if f.link == "" || !f.given || !f.whole {
		return
	}
	m.settle()
	m.pass(15*time.Minute, 15*time.Minute)
	m.settle() // an empty answer is believed when it is repeated
	got, want := m.of(f), m.truth(f)
	key, n := m.key(f.patient, f.vendor), 0
	wrong := func(what, text string) {
		m.t.Errorf("%s, begun %s: %s: %s", key, f.begun.Format(time.RFC3339), what, text)
	}
	for id, w := range want {
		if !w.time(m.t).after(f.begun) {
			continue
		}
		n++
		g, ok := got[id]
		if !ok {
			wrong("missing", w.body)
			return
		}
		if g, w := g.content(m.t), w.content(m.t); g != w {
			wrong("differs", difference(g, w))
			return
		}
	}
	for id, g := range got {
		if _, ok := want[id]; !ok && g.time(m.t).after(f.begun) {
			wrong("not at the vendor", g.body)
			return
		}
	}
	m.t.Logf("%s: %d Observations from %s on", key, n, f.begun.Format(time.RFC3339))
}

func (m *model) checkAudit() {
	m.t.Helper()
	for _, c := range []struct {
		name      string
		got, want int
	}{
		{"links", m.audited(`"link-account"`), m.linked},
		{"unlinked accounts", m.audited(`"unlink-account"`), m.unlinked},
		{"refused deliveries", m.audited(`"110107"`, `"outcome":"8"`), m.refused},
		{"withdrawals", m.audited(`"code":"create"`, `"Consent/`), m.withdrawn},
	} {
		if c.got != c.want {
			m.t.Errorf("AuditEvents of %s: %d, want %d", c.name, c.got, c.want)
		}
	}
}
