package validate_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/internal/fixtures"
	"pulsegate/fhir/validate"
)

const usCore = "http://hl7.org/fhir/us/core/StructureDefinition/"

// observed returns an Observation that claims a profile of US Core, with members
// that replace or add to the default ones.
func observed(profile string, members map[string]string) string {
	all := map[string]string{
		"status":   `"final"`,
		"category": `[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}]`,
		"code":     loinc("8867-4"),
		"subject":  `{"reference":"Patient/1"}`, "effectiveDateTime": `"2026-03-01"`, "valueQuantity": ucum("/min"),
	}
	for k, v := range members {
		all[k] = v
	}
	out := `{"resourceType":"Observation","meta":{"profile":["` + profile + `"]}`
	for _, k := range []string{"status", "category", "code", "subject", "effectiveDateTime", "effectivePeriod",
		"valueQuantity",
		"valueString", "dataAbsentReason", "component"} {
		if all[k] != "" {
			out += `,"` + k + `":` + all[k]
		}
	}
	return out + "}"
}

func loinc(code string) string {
	return `{"coding":[{"system":"http://loinc.org","code":"` + code + `"}]}`
}

func ucum(code string) string {
	return `{"value":1,"unit":"u","system":"http://unitsofmeasure.org","code":"` + code + `"}`
}

func TestUSCoreVitalSigns(t *testing.T) {
	type m = map[string]string
	heart := usCore + "us-core-heart-rate"
	component := func(code, unit string) string {
		return `{"code":` + loinc(code) + `,"valueQuantity":` + ucum(unit) + `}`
	}
	pressure := func(components ...string) string {
		return observed(usCore+"us-core-blood-pressure", m{"code": loinc("85354-9"), "valueQuantity": "",
			"component": "[" + strings.Join(components, ",") + "]"})
	}
	const lab = `{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}]}`
	cases := []bodyCase{
		{observed(heart, nil), "", ""},
		{observed(heart, m{"category": `[` + lab +
			`,{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}]`}), "", ""},
		{observed(heart, m{"valueQuantity": "", "dataAbsentReason": `{"text":"a"}`}), "", ""},
		{observed(heart, m{"valueQuantity": ""}), "Observation", "vs-2"},
		{observed(heart, m{"category": "[" + lab + "]"}), "Observation.category", "code vital-signs"},
		{observed(heart, m{"category": ""}), "Observation.category", "is required"},
		{observed(heart, m{"code": loinc("8867-5")}), "Observation.code", "code 8867-4"},
		{observed(heart, m{"subject": ""}), "Observation.subject", "is required"},
		{observed(heart, m{"subject": `{"reference":"Group/1"}`}), "Observation.subject", "refers to a type"},
		{observed(heart, m{"effectiveDateTime": ""}), "Observation.effective", "is required"},
		{observed(heart, m{"effectiveDateTime": `"2026-03"`}), "Observation.effectiveDateTime", "vs-1"},
		{observed(heart, m{"effectiveDateTime": "", "effectivePeriod": `{"start":"2026"}`}), "", ""},
		{observed(heart, m{"valueQuantity": "", "valueString": `"60"`}), "Observation.valueString",
			"must be a Quantity"},
		{observed(heart, m{"valueQuantity": ucum("kg")}), "Observation.valueQuantity.code", "/min"},
		{observed(heart, m{"valueQuantity": `{"value":1,"system":"http://unitsofmeasure.org","code":"/min"}`}),
			"Observation.valueQuantity.unit", "is required"},
		{pressure(component("8480-6", "mm[Hg]"), component("8462-4", "mm[Hg]")), "", ""},
		{pressure(component("8480-6", "mm[Hg]"), component("8462-4", "mm[Hg]"), component("1-8", "x")), "", ""},
		{pressure(component("8480-6", "mm[Hg]")), "Observation.component", "at least 2"},
		{pressure(component("8480-6", "mm[Hg]"), component("8480-6", "mm[Hg]")), "Observation.component",
			"only 1 times"},
		{pressure(component("8480-6", "mm[Hg]"), component("8462-4", "kg")),
			"Observation.component[1].valueQuantity.code", "mm[Hg]"},
		{pressure(component("8480-6", "mm[Hg]"), `{"code":`+loinc("8462-4")+`}`), "Observation.component[1]", "vs-3"},
		{observed(usCore+"us-core-body-temperature", m{"code": loinc("8310-5"), "valueQuantity": ucum("Cel")}), "", ""},
		{observed(usCore+"us-core-body-temperature", m{"code": loinc("8310-5"), "valueQuantity": ucum("K")}),
			"Observation.valueQuantity.code", "Cel or [degF]"},
		// Claims by version, of other types, and of profiles that are not known.
		{observed(heart+"|6.1.0", m{"subject": ""}), "Observation.subject", "us-core-heart-rate 6.1.0"},
		{observed(heart+"|1.0.0", m{"subject": ""}), "", ""},
		{observed("http://a.test/profile", m{"subject": ""}), "", ""},
		{observed(usCore+"us-core-patient", nil), "Observation.meta.profile[0]", "another resource type"},
	}
	check(t, cases)
}

