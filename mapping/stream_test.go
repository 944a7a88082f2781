package mapping

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/series"
	"pulsegate/mapping/sample"
)

// rows calls fn for every row with a rate.
func rows(m *Mapper, fn func(v *Vendor, r *Row)) {
	for i := range m.table.Vendors {
		v := &m.table.Vendors[i]
		for j := range v.Rows {
			if v.Rows[j].Rate > 0 {
				fn(v, &v.Rows[j])
			}
		}
	}
}

// drawn varies an example: times, offsets, numbers as vendors write them, what
// is said of device and method, and what no series takes.
func drawn(t *rapid.T, m *Mapper, v *Vendor, r *Row) *sample.Sample {
	s := example(t, m, v, r, false)
	zone := rapid.SampledFrom([]*time.Location{time.UTC, time.FixedZone("", 2*3600),
		time.FixedZone("", -9*3600-1800), time.FixedZone("", 3601), time.FixedZone("", 15*3600)}).Draw(t, "offset")
	at := rapid.Int64Range(-2208988800, 7289654400).Draw(t, "second")
	nano := rapid.SampledFrom([]int64{0, 0, 0, 250e6, 123456e3, 5e6 + 300, 7, 999}).Draw(t, "nano")
	s.Start, s.End = time.Unix(at, nano).In(zone), time.Time{}
	if rapid.Bool().Draw(t, "period") {
		s.End = s.Start.Add(rapid.SampledFrom([]time.Duration{0, 300, 1e6, 5e9, 60e9, 61e9, 3600e9, 7200e9,
			48 * 3600e9, 50 * 3600e9, -1e9}).Draw(t, "lasts"))
	}
	s.Zone = sample.Zone(rapid.IntRange(0, 2).Draw(t, "zone"))
	s.KeyValue, s.UserEntered = rapid.Bool().Draw(t, "keyvalue"), rapid.Bool().Draw(t, "entered")
	number := rapid.OneOf(rapid.StringMatching(`[0-9]{1,4}(\.[0-9]{1,4})?`),
		rapid.StringMatching(`-?[0-9]{0,19}\.?[0-9]{0,19}`),
		rapid.StringMatching(`[+-]?[0-9]{1,3}(\.[0-9]{1,3})?(e-?[0-9]{1,2})?`))
	change := func(x *sample.Value) {
		if x.Kind == sample.Number && rapid.Bool().Draw(t, "other number") {
			x.Num = number.Draw(t, "number")
		}
		if x.Kind == sample.Number {
			var units []string
			for _, rule := range append([]*rule{m.rules[v.Vendor][r.Metric]}, m.rules[v.Vendor][r.Metric].parts[""]) {
				if rule != nil {
					for u := range rule.units {
						units = append(units, u)
					}
				}
			}
			slices.Sort(units)
			if len(units) > 0 && x == &s.Value {
				x.Unit = rapid.SampledFrom(units).Draw(t, "unit")
			}
		}
		if x.Kind == sample.Code && x == &s.Value {
			codes := slices.Sorted(maps.Keys(r.Values))
			x.Text = rapid.OneOf(rapid.SampledFrom(codes), rapid.SampledFrom(codes),
				rapid.SampledFrom([]string{"NewInTheNextYear", "two  blanks", "HKCategoryValue"})).Draw(t, "code")
		}
	}
	change(&s.Value)
	for i := range s.Components {
		change(&s.Components[i].Value)
	}
	s.Components = s.Components[:rapid.IntRange(min(1, len(s.Components)), len(s.Components)).Draw(t, "components")]
	if rapid.IntRange(0, 4).Draw(t, "foreign") == 0 {
		s.Components = append(s.Components,
			sample.Component{Name: "new",
				Value: sample.Value{Kind: sample.ValueType(rapid.IntRange(0, 6).Draw(t, "kind")),
					Num: "7", High: "8", Unit: "x", Text: "word",
					Series: &sample.SeriesData{Period: time.Second, Data: "1"}}})
	}
	s.Channel = rapid.SampledFrom([]string{"export.xml", "hae", "test"}).Draw(t, "channel")
	s.Method = rapid.SampledFrom([]string{"", "", `a "method"`}).Draw(t, "method")
	s.Source.Name = rapid.SampledFrom([]string{"Source", "", `Sören's "watch"`}).Draw(t, "source")
	switch rapid.IntRange(0, 19).Draw(t, "odd") {
	case 0:
		s.Note = "note"
	case 1:
		s.VendorID = "7"
	case 2:
		s.Status = sample.Status(rapid.IntRange(1, 2).Draw(t, "status"))
	case 3:
		s.Start, s.End, s.Day = time.Time{}, time.Time{}, sample.Date{Year: 2026, Month: 5, Day: 1}
	case 4:
		s.Device = sample.Device{}
	case 5:
		s.Value.Kind, s.Value.High = sample.Interval, "99"
	}
	return s
}

