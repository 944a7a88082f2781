package consent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/r4"
)

// question is a request to a patient's consents.
type question struct {
	who, app string
	f        access.Facts
}

// questions returns every combination that the drawn Consents can distinguish.
func questions() (out []question) {
	for _, typ := range []string{"Observation", "Device"} {
		for _, vendor := range []string{"apple", "fitbit", "oura"} {
			for _, cats := range [][]string{nil, {"sleep"}, {"activity"}, {"sleep", "activity"}, {"vital-signs"},
				{"vital-signs", "sleep"}} {
				for _, who := range []string{"ehr", "lab", "other"} {
					for _, app := range []string{"", "a1"} {
						if typ != "Device" || cats == nil {
							out = append(out,
								question{who, app,
									access.Facts{Patient: "p1", Type: typ, Vendor: vendor, Categories: cats}})
						}
					}
				}
			}
		}
	}
	return out
}

func answers(e *consent.Engine, qs []question) []bool {
	out := make([]bool, len(qs))
	for i, q := range qs {
		out[i] = e.ForAuthorization(q.app).Permits(q.who, &q.f)
	}
	return out
}

func withdrawal(vendor string) consent.Withdrawal {
	n := 0
	return consent.Withdrawal{Patient: "p1", Vendor: vendor, Vendors: []string{"apple", "fitbit", "oura"}, Now: now,
		NewID: func() string { n++; return fmt.Sprint("new", n) }}
}

func (s *memStore) apply(w consent.WithdrawalPlan) {
	for _, list := range [][]fhir.Resource{w.Ended, w.Narrowed, w.Denials, {w.Record}} {
		for _, r := range list {
			if r.ID != "" {
				s.put("p1", r)
			}
		}
	}
}

// TestWithdrawalProperty draws Consents and checks that after a withdrawal no data
// of the vendor is visible or collected, that the visibility of other vendors is
// unchanged, and that under a new consent to everything the denials still apply.
func TestWithdrawalProperty(t *testing.T) {
	qs := questions()
	closed, same, stayed := 0, 0, 0
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
		vendor := rapid.SampledFrom([]string{"apple", "apple", "oura", "fitbit", ""}).Draw(t, "vendor")
		everything := grant(t, consent.Terms{ID: "everything"})
		before := answers(e, qs)
		again.put("p1", everything)
		denied := answers(f, qs)
		w, ok, err := withdrawal(vendor).Plan(docs)
		if err != nil {
			t.Fatal(err)
		}
		s.apply(w)
		again.apply(w)
		for i, is := range answers(e, qs) {
			q := qs[i]
			switch ours := vendor == "" || q.f.Vendor == vendor; {
			case ours && is:
				t.Fatalf("%+v is visible after %q was withdrawn (%v)", q, vendor, ok)
			case ours && before[i]:
				closed++
			case !ours && is != before[i]:
				t.Fatalf("%+v was %v and is %v after %q was withdrawn", q, before[i], is, vendor)
			case !ours && is:
				same++
			}
		}
		for _, v := range []string{"apple", "fitbit", "oura"} {
			if vendor != "" && v != vendor {
				continue
			}
			if _, is, err := e.Collects(t.Context(), "p1", v); is || err != nil {
				t.Fatalf("%s is collected after %q was withdrawn: %v", v, vendor, err)
			}
		}
		if open, err := e.AnyPermit(t.Context(), "p1", vendor); open || err != nil {
			t.Fatalf("AnyPermit(%q): %v", vendor, err)
		}
		for i, is := range answers(f, qs) {
			if is && !denied[i] {
				t.Fatalf("%+v was denied, and is not after %q was withdrawn", qs[i], vendor)
			}
			if !is && !denied[i] {
				stayed++
			}
		}
	}
	rapid.Check(t, property)
	for round := 0; closed == 0 || same == 0 || stayed == 0; round++ {
		if round == 20 {
			t.Fatalf("the draws do not cover all cases: %d revoked, %d unchanged, %d denied", closed, same, stayed)
		}
		rapid.Check(t, property)
	}
}

// TestWithdrawalIsValid checks that the Consents of a plan are valid R4, and that a
// new consent permits the withdrawn data except what is denied.
func TestWithdrawalIsValid(t *testing.T) {
	s := newMemStore()
	e := newEngine(t, s)
	r := grant(t, consent.Terms{ID: "all"})
	r.JSON = []byte(strings.Replace(string(r.JSON), `"provision":{`,
		`"provision":{"provision":[{"type":"deny","actor":[{"role":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ParticipationType","code":"IRCP"}]},`+
			`"reference":{"identifier":{"system":"`+consent.ClientSystem+
			`","value":"lab"}}}],"code":[{"coding":[{"system":"`+hl7Category+`","code":"activity"}]}]}],`, 1))
	app, err := consent.ForApp(consent.Allowance{ID: "app-a1", Patient: "p1", Authorization: "a1", Client: "appl",
		App: "App", Scope: "patient/*.rs", Types: []string{"Observation"},
		From: now, Until: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	stop, err := consent.Refuse(consent.Refusal{ID: "stop-1", Patient: "p1", Client: "stopped", App: "App", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	have := []fhir.Resource{r, grant(t, consent.Terms{ID: "one", Vendor: "apple", Recipient: "ehr"}), app, stop}
	for _, x := range have {
		s.put("p1", x)
	}
	w, ok, err := withdrawal("apple").Plan(have)
	if err != nil || !ok || len(w.Ended) != 1 || len(w.Narrowed) != 2 || len(w.Denials) != 1 {
		t.Fatal(ok, err, len(w.Ended), len(w.Narrowed), len(w.Denials))
	}
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range append(append(append(w.Ended, w.Narrowed...), w.Denials...), w.Record) {
		if _, err := validator.Resource("Consent", fhir.Stamp(x.JSON, "Consent", x.ID, 1, now), x.ID); err != nil {
			t.Errorf("%s is not valid: %v\n%s", x.ID, err, x.JSON)
		}
	}
	s.apply(w)
	if e.Permits("ehr", obs("apple", "")) || !e.Permits("ehr", obs("oura", "")) ||
		e.ForAuthorization("a1").Permits("appl", obs("apple", "")) {
		t.Error("after the withdrawal")
	}
	s.put("p1", grant(t, consent.Terms{ID: "anew", Vendor: "apple"}))
	step := obs("apple", "")
	step.Categories = []string{"activity"}
	if !e.Permits("ehr", step) || e.Permits("lab", step) || e.Permits("stopped", step) {
		t.Error("after a new consent:", e.Permits("ehr", step), e.Permits("lab", step), e.Permits("stopped", step))
	}
	if _, ok, err := withdrawal("fitbit").Plan([]fhir.Resource{stop}); ok || err != nil {
		t.Error("the plan changes a denial", err)
	}
}
