package table_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"

	"pulsegate/mapping/table"
)

// acme is a pack with each kind of change.
const acme = `pack: acme
version: 1.2.3
vendor: oura
title: Mapping of Acme Hospital
codes:
  acme:
    url: https://acme.example/CodeSystem/wearables
    title: Codes of Acme
    publish: true
    codes: {rest: Rested, vo2: Oxygen uptake}
  loinc: {codes: {8889-8: Heart rate by Pulse oximetry}}
units:
  "{points}":
    text: points
    accepts:
      - {as: [points]}
      - {as: [percent], times: "0.5", plus: "-1"}
  kg: {accepts: [{as: [stone], times: "6.35029318"}]}
shared:
  comment: &comment {name: comment, display: Comment}
metrics:
  - {metric: heartrate, range: [20, 300], method: optical, profiles: [https://acme.example/StructureDefinition/hr], components: [{name: source, display: Context}, *comment]}
  - {metric: daily_readiness.score, trust: sure, codes: [acme rest]}
  - {metric: tag, remove: true}
  - {metric: acme_rest, also: [acme_rested], name: Rest, trust: sure, codes: [acme rest], category: survey, shape: quantity, unit: "{points}", range: [0, 10]}
`

func packs(files map[string]string) fs.FS {
	dir := fstest.MapFS{}
	for name, text := range files {
		dir[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return dir
}

func loadAcme(text string) (*table.Table, error) {
	return table.LoadPacks(table.Builtin(), packs(map[string]string{"acme.yaml": text}))
}

// TestPack checks each kind of change of a pack, and that nothing else changes.
func TestPack(t *testing.T) {
	base, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	got, err := loadAcme(acme)
	if err != nil {
		t.Fatal(err)
	}
	pack := got.Packs[len(got.Packs)-1]
	want := &table.Pack{Name: "acme", Version: "1.2.3", Vendor: "oura", Title: "Mapping of Acme Hospital", Tenant: true,
		File: "acme.yaml", Changes: []table.Change{
			{Metric: "heartrate", Kind: table.ChangeOverride,
				Fields: []string{"range", "method", "profiles", "components"}},
			{Metric: "daily_readiness.score", Kind: table.ChangeOverride, Fields: []string{"trust", "codes"}},
			{Metric: "tag", Kind: table.ChangeRemove, Fields: []string{"remove"}},
			{Metric: "acme_rest", Kind: table.ChangeAdd, Fields: []string{"also", "name", "trust", "codes", "category",
				"shape", "unit", "range"}}}}
	if !reflect.DeepEqual(pack, want) {
		t.Errorf("pack\n%+v, want\n%+v", pack, want)
	}

	old, now := base.Row("oura", "heartrate"), got.Row("oura", "heartrate")
	expected := *old
	expected.Range, expected.Method = []float64{20, 300}, "optical"
	expected.Profiles = []string{"https://acme.example/StructureDefinition/hr"}
	expected.Components = slices.Clone(old.Components)
	expected.Components[0].Display = "Context"
	expected.Components = append(expected.Components, table.Component{Name: "comment", Display: "Comment"})
	expected.Pack, expected.Base = pack, got.Packs[2]
	if !reflect.DeepEqual(*now, expected) {
		t.Errorf("heartrate\n%+v, want\n%+v", *now, expected)
	}
	if base.Row("oura", "heartrate").Components[0].Display == "Context" {
		t.Error("the override changed the built-in row")
	}
	if uri := now.Pack.RowURI(now.Metric); uri != "https://pulsegate.dev/fhir/ConceptMap/acme|1.2.3#heartrate" {
		t.Error(uri)
	}
	if r := got.Row("oura", "acme_rested"); r == nil || r.Metric != "acme_rest" || r.Pack != pack || r.Base != nil {
		t.Errorf("new row: %+v", r)
	}
	if got.Row("oura", "tag") != nil {
		t.Error("the row tag is still there")
	}
	for i, metric := range []string{"heartrate", "daily_readiness.score", "tag"} {
		r := got.Replaced[i]
		if r.By != pack || r.Removed != (metric == "tag") ||
			!reflect.DeepEqual(r.Row, withPack(base, metric, got.Packs[2])) {
			t.Errorf("replaced: %+v", r)
		}
	}
	if c := got.Codes["acme vo2"]; c != (table.Code{System: "https://acme.example/CodeSystem/wearables", Code: "vo2",
		Display: "Oxygen uptake"}) {
		t.Errorf("code %+v", c)
	}
	if _, ok := got.Units["kg"].Accepts.From("stone"); !ok || got.Units["kg"].Text != "kg" {
		t.Error("the spelling of kg is missing")
	}
	changed := map[string]bool{"heartrate": true, "daily_readiness.score": true}
	for _, v := range base.Vendors {
		for i := range v.Rows {
			r, again := &v.Rows[i], got.Row(v.Vendor, v.Rows[i].Metric)
			if r.Metric != "tag" && !(v.Vendor == "oura" && changed[r.Metric]) && !reflect.DeepEqual(r, again) {
				t.Errorf("%s %s changed", v.Vendor, r.Metric)
			}
		}
	}
}

// withPack returns a row of Oura as if it came from another load of the same pack.
func withPack(t *table.Table, metric string, pack *table.Pack) table.Row {
	r := *t.Row("oura", metric)
	r.Pack = pack
	return r
}

// TestPackRejects breaks the pack in one place at a time. The error must name the file,
// the line or row, and the rule.
func TestPackRejects(t *testing.T) {
	const heartRow = "metric: heartrate, range: [20, 300]"
	for name, c := range map[string]struct{ from, to, want string }{
		"unknown field": {"method: optical", "colour: red",
			`acme.yaml:22: row "heartrate": there is no field "colour"`},
		"two documents":    {"metrics:\n", "metrics: []\n---\nmetrics:\n", "more than one document"},
		"no version":       {"version: 1.2.3\n", "", "acme.yaml:1: the field version is missing"},
		"version":          {"version: 1.2.3", "version: 1.2", "acme.yaml:2: version: must be text"},
		"name":             {"pack: acme", "pack: Acme", "acme.yaml:1: pack: must match"},
		"reserved name":    {"pack: acme", "pack: units", "pack: the name units is reserved"},
		"name of a vendor": {"pack: acme", "pack: apple", "pack: apple is the name of a built-in pack"},
		"unknown vendor":   {"vendor: oura", "vendor: unheard", "vendor: there is no vendor unheard"},
		"number as text":   {"method: optical", "method: 5", `row "heartrate".method: must be text`},
		"range of one":     {"range: [20, 300]", "range: [20]", `row "heartrate".range: must have at least 2`},
		"range reversed":   {"range: [20, 300]", "range: [300, 20]", "acme.yaml:22: row heartrate: the range ends"},
		"shape":            {"shape: quantity", "shape: number", `row "acme_rest".shape: must be one of`},
		"missing name":     {"name: Rest, ", "", "row acme_rest: the field name is missing"},
		"code": {"codes: [acme rest], category", "codes: [acme best], category",
			"row acme_rest: code acme best"},
		"trust": {"trust: sure, codes: [acme rest]}", "codes: [acme rest]}",
			"row daily_readiness.score: trust is local"},
		"unit": {`unit: "{points}"`, "unit: points", "row acme_rest: unit points is not"},
		"profile": {heartRow, heartRow + ", codes: [loinc 40443-4]",
			"row heartrate: profile heartrate fixes"},
		"checked profile": {"https://acme.example/StructureDefinition/hr",
			"http://hl7.org/fhir/StructureDefinition/bmi", "row heartrate: profiles: bmi"},
		"removed and more":  {"remove: true", "remove: true, name: Tag", "row tag: remove allows no other field"},
		"removed unknown":   {"metric: tag,", "metric: tags,", "row tags: there is no such row to remove"},
		"twice":             {"metric: tag,", "metric: heartrate,", "row heartrate: acme.yaml changes this row too"},
		"segments":          {"method: optical", "segmentsOf: night", "there is no field \"segmentsOf\""},
		"also":              {"method: optical", "also: [pulse]", "row heartrate: also cannot be overridden"},
		"no rate":           {"method: optical", "rate: 0", "row heartrate: whether a row has a rate"},
		"new rate":          {"score, trust: sure", "score, rate: 50, trust: sure", "score: whether a row has a rate"},
		"no device":         {"method: optical", "shape: device", "row heartrate: the shape device"},
		"unit of a stream":  {"method: optical", "unit: ms", "row heartrate: unit and scale"},
		"scale of a stream": {"method: optical", `scale: {api: "2"}`, "row heartrate: unit and scale"},
		"scale, no number": {"range: [0, 10]}", `range: [0, 10], scale: {api: "1.2.3"}}`,
			"row acme_rest: the scale of api"},
		"variant": {"method: optical", "variants: [{when: {day: true}}]",
			"row heartrate: variants of a row"},
		"unit of component": {"display: Context}", "unit: \"1\", range: [0, 1]}",
			"row heartrate: component source: unit"},
		"no display": {"name: comment, display: Comment", "name: comment",
			"row heartrate: component comment: the field display"},
		"taken name": {"also: [acme_rested]", "also: [sleep]",
			"row acme_rest: the name sleep belongs to the row sleep"},
		"no url": {"    url: https://acme.example/CodeSystem/wearables\n", "",
			"codes.acme: a new code system needs its url"},
		"other url": {"loinc: {", "loinc: {url: https://acme.example/loinc, ",
			"codes.loinc: the code system has the url"},
		"our url": {"https://acme.example/CodeSystem/wearables",
			"https://pulsegate.dev/fhir/CodeSystem/oura", "codes.acme: this server already publishes"},
		"other display": {"8889-8: Heart rate by Pulse oximetry", "8867-4: Pulse",
			"codes.loinc: the code 8867-4 has the display"},
		"no text":        {"    text: points\n", "", "units.{points}: a new unit needs its text"},
		"other text":     {"kg: {accepts", "kg: {text: kilo, accepts", "units.kg: the text of a unit"},
		"spelling taken": {"as: [stone]", "as: [kg]", `units.kg: the spelling "kg" is already accepted`},
		"factor":         {`times: "0.5"`, `times: "1/0"`, "units.{points}: times or plus"},
		"bad factor": {`times: "0.5"`, `times: half`,
			"acme.yaml:17: units.{points}.accepts[1].times: must match"},
		"number as a factor": {`times: "0.5"`, `times: 0.5`, "units.{points}.accepts[1].times: must be text"},
	} {
		if !strings.Contains(acme, c.from) {
			t.Fatalf("%s: the pack does not contain %q", name, c.from)
		}
		_, err := loadAcme(strings.Replace(acme, c.from, c.to, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "acme.yaml:") {
			t.Errorf("%s: error %v, want %s", name, err, c.want)
		}
	}
}

// bomb returns rows that stand for a million components by aliases.
func bomb() string {
	return "metrics: [&row {metric: x, components: [&c {name: c}" + strings.Repeat(", *c", 1000) + "]}" +
		strings.Repeat(", *row", 900) + "]"
}

// TestPacksTogether checks rules about several packs, whatever the names of their files.
func TestPacksTogether(t *testing.T) {
	const other = "pack: other\nversion: 1.0.0\nvendor: oura\n"
	for name, c := range map[string]struct{ file, text, want string }{
		"row":      {"b.yaml", other + "metrics: [{metric: heartrate, method: x}]", "acme.yaml changes this row too"},
		"first":    {"a.yaml", other + "metrics: [{metric: heartrate, method: x}]", "a.yaml changes this row too"},
		"removed":  {"b.yaml", other + "metrics: [{metric: tag, name: x}]", "acme.yaml changes this row too"},
		"name":     {"b.yaml", strings.Replace(other, "other", "acme", 1), "has the pack name acme too"},
		"system":   {"b.yaml", other + "codes: {acme: {url: 'https://b.example', codes: {x: X}}}", "has the url"},
		"unit":     {"b.yaml", other + "units: {kg: {accepts: [{as: [stone]}]}}", "is already accepted"},
		"ending":   {"b.yml", other, "b.yml: the name of a pack ends in .yaml"},
		"empty":    {"b.yaml", "", "b.yaml: the file is empty"},
		"no pack":  {"b.yaml", "[]", "b.yaml:1: must be a mapping"},
		"aliases":  {"b.yaml", other + bomb(), "too many values"},
		"too long": {"b.yaml", other + strings.Repeat("# long\n", 200_000), "at most 1048576 bytes"},
	} {
		_, err := table.LoadPacks(table.Builtin(), packs(map[string]string{"acme.yaml": acme, c.file: c.text}))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %s", name, err, c.want)
		}
	}
	many := map[string]string{}
	for i := range 101 {
		many[fmt.Sprint(i, ".yaml")] = strings.Replace(other, "other", fmt.Sprint("p", i), 1)
	}
	if _, err := table.LoadPacks(table.Builtin(), packs(many)); err == nil ||
		!strings.Contains(err.Error(), "at most 100") {
		t.Error(err)
	}
	bad := strings.Replace(acme, "range: [20, 300]", "range: [1]", 1)
	_, err := table.LoadPacks(table.Builtin(), packs(map[string]string{"acme.yaml": bad, "b.yaml": "pack: X"}))
	if err == nil || !strings.Contains(err.Error(), "acme.yaml:22") ||
		!strings.Contains(err.Error(), "b.yaml:1: pack") {
		t.Errorf("the error does not list all files: %v", err)
	}
}

// TestGuide checks that the pack in the guide is valid.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../../adapters/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(guide), "```yaml\npack: ")
	text, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("the guide has no pack")
	}
	if _, err := loadAcme("pack: " + text); err != nil {
		t.Error(err)
	}
}

