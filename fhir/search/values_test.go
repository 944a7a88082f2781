package search_test

import (
	"fmt"
	"strings"
	"testing"

	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// TestUnits tests that quantities match in commensurable units of UCUM (R4
// search.html#quantity).
func TestUnits(t *testing.T) {
	const ucum = "|http://unitsofmeasure.org|"
	quantity := func(value, code string) string {
		return `{"resourceType":"Observation","code":{"coding":[{"code":"x"}]},"valueQuantity":{"value":` + value +
			`,"unit":"u","system":"http://unitsofmeasure.org","code":"` + code + `"}}`
	}
	check(t, "Observation", quantity("1", "g"),
		[]string{"value-quantity=1000" + ucum + "mg", "value-quantity=1.0" + ucum + "g",
			"value-quantity=0.001" + ucum + "kg",
			"value-quantity=le1000" + ucum + "mg", "value-quantity=ge1000" + ucum + "mg",
			"value-quantity=gt999" + ucum + "mg",
			"value-quantity=ap950" + ucum + "mg", "value-quantity=ne1001" + ucum + "mg",
			"value-quantity=eb1001" + ucum + "mg",
			"combo-value-quantity=1000" + ucum + "mg", "code-value-quantity=x$1000" + ucum + "mg",
			"value-quantity=1||g",
			"value-quantity=1||u", "code-value-quantity=x$gt999" + ucum + "mg"},
		[]string{"value-quantity=1" + ucum + "mg", "value-quantity=gt1000" + ucum + "mg",
			"value-quantity=1000" + ucum + "mL",
			"value-quantity=1000||mg", "value-quantity=1000|http://other.test|mg",
			"value-quantity=1000" + ucum + "nonsense",
			"code-value-quantity=y$1000" + ucum + "mg", "code-value-quantity=x$gt1000" + ucum + "mg"})
	check(t, "Observation", quantity("36.6", "Cel"), []string{"value-quantity=97.88" + ucum + "[degF]"},
		[]string{"value-quantity=36.6" + ucum + "[degF]"})
	// Equal decimals are equal, without a rounding error.
	for _, milligrams := range []string{"100", "300", "700", "1100", "4350", "8010"} {
		n := strings.TrimRight(fmt.Sprintf("%.3f", number(milligrams)/1000), "0")
		check(t, "Observation", quantity(n, "g"), []string{"value-quantity=ge" + milligrams + ucum + "mg",
			"value-quantity=le" + milligrams + ucum + "mg"}, []string{"value-quantity=gt" + milligrams + ucum + "mg",
			"value-quantity=lt" + milligrams + ucum + "mg"})
	}
}

func number(s string) float64 {
	var f float64
	if _, err := fmt.Sscan(s, &f); err != nil {
		panic(err)
	}
	return f
}

// TestRanges tests Range and SampledData under R4's rules for ranges
// (search.html#prefix): they match by whether the range above, below or at the value
// intersects them.
func TestRanges(t *testing.T) {
	found := []string{"probability=gt0.5", "probability=lt0.5", "probability=ge0.7", "probability=le0.3",
		"probability=ne0.5",
		"probability=ap0.5", "probability=gt0.1", "probability=sa0.1", "probability=eb0.9", "probability=ge0.5"}
	not := []string{"probability=0.5", "probability=gt0.7", "probability=lt0.3", "probability=sa0.3",
		"probability=eb0.7",
		"probability=lt0.1"}
	check(t, "RiskAssessment", `{"resourceType":"RiskAssessment","prediction":[{"probabilityRange":{"low":{"value":0.3},"high":{"value":0.7}}}]}`,
		found, not)
	check(t, "RiskAssessment", `{"resourceType":"RiskAssessment","prediction":[{"probabilityDecimal":0.5}]}`,
		[]string{"probability=0.5", "probability=5e-1", "probability=gt0.49", "probability:missing=false"},
		[]string{"probability=0.50001", "probability=gt0.5", "probability:missing=true"})
	check(t, "RiskAssessment", `{"resourceType":"RiskAssessment","prediction":[{"probabilityRange":{"low":{"value":0.3}}}]}`,
		[]string{"probability=gt1000", "probability=sa0.2"}, []string{"probability=lt0.3", "probability=0.3"})
	check(t, "Observation", `{"resourceType":"Observation","valueSampledData":{"origin":{"value":10,"system":"http://unitsofmeasure.org","code":"mV"},"factor":2,"period":10,"dimensions":1,"data":"1 E 5 L -2 U"}}`,
		[]string{"value-quantity=ge20", "value-quantity=le6", "value-quantity=gt19", "value-quantity=sa5",
			"value-quantity=eb21",
			"value-quantity=lt0.01|http://unitsofmeasure.org|V"},
		[]string{"value-quantity=gt20", "value-quantity=lt6", "value-quantity=13",
			"value-quantity=gt1|http://unitsofmeasure.org|V"})
}

// TestComposites tests composite parameters of other types than Observation
// (search.html#composite): both parts are of one element.
func TestComposites(t *testing.T) {
	check(t, "Group", `{"resourceType":"Group","characteristic":[{"code":{"coding":[{"system":"http://s.test","code":"gender"}]},"valueCodeableConcept":{"coding":[{"code":"mixed"}]}},{"code":{"coding":[{"code":"owner"}]},"valueCodeableConcept":{"coding":[{"code":"john"}]}},{"code":{"coding":[{"code":"alive"}]},"valueBoolean":true}]}`,
		[]string{"characteristic-value=gender$mixed", "characteristic-value=http://s.test|gender$mixed",
			"characteristic-value=x$y,owner$john", "characteristic-value=alive$true",
			"characteristic-value:missing=false"},
		[]string{"characteristic-value=gender$john", "characteristic-value=owner$mixed", "characteristic-value=x$mixed",
			"characteristic-value=http://other.test|gender$mixed", "characteristic-value:missing=true"})
	check(t, "DocumentReference", `{"resourceType":"DocumentReference","relatesTo":[{"code":"replaces","target":{"reference":"DocumentReference/old"}},{"code":"signs","target":{"reference":"DocumentReference/other"}}]}`,
		[]string{"relationship=DocumentReference/old$replaces", "relationship=DocumentReference/other$signs"},
		[]string{"relationship=DocumentReference/old$signs", "relationship=DocumentReference/other$replaces"})
	check(t, "ValueSet", `{"resourceType":"ValueSet","useContext":[{"code":{"code":"age"},"valueRange":{"low":{"value":20,"system":"http://unitsofmeasure.org","code":"a"},"high":{"value":30,"system":"http://unitsofmeasure.org","code":"a"}}},{"code":{"code":"focus"},"valueCodeableConcept":{"coding":[{"code":"asthma"}]}}]}`,
		[]string{"context-type-quantity=age$gt25", "context-type-quantity=age$sa10", "context-type-value=focus$asthma"},
		[]string{"context-type-quantity=age$gt30", "context-type-quantity=focus$gt25", "context-type-value=age$asthma"})
	check(t, "MolecularSequence", `{"resourceType":"MolecularSequence","referenceSeq":{"chromosome":{"coding":[{"code":"1"}]},"windowStart":100,"windowEnd":200},"variant":[{"start":128,"end":129},{"start":150,"end":160}]}`,
		[]string{"chromosome-variant-coordinate=1$128$129", "chromosome-variant-coordinate=1$gt127$lt130",
			"chromosome-window-coordinate=1$lt150$gt150"},
		[]string{"chromosome-variant-coordinate=1$128$160", "chromosome-variant-coordinate=2$128$129",
			"chromosome-window-coordinate=1$lt100$gt150"})
	for _, q := range []string{"characteristic-value=a", "characteristic-value=a$b$c", "characteristic-value=$b"} {
		if _, err := parse("Group", q, search.ParseOptions{}); err == nil {
			t.Errorf("%s is accepted", q)
		}
	}
}

// TestURIs tests :above and :below of URIs, and canonical references with versions
// (search.html#uri, search.html#reference).
func TestURIs(t *testing.T) {
	check(t, "ValueSet", `{"resourceType":"ValueSet","url":"http://acme.org/fhir/ValueSet/123"}`,
		[]string{"url=http://acme.org/fhir/ValueSet/123", "url:below=http://acme.org/fhir/",
			"url:below=http://acme.org/fhir",
			"url:below=http://acme.org/fhir/ValueSet/123", "url:above=http://acme.org/fhir/ValueSet/123/_history/5"},
		[]string{"url=http://acme.org/fhir/", "url:below=http://acme.org/fh", "url:above=http://acme.org/fhir",
			"url=http://acme.org/fhir/valueset/123"})
	body := `{"resourceType":"CarePlan","instantiatesCanonical":["http://acme.org/plan|1.2"]}`
	check(t, "CarePlan", body, []string{"instantiates-canonical=http://acme.org/plan|1.2",
		"instantiates-canonical=http://acme.org/plan",
		"instantiates-canonical:below=http://acme.org/plan", "instantiates-canonical:below=http://acme.org/plan|1"},
		[]string{"instantiates-canonical=http://acme.org/plan|1", "instantiates-canonical=http://acme.org/plan|1.2.0",
			"instantiates-canonical:below=http://acme.org/plan|2", "instantiates-canonical:below=http://acme.org/pla"})
	for _, q := range []string{"url:below=urn:oid:1.2.3", "url:above=x"} {
		if _, err := parse("ValueSet", q, search.ParseOptions{}); err == nil {
			t.Errorf("%s is accepted: R4 orders URLs and not URNs", q)
		}
	}
	if _, err := parse("Observation", "subject:below=Patient/1", search.ParseOptions{}); err == nil {
		t.Error("subject:below is accepted")
	}
}

// TestOfType tests :of-type (search.html#token).
func TestOfType(t *testing.T) {
	check(t, "Patient", `{"resourceType":"Patient","identifier":[{"type":{"coding":[{"system":"http://t.test","code":"MR"},{"code":"local"}]},"system":"http://a.test","value":"446053"},{"type":{"coding":[{"system":"http://t.test","code":"SS"}]},"value":"1"}]}`,
		[]string{"identifier:of-type=http://t.test|MR|446053", "identifier:of-type=|local|446053", "identifier=446053",
			"identifier=http://a.test|446053"},
		[]string{"identifier:of-type=http://t.test|MR|1", "identifier:of-type=http://t.test|SS|446053",
			"identifier:of-type=http://a.test|MR|446053"})
	for _, q := range []string{"identifier:of-type=MR|446053", "identifier:of-type=a|b|", "gender:of-type=a|b|c"} {
		if _, err := parse("Patient", q, search.ParseOptions{}); err == nil {
			t.Errorf("%s is accepted", q)
		}
	}
}

// sets is a terminology of one value set and one code system.
type sets struct{ size int }

func (s sets) Expand(url string) ([]element.Coding, bool) {
	if url != "http://vs.test/vital" {
		return nil, false
	}
	out := []element.Coding{{System: "http://loinc.org", Code: "8867-4"}, {Code: "any"}}
	for i := range s.size {
		out = append(out, element.Coding{System: "http://loinc.org", Code: fmt.Sprint("x", i)})
	}
	return out, true
}

func (sets) Below(system, code string) ([]string, bool) {
	return []string{code, code + ".1", code + ".2"}, system == "http://tree.test"
}

func (sets) Above(system, code string) ([]string, bool) {
	return []string{code, strings.TrimSuffix(code, ".1")}, system == "http://tree.test"
}

// TestTerminology tests :in, :not-in, :above and :below of tokens (search.html#token).
func TestTerminology(t *testing.T) {
	for _, size := range []int{0, 1000} { // a long list is looked up
		for body, c := range map[string]map[string]bool{
			`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]}`: {"code:in=http://vs.test/vital": true,
				"code:not-in=http://vs.test/vital": false},
			`"code":{"coding":[{"system":"http://other.test","code":"8867-4"}]}`: {"code:in=http://vs.test/vital": false,
				"code:not-in=http://vs.test/vital": true},
			`"code":{"coding":[{"system":"http://other.test","code":"any"}]}`: {"code:in=http://vs.test/vital": true},
			`"code":{"text":"x"}`: {"code:in=http://vs.test/vital": false, "code:not-in=http://vs.test/vital": true},
			`"code":{"coding":[{"system":"http://tree.test","code":"a.1"}]}`: {"code:below=http://tree.test|a": true,
				"code:above=http://tree.test|a.1.1": true, "code:below=http://tree.test|a.1": true,
				"code:above=http://tree.test|a": false},
			`"code":{"coding":[{"system":"http://wood.test","code":"a.1"}]}`: {"code:below=http://tree.test|a": false},
		} {
			v, err := search.Extract("Observation", []byte(`{"resourceType":"Observation",`+body+`}`))
			if err != nil {
				t.Fatal(err)
			}
			for q, want := range c {
				parsed, err := parse("Observation", q, search.ParseOptions{ValueSets: sets{size}})
				if err != nil {
					t.Fatal(err)
				}
				if got := search.Match(parsed, v); got != want {
					t.Errorf("%d: %s of %s: %t", size, q, body, got)
				}
			}
		}
	}
	for q, says := range map[string]string{
		"code:in=http://vs.test/unknown": "not known", "code:below=http://wood.test|a": "not known",
		"code:below=a": "system|code", "subject:in=http://vs.test/vital": "not supported",
	} {
		if _, err := parse("Observation", q, search.ParseOptions{ValueSets: sets{}}); err == nil ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", q, err)
		}
	}
	if _, err := parse("Observation", "code:in=http://vs.test/vital", search.ParseOptions{}); err == nil {
		t.Error(":in is accepted without a terminology")
	}
	if _, err := parse("Observation", "code:in=http://vs.test/vital",
		search.ParseOptions{ValueSets: sets{20_000}}); err == nil {
		t.Error("a value set without a bound is accepted")
	}
}

