package fhirpath

import (
	"context"
	"os"
	"testing"
)

func heartRate(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/observation.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func BenchmarkParse(b *testing.B) {
	data := heartRate(b)
	var d Document
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Reset(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	doc, err := Parse(heartRate(b))
	if err != nil {
		b.Fatal(err)
	}
	for _, source := range []string{
		"Observation.code.coding.code",
		"(Observation.value as Quantity)",
		"Observation.subject.where(resolve() is Patient)",
		"dataAbsentReason.empty() or value.empty()",
		"value.empty() or component.code.where(coding.intersect(%resource.code.coding).exists()).empty()",
		"hasValue() or (children().count() > id.count())",
		"Observation.value.value > 180",
		"Observation.effective > @2026-01-01T00:00:00Z",
	} {
		e := MustCompile(source)
		b.Run(source, func(b *testing.B) {
			b.ReportAllocs()
			var out Collection
			for b.Loop() {
				if out, err = e.Evaluate(context.Background(), doc.Root(), nil, out[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		MustCompile("value.empty() or component.code.where(coding.intersect(%resource.code.coding).exists()).empty()")
	}
}

// BenchmarkSearchParameters parses an Observation and evaluates the expressions of all
// search parameters of R4 for it.
func BenchmarkSearchParameters(b *testing.B) {
	data := heartRate(b)
	var expressions []*Expression
	for _, d := range cachedDefinitions(b) {
		for _, base := range d.Base {
			if (base == "Observation" || base == "Resource") && d.Expression != "" && len(expressions) < 40 {
				e, err := MustCompile(d.Expression).For("Observation")
				if err != nil {
					b.Fatal(err)
				}
				expressions = append(expressions, e)
			}
		}
	}
	var d Document
	var out Collection
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Reset(data); err != nil {
			b.Fatal(err)
		}
		for _, e := range expressions {
			if out, err = e.Evaluate(context.Background(), d.Root(), nil, out[:0]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(expressions)), "expressions")
}

// BenchmarkInvariants evaluates all invariants of R4 on an Observation and everything
// in it. The elements are found beforehand, as a validator finds them anyway.
func BenchmarkInvariants(b *testing.B) {
	doc, err := Parse(heartRate(b))
	if err != nil {
		b.Fatal(err)
	}
	type check struct {
		e *Expression
		v Value
	}
	var checks []check
	constraints := constraintsOfR4(b)
	var visit func(v Value, paths ...string)
	visit = func(v Value, paths ...string) {
		for _, p := range append(paths, model().types[v.typ].name) {
			for _, c := range constraints[p] {
				if c.Severity == "error" {
					checks = append(checks, check{c.compiled, v})
				}
			}
		}
		for _, e := range model().types[v.typ].order {
			for _, child := range v.member(e, nil) {
				visit(child, model().types[v.typ].name+"."+e.name)
			}
		}
	}
	visit(doc.Root())
	env := &Env{Resource: doc.Root(), HTMLChecks: func(string) bool { return true }}
	b.ReportAllocs()
	for b.Loop() {
		for i := range checks {
			if ok, err := checks[i].e.Holds(context.Background(), checks[i].v, env); !ok || err != nil {
				b.Fatal(checks[i].e, ok, err)
			}
		}
	}
	b.ReportMetric(float64(len(checks)), "invariants")
}
