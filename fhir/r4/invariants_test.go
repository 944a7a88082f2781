package r4_test

import (
	"errors"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
)

// vector gives members to be added to minimal resources: resources with good
// are accepted, resources with bad are refused with the rule at the path.
type vector struct {
	rule, typ, path string
	good, bad       []string
}

// minimal holds the required members of each type.
var minimal = map[string]string{ // read only
	"Observation":  `"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]}`,
	"Patient":      `"active":true`,
	"Consent":      `"status":"active","scope":{"text":"s"},"category":[{"text":"c"}],"patient":{"reference":"Patient/a"}`,
	"Group":        `"type":"person"`,
	"Organization": `"active":true`,
	"AuditEvent":   `"type":{"code":"rest"},"recorded":"2026-03-01T08:00:00Z","agent":[{"requestor":true}],"source":{"observer":{"display":"o"}}`,
	"Device":       `"status":"active"`,
}

// ext returns a Patient with an extension whose value is the given element.
func ext(values ...string) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = `"extension":[{"url":"http://x.test/e",` + v + `}]`
	}
	return out
}

const ucumA = `"system":"http://unitsofmeasure.org","code":"a"`

var vectors = []vector{ // read only
	{"age-1", "Patient", "Patient.extension[0].valueAge",
		ext(`"valueAge":{"value":30,`+ucumA+`}`,
			`"valueAge":{"value":0.5,"system":"http://unitsofmeasure.org","code":"mo"}`, `"valueAge":{"unit":"years"}`),
		ext(`"valueAge":{"value":30,"unit":"years"}`, `"valueAge":{"value":0,`+ucumA+`}`,
			`"valueAge":{"value":-1,`+ucumA+`}`,
			`"valueAge":{"value":30,"system":"http://x.test","code":"a"}`,
			`"valueAge":{"value":30,"system":"http://unitsofmeasure.org","code":"kg"}`)},
	{"qty-3", "Patient", "Patient.extension[0].valueQuantity",
		ext(`"valueQuantity":{"value":1}`, `"valueQuantity":{"value":1,"system":"http://x.test","code":"c"}`,
			`"valueQuantity":{"value":1,"unit":"u"}`),
		ext(`"valueQuantity":{"value":1,"code":"c"}`, `"valueQuantity":{"code":"c"}`)},
	{"cnt-3", "Patient", "Patient.extension[0].valueCount",
		ext(`"valueCount":{"value":3,"system":"http://unitsofmeasure.org","code":"1"}`),
		ext(`"valueCount":{"value":3}`, `"valueCount":{"value":3.5,"system":"http://unitsofmeasure.org","code":"1"}`, `"valueCount":{"value":3,"system":"http://unitsofmeasure.org","code":"2"}`)},
	{"dis-1", "Patient", "Patient.extension[0].valueDistance",
		ext(`"valueDistance":{"value":3,"system":"http://unitsofmeasure.org","code":"km"}`),
		ext(`"valueDistance":{"value":3}`, `"valueDistance":{"value":3,"system":"http://x.test","code":"km"}`)},
	{"drt-1", "Patient", "Patient.extension[0].valueDuration",
		ext(`"valueDuration":{"value":3,`+ucumA+`}`, `"valueDuration":{"value":3,"unit":"years"}`),
		ext(`"valueDuration":{"value":3,"system":"http://x.test","code":"a"}`, `"valueDuration":{`+ucumA+`}`)},
	{"rng-2", "Observation", "Observation.valueRange",
		[]string{`"valueRange":{"low":{"value":1},"high":{"value":2}}`,
			`"valueRange":{"low":{"value":2},"high":{"value":2}}`, `"valueRange":{"low":{"value":2}}`,
			`"valueRange":{"low":{"value":200,"system":"http://unitsofmeasure.org","code":"g"},"high":{"value":2,"system":"http://unitsofmeasure.org","code":"kg"}}`},
		[]string{`"valueRange":{"low":{"value":3},"high":{"value":2}}`,
			`"valueRange":{"low":{"value":3,"unit":"kg"},"high":{"value":2,"unit":"kg"}}`,
			`"valueRange":{"low":{"value":-1,"system":"http://unitsofmeasure.org","code":"g"},"high":{"value":-2,"system":"http://unitsofmeasure.org","code":"g"}}`}},
	{"rng-2", "Observation", "Observation.referenceRange[0].age",
		[]string{`"referenceRange":[{"text":"t","age":{"low":{"value":1},"high":{"value":2}}}]`},
		[]string{`"referenceRange":[{"text":"t","age":{"low":{"value":2},"high":{"value":1}}}]`}},
	{"rng-2", "Observation", "Observation.component[0].valueRange", nil,
		[]string{`"component":[{"code":{"text":"c"},"valueRange":{"low":{"value":2},"high":{"value":1}}}]`}},
	{"rat-1", "Observation", "Observation.valueRatio",
		[]string{`"valueRatio":{"numerator":{"value":1},"denominator":{"value":2}}`,
			`"valueRatio":{"extension":[{"url":"http://x.test/e","valueCode":"c"}]}`},
		[]string{`"valueRatio":{"numerator":{"value":1}}`, `"valueRatio":{"denominator":{"value":1}}`,
			`"valueRatio":{"id":"a"}`,
			`"valueRatio":{"numerator":{"value":1},"extension":[{"url":"http://x.test/e","valueCode":"c"}]}`}},
	{"per-1", "Observation", "Observation.effectivePeriod",
		[]string{`"effectivePeriod":{"start":"2026-03-01","end":"2026-03-01"}`,
			`"effectivePeriod":{"start":"2026-03-01T08:00:00+01:00","end":"2026-03-01T07:00:00Z"}`,
			`"effectivePeriod":{"end":"2026"}`},
		[]string{`"effectivePeriod":{"start":"2026-03-02","end":"2026-03-01"}`,
			`"effectivePeriod":{"start":"2026-03-01T08:00:00Z","end":"2026-03-01T08:00:00+01:00"}`}},
	{"att-1", "Patient", "Patient.photo[0]",
		[]string{`"photo":[{"contentType":"image/png","data":"aGVsbG8="}]`, `"photo":[{"url":"http://x.test/a"}]`},
		[]string{`"photo":[{"data":"aGVsbG8="}]`}},
	{"att-1", "Patient", "Patient.extension[0].valueAttachment", nil,
		ext(`"valueAttachment":{"data":"aGVsbG8=","title":"t"}`)},
	{"cpt-2", "Patient", "Patient.telecom[0]",
		[]string{`"telecom":[{"system":"phone","value":"1"}]`, `"telecom":[{"use":"home"}]`},
		[]string{`"telecom":[{"value":"1"}]`}},
	{"cpt-2", "Patient", "Patient.contact[0].telecom[0]", nil, []string{`"contact":[{"telecom":[{"value":"1"}]}]`}},
	{"cpt-2", "Patient", "Patient.birthDate.extension[0].valueContactPoint", nil,
		[]string{`"_birthDate":{"extension":[{"url":"http://x.test/e","valueContactPoint":{"value":"1"}}]}`}},
	{"tim-1", "Observation", "Observation.effectiveTiming.repeat", repeat(`"duration":1,"durationUnit":"h"`),
		repeat(`"duration":1`)},
	{"tim-2", "Observation", "Observation.effectiveTiming.repeat", repeat(`"period":1,"periodUnit":"d"`),
		repeat(`"period":1`)},
	{"tim-4", "Observation", "Observation.effectiveTiming.repeat.duration",
		repeat(`"duration":0,"durationUnit":"h"`), repeat(`"duration":-1,"durationUnit":"h"`)},
	{"tim-5", "Observation", "Observation.effectiveTiming.repeat.period", repeat(`"period":0,"periodUnit":"d"`),
		repeat(`"period":-0.5,"periodUnit":"d"`)},
	{"tim-6", "Observation", "Observation.effectiveTiming.repeat",
		repeat(`"period":1,"periodUnit":"d","periodMax":2`), repeat(`"periodMax":2`)},
	{"tim-7", "Observation", "Observation.effectiveTiming.repeat",
		repeat(`"duration":1,"durationUnit":"h","durationMax":2`), repeat(`"durationMax":2`)},
	{"tim-8", "Observation", "Observation.effectiveTiming.repeat", repeat(`"count":1,"countMax":2`),
		repeat(`"countMax":2`)},
	{"tim-9", "Observation", "Observation.effectiveTiming.repeat.offset", repeat(`"when":["HS"],"offset":30`),
		repeat(`"offset":30`, `"when":["C"],"offset":30`, `"when":["HS","CD"],"offset":30`)},
	{"tim-10", "Observation", "Observation.effectiveTiming.repeat",
		repeat(`"timeOfDay":["08:00:00"]`, `"when":["HS"]`), repeat(`"timeOfDay":["08:00:00"],"when":["HS"]`)},
	{"exp-1", "Patient", "Patient.extension[0].valueExpression",
		ext(`"valueExpression":{"language":"text/cql","expression":"x"}`,
			`"valueExpression":{"language":"text/cql","reference":"http://x.test/l"}`),
		ext(`"valueExpression":{"language":"text/cql"}`)},
	{"trd-1", "Patient", "Patient.extension[0].valueTriggerDefinition",
		ext(`"valueTriggerDefinition":{"type":"periodic","timingDate":"2026-03-01"}`),
		ext(`"valueTriggerDefinition":{"type":"data-added","timingDate":"2026-03-01","data":[{"type":"Patient"}]}`)},
	{"trd-2", "Patient", "Patient.extension[0].valueTriggerDefinition.condition", nil,
		ext(`"valueTriggerDefinition":{"type":"named-event","name":"n","condition":{"language":"text/cql","expression":"x"}}`)},
	{"trd-3", "Patient", "Patient.extension[0].valueTriggerDefinition",
		ext(`"valueTriggerDefinition":{"type":"named-event","name":"n"}`,
			`"valueTriggerDefinition":{"type":"data-added","data":[{"type":"Patient"}]}`),
		ext(`"valueTriggerDefinition":{"type":"named-event"}`, `"valueTriggerDefinition":{"type":"periodic"}`,
			`"valueTriggerDefinition":{"type":"data-added"}`)},
	{"drq-1", "Patient", "Patient.extension[0].valueDataRequirement.codeFilter[0]",
		ext(`"valueDataRequirement":{"type":"Patient","codeFilter":[{"path":"p"}]}`),
		ext(`"valueDataRequirement":{"type":"Patient","codeFilter":[{"path":"p","searchParam":"s"}]}`,
			`"valueDataRequirement":{"type":"Patient","codeFilter":[{"valueSet":"http://x.test/v"}]}`)},
	{"drq-2", "Patient", "Patient.extension[0].valueDataRequirement.dateFilter[0]",
		ext(`"valueDataRequirement":{"type":"Patient","dateFilter":[{"searchParam":"s"}]}`),
		ext(`"valueDataRequirement":{"type":"Patient","dateFilter":[{"valueDateTime":"2026"}]}`)},
	{"ext-1", "Patient", "Patient.extension[0]",
		ext(`"valueString":"a"`, `"extension":[{"url":"a","valueString":"b"}]`),
		ext(`"valueString":"a","extension":[{"url":"a","valueString":"b"}]`, `"id":"a"`)},
	{"obs-3", "Observation", "Observation.referenceRange[0]",
		[]string{`"referenceRange":[{"low":{"value":1}}]`, `"referenceRange":[{"text":"t"}]`},
		[]string{`"referenceRange":[{"type":{"text":"t"}}]`}},
	{"obs-6", "Observation", "Observation.dataAbsentReason", []string{`"dataAbsentReason":{"text":"t"}`},
		[]string{`"dataAbsentReason":{"text":"t"},"valueInteger":1`}},
	{"obs-7", "Observation", "Observation.value",
		[]string{`"valueInteger":1,"component":[{"code":{"text":"c"},"valueInteger":1}]`},
		[]string{`"valueInteger":1,"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]}}]`}},
	{"org-1", "Organization", "Organization",
		[]string{`"name":"n"`, `"identifier":[{"value":"1"}]`,
			`"_name":{"extension":[{"url":"http://x.test/e","valueCode":"c"}]}`}, []string{`"alias":["a"]`}},
	{"org-2", "Organization", "Organization.address[1]",
		[]string{`"name":"n","address":[{"use":"work","city":"c"}]`},
		[]string{`"name":"n","address":[{"use":"work","city":"c"},{"use":"home","city":"c"}]`}},
	{"org-3", "Organization", "Organization.telecom[0]",
		[]string{`"name":"n","telecom":[{"use":"work","system":"phone","value":"1"}]`},
		[]string{`"name":"n","telecom":[{"use":"home","system":"phone","value":"1"}]`}},
	{"org-3", "Patient", "Patient.contained[0].telecom[0]", nil,
		[]string{`"contained":[{"resourceType":"Organization","id":"x","name":"n","telecom":[{"use":"home","system":"phone","value":"1"}]}],"managingOrganization":{"reference":"#x"}`}},
	{"pat-1", "Patient", "Patient.contact[0]",
		[]string{`"contact":[{"name":{"text":"n"}}]`,
			`"contact":[{"organization":{"reference":"Organization/o"}}]`},
		[]string{`"contact":[{"gender":"female"}]`}},
	{"grp-1", "Group", "Group.member", []string{`"actual":true,"member":[{"entity":{"reference":"Patient/a"}}]`,
		`"actual":false`}, []string{`"actual":false,"member":[{"entity":{"reference":"Patient/a"}}]`}},
	{"ppc-1", "Consent", "Consent", []string{`"policyRule":{"text":"p"}`, `"policy":[{"uri":"http://x.test/p"}]`},
		[]string{`"dateTime":"2026"`}},
	{"sev-1", "AuditEvent", "AuditEvent.entity[0]",
		[]string{`"entity":[{"name":"n"}]`, `"entity":[{"query":"aGVsbG8="}]`},
		[]string{`"entity":[{"name":"n","query":"aGVsbG8="}]`}},
	{"dom-2", "Patient", "Patient.contained[0]", nil,
		[]string{`"contained":[{"resourceType":"Organization","id":"x","name":"n","contained":[{"resourceType":"Organization","id":"y","name":"n"}]}],"managingOrganization":{"reference":"#x"}`}},
	{"dom-3", "Patient", "Patient.contained[1]", []string{
		`"contained":[{"resourceType":"Provenance","id":"x","target":[{"reference":"#"}],"recorded":"2026-03-01T08:00:00Z","agent":[{"who":{"display":"w"}}]}]`,
		`"contained":[{"resourceType":"Library","id":"x","status":"active","type":{"text":"t"}}],"extension":[{"url":"http://x.test/e","valueCanonical":"#x"}]`},
		[]string{`"contained":[{"resourceType":"Provenance","id":"x","target":[{"reference":"#"}],"recorded":"2026-03-01T08:00:00Z","agent":[{"who":{"display":"w"}}]},{"resourceType":"Organization","id":"y","name":"n"}]`}},
	{"dom-4", "Patient", "Patient.contained[0]", nil,
		[]string{`"contained":[{"resourceType":"Organization","id":"x","name":"n","meta":{"versionId":"1"}}],"managingOrganization":{"reference":"#x"}`}},
	{"dom-5", "Patient", "Patient.contained[0]", nil,
		[]string{`"contained":[{"resourceType":"Organization","id":"x","name":"n","meta":{"security":[{"code":"c"}]}}],"managingOrganization":{"reference":"#x"}`}},
	{"ref-1", "Patient", "Patient.managingOrganization", nil, []string{`"managingOrganization":{"reference":"#x"}`}},
	{"contained resource of a type", "Observation", "Observation.subject",
		[]string{`"contained":[{"resourceType":"Patient","id":"x"}],"subject":{"reference":"#x"}`},
		[]string{`"contained":[{"resourceType":"Organization","id":"x","name":"n"}],"subject":{"reference":"#x"}`}},
	{"contained resource of a type", "Patient", "Patient.contained[0].managingOrganization", nil,
		[]string{`"contained":[{"resourceType":"Patient","id":"x","managingOrganization":{"reference":"#"}}],"link":[{"other":{"reference":"#x"},"type":"seealso"}]`}},
	{"must be the type that the reference names", "Observation", "Observation.subject.type",
		[]string{`"subject":{"reference":"Patient/a","type":"Patient"}`,
			`"subject":{"reference":"http://x.test/fhir/Patient/a/_history/1","type":"Patient"}`,
			`"subject":{"reference":"Patient/a","type":"http://hl7.org/fhir/StructureDefinition/Patient"}`,
			`"subject":{"reference":"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7","type":"Patient"}`},
		[]string{`"subject":{"reference":"Patient/a","type":"Group"}`,
			`"subject":{"reference":"http://x.test/fhir/Patient/a","type":"Group"}`,
			`"subject":{"reference":"Patient/a/_history/2","type":"http://hl7.org/fhir/StructureDefinition/Group"}`,
			`"contained":[{"resourceType":"Patient","id":"x"}],"subject":{"reference":"#x","type":"Group"}`}},
	{"type that this element cannot refer to", "Observation", "Observation.subject.type",
		[]string{`"subject":{"type":"Patient","identifier":{"value":"1"}}`},
		[]string{`"subject":{"type":"Medication","identifier":{"value":"1"}}`}},
	{"rules that this server does not know", "Patient", "Patient.implicitRules", nil,
		[]string{`"implicitRules":"http://x.test/r"`}},
	{"rules that this server does not know", "Patient", "Patient.contained[0].implicitRules", nil,
		[]string{`"contained":[{"resourceType":"Organization","id":"x","name":"n","implicitRules":"http://x.test/r"}],"managingOrganization":{"reference":"#x"}`}},
	{"same id", "Patient", "Patient.name[1].id",
		[]string{`"name":[{"id":"a","family":"f"},{"id":"b","family":"g"}]`,
			`"name":[{"id":"x","family":"f"}],"contained":[{"resourceType":"Organization","id":"x","name":"n","telecom":[{"id":"x","system":"phone"}]}],"managingOrganization":{"reference":"#x"}`},
		[]string{`"name":[{"id":"a","family":"f"},{"id":"a","family":"g"}]`}},
	{"same id", "Patient", "Patient.birthDate.id", nil,
		[]string{`"name":[{"id":"a","family":"f"}],"birthDate":"2000","_birthDate":{"id":"a"}`}},
	{"id of an element must not have white space", "Patient", "Patient.name[0].id", nil,
		[]string{`"name":[{"id":"a b","family":"f"}]`}},
}