// TestVariantsOfStreams checks that codes and ranges of variants can be overridden if
// there is a rate.
func TestVariantsOfStreams(t *testing.T) {
	const pack = "pack: other\nversion: 1.0.0\nvendor: apple\nmetrics: [{metric: HKQuantityTypeIdentifierStepCount, " +
		"rate: 10, variants: [{when: {day: true}, codes: [loinc 55423-8], unit: %s}]}]"
	got, err := loadAcme(fmt.Sprintf(pack, "/d"))
	if err != nil {
		t.Fatal(err)
	}
	r := got.Row("apple", "step_count")
	if r.Rate != 10 || !slices.Equal(r.Variants[0].Codes, []string{"loinc 55423-8"}) || r.Pack.Name != "other" {
		t.Errorf("%+v", r)
	}
	if _, err := loadAcme(fmt.Sprintf(pack, "min")); err == nil || !strings.Contains(err.Error(), "only in codes") {
		t.Error(err)
	}
}

// TestShapeEqualsSchema breaks files at random and checks that whatever the JSON Schemas
// refuse is refused at the start too.
func TestShapeEqualsSchema(t *testing.T) {
	vendors, packSchema := compileSchema(t, "table.schema.json"), compileSchema(t, "pack.schema.json")
	oura := string(readBuiltin(t, "oura.yaml"))
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		text, schema := acme, packSchema
		if rapid.Bool().Draw(t, "vendor") {
			text, schema = oura, vendors
		}
		var doc any
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		doc = mutate(t, doc)
		raw, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		var load error
		if schema == packSchema {
			_, load = loadAcme(string(raw))
		} else {
			dir := fstest.MapFS{"oura.yaml": {Data: raw}}
			for _, f := range []string{"units.yaml", "codes.yaml"} {
				b, err := fs.ReadFile(table.Builtin(), f)
				if err != nil {
					t.Fatal(err)
				}
				dir[f] = &fstest.MapFile{Data: b}
			}
			_, load = table.Load(dir)
		}
		if err := validateJSON(schema, raw); err != nil {
			refused++
			if load == nil {
				t.Fatalf("the schema refuses what Load accepts: %v\n%s", err, raw)
			}
		}
	})
	if refused == 0 {
		t.Error("no file was refused")
	}
}

