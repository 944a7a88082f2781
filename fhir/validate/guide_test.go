package validate_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/guide"
	"pulsegate/fhir/internal/fixtures"
	"pulsegate/fhir/validate"
)

func categories(codes ...string) string {
	var list []string
	for _, c := range codes {
		system := "http://terminology.hl7.org/CodeSystem/observation-category"
		if c == "sleep" {
			system = fhir.Canonical + "/CodeSystem/observation-category"
		}
		list = append(list, `{"coding":[{"system":"`+system+`","code":"`+c+`"}]}`)
	}
	return "[" + strings.Join(list, ",") + "]"
}

// TestOwnProfiles checks the rules of the profiles of fhir/guide, and that the tables have
// all of them.
func TestOwnProfiles(t *testing.T) {
	type m = map[string]string
	part := func(code, unit string) string {
		return `{"code":` + loinc(code) + `,"valueQuantity":` + ucum(unit) + `}`
	}
	with := func(base m, name, value string) m {
		out := m{name: value}
		for k, v := range base {
			if k != name {
				out[k] = v
			}
		}
		return out
	}
	night := m{"category": categories("activity", "sleep"), "code": loinc("93832-4"), "valueQuantity": ucum("min")}
	hrv := m{"code": loinc("80404-7"), "valueQuantity": ucum("ms")}
	rmssd := `{"coding":[{"system":"` + fhir.Canonical + `/CodeSystem/measures","code":"hrv-rmssd"}]}`
	score := m{"category": categories("survey"), "code": `{"text":"Readiness"}`, "valueQuantity": ucum("{score}")}
	stage := m{"category": categories("activity", "sleep"), "code": `{"text":"Sleep"}`, "valueQuantity": "",
		"dataAbsentReason": `{"text":"a"}`}
	check(t, []bodyCase{
		{observed(guide.SleepSession, night), "", ""},
		{observed(guide.SleepSession, with(night, "category", categories("activity"))), "Observation.category", "sleep"},
		{observed(guide.SleepSession, with(night, "code", loinc("93831-6"))), "Observation.code", "93832-4"},
		{observed(guide.SleepSession, with(night, "valueQuantity", ucum("h"))), "Observation.valueQuantity", "code min"},
		{observed(guide.SleepSession, with(night, "valueQuantity", "")), "Observation", "pg-value"},
		{observed(guide.SleepSession, with(night, "subject", `{"reference":"Group/1"}`)), "Observation.subject", "refers to a type"},
		{observed(guide.SleepSession, with(night, "component", "["+part("93831-6", "min")+","+part("1-8", "x")+"]")), "", ""},
		{observed(guide.SleepSession, with(night, "component", "["+part("93831-6", "h")+"]")),
			"Observation.component[0].valueQuantity", "code min"},
		{observed(guide.SleepSession, with(night, "component", "["+part("93831-6", "min")+","+part("93831-6", "min")+"]")),
			"Observation.component", "only 1 times"},
		{observed(guide.SleepStage, stage), "", ""},
		{observed(guide.SleepStage, with(stage, "effectiveDateTime", "")), "Observation.effective", "is required"},
		{observed(guide.SleepStage, night), "Observation.valueQuantity", "type that is not allowed"},
		{observed(guide.HeartRateVariability, hrv), "", ""},
		{observed(guide.HeartRateVariability, with(hrv, "code", rmssd)), "", ""},
		{observed(guide.HeartRateVariability, with(hrv, "code", loinc("8867-4"))), "Observation.code", "hrv-rmssd"},
		{observed(guide.HeartRateVariability, with(hrv, "category", categories("activity"))), "Observation.category", "vital-signs"},
		{observed(guide.HeartRateVariability, with(hrv, "valueQuantity", ucum("s"))), "Observation.valueQuantity", "code ms"},
		{observed(guide.WellnessScore, score), "", ""},
		{observed(guide.WellnessScore, with(score, "valueQuantity", ucum("%"))), "Observation.valueQuantity", "{score}"},
		{observed(guide.WellnessScore+"|"+guide.Version, with(score, "category", categories("activity"))),
			"Observation.category", "survey"},
	})
	for _, r := range guide.Resources() {
		if r.Type != "StructureDefinition" {
			continue
		}
		if p := definitions.KnownProfiles().Lookup(r.URL + "|" + r.Version); len(p) != 1 {
			t.Errorf("the tables have %d of %s: run go generate in fhir/definitions", len(p), r.URL)
		}
	}
}

