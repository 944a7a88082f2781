package consent_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/r4"
)

func allowance() consent.Allowance {
	return consent.Allowance{ID: "app-a1", Patient: "p1", Authorization: "a1", Client: "heartbook",
		App: "Heart & Book", Scope: "patient/Observation.rs patient/Device.rs",
		Types: []string{"Observation", "Device"}, ScopeTexts: []string{"See your measurements", "See your devices"},
		From: now, Until: now.Add(90*24*time.Hour + time.Millisecond)}
}

func TestForApp(t *testing.T) {
	r, err := consent.ForApp(allowance())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "app.json", r.JSON)
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := validator.Resource("Consent", fhir.Stamp(r.JSON, "Consent", r.ID, 1, time.Unix(0, 0)), r.ID); err != nil {
		t.Errorf("not valid: %v", err)
	}
	ended, err := consent.EndApp(fhir.Resource{Type: "Consent", ID: r.ID,
		JSON: fhir.Stamp(r.JSON, "Consent", r.ID, 1, now)})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "app-ended.json", ended.JSON)
	for name, change := range map[string]func(*consent.Allowance){
		"no authorization": func(a *consent.Allowance) { a.Authorization = "" },
		"no patient":       func(a *consent.Allowance) { a.Patient = "" },
		"no type":          func(a *consent.Allowance) { a.Types = nil },
		"unknown type":     func(a *consent.Allowance) { a.Types = []string{"Nothing"} },
		"empty period":     func(a *consent.Allowance) { a.Until = a.From },
	} {
		a := allowance()
		change(&a)
		if _, err := consent.ForApp(a); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForAppPermits checks that the Consent for an app permits disclosure to its
// authorization only, permits no collection, and is superseded by a later
// withdrawal of a Consent for the same data.
func TestForAppPermits(t *testing.T) {
	clock := clocktest.At(now)
	s := newMemStore()
	e, err := consent.New(consent.Options{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	app := func() access.Consents { return e.ForAuthorization("a1") }
	allow := func(id string) fhir.Resource {
		a := allowance()
		a.ID, a.From = id, clock.Now()
		r, err := consent.ForApp(a)
		if err != nil {
			t.Fatal(err)
		}
		s.put("p1", r)
		return r
	}
	put := func(r fhir.Resource) {
		r.JSON = fhir.Stamp(r.JSON, r.Type, r.ID, 1, clock.Now())
		s.put("p1", r)
	}
	r := allow("app-a1")
	device := &access.Facts{Type: "Device", ID: "d", Patient: "p1", Vendor: "apple"}
	provenance := &access.Facts{Type: "Provenance", ID: "v", Patient: "p1", Vendor: "apple"}
	heart := obs("apple", "", "vital-signs")
	for name, c := range map[string]struct{ got, want bool }{
		"the app":                                  {app().Permits("heartbook", heart), true},
		"its devices":                              {app().Permits("heartbook", device), true},
		"a type that is not listed":                {app().Permits("heartbook", provenance), false},
		"another authorization":                    {e.ForAuthorization("a2").Permits("heartbook", heart), false},
		"the client without authorization":         {e.Permits("heartbook", heart), false},
		"a client with the id of an authorization": {e.Permits("authorization/a1", heart), false},
		"another patient": {app().Permits("heartbook",
			&access.Facts{Type: "Observation", Patient: "p2", Vendor: "apple"}), false},
		"collection":             {collects(t, e, "apple"), false},
		"collection by category": {collects(t, e, "apple", "vital-signs"), false},
		"an empty authorization": {e.ForAuthorization("").Permits("heartbook", heart), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", name, c.got)
		}
	}

	apple := grant(t, consent.Terms{ID: "apple", Vendor: "apple"})
	put(apple)
	clock.Add(time.Hour)
	withdrawn, err := consent.Withdraw(apple)
	if err != nil {
		t.Fatal(err)
	}
	put(withdrawn)
	if app().Permits("heartbook", heart) || !app().Permits("heartbook", obs("oura", "", "vital-signs")) {
		t.Error("the withdrawal must end access to data of apple only")
	}
	clock.Add(time.Hour)
	allow("app-again")
	if !app().Permits("heartbook", heart) {
		t.Error("denied although authorized again after the withdrawal")
	}
	put(fhir.Resource{Type: "Consent", ID: "no",
		JSON: []byte(fhir.Prefix("Consent", "no") +
			`},"status":"active","scope":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentscope","code":"patient-privacy"}]},` +
			`"patient":{"reference":"Patient/p1"},"provision":{"type":"deny","code":[{"coding":[{"system":"` +
			consent.VendorSystem + `","code":"apple"}]}]}}`)})
	if app().Permits("heartbook", heart) {
		t.Error("permitted although another Consent denies it")
	}
	if !app().Permits("heartbook", obs("oura", "", "vital-signs")) {
		t.Error("denied although no Consent denies it")
	}
	ended, err := consent.EndApp(r)
	if err != nil {
		t.Fatal(err)
	}
	put(ended)
	again := allow("app-again")
	clock.Set(allowance().Until)
	if app().Permits("heartbook", obs("oura", "", "vital-signs")) {
		t.Error("permitted after the end of the period")
	}
	if ended, err = consent.EndApp(again); err != nil {
		t.Fatal(err)
	}
	put(ended)
	if mine := obs("", "lab", "vital-signs"); len(s.docs) == 0 || e.Permits("other", mine) {
		t.Error("another client may read back the data")
	}
}

// TestManyApps checks that Consents for apps do not count against the limit, and
// that their end does not count as a withdrawal.
func TestManyApps(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	for i := range 1_200 {
		a := allowance()
		a.ID = fmt.Sprint("app-", i)
		r, err := consent.ForApp(a)
		if err == nil && i > 0 {
			r, err = consent.EndApp(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.put("p1", r)
	}
	if !e.ForAuthorization("a1").Permits("heartbook", obs("apple", "", "vital-signs")) {
		t.Error("denied under the active Consent besides many ended ones")
	}
	if !e.Permits("lab", obs("", "lab", "vital-signs")) {
		t.Error("the end of an app's Consent revoked an author's access")
	}
	for i := range 1_200 { // an app that is authorized every day
		a := allowance()
		a.ID, a.Authorization = fmt.Sprint("live-", i), fmt.Sprint("l", i)
		r, err := consent.ForApp(a)
		if err != nil {
			t.Fatal(err)
		}
		s.put("p1", r)
	}
	s.put("p1", grant(t, consent.Terms{Recipient: "ehr"}))
	for _, id := range []string{"a1", "l0", "l1199"} {
		if !e.ForAuthorization(id).Permits("heartbook", obs("apple", "", "vital-signs")) {
			t.Errorf("%s is denied besides many other authorizations", id)
		}
	}
	if !e.Permits("ehr", obs("apple", "", "vital-signs")) ||
		e.ForAuthorization("l1200").Permits("heartbook", obs("apple", "", "vital-signs")) {
		t.Error("wrong decisions besides many Consents for apps")
	}
}

func collects(t *testing.T, e *consent.Engine, vendor string, categories ...string) bool {
	t.Helper()
	_, ok, err := e.Collects(t.Context(), "p1", vendor)
	if len(categories) > 0 {
		ok, err = e.CollectsCategory(t.Context(), "p1", vendor, categories...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// TestRefusal checks that a stopped app is denied for all users in spite of other
// permits, and that other apps and collection are not affected.
func TestRefusal(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	f := obs("apple", "", "vital-signs")
	check := func(when string, shown bool, by ...string) {
		t.Helper()
		if got := e.Permits("heartbook", f); got != shown {
			t.Errorf("%s: permitted %v", when, got)
		}
		refs, err := e.Permitting(t.Context(), "p1", "heartbook")
		var ids []string
		for _, r := range refs {
			ids = append(ids, r.ID)
		}
		if slices.Sort(ids); err != nil || !slices.Equal(ids, by) {
			t.Errorf("%s: permitted by %v, want %v: %v", when, ids, by, err)
		}
	}
	check("without a Consent", false)
	s.put("p1", grant(t, consent.Terms{ID: "other", Recipient: "other"}))
	s.put("p1", grant(t, consent.Terms{ID: "over", Recipient: "heartbook", From: now.Add(-2 * time.Hour),
		Until: now.Add(-time.Hour)}))
	check("with Consents for another app and an expired one", false)
	s.put("p1", grant(t, consent.Terms{ID: "all", Recipient: consent.AnyRecipient}))
	s.put("p1", grant(t, consent.Terms{ID: "own", Recipient: "heartbook"}))
	check("permitted", true, "all", "own")

	r, err := consent.Refuse(consent.Refusal{ID: "stop-1", Patient: "p1", Client: "heartbook", App: "Heart & Book",
		Now: now})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "refusal.json", r.JSON)
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := validator.Resource("Consent", fhir.Stamp(r.JSON, "Consent", r.ID, 1, time.Unix(0, 0)), r.ID); err != nil {
		t.Errorf("not valid: %v", err)
	}
	s.put("p1", r)
	check("refused", false, "all", "own")
	if d, err := consent.Describe(r); err != nil || d.Recipient != "heartbook" || d.Status != "active" {
		t.Errorf("%+v %v", d, err)
	}
	if !e.Permits("other", f) {
		t.Error("another app is denied too")
	}
	if !collects(t, e, "apple", "vital-signs") {
		t.Error("collection is denied")
	}
	s.put("", r) // deleted, which removes its patient
	check("permitted again", true, "all", "own")
	for _, bad := range []consent.Refusal{{ID: "x", Patient: "p"}, {ID: "x", Client: "c"},
		{Patient: "p", Client: "c"}, {ID: "x", Patient: "../p", Client: "c"}} {
		if _, err := consent.Refuse(bad); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
