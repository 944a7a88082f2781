package fhirpath

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir"
)

func kindOf(err error) fhir.Kind {
	var e *fhir.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return fhir.Internal
}

func TestExpressionLimits(t *testing.T) {
	for what, c := range map[string]struct {
		source string
		want   fhir.Kind
	}{
		"length":       {strings.Repeat("1+", maxExpression) + "1", fhir.TooLarge},
		"parentheses":  {strings.Repeat("(", 1000) + "1" + strings.Repeat(")", 1000), fhir.Invalid},
		"signs":        {strings.Repeat("-", 1000) + "1", fhir.Invalid},
		"operators":    {strings.Repeat("1+", 1000) + "1", fhir.Invalid},
		"steps":        {strings.Repeat("a.", 1000) + "a", fhir.Invalid},
		"calls":        {strings.Repeat("not(", 1000), fhir.Invalid},
		"indexes":      {"a" + strings.Repeat("[0]", 1000), fhir.Invalid},
		"brackets":     {strings.Repeat("a[", 1000), fhir.Invalid},
		"regexp":       {"'a'.matches('" + strings.Repeat("a", maxRegexp+1) + "')", fhir.Unprocessable},
		"regexp size":  {"'a'.matches('" + strings.Repeat("a{900}", 12) + "')", fhir.Unprocessable},
		"regexp count": {"'a'.matches('((a{1000}){1000}){1000}')", fhir.Unprocessable},
	} {
		if _, err := Compile(c.source); kindOf(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, source := range map[string]string{
		"parentheses": strings.Repeat("(", 200) + "1" + strings.Repeat(")", 200),
		"operators":   strings.Repeat("1+", 200) + "1",
	} {
		if _, err := Compile(source); err != nil {
			t.Errorf("%s within the limit: %v", what, err)
		}
	}
}

func TestEvaluationLimits(t *testing.T) {
	doc := testDocument(t, "patient.json")
	const ten = "(1|2|3|4|5|6|7|8|9|10)"
	for what, source := range map[string]string{
		"steps of a loop":   "1.repeat($this + 1).count()",
		"steps of equality": ten + strings.Repeat(".select($this.combine($this + 10))", 12) + ".isDistinct()",
		"items of select":   ten + strings.Repeat(".select($this.combine($this))", 20),
		"items of combine": ten + strings.Repeat(".combine("+ten+")",
			30) + strings.Repeat(".select(%resource.descendants())", 4),
		"items of aggregate": ten + ".aggregate($total.combine($total).combine($this), " + ten +
			").select(%resource.descendants()).select(%resource.descendants())",
		"bytes of replace": "'a'" + strings.Repeat(".replace('a', 'aaaaaaaaaa')", 9),
		"bytes of &":       "'aaaaaaaa'" + strings.Repeat(".select($this & $this)", 30),
		"bytes of +":       "'aaaaaaaa'" + strings.Repeat(".select($this + $this)", 30),
		"bytes of join": ten + strings.Repeat(".select($this.combine($this))", 12) +
			".select($this.toString()).join('" + strings.Repeat("x", 100) + "')",
		"bytes of encode":  "'aaaaaaaa'" + strings.Repeat(".encode('hex')", 30),
		"bytes of matches": "'aaaaaaaa'" + strings.Repeat(".replaceMatches('.', '$0$0$0$0$0$0$0$0')", 9),
		"steps of matching": "'aaaaaaaa'" + strings.Repeat(".replace('a', 'aaaaaaaaaa')", 5) +
			".matches('" + strings.Repeat("a{900}", 10) + "b')",
		"steps of compiling": "%resource.descendants().combine(%resource.descendants()).select('" +
			strings.Repeat("a{900}", 10) + "' & 'b').select($this.matches($this)).count()",
		"items of split":   "'aaaaaaaa'" + strings.Repeat(".replace('a', 'aaaaaaaaaa')", 5) + ".split('a')",
		"items of toChars": "'aaaaaaaa'" + strings.Repeat(".replace('a', 'aaaaaaaaaa')", 5) + ".toChars()",
	} {
		e, err := Compile(source)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if _, err := e.Evaluate(context.Background(), doc.Root(), nil, nil); kindOf(err) != fhir.TooCostly {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The limits are the caller's: a lower one stops what the default allows.
	for what, env := range map[string]*Env{
		"steps": {Limits: Limits{Steps: 20}}, "items": {Limits: Limits{Items: 5}},
	} {
		e := MustCompile("descendants().where($this is Reference)")
		if _, err := e.Evaluate(context.Background(), doc.Root(), env, nil); kindOf(err) != fhir.TooCostly {
			t.Errorf("a lower limit of %s: %v", what, err)
		}
		if _, err := e.Evaluate(context.Background(), doc.Root(), nil, nil); err != nil {
			t.Errorf("the default limits: %v", err)
		}
	}
}

func TestCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	env := &Env{Limits: Limits{Steps: 1 << 40, Items: 1 << 40}}
	_, err := MustCompile("1.repeat($this + 1).count()").Evaluate(ctx, Value{}, env, nil)
	if !errors.Is(err, context.Canceled) || kindOf(err) != fhir.Unavailable {
		t.Errorf("got %v", err)
	}
}

// TestNumbersAreBounded evaluates operations with exact results of millions of digits.
func TestNumbersAreBounded(t *testing.T) {
	doc, err := Parse([]byte(`{"resourceType":"Observation","valueQuantity":{"value":1e999999999},` +
		`"referenceRange":[{"low":{"value":1e-999999},"high":{"value":1e59}}],` +
		`"component":[{"valueQuantity":{"value":` + strings.Repeat("9", 1000) + `}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"value.value + 1", "value.value.toString().length()",
		"referenceRange.low.value * 2",
		"component.value.value + 1", "value.value = 1", "value > 1 'mg'", "referenceRange.high.value.power(1000)",
		"referenceRange.high.value.exp()", "(0.1).power(1000)", "referenceRange.high.value * referenceRange.high.value",
		"referenceRange.high.value.highBoundary(28)", "2.power(1000)", "referenceRange.high.value.ln()",
		"1 'm' * " + strings.Repeat("1 'Ym' * ", 100) + "1 'm'"} {
		out, err := MustCompile(source).Evaluate(context.Background(), doc.Root(), nil, nil)
		if err != nil && !strings.Contains(err.Error(), "at character") {
			t.Errorf("%s: %v", source, err)
		}
		for _, v := range out {
			if s, _ := v.Text(); len(s) > 200 {
				t.Errorf("%s has %d digits", source, len(s))
			}
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	patient, observation := testDocument(t, "patient.json"), testDocument(t, "observation.json")
	e := MustCompile("descendants().extension.value | code.text | name.family")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			doc, want := patient, 5
			if i%2 == 1 {
				doc, want = observation, 1
			}
			for range 200 {
				out, err := e.Evaluate(context.Background(), doc.Root(), nil, nil)
				if err != nil || len(out) != want {
					t.Errorf("%d items, want %d, %v", len(out), want, err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func TestServices(t *testing.T) {
	doc := testDocument(t, "patient.json")
	org, err := Parse([]byte(`{"resourceType":"Organization","name":"Found"}`))
	if err != nil {
		t.Fatal(err)
	}
	var traced []string
	env := &Env{
		Variables: map[string]Collection{"limit": {Integer(1)}, "names": {String("a"), String("b")}},
		Resolve: func(_ context.Context, ref string) (Value, error) {
			if ref == "https://ehr.example.org/fhir/Organization/8" {
				return org.Root(), nil
			}
			return Value{}, nil
		},
		MemberOf: func(_ context.Context, v Value, set string) (bool, error) {
			s, _ := v.Text()
			return s == "female" && set == "http://hl7.org/fhir/ValueSet/administrative-gender", nil
		},
		Subsumes: func(_ context.Context, a, b Value) (bool, error) {
			x, _ := a.Text()
			y, _ := b.Text()
			return strings.HasPrefix(y, x), nil
		},
		ConformsTo: func(_ context.Context, v Value, profile string) (bool, error) {
			return v.Type() == "FHIR.Patient" && profile == "p", nil
		},
		HTMLChecks: func(s string) bool { return s == "<div/>" },
		Trace:      func(name string, c Collection) { traced = append(traced, name, c[0].Pointer()) },
	}
	for source, want := range map[string]bool{
		"telecom.rank contains %limit":                                    true,
		"%names.count() = 2":                                              true,
		"generalPractitioner.resolve().name = 'Found'":                    true,
		"generalPractitioner.resolve().count() = 3":                       true,
		"gender.memberOf(%`vs-administrative-gender`)":                    true,
		"gender.memberOf('other')":                                        false,
		"'ab'.subsumes('abc') and 'abc'.subsumedBy('ab')":                 true,
		"conformsTo('p')":                                                 true,
		"name.first().conformsTo('p')":                                    false,
		"'<div/>'.htmlChecks()":                                           true,
		"name.trace('names', given).exists() and id.trace('id').exists()": true,
	} {
		if got, err := MustCompile(source).Test(context.Background(), doc.Root(), env); got != want || err != nil {
			t.Errorf("%s: %v, %v", source, got, err)
		}
	}
	if s := strings.Join(traced, " "); s != "names /name/0/given/0 id /id" {
		t.Errorf("traced %s", s)
	}
}

func TestTestAndHolds(t *testing.T) {
	doc := testDocument(t, "patient.json")
	for source, want := range map[string][2]bool{
		"true": {true, true}, "false": {false, false}, "{}": {false, true}, "name.first()": {true, true},
	} {
		e := MustCompile(source)
		met, err1 := e.Test(context.Background(), doc.Root(), nil)
		holds, err2 := e.Holds(context.Background(), doc.Root(), nil)
		if met != want[0] || holds != want[1] || err1 != nil || err2 != nil {
			t.Errorf("%s: %v, %v, %v, %v", source, met, holds, err1, err2)
		}
	}
	e := MustCompile("name.single()")
	if holds, err := e.Holds(context.Background(), doc.Root(), nil); holds || err == nil {
		t.Error("an invariant with an error holds")
	}
}

// TestCostlyValues checks that the work on large strings and on units counts.
func TestCostlyValues(t *testing.T) {
	large := strings.Repeat("x\\n", 1<<19)
	doc, err := Parse([]byte(`{"resourceType":"Patient","id":"small","language":"` + large + `","implicitRules":"` + large + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	env := &Env{Limits: Limits{Steps: 400}, HTMLChecks: func(string) bool { return true }}
	for cheap, costly := range map[string]string{
		"id = id":                    "language = implicitRules",
		"id ~ id":                    "language ~ implicitRules",
		"id < 'x'":                   "language < implicitRules",
		"id.lower().exists()":        "language.lower().exists()",
		"id.matches('a')":            "language.matches('a')",
		"id.substring(1).exists()":   "language.substring(1).exists()",
		"id.htmlChecks()":            "language.htmlChecks()",
		"(id | id).exists()":         "(language | implicitRules).exists()",
		"(id & id).exists()":         "(language & id).exists()",
		"1 'kg' = 1 'kg'":            "1 'kg' = 1 'g'",
		"1 'kg' < 1 'kg'":            "1 'kg' < 1 'g'",
		"1 'kg' ~ 1 'kg'":            "1 'kg' ~ 1 'g'",
		"(1 'kg' + 1 'kg').exists()": "(1 'kg' + 1 'g').exists()",
		"1.toQuantity().exists()":    "1.toQuantity('g').exists()",
		"1 'kg' in (1 'kg')":         "1 'kg' in (1 'g')",
	} {
		if _, err := MustCompile(cheap).Test(context.Background(), doc.Root(), env); err != nil {
			t.Errorf("%s: %v", cheap, err)
		}
		if _, err := MustCompile(costly).Test(context.Background(), doc.Root(), env); kindOf(err) != fhir.TooCostly {
			t.Errorf("%s: %v", costly, err)
		}
	}
}