// TestUnitsOfComponents checks the required binding of R4's vital signs on the values of
// components: it binds the units of Quantities, and no codes and texts.
func TestUnitsOfComponents(t *testing.T) {
	component := func(value string) string {
		return observed("http://hl7.org/fhir/StructureDefinition/heartrate",
			map[string]string{"component": `[{"code":{"text":"a"},` + value + `}]`})
	}
	check(t, []bodyCase{
		{component(`"valueQuantity":` + ucum("%")), "", ""},
		{component(`"valueQuantity":{"value":1}`), "", ""},
		{component(`"valueQuantity":` + ucum("kPa")), "Observation.component[0].valueQuantity", "required value set"},
		{component(`"valueQuantity":{"value":1,"system":"http://a.test","code":"%"}`),
			"Observation.component[0].valueQuantity", "required value set"},
		{component(`"valueCodeableConcept":{"coding":[{"system":"http://a.test","code":"sitting"}]}`), "", ""},
		{component(`"valueString":"sitting"`), "", ""},
	})
}

// warningsOf returns the warnings about a valid resource.
func warningsOf(t *testing.T, typ, body string) []fhir.Issue {
	t.Helper()
	d, err := validator().Resource(validate.Request{Type: typ}, []byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	defer d.Release()
	return validator().Warnings(d)
}

// TestExtensibleBindings checks that a code outside of an extensible value set is a
// warning that names the element, and that none is given for codes of the set, texts
// without a code, or profiles that are not claimed.
func TestExtensibleBindings(t *testing.T) {
	at := func(code, profile string) []string {
		var out []string
		body := observed(profile, map[string]string{"component": `[{"code":{"text":"a"},"valueQuantity":` + ucum(code) + `}]`})
		for _, w := range warningsOf(t, "Observation", body) {
			if w.Severity != "warning" || !strings.Contains(w.Diagnostics, "extensible value set") {
				continue
			}
			out = append(out, w.Expression...)
		}
		return out
	}
	heart := usCore + "us-core-heart-rate"
	if got := at("kPa", heart); !slices.Equal(got, []string{"Observation.component[0].valueQuantity"}) {
		t.Errorf("%v", got)
	}
	for code, profile := range map[string]string{"%": heart, "kPa": "http://a.test"} {
		if got := at(code, profile); got != nil {
			t.Errorf("%s %s: %v", profile, code, got)
		}
	}
	stage := func(value string) string {
		return strings.TrimSuffix(observed(guide.SleepStage, map[string]string{"category": categories("activity", "sleep"),
			"code": `{"text":"Sleep"}`, "valueQuantity": ""}), "}") + `,"valueCodeableConcept":` + value + "}"
	}
	const apple = `{"coding":[{"system":"` + fhir.Canonical + `/CodeSystem/apple","code":"`
	for value, want := range map[string]int{apple + `REM"}]}`: 0, apple + `In Bed"}]}`: 0, `{"text":"dozing"}`: 0, apple + `Dozing"}]}`: 1} {
		if got := warningsOf(t, "Observation", stage(value)); len(got) != want {
			t.Errorf("%s: %v", value, got)
		}
	}
}

// TestExtensibleBindingsOfExamples checks that the examples of US Core, which use the codes
// of its value sets, have few warnings of extensible bindings.
func TestExtensibleBindingsOfExamples(t *testing.T) {
	warned, n := 0, 0
	for name, body := range fixtures.Examples(t, filepath.Join("r4", "us_core_700.tgz")) {
		var head struct{ ResourceType string }
		if json.Unmarshal(body, &head) != nil || head.ResourceType == "" {
			continue
		}
		n++
		for _, w := range warningsOf(t, head.ResourceType, string(body)) {
			if strings.Contains(w.Diagnostics, "extensible value set") {
				warned++
				t.Logf("%s: %v %s", name, w.Expression, w.Diagnostics)
			}
		}
	}
	if n < 170 || warned > n/10 {
		t.Errorf("%d warnings in %d examples", warned, n)
	}
}
