package rest

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"pulsegate/fhir/interaction"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// TestRequestMetrics holds the request metrics to OpenTelemetry's semantic
// conventions for HTTP servers: names, units, bucket boundaries, attributes.
func TestRequestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	before := otel.GetMeterProvider()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	t.Cleanup(func() { otel.SetMeterProvider(before) })
	s := &Server{Service: &interaction.Service{Store: newModelStore(time.Now)},
		Metadata: func() []byte { return []byte(`{}`) }, Logger: slog.New(slog.DiscardHandler),
		Clock: time.Now, Rand: rand.Reader}
	h := s.Handler()
	for _, r := range []*http.Request{
		httptest.NewRequest("GET", "/fhir/metadata", nil),
		httptest.NewRequest("BREW", "/Coffee/1", nil),
		httptest.NewRequest("GET", "/nowhere", nil),
	} {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	var got metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &got); err != nil {
		t.Fatal(err)
	}
	byName := map[string]metricdata.Metrics{}
	for _, s := range got.ScopeMetrics {
		for _, m := range s.Metrics {
			byName[m.Name] = m
		}
	}
	duration, ok := byName["http.server.request.duration"].Data.(metricdata.Histogram[float64])
	if !ok {
		t.Fatalf("no histogram http.server.request.duration among %v", byName)
	}
	if u := byName["http.server.request.duration"].Unit; u != "s" {
		t.Errorf("unit %q, want s", u)
	}
	want := []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	seen := map[string]attribute.Set{}
	for _, p := range duration.DataPoints {
		if !slices.Equal(p.Bounds, want) {
			t.Errorf("boundaries %v, want %v", p.Bounds, want)
		}
		method, _ := p.Attributes.Value("http.request.method")
		route, _ := p.Attributes.Value("http.route")
		seen[method.AsString()+" "+route.AsString()] = p.Attributes
	}
	for _, c := range []struct {
		key  string
		want map[attribute.Key]attribute.Value
	}{
		{"GET /fhir/metadata", map[attribute.Key]attribute.Value{"http.response.status_code": attribute.IntValue(200),
			"url.scheme": attribute.StringValue("http"), "network.protocol.version": attribute.StringValue("1.1")}},
		{"GET ", map[attribute.Key]attribute.Value{"http.response.status_code": attribute.IntValue(404)}},
		{"_OTHER ", map[attribute.Key]attribute.Value{"url.scheme": attribute.StringValue("http")}},
	} {
		set, ok := seen[c.key]
		if !ok {
			t.Errorf("no data point for %q among %v", c.key, seen)
			continue
		}
		for k, v := range c.want {
			if got, ok := set.Value(k); !ok || got != v {
				t.Errorf("%s: %s = %v, want %v", c.key, k, got.String(), v.String())
			}
		}
	}
	active, ok := byName["http.server.active_requests"].Data.(metricdata.Sum[int64])
	if !ok || len(active.DataPoints) == 0 {
		t.Fatal("no sum http.server.active_requests")
	}
	for _, p := range active.DataPoints {
		if p.Value != 0 {
			t.Errorf("%d requests active after all were answered", p.Value)
		}
	}
}
