package mapping

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/fhir/go/fhirversion"
	"github.com/google/fhir/go/jsonformat"

	"pulsegate/fhir"
	"pulsegate/mapping/sample"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sent is how a vendor writes a unit of ours; others are sent as they are.
var sent = map[string]map[string]string{
	"apple": {"/min": "count/min", "mm[Hg]": "mmHg", "{steps}": "count", "/d": "count", "{flights}": "count",
		"Cel": "degC", "kg/m2": "count", "mL/kg/min": "mL/min·kg", "cm": "m", "h": "hr"},
	"fitbit": {"/min": "bpm", "kg": "g", "cm": "mm", "m": "mm", "{steps}": "count", "/d": "count",
		"{flights}": "count", "kcal/d": "kcal"},
	"oura": {"/min": "bpm", "min": "s", "cm": "m", "/d": "count", "{count}": "count", "{score}": "score",
		"kcal/d": "kcal", "1": "", "{MET}": "MET"},
}

func sentUnit(vendor, u string) string {
	if s, ok := sent[vendor][u]; ok {
		return s
	}
	return u
}

// example makes a sample that a row must accept.
func example(tb tester, m *Mapper, v *Vendor, r *Row, day bool) *sample.Sample {
	zone := time.FixedZone("", 2*3600)
	s := &sample.Sample{Metric: r.Metric, Channel: "test", Start: time.Date(2026, 10, 1, 8, 0, 0, 0, zone),
		Device: sample.Device{Name: "Wearable", Manufacturer: "Maker", Model: "Band", Hardware: "Band1,1",
			Software: "1.2", Firmware: "3.4", Battery: "81",
			Facts: []sample.Fact{{Name: "size", Value: "10"}}},
		Source: sample.Source{Name: "Source"}}
	if day {
		s.Start, s.Day = time.Time{}, sample.Date{Year: 2026, Month: 10, Day: 1}
	} else if r.Category != "vital-signs" || r.Shape == ShapeSampled {
		s.End = s.Start.Add(90 * time.Minute)
	}
	rule := m.rules[v.Vendor][r.Metric].choose(s)
	number := func(p *rule_) sample.Value {
		numbers := []string{"62", "36.8", "0.97", "1.75", "81500", "1750", "5400", "20000"}
		if p.r.ranged {
			numbers = append(numbers, strconv.FormatFloat((p.r.low+p.r.high)/2, 'f', -1, 64))
		}
		for _, n := range numbers {
			x := sample.Value{Kind: sample.Number, Num: n, Unit: sentUnit(v.Vendor, p.ucum(tb))}
			if _, err := p.r.appendValue(nil, &x, s.Channel, nil); err == nil {
				return x
			}
		}
		tb.Fatalf("%s %s: no number fits", v.Vendor, r.Metric)
		return sample.Value{}
	}
	series := func(p *rule_) sample.Value {
		u := ""
		if p.r.units != nil {
			u = sentUnit(v.Vendor, p.ucum(tb))
		}
		x := sample.Value{Kind: sample.Series,
			Series: &sample.SeriesData{Period: 5 * time.Minute, Unit: u, Data: "1 2 E 3"}}
		if p.r.ranged && p.r.low > 3 {
			x.Series.Data = "61 62 E 63"
		}
		return x
	}
	switch r.Shape {
	case ShapeQuantity:
		s.Value = number(&rule_{rule})
	case ShapeCodeable:
		s.Value = sample.Value{Kind: sample.Code, Text: firstValue(r.Values)}
	case ShapeSampled:
		p := &rule_{rule}
		if rule.units == nil {
			s.Value = series(p)
			s.Value.Series.Unit = "mV"
			s.Value.Series.Period = 4 * time.Millisecond
		} else {
			s.Value = series(p)
		}
	}
	for i := range r.Components {
		c := &r.Components[i]
		p := &rule_{rule.parts[c.Name]}
		x := sample.Component{Name: c.Name, Value: sample.Value{Kind: sample.Code, Text: firstValue(c.Values)}}
		switch {
		case strings.HasPrefix(c.Display, "Sleep stages") || strings.HasPrefix(c.Display, "Movement"):
			x.Value = series(p)
			x.Value.Series.Unit = ""
		case c.Unit != "":
			x.Value = number(p)
		}
		s.Components = append(s.Components, x)
	}
	return s
}

// rule_ gives tests the unit of a rule.
type rule_ struct{ r *rule }

func (p *rule_) ucum(tb tester) string {
	if p.r.quantity == nil {
		tb.Fatal("the rule has no unit")
	}
	var q struct{ Code string }
	if err := json.Unmarshal(append([]byte(`{"x":1`), append(slices.Clone(p.r.quantity), '}')...), &q); err != nil {
		tb.Fatal(err)
	}
	return q.Code
}

