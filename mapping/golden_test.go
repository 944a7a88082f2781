package mapping_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/fhir/go/fhirversion"
	"github.com/google/fhir/go/jsonformat"

	"pulsegate/fhir"
	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/table"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden checks that every row has a golden file and every golden file a
// row, and that the resources of each row are valid R4 and keep the base
// vital-signs profile.
func TestGolden(t *testing.T) {
	m := mappingtest.Mapper(t)
	unmarshaller, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		t.Fatal(err)
	}
	g := &golden{mapper: m, table: mappingtest.Table(t), unmarshaller: unmarshaller}
	want := map[string]bool{}
	mappingtest.EachRow(g.table, func(v *table.Vendor, r *table.Row) {
		cases := map[string]bool{r.Metric: false}
		for _, variant := range r.Variants {
			if variant.When.Day != nil {
				cases[r.Metric+"@day"] = true
			}
		}
		for name, daily := range cases {
			file := filepath.Join("testdata", "golden", v.Vendor,
				strings.NewReplacer("/", "_").Replace(name)+".json")
			want[file] = true
			t.Run(v.Vendor+"/"+name, func(t *testing.T) { g.checkRow(t, v, r, daily, file) })
		}
	})
	files, err := filepath.Glob("testdata/golden/*/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !want[f] {
			t.Errorf("%s belongs to no row", f)
		}
	}
}

type golden struct {
	mapper       *mapping.Mapper
	table        *table.Table
	unmarshaller *jsonformat.Unmarshaller
}

func (g *golden) checkRow(t *testing.T, v *table.Vendor, r *table.Row, daily bool, file string) {
	s := mappingtest.Example(t, g.table, v, r, daily)
	res, err := g.mapper.Map(nil, v.Vendor, s, "p1", nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]json.RawMessage{"device": mapping.Device(v.Vendor, "p1", res.Device, s)}
	g.validate(t, "Device", res.Device.ID, out["device"])
	if res.JSON != nil {
		out["observation"] = res.JSON
		g.validate(t, "Observation", res.ID, res.JSON)
		checkVitalSigns(t, res.JSON)
	}
	got, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("no golden file (run with -update): %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the resources differ from %s:\n%s", file, got)
	}
}

func (g *golden) validate(t *testing.T, typ, id string, body []byte) {
	t.Helper()
	if !json.Valid(body) {
		t.Fatalf("not JSON: %s", body)
	}
	stamped := fhir.Stamp(body, typ, id, 1, time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC))
	if stamped == nil {
		t.Fatalf("not canonical: %s", body)
	}
	if _, err := g.unmarshaller.UnmarshalR4(stamped); err != nil {
		t.Errorf("not valid R4: %v\n%s", err, body)
	}
}

// observation holds the elements that the tests read.
type observation struct {
	Meta     struct{ Profile []string }
	Status   string
	Category []struct {
		Coding []struct{ System, Code string }
	}
	Code    concept
	Subject struct{ Reference string }
	EffectiveDateTime,
	DataAbsentReason json.RawMessage
	EffectivePeriod                                    *struct{ Start, End string }
	ValueQuantity                                      *quantity
	ValueCodeableConcept, ValueSampledData, ValueRange json.RawMessage
	Component                                          []struct {
		Code          concept
		ValueQuantity *quantity
	}
}
type concept struct {
	Coding []struct{ System, Code string }
}
type quantity struct {
	Value              json.Number
	Unit, System, Code string
}

func (c concept) has(code string) bool {
	for _, x := range c.Coding {
		if x.System == "http://loinc.org" && x.Code == code {
			return true
		}
	}
	return false
}

// checkVitalSigns checks an Observation of category vital-signs against the
// base profile (R4 vitalsigns) and the profile that it claims.
func checkVitalSigns(t *testing.T, body []byte) {
	t.Helper()
	var o observation
	if err := json.Unmarshal(body, &o); err != nil {
		t.Fatal(err)
	}
	if len(o.Category) == 0 || len(o.Code.Coding) == 0 || o.Subject.Reference == "" || o.EffectiveDateTime == nil &&
		o.EffectivePeriod == nil {
		t.Error("category, code, subject or effective[x] is missing")
	}
	vendor := false
	for _, c := range o.Code.Coding {
		vendor = vendor || strings.HasPrefix(c.System, fhir.Canonical+"/CodeSystem/")
	}
	if !vendor {
		t.Error("the vendor's coding is missing")
	}
	value := o.ValueQuantity != nil || o.ValueCodeableConcept != nil || o.ValueRange != nil
	if o.Category[0].Coding[0].Code == "vital-signs" {
		if !value && o.DataAbsentReason == nil && len(o.Component) == 0 {
			t.Error("vs-2: no value, no component and no dataAbsentReason")
		}
		if o.ValueSampledData != nil {
			t.Error("a vital sign has valueSampledData")
		}
	}
	for name, p := range table.Profiles {
		code := strings.TrimPrefix(p.Code, "loinc ")
		claims := slices.Contains(o.Meta.Profile, "http://hl7.org/fhir/StructureDefinition/"+name)
		if claims != o.Code.has(code) {
			t.Errorf("profile %s and code %s must occur together", name, code)
		}
		if claims && o.ValueQuantity != nil &&
			(!slices.Contains(p.Units, o.ValueQuantity.Code) || o.ValueQuantity.System != "http://unitsofmeasure.org") {
			t.Errorf("unit %s is not allowed by profile %s", o.ValueQuantity.Code, name)
		}
	}
	if o.Code.has("2708-6") != o.Code.has("59408-5") {
		t.Error("2708-6 and 59408-5 must occur together")
	}
	if o.Code.has("40443-4") && !o.Code.has("8867-4") {
		t.Error("40443-4 requires 8867-4")
	}
}