// repeat returns an Observation with a Timing.
func repeat(members ...string) []string {
	out := make([]string, len(members))
	for i, m := range members {
		out[i] = `"effectiveTiming":{"repeat":{` + m + `}}`
	}
	return out
}

// forms tests the texts of primitive types.
var forms = []vector{ // read only
	{"URI has no white space", "Patient", "Patient.identifier[0].system",
		[]string{`"identifier":[{"system":"http://x.test/a-b?c=d#e","value":"1"}]`,
			`"identifier":[{"system":"urn:x:y","value":"1"}]`,
			`"identifier":[{"system":"http://x.test/é","value":"1"}]`},
		[]string{`"identifier":[{"system":"http://x.test/a b","value":"1"}]`,
			`"identifier":[{"system":" http://x.test","value":"1"}]`,
			`"identifier":[{"system":"http://x.test/\t","value":"1"}]`,
			`"identifier":[{"system":"http://x.test/\u00a0","value":"1"}]`}},
	{"URI has no white space", "Observation", "Observation.code.coding[0].system", nil,
		[]string{`"method":{"text":"t"},"code":{"coding":[{"system":"http://x.test/a b","code":"c"}]}`}},
	{"URI has no white space", "Patient", "Patient.meta.profile[0]", nil,
		[]string{`"meta":{"profile":["http://x.test/a b"]}`}},
	{"URI has no white space", "Patient", "Patient.extension[0].valueUrl", nil, ext(`"valueUrl":"http://x.test/a b"`)},
	{"URI has no white space", "Patient", "Patient.birthDate.extension[0].url", nil,
		[]string{`"_birthDate":{"extension":[{"url":"http://x.test/a b","valueCode":"c"}]}`}},
	{"must be an OID", "Patient", "Patient.identifier[0].system",
		[]string{`"identifier":[{"system":"urn:oid:1.2.0.36","value":"1"}]`},
		[]string{`"identifier":[{"system":"urn:oid:1.02.3","value":"1"}]`,
			`"identifier":[{"system":"urn:oid:3.1","value":"1"}]`,
			`"identifier":[{"system":"urn:oid:1","value":"1"}]`}},
	{"must be an OID", "Patient", "Patient.extension[0].valueOid", ext(`"valueOid":"urn:oid:1.2.3"`),
		ext(`"valueOid":"urn:oid:1.02.3"`)},
	{"must be a UUID", "Patient", "Patient.identifier[0].system",
		[]string{`"identifier":[{"system":"urn:uuid:53FEFA32-fcbb-4ff8-8a92-55ee120877b7","value":"1"}]`},
		[]string{`"identifier":[{"system":"urn:uuid:XYZ","value":"1"}]`,
			`"identifier":[{"system":"urn:uuid:53fefa32fcbb4ff88a9255ee120877b7","value":"1"}]`}},
	{"", "Patient", "Patient.extension[0].valueUuid",
		ext(`"valueUuid":"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"`),
		ext(`"valueUuid":"urn:uuid:53FEFA32-fcbb-4ff8-8a92-55ee120877b7"`, `"valueUuid":"urn:uuid:XYZ"`)},
	{"", "Patient", "Patient.extension[0].valueCode", ext(`"valueCode":"a b"`),
		ext(`"valueCode":" a"`, `"valueCode":"a  b"`, `"valueCode":"a "`)},
	{"language tag", "Patient", "Patient.language",
		[]string{`"language":"en"`, `"language":"de-CH"`, `"language":"zh-Hant-TW"`, `"language":"x-own"`},
		[]string{`"language":"not a lang"`, `"language":"en_US"`, `"language":"e"`, `"language":"englishlanguage"`}},
	{"language tag", "Patient", "Patient.photo[0].language", []string{`"photo":[{"language":"en-GB","title":"t"}]`},
		[]string{`"photo":[{"language":"not a lang","title":"t"}]`}},
	{"media type", "Patient", "Patient.photo[0].contentType",
		[]string{`"photo":[{"contentType":"image/png"}]`, `"photo":[{"contentType":"text/plain; charset=UTF-8"}]`,
			`"photo":[{"contentType":"application/fhir+json;fhirVersion=4.0"}]`},
		[]string{`"photo":[{"contentType":"not a mime"}]`, `"photo":[{"contentType":"png"}]`,
			`"photo":[{"contentType":"image/"}]`}},
	{"ISO 4217", "Patient", "Patient.extension[0].valueMoney.currency",
		ext(`"valueMoney":{"value":1,"currency":"EUR"}`, `"valueMoney":{"value":1,"currency":"CHF"}`),
		ext(`"valueMoney":{"value":1,"currency":"XYZ"}`, `"valueMoney":{"value":1,"currency":"eur"}`,
			`"valueMoney":{"value":1,"currency":"EURO"}`)},
	{"empty", "Patient", "Patient.meta", []string{`"meta":{"source":"http://x.test"}`}, []string{`"meta":{}`}},
}

