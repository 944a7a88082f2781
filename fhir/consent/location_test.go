package consent_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/r4"
)

// route describes where a patient was.
func route(vendor string) *access.Facts {
	f := obs(vendor, "")
	f.Categories = []string{"activity", consent.CategoryLocation}
	return f
}

// TestLocationMustBeNamed checks that no consent shows or collects where a patient was
// unless it names that, and that a denial of activity denies it.
func TestLocationMustBeNamed(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	shows := func() bool { return e.Permits("ehr", route("apple")) }
	collects := func() bool {
		t.Helper()
		ok, err := e.CollectsCategory(t.Context(), "p1", "apple", "activity", consent.CategoryLocation)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	s.put("p1", grant(t, consent.Terms{ID: "everything"}))
	s.put("p1", grant(t, consent.Terms{ID: "activity", Vendor: "apple", Categories: []string{"activity", "sleep"}}))
	if shows() || collects() {
		t.Error("all categories and activity cover a location")
	}
	location := consent.Terms{ID: "location", Vendor: "apple", Categories: []string{consent.CategoryLocation}}
	collected := location
	collected.CollectOnly = true
	s.put("p1", grant(t, collected))
	if shows() || !collects() {
		t.Error("a consent to collect shows, or does not collect")
	}
	s.put("p1", grant(t, location))
	if !shows() || !collects() {
		t.Error("a consent that names locations does not cover them")
	}
	other := newMemStore()
	alone := newEngine(t, other)
	other.put("p1", grant(t, location))
	steps, device := obs("apple", ""), obs("apple", "")
	steps.Categories, device.Type, device.Categories = []string{"activity"}, "Device", nil
	if !alone.Permits("ehr", route("apple")) || alone.Permits("ehr", steps) || alone.Permits("ehr", device) {
		t.Error("a consent to locations covers other data")
	}
	if _, ok, err := alone.Collects(t.Context(), "p1", "apple"); ok || err != nil {
		t.Errorf("a consent to locations lets all data be collected: %v", err)
	}
}

// TestAppSeesLocations checks that an app sees where a patient was only if a scope of its
// authorization names that.
func TestAppSeesLocations(t *testing.T) {
	for _, named := range []bool{false, true} {
		s := newMemStore()
		e := newEngine(t, s)
		a := allowance()
		a.Locations = named
		r, err := consent.ForApp(a)
		if err != nil {
			t.Fatal(err)
		}
		s.put("p1", r)
		app := e.ForAuthorization("a1")
		if !app.Permits("heartbook", obs("apple", "")) || app.Permits("heartbook", route("apple")) != named {
			t.Errorf("named %t: the app sees locations: %t", named, !named)
		}
		validator, err := r4.New(r4.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := validator.Resource("Consent", fhir.Stamp(r.JSON, "Consent", r.ID, 1, time.Unix(0, 0)),
			r.ID); err != nil {
			t.Errorf("not valid: %v", err)
		}
	}
}

// TestLocationWithdrawalProperty draws Consents and checks that after the withdrawal of
// locations none is visible or collected, that all else is as visible as before, and
// that what was denied stays denied under new consents.
func TestLocationWithdrawalProperty(t *testing.T) {
	qs := questions()
	isRoute := make([]bool, 0, len(qs))
	for range qs {
		isRoute = append(isRoute, false)
	}
	for _, q := range questions() {
		if q.f.Type == "Observation" && len(q.f.Categories) == 1 && q.f.Categories[0] == "activity" {
			q.f.Categories = []string{"activity", consent.CategoryLocation}
			qs, isRoute = append(qs, q), append(isRoute, true)
		}
	}
	closed, same := 0, 0
	property := func(t *rapid.T) {
		s, again := newMemStore(), newMemStore()
		e, f := newEngine(t, s), newEngine(t, again)
		var docs []fhir.Resource
		for i := range rapid.IntRange(1, 3).Draw(t, "consents") {
			b, err := json.Marshal(obj{"resourceType": "Consent", "id": fmt.Sprint("c", i),
				"meta": obj{"lastUpdated": "2026-11-02T00:00:00Z"}, "dateTime": "2026-11-01T00:00:00Z",
				"status": "active", "scope": cc("http://terminology.hl7.org/CodeSystem/consentscope",
					"patient-privacy"), "patient": obj{"reference": "Patient/p1"},
				"provision": drawProvision(t, 0)})
			if err != nil {
				t.Fatal(err)
			}
			docs = append(docs, fhir.Resource{Type: "Consent", ID: fmt.Sprint("c", i), JSON: b})
			s.put("p1", docs[i])
			again.put("p1", docs[i])
		}
		before := answers(e, qs)
		for _, r := range []fhir.Resource{grant(t, consent.Terms{ID: "everything"}),
			grant(t, consent.Terms{ID: "locations", Categories: []string{consent.CategoryLocation}})} {
			again.put("p1", r)
		}
		denied := answers(f, qs)
		w, _, err := withdrawal("").PlanLocations(docs)
		if err != nil {
			t.Fatal(err)
		}
		s.apply(w)
		again.apply(w)
		for i, is := range answers(e, qs) {
			switch {
			case isRoute[i] && is:
				t.Fatalf("%+v is visible after locations were withdrawn", qs[i])
			case isRoute[i] && before[i]:
				closed++
			case !isRoute[i] && is && !before[i]:
				t.Fatalf("%+v was hidden and is visible", qs[i])
			case is:
				same++
			}
		}
		if ok, err := e.CollectsCategory(t.Context(), "p1", "apple", "activity", consent.CategoryLocation); ok ||
			err != nil {
			t.Fatalf("locations are collected: %v", err)
		}
		if _, ok, err := withdrawal("").PlanLocations(append(append([]fhir.Resource{}, w.Narrowed...),
			w.Denials...)); ok || err != nil {
			t.Fatalf("a permit for locations is left: %v", err)
		}
		for i, is := range answers(f, qs) {
			if is && !denied[i] {
				t.Fatalf("%+v was denied, and is not any more", qs[i])
			}
		}
	}
	rapid.Check(t, property)
	for round := 0; closed == 0 || same == 0; round++ {
		if round == 20 {
			t.Fatalf("the draws do not cover all cases: %d closed, %d unchanged", closed, same)
		}
		rapid.Check(t, property)
	}
}
