package r4

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fastjson"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/internal/fixtures"
)

var inner = sync.OnceValue(func() *Validator {
	d, err := New(Limits{})
	if err != nil {
		panic(err)
	}
	return d
})

// decided returns the results of precheck and of the full validation for a body.
func decided(d *Validator, typ string, body []byte) (easy bool, slow error) {
	v, err := compact(op, body, d.limits.Bytes)
	if err != nil {
		return false, err
	}
	root, err := new(fastjson.Parser).ParseBytes(v)
	if err != nil {
		return false, err
	}
	if string(root.GetStringBytes("resourceType")) != typ {
		return false, errors.New("is of another type")
	}
	easy = d.precheck(typ, v, root)
	r := &rules{typ: typ, all: d.structures, root: root}
	if err := d.validateFully(r, v); err != nil {
		return easy, err
	}
	return easy, r.err(v)
}

// odd lists values that parsers tend to treat differently.
var odd = []string{ // read only
	`"a"`, `" "`, `"a b"`, `"a  b"`, `" a"`, `""`, `"\u0000"`, `"\u0001"`, `"\t"`, `"é"`, `"\ud83d\ude00"`,
	`"\ud800"`, `"\ud800x"`, `"\u001f"`, `"a\u007fb"`, `"\/"`, `"\\"`,
	`"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"`, `"urn:oid:1.2.3"`, `"http://a.test/b|1"`, `"http://a b"`,
	`"http://[::1"`, `"http://a:b/"`, `"http://a%zz/"`, `"http://a.test/%zz"`,
	`"http://a.test?x=%zz"`, `"HTTP://A"`, `"https://"`, `"https:///x"`, `"%zz"`, `":"`, `"a:b"`, `"1:b"`, `"//"`,
	`"a/b:c"`, `"http://é/"`, `"http://a.test/a b"`,
	`"Patient/1"`, `"Medication/1"`, `"Patient/1/_history/2"`, `"Patient/1/_history/é"`, `"Patient/1/x/2"`,
	`"Patient/"`, `"/1"`, `"Foo/1"`, `"Sequence/1"`, `"#x"`, `"#"`, `"http://x.test/Patient/1"`, `"Patient/1/2/3/4"`,
	`"final"`, `"FINAL"`, `"greater_than"`, `">="`, `"unknown"`, `"8867-4"`, `"a.b"`,
	`"` + strings.Repeat("x", 64) + `"`, `"` + strings.Repeat("x", 65) + `"`,
	`"2026"`, `"0000"`, `"0000-01"`, `"2026-13"`, `"2026-02-29"`, `"2024-02-29"`, `"1900-02-29"`, `"2000-02-29"`,
	`"2026-04-31"`, `"2026-01-00"`, `"-2026"`, `"2026-1-1"`, `"20260101"`,
	`"2026-03-01T08:00:00Z"`, `"2026-03-01T08:00:00.123456789012Z"`, `"2026-03-01T08:00:00.1+14:00"`,
	`"2026-03-01T08:00:00+14:01"`, `"2026-03-01T08:00:00-13:59"`, `"2026-03-01T08:00:00-00:00"`,
	`"2026-03-01T08:00:60Z"`, `"2026-03-01T24:00:00Z"`, `"2026-03-01T08:00Z"`, `"2026-03-01T08:00:00"`,
	`"2026-03-01T08:00:00z"`, `"2026-03-01t08:00:00Z"`, `"2026-03-01T08:00:00,5Z"`, `"2026-03-01T08:00:00.Z"`,
	`"08:00:00"`, `"08:00:00.5"`, `"08:00"`, `"24:00:00"`, `"08:00:60"`, `"8:00:00"`,
	`"en"`, `"en_US"`, `"xx-yy-zz"`, `"text/plain"`, `"text"`, `"a/b; c"`, `"EUR"`, `"eur"`, `"XYZ"`,
	`"urn:oid:1.02.3"`, `"urn:oid:3.1"`, `"urn:uuid:XYZ"`, `"urn:uuid:53FEFA32-fcbb-4ff8-8a92-55ee120877b7"`,
	`"http://a.test/\u00a0b"`,
	`true`, `false`, `"true"`, `null`, `0`, `1`, `-1`, `-0`, `1.0`, `1e2`, `1E-3`, `1.5e+3`, `2147483647`,
	`999999999`, `1000000000`, `4294967296`, `-2147483649`, `0.0`, `-0.0`, `62.50`,
	`123456789012345678901234567890.1`, `1e400`, `0.00000000000000000000000000000000000001`, `{}`, `[]`, `[1]`,
	`{"id":"x"}`, `["a"]`, `[null]`, `{"extension":[{"url":"http://x.test","valueCode":"c"}]}`,
}