// mutate changes a document in one place.
func mutate(t *rapid.T, v any) any {
	keys := func(m map[string]any) (out []string) {
		for k := range m {
			out = append(out, k)
		}
		slices.Sort(out)
		return out
	}
	deeper := rapid.IntRange(0, 9).Draw(t, "deeper") < 8
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			break
		}
		key := rapid.SampledFrom(keys(v)).Draw(t, "key")
		switch {
		case deeper:
			v[key] = mutate(t, v[key])
		case rapid.Bool().Draw(t, "delete"):
			delete(v, key)
		default:
			v[rapid.SampledFrom([]string{"colour", "remove", "segmentsOf", "profiles", "url", "publish"}).Draw(t,
				"new")] =
				value(t)
		}
		return v
	case []any:
		if len(v) == 0 {
			break
		}
		i := rapid.IntRange(0, len(v)-1).Draw(t, "item")
		switch {
		case deeper:
			v[i] = mutate(t, v[i])
		case rapid.Bool().Draw(t, "delete"):
			return slices.Delete(v, i, i+1)
		default:
			return append(v, value(t))
		}
		return v
	}
	return value(t)
}

func value(t *rapid.T) any {
	return rapid.SampledFrom([]any{nil, true, 0, 1.5, "", "x", "loinc 8867-4", "loinc", "night", "absent", "1.0.0",
		"a b",
		[]any{}, []any{1, 2}, []any{"loinc 8867-4"}, []any{"https://x.example/a|1"}, map[string]any{},
		map[string]any{"name": "x"}, "urn:x", strings.Repeat("y", 300)}).Draw(t, "value")
}

// TestRowYAML checks that a row that is printed can be read back.
func TestRowYAML(t *testing.T) {
	all, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all.Vendors {
		for i := range v.Rows {
			want, got := v.Rows[i], table.Row{}
			want.Pack = nil
			text := v.Rows[i].YAML()
			if err := yaml.Unmarshal([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v\n%+v, want\n%+v in\n%s", err, got, want, text)
			}
		}
	}
}
