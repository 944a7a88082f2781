package mongolog

import (
	"errors"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"pulsegate/fhir/store/sharedlog"
)

// TestMetrics counts appends by outcome, and what is read.
func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))
	defer otel.SetMeterProvider(noop.NewMeterProvider())
	l := openLog(t, testOptions(t))
	c := &chain{}
	before := *c
	c.add(t, l, random(100))
	c.add(t, l, random(50))
	if err := l.Append(t.Context(), before.entry(nil)); !errors.Is(err, sharedlog.ErrTaken) {
		t.Fatal(err)
	}
	tooLarge := &sharedlog.Entry{Index: 3, Rows: make([]byte, sharedlog.MaxRows+1)}
	if err := l.Append(t.Context(), tooLarge); !errors.Is(err, sharedlog.ErrTooLarge) {
		t.Fatal(err)
	}
	mustRead(t, l, sharedlog.Position{})

	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				got[m.Name] = data.DataPoints[0].Value
			case metricdata.Histogram[int64]:
				got[m.Name] = data.DataPoints[0].Sum
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					outcome, _ := p.Attributes.Value(attribute.Key("outcome"))
					got[m.Name+" "+outcome.AsString()] = int64(p.Count)
				}
			}
		}
	}
	for name, want := range map[string]int64{
		"pulsegate.log.append.duration stored":  2,
		"pulsegate.log.append.duration taken":   1,
		"pulsegate.log.append.duration refused": 1,
		"pulsegate.log.append.size":             150 + sharedlog.MaxRows + 1,
		"pulsegate.log.look.duration ":          1,
		"pulsegate.log.read.entries":            2,
		"pulsegate.log.read.size":               150,
	} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
}
