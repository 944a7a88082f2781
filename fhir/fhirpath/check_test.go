package fhirpath

import (
	"slices"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct{ typ, source, want string }{
		{"Patient", "name.given.first()", ""},
		{"Patient", "Patient.name.where(use = 'usual').period.start", ""},
		{"Patient", "contained.name | managingOrganization.resolve().name", ""},
		{"Patient", "name.given | Organization.name", ""},
		{"Patient", "Resource.id | DomainResource.text", ""},
		{"Patient", "extension('x').value.ofType(Quantity).unit", ""},
		{"Patient", "name.select(given | family).distinct().where($this.length() > 2)", ""},
		{"Patient", "%resource.anything.at.all", ""},
		{"Patient", "children().count() + descendants().count()", ""},
		{"Patient", "children().sort(id).first()", ""},
		{"Observation", "value.ofType(Quantity).value > 5", ""},
		{"Observation.component", "code.coding.code", ""},
		{"HumanName", "given.count() > 0 and family.exists()", ""},
		{"Questionnaire", "repeat(item).linkId", ""},

		{"Patient", "name.givenName", `HumanName has no element "givenName"`},
		{"Patient", "name.given.first().second", `string has no element "second"`},
		{"Patient", "Organization.name", "Patient is not a Organization"},
		{"Patient", "Organization.name | Device.id", "Patient is not a Device"},
		{"Patient", "name.where(system = 'x')", `HumanName has no element "system"`},
		{"Patient", "name.exists(system = 'x') and true", `HumanName has no element "system"`},
		{"Patient", "name.ofType(Address)", "HumanName cannot be a Address"},
		{"Patient", "birthDate as Quantity", "date cannot be a Quantity"},
		{"Patient", "name.startsWith('x')", "startsWith needs a String, not HumanName"},
		{"Patient", "children().first()", "the items have no order"},
		{"Patient", "descendants()[0]", "the items have no order"},
		{"Patient", "iif(birthDate, 1, 2)", "the condition of iif is not a Boolean"},
		{"Observation", "valueQuantity.value", `Observation has no element "valueQuantity"`},
		{"Observation", "value.ofType(Period).unit", `Period has no element "unit"`},
		{"Observation", "component.code.system", `CodeableConcept has no element "system"`},
		{"Nothing", "id", "R4 has no such type"},
	} {
		err := MustCompile(c.source).Check(c.typ)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s on %s: %v, want %q", c.source, c.typ, err, c.want)
		}
	}
}

func TestTypes(t *testing.T) {
	for _, c := range []struct{ typ, source, want string }{
		{"Observation", "code | value.ofType(CodeableConcept)", "FHIR.CodeableConcept"},
		{"Observation", "effective", "FHIR.Period FHIR.Timing FHIR.dateTime FHIR.instant"},
		{"Observation", "value.exists()", "System.Boolean"},
		{"Observation", "Observation.subject.where(resolve() is Patient)", "FHIR.Reference"},
		{"Patient", "Patient.name | Practitioner.name | Organization.name", "FHIR.HumanName"},
		{"Patient", "birthDate + 1 day", ""},
		{"Patient", "{}", ""},
	} {
		got, err := MustCompile(c.source).Types(c.typ)
		if err != nil || !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%s on %s has the types %v, %v, want %s", c.source, c.typ, got, err, c.want)
		}
	}
	if _, err := MustCompile("nothing").Types("Patient"); err == nil {
		t.Error("Types takes a path that does not exist")
	}
}

func TestElements(t *testing.T) {
	v := testDocument(t, "observation.json").Root()
	coding := v.Elements(nil, "code")[0].Elements(nil, "coding")
	if len(coding) != 1 || coding[0].Type() != "FHIR.Coding" {
		t.Fatalf("got %v", coding)
	}
	if s, _ := coding[0].Elements(nil, "code")[0].Text(); s != "8867-4" {
		t.Errorf("got %s", s)
	}
	if got := v.Elements(nil, "value"); len(got) != 1 || got[0].Type() != "FHIR.Quantity" {
		t.Errorf("got %v", got)
	}
	if got := append(v.Elements(nil, "nothing"), String("x").Elements(nil, "x")...); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}
