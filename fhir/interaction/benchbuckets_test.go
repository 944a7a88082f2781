package interaction_test

import (
	"context"
	"crypto/rand"
	mrand "math/rand/v2"
	"testing"
	"time"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// BenchmarkTimeBuckets measures a year of heart rate, one sample per 5 seconds, by day. It
// reports the processor time of a call, which other processes change little.
func BenchmarkTimeBuckets(b *testing.B) {
	st, err := pebblestore.Open(b.TempDir(), pebblestore.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := st.Close(); err != nil {
			b.Error(err)
		}
	})
	const year = 365 * 86400 / 5
	rnd := mrand.New(mrand.NewPCG(1, 1))
	at, rate := benchSince.UnixMicro(), 70.0
	for n := 0; n < year; n += 1 << 16 {
		c := &series.Columns{}
		for range 1 << 16 {
			at += int64(4+rnd.IntN(3)) * 1e6
			rate += rnd.NormFloat64()*1.5 + (72-rate)*.02
			s := series.Sample{Start: at, End: series.NoEnd, Off: 60}
			s.Values[0] = series.Decimal{Mant: int64(rate)}
			c.Append(&s, 1)
		}
		if _, err := st.Commit(context.Background(), &store.Batch{Probed: st.LastSeq(),
			Series: []store.SeriesWrite{{Template: benchTemplate(), Columns: c}}}); err != nil {
			b.Fatal(err)
		}
	}
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		b.Fatal(err)
	}
	svc := &interaction.Service{Store: st, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: "https://pg.example/fhir"}
	rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: "r", Grant: access.All()}},
		Line: "GET"}
	ps := []interaction.Parameter{{Name: "subject", Value: "Patient/samples"},
		{Name: "coding", Value: "http://loinc.org|8867-4"}, {Name: "calendar", Value: "day"},
		{Name: "zone", Value: "Europe/Berlin"}}
	b.ResetTimer()
	before := benchCPU(b)
	for range b.N {
		if _, err := svc.TimeBuckets(context.Background(), rq, ps); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(benchCPU(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
}