// TestInvariants validates resources that keep and break each invariant.
func TestInvariants(t *testing.T) {
	holds(t, vectors, fhir.Unprocessable)
	holds(t, forms, fhir.Invalid)
}

func holds(t *testing.T, list []vector, kind fhir.Kind) {
	t.Helper()
	for _, c := range list {
		for _, members := range c.good {
			if _, err := validator().Resource(c.typ, vectorBody(c.typ, members), "o1"); err != nil {
				t.Errorf("%s: refused %s: %s", c.rule, members, r4.OutcomeJSON(err))
			}
		}
		for _, members := range c.bad {
			_, err := validator().Resource(c.typ, vectorBody(c.typ, members), "o1")
			var e *fhir.Error
			if !errors.As(err, &e) {
				t.Errorf("%s: accepted %s", c.rule, members)
				continue
			}
			found := false
			for _, i := range e.Issues {
				found = found || strings.Contains(i.Diagnostics, c.rule) && strings.HasPrefix(i.Expression[0], c.path)
			}
			if !found || e.Kind != kind {
				t.Errorf("%s: %s: kind %d, %+v", c.rule, members, e.Kind, e.Issues)
			}
		}
	}
}

// vectorBody returns a minimal resource in which members replace its own.
func vectorBody(typ, members string) []byte {
	base := minimal[typ]
	if strings.Contains(members, `"code":{"coding":[{"system":"http://x.test/a b"`) {
		base = `"status":"final"`
	}
	return []byte(`{"resourceType":"` + typ + `","id":"o1",` + base + `,` + members + `}`)
}

