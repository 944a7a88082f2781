package fitbit_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
)

// listPage is a page of list with invented data.
const listPage = `{"dataPoints": [
 {"dataSource": {"platform": "FITBIT", "device": {"displayName": "Charge 6", "formFactor": "FITNESS_BAND"}},
  "heartRate": {"sampleTime": {"physicalTime": "2026-01-05T06:00:00Z", "utcOffset": "7200s"},
   "beatsPerMinute": "61", "metadata": {"motionContext": "SEDENTARY"}}}
]}`

func ExampleNew() {
	recorder := adaptertest.NewRecorder()
	in := adapters.Input{Format: "google-health", Body: strings.NewReader(listPage)}
	if err := fitbit.New().Decode(context.Background(), in, recorder); err != nil {
		fmt.Println(err)
		return
	}
	s := recorder.Samples[0]
	fmt.Println(s.Metric, "from", s.Channel)
	fmt.Println(s.Start.Format(time.RFC3339), s.Value.Num, s.Value.Unit)
	fmt.Println(s.Components[0].Name, s.Components[0].Value.Text)
	fmt.Println(s.Device.Name, s.Device.Manufacturer, s.Device.Kind)
	fmt.Println(s.Source.Name)
	// Output:
	// heart-rate from v4
	// 2026-01-05T08:00:00+02:00 61 bpm
	// motionContext SEDENTARY
	// Charge 6 Fitbit band
	// FITBIT
}
