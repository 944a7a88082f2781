package consent_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
)

// stamped sets meta.lastUpdated of a Consent like the store.
func stamped(r fhir.Resource, at time.Time) fhir.Resource {
	r.JSON = []byte(strings.Replace(string(r.JSON), `"meta":{`,
		`"meta":{"lastUpdated":"`+at.UTC().Format(fhir.InstantLayout)+`"`, 1))
	return r
}

// putBy stores a Consent with an author.
func (s *memStore) putBy(author, patient string, r fhir.Resource) {
	s.next = author
	s.put(patient, r)
	s.next = ""
}

// TestClientsConsentAfterWithdrawal checks that a client's Consent permits nothing
// if the patient withdraws one between the check of the write and its commit.
func TestClientsConsentAfterWithdrawal(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	f := obs("apple", "")
	s.putBy("ehr", "p1", stamped(grant(t, consent.Terms{ID: "before", Recipient: "ehr"}), now.Add(-2*time.Hour)))
	if !e.Permits("ehr", f) {
		t.Fatal("denied under a client's Consent")
	}
	w, err := consent.Withdraw(grant(t, consent.Terms{ID: "other", Vendor: "oura", Recipient: "lab"}))
	if err != nil {
		t.Fatal(err)
	}
	s.put("p1", stamped(w, now.Add(-time.Hour)))
	if !e.Permits("ehr", f) {
		t.Error("denied after the withdrawal of another Consent")
	}
	after := func(id string) fhir.Resource {
		return stamped(grant(t, consent.Terms{ID: id, Recipient: "lab"}), now)
	}
	s.putBy("ehr", "p1", after("late"))
	if e.Permits("lab", f) {
		t.Error("permitted by a client's Consent after a withdrawal")
	}
	if refs, err := e.Permitting(t.Context(), "p1", "lab"); err != nil || len(refs) != 0 {
		t.Error("Permitting lists a client's Consent after a withdrawal", refs, err)
	}
	s.put("p1", after("operators"))
	if !e.Permits("lab", f) {
		t.Error("denied under the operator's Consent")
	}
}