// TestConsentNeedsPatient tests ppc-2 to ppc-5.
func TestConsentNeedsPatient(t *testing.T) {
	for code, key := range map[string]string{"patient-privacy": "ppc-2", "research": "ppc-3", "adr": "ppc-4",
		"treatment": "ppc-5"} {
		body := func(system, rest string) []byte {
			return []byte(`{"resourceType":"Consent","id":"o1","status":"active","scope":{"coding":[{"system":"` +
				system + `","code":"` + code + `"}]},"category":[{"text":"c"}],"policyRule":{"text":"p"}` + rest + `}`)
		}
		const scopes = "http://terminology.hl7.org/CodeSystem/consentscope"
		if _, err := validator().Resource("Consent", body(scopes, ""), "o1"); err == nil ||
			!strings.Contains(err.Error(), key) {
			t.Errorf("%s without patient: %v", code, err)
		}
		if _, err := validator().Resource("Consent", body(scopes, `,"patient":{"reference":"Patient/a"}`),
			"o1"); err != nil {
			t.Errorf("%s with patient: %v", code, err)
		}
		if _, err := validator().Resource("Consent", body("http://x.test/scopes", ""), "o1"); err != nil {
			t.Errorf("%s of another system: %v", code, err)
		}
	}
}

// vital returns an Observation with the category vital-signs.
func vital(profile, code, rest string) string {
	meta := ""
	if profile != "" {
		meta = `"meta":{"profile":["http://hl7.org/fhir/StructureDefinition/` + profile + `"]},`
	}
	return `{"resourceType":"Observation","id":"o1",` + meta +
		`"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],` +
		`"code":{"coding":[{"system":"http://loinc.org","code":"` + code +
		`"}]},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-03-01"` + rest + `}`
}

