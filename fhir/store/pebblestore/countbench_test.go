package pebblestore

import (
	"context"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"

	"fmt"
)

// BenchmarkCount counts Observations by code: samples, and documents.
func BenchmarkCount(b *testing.B) {
	d, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	const patients, samples, documents = 50, 20_000, 100_000
	fill(b, d, patients, 2, samples/2)
	for i := 0; i < documents; i += 1000 {
		var batch store.Batch
		for j := i; j < i+1000; j++ {
			id := fmt.Sprint("d", j)
			batch.Writes = append(batch.Writes, store.Write{Resource: fhir.Resource{Type: "Observation", ID: id,
				JSON: []byte(fhir.Prefix("Observation", id) + fmt.Sprintf(
					`},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"1234-5"}]},"subject":{"reference":"Patient/p%06d"},"effectiveDateTime":"2026-01-01T00:%02d:%02dZ","valueQuantity":{"value":%d}}`,
					j%patients, j/60%60, j%60, j%100))}})
		}
		if _, err := d.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Compact(context.Background()); err != nil {
		b.Fatal(err)
	}
	for name, raw := range map[string]string{"samples": "code=http://loinc.org|8867-4",
		"documents": "code=http://loinc.org|1234-5"} {
		b.Run(name, func(b *testing.B) {
			pairs, _ := search.Pairs(raw)
			q, err := search.Parse("Observation", pairs, search.ParseOptions{})
			if err != nil {
				b.Fatal(err)
			}
			total := uint64(0)
			for b.Loop() {
				n, err := d.Count(context.Background(),
					store.Find{Query: q, Filter: access.All().Filter(access.Search)})
				if err != nil {
					b.Fatal(err)
				}
				total += n
			}
			b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "resources/s")
		})
	}
}
