package oura_test

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/oura"
	"pulsegate/mapping/sample"
)

type discard struct{ n int }

func (d *discard) Sample(*sample.Sample) error { d.n++; return nil }
func (d *discard) Reject(*sample.Reject) error { return nil }
func (d *discard) Drop(string, string, int)    {}
func (d *discard) Progress(int64)              {}

// denseHeartRate returns a list reply with a heart rate every five seconds.
func denseHeartRate(points int) []byte {
	b := []byte(`{"data":[`)
	at := time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)
	for i := range points {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"bpm":%d,"source":"awake","timestamp":"%s"}`, 60+i%40,
			at.Add(time.Duration(i)*5*time.Second).Format("2006-01-02T15:04:05-07:00"))
	}
	return append(b, `],"next_token":null}`...)
}

// BenchmarkDense reports MB and samples per second of processor time, which hardly
// depends on other processes on the machine.
func BenchmarkDense(b *testing.B) {
	doc := denseHeartRate(20_000)
	processorTime := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	before, sink := processorTime(), &discard{}
	for b.Loop() {
		in := adapters.Input{Name: "heartrate.json", Body: bytes.NewReader(doc), Received: adaptertest.Received()}
		if err := oura.New().Decode(b.Context(), in, sink); err != nil {
			b.Fatal(err)
		}
	}
	sec := (processorTime() - before).Seconds()
	b.ReportMetric(float64(len(doc))*float64(b.N)/1e6/sec, "MB/cpu-s")
	b.ReportMetric(float64(sink.n)/sec, "samples/cpu-s")
}