func quantity(unit string) string {
	return `"valueQuantity":{"value":1,"unit":"u","system":"http://unitsofmeasure.org","code":"` + unit + `"}`
}

func pressure(code, value string) string {
	return `{"code":{"coding":[{"system":"http://loinc.org","code":"` + code + `"}]},` + value + `}`
}

// TestVitalSigns tests R4's profiles of vital signs, which the server claims to
// support.
func TestVitalSigns(t *testing.T) {
	absent := `"dataAbsentReason":{"text":"t"}`
	both := `,"component":[` + pressure("8480-6", quantity("mm[Hg]")) + `,` +
		pressure("8462-4", quantity("mm[Hg]")) + `]`
	for _, c := range []struct{ name, body, rule string }{
		{"no profile, value", vital("", "1-8", `,"valueInteger":1`), ""},
		{"no profile, no value", vital("", "1-8", ``), "vs-2"},
		{"no profile, absent", vital("", "1-8", `,`+absent), ""},
		{"no profile, members", vital("", "1-8", `,"hasMember":[{"reference":"Observation/a"}]`), ""},
		{"no profile, empty component", vital("", "1-8", `,"component":[{"code":{"text":"c"}}]`), "vs-3"},
		{"base, no value", vital("vitalsigns", "1-8", ``), "vs-2"},
		{"base, month", strings.Replace(vital("vitalsigns", "1-8", `,"valueInteger":1`), `"2026-03-01"`,
			`"2026-03"`, 1), "vs-1"},
		{"heart rate", vital("heartrate", "8867-4", `,`+quantity("/min")), ""},
		{"heart rate by version", vital("heartrate|4.0.1", "8867-4", `,"valueString":"a"`), "must be a Quantity"},
		{"heart rate absent", vital("heartrate", "8867-4", `,`+absent), ""},
		{"heart rate as string", vital("heartrate", "8867-4", `,"valueString":"62"`), "must be a Quantity"},
		{"heart rate without value", vital("heartrate", "8867-4", ``), "vs-2"},
		{"heart rate in another unit", vital("heartrate", "8867-4", `,`+quantity("kg")), "/min"},
		{"heart rate without unit", vital("heartrate", "8867-4",
			`,"valueQuantity":{"value":1,"system":"http://unitsofmeasure.org","code":"/min"}`),
			"is required: unit"},
		{"heart rate with another code", vital("heartrate", "9279-1", `,`+quantity("/min")), "8867-4"},
		{"respiratory rate", vital("resprate", "9279-1", `,`+quantity("/min")), ""},
		{"respiratory rate, unit", vital("resprate", "9279-1", `,`+quantity("%")), "/min"},
		{"saturation", vital("oxygensat", "2708-6", `,`+quantity("%")), ""},
		{"saturation, code", vital("oxygensat", "59408-5", `,`+quantity("%")), "2708-6"},
		{"temperature", vital("bodytemp", "8310-5", `,`+quantity("[degF]")), ""},
		{"temperature, unit", vital("bodytemp", "8310-5", `,`+quantity("K")), "Cel"},
		{"height", vital("bodyheight", "8302-2", `,`+quantity("cm")), ""},
		{"height, unit", vital("bodyheight", "8302-2", `,`+quantity("m")), "cm"},
		{"head", vital("headcircum", "9843-4", `,`+quantity("[in_i]")), ""},
		{"head, unit", vital("headcircum", "9843-4", `,`+quantity("m")), "cm"},
		{"weight", vital("bodyweight", "29463-7", `,`+quantity("g")), ""},
		{"weight, unit", vital("bodyweight", "29463-7", `,`+quantity("t")), "kg"},
		{"BMI", vital("bmi", "39156-5", `,`+quantity("kg/m2")), ""},
		{"BMI, unit", vital("bmi", "39156-5", `,`+quantity("kg")), "kg/m2"},
		{"pressure", vital("bp", "85354-9", both), ""},
		{"pressure, diastolic absent", vital("bp", "85354-9",
			`,"component":[`+pressure("8480-6", quantity("mm[Hg]"))+`,`+pressure("8462-4", absent)+`]`), ""},
		{"pressure, one component", vital("bp", "85354-9",
			`,"component":[`+pressure("8480-6", quantity("mm[Hg]"))+`]`), "DiastolicBP"},
		{"pressure with a value", vital("bp", "85354-9", both+`,`+quantity("mm[Hg]")), "is not allowed"},
		{"pressure, unit", vital("bp", "85354-9", strings.Replace(both, "mm[Hg]", "%", 1)), "mm[Hg]"},
		{"pressure, twice systolic", vital("bp", "85354-9", strings.Replace(both, "8462-4", "8480-6", 1)), "DiastolicBP"},
		{"panel", vital("vitalspanel", "85353-1", `,"hasMember":[{"reference":"Observation/a"}]`), ""},
		{"panel without members", vital("vitalspanel", "85353-1", `,`+absent), "hasMember"},
	} {
		_, err := validator().Resource("Observation", []byte(c.body), "o1")
		if (err == nil) != (c.rule == "") || err != nil && !strings.Contains(string(r4.OutcomeJSON(err)), c.rule) {
			t.Errorf("%s: %s", c.name, r4.OutcomeJSON(err))
		}
	}
}