// TestCheck checks each rule for Consents that clients write.
func TestCheck(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	put := func(author string, r fhir.Resource) fhir.Resource { s.putBy(author, "p1", r); return r }
	g := func(terms consent.Terms) fhir.Resource { return grant(t, terms) }
	stop, err := consent.Refuse(consent.Refusal{ID: "stop-1", Patient: "p1", Client: "stopped", App: "App", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	app, err := consent.ForApp(consent.Allowance{ID: "x", Patient: "p1", Authorization: "a1", Client: "ehr",
		App: "App", Scope: "patient/*.rs", Types: []string{"Observation"},
		From: now, Until: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	own := put("ehr", g(consent.Terms{ID: "own", Recipient: "ehr"}))
	others := put("lab", g(consent.Terms{ID: "others", Recipient: "lab"}))
	operators := put("", g(consent.Terms{ID: "operators", Recipient: "lab"}))
	put("", stop)
	moved := own
	moved.JSON = []byte(strings.Replace(string(own.JSON), "Patient/p1", "Patient/p2", 1))
	foreign := own
	foreign.JSON = []byte(strings.Replace(string(own.JSON), "Patient/p1", "https://elsewhere.example/Patient/p1", 1))
	reserved := g(consent.Terms{ID: "stop-2", Recipient: "ehr"})
	fresh := g(consent.Terms{ID: "fresh", Recipient: "ehr"})
	registered := func(id string) *access.Principal {
		return &access.Principal{ClientID: id, Grant: &access.Grant{Recipient: id, RecordsConsent: true}}
	}
	for _, c := range []struct {
		name      string
		who       *access.Principal
		next, old *fhir.Resource
		want      fhir.Kind
	}{
		{"a new one", registered("ehr"), &fresh, nil, 0},
		{"its own", registered("ehr"), &own, &own, 0},
		{"its own deleted", registered("ehr"), nil, &own, 0},
		{"another client's", registered("ehr"), &others, &others, fhir.Forbidden},
		{"the operator's", registered("ehr"), &operators, &operators, fhir.Forbidden},
		{"the operator's deleted", registered("ehr"), nil, &operators, fhir.Forbidden},
		{"the patient's refusal", registered("ehr"), nil, &stop, fhir.Forbidden},
		{"another patient", registered("ehr"), &moved, &own, fhir.Forbidden},
		{"no patient of this server", registered("ehr"), &foreign, nil, fhir.Unprocessable},
		{"a reserved id", registered("ehr"), &reserved, nil, fhir.Forbidden},
		{"a Consent for an app", registered("ehr"), &app, nil, fhir.Forbidden},
		{"a client that the patient has stopped", registered("stopped"), &fresh, nil, fhir.Forbidden},
		{"a client without registration",
			&access.Principal{ClientID: "ehr", Grant: &access.Grant{Recipient: "ehr"}}, &fresh, nil, fhir.Forbidden},
		{"no principal", nil, &fresh, nil, fhir.Forbidden},
		{"the operator", &access.Principal{Operator: "uid:0", Grant: access.All()}, &operators, &operators, 0},
	} {
		_, err := e.Check(t.Context(), c.who, c.next, c.old)
		if c.want == 0 && err != nil || c.want != 0 && (err == nil || fhir.KindOf(err) != c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestRefuses checks that Refuses recognizes only Consents that Refuse builds and
// that are in force.
func TestRefuses(t *testing.T) {
	r, err := consent.Refuse(consent.Refusal{ID: "stop-1", Patient: "p1", Client: "app", App: "App", Now: now})
	if err != nil || !consent.Refuses(r, "p1", "app") {
		t.Fatal("a refusal is not recognized", err)
	}
	if consent.Refuses(r, "p1", "other") || consent.Refuses(r, "p2", "app") {
		t.Error("a refusal by another patient or of another client is recognized")
	}
	for _, change := range [][2]string{{`"active"`, `"draft"`}, {`"deny"`, `"permit"`},
		{`"type":"deny"`, `"type":"deny","period":{"end":"2020-01-01"}`},
		{`"type":"deny"`, `"type":"deny","purpose":[{}]`}} {
		if x := strings.Replace(string(r.JSON), change[0], change[1], 1); x == string(r.JSON) ||
			consent.Refuses(fhir.Resource{Type: "Consent", ID: "stop-1", JSON: []byte(x)}, "p1", "app") {
			t.Error("recognized as a refusal:", change)
		}
	}
}

// TestManyConsents checks that drafts do not count; that a change of one Consent
// reads only that one; that too many Consents are read once, deny everything and
// do not affect another patient; and that the log contains no patient id.
func TestManyConsents(t *testing.T) {
	s := newMemStore()
	var log strings.Builder
	e, err := consent.New(consent.Options{Store: s, Clock: func() time.Time { return now }, Limit: 3000,
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	f := obs("apple", "")
	draft := func(r fhir.Resource) fhir.Resource {
		r.JSON = []byte(strings.Replace(string(r.JSON), `"status":"active"`, `"status":"draft"`, 1))
		return r
	}
	for i := range 5000 {
		s.put("p1", draft(grant(t, consent.Terms{ID: fmt.Sprint("draft", i), Recipient: "ehr"})))
	}
	for i := range 3000 {
		s.put("p1", grant(t, consent.Terms{ID: fmt.Sprint("c", i), Recipient: fmt.Sprint("clinic", i%1500)}))
	}
	if !e.Permits("clinic7", f) || e.Permits("ehr", f) || s.finds.Load() != 1 {
		t.Fatal("3,000 Consents and 5,000 drafts:", e.Permits("clinic7", f), e.Permits("ehr", f), s.finds.Load())
	}
	w, err := consent.Withdraw(grant(t, consent.Terms{ID: "c7", Recipient: "clinic7"}))
	if err != nil {
		t.Fatal(err)
	}
	s.put("p1", w)
	w, err = consent.Withdraw(grant(t, consent.Terms{ID: "c1507", Recipient: "clinic7"}))
	if err != nil {
		t.Fatal(err)
	}
	if !e.Permits("clinic7", f) {
		t.Error("denied although only one of two equal Consents was withdrawn")
	}
	s.put("p1", w)
	if e.Permits("clinic7", f) || !e.Permits("clinic8", f) {
		t.Error("after the withdrawal of both:", e.Permits("clinic7", f), e.Permits("clinic8", f))
	}
	if s.finds.Load() != 1 || s.reads.Load() != 2 {
		t.Errorf("two changes made %d searches and %d reads", s.finds.Load()-1, s.reads.Load())
	}
	s.put("p1", grant(t, consent.Terms{ID: "more", Recipient: "clinic8"}))
	other := obs("apple", "")
	other.Patient = "p2"
	r := grant(t, consent.Terms{ID: "theirs"})
	r.JSON = []byte(strings.Replace(string(r.JSON), "Patient/p1", "Patient/p2", 1))
	s.put("p2", r)
	before := s.finds.Load() + s.reads.Load()
	for range 1000 {
		if e.Permits("clinic8", f) || !e.Permits("clinic8", other) {
			t.Fatal("too many Consents permit data, or another patient's data is denied")
		}
	}
	if n := s.finds.Load() + s.reads.Load() - before; n > 3 {
		t.Errorf("2,000 requests made %d reads", n)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || strings.Contains(log.String(), "p1") {
		t.Errorf("%d lines logged:\n%s", n, log.String())
	}
	_, err = e.Check(t.Context(), &access.Principal{ClientID: "ehr", Grant: &access.Grant{RecordsConsent: true}},
		&r, nil)
	if err != nil {
		t.Errorf("a first Consent: %v", err)
	}
}

// TestClientLimit checks that a client may use only half of Options.Limit.
func TestClientLimit(t *testing.T) {
	s := newMemStore()
	e, err := consent.New(consent.Options{Store: s, Clock: func() time.Time { return now }, Limit: 20})
	if err != nil {
		t.Fatal(err)
	}
	who := &access.Principal{ClientID: "ehr", Grant: &access.Grant{RecordsConsent: true}}
	for i := range 20 {
		r := grant(t, consent.Terms{ID: fmt.Sprint("c", i), Recipient: "ehr"})
		if _, err := e.Check(t.Context(), who, &r, nil); i < 10 && err != nil || i >= 10 &&
			fhir.KindOf(err) != fhir.Forbidden {
			t.Fatalf("Consent %d: %v", i, err)
		}
		s.putBy("ehr", "p1", r)
	}
	if !e.Permits("ehr", obs("apple", "")) {
		t.Error("denied at the limit")
	}
}

// TestChanged checks that Changed reports changes of the given patients only, and
// reports true after more changes than the engine remembers.
func TestChanged(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	of := func(patients ...string) func(string, uint64) bool {
		return func(p string, _ uint64) bool { return slices.Contains(patients, p) }
	}
	mine := of("p1")
	at := e.Epoch()
	s.put("p2", grant(t, consent.Terms{ID: "c2"}))
	if e.Changed(at, mine) || !e.Changed(at, of("p1", "p2")) || e.Changed(e.Epoch(), of("p2")) {
		t.Error("after a change of another patient's")
	}
	s.put("p1", grant(t, consent.Terms{ID: "c1"}))
	if !e.Changed(at, mine) || e.Changed(at,
		func(_ string, t uint64) bool { return t != uint64(s.LastSeq()) && t != uint64(s.LastSeq())-1 }) {
		t.Error("after a change of the patient's")
	}
	// A Consent that moves to another patient is also a change of the first one.
	if !e.Permits("ehr", obs("apple", "")) {
		t.Fatal("denied under a Consent")
	}
	at = e.Epoch()
	s.put("p3", grant(t, consent.Terms{ID: "c1"}))
	if !e.Changed(at, mine) {
		t.Error("after a Consent moved to another patient")
	}
	at = e.Epoch()
	for i := range 5000 {
		s.put("p2", grant(t, consent.Terms{ID: fmt.Sprint("c", i)}))
	}
	if !e.Changed(at, mine) {
		t.Error("after 5,000 changes")
	}
}
