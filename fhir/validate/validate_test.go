package validate_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/validate"
)

var validator = sync.OnceValue(func() *validate.Validator { return validate.New(validate.Options{}) })

// issuesOf returns the issues of a body.
func issuesOf(t testing.TB, v *validate.Validator, r validate.Request, body string) []fhir.Issue {
	t.Helper()
	r.Op = "test"
	d, err := v.Resource(r, []byte(body))
	if d != nil {
		d.Release()
	}
	if err == nil {
		return nil
	}
	var e *fhir.Error
	if !errors.As(err, &e) || len(e.Issues) == 0 {
		t.Fatalf("%v", err)
	}
	return e.Issues
}

// typeOf returns the type of a body that begins with resourceType.
func typeOf(body string) string {
	_, rest, _ := strings.Cut(body, `"resourceType":"`)
	typ, _, _ := strings.Cut(rest, `"`)
	return typ
}

// bodyCase is a body with the path and a part of the text of its first issue, which are
// empty if the body is valid.
type bodyCase struct{ body, path, rule string }

func check(t *testing.T, cases []bodyCase) {
	t.Helper()
	for _, c := range cases {
		issues := issuesOf(t, validator(), validate.Request{Type: typeOf(c.body)}, c.body)
		switch {
		case c.rule == "" && issues != nil:
			t.Errorf("%s is refused: %v", c.body, issues)
		case c.rule != "" && !slices.ContainsFunc(issues, func(is fhir.Issue) bool {
			return strings.Contains(is.Diagnostics, c.rule) && is.Expression[0] == c.path && is.Line > 0
		}):
			t.Errorf("%s: got %v, want %q at %s", c.body, issues, c.rule, c.path)
		}
	}
}

func patient(members string) string { return `{"resourceType":"Patient",` + members + `}` }

// extended returns a Patient with an extension that has a value.
func extended(value string) string {
	return patient(`"extension":[{"url":"http://a.test/x",` + value + `}]`)
}

func TestStructure(t *testing.T) {
	const at = "Patient.extension[0]"
	check(t, []bodyCase{
		{`{"resourceType":"Patient"}`, "", ""},
		{`{"active":true,"resourceType":"Patient"}`, "", ""},
		{patient(`"active":true,"active":true`), "Patient", "two members of the same name"},
		{patient(`"active":true,"resourceType":"Patient"`), "Patient", "two members of the same name"},
		{patient(`"\u0061ctive":true,"active":true`), "Patient", "two members of the same name"},
		{patient(`"actives":true`), "Patient", "does not define"},
		{patient(`"Active":true`), "Patient.(unknown)", "lower-case"},
		{patient(`"":true`), "Patient.(unknown)", "lower-case"},
		{patient(`"active":null`), "Patient.active", "null"},
		{patient(`"active":"true"`), "Patient.active", "data type"},
		{patient(`"active":[true]`), "Patient.active", "data type"},
		{patient(`"name":{"text":"a"}`), "Patient.name", "must be an array"},
		{patient(`"name":[]`), "Patient.name", "array must not be empty"},
		{patient(`"name":[{}]`), "Patient.name[0]", "object must not be empty"},
		{patient(`"name":["a"]`), "Patient.name[0]", "data type"},
		{patient(`"name":[null]`), "Patient.name[0]", "null"},
		{patient(`"name":[{"text":""}]`), "Patient.name[0].text", "must not be empty"},
		{patient(`"name":[{"id":"a"}]`), "Patient.name[0]", "ele-1"},
		{patient(`"managingOrganization":{"id":"a"}`), "Patient.managingOrganization", "ele-1"},
		{patient(`"link":[{"other":{"reference":"Patient/1"}}]`), "Patient.link[0]", "lacks the required element type"},
		{patient(`"deceasedBoolean":true,"deceasedDateTime":"2026"`), "Patient.deceased", "more than one type"},
		{patient(`"deceasedBoolean":true,"_deceasedDateTime":{"id":"a"}`), "Patient.deceased", "more than one type"},
		{patient(`"deceasedString":"a"`), "Patient", "does not define"},
		{patient(`"deceased":true`), "Patient", "does not define"},
		{extended(`"valueString":"a"`), "", ""},
		{extended(`"extension":[{"url":"b","valueCode":"c"}]`), "", ""},
		{patient(`"extension":[{"url":"a","valueCode":"b"}]`), at + ".url", "absolute"},
		{patient(`"_birthDate":{"extension":[{"url":"a","valueCode":"b"}]}`), "Patient.birthDate.extension[0].url", "absolute"},
		{extended(`"extension":[{"url":"b"}]`), at + ".extension[0]", "ext-1"},
		{extended(`"valueString":"a","extension":[{"url":"b","valueCode":"c"}]`), at, "ext-1"},
		{extended(`"valueMeta":{"tag":[{"code":"a"}]}`), "", ""},
		{extended(`"valueQuantity":{"value":1,"comparator":"<"}`), "", ""},
		{patient(`"extension":[{"valueString":"a"}]`), at, "lacks the required element url"},
	})
}

