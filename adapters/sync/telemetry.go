package sync

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/adapters/cloud"
	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

const scopeName = "pulsegate/adapters/sync"

// meters holds the metrics of links, by vendor and never by patient or account.
type meters struct {
	deliveries    metric.Int64Counter
	failures      metric.Int64Counter
	notifications metric.Int64Counter
	delay         metric.Float64Histogram
}

func newMeters(e *Engine) (m meters, err error) {
	meter := otel.Meter(scopeName)
	count := func(name, unit, about string) (c metric.Int64Counter) {
		if err == nil {
			c, err = meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(about))
		}
		return c
	}
	m.deliveries = count("pulsegate.sync.deliveries", "{delivery}", "Deliveries read from vendors, by origin")
	m.failures = count("pulsegate.sync.failures", "{request}", "Failed requests to vendors, by problem")
	m.notifications = count("pulsegate.sync.notifications", "{request}", "Requests to webhooks, by status of the answer")
	if err != nil {
		return m, fhir.Wrap("sync.meters", err)
	}
	m.delay, err = meter.Float64Histogram("pulsegate.sync.delay", metric.WithUnit("s"),
		metric.WithDescription("Time from a notification until its data were stored"),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600))
	if err != nil {
		return m, fhir.Wrap("sync.meters", err)
	}
	links, err := meter.Int64ObservableGauge("pulsegate.sync.links", metric.WithUnit("{link}"),
		metric.WithDescription("Links by vendor and state"))
	if err != nil {
		return m, fhir.Wrap("sync.meters", err)
	}
	backlog, err := meter.Int64ObservableGauge("pulsegate.sync.backlog", metric.WithUnit("{event}"),
		metric.WithDescription("Announced changes that were not read yet"))
	if err != nil {
		return m, fhir.Wrap("sync.meters", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		counts, waiting := e.counts()
		for k, n := range counts {
			o.ObserveInt64(links, n, metric.WithAttributes(attribute.String("vendor", k.vendor),
				attribute.String("state", k.state)))
		}
		o.ObserveInt64(backlog, waiting)
		return nil
	}, links, backlog)
	return m, fhir.Wrap("sync.meters", err)
}

// stateOf identifies a gauge of links.
type stateOf struct{ vendor, state string }

// counts returns the number of links by vendor and state, and of waiting events.
func (e *Engine) counts() (map[stateOf]int64, int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[stateOf]int64{}
	for _, t := range e.tasks {
		state := string(t.link.Status)
		switch since := maxTime(t.shown.data, t.link.Connected); {
		case t.shown.paused:
			state = "paused"
		case state == "working" && e.Clock().Sub(since) > e.LateAfter:
			state = "late"
		}
		out[stateOf{t.link.Vendor, state}]++
	}
	return out, int64(e.backlog)
}

func vendorAttr(code string) attribute.KeyValue { return attribute.String("vendor", code) }

func (m *meters) delivered(ctx context.Context, code, origin string, _ *ingest.Summary) {
	m.deliveries.Add(ctx, 1, metric.WithAttributes(vendorAttr(code), attribute.String("origin", origin)))
}

func (m *meters) failed(ctx context.Context, code string, p cloud.Problem) {
	m.failures.Add(ctx, 1, metric.WithAttributes(vendorAttr(code), attribute.String("problem", p.String())))
}

func (m *meters) received(ctx context.Context, code string, status int) {
	m.notifications.Add(ctx, 1, metric.WithAttributes(vendorAttr(code), attribute.Int("status", status)))
}

func (m *meters) handled(ctx context.Context, code string, d time.Duration) {
	m.delay.Record(ctx, d.Seconds(), metric.WithAttributes(vendorAttr(code)))
}
