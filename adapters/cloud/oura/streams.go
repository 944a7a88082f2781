package oura

import (
	"time"

	"pulsegate/adapters/cloud"
)

const day = 24 * time.Hour

// series is the longest window of a time series. Oura refuses more than 30 days; window
// adds some minutes.
const series = 29 * day

// streams lists the types of usercollection under their names in paths.
func streams(provider string) []cloud.Stream {
	out := []cloud.Stream{
		dated("sleep", "daily", "sleep"),
		// The ring keeps up to a week of data while its phone is away, and this stream has
		// no notifications.
		{Name: "heartrate", Scope: "heartrate", Span: cloud.Instants, Chunk: series, Every: 30 * time.Minute,
			Trailing: 6 * time.Hour, Late: 7 * day, Types: []string{"heartrate"}},
		dated("daily_activity", "daily", "daily_activity"),
		dated("daily_readiness", "daily", "daily_readiness"),
		dated("daily_sleep", "daily", "daily_sleep"),
		dated("daily_spo2", "spo2", "daily_spo2"),
		dated("daily_stress", "daily", "daily_stress"),
		dated("workout", "workout", "workout"),
		dated("session", "session", "session"),
		dated("daily_resilience", "stress", "daily_resilience"),
		dated("daily_cardiovascular_age", "heart_health", "daily_cardiovascular_age"),
		dated("vO2_max", "heart_health", "vO2_max"),
		// These two have no day, and Oura does not document which of their times a window
		// compares. An answer that lacks a document proves nothing.
		dated("enhanced_tag", "tag"),
		dated("rest_mode_period", "daily"),
		dated("tag", "tag", "tag"),
		dated("sleep_time", "daily", "sleep_time"),
		{Name: "ring_configuration", Scope: "ring_configuration", Span: cloud.Snapshot, Every: 6 * time.Hour,
			Notified: true},
		{Name: "ring_battery_level", Scope: "ring_configuration", Span: cloud.Instants, Chunk: series,
			Every: 2 * time.Hour, Trailing: 6 * time.Hour, Late: 7 * day},
		{Name: "personal_info", Scope: "personal", Span: cloud.Snapshot, Every: day},
	}
	for i := range out {
		out[i].Format = "v2:" + out[i].Name
		out[i].Scope = scopeFor(provider, out[i].Scope)
	}
	return out
}

// dated returns a stream with date windows, documents with ids, and notifications. A
// type covers the metrics of its documents: "sleep" covers "sleep.average_hrv".
func dated(name, scope string, types ...string) cloud.Stream {
	return cloud.Stream{Name: name, Scope: scope, Span: cloud.Days, Chunk: 90 * day, Every: time.Hour,
		Trailing: 7 * day, Types: types, Notified: true}
}

// single reports whether a document of the stream can be read by its id.
func single(s *cloud.Stream) bool { return s.Notified }

// dataTypes lists the types of webhooks in Oura's spelling, with the stream of each.
// Oura documents no route for meals.
var dataTypes = []struct{ name, stream string }{
	{"tag", "tag"}, {"enhanced_tag", "enhanced_tag"}, {"workout", "workout"}, {"session", "session"},
	{"sleep", "sleep"}, {"daily_sleep", "daily_sleep"}, {"daily_readiness", "daily_readiness"},
	{"daily_activity", "daily_activity"}, {"daily_spo2", "daily_spo2"}, {"sleep_time", "sleep_time"},
	{"rest_mode_period", "rest_mode_period"}, {"ring_configuration", "ring_configuration"},
	{"daily_stress", "daily_stress"}, {"daily_cardiovascular_age", "daily_cardiovascular_age"},
	{"daily_resilience", "daily_resilience"}, {"vo2_max", "vO2_max"}, {"meal", ""},
}

// streamOf returns the stream of a type of webhooks, or "" if it has none. ok is false
// if there is no such type.
func streamOf(dataType string) (stream string, ok bool) {
	for _, d := range dataTypes {
		if d.name == dataType {
			return d.stream, true
		}
	}
	return "", false
}

// operations lists the event types of webhooks.
var operations = []string{"create", "update", "delete"}
