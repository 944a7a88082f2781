package fhirpath_test

import (
	"context"
	"fmt"
	"time"

	"pulsegate/fhir/fhirpath"
)

func parse(json string) fhirpath.Value {
	doc, err := fhirpath.Parse([]byte(json))
	if err != nil {
		panic(err)
	}
	return doc.Root()
}

func ExampleExpression_Evaluate() {
	e := fhirpath.MustCompile("Observation.component.where(code.coding.code = '8480-6').value.ofType(Quantity)")
	observation := parse(`{"resourceType":"Observation","component":[` +
		`{"code":{"coding":[{"code":"8480-6"}]},"valueQuantity":{"value":120,"unit":"mmHg"}},` +
		`{"code":{"coding":[{"code":"8462-4"}]},"valueQuantity":{"value":80,"unit":"mmHg"}}]}`)
	values, err := e.Evaluate(context.Background(), observation, nil, nil)
	if err != nil {
		panic(err)
	}
	for _, v := range values {
		fmt.Println(v.Type(), v.Pointer(), v.JSON())
	}
	// Output: FHIR.Quantity /component/0/valueQuantity {"value":120,"unit":"mmHg"}
}

// ExampleExpression_Test evaluates a criterion of a SubscriptionTopic, which compares two
// versions of a resource.
func ExampleExpression_Test() {
	e := fhirpath.MustCompile("%previous.status != 'final' and %current.status = 'final'")
	before := parse(`{"resourceType":"Observation","status":"preliminary"}`)
	after := parse(`{"resourceType":"Observation","status":"final"}`)
	met, err := e.Test(context.Background(), after, &fhirpath.Env{
		Variables: map[string]fhirpath.Collection{"previous": {before}, "current": {after}},
		Now:       time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC),
	})
	fmt.Println(met, err)
	// Output: true <nil>
}

func ExampleExpression_Check() {
	e := fhirpath.MustCompile("Patient.name.familyName")
	fmt.Println(e.Check("Patient"))
	// Output: fhirpath.Compile: HumanName has no element "familyName", at character 14 of the expression
}

func ExamplePatch() {
	patched, err := fhirpath.Patch(context.Background(), []byte(`{"resourceType":"Patient","active":true}`),
		[]byte(`{"resourceType":"Parameters","parameter":[{"name":"operation","part":[
			{"name":"type","valueCode":"replace"},
			{"name":"path","valueString":"Patient.active"},
			{"name":"value","valueBoolean":false}]}]}`), fhirpath.Env{})
	fmt.Println(string(patched), err)
	// Output: {"resourceType":"Patient","active":false} <nil>
}