func firstValue(m map[string]string) string {
	best := ""
	for k := range m {
		if best == "" || k < best {
			best = k
		}
	}
	if best == "" {
		return "SOMETHING"
	}
	return best
}

func mapper(tb testing.TB) *Mapper {
	m, err := New(Builtin(), Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// TestGolden: every row has its golden file and every golden file its row;
// what a row makes is valid R4 and keeps the base vital-signs profile.
func TestGolden(t *testing.T) {
	m := mapper(t)
	un, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for i := range m.table.Vendors {
		v := &m.table.Vendors[i]
		for j := range v.Rows {
			r := &v.Rows[j]
			cases := map[string]bool{r.Metric: false}
			for _, x := range r.Variants {
				if x.When.Day != nil {
					cases[r.Metric+"@day"] = true
				}
			}
			for name, day := range cases {
				file := filepath.Join("testdata", "golden", v.Vendor,
					strings.NewReplacer("/", "_").Replace(name)+".json")
				want[file] = true
				t.Run(v.Vendor+"/"+name, func(t *testing.T) { goldenRow(t, m, un, v, r, day, file) })
			}
		}
	}
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

func goldenRow(t *testing.T, m *Mapper, un *jsonformat.Unmarshaller, v *Vendor, r *Row, day bool, file string) {
	s := example(t, m, v, r, day)
	res, err := m.Map(nil, v.Vendor, s, "p1", nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]json.RawMessage{"device": Device(v.Vendor, "p1", res.Device, s)}
	validate(t, un, "Device", res.Device.ID, out["device"])
	if res.JSON != nil {
		out["observation"] = res.JSON
		validate(t, un, "Observation", res.ID, res.JSON)
		vitalSigns(t, res.JSON)
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
	was, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("no golden file (run with -update): %v", err)
	}
	if !bytes.Equal(got, was) {
		t.Errorf("differs from %s:\n%s", file, got)
	}
}

func validate(t *testing.T, un *jsonformat.Unmarshaller, typ, id string, body []byte) {
	t.Helper()
	if !json.Valid(body) {
		t.Fatalf("not JSON: %s", body)
	}
	stamped := fhir.Stamp(body, typ, id, 1, time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC))
	if stamped == nil {
		t.Fatalf("not canonical: %s", body)
	}
	if _, err := un.UnmarshalR4(stamped); err != nil {
		t.Errorf("not valid R4: %v\n%s", err, body)
	}
}

type obs struct {
	Meta     struct{ Profile []string }
	Status   string
	Category []struct {
		Coding []struct{ System, Code string }
	}
	Code    concept_
	Subject struct{ Reference string }
	EffectiveDateTime,
	DataAbsentReason json.RawMessage
	EffectivePeriod                                    *struct{ Start, End string }
	ValueQuantity                                      *quantity_
	ValueCodeableConcept, ValueSampledData, ValueRange json.RawMessage
	Component                                          []struct {
		Code          concept_
		ValueQuantity *quantity_
	}
}
type concept_ struct {
	Coding []struct{ System, Code string }
}
type quantity_ struct {
	Value              json.Number
	Unit, System, Code string
}

func (c concept_) has(code string) bool {
	for _, x := range c.Coding {
		if x.System == "http://loinc.org" && x.Code == code {
			return true
		}
	}
	return false
}

// vitalSigns holds an Observation of category vital-signs to the rules of the
// base profile (R4 vitalsigns) and, where it claims one, of the specific one.
func vitalSigns(t *testing.T, body []byte) {
	t.Helper()
	var o obs
	if err := json.Unmarshal(body, &o); err != nil {
		t.Fatal(err)
	}
	if len(o.Category) == 0 || len(o.Code.Coding) == 0 || o.Subject.Reference == "" || o.EffectiveDateTime == nil &&
		o.EffectivePeriod == nil {
		t.Error("category, code, subject and effective[x] are needed")
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
			t.Error("SampledData at the top of a vital sign")
		}
	}
	for name, p := range profiles {
		code := strings.TrimPrefix(p.code, "loinc ")
		claims := slices.Contains(o.Meta.Profile, "http://hl7.org/fhir/StructureDefinition/"+name)
		if claims != o.Code.has(code) {
			t.Errorf("profile %s and code %s go together", name, code)
		}
		if claims && o.ValueQuantity != nil &&
			(!slices.Contains(p.units, o.ValueQuantity.Code) || o.ValueQuantity.System != "http://unitsofmeasure.org") {
			t.Errorf("unit %s is not of profile %s", o.ValueQuantity.Code, name)
		}
	}
	if o.Code.has("2708-6") != o.Code.has("59408-5") {
		t.Error("2708-6 and 59408-5 go together")
	}
	if o.Code.has("40443-4") && !o.Code.has("8867-4") {
		t.Error("40443-4 wants 8867-4 beside it")
	}
}

// tester is testing.TB and rapid.T.
type tester interface {
	Fatal(...any)
	Fatalf(string, ...any)
}
