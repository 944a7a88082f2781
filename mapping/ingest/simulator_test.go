package ingest

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/mapping/sample"
)

// feed is an adapter of samples that are decoded already. Like a real one it
// hands out one Sample again and again.
type feed struct {
	samples func(yield func(*sample.Sample) bool)
}

func (feed) Vendor() string                       { return "apple" }
func (feed) Name() string                         { return "Apple Health" }
func (feed) Formats() []adapters.Format           { return []adapters.Format{{Name: "feed"}} }
func (feed) Detect(string, []byte) (string, bool) { return "feed", true }
func (f feed) Decode(_ context.Context, _ adapters.Input, sink adapters.Sink) (err error) {
	var s sample.Sample
	var parts []sample.Component
	f.samples(func(x *sample.Sample) bool {
		s, parts = *x, append(parts[:0], x.Components...)
		s.Components = parts
		err = sink.Sample(&s)
		for i := range s.Components {
			s.Components[i] = sample.Component{Name: "used again"}
		}
		s.Device.Facts = nil
		return err == nil
	})
	return err
}

// take ingests samples as one payload of the given name.
func (w *world) take(name string, samples ...sample.Sample) (Summary, error) {
	w.p.Adapters = []adapters.Adapter{feed{func(yield func(*sample.Sample) bool) {
		for i := range samples {
			if !yield(&samples[i]) {
				return
			}
		}
	}}}
	return w.p.Run(w.t.Context(), Request{Patient: "p1", Vendor: "apple", Format: "feed",
		Body: strings.NewReader(name), Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
			Grant: access.All()}}})
}

// rates are integers as text, interned like an adapter's.
var rates = func() (r [256]string) {
	for i := range r {
		r[i] = strconv.Itoa(i)
	}
	return r
}()

// heartbeat is an invented but lifelike stream: a heart rate every 5 seconds
// with jitter and gaps, drifting between sleep, day and exertion, with the
// motion context of a watch.
func heartbeat(seed uint64, n int) func(yield func(*sample.Sample) bool) {
	return func(yield func(*sample.Sample) bool) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := heartRate(time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600)), "62")
		context := []sample.Component{{Name: "motionContext", Value: sample.Value{Kind: sample.Code, Text: "1"}}}
		level, at := 62.0, s.Start
		for range n {
			at = at.Add(time.Duration(4+rnd.IntN(3)) * time.Second)
			if rnd.IntN(400) == 0 { // off the wrist
				at = at.Add(time.Duration(rnd.IntN(3600)) * time.Second)
			}
			aim := 58.0
			switch h := at.Hour(); {
			case h == 18:
				aim = 140
			case h > 6 && h < 23:
				aim = 75
			}
			level += (aim-level)/60 + rnd.NormFloat64()
			s.Start, s.Value.Num = at, rates[min(max(int(level), 35), 210)]
			if rnd.IntN(500) == 0 {
				context[0].Value.Text = rates[rnd.IntN(3)]
			}
			s.Components = context
			if !yield(&s) {
				return
			}
		}
	}
}

func heartRate(at time.Time, num string) sample.Sample {
	return sample.Sample{Metric: hr, Channel: "export.xml", Zone: sample.ZoneInstant, KeyValue: true, Start: at,
		Value: sample.Value{Kind: sample.Number, Num: num, Unit: "count/min"},
		Device: sample.Device{Name: "Apple Watch", Manufacturer: "Apple Inc.", Model: "Watch", Hardware: "Watch6,7",
			Software: "11.0"},
		Source: sample.Source{Name: "Watch", Version: "11.0"}}
}
