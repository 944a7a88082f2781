package r4_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/internal/fixtures"
	"pulsegate/fhir/r4"
)

var validator = sync.OnceValue(func() *r4.Validator {
	d, err := r4.New(r4.Limits{})
	if err != nil {
		panic(err)
	}
	return d
})

const heartRate = `{
  "resourceType": "Observation",
  "id": "o1",
  "meta": {"versionId": "7", "lastUpdated": "2026-01-01T00:00:00Z", "profile": ["http://hl7.org/fhir/StructureDefinition/heartrate"]},
  "status": "final",
  "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
  "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4", "display": "Heart rate"}], "text": "caf\u00e9 \u2028 \/"},
  "subject": {"reference": "Patient/p1"},
  "effectiveDateTime": "2026-03-01T08:00:00.250+01:00",
  "valueQuantity": {"value": 62.00, "unit": "beats/minute", "system": "http://unitsofmeasure.org", "code": "/min"}
}`

func TestCanonical(t *testing.T) {
	r, err := validator().Resource("Observation", []byte(heartRate), "o1")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"resourceType":"Observation","id":"o1","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"]},` +
		`"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],` +
		`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"caf\u00e9 \u2028 \/"},` +
		`"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-03-01T08:00:00.250+01:00",` +
		`"valueQuantity":{"value":62.00,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}}`
	if string(r.JSON) != want {
		t.Errorf("got\n%s\nwant\n%s", r.JSON, want)
	}
	again, err := validator().Resource("Observation", r.JSON, "o1")
	if err != nil || !bytes.Equal(again.JSON, r.JSON) {
		t.Errorf("canonical form is not admitted unchanged: %v\n%s", err, again.JSON)
	}
	if fhir.Stamp(r.JSON, "Observation", "o1", 1, again.LastUpdated) == nil {
		t.Error("Stamp refuses the canonical form")
	}
	if r, err = validator().Create("Observation", []byte(heartRate), "new"); err != nil ||
		!bytes.HasPrefix(r.JSON, []byte(fhir.Prefix("Observation", "new"))) {
		t.Errorf("Create: %v %s", err, r.JSON)
	}
}

// edit replaces one piece of heartRate.
func edit(t *testing.T, old, new string) string {
	t.Helper()
	if !strings.Contains(heartRate, old) {
		t.Fatalf("heartRate does not hold %q", old)
	}
	return strings.Replace(heartRate, old, new, 1)
}