func TestPrimitivesWithExtensions(t *testing.T) {
	const ext = `{"extension":[{"url":"http://a.test","valueCode":"c"}]}`
	name := func(members string) string { return patient(`"name":[{` + members + `}]`) }
	const given = "Patient.name[0].given"
	check(t, []bodyCase{
		{patient(`"birthDate":"1970","_birthDate":` + ext), "", ""},
		{patient(`"_birthDate":` + ext), "", ""},
		{patient(`"birthDate":"1970","_birthDate":{"id":"a"}`), "", ""},
		{patient(`"_birthDate":{"id":"a"}`), "Patient", "ele-1"},
		{patient(`"_birthDate":{}`), "Patient.birthDate", "must not be empty"},
		{patient(`"_birthDate":"1970"`), "Patient.birthDate", "data type"},
		{patient(`"_birthDate":{"value":"1970"}`), "Patient.birthDate", "does not define"},
		{patient(`"_name":[` + ext + `]`), "Patient", "does not define"},
		{patient(`"_id":` + ext), "Patient", "does not define"},
		{patient(`"text":{"status":"empty","div":"<div xmlns='http://www.w3.org/1999/xhtml'>a</div>","_div":` +
			ext + `}`),
			"Patient.text", "does not define"},
		{name(`"given":["a",null],"_given":[null,` + ext + `]`), "", ""},
		{name(`"given":["a","b"],"_given":[` + ext + `]`), "", ""},
		{name(`"given":["a"],"_given":[null,` + ext + `]`), "", ""},
		{name(`"_given":[` + ext + `]`), "", ""},
		{name(`"given":["a",null]`), given, "null"},
		{name(`"given":["a",null],"_given":[` + ext + `]`), given, "neither value nor extension"},
		{name(`"given":["a",null],"_given":[` + ext + `,null]`), given, "neither value nor extension"},
		{name(`"_given":[null]`), given, "neither value nor extension"},
		{name(`"given":["a"],"_given":` + ext), given, "must be an array"},
		{name(`"given":["a"],"_given":["b"]`), given + "[0]", "data type"},
	})
}

