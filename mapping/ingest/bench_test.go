package ingest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// BenchmarkExport ingests an export.xml of 50,000 records into a store in
// memory and reports Observations a second, commit included.
func BenchmarkExport(b *testing.B) {
	var x strings.Builder
	x.WriteString(`<?xml version="1.0"?><HealthData locale="en">`)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const n = 50000
	for i := range n {
		x.WriteString(record(hr, "count/min", fmt.Sprint(50+i%90), at.Add(time.Duration(i)*time.Minute).Format("2006-01-02 15:04:05 -0700"), "11.0"))
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
