package pages_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/pages"
)

// explained gives the pages what a test has set.
type explained struct {
	latest map[string][]pages.LatestData           // by patient
	by     map[string]map[string]pages.Explanation // by patient and id
	asked  []string                                // subjects
}

func (x *explained) Latest(_ context.Context, by audit.Caller, patient string) ([]pages.LatestData, error) {
	x.asked = append(x.asked, by.Principal.Subject+" "+patient)
	return x.latest[patient], nil
}

func (x *explained) Explain(_ context.Context, by audit.Caller, patient, id string) (pages.Explanation, error) {
	x.asked = append(x.asked, by.Principal.Subject+" "+patient+" "+id)
	if e, ok := x.by[patient][id]; ok {
		return e, nil
	}
	return pages.Explanation{}, fhir.Errorf(fhir.NotFound, "explained", "there is no such Observation")
}

// measurements sets up a measurement of ada and one of ben.
func (w *world) measurements() {
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	e := pages.Explanation{ID: "o1", Name: "Body weight", Text: "Apple Health has sent this measurement.", Known: true,
		Samples: []pages.ExplainedSample{{Lines: []pages.ExplainedLine{
			{Part: "Metric", Sent: "HKQuantityTypeIdentifierBodyMass, channel export.xml",
				Rule: "row HKQuantityTypeIdentifierBodyMass of pack apple 1.0.0", Written: "Body weight"},
			{Part: "Code", Rule: "sources support this code", Written: "Body weight (http://loinc.org 29463-7)"},
			{Part: "Value", Sent: "180 lb", Rule: "180 lb × 0.45359237 = 81.6466266 kg", Written: "81.6466266 kg"},
			{Part: "Time", Sent: "2026-03-01T09:00:00+01:00", Rule: "the vendor states the offset",
				Written: "2026-03-01T09:00:00+01:00"}}}},
		Changes: []pages.ExplainedChange{{Path: "code.text", Stored: "Body weight", Now: "Weight <b>"}},
		Versions: []pages.ExplainedVersion{{Number: 2, At: at, Why: "restated or completed", From: "Apple Health",
			Channel: "push"}, {Number: 1, At: at, Why: "created", From: "Apple Health"}},
		Resource: "{\n  \"resourceType\": \"Observation\",\n  \"id\": \"o1\"\n}"}
	w.explained.by = map[string]map[string]pages.Explanation{"ada": {"o1": e}, "ben": {"o2": e}}
	w.explained.latest = map[string][]pages.LatestData{"ada": {{Vendor: "apple", Name: "Apple Health",
		Measurements: []pages.Measurement{{ID: "o1", Name: "Body weight", Value: "81.6466266 kg", At: at},
			{ID: "o3", Name: "Steps", Value: "8123 steps", At: at, Day: true}}}}}
}

// TestExplainPage checks that the page of devices leads to the explanation of the
// person's newest measurements, and that others and absent ones look alike.
func TestExplainPage(t *testing.T) {
	w := newWorld(t)
	w.devices()
	w.measurements()
	ada := w.browser()
	ada.get("/auth/explain/Observation/o1")
	if strings.Contains(ada.body, "81.6466266") {
		t.Error("shown without a sign-in")
	}
	ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.get("/auth/devices").status(200).has("Latest measurements", "81.6466266 kg", "8123 steps", "1 March 2026",
		`href="/auth/explain/Observation/o1"`, "How was this made?")
	ada.get("/auth/explain/Observation/o1").status(200).has("Body weight: how this was made", "180 lb",
		"180 lb × 0.45359237 = 81.6466266 kg", "sources support this code", "give another result", "Weight &lt;b&gt;",
		"Version 2", "restated or completed", "from Apple Health (push)", "&#34;resourceType&#34;")
	w.explained.asked = nil
	absent := ada.get("/auth/explain/Observation/none").status(404).body
	if other := ada.get("/auth/explain/Observation/o2").status(404).body; len(other) != len(absent) {
		t.Error("an Observation of another patient looks different from an absent one")
	}
	for _, asked := range w.explained.asked {
		if !strings.Contains(asked, " ada ") {
			t.Errorf("asked for another patient: %s", asked)
		}
	}
	doc := w.browser()
	doc.enroll(w.invite("doc", "Dr. Dora Doc", "practitioner"))
	doc.get("/auth/explain/Observation/o1").status(http.StatusForbidden)
}

// TestExplainInBrowser looks at the pages in a real browser.
func TestExplainInBrowser(t *testing.T) {
	w := newWorld(t)
	w.devices()
	w.measurements()
	p := newChrome(t, w).Person()
	p.Open(w.invite("ada", "Ada Beispiel", "patient")).Click("form button.primary",
		"Choose how you sign in").Click(`button[data-passkey=create]`, "The passkey is ready")
	p.Open("/auth/devices").Wait("Latest measurements").Check("devices-latest")
	p.Click(`a[href$="Observation/o1"]`, "What was sent and what is stored").Check("explain")
	p.Click("summary", "resourceType").Check("explain-resource")
}
