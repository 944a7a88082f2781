package mapping_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the test must not depend on the machine's zones

	"pgregory.net/rapid"

	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// TestObservationID checks which fields of a sample its id depends on.
func TestObservationID(t *testing.T) {
	m := mappingtest.Mapper(t)
	id := func(change func(*sample.Sample)) string {
		s := mappingtest.HeartRate("62")
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
	if r, err := m.Map(nil, "apple", mappingtest.HeartRate("62"), "p2", nil); err != nil || r.ID == base {
		t.Error("two patients share an id")
	}
}

func TestDeterministic(t *testing.T) {
	m, other := mappingtest.Mapper(t), mappingtest.Mapper(t)
	rapid.Check(t, func(t *rapid.T) {
		s := mappingtest.HeartRate(rapid.StringMatching(`[1-2]?[1-9][0-9](\.[0-9]{1,3})?`).Draw(t, "value"))
		s.Source.Name = rapid.String().Draw(t, "source")
		s.Note = rapid.String().Draw(t, "note")
		a, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := other.Map([]byte("x"), "apple", s, "p1", nil)
		if err != nil || !bytes.Equal(a.JSON, b.JSON) || a.ID != b.ID || a.Hash != b.Hash {
			t.Fatal("two Mappers map one sample differently")
		}
		if !json.Valid(a.JSON) || !json.Valid(mapping.Device("apple", "p1", a.Device, s)) {
			t.Fatalf("not JSON: %s", a.JSON)
		}
	})
}

func TestEffectiveTime(t *testing.T) {
	m := mappingtest.Mapper(t)
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
		{"floating, skipped by the zone", sample.ZoneFloating, berlin,
			time.Date(2026, 3, 29, 2, 30, 0, 0, time.UTC), "",
			sample.ReasonUnknownZone},
		{"floating, twice", sample.ZoneFloating, berlin, time.Date(2026, 10, 25, 2, 30, 0, 0, time.UTC),
			`"code":"zone-unknown"`, ""},
		{"implausible", sample.ZoneStated, nil, time.Date(1, 1, 5, 0, 0, 0, 0, time.UTC), "", sample.ReasonBadTime},
	} {
		s := mappingtest.HeartRate("62")
		s.Start, s.Zone = c.start, c.zone
		r, err := m.Map(nil, "apple", s, "p1", c.patient)
		var re *mapping.RejectError
		switch {
		case c.reason != "" && (!errors.As(err, &re) || re.Reason != c.reason):
			t.Errorf("%s: %v, want %s", c.name, err, c.reason)
		case c.reason == "" && (err != nil || !bytes.Contains(r.JSON, []byte(c.want))):
			t.Errorf("%s: %v %s", c.name, err, r.JSON)
		}
	}
}

func TestRejects(t *testing.T) {
	m := mappingtest.Mapper(t)
	for reason, change := range map[string]func(*sample.Sample){
		sample.ReasonUnmapped: func(s *sample.Sample) { s.Metric = "HKQuantityTypeIdentifierUnknown" },
		sample.ReasonBadUnit:  func(s *sample.Sample) { s.Value.Unit = "kg" },
		sample.ReasonBadValue: func(s *sample.Sample) { s.Value.Num = "6200" },
		sample.ReasonBadTime:  func(s *sample.Sample) { s.End = s.Start.Add(-time.Second) },
		sample.ReasonMissing:  func(s *sample.Sample) { s.Value = sample.Value{} },
	} {
		s := mappingtest.HeartRate("62")
		change(s)
		var re *mapping.RejectError
		if _, err := m.Map(nil, "apple", s, "p1", nil); !errors.As(err, &re) || re.Reason != reason {
			t.Errorf("%v, want %s", err, reason)
		}
	}
}

// TestScaleByChannel checks that one saturation has one value whichever channel
// delivers it.
func TestScaleByChannel(t *testing.T) {
	m := mappingtest.Mapper(t)
	for channel, num := range map[string]string{"export.xml": "0.97", "hae": "97"} {
		s := mappingtest.HeartRate(num)
		s.Metric, s.Channel, s.Value.Unit = "HKQuantityTypeIdentifierOxygenSaturation", channel, "%"
		r, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil || !bytes.Contains(r.JSON, []byte(`"valueQuantity":{"value":97,`)) {
			t.Errorf("%s: %v %s", channel, err, r.JSON)
		}
	}
}

func TestDoubtful(t *testing.T) {
	m, err := mapping.New(table.Builtin(), mapping.Options{Doubtful: true})
	if err != nil {
		t.Fatal(err)
	}
	for on, m := range map[bool]*mapping.Mapper{true: m, false: mappingtest.Mapper(t)} {
		s := mappingtest.HeartRate("80")
		s.Metric, s.Value.Unit = "HKQuantityTypeIdentifierWaistCircumference", "cm"
		r, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil || bytes.Contains(r.JSON, []byte("8280-0")) != on {
			t.Errorf("doubtful %v: %v %s", on, err, r.JSON)
		}
	}
}

func BenchmarkMap(b *testing.B) {
	m := mappingtest.Mapper(b)
	s := mappingtest.HeartRate("62")
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Map(buf, "apple", s, "p1", nil); err != nil {
			b.Fatal(err)
		}
	}
}
