package search_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/internal/fixtures"
	"pulsegate/fhir/search"
)

// differs lists the parameters whose values are not those of R4's expression, with the
// reason.
var differs = map[string]string{ // read only
	"Patient deceased": "R4's expression is one Boolean; without deceased[x] its value is false",
}

// parameter is a SearchParameter of R4 with its expression.
type parameter struct {
	Code, Type, Expression, URL string
	Base                        []string
	compiled                    *fhirpath.Expression
}

// r4Parameters returns R4's parameters by base.
func r4Parameters(t *testing.T) map[string][]*parameter {
	t.Helper()
	f, err := os.Open(filepath.Join(fixtures.Dir(t, "r4"), "hl7-core-4.0.1", "search-parameters.ndjson.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]*parameter{}
	s := bufio.NewScanner(z)
	s.Buffer(nil, 8<<20)
	for s.Scan() {
		p := &parameter{}
		if err := json.Unmarshal(s.Bytes(), p); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(p.URL, "/example") {
			continue
		}
		if p.Expression != "" {
			p.compiled = fhirpath.MustCompile(p.Expression)
		}
		for _, b := range p.Base {
			out[b] = append(out[b], p)
		}
	}
	return out
}

// addUSCore adds the parameters of US Core that R4 does not define.
func addUSCore(t *testing.T, root string, all map[string][]*parameter) {
	t.Helper()
	added := 0
	for _, guide := range []string{"us_core_610.tgz", "us_core_700.tgz", "us_core_900.tgz"} {
		archived(t, filepath.Join(root, guide), "/SearchParameter-", func(_ string, body []byte) {
			p := &parameter{}
			if err := json.Unmarshal(body, p); err != nil || len(p.Base) != 1 {
				return
			}
			if slices.ContainsFunc(slices.Concat(all[p.Base[0]], all["Resource"]),
				func(q *parameter) bool { return q.Code == p.Code }) {
				return
			}
			p.compiled = fhirpath.MustCompile(p.Expression)
			all[p.Base[0]] = append(all[p.Base[0]], p)
			added++
		})
	}
	if added != 7 {
		t.Errorf("US Core adds %d search parameters, want 7", added)
	}
}

// texts returns an item of an expression in the form in which compare has index values.
func texts(typ search.ParamType, v fhirpath.Value) []string {
	child := func(v fhirpath.Value, names ...string) []string {
		out := []string{}
		for _, n := range names {
			for _, e := range v.Elements(nil, n) {
				s, _ := e.Text()
				out = append(out, s)
			}
		}
		return out
	}
	first := func(v fhirpath.Value, name string) string { return strings.Join(child(v, name), "") }
	name := strings.TrimPrefix(v.Type(), "FHIR.")
	switch {
	case name == "Extension":
		var out []string
		for _, e := range v.Elements(nil, "value") {
			out = append(out, texts(typ, e)...)
		}
		return out
	case name == "CodeableConcept":
		var out []string
		for _, c := range v.Elements(nil, "coding") {
			out = append(out, texts(typ, c)...)
		}
		return out
	case name == "Coding":
		return []string{first(v, "system") + "|" + first(v, "code")}
	case name == "Identifier":
		return []string{first(v, "system") + "|" + first(v, "value")}
	case name == "ContactPoint":
		return []string{"|" + first(v, "value")}
	case name == "Reference":
		return child(v, "reference")
	case name == "HumanName":
		return child(v, "family", "given", "prefix", "suffix", "text")
	case name == "Address":
		return child(v, "line", "city", "district", "state", "postalCode", "country", "text")
	case name == "Range":
		var out []string
		for _, e := range append(v.Elements(nil, "low"), v.Elements(nil, "high")...) {
			out = append(out, child(e, "value")...)
		}
		return out
	case name == "Money" || typ == search.TypeQuantity && v.Elements(nil, "value") != nil:
		return child(v, "value")
	case typ == search.TypeReference && len(v.Elements(nil, "id")) > 0:
		return []string{name + "/" + first(v, "id")} // Bundle.entry.resource
	}
	s, ok := v.Text()
	if !ok {
		return nil
	}
	switch typ {
	case search.TypeToken:
		return []string{"|" + s}
	case search.TypeReference, search.TypeURI:
		if bare, _, ok := strings.Cut(s, "|"); ok && name == "canonical" {
			return []string{s, bare}
		}
	}
	return []string{s}
}

// indexed returns an index value in the form of texts.
func indexed(typ search.ParamType, v *search.Value) string {
	switch {
	case typ == search.TypeToken:
		return v.System + "|" + v.Code
	case typ == search.TypeReference && v.RefType != "":
		return v.RefType + "/" + v.RefID
	case typ == search.TypeQuantity || typ == search.TypeNumber:
		return fmt.Sprint(v.Num)
	}
	return v.Code
}

// compare compares the index values of a resource with the evaluation of R4's
// expressions, and returns the number of values.
func compare(t *testing.T, name string, all map[string][]*parameter, body []byte, covered map[string]bool) int {
	t.Helper()
	doc, err := fhirpath.Parse(body)
	if err != nil {
		return 0
	}
	typ := strings.TrimPrefix(doc.Root().Type(), "FHIR.")
	if !fhir.KnownType(typ) {
		return 0
	}
	values, err := search.Extract(typ, body)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return 0
	}
	n := 0
	params := slices.Concat(all[typ], all["Resource"])
	if typ != "Bundle" && typ != "Binary" {
		params = append(params, all["DomainResource"]...)
	}
	for _, p := range params {
		q, ok := search.Lookup(typ, p.Code)
		if !ok || q.URL != p.URL && p.Code != "subject" {
			t.Errorf("%s %s is not in the registry", typ, p.Code)
			continue
		}
		if !q.Supported() || q.Type.Composite() || differs[typ+" "+p.Code] != "" {
			continue
		}
		items, err := p.compiled.Evaluate(context.Background(), doc.Root(), nil, nil)
		if err != nil {
			t.Errorf("%s %s: %v", name, p.Code, err)
			continue
		}
		items = slices.DeleteFunc(items, func(v fhirpath.Value) bool {
			return v.Kind() == fhirpath.KindElement && v.JSON() == "" // only extensions
		})
		have := values.ByParam[p.Code]
		if len(items) > 0 != (len(have) > 0) {
			t.Errorf("%s: %s has %d items, but %d index values", name, p.Code, len(items), len(have))
		}
		n += len(have)
		covered[typ+" "+p.Code] = covered[typ+" "+p.Code] || len(have) > 0
		want, got := map[string]bool{}, map[string]bool{}
		for _, item := range items {
			for _, s := range texts(q.Type, item) {
				if want[s] = s != ""; q.Type == search.TypeQuantity || q.Type == search.TypeNumber {
					delete(want, s)
					var f float64
					if _, err := fmt.Sscan(s, &f); err == nil && !math.IsNaN(f) {
						want[fmt.Sprint(f)] = true
					}
				}
			}
		}
		for i := range have {
			// fhir/fhirpath has no decimals beyond 60 digits.
			if x := &have[i]; math.Abs(math.Log10(math.Abs(x.Num))) > 60 && x.Num != 0 {
				continue
			} else if !x.Unvalued && q.Type != search.TypeDate {
				got[indexed(q.Type, x)] = true
			}
		}
		delete(want, "")
		delete(got, "")
		delete(got, "|")  // the text of a CodeableConcept
		delete(want, "|") // a coding with only a display
		sampled := slices.ContainsFunc(items, func(v fhirpath.Value) bool { return v.Type() == "FHIR.SampledData" })
		if q.Type != search.TypeDate && !sampled { // these have intervals
			maps.DeleteFunc(want, func(s string, _ bool) bool {
				return q.Type == search.TypeReference && strings.HasPrefix(s, "#")
			})
			maps.DeleteFunc(got, func(s string, _ bool) bool {
				return q.Type == search.TypeReference && !want[s] &&
					slices.ContainsFunc(have, func(x search.Value) bool {
						return x.HasSystem && x.Code == s // a logical reference
					})
			})
			if !maps.Equal(want, got) {
				t.Errorf("%s: %s: the expression has %v, the index %v", name, p.Code,
					slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
			}
		}
	}
	return n
}

// TestExtractLikeExpressions compares the index values of all search parameters of all
// types with an evaluation of R4's expressions, on HL7's examples and on generated
// resources that have every element.
func TestExtractLikeExpressions(t *testing.T) {
	all := r4Parameters(t)
	root := fixtures.Dir(t, "r4")
	addUSCore(t, root, all)
	files, err := filepath.Glob(filepath.Join(root, "hl7-test-cases", "examples", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	n, covered := 0, map[string]bool{}
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		n += compare(t, filepath.Base(f), all, body, covered)
	}
	untar(t, filepath.Join(root, "us_core_700.tgz"), func(name string, body []byte) {
		n += compare(t, filepath.Base(name), all, body, covered)
	})
	for _, typ := range fhir.Types {
		for variant := range 10 {
			body, err := json.Marshal(generated(definitions.R4().Resource([]byte(typ)), variant))
			if err != nil {
				t.Fatal(err)
			}
			n += compare(t, fmt.Sprintf("%s %d", typ, variant), all, body, covered)
		}
	}
	var never []string
	for _, typ := range fhir.Types {
		for _, p := range search.Params(typ) {
			if key := typ + " " + p.Code; !covered[key] && !p.Type.Composite() && differs[key] == "" {
				never = append(never, key)
			}
		}
	}
	t.Logf("%d values compared; %d parameters without a value: %v", n, len(never), never)
	if n < 20_000 || len(never) > 30 {
		t.Errorf("only %d values compared, %d parameters have none", n, len(never))
	}
}

// generated returns a resource with every element of its type to a depth of 4. Of a
// choice, it has the type that variant selects.
func generated(s *definitions.Structure, variant int) map[string]any {
	m := object(s, variant, 0)
	m["resourceType"], m["id"] = s.Name, fmt.Sprintf("g%d", variant)
	return m
}

func object(s *definitions.Structure, variant, depth int) map[string]any {
	m := map[string]any{}
	chosen := map[uint8][]*definitions.Member{}
	for i := range s.Members {
		e := &s.Members[i]
		chosen[e.Element] = append(chosen[e.Element], e)
	}
	for _, alternatives := range chosen {
		e := alternatives[variant%len(alternatives)]
		switch e.Name {
		case "contained", "extension", "modifierExtension", "text", "id", "implicitRules":
			continue
		}
		var v any
		switch {
		case e.Primitive != definitions.NotPrimitive:
			v = primitive(e.Primitive, variant)
		case e.Structure == nil || depth > 4:
			continue
		case e.Structure.Name == "Reference":
			v = reference(e, variant)
		default:
			v = object(e.Structure, variant, depth+1)
		}
		if e.Many {
			v = []any{v}
		}
		m[e.Name] = v
	}
	return m
}

func reference(e *definitions.Member, variant int) map[string]any {
	target := "Patient"
	if e.Targets != nil {
		target = e.Targets.Names()[variant%len(e.Targets.Names())]
	}
	return map[string]any{"reference": target + "/r" + fmt.Sprint(variant)}
}

func primitive(p definitions.Primitive, variant int) any {
	switch p {
	case definitions.Boolean:
		return variant%2 == 0
	case definitions.Integer, definitions.PositiveInt, definitions.UnsignedInt:
		return variant + 1
	case definitions.Decimal:
		return json.Number(fmt.Sprintf("%d.5", variant))
	case definitions.Date:
		return "2026-03-01"
	case definitions.DateTime, definitions.Instant:
		return "2026-03-01T10:00:00Z"
	case definitions.Time:
		return "10:00:00"
	case definitions.Canonical:
		return "http://example.org/c|1"
	case definitions.URI, definitions.URL:
		return "http://example.org/" + fmt.Sprint(variant)
	case definitions.Code:
		return []string{"phone", "email", "composed-of", "depends-on", "derived-from", "predecessor",
			"successor"}[variant%7]
	}
	return fmt.Sprintf("Text %d", variant)
}
