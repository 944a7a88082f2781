// Package telemetry sets up the SDK of OpenTelemetry. Metrics are always served to
// Prometheus at /metrics. Traces and metrics also go to an OTLP collector if the
// standard variables OTEL_EXPORTER_OTLP_… name one. The other packages use only
// the API.
package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Telemetry is the running SDK.
type Telemetry struct {
	// Metrics answers GET /metrics.
	Metrics http.Handler
	close   []func(context.Context) error
}

// Start sets the global providers of OpenTelemetry. It logs the errors of
// exporters; they never affect requests. The caller must close the result.
func Start(ctx context.Context, version string, log *slog.Logger) (*Telemetry, error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry", "error", err) }))
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "pulsegate"),
			attribute.String("service.version", version)))
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exp, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		return nil, err
	}
	metrics := []sdkmetric.Option{sdkmetric.WithReader(exp), sdkmetric.WithResource(res)}
	t := &Telemetry{Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{})}
	if set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") {
		me, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return nil, err
		}
		metrics = append(metrics, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(me)))
	}
	mp := sdkmetric.NewMeterProvider(metrics...)
	otel.SetMeterProvider(mp)
	t.close = append(t.close, mp.Shutdown)
	if set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
		te, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, err
		}
		tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(te), sdktrace.WithResource(res))
		otel.SetTracerProvider(tp)
		otel.SetTextMapPropagator(propagation.TraceContext{})
		t.close = append(t.close, tp.Shutdown)
	}
	return t, nil
}

// Close flushes and stops the exporters.
func (t *Telemetry) Close(ctx context.Context) error {
	var errs []error
	for _, f := range t.close {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// set reports whether an environment variable is not empty.
func set(name string) bool { return os.Getenv(name) != "" }