// fitting generates a valid value of a data type.
func fitting(t *rapid.T, st *structure) string {
	switch st.typ {
	case boolean:
		return rapid.SampledFrom([]string{"true", "false"}).Draw(t, "boolean")
	case integer, positiveInt, unsignedInt:
		return rapid.SampledFrom([]string{"1", "7", "99999", "999999999"}).Draw(t, "integer")
	case decimal:
		return rapid.SampledFrom([]string{"0", "1.50", "-2.5", "120"}).Draw(t, "decimal")
	case coded:
		b, err := json.Marshal(rapid.SampledFrom(slices.Sorted(maps.Keys(st.codes))).Draw(t, "code"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	case date:
		return rapid.SampledFrom([]string{`"1999"`, `"1999-12"`, `"1999-12-31"`}).Draw(t, "date")
	case dateTime, instant:
		return rapid.SampledFrom([]string{`"1999-12-31T23:59:59Z"`, `"2026-03-01T08:00:00.250+01:00"`}).Draw(t,
			"moment")
	case timeOfDay:
		return `"08:30:00"`
	case oid:
		return `"urn:oid:1.2.36"`
	case uuid:
		return `"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"`
	case languageTag:
		return rapid.SampledFrom([]string{`"en"`, `"de-CH"`}).Draw(t, "language")
	case mediaType:
		return rapid.SampledFrom([]string{`"image/png"`, `"text/plain; charset=utf-8"`}).Draw(t, "media type")
	case currencyCode:
		return rapid.SampledFrom([]string{`"EUR"`, `"USD"`}).Draw(t, "currency")
	case uri:
		return rapid.SampledFrom([]string{`"http://loinc.org"`, `"urn:oid:1.2"`, `"https://x.test/a-b/c_d|2"`,
			`"x/y"`}).Draw(t, "uri")
	}
	return rapid.SampledFrom([]string{`"a"`, `"x-1"`, `"final"`}).Draw(t, "text")
}

// fitting lists references that m allows, or arbitrary ones if flaws is set.
func (m *member) fitting(flaws int) []string {
	list := []string{`"#x"`, `"http://x.test/fhir/Patient/1"`}
	for _, t := range m.targets {
		list = append(list, `"`+t+`/1"`)
	}
	if flaws > 0 {
		list = append(list, odd[:64]...)
	}
	return list
}

// breaks counts the broken invariants of an object.
type breaks int

func (b *breaks) broken(_, _ string) { *b++ }

// resource generates JSON with the structure st, sometimes with a flaw. An
// object that breaks an invariant is generated again a few times, so that most
// objects keep their invariants.
func resource(t *rapid.T, st *structure, typ string, depth, flaws int) string {
	for try := 0; ; try++ {
		s := drawn(t, st, typ, depth, flaws)
		v, err := fastjson.Parse(s)
		if st.check == nil || err != nil {
			return s
		}
		var n breaks
		if st.check(v, &n); n == 0 {
			return s
		}
		if try == 2 {
			if flaws == 0 {
				return sample(st, s)
			}
			return s
		}
	}
}

// sample returns an object that is valid for st, or else the string or.
func sample(st *structure, or string) string {
	for _, s := range []string{`{"value":1,"system":"http://unitsofmeasure.org","code":"a"}`,
		`{"value":1,"system":"http://unitsofmeasure.org","code":"1"}`,
		`{"language":"text/cql","expression":"x"}`, `{"path":"a"}`, `{"type":"named-event","name":"a"}`,
		`{"system":"phone","value":"1"}`,
		`{"numerator":{"value":1},"denominator":{"value":2}}`, `{"text":"a"}`,
		`{"extension":[{"url":"http://x.test/e","valueCode":"a"}]}`} {
		v, err := fastjson.Parse(s)
		if w := (&prechecker{maxDepth: 50}); err == nil && w.object(st, v, 2) {
			return s
		}
	}
	return or
}

func drawn(t *rapid.T, st *structure, typ string, depth, flaws int) string {
	flaw := func(of int) bool { return flaws > 0 && rapid.IntRange(0, of/flaws).Draw(t, "flaw") == 0 }
	var out []string
	if typ != "" {
		out = append(out, `"resourceType":"`+typ+`"`)
	}
	bySlot := map[uint8][]string{}
	for _, name := range slices.Sorted(maps.Keys(st.members)) {
		bySlot[st.members[name].slot] = append(bySlot[st.members[name].slot], name)
	}
	for _, slot := range slices.Sorted(maps.Keys(bySlot)) {
		odds := 60 >> min(depth-1, 8) // fewer members at greater depth
		required := st.required&(1<<slot) != 0
		if required == flaw(300) && rapid.IntRange(0, 999).Draw(t, "there") >= odds*40/len(bySlot) {
			continue
		}
		name := rapid.SampledFrom(bySlot[slot]).Draw(t, "name")
		m := st.members[name]
		if m.structure.typ == delegated && !flaw(20) {
			continue
		}
		one := func() string {
			if flaw(60) || m.structure.typ == delegated {
				return rapid.SampledFrom(odd).Draw(t, "value")
			}
			if m.structure.typ == object || m.structure.typ == reference {
				if m.structure.typ == reference {
					return `{"reference":` + rapid.SampledFrom(m.fitting(flaws)).Draw(t, "reference") + `}`
				}
				return resource(t, m.structure, "", depth+1, flaws)
			}
			return fitting(t, m.structure)
		}
		value := one()
		if m.repeated && !flaw(100) {
			value = "[" + value + "]"
			if rapid.IntRange(0, 3).Draw(t, "two") == 0 {
				value = "[" + one() + "," + one() + "]"
			}
		}
		if !flaw(50) {
			out = append(out, `"`+name+`":`+value)
			continue
		}
		switch rapid.IntRange(0, 3).Draw(t, "name") {
		case 0:
			name = "_" + name
		case 1:
			out = append(out, `"`+name+`":`+value)
		case 2:
			name = strings.ToUpper(name[:1]) + name[1:]
		case 3:
			name = `\u00` + map[bool]string{true: "6",
				false: "7"}[name[0] < 'p'] + string("0123456789abcdef"[name[0]&15]) + name[1:]
		}
		out = append(out, `"`+name+`":`+value)
	}
	if len(out) == 0 {
		out = []string{`"id":"x"`}
	}
	return "{" + strings.Join(out, ",") + "}"
}

// served lists the resource types to test. It is read only.
var served = []string{"Observation", "Patient", "Device", "Consent", "Provenance", "Practitioner", "Organization",
	"Group", "Subscription", "AuditEvent", "DeviceMetric", "Bundle", "Parameters"}

// TestPrecheckAgreesWithFullValidation tests that the full validation accepts
// whatever precheck accepts, and that precheck accepts most valid resources.
func TestPrecheckAgreesWithFullValidation(t *testing.T) {
	d := inner()
	both, alone := 0, 0
	property := func(t *rapid.T) {
		typ := rapid.SampledFrom(served).Draw(t, "type")
		body := resource(t, d.structures.of(typ), typ, 1, rapid.IntRange(0, 2).Draw(t, "flaws"))
		easy, slow := decided(d, typ, []byte(body))
		if easy && slow != nil {
			t.Fatalf("precheck accepts what the full validation refuses: %s\n%s", OutcomeJSON(slow), body)
		}
		if easy {
			both++
		} else if slow == nil {
			alone++
		}
	}
	rapid.Check(t, property)
	for round := 0; both < 50; round++ {
		if round == 50 {
			t.Fatalf("plain took %d, google/fhir alone %d", both, alone)
		}
		rapid.Check(t, property)
	}
	t.Logf("plain took %d, google/fhir alone %d", both, alone)
}

// TestPrecheckAcceptsTypicalResources tests that typical resources of EHRs and
// devices do not need google/fhir.
func TestPrecheckAcceptsTypicalResources(t *testing.T) {
	for _, body := range []string{
		`{"resourceType":"Observation","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital Signs"}],"text":"Vital Signs"}],"code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"subject":{"reference":"Patient/p1"},"effectivePeriod":{"start":"2026-03-01","end":"2026-03-01T08:00:00.5+01:00"},"component":[{"code":{"text":"a"},"valueQuantity":{"value":120,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]","comparator":"<"}}]}`,
		`{"resourceType":"Patient","id":"p1","meta":{"lastUpdated":"2026-03-01T08:00:00Z","profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient|6.1.0"]},"identifier":[{"use":"usual","system":"urn:oid:1.2.36","value":"1"}],"name":[{"family":"Ström","given":["Åsa","B"]}],"telecom":[{"system":"phone","value":"+1","rank":1}],"gender":"female","birthDate":"1970","extension":[{"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-race","extension":[{"url":"text","valueString":"x"}]}]}`,
		`{"resourceType":"Device","id":"d1","status":"active","deviceName":[{"name":"Ring","type":"user-friendly-name"}],"patient":{"reference":"Patient/p1"},"text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">x</div>"}}`,
		`{"resourceType":"Provenance","target":[{"reference":"Observation/o1/_history/2"}],"recorded":"2026-03-01T08:00:00Z","agent":[{"who":{"identifier":{"system":"http://x.test","value":"1"}}}]}`,
	} {
		typ := body[len(`{"resourceType":"`):]
		typ = typ[:strings.IndexByte(typ, '"')]
		if easy, slow := decided(inner(), typ, []byte(body)); !easy || slow != nil {
			t.Errorf("%s: plain says %v, google/fhir %v", typ, easy, slow)
		}
	}
}

// TestPrecheckAgreesOnExamples compares precheck with the full validation on
// HL7's examples, unchanged and with one byte changed.
func TestPrecheckAgreesOnExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, "r4"), "hl7-test-cases", "examples", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	easies, all := 0, 0
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var head struct{ ResourceType string }
		if len(body) > 20_000 || json.Unmarshal(body, &head) != nil || !fhir.KnownType(head.ResourceType) {
			continue
		}
		for i := -1; i < 40; i++ {
			b := slices.Clone(body)
			if i >= 0 {
				b[(i*7919+len(f))%len(b)] = `"0:{ZA,x]é/`[i%10]
			}
			easy, slow := decided(inner(), head.ResourceType, b)
			if easy && slow != nil {
				t.Errorf("%s with change %d: plain takes what is refused with %s", filepath.Base(f), i,
					OutcomeJSON(slow))
			}
			if i < 0 {
				all++
				if easy {
					easies++
				}
			}
		}
	}
	t.Logf("plain took %d of %d examples", easies, all)
}

