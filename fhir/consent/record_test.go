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

// stamped gives a Consent the time of its version, as the store does.
func stamped(r fhir.Resource, at time.Time) fhir.Resource {
	r.JSON = []byte(strings.Replace(string(r.JSON), `"meta":{`,
		`"meta":{"lastUpdated":"`+at.UTC().Format(fhir.InstantLayout)+`"`, 1))
	return r
}

func (s *shelf) putBy(author, patient string, r fhir.Resource) {
	s.next = author
	s.put(patient, r)
	s.next = ""
}

// TestClientsConsentAfterWithdrawal: where the patient's withdrawal comes
// between the check of a client's write and its commit, the Consent is stored
// and opens nothing.
func TestClientsConsentAfterWithdrawal(t *testing.T) {
	s := newShelf()
	e := newEngine(t, s)
	f := obs("apple", "")
	s.putBy("ehr", "p1", stamped(grant(t, consent.Terms{ID: "before", Recipient: "ehr"}), now.Add(-2*time.Hour)))
	if !e.Permits("ehr", f) {
		t.Fatal("a client's Consent does not count")
	}
	w, err := consent.Withdraw(grant(t, consent.Terms{ID: "other", Vendor: "oura", Recipient: "lab"}))
	if err != nil {
		t.Fatal(err)
	}
	s.put("p1", stamped(w, now.Add(-time.Hour)))
	if !e.Permits("ehr", f) {
		t.Error("the withdrawal of one Consent ended another")
	}
	late := func(id string) fhir.Resource {
		return stamped(grant(t, consent.Terms{ID: id, Recipient: "lab"}), now)
	}
	s.putBy("ehr", "p1", late("late"))
	if e.Permits("lab", f) {
		t.Error("a client's Consent opens data after a withdrawal")
	}
	if refs, err := e.Permitting(t.Context(), "p1", "lab"); err != nil || len(refs) != 0 {
		t.Error("a client's Consent is listed as opening data", refs, err)
	}
	s.put("p1", late("operators"))
	if !e.Permits("lab", f) {
		t.Error("the operator's Consent does not count")
	}
}

// TestCheck: what a registered client may write, rule by rule.
func TestCheck(t *testing.T) {
	s := newShelf()
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
	nobody := own
	nobody.JSON = []byte(strings.Replace(string(own.JSON), "Patient/p1", "https://elsewhere.example/Patient/p1", 1))
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
		{"its own removed", registered("ehr"), nil, &own, 0},
		{"another client's", registered("ehr"), &others, &others, fhir.Forbidden},
		{"the operator's", registered("ehr"), &operators, &operators, fhir.Forbidden},
		{"the operator's removed", registered("ehr"), nil, &operators, fhir.Forbidden},
		{"the patient's stop", registered("ehr"), nil, &stop, fhir.Forbidden},
		{"another patient", registered("ehr"), &moved, &own, fhir.Forbidden},
		{"no patient of this server", registered("ehr"), &nobody, nil, fhir.Unprocessable},
		{"an id of the server's", registered("ehr"), &reserved, nil, fhir.Forbidden},
		{"what a person allows an app", registered("ehr"), &app, nil, fhir.Forbidden},
		{"a client that the patient has stopped", registered("stopped"), &fresh, nil, fhir.Forbidden},
		{"a client that is not registered for it",
			&access.Principal{ClientID: "ehr", Grant: &access.Grant{Recipient: "ehr"}}, &fresh, nil, fhir.Forbidden},
		{"nobody", nil, &fresh, nil, fhir.Forbidden},
		{"the operator", &access.Principal{Operator: "uid:0", Grant: access.All()}, &operators, &operators, 0},
	} {
		_, err := e.Check(t.Context(), c.who, c.next, c.old)
		if c.want == 0 && err != nil || c.want != 0 && (err == nil || fhir.KindOf(err) != c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestRefuses: what only looks like a refusal is none, so that the page does
// not leave it at that.
func TestRefuses(t *testing.T) {
	r, err := consent.Refuse(consent.Refusal{ID: "stop-1", Patient: "p1", Client: "app", App: "App", Now: now})
	if err != nil || !consent.Refuses(r, "p1", "app") {
		t.Fatal("a refusal is not known", err)
	}
	if consent.Refuses(r, "p1", "other") || consent.Refuses(r, "p2", "app") {
		t.Error("a refusal of another")
	}
	for _, change := range [][2]string{{`"active"`, `"draft"`}, {`"deny"`, `"permit"`},
		{`"type":"deny"`, `"type":"deny","period":{"end":"2020-01-01"}`},
		{`"type":"deny"`, `"type":"deny","purpose":[{}]`}} {
		if x := strings.Replace(string(r.JSON), change[0], change[1], 1); x == string(r.JSON) ||
			consent.Refuses(fhir.Resource{Type: "Consent", ID: "stop-1", JSON: []byte(x)}, "p1", "app") {
			t.Error("taken for a refusal:", change)
		}
	}
}

// TestManyConsents: drafts do not count; a change of one Consent reads that
// one; what is too many is read once, however often it is asked for, and is no
// other patient's trouble; no id of a patient reaches the log.
func TestManyConsents(t *testing.T) {
	s := newShelf()
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
		t.Error("one of two Consents alike was withdrawn, and the other went too")
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
			t.Fatal("too many Consents open, or close another patient's data")
		}
	}
	if n := s.finds.Load() + s.reads.Load() - before; n > 3 {
		t.Errorf("2,000 questions made %d reads", n)
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

// TestClientBound: a client is stopped long before a patient's Consents are
// too many for an answer.
func TestClientBound(t *testing.T) {
	s := newShelf()
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
		t.Error("data is closed at the limit")
	}
}

// TestChanged: an epoch tells whose Consents have changed since, and is true
// when it no longer knows.
func TestChanged(t *testing.T) {
	s := newShelf()
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
	// A Consent that goes to another patient was the first one's, too.
	if !e.Permits("ehr", obs("apple", "")) {
		t.Fatal("a consent does not count")
	}
	at = e.Epoch()
	s.put("p3", grant(t, consent.Terms{ID: "c1"}))
	if !e.Changed(at, mine) {
		t.Error("after a Consent went to another patient")
	}
	at = e.Epoch()
	for i := range 5000 {
		s.put("p2", grant(t, consent.Terms{ID: fmt.Sprint("c", i)}))
	}
	if !e.Changed(at, mine) {
		t.Error("5,000 changes are told apart")
	}
}
