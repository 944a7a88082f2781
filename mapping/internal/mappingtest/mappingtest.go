// Package mappingtest builds samples for the tests of package mapping and its
// subpackages.
package mappingtest

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"pulsegate/mapping"
	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// TB is the part of testing.TB that rapid.T implements too.
type TB interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// Mapper returns a Mapper with the built-in tables and the default options.
func Mapper(tb testing.TB) *mapping.Mapper {
	tb.Helper()
	m, err := mapping.New(table.Builtin(), mapping.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Table returns the built-in tables.
func Table(tb TB) *table.Table {
	tb.Helper()
	t, err := table.Load(table.Builtin())
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// EachRow calls fn for every row of every vendor.
func EachRow(t *table.Table, fn func(v *table.Vendor, r *table.Row)) {
	for i := range t.Vendors {
		v := &t.Vendors[i]
		for j := range v.Rows {
			fn(v, &v.Rows[j])
		}
	}
}

// HeartRate returns a heart rate sample of Apple's export.
func HeartRate(value string) *sample.Sample {
	return &sample.Sample{Metric: "HKQuantityTypeIdentifierHeartRate", Channel: "export.xml", KeyValue: true,
		Start: time.Date(2026, 10, 1, 8, 0, 0, 0, time.FixedZone("", 7200)), Zone: sample.ZoneInstant,
		Value:  sample.Value{Kind: sample.Number, Num: value, Unit: "count/min"},
		Device: sample.Device{Manufacturer: "Apple Inc.", Model: "Watch", Hardware: "Watch6,7", Software: "11.0"},
		Source: sample.Source{Name: "Watch", Version: "11.0"}}
}

// Number returns a number with a unit as a value.
func Number(num, unit string) sample.Value {
	return sample.Value{Kind: sample.Number, Num: num, Unit: unit}
}

// sentUnits holds the vendors' spellings of UCUM units. Units that are not
// listed are sent as UCUM codes.
var sentUnits = map[string]map[string]string{
	"apple": {"/min": "count/min", "mm[Hg]": "mmHg", "{steps}": "count", "/d": "count", "{flights}": "count",
		"Cel": "degC", "kg/m2": "count", "mL/kg/min": "mL/min·kg", "cm": "m", "h": "hr"},
	"fitbit": {"/min": "bpm", "kg": "g", "cm": "mm", "m": "mm", "{steps}": "count", "/d": "count",
		"{flights}": "count", "kcal/d": "kcal"},
	"oura": {"/min": "bpm", "min": "s", "cm": "m", "/d": "count", "{count}": "count", "{score}": "score",
		"kcal/d": "kcal", "1": "", "{MET}": "MET"},
	"withings": {"/min": "bpm", "min": "s", "cm": "m", "/d": "count", "{count}": "count", "{score}": "score",
		"kcal/d": "kcal", "mm[Hg]": "mmHg", "Cel": "degC", "{flights}": "count"},
}

func sentUnit(vendor, ucum string) string {
	if s, ok := sentUnits[vendor][ucum]; ok {
		return s
	}
	return ucum
}

// Example returns a sample that the row r must accept. It is a daily value if
// daily is set.
func Example(tb TB, t *table.Table, v *table.Vendor, r *table.Row, daily bool) *sample.Sample {
	tb.Helper()
	zone := time.FixedZone("", 2*3600)
	s := &sample.Sample{Metric: r.Metric, Channel: "test", Start: time.Date(2026, 10, 1, 8, 0, 0, 0, zone),
		Device: sample.Device{Name: "Wearable", Manufacturer: "Maker", Model: "Band", Hardware: "Band1,1",
			Software: "1.2", Firmware: "3.4", Battery: "81",
			Facts: []sample.Fact{{Name: "size", Value: "10"}}},
		Source: sample.Source{Name: "Source"}}
	if daily {
		s.Start, s.Day = time.Time{}, sample.Date{Year: 2026, Month: 10, Day: 1}
	} else if r.Category != "vital-signs" || r.Shape == table.ShapeSampled {
		s.End = s.Start.Add(90 * time.Minute)
	}
	main := target{tb: tb, table: t, vendor: v.Vendor, unit: r.Unit, bounds: r.Range, zero: r.Zero}
	for _, variant := range r.Variants {
		if variant.When.Matches("", s.Channel, daily) {
			if variant.Unit != "" {
				main.unit = variant.Unit
			}
			if variant.Range != nil {
				main.bounds = variant.Range
			}
			break
		}
	}
	switch r.Shape {
	case table.ShapeQuantity:
		s.Value = main.number()
	case table.ShapeCodeable:
		s.Value = sample.Value{Kind: sample.Code, Text: firstCode(r.Values)}
	case table.ShapeSampled:
		s.Value = main.series()
		if main.unit == "" {
			s.Value.Series.Unit = "mV"
			s.Value.Series.Period = 4 * time.Millisecond
		}
	}
	for i := range r.Components {
		c := &r.Components[i]
		part := target{tb: tb, table: t, vendor: v.Vendor, unit: c.Unit, bounds: c.Range, zero: c.Zero}
		value := sample.Value{Kind: sample.Code, Text: firstCode(c.Values)}
		switch {
		case strings.HasPrefix(c.Display, "Sleep stages") || strings.HasPrefix(c.Display, "Movement"):
			value = part.series()
			value.Series.Unit = ""
		case c.Unit != "":
			value = part.number()
		}
		s.Components = append(s.Components, sample.Component{Name: c.Name, Value: value})
	}
	return s
}

// target is a value of a row or component for which Example needs an input.
type target struct {
	tb     TB
	table  *table.Table
	vendor string
	unit   string // UCUM
	bounds []float64
	zero   string
}

// number returns the first of some typical numbers that the row accepts.
func (t *target) number() sample.Value {
	numbers := []string{"62", "36.8", "0.97", "1.75", "81500", "1750", "5400", "20000"}
	if len(t.bounds) == 2 {
		numbers = append(numbers, strconv.FormatFloat((t.bounds[0]+t.bounds[1])/2, 'f', -1, 64))
	}
	unit := sentUnit(t.vendor, t.unit)
	conv, ok := t.table.Units[t.unit].Accepts.From(unit)
	if !ok {
		t.tb.Fatalf("%s: unit %s is not accepted for %s", t.vendor, unit, t.unit)
	}
	for _, n := range numbers {
		d, ok := decimal.Parse(n)
		if !ok || t.zero == table.ZeroAbsent && d.IsZero() {
			continue
		}
		f := conv.Apply(d).Float64()
		if len(t.bounds) != 2 || f >= t.bounds[0] && f <= t.bounds[1] {
			return Number(n, unit)
		}
	}
	t.tb.Fatalf("%s: no number in the range of %s fits", t.vendor, t.unit)
	return sample.Value{}
}

func (t *target) series() sample.Value {
	v := sample.Value{Kind: sample.Series, Series: &sample.SeriesData{Period: 5 * time.Minute, Data: "1 2 E 3"}}
	if t.unit != "" {
		v.Series.Unit = sentUnit(t.vendor, t.unit)
	}
	if len(t.bounds) == 2 && t.bounds[0] > 3 {
		v.Series.Data = "61 62 E 63"
	}
	return v
}

func firstCode(values map[string]string) string {
	first := ""
	for code := range values {
		if first == "" || code < first {
			first = code
		}
	}
	if first == "" {
		return "SOMETHING"
	}
	return first
}
