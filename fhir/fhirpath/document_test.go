package fhirpath

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", " ", "{", "}", `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `[1,]`, `{"a":1}x`, `"\x"`,
		`"\u12g4"`,
		`"`, "\"\n\"", "01", "1.", "-", ".5", "1e", "+1", "nul", "truex", `{"a":1 "b":2}`, `{1:2}`,
		strings.Repeat("[", 200) + strings.Repeat("]", 200)} {
		if json.Valid([]byte(s)) && !strings.HasPrefix(s, "[[") {
			t.Fatalf("%q is valid", s)
		}
		doc, err := Parse([]byte(s))
		if err == nil {
			t.Errorf("Parse(%q) succeeds", s)
		}
		if out, err := MustCompile("children()").Evaluate(context.Background(), doc.Root(), nil,
			nil); len(out) > 0 || err != nil {
			t.Errorf("after Parse(%q): %v, %v", s, out, err)
		}
	}
	members := func(n int) []byte {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"m%d":1`, i)
		}
		return []byte("{" + b.String()[1:] + "}")
	}
	if _, err := Parse(members(maxMembers)); err != nil {
		t.Error(err)
	}
	if _, err := Parse(members(maxMembers + 1)); err == nil {
		t.Error("Parse takes more members than the limit")
	}
	if v := new(Document).Root(); !v.IsZero() {
		t.Error("an empty Document has a root")
	}
}

// TestErrorsQuoteNothing checks that no error contains text of a resource.
func TestErrorsQuoteNothing(t *testing.T) {
	const secret = "Secretname"
	if _, err := Parse([]byte(`{"resourceType":"Patient","name":"` + secret + `" "}`)); err == nil ||
		strings.Contains(err.Error(), secret) {
		t.Errorf("Parse: %v", err)
	}
	doc, err := Parse([]byte(`{"resourceType":"Patient","name":[{"family":"` + secret + `(","given":["` + secret +
		`","x"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"name.given.upper()", "name.family.first() + 1", "name.family > 1", "-name.family",
		"'x'.matches(name.family)", "name.family.memberOf('x')", "conformsTo(name.family)",
		"name.family.substring(name.family)",
		"name.given.single()", "name[name.family]", "name.family & 1", "name.given.allTrue()",
		"name.sort(family | 1)"} {
		e := MustCompile(s)
		if _, err := e.Evaluate(context.Background(), doc.Root(), nil, nil); err == nil ||
			strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", s, err)
		} else if !strings.Contains(err.Error(), "at character ") {
			t.Errorf("%s: no position in %v", s, err)
		}
	}
}

func TestEscapedNames(t *testing.T) {
	doc, err := Parse([]byte(`{"resourceTyp\u0065":"Patient","n\u0061me":[{"family":"M\u00fcller \ud83d\ude00","given":["a\/b\n"]}],` +
		`"\u005fbirthDate":{"id":"x"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{"name.family": "Müller 😀", "name.given": "a/b\n", "birthDate.id": "x"} {
		out, err := MustCompile(source).Evaluate(context.Background(), doc.Root(), nil, nil)
		if err != nil || len(out) != 1 {
			t.Fatal(source, out, err)
		}
		if s, _ := out[0].Text(); s != want {
			t.Errorf("%s = %q, want %q", source, s, want)
		}
	}
}

func TestPlaces(t *testing.T) {
	doc := testDocument(t, "patient.json")
	for source, want := range map[string][2]string{
		"name[0].given[1]":   {"/name/0/given/1", `"B."`},
		"name.family.last()": {"/name/2/_family", ""},
		"birthDate":          {"/birthDate", `"1980-02-29"`},
		"telecom[1].rank":    {"/telecom/1/rank", "1"},
		"extension.value": {"/extension/0/valueAge",
			`{"value":40,"unit":"years","system":"http://unitsofmeasure.org","code":"a"}`},
		"%resource.active": {"/active", "true"},
		"1 + 1":            {"", ""},
		"managingOrganization.resolve()": {"/contained/0",
			`{"resourceType":"Organization","id":"org","name":"Clinic \u00e9"}`},
		"generalPractitioner[0].resolve()": {"", ""},
		"name.given.extension": {"/name/0/_given/1/extension/0",
			`{"url":"http://example.org/initial","valueBoolean":true}`},
		"descendants().where($this = 'Annie')":       {"/name/1/given/0", `"Annie"`},
		"contained.where(id = 'org').ofType(Device)": {},
	} {
		out, err := MustCompile(source).Evaluate(context.Background(), doc.Root(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got [2]string
		if len(out) > 0 {
			got = [2]string{out[0].Pointer(), out[0].JSON()}
		}
		if got != want {
			t.Errorf("%s is at %q, want %q", source, got, want)
		}
	}
}

func TestReset(t *testing.T) {
	var d Document
	e := MustCompile("id")
	for _, id := range []string{"a", "bb", "c"} {
		if err := d.Reset([]byte(`{"resourceType":"Patient","id":"` + id + `"}`)); err != nil {
			t.Fatal(err)
		}
		out, err := e.Evaluate(context.Background(), d.Root(), nil, nil)
		if err != nil || len(out) != 1 || out[0].JSON() != `"`+id+`"` {
			t.Errorf("%v, %v", out, err)
		}
	}
}

func TestAs(t *testing.T) {
	doc, err := Parse([]byte(`{"start":"2024-01-01","end":"2023-01-01"}`))
	if err != nil {
		t.Fatal(err)
	}
	v, err := doc.As("Period")
	if err != nil {
		t.Fatal(err)
	}
	e := MustCompile("start.hasValue().not() or end.hasValue().not() or (start <= end)")
	if holds, err := e.Holds(context.Background(), v, nil); holds || err != nil {
		t.Errorf("per-1: %v, %v", holds, err)
	}
	if _, err := doc.As("Periode"); err == nil {
		t.Error("As takes a type that does not exist")
	}
}

// TestMalformedElements evaluates paths on resources with elements of a wrong form.
func TestMalformedElements(t *testing.T) {
	for _, s := range []string{
		`{"resourceType":"Patient","name":"x","birthDate":{"a":1},"active":"yes","telecom":[1,null,[]],"contact":{"name":[]}}`,
		`{"resourceType":"Patient","name":[{"given":{"a":1}}],"_birthDate":[1],"birthDate":["x"],"extension":{"url":1}}`,
		`{"resourceType":"Patient","birthDate":"not a date","_active":{"extension":"x"},"contained":[{"resourceType":5}]}`,
		`{"resourceType":"Nothing","name":[{"family":"x"}]}`, `{"resourceType":["Patient"]}`, `[]`, `null`, `"x"`, `7`,
	} {
		doc, err := Parse([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		for _, source := range []string{"name.given", "descendants().count()", "birthDate > @2020", "active = true",
			"telecom.rank",
			"contained.id", "extension('x')", "birthDate.toString()", "contact.name.family", "descendants().toString()",
			"birthDate + 1 day", "name ~ name", "type().name", "children().type()", "name = name"} {
			out, err := MustCompile(source).Evaluate(context.Background(), doc.Root(), nil, nil)
			if err != nil && !strings.Contains(err.Error(), "at character") {
				t.Errorf("%s on %s: %v", source, s, err)
			}
			for _, v := range out {
				v.Text()
				v.JSON()
				v.Pointer()
				_ = v.Type()
			}
		}
	}
}

// FuzzParse compares the parser with encoding/json.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"x\u00e9",null,true,{}]}`, `[]`, `"\ud83d\ude00"`, `-0.1`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := Parse(data)
		if valid := json.Valid(data); valid != (err == nil) && !(valid && strings.Contains(err.Error(), "more than")) {
			t.Fatalf("encoding/json says %v, Parse says %v", valid, err)
		}
		if err != nil {
			return
		}
		var text string
		if json.Unmarshal(data, &text) == nil && doc.nodes[1].kind == nodeString && doc.text(1) != text &&
			!strings.Contains(text, "\ufffd") {
			t.Fatalf("got %q, want %q", doc.text(1), text)
		}
	})
}
