package r4

import (
	"context"
	"testing"

	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/validate"
)

// finals is a Terminology with one value set, which has the code final.
type finals struct{}

func (finals) MemberOf(_ context.Context, v fhirpath.Value, set string) (bool, error) {
	code, _ := v.Text()
	return set == "urn:finals" && code == "final", nil
}

func (finals) Subsumes(_ context.Context, a, b fhirpath.Value) (bool, error) {
	return a.JSON() == b.JSON(), nil
}

// TestTerminologyOfInvariants evaluates invariants that ask about terminology, with and
// without one.
func TestTerminologyOfInvariants(t *testing.T) {
	val, err := New(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"resourceType":"Observation","status":"final","code":{"coding":[{"code":"x"}]}}`)
	d, err := val.tables.Resource(validate.Request{Op: op, Type: "Observation"}, body)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	for expression, want := range map[string]bool{"status.memberOf('urn:finals')": true, "status.memberOf('urn:x')": false,
		"code.subsumes(code)": true, "code.subsumes(status)": false} {
		inv, err := val.compileInvariant(expression)
		if err != nil {
			t.Fatal(err)
		}
		val.terminology.Store(nil)
		d.SetState(nil)
		if _, err := inv.Holds(d.Root()); err == nil {
			t.Errorf("%s is evaluated without terminology", expression)
		}
		val.Use(finals{})
		if got, err := inv.Holds(d.Root()); err != nil || got != want {
			t.Errorf("%s: %v %v", expression, got, err)
		}
	}
}