// TestAllIssuesAreReportedTogether expects the issues of all checks in one
// error, each with its position in the original body.
func TestAllIssuesAreReportedTogether(t *testing.T) {
	body := "\ufeff{\n" + `  "resourceType": "Patient",
  "id": "o1",
  "gender": "robot",
  "telecom": [
    {"system": "phone", "value": "1"}, {"value": "2"}
  ],
  "name": [{"family": "", "given": ["é", null]}],
  "identifier": [{"system": "a b", "value": "1"}],
  "text": {"status": "generated", "div": "<div>x</div>"},
  "managingOrganization": {"reference": "#gone"}
}`
	_, err := validator().Resource("Patient", []byte(body), "o1")
	var e *fhir.Error
	if !errors.As(err, &e) || e.Kind != fhir.Invalid {
		t.Fatalf("got %v", err)
	}
	got := map[string][2]int{}
	for _, i := range e.Issues {
		got[i.Expression[0]] = [2]int{i.Line, i.Column}
	}
	for path, want := range map[string][2]int{
		"Patient.gender":               {4, 3},
		"Patient.telecom[1]":           {6, 40},
		"Patient.name[0].family":       {8, 13},
		"Patient.name[0].given":        {8, 27},
		"Patient.identifier[0].system": {9, 19},
		"Patient.text":                 {10, 3},
		"Patient.managingOrganization": {11, 3},
	} {
		if got[path] != want {
			t.Errorf("%s is at %v, want %v", path, got[path], want)
		}
	}
	if out := string(r4.OutcomeJSON(err)); !strings.Contains(out, `"location":["line 6, column 40"]`) ||
		!strings.Contains(out, `"url":"http://hl7.org/fhir/StructureDefinition/operationoutcome-issue-line","valueInteger":6}`) {
		t.Errorf("outcome without position: %s", out)
	}
	_, err = validator().Resource("Patient", []byte("{\n  \"resourceType\": \"Patient\",\n  oops}"), "o1")
	if !errors.As(err, &e) || e.Issues[0].Line != 3 || e.Issues[0].Column != 3 {
		t.Errorf("syntax: %+v", err)
	}
	many := `{"resourceType":"Patient","id":"o1","telecom":[` +
		strings.TrimSuffix(strings.Repeat(`{"value":"1"},`, 500), ",") + `]}`
	if _, err = validator().Resource("Patient", []byte(many), "o1"); !errors.As(err, &e) || len(e.Issues) != 20 {
		t.Errorf("%d issues, want 20", len(e.Issues))
	}
}

