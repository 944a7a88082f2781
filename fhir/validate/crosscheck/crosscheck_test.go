package crosscheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/internal/fixtures"
	"pulsegate/fhir/validate"
)

var google = sync.OnceValue(func() *Validator {
	v, err := New()
	if err != nil {
		panic(err)
	}
	return v
})

var tables = sync.OnceValue(func() *validate.Validator { return validate.New(validate.Options{}) })

// example is a resource of the fixtures.
type example struct {
	name, typ string
	body      []byte
}

// guideExamples returns the examples of US Core.
func guideExamples(t *testing.T) []example {
	var out []example
	for _, file := range []string{"us_core_610.tgz", "us_core_900.tgz"} {
		for name, body := range fixtures.Examples(t, "r4/"+file) {
			var head struct{ ResourceType string }
			if json.Unmarshal(body, &head) == nil && head.ResourceType != "" {
				out = append(out, example{file + " " + name, head.ResourceType, body})
			}
		}
	}
	slices.SortFunc(out, func(a, b example) int { return strings.Compare(a.name, b.name) })
	return out
}

// examples returns HL7's examples of R4 that are JSON.
func examples(t *testing.T) []example {
	var out []example
	for _, dir := range []string{"hl7-test-cases", "hl7-test-cases/examples", "hl7-phd", "smart-brands"} {
		files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, "r4"), dir, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			body, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var head struct{ ResourceType string }
			if json.Unmarshal(body, &head) == nil && head.ResourceType != "" {
				out = append(out, example{filepath.Base(f), head.ResourceType, body})
			}
		}
	}
	return out
}

// verdict returns the issues of fhir/validate.
func verdict(typ string, body []byte) []fhir.Issue {
	d, err := tables().Resource(validate.Request{Op: "test", Type: typ}, body)
	if d != nil {
		d.Release()
	}
	if err == nil {
		return nil
	}
	var e *fhir.Error
	if !errors.As(err, &e) {
		panic(err)
	}
	return e.Issues
}

// googleFaults lists what google/fhir refuses although R4 allows it, by patterns of
// its messages.
var googleFaults = map[string]*regexp.Regexp{ // read only
	// json.html#primitive: a primitive may have extensions and no value.
	"a code, id, oid or uuid with extensions only": regexp.MustCompile(`invalid (Code|Id|Oid|Uuid) format$`),
	// parameters.html: google/fhir has no resource in Parameters.
	"a resource in Parameters": regexp.MustCompile(
		`^error at "Parameters\.parameter\[\d+\](\.part\[\d+\])*\.resource": unknown field`),
	// datatypes.html#open: Meta is one of the types of Extension.value.
	"valueMeta": regexp.MustCompile(`extension\[0\]": unknown field$`),
}

