package fhirpath

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/internal/fixtures"
)

// sameJSON reports whether two texts are the same but for white space and the order of
// members.
func sameJSON(t testing.TB, a, b []byte) bool {
	t.Helper()
	decode := func(data []byte) (v any) {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%v in %s", err, data)
		}
		return v
	}
	return reflect.DeepEqual(decode(a), decode(b))
}

// TestHL7Patch runs HL7's cases of FHIRPath Patch.
func TestHL7Patch(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(fixtures.Dir(t, "r4/hl7-test-cases"), "patch/fhir-patch-tests.xml"))
	if err != nil {
		t.Fatal(err)
	}
	type inner struct {
		XML []byte `xml:",innerxml"`
	}
	var suite struct {
		Cases []struct {
			Name   string `xml:"name,attr"`
			Input  inner  `xml:"input"`
			Diff   inner  `xml:"diff"`
			Output *inner `xml:"output"`
		} `xml:"case"`
	}
	if err := xml.Unmarshal(data, &suite); err != nil {
		t.Fatal(err)
	}
	for _, c := range suite.Cases {
		got, err := Patch(context.Background(), jsonOfXML(t, c.Input.XML), jsonOfXML(t, c.Diff.XML), Env{})
		switch {
		case c.Output == nil && err == nil:
			t.Errorf("%s: no error", c.Name)
		case c.Output == nil:
		case err != nil:
			t.Errorf("%s: %v", c.Name, err)
		case !sameJSON(t, got, jsonOfXML(t, c.Output.XML)):
			t.Errorf("%s: got\n%s, want\n%s", c.Name, got, jsonOfXML(t, c.Output.XML))
		}
	}
	if len(suite.Cases) < 30 {
		t.Errorf("only %d cases", len(suite.Cases))
	}
}