// TestReferencesMayNameAllR4Types tests that fhir/search lets a reference
// without a type name any R4 type.
func TestReferencesMayNameAllR4Types(t *testing.T) {
	q, err := search.Parse("Provenance", [][2]string{{"target", "x"}}, search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(q.Clauses[0].Values); n != 146 {
		t.Errorf("%d types, R4 has 146", n)
	}
	for _, v := range q.Clauses[0].Values {
		body := `{"resourceType":"Provenance","id":"o1","target":[{"reference":"` + v.RefType +
			`/x"}],"recorded":"2026-03-01T08:00:00Z","agent":[{"who":{"display":"w"}}]}`
		if _, err := validator().Resource("Provenance", []byte(body), "o1"); err != nil {
			t.Errorf("%s: %s", v.RefType, r4.OutcomeJSON(err))
		}
	}
}

// TestMisalignedExtensions tests that an array of extensions may be shorter or
// longer than the array of values, and that it is still checked.
func TestMisalignedExtensions(t *testing.T) {
	const x = `{"extension":[{"url":"http://x.test/e","valueCode":"c"}]}`
	for body, ok := range map[string]bool{
		`"given":["a","b"],"_given":[` + x + `]`:                                       true,
		`"given":["a","b","c"],"_given":[null,` + x + `]`:                              true,
		`"given":["a"],"_given":[null,` + x + `]`:                                      true,
		`"_given":[` + x + `]`:                                                         true,
		`"given":["a"],"_given":[null,null]`:                                           false,
		`"given":["a",null],"_given":[` + x + `]`:                                      false,
		`"given":["a","b"],"_given":["x"]`:                                             false,
		`"given":["a","b"],"_given":[{"extension":[{"url":"http://x.test/e","a":1}]}]`: false,
		`"given":["a",1],"_given":[` + x + `]`:                                         false,
	} {
		_, err := validator().Resource("Patient", []byte(`{"resourceType":"Patient","id":"o1","name":[{`+body+`}]}`), "o1")
		if (err == nil) != ok {
			t.Errorf("%s: %s", body, r4.OutcomeJSON(err))
		}
	}
}
