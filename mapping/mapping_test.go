package mapping

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/big"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	_ "time/tzdata" // the test must not depend on the machine's zones

	"pgregory.net/rapid"

	"pulsegate/mapping/sample"
)

func TestDecimal(t *testing.T) {
	for in, want := range map[string]string{
		"62": "62", "62.0": "62.0", "0.97": "0.97", ".5": "0.5", "5.": "5", "+1.50": "1.50", "007.1": "7.1",
		"1.2E-3": "0.0012", "1e3": "1000", "-0.0": "-0.0", "0": "0", "-4.25": "-4.25", "00": "0",
	} {
		d, ok := parseDecimal(in)
		if !ok || string(d.append(nil)) != want {
			t.Errorf("%s: %s %v, want %s", in, d.append(nil), ok, want)
		}
		if d.plain && !json.Valid([]byte(in)) {
			t.Errorf("%s counts as JSON and is not", in)
		}
	}
	for _, in := range []string{"", "NaN", "Infinity", "-", ".", "1.2.3", "1e", "1e999", "0x1", "1 ", "1,5",
		strings.Repeat("9", 60)} {
		if _, ok := parseDecimal(in); ok {
			t.Errorf("%q is no decimal", in)
		}
	}
}

func TestConversions(t *testing.T) {
	table := mapper(t).table
	for _, c := range []struct{ ucum, unit, in, want string }{
		{"/min", "count/min", "62.0", "62.0"},
		{"/min", "count/s", "1.25", "75"},
		{"Cel", "degF", "98.6", "37"},
		{"Cel", "degF", "100", "37.777777778"},
		{"kg", "lb", "154.5", "70.080021165"},
		{"kg", "g", "81500", "81.500"},
		{"kg", "st", "11", "69.85322498"},
		{"cm", "in", "70", "177.8"},
		{"cm", "ft", "5.5", "167.64"},
		{"cm", "m", "1.75", "175"},
		{"cm", "mm", "1755", "175.5"},
		{"m", "mi", "1", "1609.344"},
		{"m", "mm", "1234", "1.234"},
		{"kcal", "kJ", "418.4", "100"},
		{"kcal", "Cal", "12.5", "12.5"},
		{"min", "s", "5400", "90"},
		{"min", "s", "100", "1.666666667"},
		{"min", "hr", "7.25", "435"},
		{"m/s", "km/hr", "3.6", "1"},
		{"mmol/L", "mmol<180.1558800000541>/L", "5.50", "5.50"},
		{"mm[Hg]", "kPa", "101.325", "760"},
	} {
		conv, ok := (&rule{units: table.units[c.ucum].accepts}).accepts(c.unit)
		d, ok2 := parseDecimal(c.in)
		if !ok || !ok2 {
			t.Errorf("%s from %s is not known", c.ucum, c.unit)
			continue
		}
		q, err := (&rule{units: table.units[c.ucum].accepts}).appendQuantity(nil, c.in, c.unit, "", nil)
		if err != nil || string(q) != `{"value":`+c.want+`}` {
			t.Errorf("%s %s -> %s is written %s %v, want %s", c.in, c.unit, c.ucum, q, err, c.want)
		}
		if got := string(conv.apply(d).append(nil)); got != c.want {
			t.Errorf("%s %s -> %s: %s, want %s", c.in, c.unit, c.ucum, got, c.want)
		}
	}
}

// A percent scale moves the decimal point and keeps the written precision; a
// finite product is exact.
func TestConversionExact(t *testing.T) {
	table := mapper(t).table
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.StringMatching(`-?[0-9]{1,9}(\.[0-9]{1,6})?`).Draw(t, "number")
		ucum := rapid.SampledFrom([]string{"kg", "cm", "m", "/min", "%"}).Draw(t, "unit")
		d, ok := parseDecimal(in)
		if !ok {
			t.Fatal("not read")
		}
		x, _ := new(big.Rat).SetString(in)
		for unit, c := range table.units[ucum].accepts {
			got, ok := new(big.Rat).SetString(string(c.apply(d).append(nil)))
			if !ok || got.Cmp(new(big.Rat).Mul(x, c.factor())) != 0 {
				t.Fatalf("%s %s -> %s is not exact", in, unit, ucum)
			}
		}
	})
}

func heart(value string) *sample.Sample {
	return &sample.Sample{Metric: "HKQuantityTypeIdentifierHeartRate", Channel: "export.xml", KeyValue: true,
		Start: time.Date(2026, 10, 1, 8, 0, 0, 0, time.FixedZone("", 7200)), Zone: sample.ZoneInstant,
		Value:  sample.Value{Kind: sample.Number, Num: value, Unit: "count/min"},
		Device: sample.Device{Manufacturer: "Apple Inc.", Model: "Watch", Hardware: "Watch6,7", Software: "11.0"},
		Source: sample.Source{Name: "Watch", Version: "11.0"}}
}

