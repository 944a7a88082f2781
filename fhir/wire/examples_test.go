package wire

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"pulsegate/fhir/definitions"
	"pulsegate/fhir/internal/fixtures"
)

// tree parses JSON for comparisons. Numbers keep their text.
func tree(t testing.TB, b []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %.500s", err, b)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("more than one value in %.500s", b)
	}
	return normal(v)
}

// normal removes differences that XML cannot express: nulls at the end of an array of
// extensions, and the names of HTML entities in narrative.
func normal(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, c := range v {
			a, ok := c.([]any)
			for ok && strings.HasPrefix(name, "_") && len(a) > 0 && a[len(a)-1] == nil {
				a = a[:len(a)-1]
				v[name] = a
			}
			if s, ok := v[name].(string); ok && name == "div" {
				v[name] = entity.ReplaceAllStringFunc(s, func(e string) string {
					return string(appendReference(nil, xml.HTMLEntity[e[1:len(e)-1]]))
				})
			}
			normal(v[name])
		}
	case []any:
		for _, c := range v {
			normal(c)
		}
	}
	return v
}

var entity = regexp.MustCompile("&(nbsp|copy|reg|lsquo|rsquo|ldquo|rdquo|ge|le|deg);")

func toXML(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := new(Encoder).Encode(&b, parts...); err != nil {
		t.Fatalf("%v in %.300s", err, bytes.Join(parts, nil))
	}
	return b.Bytes()
}

func fromXML(t testing.TB, b []byte) []byte {
	t.Helper()
	out, err := FromXML(b)
	if err != nil {
		t.Fatalf("%v\n%+v in\n%.3000s", err, err, b)
	}
	return out
}

// checkSyntax reads XML with encoding/xml in strict mode.
func checkSyntax(t testing.TB, b []byte) {
	t.Helper()
	dec := xml.NewDecoder(bytes.NewReader(b))
	for {
		_, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("encoding/xml: %v in %.500s", err, b)
		}
	}
}

// difference describes the first difference of two trees.
func difference(a, b any) string {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	if err != nil || err2 != nil {
		return "unknown"
	}
	i := 0
	for i < min(len(x), len(y)) && x[i] == y[i] {
		i++
	}
	from := max(i-60, 0)
	return fmt.Sprintf("%s and %s", x[from:min(i+60, len(x))], y[from:min(i+60, len(y))])
}

// roundTrip converts JSON to XML and back.
func roundTrip(t testing.TB, b []byte) {
	t.Helper()
	x := toXML(t, b)
	checkSyntax(t, x)
	back := fromXML(t, x)
	if want, got := tree(t, b), tree(t, back); !reflect.DeepEqual(want, got) {
		t.Fatalf("JSON changed: %s", difference(want, got))
	}
	again := toXML(t, back)
	if !bytes.Equal(again, x) {
		t.Fatalf("XML changed\n%.4000s\n%.4000s", x, again)
	}
	pretty := &Encoder{Indent: true}
	var p bytes.Buffer
	if err := pretty.Encode(&p, b); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, fromXML(t, p.Bytes())); !reflect.DeepEqual(tree(t, b), got) {
		t.Fatal("indented XML is different")
	}
}

// jsonFiles calls f with HL7's examples in JSON.
func jsonFiles(t testing.TB, f func(name string, b []byte)) {
	t.Helper()
	for _, dir := range []string{"r4/hl7-test-cases", "r4/hl7-test-cases/examples", "r4/hl7-phd", "r4/us-core",
		"r4/r4-vitals", "r4/smart-brands", "r4/subscriptions-backport"} {
		files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, dir), "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f(filepath.Base(file), b)
		}
	}
	for _, guide := range []string{"r4/us_core_610.tgz", "r4/us_core_700.tgz", "r4/us_core_900.tgz"} {
		for name, b := range fixtures.Examples(t, guide) {
			f(guide+"/"+name, b)
		}
	}
}

