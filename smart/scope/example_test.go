package scope_test

import (
	"fmt"

	"pulsegate/fhir/access"
	"pulsegate/smart/scope"
)

func Example() {
	parser := scope.Parser{TokenParam: scope.Registered}
	requested, err := parser.Parse("openid patient/Observation.rs patient/Device.cruds")
	if err != nil {
		fmt.Println(err)
		return
	}
	registered, err := parser.Parse("openid patient/*.rs")
	if err != nil {
		fmt.Println(err)
		return
	}
	granted := scope.Narrow(requested, registered)
	fmt.Println(granted)
	for _, s := range granted.At(scope.Patient) {
		fmt.Println(s.Type, s.May == access.Read|access.Search)
	}
	// Output:
	// openid patient/Observation.rs patient/Device.rs
	// Observation true
	// Device true
}

func ExampleParser_Parse() {
	parser := scope.Parser{TokenParam: scope.Registered}
	set, err := parser.Parse("patient/Observation.rs?category=vital-signs,laboratory offline_access")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(set.Has(scope.Offline), set[0].Level, set[0].Type, len(set[0].Params[0].Any))

	_, err = parser.Parse("launch/patient patient/Observation.sr")
	fmt.Println(err)
	// Output:
	// true patient Observation 2
	// scope.Parse: scope 2: its permission must be read, write, * or letters of cruds in that order
}
