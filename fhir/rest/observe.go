package rest

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/semconv/v1.41.0/httpconv"

	"pulsegate/fhir"
)

const scopeName = "pulsegate/fhir/rest"

// durationBuckets holds the boundaries in seconds that OpenTelemetry's semantic
// conventions prescribe for http.server.request.duration.
var durationBuckets = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}

// resourceType is the attribute for the FHIR resource type of a request. It is
// absent if the route has none, and "_OTHER" for unknown types.
const resourceType = attribute.Key("fhir.resource.type")

// meters holds the request metrics that OpenTelemetry's semantic conventions define
// for HTTP servers.
type meters struct {
	duration httpconv.ServerRequestDuration
	active   httpconv.ServerActiveRequests
}

func newMeters() (m meters, err error) {
	meter := otel.Meter(scopeName)
	none := meters{
		httpconv.ServerRequestDuration{Float64Histogram: noop.Float64Histogram{}},
		httpconv.ServerActiveRequests{Int64UpDownCounter: noop.Int64UpDownCounter{}},
	}
	if m.duration, err = httpconv.NewServerRequestDuration(meter,
		metric.WithExplicitBucketBoundaries(durationBuckets...)); err != nil {
		return none, fmt.Errorf("%s: %w", httpconv.ServerRequestDuration{}.Name(), err)
	}
	if m.active, err = httpconv.NewServerActiveRequests(meter); err != nil {
		return none, fmt.Errorf("%s: %w", httpconv.ServerActiveRequests{}.Name(), err)
	}
	return m, nil
}

// observe writes the access log, the request metrics and the span.
func (s *Server) observe() gin.HandlerFunc {
	tracer := otel.Tracer(scopeName)
	meters, err := newMeters()
	if err != nil {
		s.Logger.Error("no request metrics", "error", err)
	}
	cache := &labelCache{all: map[labels]*labelled{}, active: map[labels]*labelled{}}
	return func(c *gin.Context) {
		start := s.Clock()
		l := labels{method: method(c.Request), route: c.FullPath(), scheme: scheme(c.Request),
			version: protocolVersion(c.Request)}
		ctx, span := tracer.Start(c.Request.Context(), spanName(l))
		defer span.End()
		if span.IsRecording() { // copies the request only when the span needs it
			c.Request = c.Request.WithContext(ctx)
		}
		active := cache.ofActive(labels{method: l.method, scheme: l.scheme})
		meters.active.Inst().Add(ctx, 1, active.add...)
		defer meters.active.Inst().Add(ctx, -1, active.add...)
		c.Next()
		took := s.Clock().Sub(start)
		l.typ, l.status = typeLabel(c), c.Writer.Status()
		attrs := cache.of(l)
		if span.IsRecording() {
			span.SetAttributes(attrs.list...)
			if l.status >= 500 {
				span.SetStatus(codes.Error, "")
			}
		}
		meters.duration.Inst().Record(ctx, took.Seconds(), attrs.record...)
		if !s.Logger.Enabled(ctx, slog.LevelInfo) {
			return
		}
		client := ""
		if p := principalOf(c); p != nil {
			client = p.ClientID
		}
		route := l.route
		if route == "" {
			route = "none"
		}
		s.Logger.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("method", l.method), slog.String("route", route),
			slog.String("type", l.typ), slog.Int("status", l.status), slog.Float64("seconds", took.Seconds()),
			slog.Int("bytes", max(c.Writer.Size(), 0)), slog.String("client", client),
			slog.String("request_id", RequestID(c)))
	}
}

// labels holds the labels of a request. The number of combinations is bounded,
// because unknown methods, types and versions share one value each.
type labels struct {
	method, route, typ, scheme, version string
	status                              int
}

// labelled holds the attributes of labels in the types that metrics and spans need.
type labelled struct {
	list   []attribute.KeyValue
	record []metric.RecordOption
	add    []metric.AddOption
}

// attributes converts l to attributes of OpenTelemetry's semantic conventions.
func (l labels) attributes() []attribute.KeyValue {
	out := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(l.method), semconv.URLScheme(l.scheme)}
	if l.route != "" {
		out = append(out, semconv.HTTPRoute(l.route))
	}
	if l.typ != "" {
		out = append(out, resourceType.String(l.typ))
	}
	if l.version != "" {
		out = append(out, semconv.NetworkProtocolName("http"), semconv.NetworkProtocolVersion(l.version))
	}
	if l.status != 0 {
		out = append(out, semconv.HTTPResponseStatusCode(l.status))
	}
	if l.status >= 500 {
		out = append(out, semconv.ErrorTypeKey.String(strconv.Itoa(l.status)))
	}
	return out
}

// labelCache caches attribute sets, which are expensive to build per request. It is
// safe for concurrent use.
type labelCache struct {
	mu          sync.RWMutex
	all, active map[labels]*labelled // guarded by mu
}

func (k *labelCache) of(l labels) *labelled       { return k.get(k.all, l) }
func (k *labelCache) ofActive(l labels) *labelled { return k.get(k.active, l) }

func (k *labelCache) get(m map[labels]*labelled, l labels) *labelled {
	k.mu.RLock()
	a := m[l]
	k.mu.RUnlock()
	if a != nil {
		return a
	}
	a = &labelled{list: l.attributes()}
	set := metric.WithAttributeSet(attribute.NewSet(a.list...))
	a.record, a.add = []metric.RecordOption{set}, []metric.AddOption{set}
	k.mu.Lock()
	defer k.mu.Unlock()
	m[l] = a
	return a
}

// method returns the request's method, or "_OTHER" for one that HTTP does not
// define, so that callers cannot choose the contents of logs and labels.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions:
		return r.Method
	}
	return "_OTHER"
}

// spanName returns "{method} {route}", or the method alone for a path that no
// route serves.
func spanName(l labels) string {
	name := l.method
	if name == "_OTHER" {
		name = "HTTP"
	}
	if l.route != "" {
		name += " " + l.route
	}
	return name
}

// scheme returns the scheme of the request's connection.
func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// protocolVersion returns "1.0", "1.1", "2" or "" for any other.
func protocolVersion(r *http.Request) string {
	switch {
	case r.ProtoMajor == 2:
		return "2"
	case r.ProtoMajor == 1 && r.ProtoMinor <= 1:
		return "1." + strconv.Itoa(r.ProtoMinor)
	}
	return ""
}

// typeLabel returns the resource type in the path, "" if the route has none, or
// "_OTHER" for a type that the server does not store.
func typeLabel(c *gin.Context) string {
	switch t := c.Param("type"); {
	case t == "":
		return ""
	case fhir.KnownType(t):
		return t
	}
	return "_OTHER"
}
