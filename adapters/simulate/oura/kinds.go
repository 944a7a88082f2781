package oura

import (
	"cmp"
	"time"
)

// edge tells which days a window of start_date and end_date contains. The types differ,
// as measured by clients of the API.
type edge int

const (
	inclusive edge = iota // start <= day <= end
	exclusive             // start <= day < end: end_date is midnight
	afterward             // start < day <= end
)

// kind describes a type of documents.
type kind struct {
	name    string // in paths
	webhook string // data_type of webhooks, if it is not the name
	scope   string
	slots   int  // documents on a day at most
	single  bool // one document per wearer, without a day
	edge    edge
	// dayField names the field of the day that windows select by.
	dayField string
	history  func(*model, item, time.Time) []version
	render   func(*model, item, version) object
}

// kinds lists the types of documents in the order of Truth.
var kinds = []*kind{
	{name: "sleep", scope: "daily", slots: 3, edge: afterward, history: (*model).sleepHistory, render: (*model).sleep},
	{name: "daily_sleep", scope: "daily", history: (*model).nightly, render: (*model).dailySleep},
	{name: "daily_readiness", scope: "daily", history: (*model).nightly, render: (*model).dailyReadiness},
	{name: "daily_activity", scope: "daily", edge: exclusive, history: (*model).growing,
		render: (*model).dailyActivity},
	{name: "daily_stress", scope: "daily", history: (*model).growing, render: (*model).dailyStress},
	{name: "daily_spo2", scope: "spo2", history: (*model).once, render: (*model).dailySpO2},
	{name: "daily_resilience", scope: "stress", history: (*model).once, render: (*model).dailyResilience},
	{name: "daily_cardiovascular_age", scope: "heart_health", history: (*model).weekly,
		render: (*model).cardiovascularAge},
	{name: "vO2_max", webhook: "vo2_max", scope: "heart_health", history: (*model).weekly, render: (*model).vo2Max},
	{name: "sleep_time", scope: "daily", history: (*model).evening, render: (*model).sleepTime},
	{name: "workout", scope: "workout", edge: exclusive, history: (*model).workoutHistory, render: (*model).workout},
	{name: "session", scope: "session", edge: exclusive, history: (*model).sessionHistory, render: (*model).session},
	{name: "enhanced_tag", scope: "tag", dayField: "start_day", history: (*model).tagHistory,
		render: (*model).enhancedTag},
	{name: "tag", scope: "tag", history: (*model).tagHistory, render: (*model).tag},
	{name: "rest_mode_period", scope: "daily", dayField: "start_day", history: (*model).restHistory,
		render: (*model).restMode},
	{name: "ring_configuration", scope: "ring_configuration", single: true, history: (*model).ringHistory,
		render: (*model).ringConfiguration},
}

// kindNamed returns the kind with the name of a path, or nil.
func kindNamed(name string) *kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	return nil
}

// dataType returns the kind's name in webhooks.
func (k *kind) dataType() string { return cmp.Or(k.webhook, k.name) }