func TestPrimitives(t *testing.T) {
	for _, c := range []struct {
		typ    string
		valid  string // separated by white space
		others string
	}{
		{"Boolean", `true false`, `"true" 1`},
		{"Integer", `0 -1 2147483647 -2147483648`, `-0 1.0 1e2 2147483648 -2147483649 99999999999999999999 "1"`},
		{"PositiveInt", `1 2147483647`, `0 -1 2147483648`},
		{"UnsignedInt", `0 2147483647`, `-1 2147483648 1.5`},
		{"Decimal", `0 -0.0 1.50 1e3 1E-3 123456789012345678901234567890.1`, `1e400 "1"`},
		{"Date", `"2026" "2026-02" "2024-02-29" "2000-02-29"`,
			`"2026-02-29" "1900-02-29" "2026-13" "2026-00" "2026-04-31" "26" "2026-1-1" "0000" "2026-01-01T00:00:00Z"`},
		{"DateTime", `"2026" "2026-03-01T08:00:00Z" "2026-03-01T23:59:60.5+14:00" "2026-03-01T08:00:00.123456789012-13:59"`,
			`"2026-03-01T08:00Z" "2026-03-01T08:00:00" "2026-03-01T24:00:00Z" "2026-03-01T08:00:00+14:01" ` +
				`"2026-03-01T08:00:61Z" "2026-03-01T08:00:00.Z" "2026-03-01t08:00:00Z" "2026-03-01T08:00:00z"`},
		{"Instant", `"2026-03-01T08:00:00Z" "2026-03-01T08:00:00.5-01:00"`, `"2026" "2026-03" "2026-03-01"`},
		{"Time", `"08:30:00" "23:59:60" "08:30:00.5"`, `"24:00:00" "08:30" "8:30:00" "08:30:00Z"`},
		{"Base64Binary", `"aGVsbG8=" "aGVsbG8h" "aA=="`, `"aGVsbG8" "a===" "aGVs-G8=" "=aGVsbG8"`},
		{"Id", `"a" "A-1.b"`, `"a_b" "é" "` + strings.Repeat("x", 65) + `"`},
		{"Oid", `"urn:oid:1.2.3"`, `"1.2.3" "urn:oid:1.02" "urn:oid:3.1" "urn:oid:1"`},
		{"Uuid", `"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"`,
			`"53fefa32-fcbb-4ff8-8a92-55ee120877b7" "urn:uuid:53FEFA32-fcbb-4ff8-8a92-55ee120877b7"`},
		{"Uri", `"http://a.test/x" "a/b" "urn:oid:1.2" "#a"`, `"urn:oid:1.02" "urn:uuid:x" "http://a.test/%zz" "1:b"`},
		{"Code", `"a" "8867-4" "<="`, `"\t" "a\u0020" "\u0020a" "a\u0020\u0020b" "a\u0001"`},
		{"String", `"a" "\u00e9\ud83d\ude00" "a\n\t"`, `"" "a\u0000" 1`},
		{"Markdown", `"*a*"`, `"" "a\u0007"`},
	} {
		for _, v := range strings.Fields(c.valid) {
			check(t, []bodyCase{{extended(`"value` + c.typ + `":` + v), "", ""}})
		}
		for _, v := range strings.Fields(c.others) {
			issues := issuesOf(t, validator(), validate.Request{Type: "Patient"}, extended(`"value`+c.typ+`":`+v))
			if len(issues) != 1 || issues[0].Expression[0] != "Patient.extension[0].value"+c.typ {
				t.Errorf("%s %s: %v", c.typ, v, issues)
			}
		}
	}
}

// TestSyntax tests that bodies that are not JSON are refused with the position of
// the fault.
func TestSyntax(t *testing.T) {
	for _, body := range []string{``, ` `, `[]`, `1`, `"a"`, `{`, `{"resourceType"`, `{"resourceType":"Patient"`,
		`{"resourceType":"Patient",}`, `{"resourceType":"Patient"}}`, `{"resourceType":"Patient"} x`,
		`{"resourceType":"Patient","active":tru}`, `{"resourceType":"Patient","active":true,}`,
		`{"resourceType":"Patient","name":[{"text":"a"},]}`, `{"resourceType":"Patient","name":[{"text":"a"}}`,
		`{"resourceType":"Patient","name":[{"text":"a}]}`, "{\"resourceType\":\"Patient\",\"language\":\"a\nb\"}",
		`{"resourceType":"Patient","language":"\x"}`, `{"resourceType":"Patient","language":"\ud800"}`,
		`{"resourceType":"Patient","language":"\udc00\ud800"}`, `{"resourceType":"Patient","language":"\u12"}`,
		"{\"resourceType\":\"Patient\",\"language\":\"\xff\"}", `{"resourceType":"Patient","multipleBirthInteger":01}`,
		`{"resourceType":"Patient","multipleBirthInteger":+1}`, `{"resourceType":"Patient","multipleBirthInteger":1.}`,
		`{"resourceType":"Patient","multipleBirthInteger":.5}`, `{"resourceType":"Patient","multipleBirthInteger":1e}`,
		`{"resourceType":"Patient","x":[1,2}`, `{"resourceType":"Patient","x":{"a" 1}}`,
		`{"resourceType":"Patient" "x":1}`,
		"\ufeff{}", `{"resourceType":"Patient",'x':1}`, `{"resourceType":"Patient",x:1}`,
	} {
		issues := issuesOf(t, validator(), validate.Request{Type: "Patient"}, body)
		if len(issues) != 1 || issues[0].Code != "invalid" || issues[0].Line == 0 ||
			!strings.HasPrefix(issues[0].Diagnostics, "the body is not") {
			t.Errorf("%q: %v", body, issues)
		}
	}
	issues := issuesOf(t, validator(), validate.Request{Type: "Patient"},
		"{\n  \"resourceType\": \"Patient\",\n  \"é\": ?}")
	if issues[0].Line != 3 || issues[0].Column != 8 {
		t.Errorf("the fault is at %d:%d, want 3:8", issues[0].Line, issues[0].Column)
	}
}

