package adapters_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/vendors"
	"pulsegate/mapping/sample"
)

// printer is a Sink that prints what it receives.
type printer struct{}

func (printer) Sample(s *sample.Sample) error {
	_, err := fmt.Println("sample:", s.Metric, s.Value.Num, s.Value.Unit, "at", s.Start.Format(time.RFC3339))
	return err
}

func (printer) Reject(r *sample.Reject) error {
	_, err := fmt.Println("reject:", r.Metric, r.Reason, "at", r.Where)
	return err
}

func (printer) Drop(reason, metric string, n int) { fmt.Println("drop:", n, metric, reason) }

func (printer) Progress(int64) {}

// payload has invented data: a valid and a malformed document.
const payload = `{"data":[
 {"timestamp":"2026-01-05T08:00:00+02:00","bpm":61,"source":"awake"},
 {"timestamp":"yesterday","bpm":62,"source":"awake"}
]}`

// ExampleAdapter detects the format of a payload and decodes it. A caller passes
// the first 64 KiB of a payload to Detect and then the complete payload to Decode.
func ExampleAdapter() {
	for _, adapter := range vendors.All() {
		format, ok := adapter.Detect("heartrate.json", []byte(payload))
		if !ok {
			continue
		}
		fmt.Println(adapter.Name(), "format", format)
		in := adapters.Input{Name: "heartrate.json", Format: format, Body: strings.NewReader(payload)}
		err := adapter.Decode(context.Background(), in, printer{})
		var malformed *adapters.PayloadError
		switch {
		case errors.As(err, &malformed):
			fmt.Println("the payload is malformed:", malformed.Rule)
		case err != nil:
			fmt.Println(err)
		}
	}
	// Output:
	// Oura format v2
	// sample: heartrate 61 bpm at 2026-01-05T08:00:00+02:00
	// reject: heartrate bad-time at data[1]
}
