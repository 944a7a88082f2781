package fhirpath

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func evaluateText(t *rapid.T, source string, focus Value) string {
	e, err := Compile(source)
	if err != nil {
		t.Fatalf("%s: %v", source, err)
	}
	out, err := e.Evaluate(context.Background(), focus, testEnv(), nil)
	if err != nil {
		return err.Error()
	}
	var items []string
	for _, v := range out {
		s, _ := v.Text()
		items = append(items, s+v.JSON())
	}
	return strings.Join(items, ";")
}

// TestPropertyNumbers compares arithmetic and order with exact fractions.
func TestPropertyNumbers(t *testing.T) {
	number := rapid.StringMatching(`(0|[1-9][0-9]{0,20})(\.[0-9]{1,12})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		if len(strings.Split(a, ".")[0]) > 18 {
			a += ".0"
		}
		if len(strings.Split(b, ".")[0]) > 18 {
			b += ".0"
		}
		if strings.Count(a, ".") > 1 || strings.Count(b, ".") > 1 {
			t.Skip()
		}
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		for op, want := range map[string]*big.Rat{
			"+": new(big.Rat).Add(x, y), "-": new(big.Rat).Sub(x, y), "*": new(big.Rat).Mul(x, y),
		} {
			got, ok := new(big.Rat).SetString(evaluateText(t, a+".toDecimal() "+op+" "+b, Value{}))
			if !ok || got.Cmp(want) != 0 {
				t.Errorf("%s %s %s = %v, want %v", a, op, b, got, want)
			}
		}
		for op, want := range map[string]bool{"<": x.Cmp(y) < 0, "=": x.Cmp(y) == 0, ">=": x.Cmp(y) >= 0} {
			if got := evaluateText(t, a+op+b, Value{}); got != fmt.Sprint(want) {
				t.Errorf("%s %s %s is %s", a, op, b, got)
			}
		}
	})
}

// TestPropertyTimes compares the order of times with that of package time, and moves
// dates forth and back.
func TestPropertyTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.Int64Range(-50_000_000_000, 200_000_000_000)
		draw := func(name string) time.Time {
			zone := time.FixedZone("", rapid.IntRange(-12*4, 14*4).Draw(t, name+" zone")*900)
			return time.Unix(seconds.Draw(t, name), 0).In(zone)
		}
		a := draw("a")
		b := draw("b")
		if rapid.Bool().Draw(t, "near") {
			b = a.Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "by")) * time.Second).In(b.Location())
		}
		const layout = "2006-01-02T15:04:05-07:00"
		for op, want := range map[string]bool{"<": a.Before(b), "=": a.Equal(b), ">": a.After(b)} {
			if got := evaluateText(t, "@"+a.Format(layout)+op+"@"+b.Format(layout), Value{}); got != fmt.Sprint(want) {
				t.Errorf("%v %s %v is %s", a, op, b, got)
			}
		}
		days := rapid.IntRange(0, 3000).Draw(t, "days")
		date := a.Format("2006-01-02")
		if got := evaluateText(t, fmt.Sprintf("@%s + %d days", date, days), Value{}); got != a.AddDate(0, 0,
			days).Format("2006-01-02") {
			t.Errorf("%s + %d days = %s", date, days, got)
		}
		if got := evaluateText(t, fmt.Sprintf("(@%s + %d days) - %d days", date, days, days), Value{}); got != date {
			t.Errorf("%s moved by %d days and back is %s", date, days, got)
		}
		text := evaluateText(t, "@"+a.Format(layout)+".toString()", Value{})
		if v, err := time.Parse("2006-01-02T15:04:05Z07:00", text); err != nil || !v.Equal(a) {
			t.Errorf("%v is written as %s", a, text)
		}
	})
}

// TestPropertyPaths compares paths with a walk over the decoded JSON.
func TestPropertyPaths(t *testing.T) {
	names := []string{"item", "linkId", "text", "code", "system", "answerOption", "type"}
	tree := rapid.Custom(func(t *rapid.T) any { return drawItem(t, 3) })
	rapid.Check(t, func(t *rapid.T) {
		v := tree.Draw(t, "questionnaire").(map[string]any)
		v["resourceType"] = "Questionnaire"
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		path := rapid.SliceOfN(rapid.SampledFrom(names), 1, 5).Draw(t, "path")
		want := walk([]any{v}, path)
		out, err := MustCompile(strings.Join(path, ".")).Evaluate(context.Background(), doc.Root(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range out {
			got = append(got, o.JSON())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s of %s is %v, want %v", path, data, got, want)
		}
	})
}

func drawItem(t *rapid.T, depth int) map[string]any {
	out := map[string]any{}
	if rapid.Bool().Draw(t, "code") {
		out["code"] = []any{map[string]any{"system": "s", "code": rapid.SampledFrom([]string{"x", "é\n"}).Draw(t, "c")}}
	}
	if depth < 3 && rapid.Bool().Draw(t, "linkId") {
		out["linkId"] = fmt.Sprint(rapid.IntRange(1, 9).Draw(t, "id"))
	}
	for i := 0; depth > 0 && i < rapid.IntRange(0, 3).Draw(t, "items"); i++ {
		list, _ := out["item"].([]any)
		out["item"] = append(list, drawItem(t, depth-1))
	}
	return out
}

func walk(in []any, path []string) []string {
	for _, name := range path {
		var next []any
		for _, v := range in {
			m, ok := v.(map[string]any)
			if !ok {
				continue
			}
			if list, ok := m[name].([]any); ok {
				next = append(next, list...)
			} else if m[name] != nil {
				next = append(next, m[name])
			}
		}
		in = next
	}
	var out []string
	for _, v := range in {
		b, _ := json.Marshal(v)
		out = append(out, string(b))
	}
	return out
}

// drawExpression returns an expression that may be nonsense but has the right syntax.
func drawExpression(t *rapid.T, depth int) string {
	term := rapid.SampledFrom([]string{"name", "Patient", "given", "telecom.rank", "birthDate", "$this", "1",
		"2.50", "'x'", "true", "{}",
		"@2024-02", "@T10:30", "3 'mg'", "1 year", "%resource", "active", "Observation.value", "extension",
		"contained", "gender"})
	if depth == 0 {
		return term.Draw(t, "term")
	}
	sub := func() string { return drawExpression(t, depth-1) }
	switch rapid.IntRange(0, 6).Draw(t, "form") {
	case 0:
		return term.Draw(t, "term")
	case 1:
		op := rapid.SampledFrom([]string{"+", "-", "*", "/", "&", "|", "=", "~", "!=", "!~", "<", ">=", " and ",
			" or ", " xor ",
			" implies ", " in ", " contains ", " div ", " mod "}).Draw(t, "op")
		return "(" + sub() + op + sub() + ")"
	case 2:
		f := rapid.SampledFrom([]string{"where", "select", "all", "exists", "repeat", "aggregate", "combine",
			"union", "intersect",
			"exclude", "skip", "take", "subsetOf", "startsWith", "indexOf", "substring", "sort", "trace",
			"extension", "lowBoundary",
			"power", "log", "round", "matches", "split", "join", "encode", "comparable", "toQuantity"}).Draw(t, "f")
		return sub() + "." + f + "(" + sub() + ")"
	case 3:
		f := rapid.SampledFrom([]string{"empty", "not", "count", "first", "last", "tail", "distinct", "isDistinct",
			"children",
			"descendants", "toString", "toInteger", "toDecimal", "toDate", "toBoolean", "toQuantity", "toTime",
			"hasValue", "getValue",
			"resolve", "type", "abs", "ceiling", "exp", "ln", "sqrt", "upper", "length", "toChars", "allTrue",
			"single", "precision",
			"highBoundary", "lowBoundary", "sort"}).Draw(t, "f")
		return sub() + "." + f + "()"
	case 4:
		return "(" + sub() + rapid.SampledFrom([]string{" is ", " as "}).Draw(t, "op") +
			rapid.SampledFrom([]string{"string", "System.String", "Quantity", "Patient", "HumanName"}).Draw(t,
				"type") + ")"
	case 5:
		return "iif(" + sub() + ", " + sub() + ", " + sub() + ")"
	}
	return "(-" + sub() + ")[" + sub() + "]"
}

// TestPropertyExpressions evaluates random expressions: none panics, an expression
// prepared for the type of its focus has the same result, one that Check accepts for
// the type does not begin at another, and the laws of collections hold.
func TestPropertyExpressions(t *testing.T) {
	doc := testDocument(t, "patient.json")
	env := testEnv()
	env.Limits = Limits{Steps: 50_000, Items: 5000}
	rapid.Check(t, func(t *rapid.T) {
		source := drawExpression(t, 4)
		e, err := Compile(source)
		if err != nil {
			t.Skip(err) // such as a regular expression that is not one
		}
		_ = e.Check("Patient")
		run := func(e *Expression) (string, error) {
			out, err := e.Evaluate(context.Background(), doc.Root(), env, nil)
			var b strings.Builder
			for _, v := range out {
				s, _ := v.Text()
				b.WriteString(v.Type() + s + v.Pointer() + ";")
			}
			return b.String(), err
		}
		want, err1 := run(e)
		special, err := e.For("Patient")
		if err != nil {
			t.Fatal(err)
		}
		if got, err2 := run(special); got != want && kindOf(err1) == kindOf(err2) {
			t.Errorf("%s prepared for Patient is %s, %v, want %s, %v", source, got, err2, want, err1)
		}
		if err1 != nil {
			return
		}
		for law, source := range map[string]string{
			"distinct twice":  "(%s).distinct().count() = (%[1]s).distinct().distinct().count()",
			"union with self": "((%s) | (%[1]s)).count() = (%[1]s).distinct().count()",
			"exclude self":    "(%s).where($this = $this).exclude(%[1]s).empty()",
			"subset of self":  "(%s).where($this = $this).subsetOf(%[1]s)",
			"head and tail":   "(%s).take(1).combine((%[1]s).tail()).count() = (%[1]s).count()",
		} {
			e, err := Compile(fmt.Sprintf(source, e))
			if err != nil {
				continue // too deep
			}
			if holds, err := e.Test(context.Background(), doc.Root(), env); err == nil && !holds &&
				!strings.Contains(source, "$index") {
				t.Errorf("%s does not hold for %s", law, source)
			}
		}
	})
}

// FuzzEvaluate compiles and evaluates any text.
func FuzzEvaluate(f *testing.F) {
	for _, s := range []string{"name.given", "1 + 2.5 'mg'", "@2024-01-01T00:00:00Z + 1 day",
		"'a\\u00e9'.matches('a.')",
		"iif($this is Patient, %resource, {})", "descendants().where(hasValue()).select(toString()).join(',')",
		"name.sort(-family).repeat(children())", "1.58.lowBoundary(4)", "%`vs-x` & `a b`", "/* c */ 1 // d"} {
		f.Add(s)
	}
	doc := testDocument(f, "patient.json")
	env := testEnv()
	env.Limits = Limits{Steps: 20_000, Items: 2000, Bytes: 10_000}
	f.Fuzz(func(t *testing.T, source string) {
		e, err := Compile(source)
		if err != nil {
			if !strings.Contains(err.Error(), "at character") && !strings.Contains(err.Error(), "longer than") {
				t.Fatalf("no position in %v", err)
			}
			return
		}
		_ = e.Check("Patient")
		out, err := e.Evaluate(context.Background(), doc.Root(), env, nil)
		for _, v := range out {
			v.Text()
		}
		if err == nil && len(out) > env.Limits.Items {
			t.Fatalf("%d items", len(out))
		}
	})
}
