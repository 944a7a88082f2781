package ingest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

var noon = time.Date(2026, 10, 1, 12, 0, 0, 0, time.FixedZone("", 7200))

// drawSamples draws samples of a few streams that share instants, templates and
// ids.
func drawSamples(t *rapid.T, n int) []sample.Sample {
	out := make([]sample.Sample, rapid.IntRange(1, n).Draw(t, "samples"))
	for i := range out {
		at := noon.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "at")) * time.Second)
		s := heartRate(at, rapid.SampledFrom([]string{"62", "62.0", "63", "64.5"}).Draw(t, "value"))
		switch rapid.IntRange(0, 4).Draw(t, "metric") {
		case 0: // the value may be restated
			s.KeyValue = false
		case 1:
			s.Metric, s.Value.Unit, s.End = stepCountType, "count",
				at.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "lasts"))*time.Minute)
		case 2:
			s.Components = []sample.Component{{Name: "motionContext",
				Value: sample.Value{Kind: sample.Code, Text: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "context")}}}
		case 3:
			s.Metric, s.Value = "HKCorrelationTypeIdentifierBloodPressure", sample.Value{}
			s.KeyValue = false
			s.Components = []sample.Component{{Name: "systolic",
				Value: sample.Value{Kind: sample.Number,
					Num: rapid.SampledFrom([]string{"120", "130"}).Draw(t, "systolic"), Unit: "mmHg"}},
				{Name: "diastolic", Value: sample.Value{Kind: sample.Number, Num: "80", Unit: "mmHg"}}}
		}
		switch rapid.IntRange(0, 11).Draw(t, "special") {
		case 0:
			s.Note = "a note"
		case 1:
			s.Status = sample.Retracted
		case 2:
			s.Status = sample.Preliminary
		case 3:
			s.Method = "another"
		case 4:
			s.Device.Software = "12.0"
		case 5:
			s.Device, s.Source = sample.Device{Name: "Service", Manufacturer: "Maker"}, sample.Source{}
			s.UserEntered = rapid.Bool().Draw(t, "entered")
		case 6:
			s.Value.Num += "0000000000000000000000"
			if !strings.Contains(s.Value.Num, ".") {
				s.Value.Num = s.Value.Num[:2] + ".00000000000000000001"
			}
		}
		out[i] = s
	}
	return out
}

var timesPattern = regexp.MustCompile(`"(lastUpdated|recorded)":"[^"]*"`)

// content returns all versions of the resources of a type, without their times.
func (w *world) content(typ string) map[string]string {
	out := map[string]string{}
	for id, r := range w.all(typ) {
		var all []byte
		err := w.pipeline.Store.History(w.t.Context(), r.Ref(), 0, 0, func(v fhir.Resource, _ *access.Facts) bool {
			all = append(append(all, v.JSON...), '\n')
			return true
		})
		if err != nil {
			w.t.Fatal(err)
		}
		out[id] = timesPattern.ReplaceAllString(string(all), "")
	}
	return out
}

// targets returns the targets of all Provenances and the rows that mapped them.
func (w *world) targets() []string {
	var out []string
	for _, r := range w.all("Provenance") {
		_, rest, _ := bytes.Cut(r.JSON, []byte(`"target":[`))
		list, _, _ := bytes.Cut(rest, []byte(`],"recorded"`))
		out = append(out, string(list)+strings.Join(w.namedRows(r.JSON), " "))
	}
	slices.Sort(out)
	return out
}

