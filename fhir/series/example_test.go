package series_test

import (
	"fmt"
	"time"

	"pulsegate/fhir/series"
)

// ExampleTemplate renders the Observation of one sample. The slots of the template
// take the sample's id, its effective time and its value.
func ExampleTemplate() {
	t := &series.Template{
		Identity: series.Identity{1, 2, 3, 4, 5, 6, 7, 8, 9},
		Values:   1,
		Parts: [][]byte{
			[]byte(`},"identifier":[{"value":"`),
			[]byte(`"}],"status":"final",`),
			[]byte(`,"valueQuantity":{"value":`),
			[]byte(`,"unit":"/min"}}`),
		},
		Slots: []series.Slot{series.SlotID, series.SlotEffective, series.SlotValue},
	}
	s := series.Sample{
		Start: time.Date(2026, 3, 1, 7, 0, 0, 0, time.UTC).UnixMicro(),
		End:   series.NoEnd,
		Off:   60, // minutes east of UTC
	}
	s.Values[0] = series.Decimal{Mant: 620, Scale: 1}
	fmt.Println(string(t.Append(nil, &s)))
	// Output:
	// {"resourceType":"Observation","id":"041061050o3gg28e4k0kr2bs00000000","meta":{},"identifier":[{"value":"041061050o3gg28e4k0kr2bs00000000"}],"status":"final","effectiveDateTime":"2026-03-01T08:00:00+01:00","valueQuantity":{"value":62.0,"unit":"/min"}}
}
