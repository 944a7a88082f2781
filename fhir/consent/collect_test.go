package consent_test

import (
	"context"
	"strings"
	"testing"

	"pulsegate/fhir/consent"
)

// TestCollectOnly checks that a consent to collection alone shows no data, and that
// another consent can show what was collected.
func TestCollectOnly(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	put := func(terms consent.Terms) {
		t.Helper()
		r := grant(t, terms)
		if text := string(r.JSON); terms.CollectOnly == strings.Contains(text, "may be seen by") {
			t.Errorf("narrative of %+v: %s", terms, text)
		}
		s.put("p1", r)
	}
	check := func(collects, shows bool) {
		t.Helper()
		if _, ok, err := e.Collects(context.Background(), "p1", "oura"); err != nil || ok != collects {
			t.Errorf("Collects: %t, %v, want %t", ok, err, collects)
		}
		if ok := e.Permits("ehr", obs("oura", "", "sleep")); ok != shows {
			t.Errorf("Permits: %t, want %t", ok, shows)
		}
	}
	check(false, false)
	put(consent.Terms{ID: "c1", Vendor: "oura", CollectOnly: true})
	check(true, false)
	if _, ok, err := e.Collects(context.Background(), "p1", "apple"); err != nil || ok {
		t.Errorf("another vendor: %t, %v", ok, err)
	}
	put(consent.Terms{ID: "c2", Vendor: "oura", Recipient: "ehr"})
	check(true, true)
}
