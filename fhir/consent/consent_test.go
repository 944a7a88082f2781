package consent_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// memStore implements the contract of store.Watch and of snapshots: a commit is
// visible, and its watchers have run, before the write returns.
type memStore struct {
	commit  sync.Mutex
	mu      sync.RWMutex
	seq     store.Seq
	docs    map[string][]version // by id, oldest first
	watch   func(store.Commit)
	next    string // author of the next put
	finds   atomic.Int64
	reads   atomic.Int64
	between func() // called by Find between taking the snapshot and returning results
	fail    error
}

type version struct {
	seq     store.Seq
	patient string
	author  string
	res     fhir.Resource
}

func (s *memStore) LastSeq() store.Seq {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.seq
}

func (s *memStore) Watch(fn func(store.Commit)) func() {
	s.watch = fn
	return func() {}
}

func (s *memStore) put(patient string, r fhir.Resource) {
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.Lock()
	s.seq++
	seq := s.seq
	s.docs[r.ID] = append(s.docs[r.ID], version{seq: seq, patient: patient, author: s.next, res: r})
	s.mu.Unlock()
	s.watch(store.Commit{Seq: seq, Changes: []store.Change{{Seq: seq, Ref: r.Ref(),
		Facts: access.Facts{Type: r.Type, ID: r.ID, Patient: patient}}}})
}

func (s *memStore) Read(_ context.Context, ref fhir.Ref, _ store.Seq) (fhir.Resource, *access.Facts, error) {
	s.reads.Add(1)
	s.mu.RLock()
	defer s.mu.RUnlock()
	vs := s.docs[ref.ID]
	if len(vs) == 0 {
		return fhir.Resource{}, nil, fhir.Errorf(fhir.NotFound, "memStore.Read", "not found")
	}
	v := vs[len(vs)-1]
	return v.res, &access.Facts{Type: "Consent", ID: ref.ID, Patient: v.patient, Author: v.author}, s.fail
}

func (s *memStore) Find(_ context.Context, f store.Find, fn func(*store.Found) bool) error {
	s.finds.Add(1)
	s.mu.RLock()
	var out []version
	for _, vs := range s.docs {
		for i := len(vs) - 1; i >= 0; i-- {
			if vs[i].seq <= f.At {
				if vs[i].patient == f.Query.Patient {
					out = append(out, vs[i])
				}
				break
			}
		}
	}
	s.mu.RUnlock()
	if s.between != nil {
		s.between()
	}
	for _, r := range out {
		if !fn(&store.Found{Resource: r.res,
			Facts: &access.Facts{Type: "Consent", ID: r.res.ID, Patient: r.patient, Author: r.author}}) {
			break
		}
	}
	return s.fail
}