// TestSeriesAndDocumentsAreEqual checks that the store holds the same
// resources, version by version, with the same counts and Provenances, if
// samples are stored as series, as documents by a store without series, or
// mapped to documents only.
func TestSeriesAndDocumentsAreEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var payloads [][]sample.Sample
		for range rapid.IntRange(1, 4).Draw(t, "payloads") {
			payloads = append(payloads, drawSamples(t, 20))
		}
		repeat := rapid.Bool().Draw(t, "repeat")
		limit := rapid.SampledFrom([]int{0, 3}).Draw(t, "limit")
		var want string
		for _, tier := range []string{"series", "documents", "never"} {
			w, done := newWorldOf(t)
			func() {
				defer done()
				switch tier {
				case "documents":
					w.pipeline.Store = store.Documents{Store: w.pipeline.Store}
				case "never":
					m, err := neverSeries()
					if err != nil {
						t.Fatal(err)
					}
					w.pipeline.Mapper = m
				}
				w.pipeline.Limits.Samples, w.pipeline.Limits.Batch = limit, limit
				var counts []Counts
				for round := range 2 {
					if round == 1 && !repeat {
						break
					}
					for i, p := range payloads {
						sum, err := w.take(fmt.Sprint("payload ", i), p...)
						if err != nil {
							t.Fatal(err)
						}
						counts = append(counts, sum.Counts)
					}
				}
				got := fmt.Sprint(counts, "\n", w.content("Observation"), "\n", w.content("Device"))
				if limit == 0 { // with a limit, the batches differ
					got += fmt.Sprint(w.targets())
				}
				if tier == "series" {
					want = got
				} else if got != want && !(tier == "never" && limit != 0) {
					t.Fatalf("%s: %s", tier, difference(want, got))
				}
			}()
		}
	})
}

// difference returns the first line that differs.
func difference(a, b string) string {
	linesA, linesB := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(linesA), len(linesB)) {
		if linesA[i] != linesB[i] {
			return linesA[i] + "\n" + linesB[i]
		}
	}
	return "one is longer"
}

// TestOrderDoesNotMatter checks that distinct samples result in the same store
// in any order and split into payloads.
func TestOrderDoesNotMatter(t *testing.T) {
	m, err := testMapper()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		seen := map[string]bool{}
		samples := slices.DeleteFunc(drawSamples(t, 30), func(s sample.Sample) bool {
			r, err := m.Map(nil, "apple", &s, "p1", nil)
			twice := err != nil || seen[r.ID] || s.Status != sample.Final
			seen[r.ID] = true
			return twice
		})
		var want map[string]string
		for range 2 {
			w, done := newWorldOf(t)
			func() {
				defer done()
				for i, chunk := range slices.Collect(slices.Chunk(rapid.Permutation(samples).Draw(t, "order"), 7)) {
					if _, err := w.take(fmt.Sprint(i), chunk...); err != nil {
						t.Fatal(err)
					}
				}
				got := w.content("Observation")
				if want == nil {
					want = got
				} else if !maps.Equal(got, want) {
					t.Fatal(difference(fmt.Sprint(want), fmt.Sprint(got)))
				}
			}()
		}
	})
}

// competingStore commits samples of the same streams just before the pipeline
// does.
type competingStore struct {
	store.Store
	t         testing.TB
	times     int
	conflicts int
}

func (s *competingStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if len(b.Series) == 0 || s.times == 0 {
		return s.Store.Commit(ctx, b)
	}
	s.times--
	template := b.Series[0].Template
	columns := b.Series[0].Columns.Slice(0, 1)
	if s.conflicts > 0 { // the first sample is stored: use a new one
		columns = series.Columns{}
		first := b.Series[0].Columns.At(0)
		first.Start -= int64(s.conflicts) * 3600e6
		columns.Append(&first, template.Values)
	}
	at, found, err := s.Probe(ctx, []store.SeriesWrite{{Template: template, Columns: &columns}})
	if err != nil || found[0][0] != store.Missing {
		s.t.Errorf("%v %v", found, err)
		return store.Result{}, err
	}
	if _, err := s.Store.Commit(ctx, &store.Batch{Series: []store.SeriesWrite{{Template: template, Columns: &columns}},
		Probed: at}); err != nil {
		s.t.Error(err)
	}
	s.conflicts++
	_, err = s.Store.Commit(ctx, b)
	if fhir.KindOf(err) != fhir.Conflict {
		s.t.Errorf("no conflict: %v", err)
	}
	return store.Result{}, err
}

