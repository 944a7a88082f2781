package stream

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// drawSample varies the example of a row: its times, offsets, numbers, device and
// method. Some of the samples do not fit in a series.
func drawSample(t *rapid.T, tables *table.Table, v *table.Vendor, r *table.Row) *sample.Sample {
	s := mappingtest.Example(t, tables, v, r, false)
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
	change := func(value *sample.Value) {
		if value.Kind == sample.Number && rapid.Bool().Draw(t, "other number") {
			value.Num = number.Draw(t, "number")
		}
		if value.Kind == sample.Number {
			units := slices.Sorted(maps.Keys(tables.Units[r.Unit].Accepts))
			if len(units) > 0 && value == &s.Value {
				value.Unit = rapid.SampledFrom(units).Draw(t, "unit")
			}
		}
		if value.Kind == sample.Code && value == &s.Value {
			codes := slices.Sorted(maps.Keys(r.Values))
			value.Text = rapid.OneOf(rapid.SampledFrom(codes), rapid.SampledFrom(codes),
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

// TestSeriesEqualsObservation checks that a row that Place returns, written by its
// template, equals the Observation of the sample, and that most samples are
// placed.
func TestSeriesEqualsObservation(t *testing.T) {
	m, tables := mappingtest.Mapper(t), mappingtest.Table(t)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	placed, mapped := 0, 0
	mappingtest.EachRow(tables, func(v *table.Vendor, r *table.Row) {
		if r.Rate == 0 {
			return
		}
		rapid.Check(t, func(t *rapid.T) {
			zone := rapid.SampledFrom([]*time.Location{nil, berlin}).Draw(t, "patient's zone")
			streams := New(m, v.Vendor, "p1", zone)
			for range rapid.IntRange(1, 4).Draw(t, "samples") {
				s := drawSample(t, tables, v, r)
				var row series.Sample
				st := streams.Place(s, &row)
				resolved := streams.Resolve(s)
				res, err := m.Map(nil, v.Vendor, s, "p1", zone)
				checkResolved(t, m, resolved, s, zone, &res, err)
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
				checkPlaced(t, st, &row, &res)
				checkRebuilt(t, m, st, &row, &res, zone)
				// The same sample with a note is an Observation with the same id.
				noted := *s
				noted.Note = "note"
				if again, err := m.Map(nil, v.Vendor, &noted, "p1", zone); err != nil || again.ID != res.ID {
					t.Fatalf("with a note: %s %v", again.ID, err)
				}
			}
		})
	})
	if placed*3 < mapped {
		t.Errorf("only %d of %d samples are placed", placed, mapped)
	}
}

// checkResolved checks that the facts that Place returns map to the result of
// Map.
func checkResolved(t *rapid.T, m *mapping.Mapper, r *mapping.Resolved, s *sample.Sample, zone *time.Location,
	want *mapping.Result, wantErr error) {
	got, err := m.Observation(nil, r, s, zone)
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
		t.Fatalf("error %v, want %v", err, wantErr)
	}
	if got.ID != want.ID || !bytes.Equal(got.JSON, want.JSON) || got.Device != want.Device ||
		got.Stream != want.Stream || got.Vague != want.Vague || len(got.Left) != len(want.Left) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func checkPlaced(t *rapid.T, st *Stream, row *series.Sample, want *mapping.Result) {
	got := st.Template.Append(nil, row)
	k := st.Template.Key(row)
	if !bytes.Equal(got, want.JSON) || k.ID() != want.ID {
		t.Fatalf("series      %s\nObservation %s", got, want.JSON)
	}
	if row.Class() != st.Template.Class || mapping.StreamID(k.Identity) != want.Stream ||
		st.Device != want.Device || st.Vague != want.Vague ||
		st.Metric != want.Metric || !slices.Equal(st.Template.Categories, want.Categories) ||
		!want.Start.Truncate(time.Microsecond).Equal(time.UnixMicro(row.Start)) {
		t.Fatalf("stream %+v, result %+v", st, want)
	}
}

// TestSeriesFrom checks that the examples of the rows with a sufficient rate are
// placed and that all others are not.
func TestSeriesFrom(t *testing.T) {
	tables := mappingtest.Table(t)
	for from, want := range map[int]func(r *table.Row) bool{
		0:    func(r *table.Row) bool { return r.Rate >= 24 },
		200:  func(r *table.Row) bool { return r.Rate >= 200 },
		1:    func(r *table.Row) bool { return r.Rate >= 1 },
		-1:   func(*table.Row) bool { return false },
		1e9:  func(*table.Row) bool { return false },
		-300: func(*table.Row) bool { return false },
	} {
		m, err := mapping.New(table.Builtin(), mapping.Options{SeriesFrom: from})
		if err != nil {
			t.Fatal(err)
		}
		mappingtest.EachRow(tables, func(v *table.Vendor, r *table.Row) {
			var row series.Sample
			s := mappingtest.Example(t, tables, v, r, false)
			if st := New(m, v.Vendor, "p1", nil).Place(s, &row); (st != nil) != want(r) {
				t.Errorf("from %d: %s with rate %d: placed %v", from, r.Metric, r.Rate, st != nil)
			}
			res, err := m.Map(nil, v.Vendor, s, "p1", nil)
			if err != nil {
				t.Fatal(err)
			}
			if (res.Stream != "") != (r.Rate > 0) ||
				bytes.Contains(res.JSON, []byte(mapping.StreamSystem)) != (r.Rate > 0) {
				t.Errorf("from %d: %s with rate %d: stream %q", from, r.Metric, r.Rate, res.Stream)
			}
		})
	}
}

// TestCacheIsBounded places samples that differ in more than times and numbers.
func TestCacheIsBounded(t *testing.T) {
	streams := New(mappingtest.Mapper(t), "apple", "p1", nil)
	var row series.Sample
	for i := range 20000 {
		s := mappingtest.HeartRate("62")
		s.Device.Battery = strconv.Itoa(i)
		s.Source.Name = strconv.Itoa(i)
		if st := streams.Place(s, &row); st == nil {
			t.Fatal("the sample was not placed")
		}
		if streams.Full() {
			streams.Reset()
		}
	}
	n := 0
	for _, entries := range streams.entries {
		n += len(entries)
	}
	if n > maxPerMetric || len(streams.templates) > maxEntries+1 {
		t.Errorf("the cache holds %d entries and %d templates", n, len(streams.templates))
	}
}

// BenchmarkPlace measures the way from a decoded sample to a row in columns. Its
// last case measures appending alone.
func BenchmarkPlace(b *testing.B) {
	m := mappingtest.Mapper(b)
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
			s := mappingtest.HeartRate("62")
			c.build(s)
			streams := New(m, "apple", "p1", c.zone)
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
				st := streams.Place(s, &row)
				if i++; i&0xffff == 0 {
					s.Start = s.Start.Add(-5 * 0xffff * time.Second)
					cols.Reset()
				}
				cols.Append(&row, st.Template.Values)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "samples/s")
		})
	}
	b.Run("three streams in turn", func(b *testing.B) {
		streams := New(m, "apple", "p1", nil)
		samples := []*sample.Sample{mappingtest.HeartRate("62"), mappingtest.HeartRate("62"),
			mappingtest.HeartRate("62")}
		samples[1].Metric, samples[1].Value.Unit = "HKQuantityTypeIdentifierStepCount", "count"
		samples[2].Metric, samples[2].Value.Unit = "HKQuantityTypeIdentifierActiveEnergyBurned", "kcal"
		var row series.Sample
		var cols series.Columns
		i := 0
		for b.Loop() {
			s := samples[i%3]
			s.Start = s.Start.Add(5 * time.Second)
			st := streams.Place(s, &row)
			if i++; i&0xffff == 0 {
				for _, s := range samples {
					s.Start = s.Start.Add(-5 * 0x5555 * time.Second)
				}
				cols.Reset()
			}
			cols.Append(&row, st.Template.Values)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "samples/s")
	})
	b.Run("append only", func(b *testing.B) {
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