func TestUSCorePatient(t *testing.T) {
	person := func(members string) string {
		return patient(`"meta":{"profile":["` + usCore + `us-core-patient|6.1.0"]},` + members)
	}
	const plain = `"identifier":[{"system":"urn:a","value":"1"}],"name":[{"family":"a"}],"gender":"female"`
	race := func(inner string) string {
		return person(plain + `,"extension":[{"url":"` + usCore + `us-core-race","extension":[` + inner + `]}]`)
	}
	const text = `{"url":"text","valueString":"a"}`
	const white = `{"url":"ombCategory","valueCoding":{"system":"urn:oid:2.16.840.1.113883.6.238","code":"2106-3"}}`
	check(t, []bodyCase{
		{person(plain), "", ""},
		{person(`"identifier":[{"system":"urn:a","value":"1"}],"name":[{"family":"a"}]`), "Patient.gender",
			"is required"},
		{person(`"name":[{"family":"a"}],"gender":"female"`), "Patient.identifier", "is required"},
		{person(strings.Replace(plain, `"system":"urn:a",`, "", 1)), "Patient.identifier[0].system", "is required"},
		{person(strings.Replace(plain, `"family"`, `"text"`, 1)), "Patient.name[0]", "us-core-6"},
		{person(strings.Replace(plain, `{"family":"a"}`,
			`{"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/data-absent-reason","valueCode":"unknown"}]}`, 1)), "", ""},
		{race(text), "", ""},
		{race(white + "," + text), "", ""},
		{race(white), "Patient.extension[0].extension", "text"},
		{race(text + "," + text), "Patient.extension[0].extension", "only 1 times"},
		{race(strings.Replace(text, "valueString", "valueCode", 1)), "Patient.extension[0].extension[0].valueCode",
			"type that is not allowed"},
		{strings.Replace(race(text), `"extension":[`+text+`]`, `"valueString":"a"`, 1),
			"Patient.extension[0].extension", "is required"},
	})
}

// TestDemandedProfiles tests that a request can demand profiles that the resource
// does not claim.
func TestDemandedProfiles(t *testing.T) {
	body := observed("http://a.test", map[string]string{"subject": ""})
	r := validate.Request{Type: "Observation"}
	if is := issuesOf(t, validator(), r, body); is != nil {
		t.Errorf("%v", is)
	}
	r.Profiles = []string{"http://a.test/unknown"}
	if is := issuesOf(t, validator(), r, body); len(is) != 1 || is[0].Code != "not-supported" {
		t.Errorf("%v", is)
	}
	r.Profiles = []string{usCore + "us-core-heart-rate"}
	if is := issuesOf(t, validator(), r, body); len(is) == 0 || is[0].Expression[0] != "Observation.subject" {
		t.Errorf("%v", is)
	}
}

// TestVersions tests that a claim without a version is met if a version of the
// profile accepts the resource.
func TestVersions(t *testing.T) {
	for _, p := range definitions.KnownProfiles().Lookup(usCore + "us-core-patient") {
		if lineage := p.Lineage(); lineage[len(lineage)-1] != p {
			t.Errorf("%s: the lineage does not end in the profile", p.Version)
		}
	}
	// US Core 6.1.0 and 7.0.0 require a gender, 9.0.0 does not.
	body := func(version string) string {
		return patient(`"meta":{"profile":["` + usCore + `us-core-patient` + version +
			`"]},"identifier":[{"system":"urn:a","value":"1"}],"name":[{"family":"a"}]`)
	}
	check(t, []bodyCase{
		{body(""), "", ""},
		{body("|9.0.0"), "", ""},
		{body("|7.0.0"), "Patient.gender", "us-core-patient 7.0.0"},
		{body("|6.1.0"), "Patient.gender", "us-core-patient 6.1.0"},
	})
}

// invalidGuideExamples lists the examples of US Core that break a rule, with the
// path of the issue.
var invalidGuideExamples = map[string]string{ // read only
	"9.0.0 diagnosticreport-cbc.json": "DiagnosticReport.text", // a narrative without div
}

// TestUSCoreExamples tests that the examples of US Core 6.1, 7.0 and 9.0 are
// valid, under the profiles that they claim.
func TestUSCoreExamples(t *testing.T) {
	for version, file := range map[string]string{"6.1.0": "us_core_610.tgz", "7.0.0": "us_core_700.tgz",
		"9.0.0": "us_core_900.tgz"} {
		claims, n := 0, 0
		for name, body := range fixtures.Examples(t, filepath.Join("r4", file)) {
			var head struct {
				ResourceType string
				Meta         struct{ Profile []string }
			}
			if json.Unmarshal(body, &head) != nil || head.ResourceType == "" {
				continue
			}
			n++
			r := validate.Request{Type: head.ResourceType}
			for _, p := range head.Meta.Profile {
				url, _, _ := strings.Cut(p, "|")
				if len(definitions.KnownProfiles().Lookup(url+"|"+version)) > 0 {
					claims++
					r.Profiles = append(r.Profiles, url+"|"+version)
				}
			}
			issues := issuesOf(t, validator(), r, string(body))
			want := invalidGuideExamples[version+" "+name]
			if want == "" && issues != nil || want != "" && (issues == nil || issues[0].Expression[0] != want) {
				t.Errorf("%s %s: %v", version, name, issues)
			}
		}
		if n < 170 || claims < 140 {
			t.Errorf("%s: %d examples, %d claims", version, n, claims)
		}
		t.Logf("%s: %d examples, %d claims", version, n, claims)
	}
}

// TestProfilesCompile compiles every profile and checks a resource that has only
// the elements that the type requires, so that every profile is run.
func TestProfilesCompile(t *testing.T) {
	refused := 0
	for _, p := range definitions.KnownProfiles().All() {
		if p.Type == "Extension" {
			continue
		}
		body := `{"resourceType":"` + p.Type + `","id":"a"}`
		issues := issuesOf(t, validator(),
			validate.Request{Type: p.Type, Profiles: []string{p.URL + "|" + p.Version}}, body)
		if slices.ContainsFunc(issues, func(is fhir.Issue) bool {
			return strings.Contains(is.Diagnostics,
				"(profile ")
		}) {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no profile refuses an empty resource")
	}
}
