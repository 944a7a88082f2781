package table_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"pulsegate/mapping/table"
)

func compileSchema(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	for _, file := range []string{"table.schema.json", "pack.schema.json"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		id, _ := doc.(map[string]any)["$id"].(string)
		if err := c.AddResource(id, doc); err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(file, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate validates a YAML document against the schema.
func validate(t *testing.T, s *jsonschema.Schema, raw []byte) error {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return validateJSON(s, asJSON)
}

func validateJSON(s *jsonschema.Schema, raw []byte) error {
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return s.Validate(instance)
}

func vendorFiles(t *testing.T) []string {
	t.Helper()
	names, err := fs.Glob(table.Builtin(), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, name := range names {
		if name != "units.yaml" && name != "codes.yaml" {
			out = append(out, name)
		}
	}
	return out
}

func readBuiltin(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := fs.ReadFile(table.Builtin(), name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestVendorFilesMatchSchema(t *testing.T) {
	s := compileSchema(t, "table.schema.json")
	for _, name := range vendorFiles(t) {
		if err := validate(t, s, readBuiltin(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// breakOura returns oura.yaml with one replacement.
func breakOura(t *testing.T, from, to string) []byte {
	t.Helper()
	raw := string(readBuiltin(t, "oura.yaml"))
	if !strings.Contains(raw, from) {
		t.Fatalf("oura.yaml does not contain %q", from)
	}
	return []byte(strings.Replace(raw, from, to, 1))
}

func TestSchemaRejects(t *testing.T) {
	s := compileSchema(t, "table.schema.json")
	for name, c := range map[string]struct{ from, to string }{
		"unknown field":     {"trust: sure, codes: [loinc 8867-4]", "trust: sure, colour: red, codes: [loinc 8867-4]"},
		"missing name":      {"name: Heart rate, trust", "trust"},
		"unknown zero":      {"zero: absent", "zero: nothing"},
		"unknown shape":     {"shape: quantity", "shape: number"},
		"malformed code":    {"codes: [loinc 8867-4]", "codes: [\"8867-4\"]"},
		"range of one item": {"range: [10, 350]", "range: [10]"},
	} {
		if validate(t, s, breakOura(t, c.from, c.to)) == nil {
			t.Errorf("%s: the schema accepts the table", name)
		}
	}
}

// TestLoadRejects checks that Load rejects a broken table with an error that
// names the row and the rule.
func TestLoadRejects(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"unknown field": {"trust: sure, codes: [loinc 8867-4]",
			"trust: sure, colour: red, codes: [loinc 8867-4]",
			"oura.yaml:15: row \"heartrate\": there is no field \"colour\""},
		"unknown code": {"codes: [loinc 8867-4]", "codes: [loinc 1-1]", "row heartrate: code loinc 1-1"},
		"wrong trust": {"trust: sure, codes: [loinc 8867-4]", "trust: local, codes: [loinc 8867-4]",
			"row heartrate: trust"},
		"unknown unit": {"unit: /min, range: [10, 350], zero: absent, components",
			"unit: bpm, range: [10, 350], components", "row heartrate: unit bpm"},
		"missing profile": {"profile: heartrate, shape: quantity, rate: 288", "shape: quantity, rate: 288",
			"row heartrate: code loinc 8867-4 needs"},
		"missing range": {"unit: /min, range: [10, 350], zero: absent, components",
			"unit: /min, components", "row heartrate: a unit needs a range"},
		"missing range of a component": {"display: Sleep efficiency, unit: \"%\", range: [0, 100]}",
			"display: Sleep efficiency, unit: \"%\"}", "row sleep: component efficiency: a unit needs a range"},
		"rate of unlisted codes": {"shape: codeable, components: [{name: mood",
			"shape: codeable, rate: 50, components: [{name: mood", "a rate of codes needs their values"},
		"rate of events": {"metric: tag, name: Tags, trust: local, category: survey, shape: event",
			"metric: tag, name: Tags, trust: local, category: survey, shape: event, rate: 50",
			"a rate is for quantities"},
	} {
		dir := fstest.MapFS{}
		for _, f := range append(vendorFiles(t), "units.yaml", "codes.yaml") {
			dir[f] = &fstest.MapFile{Data: readBuiltin(t, f)}
		}
		dir["oura.yaml"] = &fstest.MapFile{Data: breakOura(t, c.from, c.to)}
		if _, err := table.Load(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %s", name, err, c.want)
		}
	}
}
