package fhirpath

import (
	"context"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/internal/fixtures"
)

// hl7Test is a case of HL7's test suite.
type hl7Test struct {
	Name       string `xml:"name,attr"`
	Input      string `xml:"inputfile,attr"`
	Predicate  bool   `xml:"predicate,attr"`
	Ordered    string `xml:"ordered,attr"`
	Mode       string `xml:"mode,attr"`
	Invalid    string `xml:"invalid,attr"`
	Expression struct {
		Text    string `xml:",chardata"`
		Invalid string `xml:"invalid,attr"`
	} `xml:"expression"`
	Output []struct {
		Text string `xml:",chardata"`
		Type string `xml:"type,attr"`
	} `xml:"output"`
}

// hl7Fails lists the cases of HL7 that do not pass, with the reason.
var hl7Fails = map[string]string{ // read only
	"testPlusDate19":                   "by the specification a decimal number of seconds counts with its milliseconds",
	"LowBoundaryDecimal15":             "-0.0 is greater than the number",
	"HighBoundaryDecimal15":            "0.0 is less than the number",
	"HighBoundaryDecimal16":            "as HighBoundaryDecimal15; the sign applies to the result",
	"HighBoundaryDateTimeMillisecond1": "the last moment of an hour is in its last minute, not in its first",
	"HighBoundaryDateTimeMillisecond3": "as HighBoundaryDateTimeMillisecond1",
	"testFHIRPathAsFunction21":         "R4's own invariant dom-3 applies as() to collections",
}

func testEnv() *Env {
	return &Env{Now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.FixedZone("", 3600))}
}

// TestHL7 runs HL7's cases of FHIRPath for R4. A case that is listed must fail.
func TestHL7(t *testing.T) {
	dir := fixtures.Dir(t, "r4/hl7-test-cases")
	data, err := os.ReadFile(filepath.Join(dir, "fhirpath/tests-fhir-r4.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Groups []struct {
			Tests []hl7Test `xml:"test"`
		} `xml:"group"`
	}
	if err := xml.Unmarshal(data, &suite); err != nil {
		t.Fatal(err)
	}
	docs := map[string]*Document{}
	passed, failed := 0, 0
	for _, g := range suite.Groups {
		for i := range g.Tests {
			c := &g.Tests[i]
			if docs[c.Input] == nil {
				docs[c.Input] = hl7Input(t, dir, c.Input)
			}
			fault := c.run(docs[c.Input])
			reason, listed := hl7Fails[c.Name]
			switch {
			case fault == "" && listed:
				t.Errorf("%s passes, but is listed as failing: %s", c.Name, reason)
			case fault != "" && !listed:
				t.Errorf("%s: %s\n%s", c.Name, fault, c.Expression.Text)
			}
			if fault == "" {
				passed++
			} else {
				failed++
			}
		}
	}
	t.Logf("%d cases pass, %d do not", passed, failed)
	if passed+failed < 900 {
		t.Errorf("only %d cases found", passed+failed)
	}
}

func hl7Input(t *testing.T, dir, name string) *Document {
	t.Helper()
	if name == "" {
		name = "patient-example.xml"
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".xml") {
		data = jsonOfXML(t, data)
	}
	doc, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// run returns what is wrong, or "".
func (c *hl7Test) run(doc *Document) string {
	invalid := c.Invalid + c.Expression.Invalid
	e, err := Compile(c.Expression.Text)
	if err == nil && invalid == "semantic" {
		err = e.Check(doc.Root().typeName())
	}
	var out Collection
	if err == nil {
		out, err = e.Evaluate(context.Background(), doc.Root(), testEnv(), nil)
	}
	if err != nil {
		if invalid != "" {
			return ""
		}
		return err.Error()
	}
	if invalid != "" {
		return "no error, but it is invalid: " + invalid
	}
	var got, want []string
	for _, v := range out {
		got = append(got, literalOf(v))
	}
	if c.Predicate {
		got = []string{"false"}
		if len(out) > 0 {
			got[0] = "true"
		}
	}
	for _, o := range c.Output {
		want = append(want, strings.TrimPrefix(o.Text, "@"))
	}
	if c.Ordered == "false" {
		slices.Sort(got)
		slices.Sort(want)
	}
	if !slices.Equal(got, want) {
		return "got " + strings.Join(got, ", ") + "; want " + strings.Join(want, ", ")
	}
	for i, o := range c.Output {
		if o.Type != "" && !c.Predicate && !sameType(out[i], o.Type) {
			return "got the type " + out[i].Type() + ", want " + o.Type
		}
	}
	return ""
}

func literalOf(v Value) string {
	s, _ := v.Text()
	if v.system().kind == KindTime {
		s = "T" + s
	}
	return s
}

// sameType compares the type of a value with the one that a case gives, which is that
// of FHIR or of System.
func sameType(v Value, want string) bool {
	name := v.Type()[strings.IndexByte(v.Type(), '.')+1:]
	return strings.EqualFold(name, want)
}