// operation returns a Parameters resource with one operation. The parts are pairs of a
// name and the JSON of the part without the name.
func operation(parts ...string) string {
	var b strings.Builder
	b.WriteString(`{"resourceType":"Parameters","parameter":[{"name":"operation","part":[`)
	for i := 0; i < len(parts); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"name":"` + parts[i] + `",` + parts[i+1] + `}`)
	}
	return b.String() + `]}]}`
}

func TestPatch(t *testing.T) {
	path := func(s string) string { b, _ := json.Marshal(s); return `"valueString":` + string(b) }
	kind := func(s string) string { return `"valueCode":"` + s + `"` }
	for name, c := range map[string]struct{ resource, patch, want string }{
		"keeps the text": {`{ "resourceType" : "Observation","valueQuantity":{"value":1.50e1,"unit":"a\/b"},"status":"final" }`,
			operation("type", kind("replace"), "path", path("Observation.status"), "value", `"valueCode":"amended"`),
			`{"resourceType":"Observation","valueQuantity":{"value":1.50e1,"unit":"a\/b"},"status":"amended"}`},
		"another type of a choice": {`{"resourceType":"Observation","valueQuantity":{"value":1},"status":"final"}`,
			operation("type", kind("replace"), "path", path("Observation.value"), "value", `"valueString":"high"`),
			`{"resourceType":"Observation","status":"final","valueString":"high"}`},
		"a choice by name": {`{"resourceType":"Observation"}`,
			operation("type", kind("add"), "path", path("Observation"), "name", path("value"), "value",
				`"valueQuantity":{"value":1}`),
			`{"resourceType":"Observation","valueQuantity":{"value":1}}`},
		"an extension of a primitive": {`{"resourceType":"Patient","birthDate":"2000"}`,
			operation("type", kind("add"), "path", path("Patient.birthDate"), "name", path("extension"), "value",
				`"part":[{"name":"url","valueUri":"http://x"},{"name":"value","valueString":"y"}]`),
			`{"resourceType":"Patient","birthDate":"2000","_birthDate":{"extension":[{"url":"http://x","valueString":"y"}]}}`},
		"an extension in a list of primitives": {`{"resourceType":"Patient","name":[{"given":["a","b"]}]}`,
			operation("type", kind("add"), "path", path("Patient.name.given[1]"), "name", path("id"), "value",
				`"valueString":"z"`),
			`{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[null,{"id":"z"}]}]}`},
		"deletes an item with its extension": {`{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[{"id":"x"},null]}]}`,
			operation("type", kind("delete"), "path", path("Patient.name.given[0]")),
			`{"resourceType":"Patient","name":[{"given":["b"]}]}`},
		"deletes what becomes empty": {`{"resourceType":"Patient","contact":[{"name":{"text":"x"}}],"active":true}`,
			operation("type", kind("delete"), "path", path("Patient.contact.name.text")),
			`{"resourceType":"Patient","active":true}`},
		"deletes nothing": {`{"resourceType":"Patient","active":true}`,
			operation("type", kind("delete"), "path", path("Patient.name")),
			`{"resourceType":"Patient","active":true}`},
		"deletes by a filter": {`{"resourceType":"Patient","name":[{"use":"old"},{"use":"usual"}]}`,
			operation("type", kind("delete"), "path", path("Patient.name.where(use = 'old')")),
			`{"resourceType":"Patient","name":[{"use":"usual"}]}`},
		"inserts into an empty list": {`{"resourceType":"Patient"}`,
			operation("type", kind("insert"), "path", path("Patient.name"), "index", `"valueInteger":0`, "value",
				`"valueHumanName":{"text":"x"}`),
			`{"resourceType":"Patient","name":[{"text":"x"}]}`},
		"inserts a primitive": {`{"resourceType":"Patient","name":[{"given":["a","c"],"_given":[null,{"id":"c"}]}]}`,
			operation("type", kind("insert"), "path", path("Patient.name.given"), "index", `"valueInteger":1`,
				"value", `"valueString":"b"`),
			`{"resourceType":"Patient","name":[{"given":["a","b","c"],"_given":[null,null,{"id":"c"}]}]}`},
		"a contained resource": {`{"resourceType":"Patient"}`,
			operation("type", kind("add"), "path", path("Patient"), "name", path("contained"), "value",
				`"resource":{"resourceType":"Organization","id":"o","name":"n"}`),
			`{"resourceType":"Patient","contained":[{"resourceType":"Organization","id":"o","name":"n"}]}`},
		"within a contained resource": {`{"resourceType":"Patient","contained":[{"resourceType":"Organization","id":"o","name":"n"}]}`,
			operation("type", kind("replace"), "path", path("Patient.contained.name"), "value", `"valueString":"m"`),
			`{"resourceType":"Patient","contained":[{"resourceType":"Organization","id":"o","name":"m"}]}`},
	} {
		got, err := Patch(context.Background(), []byte(c.resource), []byte(c.patch), Env{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if string(got) != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestPatchRefuses(t *testing.T) {
	const patient = `{"resourceType":"Patient","active":true,"name":[{"use":"old","given":["Secretname"]},{"use":"usual"}]}`
	text := func(s string) string { b, _ := json.Marshal(s); return `"valueString":` + string(b) }
	kind := func(s string) string { return `"valueCode":"` + s + `"` }
	for name, patch := range map[string]string{
		"not Parameters":    `{"resourceType":"Patient"}`,
		"not JSON":          `{`,
		"another parameter": `{"resourceType":"Parameters","parameter":[{"name":"other"}]}`,
		"no type":           operation("path", text("Patient.active")),
		"unknown type":      operation("type", kind("copy"), "path", text("Patient.active")),
		"no path":           operation("type", kind("delete")),
		"bad path":          operation("type", kind("delete"), "path", text("Patient.(")),
		"many elements":     operation("type", kind("delete"), "path", text("Patient.name")),
		"the resource":      operation("type", kind("delete"), "path", text("Patient")),
		"the whole resource": operation("type", kind("replace"), "path", text("Patient"), "value",
			`"resource":{"resourceType":"Patient"}`),
		"a computed value": operation("type", kind("delete"), "path", text("1 + 1")),
		"no value":         operation("type", kind("replace"), "path", text("Patient.active")),
		"wrong type": operation("type", kind("replace"), "path", text("Patient.active"), "value",
			`"valueString":"x"`),
		"wrong complex type": operation("type", kind("add"), "path", text("Patient"), "name", text("name"),
			"value", `"valuePeriod":{}`),
		"no such element": operation("type", kind("add"), "path", text("Patient"), "name", text("nothing"),
			"value", `"valueString":"x"`),
		"resourceType": operation("type", kind("add"), "path", text("Patient"), "name",
			text("resourceType"), "value", `"valueString":"x"`),
		"exists": operation("type", kind("add"), "path", text("Patient"), "name", text("active"),
			"value", `"valueBoolean":false`),
		"missing parent": operation("type", kind("add"), "path", text("Patient.contact"), "name",
			text("gender"), "value", `"valueCode":"male"`),
		"missing target": operation("type", kind("replace"), "path", text("Patient.gender"), "value",
			`"valueCode":"male"`),
		"index too large": operation("type", kind("insert"), "path", text("Patient.name"), "index",
			`"valueInteger":3`, "value", `"valueHumanName":{}`),
		"negative index": operation("type", kind("insert"), "path", text("Patient.name"), "index",
			`"valueInteger":-1`, "value", `"valueHumanName":{}`),
		"part of a list": operation("type", kind("insert"), "path", text("Patient.name.where(use = 'old')"),
			"index", `"valueInteger":0`, "value", `"valueHumanName":{}`),
		"no list": operation("type", kind("insert"), "path", text("Patient.active"), "index",
			`"valueInteger":0`, "value", `"valueBoolean":true`),
		"move too far": operation("type", kind("move"), "path", text("Patient.name"), "source",
			`"valueInteger":0`, "destination", `"valueInteger":2`),
		"parts for a primitive": operation("type", kind("replace"), "path", text("Patient.active"), "value",
			`"part":[{"name":"x","valueString":"y"}]`),
		"unknown part": operation("type", kind("add"), "path", text("Patient"), "name", text("contact"),
			"value", `"part":[{"name":"x","valueString":"y"}]`),
		"part twice": operation("type", kind("add"), "path", text("Patient"), "name", text("contact"),
			"value", `"part":[{"name":"gender","valueCode":"male"},{"name":"gender","valueCode":"male"}]`),
		"too many": `{"resourceType":"Parameters","parameter":[` +
			strings.Repeat(`{"name":"operation"},`, maxOperations) + `{"name":"operation"}]}`,
		"a path that fails": operation("type", kind("delete"), "path",
			text("Patient.name.use.upper()")),
		"a path without an end": operation("type", kind("delete"), "path", text("1.repeat($this + 1)")),
		"element of a primitive": operation("type", kind("add"), "path", text("Patient.active"), "name",
			text("value"), "value", `"valueBoolean":false`),
	} {
		got, err := Patch(context.Background(), []byte(patient), []byte(patch), Env{})
		if err == nil {
			t.Errorf("%s: got %s", name, got)
		} else if k := kindOf(err); k == fhir.Internal || strings.Contains(err.Error(), "Secretname") {
			t.Errorf("%s: %v of kind %v", name, err, k)
		}
	}
}

func FuzzPatch(f *testing.F) {
	f.Add(`{"resourceType":"Patient","name":[{"given":["a"],"_given":[{"id":"x"}]}]}`,
		operation("type", `"valueCode":"delete"`, "path", `"valueString":"Patient.name.given"`))
	f.Add(`{"resourceType":"Observation","valueQuantity":{"value":1}}`,
		operation("type", `"valueCode":"replace"`, "path", `"valueString":"Observation.value"`, "value",
			`"valueString":"x"`))
	f.Fuzz(func(t *testing.T, resource, patch string) {
		got, err := Patch(context.Background(), []byte(resource), []byte(patch), Env{Limits: Limits{Steps: 10_000}})
		if err == nil && !json.Valid(got) {
			t.Fatalf("%s is not JSON", got)
		}
	})
}
