package server

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/link"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/pages"
)

// ada is the caller of a page.
var ada = audit.Caller{Principal: &access.Principal{Subject: "ada"}}

// adaConnected opens a server at which the patient ada has connected an account.
func adaConnected(t *testing.T) (*services, connections, link.Link) {
	t.Helper()
	s := mustOpen(t, t.TempDir())
	for _, id := range []string{"ada", "ben"} {
		if code := call(t, s, "POST", "/patient", `{"id":"`+id+`","given":"A","family":"B"}`,
			&admin.ID{}); code != 200 {
			t.Fatal(code)
		}
	}
	_, l := connectFake(t, s, "ada")
	return s, connections{s}, l
}

func TestAgree(t *testing.T) {
	s, c, _ := adaConnected(t)
	for i, shared := range []bool{false, true} {
		patient := []string{"ada", "ben"}[i]
		for range 2 { // the second time, the consent exists
			if err := c.Agree(t.Context(), ada, patient, "oura", shared); err != nil {
				t.Fatal(err)
			}
		}
		var got admin.Consents
		if call(t, s, "GET", "/consent?patient="+patient, "", &got); len(got.Consents) != 1 ||
			got.Consents[0].Vendor != "oura" || got.Consents[0].Status != "active" {
			t.Errorf("%+v", got)
		}
		if _, ok, err := s.consents.Collects(t.Context(), patient, "oura"); err != nil || !ok {
			t.Errorf("collection: %t, %v", ok, err)
		}
		facts := &access.Facts{Type: "Observation", ID: "o", Patient: patient, Vendor: "oura"}
		if s.consents.Permits("some-app", facts) != shared {
			t.Errorf("shared %t: seen by others %t", shared, !shared)
		}
	}
	all, err := c.Vendors(t.Context(), "ada")
	if err != nil || len(all) != 1 || !all[0].Consented || all[0].Name != "Oura" ||
		!slices.Equal(all[0].Reads, []string{"your days"}) ||
		!slices.Equal(all[0].Optional, []string{"your heart rate"}) {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestConnectionStates(t *testing.T) {
	s, c, l := adaConnected(t)
	state := func() pages.ConnectionState {
		t.Helper()
		all, err := c.List(t.Context(), "ada")
		if err != nil || len(all) != 1 || all[0].ID != l.ID ||
			!slices.Equal(all[0].Missing, []string{"your heart rate"}) {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0].State
	}
	if got := state(); got != pages.Withdrawn {
		t.Errorf("without consent: %s", got)
	}
	if err := c.Agree(t.Context(), ada, "ada", "oura", true); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != pages.Working {
		t.Errorf("with consent: %s", got)
	}
	s.progress = late{time.Now()}
	if got := state(); got != pages.Late {
		t.Errorf("without data: %s", got)
	}
	for _, one := range []struct {
		status link.Status
		want   pages.ConnectionState
	}{{link.Membership, pages.Membership}, {link.Permission, pages.Permission}, {link.Gone, pages.Gone},
		{link.Working, pages.Late}, {link.Reconnect, pages.Reconnect}} {
		if _, err := s.links.SetStatus(t.Context(), l.ID, one.status, "test"); err != nil {
			t.Fatal(err)
		}
		if got := state(); got != one.want {
			t.Errorf("%s: %s, want %s", one.status, got, one.want)
		}
	}
	if all, err := c.List(t.Context(), "ben"); err != nil || len(all) > 0 {
		t.Errorf("connections of another patient: %+v, %v", all, err)
	}
}

func TestDisconnect(t *testing.T) {
	s, c, l := adaConnected(t)
	if err := c.Agree(t.Context(), ada, "ada", "oura", true); err != nil {
		t.Fatal(err)
	}
	const sleep = `{"data":[{"id":"d1","day":"2026-03-01","score":80,"timestamp":"2026-03-01T00:00:00+00:00",` +
		`"contributors":{}}]}`
	if code := call(t, s, "POST", "/ingest?patient=ada&vendor=oura&name=daily_sleep.json", sleep,
		&struct{}{}); code != 200 {
		t.Fatal(code)
	}
	observations := func() int { return countResources(t, s, "Observation") }
	before := observations()
	if before == 0 {
		t.Fatal("the payload had no Observation")
	}
	if err := c.Disconnect(t.Context(), ada, "ben", l.ID, true); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("another patient: %v", err)
	}
	if err := c.Disconnect(t.Context(), ada, "ada", l.ID, false); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.consents.Collects(t.Context(), "ada", "oura"); err != nil || !ok || observations() != before {
		t.Errorf("kept: consent %t, %v, %d of %d observations", ok, err, observations(), before)
	}
	_, l = connectFake(t, s, "ada")
	if err := c.Disconnect(t.Context(), ada, "ada", l.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.consents.Collects(t.Context(), "ada", "oura"); err != nil || ok || observations() != 0 {
		t.Errorf("deleted: consent %t, %v, %d observations", ok, err, observations())
	}
	_, l = connectFake(t, s, "ada") // there is no consent to withdraw
	if err := c.Disconnect(t.Context(), ada, "ada", l.ID, true); err != nil {
		t.Error(err)
	}
}

// TestCallbackAnswers checks that the pages are wired to the links: a state that no
// session has is refused with a text for people.
func TestCallbackAnswers(t *testing.T) {
	_, c, _ := adaConnected(t)
	_, err := c.Complete(t.Context(), ada, "session", pages.VendorAnswer{State: "x", Code: "y"})
	if err == nil || fhir.KindOf(err).HTTPStatus() != http.StatusUnprocessableEntity ||
		!strings.Contains(err.Error(), "start again") {
		t.Error(err)
	}
}

// countResources returns the number of current resources of a type.
func countResources(t *testing.T, s *services, typ string) int {
	t.Helper()
	q, err := search.Parse(typ, nil, search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.store.Count(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)})
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}