func newEngine(t interface{ Fatal(...any) }, s *memStore) *consent.Engine {
	e, err := consent.New(consent.Options{Store: s, Clock: func() time.Time { return now }, Patients: 4})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func newMemStore() *memStore { return &memStore{docs: map[string][]version{}} }

func grant(t interface{ Fatal(...any) }, terms consent.Terms) fhir.Resource {
	if terms.ID == "" {
		terms.ID = "c1"
	}
	terms.Patient, terms.Now = "p1", now
	r, err := consent.Build(terms)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func obs(vendor, author string, categories ...string) *access.Facts {
	return &access.Facts{Type: "Observation", ID: "o", Patient: "p1", Vendor: vendor, Author: author,
		Categories: categories}
}

func TestPermits(t *testing.T) {
	device := &access.Facts{Type: "Device", ID: "d", Patient: "p1", Vendor: "apple"}
	for _, c := range []struct {
		name  string
		terms consent.Terms
		who   string
		what  *access.Facts
		want  bool
	}{
		{"vendor, any recipient", consent.Terms{Vendor: "apple"}, "ehr", obs("apple", "", "vital-signs"), true},
		{"other vendor", consent.Terms{Vendor: "apple"}, "ehr", obs("oura", "", "vital-signs"), false},
		{"all vendors", consent.Terms{}, "ehr", obs("oura", "", "vital-signs"), true},
		{"named recipient", consent.Terms{Recipient: "ehr"}, "ehr", obs("apple", ""), true},
		{"other recipient", consent.Terms{Recipient: "ehr"}, "lab", obs("apple", ""), false},
		{"no recipient", consent.Terms{Recipient: "ehr"}, "", obs("apple", ""), false},
		{"category", consent.Terms{Categories: []string{"activity", "sleep"}}, "ehr", obs("apple", "", "sleep"), true},
		{"other category", consent.Terms{Categories: []string{"vital-signs"}}, "ehr", obs("apple", "", "sleep"), false},
		{"one of two categories", consent.Terms{Categories: []string{"activity"}}, "ehr",
			obs("apple", "", "activity", "vital-signs"), false},
		{"sleep under activity", consent.Terms{Categories: []string{"activity"}}, "ehr",
			obs("apple", "", "activity", "sleep"), true},
		{"sleep without activity under activity", consent.Terms{Categories: []string{"activity"}}, "ehr",
			obs("apple", "", "sleep"), true},
		{"sleep under sleep", consent.Terms{Categories: []string{"sleep"}}, "ehr",
			obs("apple", "", "activity", "sleep"), true},
		{"activity under sleep", consent.Terms{Categories: []string{"sleep"}}, "ehr", obs("apple", "", "activity"),
			false},
		{"sleep and a vital sign under sleep", consent.Terms{Categories: []string{"sleep"}}, "ehr",
			obs("apple", "", "activity", "sleep", "vital-signs"), false},
		{"no category", consent.Terms{Categories: []string{"activity"}}, "ehr", obs("apple", ""), false},
		{"device has no category", consent.Terms{Vendor: "apple", Categories: []string{"activity"}}, "ehr", device,
			true},
		{"device of another vendor", consent.Terms{Vendor: "oura"}, "ehr", device, false},
		{"not yet", consent.Terms{From: now.Add(time.Hour)}, "ehr", obs("apple", ""), false},
		{"no longer", consent.Terms{Until: now.Add(-time.Hour)}, "ehr", obs("apple", ""), false},
		{"in its period", consent.Terms{From: now.Add(-time.Hour), Until: now.Add(time.Hour)}, "ehr",
			obs("apple", ""), true},
		{"written by a client", consent.Terms{Vendor: "apple"}, "ehr", obs("", "lab", "vital-signs"), true},
		{"written by a client, category", consent.Terms{Categories: []string{"activity"}}, "ehr",
			obs("", "lab", "vital-signs"), false},
		{"read back", consent.Terms{Recipient: "ehr"}, "lab", obs("", "lab"), true},
		{"not another's", consent.Terms{Recipient: "ehr"}, "lab", obs("", "other"), false},
		{"other patient", consent.Terms{}, "ehr",
			&access.Facts{Type: "Observation", Patient: "p2", Vendor: "apple"}, false},
		{"no patient", consent.Terms{}, "ehr", &access.Facts{Type: "Device", Vendor: "apple"}, false},
		{"no facts", consent.Terms{}, "ehr", nil, false},
	} {
		s := newMemStore()
		e := newEngine(t, s)
		s.put("p1", grant(t, c.terms))
		if got := e.Permits(c.who, c.what); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestWithdrawnAndAuthor(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	mine := obs("", "lab", "vital-signs")
	if !e.Permits("lab", mine) {
		t.Error("without a Consent, the author is denied")
	}
	if e.Permits("ehr", mine) || e.Permits("lab", obs("apple", "lab")) {
		t.Error("without a Consent, another client or vendor data is permitted")
	}
	r := grant(t, consent.Terms{Vendor: "apple"})
	s.put("p1", r)
	w, err := consent.Withdraw(r)
	if err != nil {
		t.Fatal(err)
	}
	s.put("p1", w)
	if e.Permits("lab", mine) || e.Permits("ehr", obs("apple", "")) {
		t.Error("permitted after the withdrawal")
	}
	s.put("p1", grant(t, consent.Terms{ID: "c2", Recipient: "lab"}))
	if !e.Permits("lab", mine) {
		t.Error("denied under a newer Consent")
	}
	// A Consent that moves to another patient no longer applies to the first.
	s.put("p9", grant(t, consent.Terms{ID: "c2", Recipient: "lab"}))
	if e.Permits("lab", mine) {
		t.Error("permitted by a Consent of another patient")
	}
	s.fail = fhir.Errorf(fhir.Unavailable, "memStore", "down")
	s.put("p1", grant(t, consent.Terms{ID: "c3"}))
	if e.Permits("ehr", obs("apple", "")) {
		t.Error("permitted although the Consents cannot be read")
	}
}

func TestCollects(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	ctx := t.Context()
	if _, ok, err := e.Collects(ctx, "p1", "apple"); ok || err != nil {
		t.Fatal(ok, err)
	}
	s.put("p1", grant(t, consent.Terms{Vendor: "apple", Recipient: "ehr", Categories: []string{"activity"}}))
	s.put("p1", grant(t, consent.Terms{ID: "c2", Vendor: "apple", Categories: []string{"sleep"}}))
	if ref, ok, err := e.Collects(ctx, "p1", "apple"); !ok || err != nil || ref.Type != "Consent" {
		t.Error(ref, ok, err)
	}
	for _, v := range []string{"oura", ""} {
		if _, ok, err := e.Collects(ctx, "p1", v); ok || err != nil {
			t.Error(v, ok, err)
		}
	}
	for c, want := range map[string]bool{"activity": true, "sleep": true, "vital-signs": false} {
		if ok, err := e.CollectsCategory(ctx, "p1", "apple", c); ok != want || err != nil {
			t.Error(c, ok, err)
		}
	}
	if ok, err := e.CollectsCategory(ctx, "p1", "apple"); ok || err != nil {
		t.Error("without a category:", ok, err)
	}
	if _, ok, err := e.Collects(ctx, "../p1", "apple"); ok || err == nil {
		t.Error("an invalid patient id is accepted")
	}
}

// TestWithdrawalWithConcurrentReaders checks that no reader is permitted after a
// withdrawal has been acknowledged.
func TestWithdrawalWithConcurrentReaders(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	f := obs("apple", "")
	var withdrawn atomic.Int64 // latest round with an acknowledged withdrawal
	var round atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := round.Load()
				gone := withdrawn.Load() == n
				if e.Permits("ehr", f) && gone && round.Load() == n {
					t.Error("permitted after the withdrawal was acknowledged")
					return
				}
			}
		})
	}
	active := grant(t, consent.Terms{})
	inactive, err := consent.Withdraw(active)
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(1); n <= 2000; n++ {
		round.Store(n)
		s.put("p1", active)
		if !e.Permits("ehr", f) {
			t.Fatal("not permitted under an active consent")
		}
		s.put("p1", inactive)
		withdrawn.Store(n)
		if e.Permits("ehr", f) {
			t.Fatal("permitted after the withdrawal")
		}
	}
	close(stop)
	wg.Wait()
}