// TestSeriesIsDocument: what Place gives, written by its template, is what Map
// gives, byte for byte and id for id; and it gives what it should.
func TestSeriesIsDocument(t *testing.T) {
	m := mapper(t)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	placed, mapped := 0, 0
	rows(m, func(v *Vendor, r *Row) {
		rapid.Check(t, func(t *rapid.T) {
			zone := rapid.SampledFrom([]*time.Location{nil, berlin}).Draw(t, "patient's zone")
			x := m.Streams(v.Vendor, "p1", zone)
			for range rapid.IntRange(1, 4).Draw(t, "samples") {
				s := drawn(t, m, v, r)
				var row series.Sample
				st := x.Place(s, &row)
				res, err := m.Map(nil, v.Vendor, s, "p1", zone)
				if err == nil {
					mapped++
				}
				if st == nil {
					continue
				}
				placed++
				if err != nil {
					t.Fatalf("%s: placed, but %v: %+v", r.Metric, err, s)
				}
				got := st.Template.Append(nil, &row)
				k := st.Template.Key(&row)
				if !bytes.Equal(got, res.JSON) || k.ID() != res.ID {
					t.Fatalf("series   %s\ndocument %s", got, res.JSON)
				}
				if row.Class() != st.Template.Class || StreamID(k.Identity) != res.Stream ||
					st.Device != res.Device || st.Vague != res.Vague ||
					st.Metric != res.Metric || !slices.Equal(st.Template.Categories, res.Categories) ||
					!res.Start.Truncate(time.Microsecond).Equal(time.UnixMicro(row.Start)) {
					t.Fatalf("%s: %+v and %+v", r.Metric, st, res)
				}
				// A sample that arrives with one thing more is the same one.
				odd := *s
				odd.Note = "note"
				if res, err := m.Map(nil, v.Vendor, &odd, "p1", zone); err != nil || res.ID != k.ID() {
					t.Fatalf("with a note: %s %v", res.ID, err)
				}
			}
		})
	})
	if placed*3 < mapped {
		t.Errorf("of %d samples only %d are of a series", mapped, placed)
	}
}

// TestEveryRateIsASeries: the plain example of every row with a rate above the
// threshold is a sample of a series, of every other one not.
func TestEveryRateIsASeries(t *testing.T) {
	for from, want := range map[int]func(r *Row) bool{
		0:    func(r *Row) bool { return r.Rate >= 24 },
		200:  func(r *Row) bool { return r.Rate >= 200 },
		1:    func(r *Row) bool { return r.Rate >= 1 },
		-1:   func(*Row) bool { return false },
		1e9:  func(*Row) bool { return false },
		-300: func(*Row) bool { return false },
	} {
		m, err := New(Builtin(), Options{SeriesFrom: from})
		if err != nil {
			t.Fatal(err)
		}
		for i := range m.table.Vendors {
			v := &m.table.Vendors[i]
			for j := range v.Rows {
				r := &v.Rows[j]
				var row series.Sample
				s := example(t, m, v, r, false)
				st := m.Streams(v.Vendor, "p1", nil).Place(s, &row)
				if (st != nil) != want(r) {
					t.Errorf("from %d: %s with rate %d: %v", from, r.Metric, r.Rate, st != nil)
				}
				res, err := m.Map(nil, v.Vendor, s, "p1", nil)
				if err != nil {
					t.Fatal(err)
				}
				if (res.Stream != "") != (r.Rate > 0) ||
					bytes.Contains(res.JSON, []byte(StreamSystem)) != (r.Rate > 0) {
					t.Errorf("from %d: %s with rate %d: stream %q", from, r.Metric, r.Rate, res.Stream)
				}
			}
		}
	}
}

// TestSampleID: under KeyValue a value is one value however it is written, by
// every way.
func TestSampleID(t *testing.T) {
	m := mapper(t)
	ids := map[string]bool{}
	for _, num := range []string{"62", "62.0", "62.000", "+62", "62.", "6.2e1", "62.000000000000000000000000"} {
		for _, note := range []string{"", "x"} {
			s := heart(num)
			s.Note = note
			r, err := m.Map(nil, "apple", s, "p1", nil)
			if err != nil {
				t.Fatal(err)
			}
			ids[r.ID] = true
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d ids", len(ids))
	}
	for _, change := range []func(*sample.Sample){
		func(s *sample.Sample) { s.Value.Num = "62.0000000000000000000001" },
		func(s *sample.Sample) { s.Value.Num = "62.0000000000000000000002" },
		func(s *sample.Sample) {
			s.Components = []sample.Component{{Name: "motionContext",
				Value: sample.Value{Kind: sample.Code, Text: "1"}}}
		},
		func(s *sample.Sample) {
			s.Components = []sample.Component{{Name: "motionContext",
				Value: sample.Value{Kind: sample.Code, Text: "2"}}}
		},
		func(s *sample.Sample) {
			s.Components = []sample.Component{{Name: "min",
				Value: sample.Value{Kind: sample.Number, Num: "60", Unit: "count/min"}}}
		},
	} {
		s := heart("62")
		change(s)
		r, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil || ids[r.ID] {
			t.Errorf("%+v: %v, or the id of another", s, err)
		}
		ids[r.ID] = true
	}
}

// TestQuick: the conversions in machine integers give what the exact ones do.
func TestQuick(t *testing.T) {
	table := mapper(t).table
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.StringMatching(`-?[0-9]{1,6}(\.[0-9]{1,6})?`),
			rapid.StringMatching(`-?[0-9]{0,18}\.?[0-9]{0,18}`)).Draw(t, "number")
		d, ok := parseDecimal(in)
		for ucum, u := range table.units {
			for unit, c := range u.accepts {
				q := newQuick(c)
				got, fits := q.number(in)
				if !ok {
					if fits {
						t.Fatalf("%q is a number", in)
					}
					continue
				}
				x := c.apply(d)
				want, short := x.short()
				if fits != short || got != want && fits {
					t.Fatalf("%s %s -> %s: %+v %v, want %+v %v", in, unit, ucum, got, fits, want, short)
				}
				if text := x.append(nil); fits && !bytes.Equal(got.Append(nil), text) {
					t.Fatalf("%s %s -> %s: %s, want %s", in, unit, ucum, got.Append(nil), text)
				}
				if fits && x.plain && string(got.Append(nil)) != in {
					t.Fatalf("%s is written %s", in, got.Append(nil))
				}
			}
		}
	})
}