func TestRefused(t *testing.T) {
	patient := func(rest string) string { return `{"resourceType":"Patient","id":"o1",` + rest + `}` }
	for _, c := range []struct {
		name, typ, body string
		kind            fhir.Kind
		path, rule      string
	}{
		{"not JSON", "Observation", `{"resourceType"`, fhir.Invalid, "", "well-formed"},
		{"array", "Observation", `[]`, fhir.Invalid, "", "well-formed"},
		{"two BOMs", "Observation", "\ufeff\ufeff" + heartRate, fhir.Invalid, "", "well-formed"},
		{"empty meta", "Patient", patient(`"meta":{}`), fhir.Invalid, "Patient.meta", "empty"},
		{"trailing", "Observation", heartRate + "1", fhir.Invalid, "", "well-formed"},
		{"not UTF-8", "Observation", edit(t, "Heart rate", "\xff"), fhir.Invalid, "", "UTF-8"},
		{"other type", "Observation", `{"resourceType":"Patient"}`, fhir.Invalid, "Observation.resourceType",
			"must be Observation"},
		{"other id", "Observation", edit(t, `"o1"`, `"o2"`), fhir.Invalid, "Observation.id", "id in the URL"},
		{"duplicate", "Observation", edit(t, `"status": "final",`, `"status":"final","status":"amended",`),
			fhir.Invalid, "Observation", "same name"},
		{"escaped duplicate", "Observation",
			edit(t, `"status": "final",`, `"status":"final","st\u0061tus":"amended",`), fhir.Invalid, "Observation",
			"same name"},
		{"case", "Observation", edit(t, `"status"`, `"Status"`), fhir.Invalid, "Observation.(unknown)", "lower-case"},
		{"unknown element", "Observation", edit(t, `"status"`, `"canarySmith":1,"status"`), fhir.Invalid,
			"Observation", "does not define"},
		{"null", "Observation", edit(t, `"Patient/p1"`, `null`), fhir.Invalid, "Observation.subject.reference", "null"},
		{"empty string", "Observation", edit(t, `"beats/minute"`, `""`), fhir.Invalid,
			"Observation.valueQuantity.unit", "empty"},
		{"empty object", "Observation", edit(t, `{"reference": "Patient/p1"}`, `{}`), fhir.Invalid,
			"Observation.subject", "empty"},
		{"empty array", "Patient", patient(`"name":[]`), fhir.Invalid, "Patient.name", "empty"},
		{"missing status", "Observation", edit(t, `"status": "final",`, ``), fhir.Invalid, "Observation", "status"},
		{"wrong status", "Observation", edit(t, `"final"`, `"canary"`), fhir.Invalid, "Observation.status",
			"value set"},
		{"case of a code", "Observation", edit(t, `"final"`, `"FINAL"`), fhir.Invalid, "Observation.status",
			"value set"},
		{"enum's name", "Observation", edit(t, `"unit": "beats/minute"`, `"comparator":"greater-than"`),
			fhir.Invalid, "Observation.valueQuantity.comparator", "value set"},
		{"case of a contained code", "Patient",
			patient(`"contained":[{"resourceType":"Device","id":"x","status":"Active"}],"managingOrganization":{"reference":"#x"}`), fhir.Invalid, "Patient.contained[0].status", "value set"},
		{"two values", "Observation", edit(t, `"valueQuantity"`, `"valueString":"x","valueQuantity"`), fhir.Invalid,
			"Observation.value", "choice"},
		{"no zone", "Observation", edit(t, `.250+01:00`, ``), fhir.Invalid, "Observation.effectiveDateTime",
			"data type"},
		{"huge number", "Observation", edit(t, `62.00`, `1e400`), fhir.Invalid, "Observation.valueQuantity.value",
			"range"},
		{"wrong target", "Observation", edit(t, `Patient/p1`, `Medication/p1`), fhir.Invalid, "Observation.subject",
			"not allowed"},
		{"unknown reference", "Observation", edit(t, `Patient/p1`, `Canary/p1`), fhir.Unprocessable,
			"Observation.subject", "Type/id"},
		{"obs-6", "Observation", edit(t, `"valueQuantity"`, `"dataAbsentReason":{"text":"x"},"valueQuantity"`),
			fhir.Unprocessable, "Observation.dataAbsentReason", "obs-6"},
		{"obs-7", "Observation", edit(t, `"valueQuantity"`,
			`"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]}}],"valueQuantity"`),
			fhir.Unprocessable, "Observation.value", "obs-7"},
		{"obs-3", "Observation", edit(t, `"valueQuantity"`,
			`"referenceRange":[{"type":{"text":"x"}}],"valueQuantity"`), fhir.Unprocessable,
			"Observation.referenceRange[0]", "obs-3"},
		{"qty-3", "Observation", edit(t, `"system": "http://unitsofmeasure.org", `, ``), fhir.Unprocessable,
			"Observation.valueQuantity", "qty-3"},
		{"vital category", "Observation", edit(t, `"code": "vital-signs"`, `"code": "activity"`),
			fhir.Unprocessable, "Observation.category", "vital-signs"},
		{"modifier extension", "Observation",
			edit(t, `"status"`, `"modifierExtension":[{"url":"http://x.test/e","valueBoolean":true}],"status"`),
			fhir.Unprocessable, "Observation.modifierExtension[0]", "modifier"},
		{"ext-1", "Patient", patient(`"extension":[{"url":"http://x.test/e","valueString":"a","extension":[{"url":"b","valueString":"c"}]}]`), fhir.Unprocessable, "Patient.extension[0]", "ext-1"},
		{"per-1", "Patient", patient(`"name":[{"family":"A","period":{"start":"2020","end":"2019"}}]`),
			fhir.Unprocessable, "Patient.name[0].period", "per-1"},
		{"ref-1", "Patient", patient(`"managingOrganization":{"reference":"#x"}`), fhir.Unprocessable,
			"Patient.managingOrganization", "ref-1"},
		{"dom-3", "Patient", patient(`"contained":[{"resourceType":"Organization","id":"x","name":"n"}]`),
			fhir.Unprocessable, "Patient.contained[0]", "dom-3"},
		{"script", "Patient", patient(`"text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\"><script>x</script></div>"}`), fhir.Unprocessable, "Patient.text", "txt-1"},
		{"cpt-2", "Patient", patient(`"telecom":[{"value":"1"}]`), fhir.Unprocessable, "Patient.telecom[0]", "cpt-2"},
		{"twin length", "Patient", patient(`"name":[{"given":["a",null],"_given":[null]}]`), fhir.Invalid,
			"Patient.name[0].given", "neither value nor extension"},
		{"null alone", "Patient", patient(`"name":[{"given":["a",null]}]`), fhir.Invalid, "Patient.name[0].given",
			"null"},
		{"grp-1", "Group", `{"resourceType":"Group","id":"o1","type":"person","actual":false,"member":[{"entity":{"reference":"Patient/a"}}]}`, fhir.Unprocessable, "Group.member", "grp-1"},
		{"ppc-1", "Consent", `{"resourceType":"Consent","id":"o1","status":"active","scope":{"text":"x"},"category":[{"text":"x"}]}`, fhir.Unprocessable, "Consent", "ppc-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := validator().Resource(c.typ, []byte(c.body), "o1")
			var e *fhir.Error
			if !errors.As(err, &e) || e.Kind != c.kind || len(e.Issues) == 0 {
				t.Fatalf("got %v, want an error of kind %d with issues", err, c.kind)
			}
			if !slices.ContainsFunc(e.Issues, func(i fhir.Issue) bool {
				return (c.path == "" || strings.Join(i.Expression, "") == c.path) &&
					strings.Contains(i.Diagnostics, c.rule)
			}) {
				t.Errorf("got %+v, want %q %q", e.Issues, c.path, c.rule)
			}
			if out := string(r4.OutcomeJSON(err)); strings.Contains(strings.ToLower(out), "canary") {
				t.Errorf("outcome quotes the input: %s", out)
			}
		})
	}
}

