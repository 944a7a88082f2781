package withings_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/withings"
)

func ExampleNew() {
	body := `{"status":0,"body":{"timezone":"Europe/Paris","measuregrps":[{"grpid":12,"attrib":0,
		"date":1767596400,"category":1,"measures":[{"value":65750,"type":1,"unit":-3}]}]}}`
	rec := adaptertest.NewRecorder()
	err := withings.New().Decode(context.Background(), adapters.Input{Body: strings.NewReader(body)}, rec)
	if err != nil {
		fmt.Println(err)
		return
	}
	s := rec.Samples[0]
	fmt.Println(s.Metric, s.Start.Format(time.RFC3339), s.Value.Num, s.Value.Unit, s.VendorID)
	// Output: measure.weight 2026-01-05T08:00:00+01:00 65.750 kg 12
}
