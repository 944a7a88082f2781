package ingest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/stream"
)

// BenchmarkExport ingests an export.xml of 50,000 records into a store in
// memory and reports Observations per second, including the commits.
func BenchmarkExport(b *testing.B) {
	var x strings.Builder
	x.WriteString(`<?xml version="1.0"?><HealthData locale="en">`)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const n = 50000
	for i := range n {
		x.WriteString(recordXML(heartRateType, "count/min", fmt.Sprint(50+i%90),
			at.Add(time.Duration(i)*time.Minute).Format("2006-01-02 15:04:05 -0700"), "11.0"))
	}
	x.WriteString(`</HealthData>`)
	for b.Loop() {
		w := newWorld(b)
		s := w.must("apple", "export.xml", x.String())
		if s.Created != n {
			b.Fatalf("%+v", s.Counts)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "obs/s")
}

// BenchmarkSamples ingests decoded samples of a realistic heart rate, durably
// on disk, and reports samples per second: of the whole path, for new and for
// repeated samples. For comparison it measures the simulator alone, the mapping
// to columns without a store, and the store with prepared columns.
func BenchmarkSamples(b *testing.B) {
	const n = 1 << 21
	ingest := func(b *testing.B, w *world, name string) {
		w.pipeline.Adapters = []adapters.Adapter{feed{simulateHeartRate(1, n)}}
		s, err := w.pipeline.Run(b.Context(), Request{Patient: "p1", Vendor: "apple", Format: "feed",
			Body: strings.NewReader(name)})
		if err != nil || s.Created+s.Unchanged != n {
			b.Fatalf("%+v %v", s.Counts, err)
		}
	}
	columns := func(w *world, each func(*stream.Stream, *series.Sample)) {
		streams := stream.New(w.pipeline.Mapper, "apple", "p1", nil)
		var row series.Sample
		simulateHeartRate(1, n)(func(s *sample.Sample) bool {
			st := streams.Place(s, &row)
			each(st, &row)
			return true
		})
	}
	var ready []store.SeriesWrite
	for _, c := range []struct {
		name            string
		before, measure func(b *testing.B, w *world)
	}{
		{"ingest", nil, func(b *testing.B, w *world) { ingest(b, w, "1") }},
		{"again", func(b *testing.B, w *world) { ingest(b, w, "1") },
			func(b *testing.B, w *world) { ingest(b, w, "2") }},
		{"floor: simulator", nil, func(*testing.B,
			*world) {
			simulateHeartRate(1, n)(func(*sample.Sample) bool { return true })
		}},
		{"floor: mapping", nil, func(_ *testing.B, w *world) {
			var cols series.Columns
			columns(w, func(_ *stream.Stream, s *series.Sample) {
				if cols.Len() == 65536 {
					cols.Reset()
				}
				cols.Append(s, 1)
			})
		}},
		{"floor: store", func(_ *testing.B, w *world) {
			ready = ready[:0]
			columns(w, func(st *stream.Stream, s *series.Sample) {
				i := len(ready) - 1
				if i < 0 || ready[i].Template != st.Template || ready[i].Columns.Len() == 65536 {
					ready = append(ready, store.SeriesWrite{Template: st.Template, Columns: &series.Columns{}})
					i++
				}
				ready[i].Columns.Append(s, 1)
			})
		}, func(b *testing.B, w *world) {
			for len(ready) > 0 {
				next, size := []store.SeriesWrite{}, 0
				// A batch holds each series once.
				again := func() bool {
					return slices.ContainsFunc(next,
						func(w store.SeriesWrite) bool { return w.Template == ready[0].Template })
				}
				for len(ready) > 0 && size < 65536 && !again() {
					size += ready[0].Columns.Len()
					next, ready = append(next, ready[0]), ready[1:]
				}
				if _, err := w.pipeline.Store.Commit(b.Context(),
					&store.Batch{Series: next, Probed: ^store.Seq(0)}); err != nil {
					b.Fatal(err)
				}
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var took time.Duration
			for b.Loop() {
				b.StopTimer()
				w, done := newWorldOn(b, b.TempDir(), vfs.Default)
				w.pipeline.SpoolDir = b.TempDir()
				if c.before != nil {
					c.before(b, w)
				}
				b.StartTimer()
				began := time.Now()
				c.measure(b, w)
				took += time.Since(began)
				b.StopTimer()
				done()
				b.StartTimer()
			}
			b.ReportMetric(n*float64(b.N)/took.Seconds(), "samples/s")
		})
	}
}

// BenchmarkOneDocument ingests payloads of one document each, as webhooks deliver
// them, for different patients, into a store in memory: new ones, and ones that
// the store has.
func BenchmarkOneDocument(b *testing.B) {
	const patients = 1000
	for _, c := range []struct {
		name string
		body func(i int) string
	}{
		{"new", func(i int) string { return strings.ReplaceAll(night(27000), `"n1"`, fmt.Sprintf(`"n%d"`, i)) }},
		{"restated", func(i int) string { return night(27000 + i/patients%2*60) }},
		{"again", func(int) string { return night(27000) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			var writes []store.Write
			for i := range patients {
				id := fmt.Sprint("q", i)
				writes = append(writes, store.Write{Resource: fhir.Resource{Type: "Patient", ID: id,
					JSON: []byte(fhir.Prefix("Patient", id) + `}}`)}})
			}
			if _, err := w.pipeline.Store.Commit(b.Context(), &store.Batch{Writes: writes}); err != nil {
				b.Fatal(err)
			}
			i := 0
			deliver := func() {
				if _, err := w.pipeline.Run(b.Context(), Request{Patient: fmt.Sprint("q", i%patients), Vendor: "oura",
					Name: "sleep.json", Body: strings.NewReader(c.body(i)), Caller: operator()}); err != nil {
					b.Fatal(err)
				}
				i++
			}
			for range patients {
				deliver()
			}
			b.ReportAllocs()
			for b.Loop() {
				deliver()
			}
		})
	}
}