// googleFault returns the fault of google/fhir that explains an error, or an
// empty string.
func googleFault(err error) string {
	if err == nil {
		return ""
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	for name, pattern := range googleFaults {
		if pattern.MatchString(first) {
			return name
		}
	}
	return ""
}

// unchecked lists the rules of R4 that google/fhir does not check, besides the
// invariants.
var unchecked = []string{ // read only
	"a URI has no white space",
	"a URI that begins with urn:oid: must be an OID, without leading zeros",
	"a URI that begins with urn:uuid: must be a UUID",
	"a code must not begin or end with white space and may have only single spaces within",
	"a value must not be empty",
	"an array must not be empty",
	"an object must not be empty",
	"an element has neither value nor extension",
	"does not have a code of its required value set", // of a Coding or CodeableConcept
	"must be a media type, type/subtype (BCP 13)",
	"must be a language tag of BCP 47",
	"must be a currency code of ISO 4217",
	// google/fhir takes an object in the place of a primitive for its extensions.
	ruleType,
	"null is allowed only in an array that has a parallel array of extensions",
}

// uncheckedIn lists rules that google/fhir does not check at a path, or for a text
// in the body.
var uncheckedIn = []struct{ rule, path, text string }{ // read only
	{ruleUnknown, "", `"_id"`},  // the type of ids is not a type of FHIR
	{ruleUnknown, "", `"_url"`}, // Extension.url has no extensions either
	{ruleUnknown, "", `"_div"`},
	{ruleMissing, ".contained[", ""},
	{"must be a URI", ".contained[", ""},
	{ruleType, "", "-0"}, // an integer
}

// invalidExamples lists the examples that break a rule of R4, with the path of
// the first issue.
var invalidExamples = map[string]string{ // read only
	"explanationofbenefit-example.json": "ExplanationOfBenefit",          // lacks required elements
	"patient-container-example.json":    "Patient.contained[0]",          // org-1, dom-3, and "1" as a reference
	"bundle-questionnaire.json":         "Questionnaire.item[0].item[0]", // items without linkId
	"devicemetric-example.json":         "DeviceMetric.parent",           // DeviceDefinition is no target
	"deviceusestatement-example.json":   "DeviceUseStatement.reasonReference[0]",
	"medicationrequest0301.json":        "MedicationRequest.dispenseRequest.performer",
}

const ruleType = "does not match its data type, or is a code outside its required value set"

const ruleMissing = "lacks the required element "

const ruleUnknown = "has an element that R4 does not define here"

// compare reports a disagreement that is on neither list.
func compare(t *testing.T, what, typ string, body []byte) (agreed bool) {
	t.Helper()
	agreed, fault := disagreement(verdict(typ, body), google().Check(body), body)
	if fault != "" {
		t.Errorf("%s: %s", what, fault)
	}
	return agreed
}

// disagreement compares the issues of the tables with the error of google/fhir. The
// fault is empty if they agree or if a list has the reason why they do not.
func disagreement(ours []fhir.Issue, theirs error, body []byte) (agreed bool, fault string) {
	if (ours == nil) == (theirs == nil) {
		return true, ""
	}
	if theirs != nil {
		if googleFault(theirs) == "" {
			return false, fmt.Sprintf("google/fhir refuses what the tables accept: %v", theirs)
		}
		return false, ""
	}
	for _, is := range ours {
		if is.Code == "invariant" || slices.Contains(unchecked, is.Diagnostics) && (is.Code != "value" ||
			is.Diagnostics != ruleType) {
			return false, ""
		}
		for _, u := range uncheckedIn {
			if strings.HasPrefix(is.Diagnostics, u.rule) && strings.Contains(is.Expression[0], u.path) &&
				bytes.Contains(body, []byte(u.text)) {
				return false, ""
			}
		}
	}
	return false, fmt.Sprintf("google/fhir accepts what the tables refuse: %v", ours)
}

// TestDisagreement is the control of the comparisons: disagreements that are on no list
// must be found.
func TestDisagreement(t *testing.T) {
	issue := func(code, rule string) []fhir.Issue {
		return []fhir.Issue{{Code: code, Diagnostics: rule, Expression: []string{"Patient"}}}
	}
	for _, c := range []struct {
		name   string
		ours   []fhir.Issue
		theirs error
		body   string
		fault  bool
	}{
		{"both accept", nil, nil, `{}`, false},
		{"both refuse", issue("structure", ruleUnknown), errors.New("x"), `{}`, false},
		{"tables accept", nil, errors.New(`error at "Patient.name": expected array`), `{}`, true},
		{"tables accept, a fault of google/fhir", nil, errors.New(`error at "Meta.versionId": invalid Id format`),
			`{}`, false},
		{"tables refuse an element", issue("structure", ruleUnknown), nil, `{"_name":{}}`, true},
		{"tables refuse _id", issue("structure", ruleUnknown), nil, `{"_id":{}}`, false},
		{"tables refuse a date", issue("value", ruleType), nil, `{}`, true},
		{"tables refuse an object", issue("structure", ruleType), nil, `{}`, false},
		{"tables refuse a code", issue("structure", "lacks the required element status"), nil, `{}`, true},
		{"an invariant", issue("invariant", "x (pat-1)"), nil, `{}`, false},
	} {
		if _, fault := disagreement(c.ours, c.theirs, []byte(c.body)); (fault != "") != c.fault {
			t.Errorf("%s: %q", c.name, fault)
		}
	}
}

// TestAgreesOnExamples tests that the examples are valid, except for those that
// break a rule, and that google/fhir agrees.
func TestAgreesOnExamples(t *testing.T) {
	n := 0
	for _, e := range examples(t) {
		n++
		compare(t, e.name, e.typ, e.body)
		ours := verdict(e.typ, e.body)
		want, invalid := invalidExamples[e.name]
		switch {
		case ours != nil && !invalid:
			t.Errorf("%s is refused: %v", e.name, ours)
		case invalid && (ours == nil || ours[0].Expression[0] != want):
			t.Errorf("%s: got %v, want an issue at %s", e.name, ours, want)
		}
	}
	for _, e := range guideExamples(t) {
		n++
		compare(t, e.name, e.typ, e.body)
	}
	if n < 450 {
		t.Errorf("only %d examples", n)
	}
}

// TestAgreesOnMutations compares the validators on examples with one or two
// changes.
func TestAgreesOnMutations(t *testing.T) {
	const perExample = 15
	rng := rand.New(rand.NewPCG(1, 2))
	agreed, listed := 0, 0
	all := examples(t)
	for i, e := range guideExamples(t) {
		if i%4 == 0 {
			all = append(all, e)
		}
	}
	for _, e := range all {
		if len(e.body) > 8000 || e.name == "patient-name-extensions.json" { // repaired would hide mutations of it
			continue
		}
		for k := range perExample {
			var tree map[string]any
			dec := json.NewDecoder(bytes.NewReader(e.body))
			dec.UseNumber()
			if err := dec.Decode(&tree); err != nil {
				t.Fatal(err)
			}
			what := mutate(rng, tree)
			if k%3 == 0 {
				what += ", " + mutate(rng, tree)
			}
			body, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			if typ, _ := tree["resourceType"].(string); typ != e.typ {
				continue
			}
			if compare(t, e.name+", "+what+": "+string(body), e.typ, body) {
				agreed++
			} else {
				listed++
			}
		}
	}
	if agreed < 500 || listed == 0 {
		t.Errorf("only %d agreements and %d disagreements", agreed, listed)
	}
	t.Logf("%d agreements, %d disagreements that are on the lists", agreed, listed)
}

// spot is a member or an element of an array.
type spot struct {
	object map[string]any
	name   string
	list   []any
	index  int
	set    func(any)
}

func spots(v any, out []spot) []spot {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			out = append(out, spot{object: v, name: name, set: func(x any) { v[name] = x }})
			out = spots(v[name], out)
		}
	case []any:
		for i := range v {
			out = append(out, spot{list: v, index: i, set: func(x any) { v[i] = x }})
			out = spots(v[i], out)
		}
	}
	return out
}

