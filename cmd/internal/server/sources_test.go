package server

import (
	"context"
	"slices"
	"strings"
	"testing"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/pages"
)

// source returns what the pages show about the data of a vendor.
func (s sources) source(t *testing.T, patient, vendor string) pages.Source {
	t.Helper()
	all, err := s.List(t.Context(), patient)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(x pages.Source) bool { return x.Code == vendor })
	if i < 0 || len(all) != len(s.adapters) {
		t.Fatalf("%+v", all)
	}
	return all[i]
}

// hike is an export with a workout on a day of March that has a route.
func hike(day string) string {
	location := func(minute, latitude string) string {
		return `<Location date="2026-03-` + day + ` 10:` + minute + `:00 +0000" latitude="` + latitude +
			`" longitude="24.9876" altitude="100"/>`
	}
	return `<?xml version="1.0"?><HealthData locale="de_DE"><ExportDate value="2026-03-20 10:00:00 +0100"/>` +
		`<Workout workoutActivityType="HKWorkoutActivityTypeHiking" sourceName="W" startDate="2026-03-` + day +
		` 10:00:00 +0000" endDate="2026-03-` + day + ` 10:30:00 +0000"><WorkoutRoute>` + location("00", "60.1234") +
		location("10", "60.2345") + `</WorkoutRoute></Workout></HealthData>`
}

