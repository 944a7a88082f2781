package interaction_test

import (
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"strconv"
	"syscall"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

const (
	benchDocuments = 100_000   // heart rates of patient "docs"
	benchSamples   = 5_000_000 // of patient "samples": one every 5 s or so
)

var (
	benchSince = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	benchBody  = `"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital Signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}]},"subject":{"reference":"Patient/%s"},`
	benchValue = `,"valueQuantity":{"value":%s,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}`
)

// BenchmarkRead asks as wearables' readers do, under a consent, on a store on
// disk, with the audit of each look.
func BenchmarkRead(b *testing.B) {
	svc, rq := benchService(b)
	ctx := context.Background()
	at := func(i int) string {
		return benchSince.Add(time.Duration(
			i*7919%(benchDocuments-200)) * 5 * time.Second).Format("2006-01-02T15:04:05Z")
	}
	search := func(query func(i int) string) func(i int) error {
		return func(i int) error {
			_, err := svc.Search(ctx, rq, "Observation", query(i))
			return err
		}
	}
	stats := func(patient string) func(int) error {
		return func(int) error {
			_, err := svc.Stats(ctx, rq,
				[]interaction.Parameter{{Name: "subject", Value: "Patient/" + patient},
					{Name: "coding", Value: "http://loinc.org|8867-4"},
					{Name: "period", Value: "2025-07-01/2027-07-01"},
					{Name: "statistic", Value: "average,minimum,maximum,count,median"}})
			return err
		}
	}
	lastn := func(patient string) func(int) error {
		return func(int) error {
			_, err := svc.LastN(ctx, rq,
				[]interaction.Parameter{{Name: "patient", Value: patient}, {Name: "category", Value: "vital-signs"}})
			return err
		}
	}
	for _, x := range []struct {
		name string
		do   func(i int) error
	}{
		{"search of documents", search(func(i int) string {
			return "patient=docs&code=http://loinc.org%7C8867-4&date=ge" + at(i) + "&_sort=date&_count=100"
		})},
		{"search of samples", search(func(i int) string {
			return "patient=samples&code=http://loinc.org%7C8867-4&date=lt" + at(i) + "&_sort=-date&_count=100"
		})},
		{"lastn of documents", lastn("docs")},
		{"lastn of samples", lastn("samples")},
		{"stats of documents", stats("docs")},
		{"stats of samples", stats("samples")},
	} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			i, before := 0, benchCPU(b)
			for b.Loop() {
				if err := x.do(i); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.ReportMetric(float64((benchCPU(b)-before).Microseconds())/float64(i), "cpu-us/op")
		})
	}
}

// benchCPU is the processor time of the process, which says more than the
// clock on a machine that others use.
func benchCPU(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchService(b *testing.B) (*interaction.Service, *interaction.Request) {
	b.Helper()
	st, err := pebblestore.Open(b.TempDir(), pebblestore.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := st.Close(); err != nil {
			b.Error(err)
		}
	})
	ctx := context.Background()
	var first store.Batch
	for _, p := range []string{"docs", "samples"} {
		c, err := consent.Build(consent.Terms{ID: "c-" + p, Patient: p, Now: time.Now()})
		if err != nil {
			b.Fatal(err)
		}
		first.Writes = append(first.Writes, store.Write{Resource: c})
	}
	if _, err := st.Commit(ctx, &first); err != nil {
		b.Fatal(err)
	}
	for i := 0; i < benchDocuments; {
		var batch store.Batch
		for range 5000 {
			id := "o" + strconv.Itoa(i)
			at := benchSince.Add(time.Duration(i) * 5 * time.Second).Format(time.RFC3339)
			body := fhir.Prefix("Observation", id) + "}," + fmt.Sprintf(benchBody, "docs") +
				`"effectiveDateTime":"` + at + `"` + fmt.Sprintf(benchValue, strconv.Itoa(55+i%60)) + "}"
			batch.Writes = append(batch.Writes,
				store.Write{Author: "bench", Resource: fhir.Resource{Type: "Observation", ID: id, JSON: []byte(body)}})
			i++
		}
		if _, err := st.Commit(ctx, &batch); err != nil {
			b.Fatal(err)
		}
	}
	benchSeries(b, st)
	if err := st.Compact(ctx); err != nil {
		b.Fatal(err)
	}
	consents, err := consent.New(consent.Options{Store: st, Clock: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(consents.Close)
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		b.Fatal(err)
	}
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	grant := &access.Grant{Recipient: "bench", Consents: consents,
		Rules: []access.Rule{{Type: "*", May: access.Read | access.Search}}}
	return &interaction.Service{Store: st, Validator: validator, Audit: rec, Clock: time.Now, Rand: rand.Reader,
			Base: "https://pg.example/fhir"},
		&interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: "bench", Grant: grant}},
			Line: "GET Observation"}
}

// benchTemplate returns the template for the heart rates of patient "samples".
func benchTemplate() *series.Template {
	t := &series.Template{Class: series.Instant, Patient: "samples", Vendor: "apple",
		Categories: []string{"vital-signs"}, Values: 1, KeyValue: true,
		Parts: [][]byte{[]byte(`},"identifier":[{"system":"urn:s","value":"`),
			[]byte(`"}],` + fmt.Sprintf(benchBody, "samples")), []byte(`,"valueQuantity":{"value":`), nil},
		Slots: []series.Slot{series.SlotID, series.SlotEffective, series.SlotValue}}
	t.Parts[3] = []byte(fmt.Sprintf(benchValue, "")[len(`,"valueQuantity":{"value":`):] + "}")
	copy(t.Identity[:], "heartrate")
	return t
}

// benchSeries writes a heart rate of integers with gaps.
func benchSeries(b *testing.B, st store.Store) {
	b.Helper()
	t := benchTemplate()
	rnd := mrand.New(mrand.NewPCG(1, 1))
	at, rate := benchSince.AddDate(0, -2, 0).UnixMicro(), 70.0
	for n := 0; n < benchSamples; n += 1 << 16 {
		c := &series.Columns{}
		for range 1 << 16 {
			at += int64(4+rnd.IntN(3)) * 1e6
			rate += rnd.NormFloat64()*1.5 + (72-rate)*.02
			s := series.Sample{Start: at, End: series.NoEnd, Off: 60}
			s.Values[0] = series.Decimal{Mant: int64(rate)}
			c.Append(&s, 1)
		}
		if _, err := st.Commit(context.Background(),
			&store.Batch{Series: []store.SeriesWrite{{Template: t, Columns: c}}, Probed: st.LastSeq()}); err != nil {
			b.Fatal(err)
		}
	}
}