func TestLimits(t *testing.T) {
	v := validate.New(validate.Options{Limits: validate.Limits{Depth: 6, Values: 20}})
	kind := func(body string) fhir.Kind {
		d, err := v.Resource(validate.Request{Type: typeOf(body)}, []byte(body))
		if d != nil {
			d.Release()
		}
		if err == nil {
			return 0
		}
		return fhir.KindOf(err)
	}
	for _, c := range []struct {
		body string
		want fhir.Kind
	}{
		{patient(`"name":[{"given":["a"]}]`), 0},
		{extended(`"extension":[{"url":"a","valueCode":"b"}]`), 0},
		{extended(`"extension":[{"url":"a","extension":[{"url":"b","valueCode":"c"}]}]`), fhir.Invalid},
		{patient(`"x":[[[[[[[[1]]]]]]]]`), fhir.Invalid},
		{patient(`"name":[{"given":["a"` + strings.Repeat(`,"a"`, 14) + `]}]`), 0},
		{patient(`"name":[{"given":["a"` + strings.Repeat(`,"a"`, 30) + `]}]`), fhir.TooLarge},
		{patient(`"x":[1` + strings.Repeat(`,1`, 30) + `]`), fhir.TooLarge},
	} {
		if got := kind(c.body); got != c.want {
			t.Errorf("%s: kind %d, want %d", c.body, got, c.want)
		}
	}
}

