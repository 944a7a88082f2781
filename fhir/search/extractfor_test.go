package search_test

import (
	"testing"

	"pulsegate/fhir/search"
)

// TestExtractForDecidesLikeExtract tests that ExtractFor extracts everything that
// the query depends on.
func TestExtractForDecidesLikeExtract(t *testing.T) {
	const obs = `{"resourceType":"Observation","id":"a","meta":{"versionId":"1","lastUpdated":"2026-10-01T08:00:00.000Z"},"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"},{"system":"http://loinc.org","code":"40443-4"}]},"subject":{"reference":"Patient/p"},"effectivePeriod":{"start":"2026-10-01T08:00:00Z","end":"2026-10-01T09:00:00Z"},"valueQuantity":{"value":62,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"},"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":120}}],"device":{"reference":"Device/d"}}`
	full, err := search.Extract("Observation", []byte(obs))
	if err != nil {
		t.Fatal(err)
	}
	yes, no := 0, 0
	for _, raw := range []string{
		"code=8867-4", "code=http://loinc.org|40443-4", "code=other|8867-4", "code:not=8867-4", "patient=p",
		"patient=q", "subject=Patient/p",
		"date=2026-10-01", "date=lt2026-10-01", "date=ge2026-10-01T08:30:00Z", "value-quantity=gt60",
		"value-quantity=gt60|http://unitsofmeasure.org|/min",
		"value-quantity=lt60", "status=final", "status=amended", "category=vital-signs", "category:missing=true",
		"combo-code=8480-6", "component-code=8867-4",
		"device=Device/d", "device:missing=false", "_lastUpdated=gt2026-01-01", "_lastUpdated=lt2026-01-01",
		"_id=a", "_id=b", "encounter:missing=true",
		"patient=p&code=8867-4&date=ge2026-09-01&status=final", "patient=p&code=8867-4&status=cancelled",
	} {
		pairs, err := search.Pairs(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		q, err := search.Parse("Observation", pairs, search.ParseOptions{})
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		sel, err := search.Select(q)
		if err != nil {
			t.Fatal(err)
		}
		part, err := search.Extractor{}.ExtractFor(sel, []byte(obs))
		if err != nil {
			t.Fatal(err)
		}
		want := search.Match(q, full)
		if got := search.Match(q, part); got != want {
			t.Errorf("%s: Match on ExtractFor says %v, on Extract %v", raw, got, want)
		}
		if want {
			yes++
		} else {
			no++
		}
		if len(part.ByParam) > len(q.Clauses) {
			t.Errorf("%s: extracted %d parameters for %d clauses", raw, len(part.ByParam), len(q.Clauses))
		}
	}
	if yes < 5 || no < 5 {
		t.Fatalf("%d matches, %d others: the test shows nothing", yes, no)
	}
}