var mutations = []any{ // read only
	"x", "", " ", "a b", "not-a-code", "final", "2026", "2026-02-29", "2024-02-29", "2026-13", "2026-03-01T08:00:00Z",
	"2026-03-01T08:00:00", "2026-03-01T24:00:00Z", "2026-03-01T08:00:60Z", "2026-03-01T08:00Z", "08:30:00", "24:00:00",
	"http://a.test/x", "http://a b", "urn:oid:1.2.3", "urn:oid:1.02", "urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7",
	"urn:uuid:X", "Patient/1", "Medication/1", "#x", "aGVsbG8=", "aGVsbG8", "a\u0001", strings.Repeat("x", 65), "é",
	"en", "en_US", "text/plain", "EUR", "XYZ", true, false, json.Number("0"), json.Number("1"), json.Number("-1"),
	json.Number("1.50"), json.Number("1e3"), json.Number("2147483648"), json.Number("-0"), json.Number("4294967296"),
	nil, map[string]any{}, []any{}, []any{"x"}, []any{nil}, map[string]any{"id": "x"},
	map[string]any{"extension": []any{map[string]any{"url": "http://x.test", "valueCode": "c"}}},
}

// copied returns a copy of a JSON value, so that later changes of the tree do not
// change v.
func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = copied(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = copied(x)
		}
		return out
	}
	return v
}

// mutate changes one spot of a tree and returns the kind of the change.
func mutate(rng *rand.Rand, tree map[string]any) string {
	all := spots(tree, nil)
	s := all[rng.IntN(len(all))]
	var old any
	if s.object != nil {
		old = s.object[s.name]
	} else {
		old = s.list[s.index]
	}
	switch rng.IntN(8) {
	case 0:
		if s.object != nil {
			delete(s.object, s.name)
			return "drop"
		}
	case 1:
		s.set([]any{old})
		return "array"
	case 2:
		if l, ok := old.([]any); ok && len(l) > 0 {
			s.set(l[0])
			return "unwrap"
		}
	case 3:
		if s.object != nil {
			s.object["_"+s.name] = map[string]any{"extension": []any{map[string]any{"url": "http://x.test",
				"valueCode": "c"}}}
			return "shadow"
		}
	case 4:
		if s.object != nil {
			s.object["valueString"] = "x"
			return "valueString"
		}
	case 5:
		if l, ok := old.([]any); ok && len(l) > 0 {
			s.set(append(slices.Clone(l), copied(l[0])))
			return "twice"
		}
	}
	v := mutations[rng.IntN(len(mutations))]
	s.set(copied(v))
	return fmt.Sprintf("value %.40v", v)
}