// TestLookup tests that long lists match as short ones do.
func TestLookup(t *testing.T) {
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprint("Patient/p", i))
	}
	body := func(ref string) string {
		return `{"resourceType":"Observation","status":"final","subject":{` + ref +
			`},"identifier":[{"system":"s","value":"v7"}]}`
	}
	long := strings.Join(ids, ",")
	check(t, "Observation", body(`"reference":"Patient/p77"`), []string{"subject=" + long, "patient=" + long},
		[]string{"performer=" + long})
	check(t, "Observation", body(`"reference":"Group/p77"`), nil, []string{"subject=" + long})
	check(t, "Observation", body(`"identifier":{"value":"Patient/p7"}`), nil, []string{"subject=" + long})
	codes := strings.ReplaceAll(strings.ReplaceAll(long, "Patient/p", "v"), "x", "y")
	check(t, "Observation", body(`"reference":"Patient/p77"`), []string{"identifier=" + codes, "identifier=s|" +
		strings.ReplaceAll(codes, ",", ",s|"), "status:not=" + codes},
		[]string{"identifier=t|" + strings.ReplaceAll(codes, ",", ",t|"), "status=" + codes})
}

// TestJoinsNeedAnEvaluator tests that a query with joins is refused where nothing
// evaluates them, and that a clause with joins matches nothing.
func TestJoinsNeedAnEvaluator(t *testing.T) {
	for _, q := range []string{"patient.name=x", "_has:Observation:subject:code=1", "_list=1",
		"_revinclude=Provenance:target",
		"_filter=patient.name eq x"} {
		if _, err := parse("Observation", q, search.ParseOptions{}); err == nil {
			t.Errorf("%s is accepted", q)
		}
	}
	v, err := search.Extract("Observation",
		[]byte(`{"resourceType":"Observation","id":"1","subject":{"reference":"Patient/1"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"patient.name=x", "_has:Observation:has-member:code=1",
		"_filter=not (patient.name eq x) and patient.name eq x"} {
		parsed, err := parse("Observation", q, search.ParseOptions{Joins: true})
		if err != nil {
			t.Fatal(err)
		}
		if search.Match(parsed, v) {
			t.Errorf("%s matches before its joins are evaluated", q)
		}
	}
}
