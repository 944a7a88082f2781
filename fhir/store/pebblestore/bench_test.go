package pebblestore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

const (
	benchPatients = 100
	benchCodes    = 10
	benchTimes    = 100
)

// filled returns a store on disk with 100,000 Observations and 10,000 AuditEvents.
// Every tenth event names a second patient.
func filled(b *testing.B) *pebblestore.DB {
	b.Helper()
	s, err := pebblestore.Open(b.TempDir(), pebblestore.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	put := func(typ, id, rest string) store.Write {
		return store.Write{Op: store.Put, Vendor: "oura", Author: "loader",
			Resource: fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}," + rest + "}")}}
	}
	for p := range benchPatients {
		var batch store.Batch
		for c := range benchCodes {
			for i := range benchTimes {
				batch.Writes = append(batch.Writes, put("Observation", fmt.Sprintf("o-%d-%d-%d", p, c, i), fmt.Sprintf(
					`"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],`+
						`"code":{"coding":[{"system":"http://loinc.org","code":"c%d"},{"system":"urn:vendor","code":"v%d"}]},"subject":{"reference":"Patient/p%d"},`+
						`"effectiveDateTime":%q,"valueQuantity":{"value":%d,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"},"device":{"reference":"Device/d%d"}`,
					c, c, p, start.Add(time.Duration(i)*time.Hour).Format(time.RFC3339), 60+i, p)))
			}
		}
		for i := range benchTimes {
			second := ""
			if i%10 == 0 {
				second = fmt.Sprintf(`,{"what":{"reference":"Patient/p%d"}}`, (p+1)%benchPatients)
			}
			batch.Writes = append(batch.Writes, put("AuditEvent", fmt.Sprintf("a-%d-%d", p, i), fmt.Sprintf(
				`"recorded":%q,"entity":[{"what":{"reference":"Patient/p%d"}}%s]`,
				start.Add(time.Duration(i)*time.Minute).Format(time.RFC3339), p, second)))
		}
		if _, err := s.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Compact(context.Background()); err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkFind(b *testing.B) {
	s := filled(b)
	for _, q := range []struct {
		name, typ, raw string
		limit, want    int
	}{
		{"patient-code-date", "Observation",
			"patient=p7&code=http://loinc.org|c3&date=ge2026-01-02&date=lt2026-01-04", 51, 48},
		{"code", "Observation", "code=http://loinc.org|c3&date=lt2026-01-01T01:00:00Z", 0, benchPatients},
		{"audit-latest", "AuditEvent", "patient=p7&_sort=-date", 51, 51},
	} {
		b.Run(q.name, func(b *testing.B) {
			v, err := search.Pairs(q.raw)
			if err != nil {
				b.Fatal(err)
			}
			query, err := search.Parse(q.typ, v, search.ParseOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				err := s.Find(context.Background(),
					store.Find{Query: query, Filter: access.All().Filter(access.Search), Limit: q.limit},
					func(*store.Found) bool { n++; return true })
				if err != nil || n != q.want {
					b.Fatal(n, err)
				}
			}
		})
	}
}
