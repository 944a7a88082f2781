package rest

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fieldData is data like that of HL7's examples, on which fhir-candle's tests search.
var fieldData = []string{
	`{"resourceType":"Patient","id":"example","active":true,"name":[{"use":"official","family":"Chalmers","given":["Peter","James"]}],"gender":"male","birthDate":"1982-01-23","identifier":[{"system":"urn:oid:1.2.36.146","value":"12345","type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v2-0203","code":"MR"}]}}],"telecom":[{"system":"phone","value":"(03) 5555 6473"}]}`,
	`{"resourceType":"Patient","id":"triplet","active":true,"name":[{"use":"official","family":"Betterhalf"}],"gender":"female","birthDate":"1982-08-02","multipleBirthInteger":3,"identifier":[{"value":"12345"}]}`,
	`{"resourceType":"Observation","id":"pounds","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/bodyweight"]},"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"29463-7"},{"system":"http://snomed.info/sct","code":"27113001"}]},"subject":{"reference":"Patient/example"},"effectiveDateTime":"2016-03-28","valueQuantity":{"value":185,"unit":"lbs","system":"http://unitsofmeasure.org","code":"[lb_av]"}}`,
	`{"resourceType":"Observation","id":"flow","status":"final","code":{"coding":[{"system":"urn:iso:std:iso:11073:10101","code":"152584"}]},"subject":{"reference":"Patient/example"},"valueQuantity":{"value":820,"unit":"cL/s","system":"urn:iso:std:iso:11073:10101","code":"265201"}}`,
}

// TestFieldCases searches in the forms of fhir-candle's tests (R4Tests.cs). rule is set if
// that server expects another answer, and is the sentence of R4 on which ours rests.
func TestFieldCases(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for _, body := range fieldData {
			f := strings.Split(body, `"`)
			w.put(f[3]+"/"+f[7], body, 201)
		}
		for _, c := range []struct {
			query, want string // "400" is the status
			rule        string
		}{
			{"Observation?_id:not=pounds", "flow", ""},
			{"Observation?code-value-quantity=http://loinc.org|29463-7$185|http://unitsofmeasure.org|[lb_av]", "pounds", ""},
			{"Observation?code-value-quantity=http://loinc.org|29463-7$185|http://unitsofmeasure.org|[lb_av],urn:iso:std:iso:11073:10101|152584$820", "flow pounds", ""},
			{"Observation?code-value-quantity=http://loinc.org|29463-7,urn:x|y$185|http://unitsofmeasure.org|[lb_av]", "400",
				"search.html#composite: the values of a composite are separated by $, and a comma separates composites"},
			{"Observation?value-quantity=185|http://unitsofmeasure.org|[lb_av]", "pounds", ""},
			{"Observation?value-quantity=185|http://unitsofmeasure.org|lbs", "",
				"search.html#quantity: with a system, the last part is the code, and lbs is no code of UCUM"},
			{"Observation?value-quantity=185||[lb_av]", "pounds", ""},
			{"Observation?value-quantity=185||lbs", "pounds", ""},
			{"Observation?value-quantity=ge185", "flow pounds", ""},
			{"Observation?value-quantity=ge185||lbs", "pounds", ""},
			{"Observation?value-quantity=gt185||lbs", "", ""},
			{"Observation?value-quantity=84.1|http://unitsofmeasure.org|[kg]", "", ""},
			{"Observation?value-quantity=83.9|http://unitsofmeasure.org|kg", "pounds",
				"search.html#quantity: a server may convert units to their canonical form"},
			{"Observation?value-quantity=820|urn:iso:std:iso:11073:10101|265201", "flow", ""},
			{"Observation?value-quantity=820|urn:iso:std:iso:11073:10101|cL/s", "",
				"search.html#quantity: with a system, the last part is the code"},
			{"Observation?value-quantity=820||cL/s", "flow", ""},
			{"Observation?subject:Device=Patient/example", "400",
				"search.html#reference: the modifier is the type of the resource that the value names"},
			{"Observation?subject=example", "flow pounds", ""},
			{"Observation?subject:Patient=Patient/example", "flow pounds", ""},
			{"Observation?code=http://snomed.info/sct|29463-7", "", ""},
			{"Observation?_profile:missing=true", "flow", ""},
			{"Observation?subject.name=peter", "flow pounds", ""},
			{"Observation?subject:Patient._id=example", "flow pounds", ""},
			{"Patient?name:contains=eter", "example", ""},
			{"Patient?name=not-present,peter", "example", ""},
			{"Patient?name:exact=peter", "", ""},
			{"Patient?birthdate=1982", "example triplet", ""},
			{"Patient?birthdate=1982-01", "example", ""},
			{"Patient?multiplebirth=le3", "400", "patient.html#search has no such parameter; it is an extension of R4"},
			{"Patient?name-use=official", "400", "patient.html#search has no such parameter"},
			{"Patient?gender=InvalidValue", "", ""},
			{"Patient?active=garbage", "", ""},
			{"Patient?identifier=urn:oid:1.2.36.146|12345", "example", ""},
			{"Patient?identifier=|12345", "triplet",
				"search.html#token: |[code] matches where the resource has no system"},
			{"Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|12345", "example", ""},
			{"Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|EXT|12345", "", ""},
			{"Patient?telecom=(03)%205555%206473", "example", ""},
			{"Patient?telecom=phone|(03)%205555%206473", "",
				"search.html#token: the table has no system for a ContactPoint, whose system is no URI"},
			{"Patient?telecom=|(03)%205555%206473", "example", ""},
			{"Patient?telecom=phone|", "",
				"search.html#token: the table has no system for a ContactPoint, whose system is no URI"},
			{"Patient?_id=example&_profile:missing=false", "", ""},
		} {
			a := w.do("all", "GET", "/"+strings.NewReplacer("|", "%7C", "[", "%5B", "]", "%5D").Replace(c.query), "")
			ids := a.modes("match")
			for i := range ids {
				_, ids[i], _ = strings.Cut(ids[i], "/")
			}
			slices.Sort(ids)
			got := strings.Join(ids, " ")
			if a.status != 200 {
				got = strconv.Itoa(a.status)
			}
			if got != c.want {
				t.Errorf("%s: %q, want %q (%s): %.300s", c.query, got, c.want, c.rule, a.body)
			}
		}
	})
}