func TestReferences(t *testing.T) {
	obs := func(members string) string {
		return `{"resourceType":"Observation","status":"final","code":{"text":"a"},` + members + `}`
	}
	const inner = `"contained":[{"resourceType":"Patient","id":"p"}]`
	check(t, []bodyCase{
		{obs(`"subject":{"reference":"Patient/1"}`), "", ""},
		{obs(`"subject":{"reference":"Patient/1/_history/2"}`), "", ""},
		{obs(`"subject":{"reference":"https://a.test/fhir/Patient/1"}`), "", ""},
		{obs(`"subject":{"reference":"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"}`), "", ""},
		{obs(`"subject":{"display":"x"}`), "", ""},
		{obs(`"subject":{"reference":"Medication/1"}`), "Observation.subject", "type that is not allowed"},
		{obs(`"subject":{"reference":"Patients/1"}`), "Observation.subject", "neither"},
		{obs(`"subject":{"reference":"Patient"}`), "Observation.subject", "neither"},
		{obs(`"subject":{"reference":"Patient/a_b"}`), "Observation.subject", "neither"},
		{obs(`"subject":{"reference":"javascript:alert(1)"}`), "Observation.subject", "absolute URL"},
		{obs(`"subject":{"reference":"Patient?name=a"}`), "Observation.subject", "conditional"},
		{obs(`"subject":{"reference":"Patient/1","type":"Device"}`), "Observation.subject.type",
			"that the reference names"},
		{obs(`"subject":{"type":"Medication"}`), "Observation.subject.type", "cannot refer to"},
		{obs(inner + `,"subject":{"reference":"#p"}`), "", ""},
		{obs(`"subject":{"reference":"#p"},` + inner), "", ""},
		{obs(inner), "Observation.contained[0]", "dom-3"},
		{obs(inner + `,"subject":{"reference":"#q"}`), "Observation.subject", "ref-1"},
		{obs(inner + `,"encounter":{"reference":"#p"}`), "Observation.encounter", "not allowed here"},
		{obs(`"contained":[{"resourceType":"Patient","id":"p","link":[{"other":{"reference":"#"},"type":"seealso"}]}]`),
			"Observation.contained[0].link[0].other", "not allowed here"}, // the container is an Observation
		{obs(`"contained":[{"resourceType":"Patient"}]`), "Observation.contained[0]", "needs an id"},
		{obs(`"contained":[{"resourceType":"Patient","id":"p"},{"resourceType":"Device","id":"p"}],"subject":{"reference":"#p"}`),
			"Observation.contained[1]", "same id"},
		{obs(`"contained":[{"resourceType":"Nobody","id":"p"}]`), "Observation.contained[0]", "unknown resource type"},
		{obs(`"contained":[{"id":"p"}]`), "Observation.contained[0]", "lacks the required element resourceType"},
		{obs(`"contained":[{"id":"p","resourceType":"Patient","birthDate":"x"}],"subject":{"reference":"#p"}`),
			"Observation.contained[0].birthDate", "data type"},
		{obs(`"contained":[{"resourceType":"Patient","id":"p","contained":[{"resourceType":"Patient","id":"q"}]}],"subject":{"reference":"#p"}`),
			"Observation.contained[0].contained[0]", "dom-2"},
		{obs(`"contained":[{"resourceType":"Patient","id":"p","meta":{"versionId":"1"}}],"subject":{"reference":"#p"}`),
			"Observation.contained[0]", "dom-4"},
		{obs(`"note":[{"id":"a","text":"b"}],"subject":{"id":"a","display":"x"}`), "Observation.subject.id", "same id"},
		{obs(`"note":[{"id":"a b","text":"b"}]`), "Observation.note[0].id", "white space"},
	})
}

// TestOwners tests that the rules about a whole resource apply to each resource of
// a Bundle alone.
func TestOwners(t *testing.T) {
	const inner = `"contained":[{"resourceType":"Patient","id":"p"}]`
	entry := func(members string) string {
		return `{"resource":{"resourceType":"Observation","status":"final","code":{"id":"a","text":"a"},` +
			members + `}}`
	}
	bundle := func(entries ...string) string {
		return `{"resourceType":"Bundle","type":"collection","entry":[` + strings.Join(entries, ",") + `]}`
	}
	whole := entry(inner + `,"subject":{"reference":"#p"}`)
	check(t, []bodyCase{
		{bundle(whole, whole), "", ""},
		{bundle(whole, entry(`"subject":{"reference":"#p"}`)), "Bundle.entry[1].resource.subject", "ref-1"},
		{bundle(entry(inner), whole), "Bundle.entry[0].resource.contained[0]", "dom-3"},
		{bundle(`{"link":[{"relation":"self","url":"http://a.test"}]}`), "", ""}, // defined by Bundle.link
		{bundle(`{"link":[{"relation":"self"}]}`), "Bundle.entry[0].link[0]", "required element url"},
		{`{"resourceType":"Questionnaire","status":"draft","item":[{"linkId":"1","type":"group","item":[{"linkId":"2","type":"group","item":[{"type":"display"}]}]}]}`,
			"Questionnaire.item[0].item[0].item[0]", "required element linkId"},
	})
}