// TestAccepted validates resources that R4 allows and google/fhir alone would
// refuse.
func TestAccepted(t *testing.T) {
	for name, body := range map[string]string{
		"leap second": `{"resourceType":"Patient","deceasedDateTime":"2016-12-31T23:59:60Z"}`,
		"null twin":   `{"resourceType":"Patient","name":[{"given":["a",null],"_given":[null,{"extension":[{"url":"http://x.test/e","valueCode":"unknown"}]}]}]}`,
		"base64":      `{"resourceType":"Patient","photo":[{"contentType":"image/png","data":"aGVs bG8="}]}`,
		"contained":   `{"resourceType":"Patient","contained":[{"resourceType":"Organization","id":"x","name":"n"}],"managingOrganization":{"reference":"#x"}}`,
		"extension":   `{"resourceType":"Patient","_birthDate":{"extension":[{"url":"http://x.test/e","valueCode":"unknown"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			r, err := validator().Resource("Patient",
				[]byte(strings.Replace(body, `"Patient",`, `"Patient","id":"p1",`, 1)), "p1")
			if err != nil {
				t.Fatalf("%v %s", err, r4.OutcomeJSON(err))
			}
			if _, rest, _ := strings.Cut(body, `"Patient",`); !strings.HasSuffix(string(r.JSON), rest) {
				t.Errorf("bytes changed: %s", r.JSON)
			}
		})
	}
}

func TestBounded(t *testing.T) {
	deep := `{"resourceType":"Patient","extension":` + strings.Repeat(`[{"url":"a","extension":`, 5000)
	for name, body := range map[string]string{
		"million arrays": strings.Repeat("[", 1000000),
		"deep objects":   deep + `1` + strings.Repeat(`}]`, 5000) + `}`,
		"deep member": `{"resourceType":"Patient","a":` + strings.Repeat(`[`, 60) + `1` +
			strings.Repeat(`]`, 60) + `}`,
		"over the limit": `{"resourceType":"Patient","a":"` + strings.Repeat("x", 10<<20) + `"}`,
	} {
		if _, err := validator().Resource("Patient", []byte(body), "p1"); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := validator().Bundle([]byte(body)); err == nil {
			t.Errorf("%s: accepted as a bundle", name)
		}
	}
}

func TestBundle(t *testing.T) {
	b, err := validator().Bundle([]byte(`{"resourceType":"Bundle","type":"transaction","entry":[
	 {"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient","active":true},"request":{"method":"POST","url":"Patient","ifNoneExist":"identifier=a|b"}},
	 {"request":{"method":"DELETE","url":"Patient/2","ifMatch":"W/\"3\""}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if b.Type != "transaction" || len(b.Entries) != 2 ||
		string(b.Entries[0].Resource) != `{"resourceType":"Patient","active":true}` ||
		b.Entries[0].IfNoneExist != "identifier=a|b" || b.Entries[1].IfMatch != `W/"3"` ||
		b.Entries[1].Resource != nil {
		t.Errorf("got %+v", b)
	}
	for _, body := range []string{
		`{"resourceType":"Bundle","type":"batch","implicitRules":"http://x.test/r"}`,
		`{"resourceType":"Bundle","type":"batch","meta":{}}`,
		`{"resourceType":"Bundle","type":"history"}`, `{"resourceType":"Patient","type":"batch"}`,
		`{"resourceType":"Bundle"}`,
		`{"resourceType":"Bundle","type":"batch","entry":{"a":1}}`,
		`{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"POST","url":"Patient"}}]}`,
		`{"resourceType":"Bundle","type":"batch","entry":[]}`,
		`{"resourceType":"Bundle","type":"batch","identifier":{},"entry":[{"request":{"method":"GET","url":"Patient"}}]}`,
		`{"resourceType":"Bundle","type":"batch","meta":{"a":""},"entry":[{"request":{"method":"GET","url":"Patient"}}]}`, `{"resourceType":"Bundle","type":"batch","zanaria":1}`,
		`{"resourceType":"Bundle","entry":[{"request":{"method":"STEAL","url":"Patient"}}],"type":"transaction"}`,
		`{"resourceType":"Bundle","type":"batch","entry":[` +
			strings.Repeat(`{"request":{"method":"GET","url":"a"}},`, 1000) +
			`{"request":{"method":"GET","url":"a"}}]}`,
	} {
		if _, err := validator().Bundle([]byte(body)); err == nil {
			t.Errorf("accepted %.80s", body)
		}
	}
}

// TestMalformedEntryDoesNotAffectOthers tests that a malformed entry of a batch
// fails alone.
func TestMalformedEntryDoesNotAffectOthers(t *testing.T) {
	good := `{"request":{"method":"GET","url":"Patient/1"}}`
	for _, bad := range []string{`7`, `null`, `[]`, `{}`, `{"request":{"method":"POST","url":"Patient"}}`,
		`{"request":{"method":"STEAL","url":"Patient"}}`, `{"request":{"method":"GET"}}`,
		`{"request":7}`, `{"request":{"method":7,"url":"x"}}`, `{"zanaria":1,"request":{"method":"GET","url":"x"}}`,
		`{"resource":7,"request":{"method":"PUT","url":"x"}}`, `{"fullUrl":7,"request":{"method":"GET","url":"x"}}`,
		`{"resource":{"a":{}},"request":{"method":"PUT","url":"x"}}`,
		`{"resource":{"a":[]},"request":{"method":"PUT","url":"x"}}`,
		`{"resource":{"a":""},"request":{"method":"PUT","url":"x"}}`,
		`{"resource":{"a":null},"request":{"method":"PUT","url":"x"}}`,
		`{"resource":` + strings.Repeat(`{"a":`, 60) + `1` + strings.Repeat(`}`, 60) +
			`,"request":{"method":"PUT","url":"x"}}`} {
		b, err := validator().Bundle([]byte(`{"resourceType":"Bundle","type":"batch","entry":[` + good + `,` + bad +
			`,` + good + `]}`))
		if err != nil {
			t.Errorf("%s: %v", bad, err)
			continue
		}
		if len(b.Entries) != 3 || b.Entries[0].Err != nil || b.Entries[2].Err != nil ||
			fhir.KindOf(b.Entries[1].Err) != fhir.Invalid || strings.Contains(b.Entries[1].Err.Error(), "zanaria") {
			t.Errorf("%s: %+v", bad, b.Entries)
		}
		if _, err := validator().Bundle([]byte(`{"resourceType":"Bundle","type":"transaction","entry":[` + good + `,` +
			bad + `]}`)); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("in a transaction, %s: %v", bad, err)
		}
	}
}

// TestReferences tests which references are allowed outside of a transaction.
func TestReferences(t *testing.T) {
	for ref, want := range map[string]bool{
		"Organization/1": true, "Organization/1/_history/2": true, "http://x.test/Organization/1": true,
		"https://x.test/a": true, "HTTPS://x.test/a": true,
		"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7": true, "urn:oid:1.2.3": true,
		"x:y": false, "javascript:alert(1)": false, "JavaScript:alert(1)": false, "data:text/html,x": false,
		"file:///etc/passwd": false, "http:": false, "http://": false, "https:///a": false, "http:x": false,
		"urn:": false, "urn:x": false, "urn:uuid:": false, ":": false, "mailto:a@b.test": false,
		"Organization:1":                  false,
		"Organization?identifier=urn:t|1": false, "Organization?identifier=1": false,
		"Organization?name=x:y": false, "Organization/?x=1": false, "Organization/1?x=1": false, "Organization": false,
	} {
		_, err := validator().Resource("Patient",
			[]byte(`{"resourceType":"Patient","id":"o1","managingOrganization":{"reference":"`+ref+`"}}`), "o1")
		if (err == nil) != want {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("secret"), `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"exception"}]}`},
		{fhir.Errorf(fhir.Internal, "x", "secret"),
			`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"exception"}]}`},
		{fhir.Errorf(fhir.NotFound, "x", "a \"b\"\n\x01"),
			`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-found","diagnostics":"a \"b\"\n\u0001"}]}`},
	} {
		if got := string(r4.OutcomeJSON(c.err)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// faultyExamples lists the examples that break R4's rules or, with a modifier extension,
// a rule of this server, and the rule.
var faultyExamples = map[string]string{ // read only
	"basic-example.json":              "modifier extension that this server does not understand",
	"bundle-questionnaire.json":       "lacks the required element linkId",
	"codesystem-example.json":         "(csd-1)", // has the code chol-mass twice
	"devicemetric-example.json":       "refers to a type that is not allowed here",
	"deviceusestatement-example.json": "refers to a type that is not allowed here",
	"medicationrequest0301.json":      "refers to a type that is not allowed here",
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, "r4"), "hl7-test-cases", "examples", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var head struct{ ResourceType, ID string }
		if json.Unmarshal(body, &head) != nil || !fhir.KnownType(head.ResourceType) {
			continue
		}
		n++
		r, err := validator().Resource(head.ResourceType, body, head.ID)
		if rule := faultyExamples[filepath.Base(f)]; rule != "" {
			if !strings.Contains(string(r4.OutcomeJSON(err)), rule) {
				t.Errorf("%s: %v", filepath.Base(f), err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %s", filepath.Base(f), r4.OutcomeJSON(err))
			continue
		}
		if again, err := validator().Resource(head.ResourceType, stamped(&r), head.ID); err != nil ||
			!bytes.Equal(again.JSON, r.JSON) {
			t.Errorf("%s: canonical form is not stable: %v", filepath.Base(f), err)
		}
	}
	if n == 0 {
		t.Error("no example was tried")
	}
}

// FuzzValidator checks that the validator does not panic, that no error quotes
// the input, and that accepted resources are accepted again unchanged.
func FuzzValidator(f *testing.F) {
	for _, s := range []string{heartRate, strings.Replace(heartRate, "final", "CANARY", 1),
		strings.Replace(heartRate, "status", "CANARY", 1),
		strings.Replace(heartRate, "Patient/p1", "CANARY/p1", 1), strings.Replace(heartRate, "62.00", `"CANARY"`, 1),
		strings.Replace(heartRate, `"Heart rate"`, `{"CANARY":["CANARY"]}`, 1),
		strings.Replace(heartRate, `"status"`, `"contained":[{"resourceType":"CANARY","id":"CANARY"}],"status"`, 1),
		strings.Replace(heartRate, `2026-03-01T08:00:00.250+01:00`, `2026-CANARY`, 1),
		`{"resourceType":"CANARY"}`, `{"resourceType":"Observation","a":null}`, `[[[`, "{\"CANARY\":\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, err := range []error{try(t, body), func() error { _, err := validator().Bundle(body); return err }()} {
			if err != nil && (strings.Contains(err.Error(), "CANARY") ||
				bytes.Contains(r4.OutcomeJSON(err), []byte("CANARY"))) {
				t.Errorf("error quotes the input: %v", err)
			}
			if err != nil && fhir.KindOf(err) == fhir.Internal {
				t.Errorf("bad input is an internal error: %v", err)
			}
			if err != nil && !json.Valid(r4.OutcomeJSON(err)) {
				t.Errorf("outcome is no JSON: %q", r4.OutcomeJSON(err))
			}
		}
	})
}

// stamped returns a stored resource as a client reads it.
func stamped(r *fhir.Resource) []byte {
	return fhir.Stamp(r.JSON, r.Type, r.ID, 1, time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))
}

func try(t *testing.T, body []byte) error {
	r, err := validator().Create("Observation", body, "x1")
	if err != nil {
		return err
	}
	again, err := validator().Resource("Observation", stamped(&r), "x1")
	if err != nil || !bytes.Equal(again.JSON, r.JSON) {
		t.Errorf("canonical form is not accepted as it is: %v\n%s", err, r.JSON)
	}
	return nil
}

func BenchmarkValidator(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := validator().Resource("Observation", []byte(heartRate), "o1"); err != nil {
			b.Fatal(err)
		}
	}
}
