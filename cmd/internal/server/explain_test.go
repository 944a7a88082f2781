package server

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping/explain"
	"pulsegate/mapping/ingest"
)

const twoSamples = `<?xml version="1.0"?><HealthData locale="en"><ExportDate value="2026-10-05 09:00:00 +0200"/>` +
	`<Record type="HKQuantityTypeIdentifierBodyMass" sourceName="Scale" unit="lb" ` +
	`startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="180"/>` +
	`<Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Watch" unit="count/min" ` +
	`startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="62"/></HealthData>`

// measured opens a server with two measurements of the patient ada, and returns the ids.
func measured(t *testing.T) (s *services, ids map[string]string) {
	t.Helper()
	s = mustOpen(t, t.TempDir())
	for _, id := range []string{"ada", "ben"} {
		if code := call(t, s, "POST", "/patient", `{"id":"`+id+`","given":"A","family":"B"}`,
			&admin.ID{}); code != 200 {
			t.Fatal(code)
		}
	}
	if code := call(t, s, "POST", "/consent/grant", `{"patient":"ada","vendor":"apple","recipient":"any"}`,
		&admin.ID{}); code != 200 {
		t.Fatal(code)
	}
	var sum ingest.Summary
	if code := call(t, s, "POST", "/ingest?patient=ada&vendor=apple&format=export.xml&name=export.xml", twoSamples,
		&sum); code != 200 || sum.Created != 2 {
		t.Fatalf("%d %+v", code, sum)
	}
	ids = map[string]string{}
	err := s.store.Scan(t.Context(), store.ScanRange{Types: []string{"Observation"},
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		name := "weight"
		if strings.Contains(string(f.Resource.JSON), "Heart rate") {
			name = "pulse"
		}
		ids[name] = strings.Clone(f.Resource.ID)
		return true
	})
	if err != nil || len(ids) != 2 {
		t.Fatal(ids, err)
	}
	return s, ids
}

// read returns the JSON of the AuditEvents of ada that contain text.
func (s *services) read(t *testing.T, text string) (out []string) {
	t.Helper()
	err := s.store.Scan(t.Context(), store.ScanRange{Types: []string{"AuditEvent"},
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		if strings.Contains(string(f.Resource.JSON), text) && strings.Contains(string(f.Resource.JSON), "Patient/ada") {
			out = append(out, string(f.Resource.JSON))
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestExplainCommand checks that the command tells how an Observation was made and
// records that it was read, with its versions and their Provenance.
func TestExplainCommand(t *testing.T) {
	s, ids := measured(t)
	var x explain.Explanation
	if code := call(t, s, "GET", "/explain?id="+ids["weight"], "", &x); code != http.StatusOK {
		t.Fatal(code)
	}
	if x.Patient != "ada" || x.Origin != explain.FromVendor || !x.Now.Same || len(x.Versions) != 1 ||
		x.Versions[0].Provenance == "" ||
		x.Samples[0].Values[0].Numbers[0].Text != "180 lb × 0.45359237 = 81.6466266 kg" {
		t.Errorf("%+v", x)
	}
	events := s.read(t, "Observation/"+ids["weight"])
	if len(events) < 2 || !strings.Contains(strings.Join(events, ""), x.Versions[0].Provenance) {
		t.Errorf("AuditEvents %v", events)
	}
	for _, id := range []string{"none", "", "../x"} {
		if code := call(t, s, "GET", "/explain?id="+url.QueryEscape(id), "", &x); code != http.StatusNotFound {
			t.Errorf("%q: %d", id, code)
		}
	}
}

// patientCaller returns a signed-in person with the rules of a patient.
func patientCaller(subject string) audit.Caller {
	return audit.Caller{Principal: &access.Principal{Subject: subject,
		Grant: &access.Grant{Rules: []access.Rule{{Type: "*", May: access.Read | access.Search, Patient: subject}}}}}
}

// TestExplanationsAreOnesOwn checks that a patient sees the explanation and the newest
// measurements of their own data only.
func TestExplanationsAreOnesOwn(t *testing.T) {
	s, ids := measured(t)
	x := explanations{s}
	for name, id := range ids {
		got, err := x.Explain(t.Context(), patientCaller("ada"), "ada", id)
		if err != nil || len(got.Samples) != 1 || len(got.Versions) != 1 || got.Versions[0].From != "Apple Health" ||
			got.Text != "Apple Health has sent this measurement." || !strings.Contains(got.Resource, "\n") {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		for _, who := range [][2]string{{"ben", "ben"}, {"ada", "ben"}, {"ben", "ada"}} {
			caller := patientCaller(who[0])
			if _, err := x.Explain(t.Context(), caller, who[1], id); who[1] != "ada" &&
				fhir.KindOf(err) != fhir.NotFound {
				t.Errorf("%v: %v", who, err)
			}
		}
	}
	latest, err := x.Latest(t.Context(), patientCaller("ada"), "ada")
	if err != nil || len(latest) != 1 || latest[0].Vendor != "apple" || len(latest[0].Measurements) != 2 {
		t.Errorf("%+v %v", latest, err)
	}
	if latest, err = x.Latest(t.Context(), patientCaller("ben"), "ben"); err != nil || len(latest) != 0 {
		t.Errorf("%+v %v", latest, err)
	}
}
