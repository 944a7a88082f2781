package oura_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/oura"
)

// listReply is a list reply with invented data.
const listReply = `{"data": [
 {"timestamp": "2026-01-05T08:00:00+02:00", "bpm": 61, "source": "awake"}
], "next_token": null}`

func ExampleNew() {
	recorder := adaptertest.NewRecorder()
	in := adapters.Input{Format: "v2", Body: strings.NewReader(listReply)}
	if err := oura.New().Decode(context.Background(), in, recorder); err != nil {
		fmt.Println(err)
		return
	}
	s := recorder.Samples[0]
	fmt.Println(s.Metric, "from", s.Channel)
	fmt.Println(s.Start.Format(time.RFC3339), s.Value.Num, s.Value.Unit)
	fmt.Println(s.Components[0].Name, s.Components[0].Value.Text)
	fmt.Println(s.Device.Name)
	// Output:
	// heartrate from v2
	// 2026-01-05T08:00:00+02:00 61 bpm
	// source awake
	// Oura Ring
}
