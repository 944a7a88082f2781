package googlehealth

import (
	"strings"
	"time"

	"pulsegate/adapters/cloud"
)

const day = 24 * time.Hour

// kind tells how a type is read and filtered.
type kind uint8

const (
	interval kind = iota // list, by the start of an interval
	point                // list, by the time of a sample
	daily                // list, by date
	session              // list, by the civil start
	night                // list, by the end
	open                 // list, from a start on: Google takes no end
	rollup               // dailyRollUp
	resource             // a resource below users/me without a window
)

// dataType is a type of the API with the facts that a stream needs.
type dataType struct {
	name     string
	kind     kind
	scope    string // name of a group
	notified bool
	metrics  []string      // of the metric table; by the name if nil
	every    time.Duration // one hour if 0
	chunk    time.Duration // by the kind if 0
	page     int           // size of a page; by the kind if 0
}

const (
	activity = "activity_and_fitness"
	metrics  = "health_metrics_and_measurements"
)

// types lists the readable types. Food and food-measurement-unit are catalogs without a
// time.
var types = []dataType{
	{name: "sleep", kind: night, scope: "sleep", notified: true},
	// Up to one point per second.
	{name: "heart-rate", kind: point, scope: metrics, notified: true, every: 30 * time.Minute, chunk: day},
	{name: "steps", kind: interval, scope: activity, notified: true, every: 30 * time.Minute},
	{name: "daily-resting-heart-rate", kind: daily, scope: metrics, notified: true},
	{name: "heart-rate-variability", kind: point, scope: metrics, notified: true},
	{name: "daily-heart-rate-variability", kind: daily, scope: metrics, notified: true},
	{name: "oxygen-saturation", kind: point, scope: metrics},
	{name: "daily-oxygen-saturation", kind: daily, scope: metrics, notified: true},
	{name: "daily-respiratory-rate", kind: daily, scope: metrics, notified: true},
	{name: "respiratory-rate-sleep-summary", kind: point, scope: metrics, notified: true},
	{name: "blood-glucose", kind: point, scope: metrics, notified: true},
	{name: "weight", kind: point, scope: metrics, notified: true},
	{name: "body-fat", kind: point, scope: metrics, notified: true},
	{name: "height", kind: point, scope: metrics, notified: true},
	{name: "core-body-temperature", kind: point, scope: metrics,
		metrics: []string{"core-body-temperature", "skin-temperature"}},
	{name: "daily-sleep-temperature-derivations", kind: daily, scope: metrics, notified: true},
	{name: "daily-heart-rate-zones", kind: daily, scope: metrics, notified: true},
	{name: "exercise", kind: session, scope: activity, notified: true},
	// A waveform has 7500 samples; pages of 100 stay below cloud.MaxAnswer.
	{name: "electrocardiogram", kind: open, scope: "ecg", page: 100},
	{name: "irregular-rhythm-notification", kind: session, scope: "irn", page: 100},
	{name: "distance", kind: interval, scope: activity, notified: true},
	{name: "altitude", kind: interval, scope: activity, notified: true},
	{name: "active-zone-minutes", kind: interval, scope: activity, notified: true},
	{name: "active-minutes", kind: interval, scope: activity, metrics: withRollup("active-minutes")},
	{name: "activity-level", kind: interval, scope: activity, notified: true},
	{name: "sedentary-period", kind: interval, scope: activity, notified: true,
		metrics: withRollup("sedentary-period")},
	{name: "time-in-heart-rate-zone", kind: interval, scope: activity, notified: true},
	{name: "active-energy-burned", kind: interval, scope: activity},
	{name: "basal-energy-burned", kind: interval, scope: activity},
	{name: "swim-lengths-data", kind: interval, scope: activity},
	{name: "vo2-max", kind: point, scope: activity},
	{name: "run-vo2-max", kind: point, scope: activity, notified: true},
	{name: "daily-vo2-max", kind: daily, scope: activity},
	{name: "total-calories", kind: rollup, scope: activity, notified: true, chunk: 14 * day, page: 14},
	{name: "floors", kind: rollup, scope: activity, notified: true},
	{name: "calories-in-heart-rate-zone", kind: rollup, scope: activity, notified: true, chunk: 14 * day, page: 14},
	{name: "hydration-log", kind: session, scope: "nutrition", notified: true, metrics: withRollup("hydration-log")},
	{name: "nutrition-log", kind: session, scope: "nutrition", notified: true},
	{name: "symptoms", kind: point, scope: "logged_symptoms"},
	{name: "moods", kind: point, scope: "mindfulness"},
	{name: "menstrual-period", kind: interval, scope: "reproductive_health"},
	{name: "ovulation-test", kind: point, scope: "reproductive_health"},
	{name: "pairedDevices", kind: resource, scope: "settings", every: 2 * time.Hour, page: 100},
	{name: "settings", kind: resource, scope: "settings", every: day},
	{name: "profile", kind: resource, scope: "profile", every: day},
	{name: "irnProfile", kind: resource, scope: "irn", every: day},
}