func TestBindings(t *testing.T) {
	const condition = `{"resourceType":"Condition","subject":{"reference":"Patient/1"},"clinicalStatus":`
	check(t, []bodyCase{
		{patient(`"gender":"other"`), "", ""},
		{patient(`"gender":"Other"`), "Patient.gender", "required value set"},
		{patient(`"gender":"oth\u0065r"`), "", ""},
		{patient(`"language":"de-CH"`), "", ""},
		{patient(`"language":"de_CH"`), "Patient.language", "BCP 47"},
		{patient(`"photo":[{"contentType":"image/png","url":"http://a.test"}]`), "", ""},
		{patient(`"photo":[{"contentType":"png","url":"http://a.test"}]`), "Patient.photo[0].contentType",
			"media type"},
		{extended(`"valueMoney":{"value":1,"currency":"EUR"}`), "", ""},
		{extended(`"valueMoney":{"value":1,"currency":"euro"}`), "Patient.extension[0].valueMoney.currency",
			"ISO 4217"},
		{condition + `{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/condition-clinical","code":"active"}]}}`, "", ""},
		{condition + `{"coding":[{"system":"http://a.test","code":"active"}]}}`, "Condition.clinicalStatus",
			"required value set"},
		{condition + `{"text":"active"}}`, "Condition.clinicalStatus", "required value set"},
	})
}

func TestRequest(t *testing.T) {
	v := validator()
	if is := issuesOf(t, v, validate.Request{Type: "Patient", ID: "a"}, patient(`"id":"a"`)); is != nil {
		t.Error(is)
	}
	for _, body := range []string{patient(`"id":"b"`), patient(`"active":true`)} {
		if is := issuesOf(t, v, validate.Request{Type: "Patient", ID: "a"}, body); is[0].Expression[0] != "Patient.id" {
			t.Error(is)
		}
	}
	for _, body := range []string{`{}`, `{"resourceType":"Device"}`, `{"resourceType":1}`, `{"id":"a"}`} {
		if is := issuesOf(t, v, validate.Request{Type: "Patient"},
			body); is[0].Expression[0] != "Patient.resourceType" {
			t.Error(is)
		}
	}
	if _, err := v.Resource(validate.Request{Type: "Nobody"}, nil); fhir.KindOf(err) != fhir.NotFound {
		t.Error(err)
	}
	lenient := validate.New(validate.Options{AllowIDOnly: true})
	for _, body := range []string{patient(`"name":[{"id":"a"}]`), patient(`"_birthDate":{"id":"a"}`)} {
		if is := issuesOf(t, lenient, validate.Request{Type: "Patient"}, body); is != nil {
			t.Errorf("%s is refused: %v", body, is)
		}
	}
	strict := validate.New(validate.Options{RefuseModifiers: true})
	for _, body := range []string{patient(`"implicitRules":"http://a.test"`),
		patient(`"modifierExtension":[{"url":"http://a.test","valueCode":"c"}]`)} {
		if issuesOf(t, v, validate.Request{Type: "Patient"}, body) != nil ||
			issuesOf(t, strict, validate.Request{Type: "Patient"}, body) == nil {
			t.Errorf("%s: only the strict validator must refuse it", body)
		}
	}
}

// TestManyIssues tests that the issues of a body are bounded and in the order of
// the body.
func TestManyIssues(t *testing.T) {
	issues := issuesOf(t, validator(), validate.Request{Type: "Patient"},
		patient(`"name":[`+strings.TrimSuffix(strings.Repeat(`{"text":1},`, 100), ",")+`]`))
	if len(issues) != 20 || issues[0].Expression[0] != "Patient.name[0].text" ||
		!slices.IsSortedFunc(issues, func(a, b fhir.Issue) int { return a.Column - b.Column }) {
		t.Errorf("%d issues: %v", len(issues), issues)
	}
}

// TestTypes tests that the tables and package fhir agree on the resource types.
func TestTypes(t *testing.T) {
	got := slices.Sorted(slices.Values(definitions.R4().Resources()))
	if !slices.Equal(got, fhir.R4Types()) {
		t.Errorf("got %v, want %v", got, fhir.R4Types())
	}
}