// TestSlowLoadIsNotCached checks that a load that started before a withdrawal is
// not cached after it.
func TestSlowLoadIsNotCached(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	active := grant(t, consent.Terms{})
	inactive, err := consent.Withdraw(active)
	if err != nil {
		t.Fatal(err)
	}
	s.put("p1", active)
	once := sync.Once{}
	s.between = func() { once.Do(func() { s.put("p1", inactive) }) }
	e.Permits("ehr", obs("apple", "")) // starts before the withdrawal
	if e.Permits("ehr", obs("apple", "")) {
		t.Error("a stale load was cached")
	}
}

func TestCacheIsUsedAndBounded(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	for range 10 {
		e.Permits("ehr", obs("apple", ""))
	}
	if n := s.finds.Load(); n != 1 {
		t.Errorf("%d reads for one patient", n)
	}
	for i := range 5 { // one more than the cache holds
		f := obs("apple", "")
		f.Patient = fmt.Sprint("q", i)
		e.Permits("ehr", f)
	}
	e.Permits("ehr", obs("apple", ""))
	if n := s.finds.Load(); n != 7 {
		t.Errorf("%d reads", n)
	}
}

// edit returns a Consent for all data with changed JSON.
func edit(t *testing.T, change func(m map[string]any)) fhir.Resource {
	r := grant(t, consent.Terms{})
	var m map[string]any
	if err := json.Unmarshal(r.JSON, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r.JSON = b
	return r
}

// TestUnsupportedElements checks that Consents with elements that are not
// understood permit nothing.
func TestUnsupportedElements(t *testing.T) {
	prov := func(k string, v any) func(map[string]any) {
		return func(m map[string]any) { m["provision"].(map[string]any)[k] = v }
	}
	type a = []any
	type o = map[string]any
	for name, change := range map[string]func(map[string]any){
		"draft": func(m map[string]any) { m["status"] = "draft" },
		"research": func(m map[string]any) {
			m["scope"] = o{"coding": a{o{"system": "x",
				"code": "patient-privacy"}}}
		},
		"modifier":      func(m map[string]any) { m["modifierExtension"] = a{o{"url": "x", "valueBoolean": true}} },
		"rules":         func(m map[string]any) { m["implicitRules"] = "http://x" },
		"other patient": func(m map[string]any) { m["patient"] = o{"reference": "Patient/p2"} },
		"no provision":  func(m map[string]any) { delete(m, "provision") },
		"deny":          prov("type", "deny"),
		"unknown type":  prov("type", "maybe"),
		"purpose":       prov("purpose", a{o{"code": "TREAT"}}),
		"label":         prov("securityLabel", a{o{"code": "N"}}),
		"data":          prov("data", a{o{"meaning": "instance"}}),
		"data period":   prov("dataPeriod", o{"start": "2020"}),
		"bad period":    prov("period", o{"start": "yesterday"}),
		"ended year":    prov("period", o{"end": "2025"}),
		"other code":    prov("code", a{o{"coding": a{o{"system": "http://loinc.org", "code": "8867-4"}}}}),
		"text code":     prov("code", a{o{"text": "all"}}),
		"no actor":      func(m map[string]any) { delete(m["provision"].(o), "actor") },
		"other role": prov("actor", a{o{"role": o{"coding": a{o{"system": "x", "code": "IRCP"}}},
			"reference": o{"identifier": o{"system": consent.ClientSystem, "value": "any"}}}}),
		"nested deny":    prov("provision", a{o{"type": "deny"}}),
		"nested nothing": prov("provision", a{o{}}),
		"nested, not understood": prov("provision",
			a{o{"type": "deny", "purpose": a{o{"code": "HRESCH"}}, "period": o{"end": "2020"}}}),
		"nested list": prov("provision", "x"),
	} {
		s := newMemStore()
		e := newEngine(t, s)
		s.put("p1", edit(t, change))
		if e.Permits("ehr", obs("apple", "", "vital-signs")) {
			t.Errorf("%s: permitted", name)
		}
	}
	for name, change := range map[string]func(map[string]any){
		"unchanged":       func(map[string]any) {},
		"base from OPTIN": func(m map[string]any) { delete(m["provision"].(o), "type") },
		"this month":      prov("period", o{"start": "2026-11", "end": "2026-11"}),
		"this day":        prov("period", o{"start": "2026-11-24", "end": "2026-11-24"}),
		"nested deny, other": prov("provision",
			a{o{"type": "deny", "code": a{o{"coding": a{o{"system": consent.VendorSystem, "code": "oura"}}}}}}),
		"nested deny, lapsed": prov("provision", a{o{"type": "deny", "period": o{"end": "2025"}}}),
	} {
		s := newMemStore()
		e := newEngine(t, s)
		s.put("p1", edit(t, change))
		if !e.Permits("ehr", obs("apple", "", "vital-signs")) {
			t.Errorf("%s: not permitted", name)
		}
	}
}

func TestBuildAndWithdraw(t *testing.T) {
	r := grant(t, consent.Terms{Vendor: "oura", VendorName: "Oura", Categories: []string{"sleep", "vital-signs"},
		Recipient: "ehr", Until: now.AddDate(1, 0, 0)})
	w, err := consent.Withdraw(fhir.Resource{Type: "Consent", ID: r.ID,
		JSON: fhir.Stamp(r.JSON, "Consent", r.ID, 1, now)})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []fhir.Resource{r, w} {
		if !strings.HasPrefix(string(x.JSON), fhir.Prefix("Consent", "c1")) || !json.Valid(x.JSON) ||
			strings.Contains(string(x.JSON), "versionId") {
			t.Errorf("not canonical: %s", x.JSON)
		}
	}
	golden(t, "grant.json", r.JSON)
	golden(t, "withdrawn.json", w.JSON)
	d, err := consent.Describe(w)
	if err != nil || d.Status != "inactive" || d.Vendor != "oura" || d.Recipient != "ehr" ||
		len(d.Categories) != 2 || d.Patient != "p1" {
		t.Errorf("%+v %v", d, err)
	}
	for name, terms := range map[string]consent.Terms{
		"vendor": {ID: "c", Patient: "p", Vendor: "a<b"}, "id": {Patient: "p"}, "patient": {ID: "c", Patient: "../p"},
		"period": {ID: "c", Patient: "p", From: now, Until: now},
	} {
		if _, err := consent.Build(terms); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) != string(got) {
		t.Errorf("%s:\n%s", name, got)
	}
}