// TestConflict checks that a stream that changes between Probe and Commit is
// probed again, that no sample is lost or counted twice, and that the attempts
// are limited.
func TestConflict(t *testing.T) {
	w := newWorld(t)
	var samples []sample.Sample
	for i := range 50 {
		samples = append(samples, heartRate(noon.Add(time.Duration(i)*time.Second), rates[60+i]))
	}
	x := heartRate(noon, "62")
	x.Metric = "HKQuantityTypeIdentifierUnheardOf"
	samples = append(samples, x, x)
	v := &competingStore{Store: w.pipeline.Store, t: t, times: 3}
	w.pipeline.Store = v
	sum, err := w.take("a", samples...)
	if err != nil || sum.Created != 49 || sum.Unchanged != 1 || sum.Read != 52 || sum.Quarantined != 2 {
		t.Errorf("%+v %v", sum.Counts, err)
	}
	for typ, n := range map[string]int{"Observation": 52, "Device": 1, "Provenance": 1, "AuditEvent": 1} {
		if got := len(w.all(typ)); got != n {
			t.Errorf("%d of %s, want %d", got, typ, n)
		}
	}
	err = w.pipeline.List(t.Context(), "p1", func(it *Item) bool {
		if it.Count != 2 {
			t.Errorf("counted %d times", it.Count)
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
	w.pipeline.Store = w.pipeline.Store.(*competingStore).Store
	before := len(w.all("Observation"))
	w.pipeline.Store = &competingStore{Store: w.pipeline.Store, t: t, times: maxTries + 1, conflicts: 1}
	samples[0].Start = noon.Add(1000 * time.Hour)
	if _, err = w.take("b", samples[0]); fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("%v", err)
	}
	if got := len(w.all("Observation")); got != before+maxTries {
		t.Errorf("%d Observations, want %d", got, before+maxTries)
	}
}

// TestProvenanceOfSamples checks that the targets of new samples are their
// streams, once, and that new versions are targets themselves.
func TestProvenanceOfSamples(t *testing.T) {
	w := newWorld(t)
	one, two := heartRate(noon, "62"), heartRate(noon.Add(time.Second), "63")
	one.KeyValue, two.KeyValue = false, false
	if _, err := w.take("a", one, two); err != nil {
		t.Fatal(err)
	}
	ids := slices.Sorted(maps.Keys(w.all("Observation")))
	k, ok := series.ParseID(ids[0])
	if !ok || len(ids) != 2 {
		t.Fatalf("%v", ids)
	}
	stream := `{"type":"Observation","identifier":{"system":"` + mapping.StreamSystem + `","value":"` +
		mapping.StreamID(k.Identity) + `"}}`
	first := w.targets()
	if len(first) != 1 || strings.Count(first[0], stream) != 1 || strings.Contains(first[0], "Observation/") ||
		!strings.Contains(first[0], "Device/") || !strings.Contains(first[0], `"Patient/p1"`) {
		t.Errorf("%v", first)
	}
	one.Value.Num = "99"
	two.Start = two.Start.Add(time.Hour)
	if sum, err := w.take("b", one, two); err != nil || sum.Updated != 1 || sum.Created != 1 {
		t.Errorf("%+v %v", sum, err)
	}
	both := strings.Join(w.targets(), "\n")
	if strings.Count(both, stream) != 2 || strings.Count(both, `{"reference":"Observation/`+ids[0]+`"}`) != 1 ||
		strings.Count(both, "Observation/") != 1 {
		t.Errorf("%s", both)
	}
}

// TestSampleHistory checks that a restated sample is a new version, that a
// retracted one is entered-in-error, and that a repeated one writes nothing.
func TestSampleHistory(t *testing.T) {
	w := newWorld(t)
	day := []sample.Sample{heartRate(noon, "62"), heartRate(noon.Add(5*time.Second), "63"),
		heartRate(noon.Add(10*time.Second), "64")}
	for i := range day {
		day[i].KeyValue = false
	}
	step := func(name string, want Counts, samples ...sample.Sample) {
		t.Helper()
		if sum, err := w.take(name, samples...); err != nil || sum.Counts != want {
			t.Fatalf("%s: %+v %v, want %+v", name, sum.Counts, err, want)
		}
	}
	step("first", Counts{Read: 3, Created: 3}, day...)
	step("again", Counts{Read: 3, Unchanged: 3}, day...)
	restated := day[1]
	restated.Value.Num = "70"
	step("restated", Counts{Read: 3, Unchanged: 2, Updated: 1}, day[0], restated, day[2])
	step("taken back", Counts{Read: 3, Unchanged: 2, Updated: 1}, day...)
	step("restated", Counts{Read: 3, Unchanged: 2, Updated: 1}, day[0], restated, day[2])
	retracted := day[2]
	retracted.Status = sample.Retracted
	step("retracted", Counts{Read: 1, Updated: 1}, retracted)
	step("late", Counts{Read: 4, Created: 1, Unchanged: 2, Dropped: 1}, restated, day[0],
		heartRate(noon.Add(-time.Hour), "50"), day[0])
	var got []string
	for id, versions := range w.content("Observation") {
		k, _ := series.ParseID(id)
		for _, v := range strings.Split(strings.TrimSpace(versions), "\n") {
			_, v, _ = strings.Cut(v, `],"status":"`)
			status, v, _ := strings.Cut(v, `"`)
			_, v, _ = strings.Cut(v, `"value":`)
			num, _, _ := strings.Cut(v, ",")
			got = append(got, fmt.Sprint((k.Start-noon.UnixMicro())/1e6, " ", status, " ", num))
		}
	}
	slices.Sort(got)
	if want := []string{"-3600 final 50", "0 final 62", "10 entered-in-error 64", "10 final 64", "5 amended 63",
		"5 amended 70", "5 amended 70", "5 final 63"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	q, err := search.Parse("Observation", [][2]string{{"identifier", mapping.StreamSystem + "|" + streamOf(t, w)}},
		search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.pipeline.Store.Count(t.Context(),
		store.Find{Query: q, Filter: access.All().Filter(access.Search)}); err != nil || n != 4 {
		t.Errorf("by the stream's identifier: %d %v", n, err)
	}
}

// streamOf returns the only stream of the store.
func streamOf(t *testing.T, w *world) (stream string) {
	for id := range w.all("Observation") {
		k, ok := series.ParseID(id)
		if s := mapping.StreamID(k.Identity); !ok || stream != "" && s != stream {
			t.Errorf("%s is of another stream than %s", id, stream)
		}
		stream = mapping.StreamID(k.Identity)
	}
	return stream
}

// TestFutureSamples checks that samples that are too far in the future are
// quarantined, in streams too.
func TestFutureSamples(t *testing.T) {
	w := newWorld(t)
	now := w.pipeline.Clock()
	sum, err := w.take("a", heartRate(now.Add(47*time.Hour), "62"), heartRate(now.Add(49*time.Hour), "63"),
		heartRate(now, "64"))
	if err != nil || sum.Created != 2 || sum.Quarantined != 1 {
		t.Errorf("%+v %v", sum.Counts, err)
	}
}

// TestOverlappingDeliveries checks that a day of heart rates in small batches,
// delivered again with an overlap, is stored once.
func TestOverlappingDeliveries(t *testing.T) {
	w := newWorld(t)
	w.pipeline.Limits.Samples = 1000
	var day []sample.Sample
	simulateHeartRate(1, 15000)(func(s *sample.Sample) bool {
		c := *s
		c.Components = slices.Clone(s.Components)
		day = append(day, c)
		return true
	})
	if sum, err := w.take("a", day[:9000]...); err != nil || sum.Created != 9000 {
		t.Fatalf("%+v %v", sum.Counts, err)
	}
	if sum, err := w.take("b", day[5000:]...); err != nil || sum.Created != 6000 || sum.Unchanged != 4000 {
		t.Fatalf("%+v %v", sum.Counts, err)
	}
	if got := len(w.all("Observation")); got != len(day) {
		t.Errorf("%d Observations, want %d", got, len(day))
	}
	if got := len(w.all("Device")); got != 1 {
		t.Errorf("%d Devices", got)
	}
}