// hikes ingests the hike of a day and returns the number of workouts and of locations
// that a filter shows.
func hikes(t *testing.T, s *services, day string, filter access.Filter) (workouts, locations int) {
	t.Helper()
	if day != "" {
		if _, err := s.pipeline.Run(t.Context(), ingest.Request{Patient: "ada", Vendor: "apple", Format: "export.xml",
			Body: strings.NewReader(hike(day))}); err != nil {
			t.Fatal(err)
		}
	}
	q, err := search.Parse("Observation", [][2]string{{"patient", "ada"}}, search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.store.Find(t.Context(), store.Find{Query: q, Filter: filter}, func(f *store.Found) bool {
		if strings.Contains(string(f.Resource.JSON), "60.1234") {
			locations++
		} else {
			workouts++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return workouts, locations
}

// TestLocationsNeedTheirOwnConsent ingests routes of workouts while the patient decides,
// and checks what is stored, and what a client that may see all other data sees.
func TestLocationsNeedTheirOwnConsent(t *testing.T) {
	s, _, _ := adaConnected(t)
	src := sources{s}
	client := &access.Grant{Recipient: "clinic", Consents: s.consents,
		Rules: []access.Rule{{Type: "*", May: access.Read | access.Search}}}
	expect := func(what, day string, workouts, stored, shown int) {
		t.Helper()
		if w, l := hikes(t, s, day, access.All().Filter(access.Search)); w != workouts || l != stored {
			t.Errorf("%s: %d workouts and %d locations are stored, want %d and %d", what, w, l, workouts, stored)
		}
		if w, l := hikes(t, s, "", client.Filter(access.Search)); w != workouts || l != shown {
			t.Errorf("%s: %d workouts and %d locations are shown, want %d and %d", what, w, l, workouts, shown)
		}
	}
	if err := src.Locate(t.Context(), ada, "ada", "apple", true); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("locations without other data: %v", err)
	}
	if err := src.Agree(t.Context(), ada, "ada", "apple", pages.SourceTerms{Shared: true}); err != nil {
		t.Fatal(err)
	}
	expect("agreed to all data", "01", 1, 0, 0)
	if err := src.Locate(t.Context(), ada, "ada", "apple", true); err != nil {
		t.Fatal(err)
	}
	if got := src.source(t, "ada", "apple"); !got.HasRoutes || !got.Located || len(got.LocatedTo) > 0 ||
		!got.SeenByAll {
		t.Errorf("%+v", got)
	}
	expect("agreed to locations", "02", 2, 1, 0)
	shown, err := consent.Build(consent.Terms{ID: "shown", Patient: "ada",
		Categories: []string{consent.CategoryLocation},
		Recipient:  "clinic", Now: s.now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Resource: shown}}}); err != nil {
		t.Fatal(err)
	}
	expect("shown to the clinic", "02", 2, 1, 1)
	if err := src.Locate(t.Context(), ada, "ada", "apple", false); err != nil {
		t.Fatal(err)
	}
	if got := src.source(t, "ada", "apple"); got.Located || !got.Consented {
		t.Errorf("%+v", got)
	}
	expect("withdrawn", "03", 3, 1, 0)
	var quarantined []string
	if err := s.pipeline.List(t.Context(), "ada", func(item *ingest.Item) bool {
		quarantined = append(quarantined, item.Metric)
		return true
	}); err != nil || len(quarantined) > 0 {
		t.Errorf("in quarantine: %v, %v", quarantined, err)
	}
	if err := src.Withdraw(t.Context(), ada, "ada", "apple", true); err != nil {
		t.Fatal(err)
	}
	if w, l := hikes(t, s, "", access.All().Filter(access.Search)); w+l != 0 {
		t.Errorf("%d workouts and %d locations after the erasure", w, l)
	}
}

// TestSources agrees to and withdraws the data of a vendor without a cloud.
func TestSources(t *testing.T) {
	s, c, l := adaConnected(t)
	src := sources{s}
	if got := src.source(t, "ada", "apple"); got.Consented || got.SeenByAll || len(got.SeenBy)+len(got.Ways) > 0 {
		t.Errorf("%+v", got)
	}
	if err := src.Agree(t.Context(), ada, "ada", "apple", pages.SourceTerms{Locations: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := (operations{s}).CreatePushKey(t.Context(), operatorOfTest, admin.NewPushKey{Patient: "ada",
		Vendor: "apple", Name: "Phone"}); err != nil {
		t.Fatal(err)
	}
	got := src.source(t, "ada", "apple")
	if !got.Consented || got.Since.IsZero() || got.SeenByAll || len(got.SeenBy) > 0 || !got.Located ||
		!slices.Equal(got.Ways, []string{"an app with a key"}) {
		t.Errorf("%+v", got)
	}
	hikes(t, s, "01", access.Filter{})
	before := countResources(t, s, "Observation")
	if before != 2 {
		t.Fatalf("%d Observations", before)
	}
	// Another vendor and another patient are not concerned.
	if err := c.Agree(t.Context(), ada, "ada", "oura", true); err != nil {
		t.Fatal(err)
	}
	if err := src.Withdraw(t.Context(), ada, "ada", "apple", false); err != nil {
		t.Fatal(err)
	}
	if got := src.source(t, "ada", "apple"); got.Consented || got.Located {
		t.Errorf("%+v", got)
	}
	if got := src.source(t, "ada", "oura"); !got.Consented || !got.SeenByAll ||
		!slices.Equal(got.Ways, []string{"your connected account"}) {
		t.Errorf("%+v", got)
	}
	if n := countResources(t, s, "Observation"); n != before {
		t.Errorf("%d Observations are kept of %d", n, before)
	}
	if err := src.Withdraw(t.Context(), ada, "ada", "apple", false); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("withdrawn twice: %v", err)
	}
	if err := src.Withdraw(t.Context(), ada, "ada", "apple", true); err != nil {
		t.Fatal(err)
	}
	if n := countResources(t, s, "Observation"); n != 0 {
		t.Errorf("%d Observations are left", n)
	}
	if err := src.Withdraw(t.Context(), ada, "ada", "oura", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.links.Get(t.Context(), l.ID); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("the account is still connected: %v", err)
	}
}

// TestSourceNamesItsRecipients checks that the page names who may see the data.
func TestSourceNamesItsRecipients(t *testing.T) {
	s, _, _ := adaConnected(t)
	var ids []string
	for _, name := range []string{"Heart Clinic", "Closed Clinic"} {
		c, err := (operations{s}).AddClient(context.Background(), operatorOfTest, admin.NewClient{Name: name,
			Scope: "launch/patient patient/*.rs", Method: "none", RedirectURIs: []string{"https://app.example/cb"}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
		if _, err := (operations{s}).GrantConsent(t.Context(), operatorOfTest, admin.NewConsent{Patient: "ada",
			Vendor: "apple", Recipient: c.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (operations{s}).DisableClient(t.Context(), operatorOfTest, ids[1]); err != nil {
		t.Fatal(err)
	}
	if got := (sources{s}).source(t, "ada", "apple"); !slices.Equal(got.SeenBy, []string{"Heart Clinic"}) ||
		got.SeenByAll {
		t.Errorf("%+v", got)
	}
}