// TestIdentity: what must not count for the id does not, what must does.
func TestIdentity(t *testing.T) {
	m := mapper(t)
	id := func(change func(*sample.Sample)) string {
		s := heart("62")
		change(s)
		r, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	base := id(func(*sample.Sample) {})
	if len(base) != 32 || base != strings.ToLower(base) {
		t.Errorf("id %s", base)
	}
	same := map[string]func(*sample.Sample){
		"printed offset":    func(s *sample.Sample) { s.Start = s.Start.UTC() },
		"software":          func(s *sample.Sample) { s.Device.Software = "12" },
		"source version":    func(s *sample.Sample) { s.Source.Version = "12" },
		"written precision": func(s *sample.Sample) { s.Value.Num = "62.0" },
		"other channel":     func(s *sample.Sample) { s.Metric = "heart_rate" },
	}
	other := map[string]func(*sample.Sample){
		"value":    func(s *sample.Sample) { s.Value.Num = "63" },
		"instant":  func(s *sample.Sample) { s.Start = s.Start.Add(time.Second) },
		"hardware": func(s *sample.Sample) { s.Device.Hardware = "Watch7,1" },
		"source":   func(s *sample.Sample) { s.Source.Name = "Strap" },
		"end":      func(s *sample.Sample) { s.End = s.Start.Add(time.Minute) },
	}
	for name, f := range same {
		if id(f) != base {
			t.Errorf("%s changes the id", name)
		}
	}
	for name, f := range other {
		if id(f) == base {
			t.Errorf("%s does not change the id", name)
		}
	}
	if r, err := m.Map(nil, "apple", heart("62"), "p2", nil); err != nil || r.ID == base {
		t.Error("two patients share an id")
	}
}

func TestDeterministic(t *testing.T) {
	m, twin := mapper(t), mapper(t)
	rapid.Check(t, func(t *rapid.T) {
		s := heart(rapid.StringMatching(`[1-2]?[1-9][0-9](\.[0-9]{1,3})?`).Draw(t, "value"))
		s.Source.Name = rapid.String().Draw(t, "source")
		s.Note = rapid.String().Draw(t, "note")
		a, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := twin.Map([]byte("x"), "apple", s, "p1", nil)
		if err != nil || !bytes.Equal(a.JSON, b.JSON) || a.ID != b.ID || a.Hash != b.Hash {
			t.Fatal("the same sample made two things")
		}
		if !json.Valid(a.JSON) || !json.Valid(Device("apple", "p1", a.Device, s)) {
			t.Fatalf("not JSON: %s", a.JSON)
		}
	})
}

func TestTime(t *testing.T) {
	m := mapper(t)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 5, 8, 0, 0, 250e6, time.FixedZone("", 7200))
	for _, c := range []struct {
		name    string
		zone    sample.Zone
		patient *time.Location
		start   time.Time
		want    string
		reason  string
	}{
		{"stated", sample.ZoneStated, berlin, at, `"effectiveDateTime":"2026-01-05T08:00:00.250+02:00"`, ""},
		{"instant, zone known", sample.ZoneInstant, berlin, at,
			`"effectiveDateTime":"2026-01-05T07:00:00.250+01:00"`, ""},
		{"instant, zone unknown", sample.ZoneInstant, nil, at, `"code":"zone-unknown"`, ""},
		{"floating", sample.ZoneFloating, berlin, at, `"effectiveDateTime":"2026-01-05T08:00:00.250+01:00"`, ""},
		{"floating, zone unknown", sample.ZoneFloating, nil, at, "", sample.ReasonUnknownZone},
		{"floating in a gap", sample.ZoneFloating, berlin, time.Date(2026, 3, 29, 2, 30, 0, 0, time.UTC), "",
			sample.ReasonUnknownZone},
		{"floating, twice", sample.ZoneFloating, berlin, time.Date(2026, 10, 25, 2, 30, 0, 0, time.UTC),
			`"code":"zone-unknown"`, ""},
		{"absurd", sample.ZoneStated, nil, time.Date(1, 1, 5, 0, 0, 0, 0, time.UTC), "", sample.ReasonBadTime},
	} {
		s := heart("62")
		s.Start, s.Zone = c.start, c.zone
		r, err := m.Map(nil, "apple", s, "p1", c.patient)
		var re *RejectError
		switch {
		case c.reason != "" && (!errors.As(err, &re) || re.Reason != c.reason):
			t.Errorf("%s: %v, want %s", c.name, err, c.reason)
		case c.reason == "" && (err != nil || !bytes.Contains(r.JSON, []byte(c.want))):
			t.Errorf("%s: %v %s", c.name, err, r.JSON)
		}
	}
}