// withRollup returns the metrics of a type whose row of the metric table also stands for
// its roll-up: the two cannot be told apart in the store.
func withRollup(name string) []string { return []string{name, name + "/rollup"} }

// stream returns the stream of a type.
func (t *dataType) stream() cloud.Stream {
	s := cloud.Stream{Name: t.name, Format: "google-health:" + t.name, Scope: scopeName(t.scope), Every: t.every,
		Chunk: t.chunk, Types: t.metrics, Notified: t.notified}
	if s.Every == 0 {
		s.Every = time.Hour
	}
	if t.kind == resource {
		s.Span, s.Format = cloud.Snapshot, "google-health"
		return s
	}
	switch {
	case s.Types != nil:
	case t.kind == rollup:
		s.Types = []string{t.name + "/day"}
	default:
		s.Types = []string{t.name}
	}
	// Sleep and daily values are processed and edited for days. Trackers keep a week of
	// data while the phone is away.
	s.Trailing, s.Late = 6*time.Hour, 7*day
	chunk := 7 * day
	switch t.kind {
	case daily, rollup:
		s.Span, s.Trailing, s.Late, chunk = cloud.Days, 7*day, 0, 90*day
	case session:
		s.Trailing, s.Late, chunk = 7*day, 0, 90*day
	case night:
		s.Span, s.Trailing, s.Late, chunk = cloud.Ends, 7*day, 0, 90*day
	case open:
		// Every read goes on to the present, so that splitting a window is a waste.
		s.Trailing, s.Late, chunk = 7*day, 0, 50*365*day
	}
	if s.Chunk == 0 {
		s.Chunk = chunk
	}
	return s
}

// pageSize returns the size to ask for. Sizes that are not stated can be as small as 50.
func (t *dataType) pageSize() int {
	switch {
	case t.page > 0:
		return t.page
	case t.kind == rollup:
		return 90
	case t.name == "sleep" || t.name == "exercise":
		return 25
	}
	return 10_000
}

// filter returns the filter of a window. Google accepts only these members, and answers
// others with an error or an empty page.
func (t *dataType) filter(from, to time.Time) string {
	name := strings.ReplaceAll(t.name, "-", "_")
	window := func(member string, layout string, from, to time.Time) string {
		member = name + "." + member
		return member + ` >= "` + from.UTC().Format(layout) + `" AND ` + member + ` < "` + to.UTC().Format(layout) + `"`
	}
	switch t.kind {
	case interval:
		return window("interval.start_time", time.RFC3339Nano, from, to)
	case point:
		return window("sample_time.physical_time", time.RFC3339Nano, from, to)
	case daily:
		return window("date", time.DateOnly, from, to)
	case session:
		// The days of the window in every time zone.
		first, last := cloud.Dates(from, to)
		return window("interval.civil_start_time", time.DateOnly, first, last)
	case night:
		return window("interval.end_time", time.RFC3339Nano, from, to)
	case open:
		return name + `.interval.start_time >= "` + from.UTC().Format(time.RFC3339Nano) + `"`
	}
	return ""
}
