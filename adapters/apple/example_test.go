package apple_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple"
)

// exportXML is an export of an invented person.
const exportXML = `<HealthData>
 <Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Siv’s Apple Watch" unit="count/min"
  startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200" value="61">
  <MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="1"/>
 </Record>
</HealthData>`

func ExampleNew() {
	recorder := adaptertest.NewRecorder()
	in := adapters.Input{Format: "export.xml", Body: strings.NewReader(exportXML)}
	if err := apple.New().Decode(context.Background(), in, recorder); err != nil {
		fmt.Println(err)
		return
	}
	s := recorder.Samples[0]
	fmt.Println(s.Metric, "from", s.Channel)
	fmt.Println(s.Start.Format(time.RFC3339), s.Value.Num, s.Value.Unit)
	fmt.Println(s.Components[0].Name, s.Components[0].Value.Text)
	fmt.Println(s.Source.Name)
	// Output:
	// HKQuantityTypeIdentifierHeartRate from export.xml
	// 2026-01-05T08:00:00+02:00 61 count/min
	// motionContext 1
	// Siv’s Apple Watch
}