// TestInvariantsByCompile tests that invariants that are not written in Go go
// through Options.Compile, with the element as the focus.
func TestInvariantsByCompile(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]bool{}
	v := validate.New(validate.Options{Compile: func(expression string) (validate.Invariant, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[expression] = true
		if expression == "where(use = 'x').empty()" {
			return nil, errors.New("test")
		}
		return named{}, nil
	}})
	const failing = `{"resourceType":"Linkage","item":[{"type":"source","resource":{"display":"a"}}]}`
	if is := issuesOf(t, v, validate.Request{Type: "Linkage"}, failing); len(is) != 1 ||
		!strings.Contains(is[0].Diagnostics, "cannot be evaluated (lnk-1)") {
		t.Errorf("an error of an invariant: %v", is)
	}
	const vague = `{"resourceType":"Linkage","active":true,"item":[{"type":"source","resource":{"display":"a"}}]}`
	if is := issuesOf(t, v, validate.Request{Type: "Linkage"}, vague); is != nil {
		t.Errorf("an expression that does not apply: %v", is)
	}
	const body = `{"resourceType":"Appointment","status":"booked","participant":[{"status":"accepted"},{"actor":{"display":"a"},"status":"accepted"}]}`
	issues := issuesOf(t, v, validate.Request{Type: "Appointment"}, body)
	if len(issues) != 1 || issues[0].Expression[0] != "Appointment.participant[0]" ||
		!strings.Contains(issues[0].Diagnostics, "(app-1)") {
		t.Errorf("%v", issues)
	}
	if !asked["type.exists() or actor.exists()"] || asked["low.exists() or high.exists() or text.exists()"] {
		t.Errorf("compiled: %v", asked)
	}
}

// named is an invariant that holds unless the focus is a participant without actor.
type named struct{}

func (named) Holds(n validate.Node) (bool, error) {
	if n.Structure().Name == "Linkage" {
		if strings.Contains(string(n.JSON()), "active") {
			return false, fhir.Errorf(fhir.Unprocessable, "test", "cannot compare")
		}
		return true, errors.New("test")
	}
	if !strings.HasSuffix(string(n.Owner().JSON()), "}") {
		return false, nil // the resource has not been read to its end
	}
	return n.Structure().Name != "Appointment.participant" || strings.Contains(string(n.JSON()), "actor"), nil
}

// TestCostlyBodies validates bodies that are made to cost the square of their size.
// It takes minutes if one of them does.
func TestCostlyBodies(t *testing.T) {
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.ReplaceAll(format, "#", strconv.Itoa(i)))
		}
		return b.String()
	}
	for _, body := range []string{
		// References to contained resources, with escaped ids.
		`{"resourceType":"List","status":"current","mode":"working","contained":[` +
			many(8000, `{"resourceType":"Patient","id":"\u0061#"}`) + `],"entry":[` +
			many(8000, `{"item":{"reference":"\u0023\u0061#"}}`) + `]}`,
		`{"resourceType":"Patient",` + many(49000, `"active":true`) + `}`,
		`{"resourceType":"Patient","meta":{"profile":[` + many(40000, `"`+usCore+`us-core-patient"`) + `]},"name":[` +
			many(4000, `{"family":"a"}`) + `]}`,
		`{"resourceType":"Observation","status":"final","valueString":"a","code":{"coding":[` +
			many(12000, `{"code":"a#"}`) +
			`]},"component":[{"code":{"coding":[` + many(12000, `{"code":"b#"}`) + `]}}]}`,
		`{"resourceType":"Patient","name":[` + many(10000, `{"id":"a#","family":1}`) + `]}`,
		`{"resourceType":"Patient","name":[{"given":[` + many(20000, `null`) + `],"_given":[` +
			many(20000, `null`) + `]}]}`,
		`{"resourceType":"Patient","x":` + strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40) + `}`,
		strings.Repeat(`{"resourceType":"Bundle","type":"batch","entry":[{"resource":`, 15) + many(1,
			`{"type":"batch","resourceType":"Bundle"}`) +
			strings.Repeat(`}]}`, 15),
	} {
		d, err := validator().Resource(validate.Request{Op: "test", Type: typeOf(body)}, []byte(body))
		if d != nil {
			d.Release()
		}
		t.Logf("%.80s: %d bytes: %v", body, len(body), err)
	}
}