func TestRejects(t *testing.T) {
	m := mapper(t)
	for reason, change := range map[string]func(*sample.Sample){
		sample.ReasonUnmapped: func(s *sample.Sample) { s.Metric = "HKQuantityTypeIdentifierUnheardOf" },
		sample.ReasonBadUnit:  func(s *sample.Sample) { s.Value.Unit = "kg" },
		sample.ReasonBadValue: func(s *sample.Sample) { s.Value.Num = "6200" },
		sample.ReasonBadTime:  func(s *sample.Sample) { s.End = s.Start.Add(-time.Second) },
		sample.ReasonMissing:  func(s *sample.Sample) { s.Value = sample.Value{} },
	} {
		s := heart("62")
		change(s)
		var re *RejectError
		if _, err := m.Map(nil, "apple", s, "p1", nil); !errors.As(err, &re) || re.Reason != reason {
			t.Errorf("%v, want %s", err, reason)
		}
	}
}

// TestScale: the same saturation by two channels.
func TestScale(t *testing.T) {
	m := mapper(t)
	for channel, num := range map[string]string{"export.xml": "0.97", "hae": "97"} {
		s := heart(num)
		s.Metric, s.Channel, s.Value.Unit = "HKQuantityTypeIdentifierOxygenSaturation", channel, "%"
		r, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil || !bytes.Contains(r.JSON, []byte(`"valueQuantity":{"value":97,`)) {
			t.Errorf("%s: %v %s", channel, err, r.JSON)
		}
	}
}

// TestLoadRefuses: a broken table is refused and the error names the place.
func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"unknown field": {"trust: sure, codes: [loinc 8867-4]",
			"trust: sure, colour: red, codes: [loinc 8867-4]", "oura.yaml: row heartrate"},
		"unknown code": {"codes: [loinc 8867-4]", "codes: [loinc 1-1]", "row heartrate: code loinc 1-1"},
		"bad trust": {"trust: sure, codes: [loinc 8867-4]", "trust: local, codes: [loinc 8867-4]",
			"row heartrate: trust"},
		"unknown unit": {"unit: /min, range: [10, 350], zero: absent, components",
			"unit: bpm, range: [10, 350], components", "row heartrate: unit bpm"},
		"no profile": {"profile: heartrate, shape: quantity, rate: 288", "shape: quantity, rate: 288",
			"row heartrate: code loinc 8867-4 needs"},
		"missing": {"name: Heart rate, trust", "trust", "row heartrate"},
		"no range": {"unit: /min, range: [10, 350], zero: absent, components",
			"unit: /min, components", "row heartrate: a unit needs a range"},
		"no range in a component": {"display: Sleep efficiency, unit: \"%\", range: [0, 100]}",
			"display: Sleep efficiency, unit: \"%\"}", "row sleep: component efficiency: a unit needs a range"},
		"odd zero": {"zero: absent", "zero: nothing", "wants one of absent"},
		"rate of codes": {"shape: codeable, components: [{name: mood",
			"shape: codeable, rate: 50, components: [{name: mood", "a rate of codes wants their values"},
		"rate of tags": {"metric: tag, name: Tags, trust: local, category: survey, shape: event",
			"metric: tag, name: Tags, trust: local, category: survey, shape: event, rate: 50",
			"a rate is for quantities"},
	} {
		dir := fstest.MapFS{}
		files, err := fs.Glob(Builtin(), "*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			raw, err := fs.ReadFile(Builtin(), f)
			if err != nil {
				t.Fatal(err)
			}
			if f == "oura.yaml" {
				if !strings.Contains(string(raw), c.from) {
					t.Fatalf("%s: nothing to break", name)
				}
				raw = []byte(strings.Replace(string(raw), c.from, c.to, 1))
			}
			dir[f] = &fstest.MapFile{Data: raw}
		}
		if _, err := New(dir, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestDoubtful(t *testing.T) {
	m, err := New(Builtin(), Options{Doubtful: true})
	if err != nil {
		t.Fatal(err)
	}
	for on, m := range map[bool]*Mapper{true: m, false: mapper(t)} {
		s := heart("80")
		s.Metric, s.Value.Unit = "HKQuantityTypeIdentifierWaistCircumference", "cm"
		r, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil || bytes.Contains(r.JSON, []byte("8280-0")) != on {
			t.Errorf("doubtful %v: %v %s", on, err, r.JSON)
		}
	}
}

func BenchmarkMap(b *testing.B) {
	m := mapper(b)
	s := heart("62")
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Map(buf, "apple", s, "p1", nil); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecimal(f *testing.F) {
	for _, s := range []string{"62", "0.97", "-1e-3", "NaN", "1e30", "00.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseDecimal(s)
		v, short := parseShort(s)
		if w, fits := d.short(); short && (!ok || !fits || v != w || string(v.Append(nil)) != s) {
			t.Fatalf("%q was read as %+v", s, v)
		}
		if !ok {
			return
		}
		if out := d.append(nil); !json.Valid(out) || len(out) > 128 {
			t.Fatalf("%q became %s", s, out)
		}
		if d.plain && !json.Valid([]byte(s)) {
			t.Fatalf("%q counts as JSON", s)
		}
	})
}