// TestStreamsAreBounded: what differs every time does not pile up.
func TestStreamsAreBounded(t *testing.T) {
	x := mapper(t).Streams("apple", "p1", nil)
	var row series.Sample
	for i := range 20000 {
		s := heart("62")
		s.Device.Battery = strconv.Itoa(i)
		s.Source.Name = strconv.Itoa(i)
		if x.Place(s, &row) == nil {
			t.Fatal("not placed")
		}
		if x.Full() {
			x.Reset()
		}
	}
	n := 0
	for _, l := range x.metrics {
		n += len(l)
	}
	if n > maxLikeness || len(x.templates) > maxStreams+1 {
		t.Errorf("%d and %d are remembered", n, len(x.templates))
	}
}

// BenchmarkPlace: from a decoded sample to a row appended to columns, and the
// floor, the appending alone.
func BenchmarkPlace(b *testing.B) {
	m := mapper(b)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		b.Fatal(err)
	}
	nums := make([]string, 1024)
	for name, c := range map[string]struct {
		zone  *time.Location
		num   func(i int) string
		build func(s *sample.Sample)
	}{
		"heart rate":       {nil, func(i int) string { return strconv.Itoa(50 + i%90) }, func(*sample.Sample) {}},
		"heart rate, zone": {berlin, func(i int) string { return strconv.Itoa(50 + i%90) }, func(*sample.Sample) {}},
		"SpO2 scaled by 100": {nil, func(i int) string { return "0.9" + strconv.Itoa(i%10) }, func(s *sample.Sample) {
			s.Metric, s.Value.Unit = "HKQuantityTypeIdentifierOxygenSaturation", "%"
		}},
		"energy from kJ": {nil, func(i int) string { return "3." + strconv.Itoa(1000+i) }, func(s *sample.Sample) {
			s.Metric, s.Value.Unit = "HKQuantityTypeIdentifierActiveEnergyBurned", "kJ"
			s.End = s.Start.Add(time.Minute)
		}},
	} {
		b.Run(name, func(b *testing.B) {
			for i := range nums {
				nums[i] = c.num(i)
			}
			s := heart("62")
			c.build(s)
			x := m.Streams("apple", "p1", c.zone)
			var row series.Sample
			var cols series.Columns
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				s.Value.Num = nums[i&1023]
				s.Start = s.Start.Add(5 * time.Second)
				if !s.End.IsZero() {
					s.End = s.Start.Add(time.Minute)
				}
				st := x.Place(s, &row)
				if i++; i&0xffff == 0 {
					s.Start = s.Start.Add(-5 * 0xffff * time.Second)
					cols.Reset()
				}
				cols.Append(&row, st.Template.Values)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "samples/s")
		})
	}
	b.Run("three streams by turns", func(b *testing.B) {
		x := m.Streams("apple", "p1", nil)
		like := []*sample.Sample{heart("62"), heart("62"), heart("62")}
		like[1].Metric, like[1].Value.Unit = "HKQuantityTypeIdentifierStepCount", "count"
		like[2].Metric, like[2].Value.Unit = "HKQuantityTypeIdentifierActiveEnergyBurned", "kcal"
		var row series.Sample
		var cols series.Columns
		i := 0
		for b.Loop() {
			s := like[i%3]
			s.Start = s.Start.Add(5 * time.Second)
			st := x.Place(s, &row)
			if i++; i&0xffff == 0 {
				for _, s := range like {
					s.Start = s.Start.Add(-5 * 0x5555 * time.Second)
				}
				cols.Reset()
			}
			cols.Append(&row, st.Template.Values)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "samples/s")
	})
	b.Run("floor: append", func(b *testing.B) {
		row := series.Sample{End: series.NoEnd}
		var cols series.Columns
		i := 0
		for b.Loop() {
			row.Start += 5e6
			row.Values[0].Mant = int64(i & 127)
			if i++; i&0xffff == 0 {
				cols.Reset()
			}
			cols.Append(&row, 1)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "samples/s")
	})
}