func FuzzPrecheck(f *testing.F) {
	for i := range 40 {
		typ := served[i%len(served)]
		f.Add(typ, []byte(rapid.Custom(func(t *rapid.T) string {
			return resource(t, inner().structures.of(typ), typ, 1,
				i%3)
		}).Example(i)))
	}
	for _, v := range odd {
		f.Add("Observation", []byte(`{"resourceType":"Observation","status":"final","code":{"text":`+v+
			`},"valueQuantity":{"value":`+v+`},"effectiveDateTime":`+v+`,"subject":{"reference":`+v+`}}`))
	}
	f.Fuzz(func(t *testing.T, typ string, body []byte) {
		if easy, slow := decided(inner(), typ, body); easy && slow != nil {
			t.Errorf("precheck accepts what the full validation refuses: %s", OutcomeJSON(slow))
		}
	})
}

func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,"}\""]},"c\u0041":"x","d":-1.5e3,"e":null}`, `{"a"`,
		`{"a":"\`, `{"a":[}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := map[string]string{}
		err := members(body, func(name string, raw jsontext.Value) error { got[name] = string(raw); return nil })
		v, cerr := compact(op, body, 1<<20)
		if cerr != nil || string(v) != string(body) {
			return // only a panic is a failure
		}
		want := map[string]json.RawMessage{}
		if json.Unmarshal(body, &want) != nil {
			return
		}
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d members, want %d: %v", len(got), len(want), err)
		}
		for name, raw := range want {
			if got[name] != string(raw) {
				t.Errorf("a member is %q, want %q", got[name], raw)
			}
		}
	})
}