// TestExamples converts HL7's examples in JSON to XML and back.
func TestExamples(t *testing.T) {
	n := 0
	jsonFiles(t, func(name string, b []byte) {
		n++
		t.Run(name, func(t *testing.T) { roundTrip(t, b) })
	})
	t.Logf("%d examples", n)
}

// TestDefinitions converts HL7's definitions, 1,700 resources.
func TestDefinitions(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, "r4/hl7-core-4.0.1"), "*.ndjson.gz"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		for line := range strings.SplitSeq(string(inflate(t, file)), "\n") {
			if line == "" {
				continue
			}
			b := []byte(line)
			if got := tree(t, fromXML(t, toXML(t, b))); !reflect.DeepEqual(tree(t, b), got) {
				t.Errorf("%s: a definition changed: %.200s", file, line)
			}
			n++
		}
	}
	t.Logf("%d definitions", n)
}

// misplaced lists examples in XML that are not valid, and why.
var misplaced = map[string]string{ // read only
	"r4/hl7-test-cases/observation-example.xml": "status comes before extension",
}

// otherwise lists examples in XML whose JSON has another content, and how.
var otherwise = map[string]string{ // read only
	"observation-decimal.xml": "1.0e0 is 1.0, and other exponents are rewritten",
	"observation-example.xml": "it has an extension that the JSON has not",
}

// TestXMLExamples converts HL7's examples in XML to JSON and back, and compares the JSON
// with HL7's where there is one.
func TestXMLExamples(t *testing.T) {
	n := 0
	for _, dir := range []string{"r4/hl7-test-cases", "r4/hl7-test-cases/examples"} {
		files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, dir), "*.xml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if rule := misplaced[dir+"/"+filepath.Base(file)]; rule != "" {
					if _, err := FromXML(b); err == nil || !strings.Contains(err.Error(), ruleOrder) {
						t.Fatalf("%s, but the error is %v", rule, err)
					}
					return
				}
				out := fromXML(t, b)
				v, ok := tree(t, out).(map[string]any)
				if !ok || definitions.R4().Structure(v["resourceType"].(string)) == nil {
					t.Fatalf("%.100s", out)
				}
				roundTrip(t, out)
				sameXML(t, b, toXML(t, out))
				inJSON, err := os.ReadFile(strings.TrimSuffix(file, ".xml") + ".json")
				if err != nil || otherwise[filepath.Base(file)] != "" {
					return
				}
				n++
				if want, got := tree(t, inJSON), tree(t, out); !reflect.DeepEqual(want, got) {
					t.Errorf("HL7's JSON differs: %s", difference(want, got))
				}
			})
		}
	}
	t.Logf("%d with HL7's JSON", n)
}

// sameXML compares documents by their elements, attributes and text, as encoding/xml
// reads them.
func sameXML(t testing.TB, a, b []byte) {
	t.Helper()
	x, y := tokens(t, a), tokens(t, b)
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			t.Fatalf("token %d was %s and is %s", i, x[i], y[i])
		}
	}
	if len(x) != len(y) {
		t.Fatalf("%d tokens, now %d", len(x), len(y))
	}
}

var blanks = strings.NewReplacer("\n", " ", "\t", " ", "\r", " ")

func tokens(t testing.TB, b []byte) []string {
	t.Helper()
	var out []string
	dec := xml.NewDecoder(bytes.NewReader(b))
	inNarrative := 0
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		switch k := tok.(type) {
		case xml.StartElement:
			if k.Name.Space == xhtmlURI {
				inNarrative++
			}
			s := k.Name.Local
			attrs := map[string]string{}
			for _, a := range k.Attr {
				if a.Name.Space == "" && a.Name.Local != "xmlns" {
					attrs[a.Name.Local] = blanks.Replace(a.Value) // which encoding/xml does not normalize
				}
			}
			j, err := json.Marshal(attrs)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, s+string(j))
		case xml.EndElement:
			if k.Name.Space == xhtmlURI {
				inNarrative--
			}
			out = append(out, "/"+k.Name.Local)
		case xml.CharData:
			if inNarrative > 0 {
				out = append(out, "text "+string(k))
			}
		}
	}
}
